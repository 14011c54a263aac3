//! What the rooms count, as values they are handed or hand out: there is no global registry.
//!
//! Each room fills in its own meter; `api/metrics.rs` shows them all at `/metrics`. What a meter
//! counts by is a closed set of words, each shown from the beginning and in a fixed order, so that
//! the number of series never depends on how many windows there are. What it refuses: a meter per
//! window, mailbox or account.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use prometheus_client::metrics::histogram::Histogram;
use tokio::time::Instant;

use crate::mirror::clock::ClockCheck;
use crate::mirror::status::ResyncReason;

/// A word that a tally does not know is counted under this one.
pub const OTHER: &str = "other";

/// Counts by one of a closed set of words.
#[derive(Debug)]
pub struct CounterSet {
    counts: Vec<(&'static str, AtomicU64)>,
    other: AtomicU64,
}

impl CounterSet {
    fn of(words: &[&'static str]) -> Self {
        let counts = words.iter().map(|word| (*word, AtomicU64::new(0))).collect();
        Self { counts, other: AtomicU64::new(0) }
    }

    /// Counts `n` more under `word`.
    pub fn add(&self, word: &str, n: u64) {
        let known = self.counts.iter().find(|(known, _)| *known == word);
        known.map_or(&self.other, |(_, count)| count).fetch_add(n, Ordering::Relaxed);
    }

    /// Every word with its count, always in the same order, [`OTHER`] last.
    pub fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let known = self.counts.iter().map(|(word, count)| (*word, count));
        let all = known.chain(std::iter::once((OTHER, &self.other)));
        all.map(|(word, count)| (word, count.load(Ordering::Relaxed)))
    }
}

/// How many there are of something at this moment.
#[derive(Clone, Debug, Default)]
pub struct Gauge(Arc<AtomicU64>);

impl Gauge {
    /// One more, until the answer is dropped.
    pub fn increment(&self) -> GaugeGuard {
        self.0.fetch_add(1, Ordering::Relaxed);
        GaugeGuard(self.clone())
    }

    /// How many there are.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// See [`Level::enter`].
#[derive(Debug)]
pub struct GaugeGuard(Gauge);

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Durations, in seconds.
#[derive(Debug)]
pub struct LatencyHistogram(pub(crate) Histogram);

impl LatencyHistogram {
    fn with_bounds(bounds: &[f64]) -> Self {
        Self(Histogram::new(bounds.iter().copied()))
    }

    /// Counts one more.
    pub fn observe(&self, took: Duration) {
        self.0.observe(took.as_secs_f64());
    }
}

/// From an answer out of memory to one that hardly comes.
const REQUEST_BOUNDS: [f64; 10] = [0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 100.0];
/// From an idle round to a huge calendar.
const ROUND_BOUNDS: [f64; 10] = [0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0];
/// From what a busy machine does to what a budget that is too small does.
const WAIT_BOUNDS: [f64; 10] = [0.001, 0.01, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0];
/// From a fast disk to one that people should look at.
const COMMIT_BOUNDS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0];

/// Answers worth telling apart, as text; `none` is no answer at all.
const STATUSES: [&str; 21] = [
    "200", "400", "401", "403", "404", "405", "408", "409", "410", "412", "413", "414", "423",
    "429", "500", "501", "502", "503", "504", "509", "none",
];

/// Graph's clock, as the `Date` of its newest answer shows it.
#[derive(Debug, Default)]
pub struct GraphClock(Mutex<LastAnswer>);

#[derive(Debug, Default)]
struct LastAnswer {
    answered: bool,
    /// The newest `Date`, and when it came by the monotonic clock.
    date: Option<(Timestamp, Instant)>,
    /// Whether the log says that the wall clock is wrong.
    logged: bool,
}

impl GraphClock {
    /// An answer came, at the wall-clock time `now`. Answers the comparison where the log is to
    /// say it: the wall clock has become wrong by it, or right again.
    pub fn answered(&self, date: Option<Timestamp>, now: Timestamp) -> Option<ClockCheck> {
        let mut seen = self.seen();
        seen.answered = true;
        seen.date = date.map(|date| (date, Instant::now())).or(seen.date);
        let check = seen.check(now);
        let news = seen.logged != check.is_wrong();
        seen.logged = check.is_wrong();
        news.then_some(check)
    }

    /// How the wall clock, which reads `now`, compares with Graph's at this moment.
    pub fn check(&self, now: Timestamp) -> ClockCheck {
        self.seen().check(now)
    }

