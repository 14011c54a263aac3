//! So many lines of a kind a minute, and then how many more there were.
//!
//! When Graph is out of order every window says so; twenty thousand lines say no more than thirty.
//! A kind is one place in the code, at `info` and above: what somebody turned `debug` on for is
//! never left out. The rest of a kind is counted, and told in one line when its minute is over.
//! What this refuses: to leave anything out without saying so.

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

/// Lines of a kind in a minute: enough to see what a few windows have in common.
const MAX_LINES: u32 = 30;
const MINUTE: Duration = Duration::from_secs(60);

/// See the module. Clones share the counts.
#[derive(Clone, Debug)]
pub(super) struct LogThrottle {
    kinds: Arc<Mutex<BTreeMap<&'static str, ThrottleWindow>>>,
    /// Told when the first line is left out, so that somebody tells of it later.
    wake: Sender<()>,
}

/// The minute of a kind.
#[derive(Debug)]
struct ThrottleWindow {
    began: Instant,
    told: u32,
    untold: u64,
    /// What the first line that was left out said.
    like: String,
}

impl LogThrottle {
    /// A quota, and what wakes whoever is to call [`Quota::tell`] a minute later.
    pub(super) fn new() -> (Self, Receiver<()>) {
        let (wake, woken) = channel();
        (Self { kinds: Arc::default(), wake }, woken)
    }

    /// Tells of what was left out, and forgets all minutes that are over. Answers whether there is
    /// more to tell of, later.
    pub(super) fn report_suppressed(&self) -> bool {
        let mut over = Vec::new();
        let mut later = false;
        self.kinds().retain(|_, spell| {
            if spell.began.elapsed() < MINUTE {
                later |= spell.untold > 0;
                return true;
            }
            if spell.untold > 0 {
                over.push((std::mem::take(&mut spell.like), spell.untold));
            }
            false
        });
        // Not under the lock: these are lines too.
        for (like, lines) in over {
            tracing::warn!(like, lines, "more of the same was not logged");
        }
        later
    }

    /// Whether one more line of this kind may be told.
    fn allows(&self, kind: &'static str, message: impl FnOnce() -> String) -> bool {
        let mut kinds = self.kinds();
        let fresh =
            || ThrottleWindow { began: Instant::now(), told: 0, untold: 0, like: String::new() };
        let spell = kinds.entry(kind).or_insert_with(fresh);
        if spell.untold == 0 && spell.began.elapsed() >= MINUTE {
            *spell = fresh();
        }
        if spell.told < MAX_LINES {
            spell.told += 1;
            return true;
        }
        if spell.untold == 0 {
            spell.like = message();
            // Nobody listens in a test that calls `tell` itself.
            self.wake.send(()).ok();
        }
        spell.untold += 1;
        false
    }

    fn kinds(&self) -> MutexGuard<'_, BTreeMap<&'static str, ThrottleWindow>> {
        // Every change is whole, so a poisoned lock is still good.
        self.kinds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells of what was left out, a minute after the first of it, for as long as anybody logs.
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
        *about.level() > Level::INFO || self.allows(about.name(), || Message::of(event).0)
    }
}

/// The message of an event, which is constant.
struct Message(String);

impl Message {
    fn of(event: &Event<'_>) -> Self {
        let mut message = Self(String::new());
        event.record(&mut message);
        message
    }
}

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}
