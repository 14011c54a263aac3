//! Sets up logging: text or JSON on standard error, or systemd's journal with structured fields.
//!
//! The level can change at run time. A line that cannot be written is lost; this never causes a
//! panic or a stop. Repeated lines are limited (`log_throttle`).
//!
//! Detailed logs of libraries are never written, whatever the level. The storage engine logs whole
//! batches (events, links) and HTTP libraries log addresses; no configuration may break promise 7
//! (discreet).

mod log_throttle;

use std::any::Any;
use std::ffi::OsStr;
use std::io::{self, IsTerminal as _};

use tracing::level_filters::LevelFilter;
use tracing::{Metadata, Subscriber};
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::filter::{ParseError, filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use log_throttle::LogThrottle;

/// The format of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OutputFormat {
    /// [`Self::Journald`] under systemd, [`Self::Text`] on a terminal, else [`Self::Json`].
    #[default]
    Auto,
    /// Text for people.
    Text,
    /// One JSON object per line.
    Json,
    /// The journal's native protocol: each field of a line becomes a journal field `CALMIRROR_…`.
    /// Falls back to [`Self::Text`] if the journal cannot be reached.
    Journald,
}

impl OutputFormat {
    /// The effective format: [`Self::Auto`] depends on what standard error is connected to.
    #[must_use]
    pub fn resolve(self) -> Self {
        match self {
            Self::Auto => auto_format(is_journal(), io::stderr().is_terminal()),
            chosen => chosen,
        }
    }
}

/// Why logging could not be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The text is neither a level nor tracing directives.
    #[error("{level:?} is neither a log level nor tracing directives")]
    Level {
        /// The given text.
        level: String,
        /// The parse error.
        #[source]
        source: ParseError,
    },
    /// Logging has already been set up in this process.
    #[error("logging is set up already")]
    Already,
    /// The subscriber no longer exists.
    #[error("logging is no longer running")]
    Gone,
}

/// A handle to the running logging.
#[derive(Clone, Debug)]
pub struct Telemetry {
    filter: reload::Handle<EnvFilter, Registry>,
}

impl Telemetry {
    /// Starts logging, once per process. `level` is a level or tracing directives
    /// (`info,calmirror::worker=debug`).
    ///
    /// # Errors
    /// If `level` cannot be parsed or logging is set up already.
    pub fn start(level: &str, format: OutputFormat) -> Result<Self, TelemetryError> {
        let filter = parse(level)?;
        let format = format.resolve();
        let (shape, no_journal) = match format {
            OutputFormat::Journald => match tracing_journald::layer() {
                Ok(layer) => (LineOutput::Journal(Box::new(fields(layer))), None),
                Err(error) => (LineOutput::Text { colours: false }, Some(error)),
            },
            OutputFormat::Json => (LineOutput::Json, None),
            OutputFormat::Text | OutputFormat::Auto => {
                (LineOutput::Text { colours: colours() }, None)
            }
        };
        let (quota, woken) = LogThrottle::new();
        let (subscriber, telemetry) = subscriber(filter, shape, quota.clone(), io::stderr);
        subscriber.try_init().map_err(|_| TelemetryError::Already)?;
        if let Some(error) = no_journal {
            tracing::warn!(%error, "journal cannot be reached, logging text to standard error");
        }
        std::panic::set_hook(Box::new(|panic| {
            let place = panic.location().map(ToString::to_string);
            tracing::error!(place, reason = panic_message(panic.payload()), "panicked");
        }));
        // A thread instead of a task: there may be no runtime, and the reports must not depend on a
        // busy one. It has nothing to finish, so it is not joined. Without it suppressed lines are
        // never reported.
        let telling = move || log_throttle::report_loop(&quota, &woken);
        if let Err(error) = std::thread::Builder::new().name("log-quota".into()).spawn(telling) {
            tracing::warn!(%error, "suppressed log lines will not be reported");
        }
        Ok(telemetry)
    }

