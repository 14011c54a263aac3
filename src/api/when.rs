//! When an event takes place, read from its JSON: Graph's `{dateTime, timeZone}` as the civil time
//! it says and the instant it means.
//!
//! All-day events are days, midnight to midnight in whatever zone was asked for (fact 79): as
//! instants they begin at the midnight of the window's own zone.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde::Deserialize;

use crate::mirror::event::Members;
use crate::mirror::zone;

/// One end of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moment {
    /// The local time as it stands there.
    pub(super) civil: DateTime,
    /// What it means.
    pub(super) at: Timestamp,
}

/// `[start, end)` of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct When {
    pub(super) start: Moment,
    pub(super) end: Moment,
}

#[derive(Deserialize)]
struct Raw {
    #[serde(rename = "dateTime", alias = "DateTime")]
    date_time: String,
    #[serde(rename = "timeZone", alias = "TimeZone")]
    time_zone: Option<String>,
}

/// Reads times; remembers the last zone, which is the same for a whole window.
#[derive(Default)]
pub(super) struct Clock {
    last: Option<(String, TimeZone)>,
}

impl Clock {
    /// When an event takes place; `None` where its times are not understood.
    pub(super) fn when(&mut self, event: &Members<'_>) -> Option<When> {
        let start = self.moment(event.get("start")?.get())?;
        let end = self.moment(event.get("end")?.get())?;
        Some(When { start, end })
    }

    fn moment(&mut self, raw: &str) -> Option<Moment> {
        let Raw { date_time, time_zone } = serde_json::from_str(raw).ok()?;
        if let Ok(at) = date_time.parse::<Timestamp>() {
            // It carries an offset, which says it all.
            return Some(Moment { civil: TimeZone::UTC.to_datetime(at), at });
        }
        let civil: DateTime = date_time.parse().ok()?;
        let zone = self.zone(time_zone.as_deref().unwrap_or("UTC"))?;
        let at = zone.to_ambiguous_timestamp(civil).compatible().ok()?;
        Some(Moment { civil, at })
    }

    fn zone(&mut self, name: &str) -> Option<&TimeZone> {
        if self.last.as_ref().is_none_or(|(last, _)| last != name) {
            self.last = Some((name.to_owned(), zone::find(name)?));
        }
        self.last.as_ref().map(|(_, zone)| zone)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]
    use super::*;

    #[test]
    fn times_are_read_in_the_zone_they_stand_in() {
        let mut clock = Clock::default();
        for (start, zone, at) in [
            ("2026-07-01T10:00:00.0000000", "UTC", Some("2026-07-01T10:00:00Z")),
            ("2026-07-01T10:00:00", "W. Europe Standard Time", Some("2026-07-01T08:00:00Z")),
            ("2026-12-01T10:00:00", "W. Europe Standard Time", Some("2026-12-01T09:00:00Z")),
            ("2026-07-01T10:00:00", "Asia/Kolkata", Some("2026-07-01T04:30:00Z")),
            ("2026-07-01T10:00:00Z", "Mars/Base", Some("2026-07-01T10:00:00Z")),
            ("2026-07-01T10:00:00+03:00", "Mars/Base", Some("2026-07-01T07:00:00Z")),
            ("2026-07-01T10:00:00", "Mars/Base", None),
            ("today", "UTC", None),
        ] {
            let event = format!(
                r#"{{"start":{{"dateTime":"{start}","timeZone":"{zone}"}},"end":{{"dateTime":"2026-12-31T00:00","timeZone":"UTC"}}}}"#
            );
            let when = clock.when(&Members::parse(event.as_bytes()).unwrap());
            let read = when.map(|when| when.start.at.to_string());
            assert_eq!(read.as_deref(), at, "{start} {zone}");
        }
    }
}
