//! Limits each log statement to 30 lines a minute and reports how many were suppressed.
//!
//! When Graph fails, every window logs it; twenty thousand lines say no more than thirty. The limit
//! is per log statement in the code, at `info` and above; `debug` and `trace` are never suppressed.
//! Further lines are counted and reported in one line when the minute is over, so no line is
//! suppressed without a report.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Lines per log statement and minute: enough to see what a few windows have in common.
const MAX_LINES: u32 = 30;
const MINUTE: Duration = Duration::from_secs(60);

/// The filter layer that suppresses lines. Clones share the counts.
#[derive(Clone, Debug)]
pub(super) struct LogThrottle {
    kinds: Arc<Mutex<BTreeMap<&'static str, ThrottleWindow>>>,
    /// Wakes [`report_loop`] when the first line of a minute is suppressed.
    wake: Sender<()>,
}

/// The current minute of a log statement.
#[derive(Debug)]
struct ThrottleWindow {
    began: Instant,
    written: u32,
    suppressed: u64,
    /// The message of the first suppressed line.
    like: String,
}

impl LogThrottle {
    /// A throttle, and the receiver for [`report_loop`].
    pub(super) fn new() -> (Self, Receiver<()>) {
        let (wake, woken) = channel();
        (Self { kinds: Arc::default(), wake }, woken)
    }

    /// Logs how many lines were suppressed in the minutes that are over, and removes these minutes.
    /// Returns whether suppressed lines remain to be reported.
    pub(super) fn report_suppressed(&self) -> bool {
        let mut over = Vec::new();
        let mut later = false;
        self.kinds().retain(|_, spell| {
            if spell.began.elapsed() < MINUTE {
                later |= spell.suppressed > 0;
                return true;
            }
            if spell.suppressed > 0 {
                over.push((std::mem::take(&mut spell.like), spell.suppressed));
            }
            false
        });
        // Not under the lock: these lines pass through the throttle too.
        for (like, lines) in over {
            tracing::warn!(like, lines, "repeated log lines suppressed");
        }
        later
    }

    /// Whether one more line of the log statement `kind` may be written.
    fn allows(&self, kind: &'static str, message: impl FnOnce() -> String) -> bool {
        let mut kinds = self.kinds();
        let fresh = || ThrottleWindow {
            began: Instant::now(),
            written: 0,
            suppressed: 0,
            like: String::new(),
        };
        let spell = kinds.entry(kind).or_insert_with(fresh);
        if spell.suppressed == 0 && spell.began.elapsed() >= MINUTE {
            *spell = fresh();
        }
        if spell.written < MAX_LINES {
            spell.written += 1;
            return true;
        }
        if spell.suppressed == 0 {
            spell.like = message();
            // A test that calls `report_suppressed` itself may have dropped the receiver.
            self.wake.send(()).ok();
        }
        spell.suppressed += 1;
        false
    }

    fn kinds(&self) -> MutexGuard<'_, BTreeMap<&'static str, ThrottleWindow>> {
        // No update leaves the map inconsistent, so a poisoned lock is still usable.
        self.kinds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reports suppressed lines a minute after the first one, until the last [`LogThrottle`] is gone.
pub(super) fn report_loop(quota: &LogThrottle, woken: &Receiver<()>) {
    while woken.recv().is_ok() {
        loop {
            std::thread::park_timeout(MINUTE);
            if !quota.report_suppressed() {
                break;
            }
        }
    }
}

impl<S: Subscriber> Layer<S> for LogThrottle {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let about = event.metadata();
        let message = || {
            let mut message = Message::default();
            event.record(&mut message);
            message.0
        };
        *about.level() > Level::INFO || self.allows(about.name(), message)
    }
}

/// Reads the constant message of an event.
#[derive(Default)]
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}
