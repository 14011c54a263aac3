//! Counters, gauges and histograms of the daemon, passed as values. There is no global registry.
//!
//! Each module updates its own metrics; `api/metrics.rs` serves them all at `/metrics`. Label
//! values come from closed sets. Every value is exported from the start and in a fixed order, so
//! the number of series does not depend on the number of windows. There are no metrics per window,
//! mailbox or account.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use prometheus_client::metrics::histogram::Histogram;
use tokio::time::Instant;

use crate::mirror::change::ChangeKind;
use crate::mirror::clock::ClockCheck;
use crate::mirror::outcome::RoundOutcome;
use crate::mirror::status::ResyncReason;

/// The label value that counts everything outside the closed set of a [`CounterSet`].
pub const OTHER: &str = "other";

/// One counter for each label value of a closed set.
#[derive(Debug)]
pub struct CounterSet {
    counts: Vec<(&'static str, AtomicU64)>,
    other: AtomicU64,
}

impl CounterSet {
    fn of(words: impl IntoIterator<Item = &'static str>) -> Self {
        let counts = words.into_iter().map(|word| (word, AtomicU64::new(0))).collect();
        Self { counts, other: AtomicU64::new(0) }
    }

    /// Adds `n` to the counter of `word`, or of [`OTHER`] if the set does not contain `word`.
    pub fn add(&self, word: &str, n: u64) {
        let known = self.counts.iter().find(|(known, _)| *known == word);
        known.map_or(&self.other, |(_, count)| count).fetch_add(n, Ordering::Relaxed);
    }

    /// Every label value with its count, always in the same order, [`OTHER`] last.
    pub fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let known = self.counts.iter().map(|(word, count)| (*word, count));
        let all = known.chain(std::iter::once((OTHER, &self.other)));
        all.map(|(word, count)| (word, count.load(Ordering::Relaxed)))
    }
}

/// A number that rises and falls. Clones share the value.
#[derive(Clone, Debug, Default)]
pub struct Gauge(Arc<AtomicU64>);

impl Gauge {
    /// Adds one until the returned guard is dropped.
    pub fn increment(&self) -> GaugeGuard {
        self.hold(1)
    }

    /// Adds an amount until the returned guard is dropped.
    pub fn hold(&self, amount: u64) -> GaugeGuard {
        self.0.fetch_add(amount, Ordering::Relaxed);
        GaugeGuard { gauge: self.clone(), amount }
    }

    /// The current value.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Takes its amount back from its [`Gauge`] when dropped.
#[derive(Debug)]
pub struct GaugeGuard {
    gauge: Gauge,
    amount: u64,
}

impl GaugeGuard {
    /// Raises the amount; a smaller one changes nothing.
    pub fn raise(&mut self, amount: u64) {
        let more = amount.saturating_sub(self.amount);
        self.gauge.0.fetch_add(more, Ordering::Relaxed);
        self.amount += more;
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.gauge.0.fetch_sub(self.amount, Ordering::Relaxed);
    }
}

/// A histogram of durations, in seconds.
#[derive(Debug)]
pub struct LatencyHistogram(pub(crate) Histogram);

impl LatencyHistogram {
    fn with_bounds(bounds: &[f64]) -> Self {
        Self(Histogram::new(bounds.iter().copied()))
    }

    /// Records one duration.
    pub fn observe(&self, took: Duration) {
        self.0.observe(took.as_secs_f64());
    }
}

/// Seconds: from a response served from memory to one that almost times out.
const REQUEST_BOUNDS: [f64; 10] = [0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 100.0];
/// Seconds: from an idle round to the enumeration of a huge calendar.
const ROUND_BOUNDS: [f64; 10] = [0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0];
/// Seconds: from the delays of a busy machine to those of a request budget that is too small.
const WAIT_BOUNDS: [f64; 10] = [0.001, 0.01, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0];
/// Seconds: from a fast disk to one that needs attention.
const COMMIT_BOUNDS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0];

/// The HTTP statuses with a counter of their own; `none` means that there was no response.
const STATUSES: [&str; 21] = [
    "200", "400", "401", "403", "404", "405", "408", "409", "410", "412", "413", "414", "423",
    "429", "500", "501", "502", "503", "504", "509", "none",
];