    fn seen(&self) -> MutexGuard<'_, LastAnswer> {
        // Every change is whole, so a poisoned lock is still good.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LastAnswer {
    fn check(&self, now: Timestamp) -> ClockCheck {
        match self.date {
            None if self.answered => ClockCheck::Unchecked,
            None => ClockCheck::Unknown,
            Some((date, came)) => {
                // The monotonic clock carries Graph's on: a jump of the wall clock shows at once.
                let theirs = date.checked_add(came.elapsed()).unwrap_or(Timestamp::MAX);
                ClockCheck::Skew(now.duration_since(theirs))
            }
        }
    }
}

/// Requests to Graph.
#[derive(Debug)]
pub struct GraphMetrics {
    /// What its clock shows.
    pub clock: GraphClock,
    /// By status.
    pub requests: CounterSet,
    /// From sending one to the end of its answer.
    pub took: LatencyHistogram,
    /// How long each waited for its mailbox's pause, and for its turn, before it was sent.
    pub waited: LatencyHistogram,
    /// Answers that made a mailbox pause.
    pub pauses: AtomicU64,
    /// For how long, milliseconds, all together.
    pub paused_ms: AtomicU64,
    /// Sent and not yet answered.
    pub in_flight: Gauge,
}

impl Default for GraphMetrics {
    fn default() -> Self {
        Self {
            clock: GraphClock::default(),
            requests: CounterSet::of(&STATUSES),
            took: LatencyHistogram::with_bounds(&REQUEST_BOUNDS),
            waited: LatencyHistogram::with_bounds(&WAIT_BOUNDS),
            pauses: AtomicU64::default(),
            paused_ms: AtomicU64::default(),
            in_flight: Gauge::default(),
        }
    }
}

impl GraphMetrics {
    /// An answer, or that there was none.
    pub fn answered(&self, status: Option<u16>, took: Duration) {
        self.requests.add(status.map_or_else(|| "none".to_owned(), |s| s.to_string()).as_str(), 1);
        self.took.observe(took);
    }

    /// A mailbox pauses.
    pub fn paused(&self, pause: Duration) {
        self.pauses.fetch_add(1, Ordering::Relaxed);
        let ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        self.paused_ms.fetch_add(ms, Ordering::Relaxed);
    }
}

/// What is written.
#[derive(Debug)]
pub struct StoreMetrics {
    /// From handing a commit over to its being durable; lazy ones not, nobody waits for them.
    pub commits: LatencyHistogram,
    /// Entries of the feed, by `created`, `updated` and `removed`.
    pub changes: CounterSet,
    /// Rows of events and series masters put or deleted.
    pub rows: AtomicU64,
    /// Resyncs begun, by reason.
    pub resyncs: CounterSet,
}

impl Default for StoreMetrics {
    fn default() -> Self {
        Self {
            commits: LatencyHistogram::with_bounds(&COMMIT_BOUNDS),
            changes: CounterSet::of(&["created", "updated", "removed"]),
            rows: AtomicU64::default(),
            resyncs: CounterSet::of(&ResyncReason::AGAIN.map(ResyncReason::as_str)),
        }
    }
}

/// How a round can end: as it should, or with a kind of trouble.
pub const OUTCOMES: [&str; 18] = [
    "settled",
    "incomplete",
    "held",
    "throttled",
    "transient",
    "malformed_page",
    "link_dead",
    "round_stuck",
    "page_stuck",
    "foreign_link",
    "sign_in",
    "forbidden",
    "gone",
    "refused",
    "not_found",
    "segment_too_long",
    "too_large",
    "store",
];

/// What workers do.
#[derive(Debug)]
pub struct RoundMetrics {
    /// By outcome.
    pub rounds: CounterSet,
    /// From beginning to end, whatever the outcome.
    pub took: LatencyHistogram,
    /// How long after it was due each round began; of those somebody asked for, none.
    pub late: LatencyHistogram,
    /// Workers that panicked or hung and were started again.
    pub restarts: AtomicU64,
}

impl Default for RoundMetrics {
    fn default() -> Self {
        Self {
            rounds: CounterSet::of(&OUTCOMES),
            took: LatencyHistogram::with_bounds(&ROUND_BOUNDS),
            late: LatencyHistogram::with_bounds(&WAIT_BOUNDS),
            restarts: AtomicU64::default(),
        }
    }
}

/// Readers of the feed that are connected and wait for more.
#[derive(Clone, Debug, Default)]
pub struct ReaderMetrics {
    /// Server-sent event streams.
    pub streams: Gauge,
    /// Held requests.
    pub waiting: Gauge,
}

/// Requests over TCP that were not let in.
#[derive(Debug)]
pub struct AccessMetrics {
    /// By reason.
    pub refused: CounterSet,
}

impl Default for AccessMetrics {
    fn default() -> Self {
        Self { refused: CounterSet::of(&["wrong_token", "too_many_attempts"]) }
    }
}

/// All of a daemon's meters.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// Requests to Graph.
    pub graph: Arc<GraphMetrics>,
    /// What is written.
    pub store: Arc<StoreMetrics>,
    /// What workers do.
    pub rounds: Arc<RoundMetrics>,
    /// Who reads.
    pub readers: ReaderMetrics,
    /// Who is kept out.
    pub access: Arc<AccessMetrics>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_nobody_knows_adds_no_series() {
        let tally = CounterSet::of(&["a", "b"]);
        tally.add("b", 2);
        tally.add("alice@contoso.com", 3);
        assert_eq!(tally.counts().collect::<Vec<_>>(), [("a", 0), ("b", 2), (OTHER, 3)]);
    }

    #[test]
    fn a_level_falls_when_what_entered_is_dropped() {
        let level = Gauge::default();
        let (one, two) = (level.increment(), level.increment());
        assert_eq!(level.value(), 2);
        drop(one);
        assert_eq!(level.value(), 1);
        drop(two);
        assert_eq!(level.value(), 0);
    }
}
