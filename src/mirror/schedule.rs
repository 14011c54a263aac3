//! Computes when rounds, moves and audits are due: jitter, back-off, spread, edges. Pure: time and
//! random numbers are arguments.

use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use super::clock::{self, TOLERANCE};
use super::page::EventId;
use super::window::{Edge, Edges, Window, WindowSettings};

/// The longest wait between attempts of a window that keeps failing.
pub const MAX_BACKOFF: Duration = Duration::from_secs(3600);
/// The first wait before a request is repeated, before jitter.
pub const FIRST_RETRY: Duration = Duration::from_secs(1);
/// The longest interval of a segment far from the present.
const MAX_SEGMENT_INTERVAL: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
/// How many times a round may repeat requests.
pub const MAX_RETRIES: u32 = 4;

/// `interval × (1 ± jitter/2)`; `chance` is in `[0, 1)`.
pub fn delay(interval: Duration, jitter: f64, chance: f64) -> Duration {
    interval.mul_f64((1.0 + jitter.clamp(0.0, 1.0) * (chance - 0.5)).max(0.0))
}

/// A random share of the interval, so that a fleet's first rounds spread over it.
pub fn spread(interval: Duration, chance: f64) -> Duration {
    interval.mul_f64(chance.clamp(0.0, 1.0))
}

/// The remaining wait after an interval changes: the same share of the new interval. So a fleet
/// that is spread over the old interval is spread over the new one, and no window waits longer than
/// the new interval with all its jitter. A longer wait is a back-off, which does not change.
pub fn rescale(left: Duration, old: Duration, new: Duration) -> Duration {
    let share = left.as_secs_f64() / old.as_secs_f64().max(0.001);
    if share > 1.5 { left } else { new.mul_f64(share) }
}

/// The wait before repetition `n + 1`, with full jitter: anything up to `1 s × 2ⁿ`.
pub fn retry_delay(n: u32, chance: f64) -> Duration {
    FIRST_RETRY.saturating_mul(1 << n.min(10)).mul_f64(chance)
}

/// `first`, doubled with each failure up to `longest`, with a jitter of 0.2; `failures` counts from
/// 1.
pub fn backoff(first: Duration, longest: Duration, failures: u32, chance: f64) -> Duration {
    let base = first.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(longest);
    delay(base, 0.2, chance)
}

/// The edges of a window at `now`, from its configuration. A relative end is requested `move_every`
/// further ahead, at least a day, so that the configured range is covered until the edges move
/// again. Empty if the start has moved past a fixed end.
pub fn edges(window: &Window, now: Timestamp) -> Edges {
    let WindowSettings { start, end, move_every, .. } = window.settings;
    requested_edges(start, end, move_every, now)
}

/// [`edges`] from the settings that it depends on.
pub fn requested_edges(start: Edge, end: Edge, move_every: Duration, now: Timestamp) -> Edges {
    let stated = end.resolve(now);
    let further =
        if end.is_relative() { signed(move_every.max(DAY)) } else { SignedDuration::ZERO };
    let end = stated.checked_add(further).unwrap_or(Timestamp::MAX);
    Edges { start: start.resolve(now).min(end), end }
}

/// When edges computed at `computed` move next; `None` for fixed edges. They move after the whole
/// days of `move_every`, at least one, at a time of day derived from the window's name, so that a
/// fleet does not enumerate at midnight. Only the first wait can be up to a day shorter: edges that
/// moved at their time of day move again at the same time.
pub fn next_move(window: &Window, computed: Timestamp) -> Option<Timestamp> {
    let WindowSettings { start, end, move_every, .. } = window.settings;
    if !start.is_relative() && !end.is_relative() {
        return None;
    }
    let midnight = computed
        .to_zoned(TimeZone::UTC)
        .start_of_day()
        .map_or(computed, |midnight| midnight.timestamp());
    let days = u32::try_from(move_every.as_secs() / DAY.as_secs()).unwrap_or(u32::MAX);
    let hour = move_every.min(DAY).mul_f64(name_fraction(&window.name));
    let due = |days: u32| midnight.checked_add(signed(DAY.saturating_mul(days) + hour)).ok();
    let latest = computed.checked_add(signed(move_every)).unwrap_or(Timestamp::MAX);
    let due_then = due(days.max(1))?;
    if days > 1 && due_then > latest { due(days - 1) } else { Some(due_then) }
}

/// The edges to move to at `now`, if the current `edges`, computed at `computed`, are due to move:
/// their time has come, they no longer cover the configured range, they were computed under a clock
/// that was ahead, or they start later than configured. `now` may be wrong as well: the caller
/// checks whether the clock can be trusted ([`clock::ClockCheck::is_usable`]).
pub fn due_move(
    window: &Window,
    edges: Edges,
    computed: Timestamp,
    now: Timestamp,
) -> Option<Edges> {
    let due = next_move(window, computed).is_some_and(|due| due <= now);
    // `move_every` may have grown after the edges were computed.
    let uncovered = window.settings.end.resolve(now) > edges.end;
    // A clock that is set back by seconds at midnight must not cause an enumeration.
    let latest = now.checked_add(TOLERANCE).unwrap_or(Timestamp::MAX);
    let ahead =
        clock::is_in_future(computed, now) || window.settings.start.resolve(latest) < edges.start;
    let moved = self::edges(window, now);
    ((due || uncovered || ahead) && moved != edges).then_some(moved)
}