/// Graph's clock, according to the `Date` header of its latest response.
#[derive(Debug, Default)]
pub struct GraphClock(Mutex<LastAnswer>);

#[derive(Debug, Default)]
struct LastAnswer {
    answered: bool,
    /// The latest `Date`, and when it arrived by the monotonic clock.
    date: Option<(Timestamp, Instant)>,
    /// Whether the last check that was logged found the wall clock wrong.
    logged: bool,
}

impl GraphClock {
    /// Records a response received at the wall-clock time `now`. Returns the comparison if it has
    /// to be logged: the wall clock has become wrong, or right again.
    pub fn answered(&self, date: Option<Timestamp>, now: Timestamp) -> Option<ClockCheck> {
        let mut seen = self.seen();
        seen.answered = true;
        seen.date = date.map(|date| (date, Instant::now())).or(seen.date);
        let check = seen.check(now);
        let news = seen.logged != check.is_wrong();
        seen.logged = check.is_wrong();
        news.then_some(check)
    }

    /// Compares the wall clock, which reads `now`, with Graph's clock.
    pub fn check(&self, now: Timestamp) -> ClockCheck {
        self.seen().check(now)
    }

    fn seen(&self) -> MutexGuard<'_, LastAnswer> {
        // No update leaves the value inconsistent, so a poisoned lock is still usable.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LastAnswer {
    fn check(&self, now: Timestamp) -> ClockCheck {
        match self.date {
            None if self.answered => ClockCheck::Unchecked,
            None => ClockCheck::Unknown,
            Some((date, came)) => {
                // The monotonic clock extrapolates Graph's, so a wall clock jump shows at once.
                let theirs = date.checked_add(came.elapsed()).unwrap_or(Timestamp::MAX);
                ClockCheck::Skew(now.duration_since(theirs))
            }
        }
    }
}

/// Requests to Graph.
#[derive(Debug)]
pub struct GraphMetrics {
    /// Graph's clock.
    pub clock: GraphClock,
    /// Requests by HTTP status.
    pub requests: CounterSet,
    /// From sending a request to the end of its response.
    pub took: LatencyHistogram,
    /// How long a request waited for its mailbox's pause and for its turn before it was sent.
    pub waited: LatencyHistogram,
    /// Responses that made a mailbox pause.
    pub pauses: AtomicU64,
    /// Total length of these pauses, milliseconds.
    pub paused_ms: AtomicU64,
    /// Requests sent and not yet answered.
    pub in_flight: Gauge,
    /// The decoded bytes of responses that are being read and processed.
    pub page_bytes: Gauge,
}

impl Default for GraphMetrics {
    fn default() -> Self {
        Self {
            clock: GraphClock::default(),
            requests: CounterSet::of(STATUSES),
            took: LatencyHistogram::with_bounds(&REQUEST_BOUNDS),
            waited: LatencyHistogram::with_bounds(&WAIT_BOUNDS),
            pauses: AtomicU64::default(),
            paused_ms: AtomicU64::default(),
            in_flight: Gauge::default(),
            page_bytes: Gauge::default(),
        }
    }
}

impl GraphMetrics {
    /// Records the end of a request. `status` is `None` if there was no response.
    pub fn record_response(&self, status: Option<u16>, took: Duration) {
        self.requests.add(status.map_or_else(|| "none".to_owned(), |s| s.to_string()).as_str(), 1);
        self.took.observe(took);
    }

    /// Records that a mailbox pauses.
    pub fn paused(&self, pause: Duration) {
        self.pauses.fetch_add(1, Ordering::Relaxed);
        let ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        self.paused_ms.fetch_add(ms, Ordering::Relaxed);
    }
}

