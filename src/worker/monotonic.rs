//! A time by the monotonic clock, which cannot be set; the wall clock is used only to show it.

use std::num::NonZeroI64;
use std::sync::LazyLock;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

/// How far the two clocks may drift apart before a shown time is corrected.
const DRIFT: SignedDuration = SignedDuration::from_secs(2);

/// The time from which the stored times count.
static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

/// A monotonic time in eight bytes: nanoseconds since [`EPOCH`]; from 0 on one more, so that none
/// is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PackedInstant(NonZeroI64);

impl PackedInstant {
    /// Packs a time less than 292 years away.
    pub(super) fn of(at: Instant) -> Self {
        let at = match at.checked_duration_since(*EPOCH) {
            Some(later) => nanoseconds(later).saturating_add(1),
            None => -nanoseconds(EPOCH.duration_since(at)),
        };
        Self(NonZeroI64::new(at).unwrap_or(NonZeroI64::MIN))
    }

    /// The time.
    pub(super) fn instant(self) -> Instant {
        let at = self.0.get();
        let offset = |nanoseconds: i64| Duration::from_nanos(nanoseconds.unsigned_abs());
        if at > 0 {
            *EPOCH + offset(at - 1)
        } else {
            EPOCH.checked_sub(offset(at)).unwrap_or(*EPOCH)
        }
    }
}

/// A monotonic time and the wall-clock time last shown for it. A window has two of them, so they
/// are packed.
#[derive(Clone, Copy, Debug)]
pub(super) struct MonotonicTime {
    at: PackedInstant,
    /// Nanoseconds since 1970, which reach from 1677 to 2262.
    shown: i64,
}

impl MonotonicTime {
    /// The time `at`, while the wall clock reads `now`.
    pub(super) fn at(at: Instant, now: Timestamp) -> Self {
        Self::packed(at, read(at, now))
    }

    fn packed(at: Instant, shown: Timestamp) -> Self {
        Self { at: PackedInstant::of(at), shown: pack(shown) }
    }

    /// The wall-clock time last shown for it.
    fn shown(self) -> Timestamp {
        Timestamp::from_nanosecond(self.shown.into()).unwrap_or_default()
    }

    /// The current time, while the wall clock reads `now`.
    pub(super) fn now(now: Timestamp) -> Self {
        Self::packed(Instant::now(), now)
    }

    /// A stored time in the past. One ahead of `now` was stored under a wrong clock and counts as
    /// the current time.
    pub(super) fn from_stored(stored: Timestamp, now: Timestamp) -> Self {
        let age = Duration::try_from(now.duration_since(stored)).unwrap_or_default();
        match Instant::now().checked_sub(age) {
            Some(at) if !age.is_zero() => Self::packed(at, stored),
            _ => Self::now(now),
        }
    }

    /// The time that has passed since.
    pub(super) fn age(self) -> Duration {
        self.at.instant().elapsed()
    }

    /// The time left until then; zero if it has passed.
    pub(super) fn remaining(self) -> Duration {
        self.at.instant().saturating_duration_since(Instant::now())
    }

    /// Whether it has passed.
    pub(super) fn is_over(self) -> bool {
        self.remaining().is_zero()
    }

    /// What the wall clock, which reads `now`, will show at this time. The result stays the same
    /// unless the wall clock is set.
    pub(super) fn future_wall_time(&mut self, now: Timestamp) -> Timestamp {
        let shown = read(self.at.instant(), now);
        if shown.duration_since(self.shown()).abs() > DRIFT {
            self.shown = pack(shown);
        }
        self.shown()
    }

    /// What the wall clock showed at this time. If that lies ahead of `now`, the time is computed
    /// again from `now`.
    pub(super) fn past_wall_time(&self, now: Timestamp) -> Timestamp {
        let shown = self.shown();
        if shown <= now { shown } else { read(self.at.instant(), now) }
    }
}

fn nanoseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

fn pack(at: Timestamp) -> i64 {
    let limits = (i64::MIN.into(), i64::MAX.into());
    i64::try_from(at.as_nanosecond().clamp(limits.0, limits.1)).unwrap_or_default()
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
    async fn packed_times_are_exact_before_and_after_the_epoch() {
        let now: Timestamp = "2026-11-02T12:00:00.123456789Z".parse().unwrap();
        for at in [*EPOCH - HOUR, *EPOCH - Duration::from_nanos(1), *EPOCH, *EPOCH + HOUR] {
            let packed = MonotonicTime::packed(at, now);
            assert_eq!((packed.at.instant(), packed.shown()), (at, now));
        }
        assert_eq!(size_of::<Option<MonotonicTime>>(), 16);
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
