//! Logs: to standard error, as text for people or JSON for machines, at a level that can change
//! while running. A log that cannot be written is lost; it never stops or panics anything.
//!
//! What it refuses, whatever level is asked for: the detail of other people's code. The storage
//! engine logs whole batches (events, links) and HTTP libraries log addresses; no configuration
//! may bring promise 7 (discreet) down.

use std::io::{self, IsTerminal as _, Write};

use tracing::level_filters::LevelFilter;
use tracing::{Metadata, Subscriber};
use tracing_subscriber::filter::{ParseError, filter_fn};
use tracing_subscriber::fmt::MakeWriter;
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
        let (subscriber, telemetry) = subscriber(parse(level)?, resolve(format), || Lossy);
        subscriber.try_init().map_err(|_| TelemetryError::Already)?;
        Ok(telemetry)
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

/// Lines of `format` into `writer`: of what `filter` wants, all that is [`fit`].
fn subscriber<W>(
    filter: EnvFilter,
    format: Format,
    writer: W,
) -> (impl Subscriber + Send + Sync, Telemetry)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let (filter, handle) = reload::Layer::new(filter);
    let layer = fmt::layer().with_writer(writer).log_internal_errors(false);
    let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let layer: Box<dyn Layer<_> + Send + Sync> = match format {
        Format::Json => layer.json().flatten_event(true).with_ansi(false).boxed(),
        Format::Journald => layer.without_time().with_ansi(false).boxed(),
        Format::Text | Format::Auto => layer.with_ansi(colours).boxed(),
    };
    let subscriber = Registry::default().with(filter).with(filter_fn(fit)).with(layer);
    (subscriber, Telemetry { filter: handle })
}

/// Whether an event may be logged at any level: of our own code everything, of the storage
/// engine what is odd, of other libraries what they mean operators to read.
fn fit(event: &Metadata<'_>) -> bool {
    let of = |name: &str| {
        let rest = event.target().strip_prefix(name);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    };
    let most = if of("calmirror") {
        LevelFilter::TRACE
    } else if of("sled") {
        LevelFilter::WARN
    } else {
        LevelFilter::INFO
    };
    *event.level() <= most
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
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// What was logged, to read afterwards.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn no_level_brings_out_the_detail_of_other_peoples_code() {
        let lines = Lines::default();
        let writer = lines.clone();
        let (subscriber, telemetry) =
            subscriber(parse("off").unwrap(), Format::Json, move || writer.clone());
        tracing::subscriber::with_default(subscriber, || {
            for level in ["trace", "off,sled=trace,hyper_util=trace,rustls=debug,calmirror=trace"] {
                telemetry.set_level(level).unwrap();
                tracing::trace!(target: "sled::tree", "canary");
                tracing::info!(target: "sled", "canary");
                tracing::debug!(target: "hyper_util::client", "canary");
                tracing::debug!(target: "rustls", "canary");
                tracing::debug!(target: "calmirrored", "canary");
                tracing::warn!(target: "sled::pagecache", "engine");
                tracing::info!(target: "hyper_util::client", "library");
                tracing::trace!(target: "calmirror::worker", "own");
            }
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert!(!text.contains("canary"), "{text}");
        for wanted in ["engine", "library", "own"] {
            assert_eq!(text.matches(wanted).count(), 2, "{wanted}: {text}");
        }
    }

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
