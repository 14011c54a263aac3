//! Logs: to standard error, as text for people or JSON for machines, at a level that can change
//! while running. A log that cannot be written is lost; it never stops or panics anything.

use std::io::{self, IsTerminal as _, Write};

use tracing_subscriber::filter::ParseError;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// [`Format::Journald`] under systemd, [`Format::Text`] on a terminal, else [`Format::Json`].
    #[default]
    Auto,
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
    /// For the journal, which adds the time and the unit itself: text without the time.
    Journald,
}

/// Why logging could not be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// Neither a level nor tracing directives.
    #[error("{level:?} is neither a log level nor tracing directives")]
    Level {
        /// What was given.
        level: String,
        /// Why it is not.
        #[source]
        source: ParseError,
    },
    /// Somebody in this process has already set up logging.
    #[error("logging is set up already")]
    Already,
    /// The subscriber is gone.
    #[error("logging is no longer running")]
    Gone,
}

/// The running logs.
#[derive(Clone, Debug)]
pub struct Telemetry {
    filter: reload::Handle<EnvFilter, Registry>,
}

impl Telemetry {
    /// Starts logging, once per process. `level` is a level or tracing directives
    /// (`info,calmirror::worker=debug`).
    ///
    /// # Errors
    /// See [`TelemetryError`].
    pub fn start(level: &str, format: Format) -> Result<Self, TelemetryError> {
        let (filter, handle) = reload::Layer::new(parse(level)?);
        let layer = fmt::layer().with_writer(|| Lossy).log_internal_errors(false);
        let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let layer: Box<dyn Layer<_> + Send + Sync> = match resolve(format) {
            Format::Json => layer.json().flatten_event(true).with_ansi(false).boxed(),
            Format::Journald => layer.without_time().with_ansi(false).boxed(),
            Format::Text | Format::Auto => layer.with_ansi(colours).boxed(),
        };
        let subscriber = Registry::default().with(filter).with(layer);
        subscriber.try_init().map_err(|_| TelemetryError::Already)?;
        Ok(Self { filter: handle })
    }

    /// Changes the level from now on.
    ///
    /// # Errors
    /// See [`TelemetryError`]; the old level stays.
    pub fn set_level(&self, level: &str) -> Result<(), TelemetryError> {
        self.filter.reload(parse(level)?).map_err(|_| TelemetryError::Gone)
    }
}

/// Whether `level` is one, for the validation of a configuration.
///
/// # Errors
/// [`TelemetryError::Level`].
pub fn check_level(level: &str) -> Result<(), TelemetryError> {
    parse(level).map(drop)
}

fn parse(level: &str) -> Result<EnvFilter, TelemetryError> {
    EnvFilter::builder()
        .parse(level)
        .map_err(|source| TelemetryError::Level { level: level.to_owned(), source })
}

fn resolve(format: Format) -> Format {
    match format {
        // systemd sets it for services whose standard error is the journal.
        Format::Auto if std::env::var_os("JOURNAL_STREAM").is_some() => Format::Journald,
        Format::Auto if io::stderr().is_terminal() => Format::Text,
        Format::Auto => Format::Json,
        chosen => chosen,
    }
}

/// Standard error, where a write that fails is a write that is lost.
struct Lossy;

impl Write for Lossy {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        io::stderr().write_all(bytes).ok();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_directives_are_told_from_nonsense() {
        for good in ["info", "warn", "off", "info,calmirror::worker=debug"] {
            assert!(check_level(good).is_ok(), "{good}");
        }
        for bad in ["loud=maybe", "info,calmirror=verbose"] {
            assert!(check_level(bad).is_err(), "{bad}");
        }
    }
}
