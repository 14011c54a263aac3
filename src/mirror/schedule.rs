//! When the next round is due: jitter, back-off, spread, the daily move. Pure: time and chance
//! are arguments.

use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use super::page::EventId;
use super::window::{Edges, Window};

/// The longest wait between attempts of a window that only fails.
pub const LONGEST_BACKOFF: Duration = Duration::from_secs(3600);
/// The first wait before the same request is made again.
pub const FIRST_RETRY: Duration = Duration::from_secs(1);
/// How often the same request is repeated within one round.
pub const RETRIES: u32 = 4;

/// `interval × (1 ± jitter/2)`; `chance` in `[0, 1)`.
pub fn delay(interval: Duration, jitter: f64, chance: f64) -> Duration {
    interval.mul_f64((1.0 + jitter.clamp(0.0, 1.0) * (chance - 0.5)).max(0.0))
}

/// A share of the interval, so that a fleet's first rounds spread over it.
pub fn spread(interval: Duration, chance: f64) -> Duration {
    interval.mul_f64(chance.clamp(0.0, 1.0))
}

/// What is left to wait when an interval changes: the same share of the new one. So a fleet that
/// is spread over the old interval is spread over the new one, and nobody waits longer than the
/// new interval with all its jitter. A longer wait than that is a back-off, which stays.
pub fn rescale(left: Duration, old: Duration, new: Duration) -> Duration {
    let share = left.as_secs_f64() / old.as_secs_f64().max(0.001);
    if share > 1.5 { left } else { new.mul_f64(share) }
}

/// Full jitter: anything up to `1 s × 2ⁿ` before try `n + 1` of the same request.
pub fn retry(n: u32, chance: f64) -> Duration {
    FIRST_RETRY.saturating_mul(1 << n.min(10)).mul_f64(chance)
}

/// `first` doubling with each failure up to `longest`, with a fifth of jitter; `failures` counts from 1.
pub fn backoff(first: Duration, longest: Duration, failures: u32, chance: f64) -> Duration {
    let base = first.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(longest);
    delay(base, 0.2, chance)
}

/// The edges a window's configuration means at `now`. A relative end is asked `move_every`
/// further, so that the stated future is covered until the edges move again.
pub fn edges(window: &Window, now: Timestamp) -> Edges {
    let end = window.end.resolve(now);
    let further =
        if window.end.is_relative() { signed(window.move_every) } else { SignedDuration::ZERO };
    Edges {
        start: window.start.resolve(now),
        end: end.checked_add(further).unwrap_or(Timestamp::MAX),
    }
}

/// When edges computed at `computed` move next; `None` for fixed ones. At an hour of the window's
/// own, so that a fleet does not enumerate at midnight, and never later than `move_every` after
/// the day the edges were measured from.
pub fn next_move(window: &Window, computed: Timestamp) -> Option<Timestamp> {
    if !window.start.is_relative() && !window.end.is_relative() {
        return None;
    }
    let midnight = computed
        .to_zoned(TimeZone::UTC)
        .start_of_day()
        .map_or(computed, |midnight| midnight.timestamp());
    let bytes = EventId::new(window.name.clone()).hash().0;
    let own = f64::from(u16::from_be_bytes([bytes[0], bytes[1]])) / 65536.0;
    let early = window.move_every.min(Duration::from_secs(86_400)).mul_f64(own);
    midnight.checked_add(signed(window.move_every.saturating_sub(early))).ok()
}

fn signed(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn delays_stay_within_half_the_jitter_on_both_sides() {
        assert_eq!(delay(MINUTE, 0.2, 0.0), Duration::from_secs(54));
        assert_eq!(delay(MINUTE, 0.2, 0.5), MINUTE);
        assert!(delay(MINUTE, 0.2, 0.999_999) < Duration::from_secs(66));
        assert_eq!(delay(MINUTE, 0.0, 0.7), MINUTE);
    }

    #[test]
    fn a_changed_interval_keeps_the_share_that_is_left() {
        let hour = MINUTE * 60;
        assert_eq!(rescale(MINUTE * 30, hour, MINUTE), MINUTE / 2);
        assert_eq!(rescale(MINUTE / 2, MINUTE, hour), MINUTE * 30);
        assert_eq!(rescale(MINUTE, MINUTE, MINUTE), MINUTE);
        assert_eq!(rescale(Duration::ZERO, MINUTE, hour), Duration::ZERO);
        for new in [MINUTE / 2, hour * 24] {
            assert_eq!(rescale(hour, MINUTE, new), hour, "a back-off stays");
        }
        assert_eq!(rescale(hour, Duration::ZERO, hour), hour);
    }

    #[test]
    fn backoff_doubles_up_to_its_ceiling() {
        let at = |failures| backoff(MINUTE, LONGEST_BACKOFF, failures, 0.5);
        assert_eq!([at(1), at(2), at(3)], [MINUTE, MINUTE * 2, MINUTE * 4]);
        assert_eq!(at(50), LONGEST_BACKOFF);
        assert_eq!(at(u32::MAX), LONGEST_BACKOFF);
    }

    #[test]
    fn retries_use_full_jitter() {
        assert_eq!(retry(0, 0.0), Duration::ZERO);
        assert_eq!(retry(3, 0.5), Duration::from_secs(4));
        assert!(retry(u32::MAX, 0.999) < Duration::from_secs(1024));
    }
}
