//! A time by the monotonic clock, which cannot be set; the wall clock is used only to show it.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

/// How far the two clocks may drift apart before a shown time is corrected.
const DRIFT: SignedDuration = SignedDuration::from_secs(2);

/// A monotonic time and the wall-clock time last shown for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct MonotonicTime {
    at: Instant,
    shown: Timestamp,
}

impl MonotonicTime {
    /// The time `at`, while the wall clock reads `now`.
    pub(super) fn at(at: Instant, now: Timestamp) -> Self {
        Self { at, shown: read(at, now) }
    }

    /// The current time, while the wall clock reads `now`.
    pub(super) fn now(now: Timestamp) -> Self {
        Self { at: Instant::now(), shown: now }
    }

    /// A stored time in the past. One ahead of `now` was stored under a wrong clock and counts as
    /// the current time.
    pub(super) fn from_stored(stored: Timestamp, now: Timestamp) -> Self {
        let age = Duration::try_from(now.duration_since(stored)).unwrap_or_default();
        match Instant::now().checked_sub(age) {
            Some(at) if !age.is_zero() => Self { at, shown: stored },
            _ => Self::now(now),
        }
    }

    /// The time that has passed since.
    pub(super) fn age(self) -> Duration {
        self.at.elapsed()
    }

    /// The time left until then; zero if it has passed.
    pub(super) fn remaining(self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }

    /// Whether it has passed.
    pub(super) fn is_over(self) -> bool {
        self.remaining().is_zero()
    }

    /// What the wall clock, which reads `now`, will show at this time. The result stays the same
    /// unless the wall clock is set.
    pub(super) fn future_wall_time(&mut self, now: Timestamp) -> Timestamp {
        let shown = read(self.at, now);
        if shown.duration_since(self.shown).abs() > DRIFT {
            self.shown = shown;
        }
        self.shown
    }

    /// What the wall clock showed at this time. If that lies ahead of `now`, the time is computed
    /// again from `now`.
    pub(super) fn past_wall_time(&self, now: Timestamp) -> Timestamp {
        if self.shown <= now { self.shown } else { read(self.at, now) }
    }
}

/// What a clock that reads `now` shows at another time.
fn read(at: Instant, now: Timestamp) -> Timestamp {
    let here = Instant::now();
    let read = match at.checked_duration_since(here) {
        Some(wait) => now.checked_add(wait),
        None => now.checked_sub(here.duration_since(at)),
    };
    read.unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[tokio::test(start_paused = true)]
    async fn a_monotonic_time_is_unaffected_by_wall_clock_jumps() {
        let now: Timestamp = "2026-11-02T12:00:00Z".parse().unwrap();
        let years = SignedDuration::from_hours(10 * 365 * 24);
        let mut due = MonotonicTime::at(Instant::now() + HOUR, now);
        let done = MonotonicTime::now(now);
        tokio::time::advance(HOUR / 2).await;
        let later = now.checked_add(HOUR / 2).unwrap();
        assert_eq!(due.future_wall_time(later), now.checked_add(HOUR).unwrap());
        for jump in [years, -years] {
            let read = later.checked_add(jump).unwrap();
            assert_eq!(due.future_wall_time(read), read.checked_add(HOUR / 2).unwrap(), "{jump}");
            assert_eq!((due.remaining(), done.age()), (HOUR / 2, HOUR / 2));
            assert!(done.past_wall_time(read) <= read, "{jump}");
        }
        assert_eq!(due.future_wall_time(later), now.checked_add(HOUR).unwrap());
        // A difference within the drift of the clocks does not change the shown time.
        let second = later.checked_add(SignedDuration::from_secs(1)).unwrap();
        assert_eq!(due.future_wall_time(second), now.checked_add(HOUR).unwrap());
        assert!(!due.is_over());
    }

    #[tokio::test(start_paused = true)]
    async fn a_stored_time_in_the_future_counts_from_now() {
        let now: Timestamp = "2026-11-02T12:00:00Z".parse().unwrap();
        let ahead = now.checked_add(HOUR).unwrap();
        assert_eq!(MonotonicTime::from_stored(ahead, now).age(), Duration::ZERO);
        assert_eq!(MonotonicTime::from_stored(now, ahead).age(), HOUR);
        assert_eq!(MonotonicTime::from_stored(now, ahead).past_wall_time(ahead), now);
    }
}