    /// Changes the level.
    ///
    /// # Errors
    /// If `level` cannot be parsed or logging has ended. The old level then stays.
    pub fn set_level(&self, level: &str) -> Result<(), TelemetryError> {
        self.filter.reload(parse(level)?).map_err(|_| TelemetryError::Gone)
    }
}

/// The part of a panic message that may be logged: only a constant text from the code. A formatted
/// message may contain an event's content, for example after slicing inside a character.
fn panic_message(payload: &dyn Any) -> &'static str {
    payload.downcast_ref::<&'static str>().copied().unwrap_or("message withheld")
}

/// Checks a level or tracing directives, for the validation of a configuration.
///
/// # Errors
/// [`TelemetryError::Level`] if `level` is neither.
pub fn check_level(level: &str) -> Result<(), TelemetryError> {
    parse(level).map(drop)
}

fn parse(level: &str) -> Result<EnvFilter, TelemetryError> {
    EnvFilter::builder()
        .parse(level)
        .map_err(|source| TelemetryError::Level { level: level.to_owned(), source })
}

/// The output of log lines, with its settings.
enum LineOutput {
    Text { colours: bool },
    Json,
    Journal(Box<tracing_journald::Layer>),
}

/// Builds the subscriber: events that pass `filter`, [`is_allowed`] and the throttle go to `writer` in the
/// given shape.
fn subscriber<W>(
    filter: EnvFilter,
    shape: LineOutput,
    quota: LogThrottle,
    writer: W,
) -> (impl Subscriber + Send + Sync, Telemetry)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let (filter, handle) = reload::Layer::new(filter);
    let layer = fmt::layer().with_writer(writer).log_internal_errors(false);
    let layer: Box<dyn Layer<_> + Send + Sync> = match shape {
        // The list of spans includes the current one.
        LineOutput::Json => {
            layer.json().flatten_event(true).with_current_span(false).with_ansi(false).boxed()
        }
        LineOutput::Text { colours } => layer.with_ansi(colours).boxed(),
        LineOutput::Journal(journal) => journal.boxed(),
    };
    let subscriber =
        Registry::default().with(filter).with(filter_fn(is_allowed)).with(quota).with(layer);
    (subscriber, Telemetry { filter: handle })
}

/// Sets the field names that administrators search for, and the priorities that journalctl colours.
fn fields(layer: tracing_journald::Layer) -> tracing_journald::Layer {
    layer
        .with_field_prefix(Some("CALMIRROR".to_owned()))
        .with_syslog_identifier("calmirror".to_owned())
        .with_priority_mappings(PriorityMappings {
            info: Priority::Informational,
            debug: Priority::Debug,
            ..PriorityMappings::new()
        })
}

/// Whether an event may be logged, whatever the configured level: everything of our own code,
/// warnings of the storage engine, and `info` and above of other libraries.
fn is_allowed(event: &Metadata<'_>) -> bool {
    let of = |name: &str| {
        let rest = event.target().strip_prefix(name);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    };
    let most = if of("calmirror") {
        LevelFilter::TRACE
    } else if of("async_nats") {
        // What it has to say, the sink says.
        LevelFilter::OFF
    } else if of("sled") {
        LevelFilter::WARN
    } else {
        LevelFilter::INFO
    };
    *event.level() <= most
}

/// The format for standard error, given whether it is the journal and whether it is a terminal.
fn auto_format(journal: bool, terminal: bool) -> OutputFormat {
    match (journal, terminal) {
        (true, _) => OutputFormat::Journald,
        (_, true) => OutputFormat::Text,
        _ => OutputFormat::Json,
    }
}

/// Whether standard error is the journal.
fn is_journal() -> bool {
    let named = std::env::var_os("JOURNAL_STREAM");
    rustix::fs::fstat(io::stderr())
        .is_ok_and(|file| leads_to(named.as_deref(), (file.st_dev, file.st_ino)))
}

/// Whether systemd's `JOURNAL_STREAM` (device and inode) names this file. Programs started by a
/// service inherit the variable, but may have another standard error.
fn leads_to(named: Option<&OsStr>, file: (u64, u64)) -> bool {
    let named = named.and_then(OsStr::to_str).and_then(|named| named.split_once(':'));
    named.is_some_and(|(device, inode)| (device.parse(), inode.parse()) == (Ok(file.0), Ok(file.1)))
}

