//! Decides which times can be trusted. The wall clock can be wrong for a while, in either
//! direction, and machines sleep. A time stored under a wrong clock must not affect anything later.

use jiff::{SignedDuration, Timestamp};

/// How far two clocks may differ before one of them counts as wrong.
pub const TOLERANCE: SignedDuration = SignedDuration::from_mins(10);

/// The longest pause of a mailbox that is made at Graph's request (fact 117).
pub const MAX_PAUSE: SignedDuration = SignedDuration::from_hours(1);

/// What to do about a wall clock that differs from Graph's.
pub const REMEDY: &str =
    "set this machine's clock and keep it correct by NTP (timedatectl, chronyc tracking)";

/// How the wall clock compares with Graph's clock, as shown by the `Date` of its responses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClockCheck {
    /// Graph has not responded yet.
    #[default]
    Unknown,
    /// Graph responds without a `Date`: nothing contradicts the wall clock.
    Unchecked,
    /// How far the wall clock is ahead of Graph's; negative if it is behind.
    Skew(SignedDuration),
}

impl ClockCheck {
    /// How far the wall clock is ahead of Graph's, if that is known.
    pub fn skew(self) -> Option<SignedDuration> {
        match self {
            Self::Unknown | Self::Unchecked => None,
            Self::Skew(skew) => Some(skew),
        }
    }

    /// Whether the two differ by more than [`TOLERANCE`].
    pub fn is_wrong(self) -> bool {
        self.skew().is_some_and(|skew| skew.abs() > TOLERANCE)
    }

    /// The time to compute edges for when the wall clock reads `now`: Graph's time if the two
    /// differ by more than [`TOLERANCE`], else `now`.
    pub fn corrected(self, now: Timestamp) -> Timestamp {
        let skew = self.skew().filter(|_| self.is_wrong());
        skew.and_then(|skew| now.checked_sub(skew).ok()).unwrap_or(now)
    }

    /// Whether the wall clock may decide that events leave: Graph has responded, and its clock does
    /// not contradict the wall clock.
    pub fn is_usable(self) -> bool {
        self != Self::Unknown && !self.is_wrong()
    }
}

/// Whether a wait with the stored end `until` still lasts at `now`. No wait lasts longer than
/// `longest`: a wait that seems longer was stored under a wrong clock and has ended.
pub fn wait_continues(until: Timestamp, longest: SignedDuration, now: Timestamp) -> bool {
    let left = until.duration_since(now);
    left > SignedDuration::ZERO && left <= longest.saturating_add(TOLERANCE)
}

/// Whether the stored time `past` is more than [`TOLERANCE`] ahead of `now`: either it was stored
/// under a wrong clock, or `now` comes from one.
pub fn is_in_future(past: Timestamp, now: Timestamp) -> bool {
    past.duration_since(now) > TOLERANCE
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: SignedDuration = SignedDuration::from_hours(1);

    #[test]
    fn only_a_known_and_small_clock_skew_is_usable() {
        assert!(!ClockCheck::Unknown.is_usable() && !ClockCheck::Unknown.is_wrong());
        assert!(ClockCheck::Unchecked.is_usable());
        for minutes in [-10, 0, 10] {
            assert!(ClockCheck::Skew(SignedDuration::from_mins(minutes)).is_usable());
        }
        for minutes in [-11, 11, 5_256_000] {
            let check = ClockCheck::Skew(SignedDuration::from_mins(minutes));
            assert!(check.is_wrong() && !check.is_usable());
        }
    }

    #[test]
    fn edges_are_computed_from_graphs_time_if_the_clock_is_wrong() {
        let now: Timestamp = "2036-11-02T12:00:00Z".parse().unwrap();
        let years = SignedDuration::from_hours(24 * 3653);
        let right = now.checked_sub(years).unwrap();
        assert_eq!(ClockCheck::Skew(years).corrected(now), right);
        assert_eq!(ClockCheck::Skew(-years).corrected(right), now);
        for check in [
            ClockCheck::Unknown,
            ClockCheck::Unchecked,
            ClockCheck::Skew(SignedDuration::from_mins(9)),
            ClockCheck::Skew(SignedDuration::MAX),
        ] {
            assert_eq!(check.corrected(now), now, "{check:?}");
        }
    }

    #[test]
    fn stored_waits_beyond_their_maximum_are_ignored() {
        let now: Timestamp = "2026-11-02T12:00:00Z".parse().unwrap();
        let at = |hours: i64| now.checked_add(HOUR * i32::try_from(hours).unwrap()).unwrap();
        assert!(wait_continues(at(1), HOUR, now), "the full wait");
        assert!(!wait_continues(now, HOUR, now) && !wait_continues(at(-1), HOUR, now), "over");
        for hours in [2, 8 * 24, 365 * 24, 10 * 365 * 24] {
            assert!(!wait_continues(at(hours), HOUR, now), "stored {hours} h ahead");
        }
        assert!(wait_continues(Timestamp::MAX, SignedDuration::MAX, now), "no overflow");
        assert!(is_in_future(at(1), now) && !is_in_future(now, now) && !is_in_future(at(-1), now));
    }
}
