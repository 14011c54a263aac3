//! What one worker tracks: a calendar of a mailbox between two edges, and how.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};

/// The longest stretch Graph answers for, counted exactly (fact 31).
pub const MAX_SEGMENT_DAYS: i64 = 1825;

/// One tracked window with every setting resolved. Strings that a fleet shares are shared.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    /// Unique in the configuration; what readers call it.
    pub name: Arc<str>,
    /// The `[account.*]` whose token reads it.
    pub account: Arc<str>,
    /// User id or address, or `me` for a delegated account.
    pub mailbox: Arc<str>,
    /// Which of the mailbox's calendars.
    pub calendar: CalendarRef,
    /// The configured start.
    pub start: Edge,
    /// The configured end (exclusive).
    pub end: Edge,
    /// Time between rounds, before jitter.
    pub interval: Duration,
    /// Share of the interval over which delays spread: `interval × (1 ± jitter/2)`.
    pub jitter: f64,
    /// How often relative edges move at least.
    pub move_every: Duration,
    /// The `odata.maxpagesize` hint.
    pub page_size: u32,
    /// How bodies are asked for.
    pub body: BodyFormat,
    /// `Prefer: outlook.timezone`, a Windows or IANA name.
    pub time_zone: Arc<str>,
    /// `Prefer: IdType="ImmutableId"`.
    pub immutable_ids: bool,
    /// How occurrences are completed.
    pub complete: Completion,
    /// Time between drift audits; `None` is off.
    pub audit: Option<Duration>,
    /// How long a removal too large to believe, or the next remedy for a stuck stream, waits.
    pub confirm_after: Duration,
}

/// Which calendar of a mailbox.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum CalendarRef {
    /// The mailbox's default calendar.
    Default,
    /// A calendar by its Graph id.
    Id(Arc<str>),
}

impl fmt::Display for CalendarRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Id(id) => f.write_str(id),
        }
    }
}

/// How bodies are asked for and kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BodyFormat {
    /// As HTML, Graph's own default.
    #[default]
    Html,
    /// As plain text.
    Text,
    /// `body` and `bodyPreview` are dropped before storing.
    None,
}

/// How an occurrence gets the members Graph's delta does not send (fact 66).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Completion {
    /// From the series master.
    #[default]
    Master,
    /// As Graph lists the series' instances, one request a series.
    Exact,
}

/// An edge of a window: an instant, or a distance from today 00:00 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edge {
    /// A fixed instant.
    At(Timestamp),
    /// Relative to today 00:00 UTC.
    Relative {
        /// Calendar years.
        years: i32,
        /// Calendar months.
        months: i32,
        /// Days.
        days: i32,
    },
}

impl Edge {
    /// The instant this edge means on the UTC day of `now`.
    ///
    /// Distances beyond what a calendar can express saturate at its ends.
    pub fn resolve(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(at) => at,
            Self::Relative { years, months, days } => {
                let today: Date = now.to_zoned(TimeZone::UTC).date();
                let span = Span::new()
                    .try_years(years)
                    .and_then(|s| s.try_months(months))
                    .and_then(|s| s.try_days(days))
                    .unwrap_or_default();
                let forward = years >= 0 && months >= 0 && days >= 0;
                let limit = if forward { Date::MAX } else { Date::MIN };
                let date = today.checked_add(span).unwrap_or(limit);
                date.to_zoned(TimeZone::UTC).map(|z| z.timestamp()).unwrap_or(if forward {
                    Timestamp::MAX
                } else {
                    Timestamp::MIN
                })
            }
        }
    }

    /// Whether the edge moves with the days.
    pub fn is_relative(self) -> bool {
        matches!(self, Self::Relative { .. })
    }
}

/// The edges in force, `[start, end)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edges {
    /// Inclusive.
    pub start: Timestamp,
    /// Exclusive.
    pub end: Timestamp,
}

