//! A window: a calendar of a mailbox between two edges, and the settings for mirroring it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};

/// The longest range that Graph answers for, in days, counted exactly (fact 31).
pub const MAX_SEGMENT_DAYS: i64 = 1825;

/// The longest name of a window, in characters.
pub const MAX_WINDOW_NAME: usize = 200;

/// The object id of the Microsoft 365 group whose calendar the mailbox `group:{id}` means; `None` for
/// a person's mailbox.
pub fn group_id(mailbox: &str) -> Option<&str> {
    mailbox.strip_prefix("group:")
}

/// A window of the configuration. Windows of a fleet share equal strings.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    /// Unique in the configuration; the name that readers use.
    pub name: Arc<str>,
    /// The `[account.*]` whose token is used to read it.
    pub account: Arc<str>,
    /// User id or address, `me` for a delegated account, or `group:{id}` ([`group_id`]).
    pub mailbox: Arc<str>,
    /// Which of the mailbox's calendars.
    pub calendar: CalendarRef,
    /// How it is mirrored. Windows of an entry of the configuration share it.
    pub settings: Arc<WindowSettings>,
}

/// How a window is mirrored: a field for each key of `[defaults]`, with its value resolved. The key
/// table in `config/settings.rs` has a row for each of them.
#[derive(Clone, Debug, PartialEq)]
pub struct WindowSettings {
    /// The configured start.
    pub start: Edge,
    /// The configured end (exclusive).
    pub end: Edge,
    /// Time between rounds, before jitter.
    pub interval: Duration,
    /// Share of the interval over which delays spread: `interval × (1 ± jitter/2)`.
    pub jitter: f64,
    /// Time between moves of relative edges. Counted in whole days, at least one.
    pub move_every: Duration,
    /// The `odata.maxpagesize` hint.
    pub page_size: u32,
    /// How bodies are requested and kept.
    pub body: BodyFormat,
    /// `Prefer: outlook.timezone`, a Windows or IANA name.
    pub time_zone: Arc<str>,
    /// `Prefer: IdType="ImmutableId"`.
    pub immutable_ids: bool,
    /// How occurrences are completed.
    pub complete: Completion,
    /// Time between drift audits; `None` disables them.
    pub audit: Option<Duration>,
    /// How long the confirmation of a mass removal, or the next fallback of a stuck stream, waits.
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

/// How bodies are requested and kept.
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

/// How an occurrence gets the members that Graph's delta does not send (fact 66).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Completion {
    /// From the series master.
    #[default]
    Master,
    /// From a listing of the series' instances, with one request per series.
    Exact,
}

/// An edge of a window: an instant, or an offset from today 00:00 UTC.
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
    /// The instant of this edge on the UTC day of `now`.
    ///
    /// Offsets beyond the supported dates saturate at the first or last date.
    pub fn resolve(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(at) => at,
            Self::Relative { years, months, days } => {
                let span = Span::new()
                    .try_years(years)
                    .and_then(|s| s.try_months(months))
                    .and_then(|s| s.try_days(days))
                    .unwrap_or_default();
                let limit = if span.is_negative() { Timestamp::MIN } else { Timestamp::MAX };
                let date = now.to_zoned_datetime(TimeZone::UTC).date().saturating_add(span);
                date.to_zoned_datetime(TimeZone::UTC).map_or(limit, |start| start.timestamp())
            }
        }
    }

    /// Whether the edge follows the date.
    pub fn is_relative(self) -> bool {
        matches!(self, Self::Relative { .. })
    }
}

/// A resolved range of time, `[start, end)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edges {
    /// Inclusive.
    pub start: Timestamp,
    /// Exclusive.
    pub end: Timestamp,
}

impl Edges {
    /// Whether the range is empty: a relative start has passed a fixed end.
    pub fn is_empty(&self) -> bool {
        self.end <= self.start
    }

    /// Whether an event at `[start, end)` overlaps the range. An event of zero length overlaps if
    /// its start is in the range.
    pub fn overlap(&self, start: Timestamp, end: Timestamp) -> bool {
        start < self.end && (end > self.start || (start == end && start >= self.start))
    }

    /// Cuts the range into segments of at most [`MAX_SEGMENT_DAYS`], earliest first. Most windows
    /// have exactly one; there are at most 64.
    pub fn segments(&self) -> Vec<Edges> {
        self.cut(MAX_SEGMENT_DAYS)
    }

    /// Like [`Self::segments`], but with at most `days` days in a segment. The last of 64 segments
    /// is as long as necessary.
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

/// The new maximum length of segments in days if segments of at most `days` are too long for Graph:
/// half of the longest. `None` if 64 segments of that many whole days do not cover the range, or if
/// no segment is longer than a day.
pub fn halved_segment_days(edges: Edges, days: i64) -> Option<i64> {
    let hours = |segment: &Edges| segment.end.duration_since(segment.start).as_hours();
    let longest = edges.cut(days).iter().map(hours).max()?;
    let half = (longest / 24 + 1) / 2;
    let fits = |segment: Edges| segment.end.duration_since(segment.start).as_hours() <= half * 24;
    (half >= 1 && longest > 24 && edges.cut(half).into_iter().all(fits)).then_some(half)
}

/// What is wrong with the name of a window. It becomes a part of paths in URLs.
pub fn window_name_problem(name: &str) -> Option<&'static str> {
    if name.chars().count() > MAX_WINDOW_NAME {
        return Some("the window's name is longer than 200");
    }
    if name.contains('/') || name.chars().any(char::is_control) {
        return Some("the window's name has a \"/\" or a control character");
    }
    // Programs that resolve paths would remove these from URLs.
    if name == "." || name == ".." || name.trim() != name || name.is_empty() {
        return Some("the window's name is empty, \".\" or \"..\", or has spaces at its ends");
    }
    None
}

/// The settings that identify a window's stream of ids. If any of them changes, the old events are
/// removed before the first new one is shown.
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
    /// Whether ids are immutable ids.
    pub immutable_ids: bool,
}

/// The settings that decide what events look like. A change causes a resync of that window only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventShape {
    /// See [`BodyFormat`].
    pub body: BodyFormat,
    /// See [`WindowSettings::time_zone`].
    pub time_zone: Arc<str>,
    /// See [`Completion`].
    pub complete: Completion,
}

impl Window {
    /// Its settings, for a change of this window alone.
    pub fn settings_mut(&mut self) -> &mut WindowSettings {
        Arc::make_mut(&mut self.settings)
    }

    /// Whether Graph reports changes of the calendar. It does not for calendars of groups (facts 5,
    /// 6), which are therefore listed in each round.
    pub fn has_delta(&self) -> bool {
        group_id(&self.mailbox).is_none()
    }

    /// The window's event shape.
    pub fn shape(&self) -> EventShape {
        let WindowSettings { body, time_zone, complete, .. } = &*self.settings;
        EventShape { body: *body, time_zone: time_zone.clone(), complete: *complete }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edges(days: i64) -> Edges {
        let start = Timestamp::UNIX_EPOCH;
        let end = start.checked_add(jiff::SignedDuration::from_hours(24 * days)).unwrap();
        Edges { start, end }
    }

    #[test]
    fn segments_are_halved_down_to_one_day_or_the_maximum_count() {
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
