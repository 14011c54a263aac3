//! Time zones and Graph's time formats.
//!
//! The zones of the simulated organisation are POSIX rules, so that the simulator gives the same
//! responses on a machine with another time zone database, or none.

use std::sync::Arc;

use jiff::civil::{Date, DateTime};
use jiff::fmt::temporal::DateTimePrinter;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// Windows name, IANA name, POSIX rule.
const KNOWN: [(&str, &str, &str); 8] = [
    ("UTC", "Etc/UTC", "UTC0"),
    ("W. Europe Standard Time", "Europe/Berlin", "CET-1CEST,M3.5.0,M10.5.0/3"),
    ("GMT Standard Time", "Europe/London", "GMT0BST,M3.5.0/1,M10.5.0"),
    ("Eastern Standard Time", "America/New_York", "EST5EDT,M3.2.0,M11.1.0"),
    ("Pacific Standard Time", "America/Los_Angeles", "PST8PDT,M3.2.0,M11.1.0"),
    ("Tokyo Standard Time", "Asia/Tokyo", "JST-9"),
    ("India Standard Time", "Asia/Kolkata", "IST-5:30"),
    ("AUS Eastern Standard Time", "Australia/Sydney", "AEST-10AEDT,M10.1.0,M4.1.0/3"),
];

/// A time zone with the name that was used to select it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Zone {
    /// The name shown in responses.
    pub(super) name: Arc<str>,
    tz: TimeZone,
}

impl Zone {
    pub(super) fn utc() -> Self {
        Self { name: "UTC".into(), tz: TimeZone::UTC }
    }

    /// The zone with the Windows or IANA name `name`; `None` if it is unknown.
    pub(super) fn named(name: &str) -> Option<Self> {
        let iana = localzone::win_zone_to_iana(name, None).unwrap_or(name);
        let known = KNOWN.iter().find(|(windows, known, _)| {
            name.eq_ignore_ascii_case(windows) || iana.eq_ignore_ascii_case(known)
        });
        let tz = match known {
            _ if name.eq_ignore_ascii_case("UTC") => TimeZone::UTC,
            Some((_, _, posix)) => TimeZone::posix(posix).ok()?,
            None => TimeZone::get(iana).ok()?,
        };
        Some(Self { name: name.into(), tz })
    }

    /// One of the zones of the simulated organisation, selected by `number`.
    pub(super) fn any(number: u64) -> Self {
        let (name, _, _) = KNOWN[(number % KNOWN.len() as u64) as usize];
        Self::named(name).unwrap_or_else(Self::utc)
    }

    /// The instant of a local time; in a gap or fold as RFC 5545 defines it.
    pub(super) fn instant(&self, local: DateTime) -> Timestamp {
        self.tz.to_timestamp(local).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    /// The local time of an instant.
    pub(super) fn local(&self, instant: Timestamp) -> DateTime {
        self.tz.to_datetime(instant)
    }
}

/// The days from 1970-01-01 to `date`.
pub(super) fn day_of(date: Date) -> i32 {
    let hours = date.duration_since(jiff::civil::date(1970, 1, 1)).as_hours();
    i32::try_from(hours / 24).unwrap_or(0)
}

/// The date `day` days after 1970-01-01; the last possible date if that is out of range.
pub(super) fn date_of(day: i32) -> Date {
    jiff::civil::date(1970, 1, 1)
        .checked_add(SignedDuration::from_hours(i64::from(day) * 24))
        .unwrap_or(Date::MAX)
}

/// `dateTimeTimeZone.dateTime`: no offset, seven digits (fact 77).
pub(super) fn seven_digits(local: DateTime) -> String {
    DateTimePrinter::new().precision(Some(7)).datetime_to_string(&local)
}

/// Parses a date of a query like Graph: ISO 8601; an offset is honoured, without one it is UTC;
/// bare dates are accepted (facts 26, 28 to 30).
pub(super) fn read_instant(text: &str) -> Option<Timestamp> {
    if text.contains([' ', '[', '\'']) {
        return None;
    }
    if let Ok(instant) = text.parse::<Timestamp>() {
        return Some(instant);
    }
    let local = match text.parse::<DateTime>() {
        Ok(local) => local,
        Err(_) => text.parse::<Date>().ok()?.to_datetime(jiff::civil::Time::midnight()),
    };
    TimeZone::UTC.to_timestamp(local).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_parsed_like_graph_does() {
        let noon = "2026-03-01T12:00:00Z".parse::<Timestamp>().ok();
        for text in [
            "2026-03-01T12:00:00Z",
            "2026-03-01T12:00:00",
            "2026-03-01T12:00:00.0000000",
            "2026-03-01T13:00:00+01:00",
            "2026-03-01T13:00:00+0100",
        ] {
            assert_eq!(read_instant(text), noon, "{text}");
        }
        assert_eq!(read_instant("2026-03-01"), "2026-03-01T00:00:00Z".parse().ok());
        for text in ["", "now", "'2026-03-01T12:00:00'", "2026-03-01T13:00:00 01:00", "2026-02-30"]
        {
            assert_eq!(read_instant(text), None, "{text}");
        }
    }

    #[test]
    fn zones_have_windows_and_iana_names_and_observe_daylight_saving() {
        for name in ["Pacific Standard Time", "America/Los_Angeles"] {
            let zone = Zone::named(name).unwrap_or_else(Zone::utc);
            let instant = |month| zone.instant(jiff::civil::date(2026, month, 1).at(9, 0, 0, 0));
            assert_eq!(instant(1).to_string(), "2026-01-01T17:00:00Z");
            assert_eq!(instant(7).to_string(), "2026-07-01T16:00:00Z");
        }
        assert!(Zone::named("Central Europe Standard Time").is_some());
        assert!(Zone::named("Middle Earth Standard Time").is_none());
    }
}