impl Edges {
    /// Whether nothing is left between them: a start that moves has passed a fixed end.
    pub fn is_empty(&self) -> bool {
        self.end <= self.start
    }

    /// Whether `[start, end)` of an event overlaps. An event without length counts as lying at
    /// its start.
    pub fn overlap(&self, start: Timestamp, end: Timestamp) -> bool {
        start < self.end && (end > self.start || (start == end && start >= self.start))
    }

    /// Cuts into stretches of at most [`MAX_SEGMENT_DAYS`], earliest first. Most windows have
    /// exactly one; there are at most 64.
    pub fn segments(&self) -> Vec<Edges> {
        self.cut(MAX_SEGMENT_DAYS)
    }

    /// Cuts like [`Self::segments`] into stretches of at most so many days; the last of 64 is as
    /// long as it has to be.
    pub fn cut(&self, days: i64) -> Vec<Edges> {
        let step = jiff::SignedDuration::from_hours(24 * days);
        let mut segments = Vec::new();
        let mut start = self.start;
        while segments.len() < 63 {
            match start.checked_add(step) {
                Ok(end) if end < self.end => {
                    segments.push(Edges { start, end });
                    start = end;
                }
                _ => break,
            }
        }
        segments.push(Edges { start, end: self.end });
        segments
    }
}

/// How long segments have to be at most, where stretches of at most `days` are too long for Graph:
/// half as long. None where that cannot be had in 64 segments of whole days.
pub fn halved_segment_days(edges: Edges, days: i64) -> Option<i64> {
    let hours = |segment: &Edges| segment.end.duration_since(segment.start).as_hours();
    let longest = edges.cut(days).iter().map(hours).max()?;
    let half = (longest / 24 + 1) / 2;
    let fits = |segment: Edges| segment.end.duration_since(segment.start).as_hours() <= half * 24;
    (half >= 1 && longest > 24 && edges.cut(half).into_iter().all(fits)).then_some(half)
}

/// What makes two windows the same stream of ids: change any of it and the old events leave
/// before the first new one is shown.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WindowIdentity {
    /// The account's name.
    pub account: Arc<str>,
    /// The account's tenant.
    pub tenant: Arc<str>,
    /// The mailbox.
    pub mailbox: Arc<str>,
    /// The calendar.
    pub calendar: CalendarRef,
    /// The form of ids.
    pub immutable_ids: bool,
}

/// What events look like: a change of it is a resync of that window alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventShape {
    /// See [`Body`].
    pub body: BodyFormat,
    /// See [`Window::time_zone`].
    pub time_zone: Arc<str>,
    /// See [`Complete`].
    pub complete: Completion,
}

impl Window {
    /// What events of this window look like.
    pub fn shape(&self) -> EventShape {
        EventShape { body: self.body, time_zone: self.time_zone.clone(), complete: self.complete }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
    use super::*;

    fn edges(days: i64) -> Edges {
        let start = Timestamp::UNIX_EPOCH;
        let end = start.checked_add(jiff::SignedDuration::from_hours(24 * days)).unwrap();
        Edges { start, end }
    }

    #[test]
    fn segments_are_halved_until_they_are_days_or_too_many() {
        let mut days = MAX_SEGMENT_DAYS;
        let mut halves = Vec::new();
        while let Some(half) = halved_segment_days(edges(1000), days) {
            let segments = edges(1000).cut(half);
            assert_eq!((segments[0].start, segments[segments.len() - 1].end), {
                let whole = edges(1000);
                (whole.start, whole.end)
            });
            halves.push((half, segments.len()));
            days = half;
        }
        assert_eq!(halves, [(500, 2), (250, 4), (125, 8), (63, 16), (32, 32), (16, 63)]);
        assert_eq!(halved_segment_days(edges(1), MAX_SEGMENT_DAYS), None);
        assert_eq!(halved_segment_days(edges(2), MAX_SEGMENT_DAYS), Some(1));
    }
}