/// The poll interval of a segment: the window's interval for the segment that contains the present,
/// doubled for each segment further away, and at most an hour (unless the window's interval is
/// longer).
pub fn segment_interval(
    interval: Duration,
    segments: &[Edges],
    index: usize,
    now: Timestamp,
) -> Duration {
    let here =
        segments.iter().position(|s| now < s.end).unwrap_or(segments.len().saturating_sub(1));
    let doublings = u32::try_from(index.abs_diff(here)).unwrap_or(u32::MAX).min(16);
    interval.saturating_mul(1 << doublings).min(MAX_SEGMENT_INTERVAL.max(interval))
}

/// The record of a window's drift audits, kept in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuditRecord {
    /// When the window first settled: the first audit is scheduled from here.
    pub since: Timestamp,
    /// When the last audit ended.
    pub at: Option<Timestamp>,
    /// Differences that audits have confirmed and repaired since the window was created.
    pub differences: u64,
}

/// When the next drift audit of a window is due. The first is due half a period to a whole period
/// after the window first settled, so that windows that started together do not audit together.
/// Each further one is due a period after the last, up to a tenth sooner or later.
pub fn next_audit(name: &str, record: &AuditRecord, period: Duration) -> Timestamp {
    let (from, share) = match record.at {
        None => (record.since, 0.5 + name_fraction(name) / 2.0),
        Some(at) => (at, 0.9 + name_fraction(&format!("{name} {at}")) / 5.0),
    };
    from.checked_add(signed(period.mul_f64(share))).unwrap_or(Timestamp::MAX)
}

/// Whether an audit is due at `now`. A record with a time ahead of `now` was written under a wrong
/// clock and is ignored: an audit is due.
pub fn is_audit_due(name: &str, record: &AuditRecord, period: Duration, now: Timestamp) -> bool {
    let last = record.at.unwrap_or(record.since);
    clock::is_in_future(last, now) || next_audit(name, record, period) <= now
}