fn colours() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{Lines, capture_log};

    #[test]
    fn no_level_enables_the_debug_logs_of_dependencies() {
        let lines = Lines::default();
        let writer = lines.clone();
        let (subscriber, telemetry) =
            subscriber(parse("off").unwrap(), LineOutput::Json, LogThrottle::new().0, move || {
                writer.clone()
            });
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
        let text = lines.text();
        assert!(!text.contains("canary"), "{text}");
        for wanted in ["engine", "library", "own"] {
            assert_eq!(text.matches(wanted).count(), 2, "{wanted}: {text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn repeated_log_lines_are_limited_and_the_rest_counted() {
        let lines = Lines::default();
        let writer = lines.clone();
        let (quota, woken) = LogThrottle::new();
        let (subscriber, _telemetry) =
            subscriber(parse("debug").unwrap(), LineOutput::Json, quota.clone(), move || {
                writer.clone()
            });
        let _logging = capture_log(subscriber);
        let count_of =
            |wanted: &str| lines.text().lines().filter(|line| line.contains(wanted)).count();
        let storm = || {
            for window in 0..20_000 {
                tracing::warn!(target: "calmirror::worker", window, "window in trouble");
            }
        };
        storm();
        tracing::warn!(target: "calmirror::worker", "another kind");
        for _ in 0..100 {
            tracing::debug!(target: "calmirror::worker", "asked for");
        }
        assert_eq!(count_of("window in trouble"), 30);
        assert_eq!(count_of("another kind"), 1);
        assert_eq!(count_of("asked for"), 100);
        assert!(woken.try_recv().is_ok() && woken.try_recv().is_err(), "woken once");
        quota.report_suppressed();
        assert_eq!(count_of("lines suppressed"), 0, "its minute is not over");
        tokio::time::advance(std::time::Duration::from_secs(61)).await;
        storm();
        assert_eq!(count_of("window in trouble"), 30, "before the last storm was reported");
        quota.report_suppressed();
        assert_eq!(count_of("\"like\":\"window in trouble\",\"lines\":39970"), 1);
        storm();
        assert_eq!(count_of("\"message\":\"window in trouble\""), 60);
        tokio::time::advance(std::time::Duration::from_secs(61)).await;
        quota.report_suppressed();
        tokio::time::advance(std::time::Duration::from_secs(61)).await;
        quota.report_suppressed();
        assert_eq!(count_of("lines suppressed"), 2);
    }

    #[test]
    fn panics_log_no_content() {
        let text = "événement secret".to_owned();
        let cut = std::panic::catch_unwind(|| text[..1].len()).unwrap_err();
        assert_eq!(panic_message(&*cut), "message withheld");
        let said = std::panic::catch_unwind(|| std::panic::panic_any("as written")).unwrap_err();
        assert_eq!(panic_message(&*said), "as written");
    }

    #[test]
    fn auto_selects_the_format_by_standard_error() {
        assert_eq!(auto_format(true, false), OutputFormat::Journald);
        assert_eq!(auto_format(false, true), OutputFormat::Text);
        assert_eq!(auto_format(false, false), OutputFormat::Json);
        let named = |text: &'static str| leads_to(Some(OsStr::new(text)), (9, 1234));
        assert!(named("9:1234"));
        for other in ["9:1235", "8:1234", "9", "", "9:", "a:b", "9:1234:1"] {
            assert!(!named(other), "{other}");
        }
        assert!(!leads_to(None, (9, 1234)));
    }

    #[test]
    fn valid_levels_and_directives_are_accepted_and_others_refused() {
        for good in ["info", "warn", "off", "info,calmirror::worker=debug"] {
            assert!(check_level(good).is_ok(), "{good}");
        }
        for bad in ["loud=maybe", "info,calmirror=verbose"] {
            assert!(check_level(bad).is_err(), "{bad}");
        }
    }
}