/// Writes of the store.
#[derive(Debug)]
pub struct StoreMetrics {
    /// From submitting a commit until it is durable. Deferred commits are not measured, because no
    /// caller waits for them.
    pub commits: LatencyHistogram,
    /// Feed entries, by `created`, `updated` and `removed`.
    pub changes: CounterSet,
    /// Rows of events and series masters put or deleted.
    pub rows: AtomicU64,
    /// Bytes of keys and values when they were last measured; 0 before.
    pub live_bytes: AtomicU64,
    /// Compactions done.
    pub compactions: AtomicU64,
    /// Resyncs started, by reason.
    pub resyncs: CounterSet,
    /// The size of the page cache, bytes; 0 before the store is opened.
    pub cache_bytes: AtomicU64,
}

impl Default for StoreMetrics {
    fn default() -> Self {
        Self {
            commits: LatencyHistogram::with_bounds(&COMMIT_BOUNDS),
            changes: CounterSet::of(ChangeKind::ALL.map(ChangeKind::as_str)),
            rows: AtomicU64::default(),
            live_bytes: AtomicU64::default(),
            compactions: AtomicU64::default(),
            resyncs: CounterSet::of(ResyncReason::resyncs().map(ResyncReason::as_str)),
            cache_bytes: AtomicU64::default(),
        }
    }
}

/// Rounds and workers.
#[derive(Debug)]
pub struct RoundMetrics {
    /// Rounds by outcome.
    pub rounds: CounterSet,
    /// Duration of a round, whatever the outcome.
    pub took: LatencyHistogram,
    /// How long after its due time a round started. Rounds on request are not measured.
    pub late: LatencyHistogram,
    /// Workers restarted because they panicked or hung.
    pub restarts: AtomicU64,
    /// Rounds in progress.
    pub running: Gauge,
}

impl Default for RoundMetrics {
    fn default() -> Self {
        Self {
            rounds: CounterSet::of(RoundOutcome::counted().map(RoundOutcome::as_str)),
            took: LatencyHistogram::with_bounds(&ROUND_BOUNDS),
            late: LatencyHistogram::with_bounds(&WAIT_BOUNDS),
            restarts: AtomicU64::default(),
            running: Gauge::default(),
        }
    }
}

/// Connected readers that follow the feed.
#[derive(Clone, Debug, Default)]
pub struct ReaderMetrics {
    /// Server-sent event streams.
    pub streams: Gauge,
    /// Requests that are held until there is a change.
    pub waiting: Gauge,
}

impl ReaderMetrics {
    /// The number of readers by kind.
    pub fn counts(&self) -> impl IntoIterator<Item = (&'static str, u64)> {
        let Self { streams, waiting } = self;
        [("stream", streams.value()), ("wait", waiting.value())]
    }
}

/// Requests over TCP that the access check refused.
#[derive(Debug)]
pub struct AccessMetrics {
    /// Refused requests by reason.
    pub refused: CounterSet,
}

impl AccessMetrics {
    /// The word of a request with a wrong token.
    pub const WRONG_TOKEN: &str = "wrong_token";
    /// The word of a request refused because too many wrong tokens wait.
    pub const TOO_MANY_ATTEMPTS: &str = "too_many_attempts";
}

impl Default for AccessMetrics {
    fn default() -> Self {
        Self { refused: CounterSet::of([Self::WRONG_TOKEN, Self::TOO_MANY_ATTEMPTS]) }
    }
}

/// All metrics of a daemon.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// Requests to Graph.
    pub graph: Arc<GraphMetrics>,
    /// Writes of the store.
    pub store: Arc<StoreMetrics>,
    /// Rounds and workers.
    pub rounds: Arc<RoundMetrics>,
    /// Readers of the feed.
    pub readers: ReaderMetrics,
    /// Refused requests.
    pub access: Arc<AccessMetrics>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_label_value_adds_no_series() {
        let tally = CounterSet::of(["a", "b"]);
        tally.add("b", 2);
        tally.add("alice@contoso.com", 3);
        assert_eq!(tally.counts().collect::<Vec<_>>(), [("a", 0), ("b", 2), (OTHER, 3)]);
    }

    #[test]
    fn a_gauge_falls_when_its_guard_is_dropped() {
        let level = Gauge::default();
        let (one, two) = (level.increment(), level.increment());
        assert_eq!(level.value(), 2);
        drop(one);
        assert_eq!(level.value(), 1);
        drop(two);
        assert_eq!(level.value(), 0);
    }
}
