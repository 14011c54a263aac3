//! Computes when rounds, moves and audits are due: jitter, back-off, spread, edges. Pure: time and
//! random numbers are arguments.

use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use super::clock::{self, TOLERANCE};
use super::page::EventId;
use super::window::{Edge, Edges, Window, WindowSettings};

/// The longest back-off after a transient or throttled failure, unless the interval is longer, and
/// after a failed sign-in.
pub const MAX_BACKOFF: Duration = Duration::from_secs(3600);
/// The first wait before a request is repeated, before jitter.
pub const FIRST_RETRY: Duration = Duration::from_secs(1);
/// The longest interval of a segment far from the present.
const MAX_SEGMENT_INTERVAL: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
/// How many requests one run through a segment may repeat.
pub const MAX_RETRIES: u32 = 4;

/// Rounds begin at multiples of this time of the wall clock: those due between two of them begin
/// together, so that a large fleet wakes its threads less often.
const GRID: Duration = Duration::from_millis(10);

/// A wait that begins at `now`, extended to the next multiple of 10 ms of the wall clock. No wait is
/// not extended.
pub fn to_grid(wait: Duration, now: Timestamp) -> Duration {
    let Ok(end) = now.checked_add(wait) else { return wait };
    let grid = i128::try_from(GRID.as_nanos()).unwrap_or(1);
    let past = end.as_nanosecond().rem_euclid(grid);
    let missing = if wait.is_zero() || past == 0 { 0 } else { grid - past };
    wait + Duration::from_nanos(u64::try_from(missing).unwrap_or(0))
}

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
    let WindowSettings { start, end, move_every, .. } = *window.settings;
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
    let WindowSettings { start, end, move_every, .. } = *window.settings;
    if !start.is_relative() && !end.is_relative() {
        return None;
    }
    let midnight = computed
        .to_zoned_datetime(TimeZone::UTC)
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
mod tests;