/// A number in `[0, 1)` derived from a name: always the same, and evenly spread over names.
fn name_fraction(name: &str) -> f64 {
    let bytes = EventId::new(name).hash().0;
    f64::from(u16::from_be_bytes([bytes[0], bytes[1]])) / 65536.0
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
        let at = |failures| backoff(MINUTE, MAX_BACKOFF, failures, 0.5);
        assert_eq!([at(1), at(2), at(3)], [MINUTE, MINUTE * 2, MINUTE * 4]);
        assert_eq!(at(50), MAX_BACKOFF);
        assert_eq!(at(u32::MAX), MAX_BACKOFF);
    }

    fn window(name: &str, move_every: Duration) -> Window {
        use crate::config::default_settings;
        use crate::mirror::window::CalendarRef;
        let days = |days| Edge::Relative { years: 0, months: 0, days };
        Window {
            name: name.into(),
            account: "a".into(),
            mailbox: "m".into(),
            calendar: CalendarRef::Default,
            settings: WindowSettings {
                start: days(-30),
                end: days(365),
                move_every,
                ..default_settings().unwrap()
            },
        }
    }

    #[test]
    fn edges_move_at_an_hour_of_their_own_and_always_cover_what_is_stated() {
        let begun: Timestamp = "2026-11-02T12:00:00Z".parse().unwrap();
        for hours in [1, 24, 36, 48, 7 * 24] {
            let every = Duration::from_secs(hours * 3600);
            let mut at = std::collections::BTreeSet::new();
            for name in ["alice", "bob", "carol", "dave"] {
                let window = window(name, every);
                let mut computed = begun;
                for n in 0..20 {
                    let due = next_move(&window, computed).unwrap();
                    assert!(due > computed, "{name}, {hours} h");
                    let asked = edges(&window, computed);
                    // The range is covered until the last instant before the move.
                    let before = due.checked_sub(SignedDuration::from_secs(1)).unwrap();
                    assert!(asked.end >= window.settings.end.resolve(before), "{name}, {hours} h");
                    assert_ne!(edges(&window, due), asked, "{name}, {hours} h: it does move");
                    if n > 0 && hours >= 24 {
                        let days = due.duration_since(computed).as_secs_f64() / 86_400.0;
                        let whole = (hours / 24) as f64;
                        assert!((whole - days).abs() < 1e-3, "{name}, {hours} h: {days} days");
                    }
                    at.insert(due.to_zoned(TimeZone::UTC).time());
                    computed = due;
                }
            }
            assert!(at.len() >= 4, "{hours} h: four windows, four times of day");
        }
    }

    #[test]
    fn edges_computed_under_a_wrong_clock_move_back() {
        let window = window("alice", Duration::from_secs(7 * 86_400));
        let now: Timestamp = "2026-11-02T12:00:00Z".parse().unwrap();
        let day = SignedDuration::from_hours(24);
        let right = edges(&window, now);
        assert_eq!(due_move(&window, right, now, now), None);
        for days in [1, 8, 3650] {
            let wrong = now.checked_add(day * days).unwrap();
            let ahead = edges(&window, wrong);
            assert_eq!(due_move(&window, ahead, wrong, now), Some(right), "{days} days ahead");
            // The recorded time of computation does not matter.
            assert_eq!(due_move(&window, ahead, now, now), Some(right), "{days} days ahead");
        }
        // Edges computed a year in the past move forward as usual.
        let wrong = now.checked_sub(day * 365).unwrap();
        assert_eq!(due_move(&window, edges(&window, wrong), wrong, now), Some(right));
        // Only the end is relative.
        let mut fixed = window.clone();
        fixed.settings.start = Edge::At(now);
        let wrong = now.checked_add(day * 3650).unwrap();
        let ahead = edges(&fixed, wrong);
        assert_eq!(due_move(&fixed, ahead, wrong, now), Some(edges(&fixed, now)));
        // An empty window starts at its fixed end and does not move.
        let mut empty = window;
        empty.settings.end = Edge::At("2026-10-01T00:00:00Z".parse().unwrap());
        assert_eq!(due_move(&empty, edges(&empty, now), now, now), None);
    }

    #[test]
    fn a_clock_set_back_by_minutes_at_midnight_moves_no_edges() {
        let window = window("alice", Duration::from_secs(7 * 86_400));
        let computed: Timestamp = "2026-11-02T00:00:01Z".parse().unwrap();
        let now = computed.checked_sub(SignedDuration::from_mins(9)).unwrap();
        assert_eq!(due_move(&window, edges(&window, computed), computed, now), None);
    }

    #[test]
    fn an_audit_recorded_under_a_wrong_clock_is_due() {
        let now: Timestamp = "2026-11-02T12:00:00Z".parse().unwrap();
        let ahead = now.checked_add(SignedDuration::from_hours(24 * 3650)).unwrap();
        let week = Duration::from_secs(7 * 86_400);
        let due = |since, at| {
            let record = AuditRecord { since, at, differences: 0 };
            is_audit_due("alice", &record, week, now)
        };
        assert!(!due(now, None) && !due(now, Some(now)));
        assert!(due(ahead, None) && due(now, Some(ahead)));
    }

    #[test]
    fn segments_are_asked_the_less_the_further_away() {
        let at = |year: i16| format!("{year}-01-01T00:00:00Z").parse::<Timestamp>().unwrap();
        let segments = Edges { start: at(2020), end: at(2099) }.segments();
        let every = |interval, index| segment_interval(interval, &segments, index, at(2027));
        let minutes: Vec<u64> =
            (0..segments.len()).map(|index| every(MINUTE, index).as_secs() / 60).collect();
        assert_eq!(minutes[..9], [2, 1, 2, 4, 8, 16, 32, 60, 60]);
        // No segment is polled more often than the window's interval.
        assert_eq!(every(MINUTE * 120, 9), MINUTE * 120);
        let past = |now| segment_interval(MINUTE, &segments, segments.len() - 1, now);
        assert_eq!(past(at(2150)), MINUTE, "the last segment is the nearest");
    }

    #[test]
    fn audits_spread_over_half_a_period_and_come_once_in_each() {
        let since: Timestamp = "2026-11-02T12:00:00Z".parse().unwrap();
        let week = Duration::from_secs(7 * 86_400);
        let days =
            |from: Timestamp, to: Timestamp| to.duration_since(from).as_secs_f64() / 86_400.0;
        let mut firsts = Vec::new();
        for n in 0..100 {
            let name = format!("room{n}");
            let mut record = AuditRecord { since, at: None, differences: 0 };
            let first = next_audit(&name, &record, week);
            assert!((3.5..7.0).contains(&days(since, first)));
            firsts.push(first);
            for _ in 0..5 {
                let last = next_audit(&name, &record, week);
                record.at = Some(last);
                let wait = days(last, next_audit(&name, &record, week));
                assert!((6.3..7.7).contains(&wait), "{wait} days");
            }
        }
        firsts.sort();
        let apart = firsts.windows(2).map(|pair| days(pair[0], pair[1]));
        assert!(apart.fold(0.0, f64::max) < 0.4, "spread evenly");
    }

    #[test]
    fn retries_use_full_jitter() {
        assert_eq!(retry_delay(0, 0.0), Duration::ZERO);
        assert_eq!(retry_delay(3, 0.5), Duration::from_secs(4));
        assert!(retry_delay(u32::MAX, 0.999) < Duration::from_secs(1024));
    }
}
