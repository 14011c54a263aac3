//! When an event takes place: Graph's `dateTime` and `timeZone` as instants.
//!
//! A `dateTime` has no offset and up to seven fractional digits (fact 77); `timeZone` is `UTC`
//! unless another was preferred, then a Windows or IANA name. Local times that a clock change
//! skips or repeats are read the compatible way (later, and first), but an end that would be before
//! its start is the second time that the clock shows it. What cannot be known, such as a local time
//! in a zone of the sender's own making (fact 82), is refused, never guessed.

use std::borrow::Cow;
use std::fmt;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde::de::{self, IgnoredAny, MapAccess, Visitor};

use super::item::Text;
use crate::mirror::zone;

/// Reads dates; remembers the last zone, which is the same for a whole page.
#[derive(Default)]
pub(super) struct Zones {
    last: Option<(String, Option<TimeZone>)>,
}

impl Zones {
    /// The instant a `{dateTime, timeZone}` object means, if it means one.
    pub(super) fn instant(&mut self, raw: &str) -> Option<Timestamp> {
        self.meant(raw, false)
    }

    /// The same, where a local time comes twice the second time.
    pub(super) fn second_instant(&mut self, raw: &str) -> Option<Timestamp> {
        self.meant(raw, true)
    }

    fn meant(&mut self, raw: &str, second: bool) -> Option<Timestamp> {
        let Moment { date_time, time_zone } = serde_json::from_str(raw).ok()?;
        let (civil, offset) = read(date_time?.as_bytes())?;
        let utc = || TimeZone::UTC.to_timestamp(civil).ok();
        if let Some(seconds) = offset {
            // An offset says it all, whatever the zone is called.
            return utc()?.checked_sub(jiff::SignedDuration::from_secs(seconds)).ok();
        }
        let zone = time_zone?;
        if zone == "UTC" {
            return utc();
        }
        let at = self.zone(&zone)?.to_ambiguous_timestamp(civil);
        if second { at.later() } else { at.compatible() }.ok()
    }

    fn zone(&mut self, name: &str) -> Option<&TimeZone> {
        if self.last.as_ref().is_none_or(|(last, _)| last != name) {
            self.last = Some((name.to_owned(), zone::find(name)));
        }
        self.last.as_ref().and_then(|(_, zone)| zone.as_ref())
    }
}

/// `YYYY-MM-DD[Thh:mm[:ss[.f…]]][Z|±hh[:]mm]`: the civil time and the offset in seconds.
fn read(text: &[u8]) -> Option<(DateTime, Option<i64>)> {
    let number = |at: usize, len: usize| -> Option<i32> {
        text.get(at..at + len)?
            .iter()
            .try_fold(0, |n, b| b.is_ascii_digit().then(|| n * 10 + i32::from(b - b'0')))
    };
    let is = |at: usize, wanted: u8| text.get(at) == Some(&wanted);
    let two = |at: usize| i8::try_from(number(at, 2)?).ok();
    if !(is(4, b'-') && is(7, b'-')) {
        return None;
    }
    let (year, month, day) = (i16::try_from(number(0, 4)?).ok()?, two(5)?, two(8)?);
    let (mut hour, mut minute, mut second, mut nanos) = (0, 0, 0, 0);
    let mut at = 10;
    if is(10, b'T') || is(10, b't') || is(10, b' ') {
        (hour, minute, at) = (two(11)?, two(14)?, 16);
        if !is(13, b':') {
            return None;
        }
        if is(16, b':') {
            (second, at) = (two(17)?, 19);
        }
        if is(at, b'.') {
            let digits = text[at + 1..].iter().take_while(|b| b.is_ascii_digit()).count();
            if digits == 0 {
                return None;
            }
            let kept = digits.min(9);
            nanos = number(at + 1, kept)? * 10_i32.pow(9 - u32::try_from(kept).ok()?);
            at += 1 + digits;
        }
    }
    let offset = match text.get(at) {
        None => None,
        Some(b'Z' | b'z') if text.len() == at + 1 => Some(0),
        Some(sign @ (b'+' | b'-')) => {
            let minutes = if is(at + 3, b':') { at + 4 } else { at + 3 };
            let (h, m) = (i64::from(two(at + 1)?), i64::from(two(minutes)?));
            if text.len() != minutes + 2 || h > 23 || m > 59 {
                return None;
            }
            let seconds = h * 3600 + m * 60;
            Some(if *sign == b'-' { -seconds } else { seconds })
        }
        Some(_) => return None,
    };
    DateTime::new(year, month, day, hour, minute, second, nanos).ok().map(|dt| (dt, offset))
}

/// A `dateTimeTimeZone`; its member names come in either case (fact 76).
struct Moment<'a> {
    date_time: Option<Cow<'a, str>>,
    time_zone: Option<Cow<'a, str>>,
}

impl<'de> de::Deserialize<'de> for Moment<'de> {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Moment<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a dateTimeTimeZone")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut moment = Moment { date_time: None, time_zone: None };
                while let Some(Text(name)) = map.next_key()? {
                    let place = if name.eq_ignore_ascii_case("dateTime") {
                        &mut moment.date_time
                    } else if name.eq_ignore_ascii_case("timeZone") {
                        &mut moment.time_zone
                    } else {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    };
                    *place = map.next_value::<Option<Text<'de>>>()?.map(|Text(text)| text);
                }
                Ok(moment)
            }
        }

        deserializer.deserialize_map(Members)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed expectation is a failed test")]

    use super::*;

    fn instant(date_time: &str, zone: &str) -> Option<String> {
        let raw = format!(r#"{{"dateTime":"{date_time}","timeZone":"{zone}"}}"#);
        Zones::default().instant(&raw).map(|at| at.to_string())
    }

    #[test]
    fn an_hour_that_comes_twice_has_a_second_instant() {
        let raw = r#"{"dateTime":"2026-10-25T02:15:00","timeZone":"Europe/Berlin"}"#;
        let mut zones = Zones::default();
        let (first, second) = (zones.instant(raw).unwrap(), zones.second_instant(raw).unwrap());
        assert_eq!(first.to_string(), "2026-10-25T00:15:00Z");
        assert_eq!(second.to_string(), "2026-10-25T01:15:00Z");
    }

    #[test]
    fn dates_are_read_in_every_form_and_zone() {
        for (date_time, zone, expected) in [
            ("2016-12-09T20:30:00.0000000", "UTC", Some("2016-12-09T20:30:00Z")),
            ("2016-12-09T20:30:00", "utc", Some("2016-12-09T20:30:00Z")),
            ("2016-12-09T20:30:00.1234567", "UTC", Some("2016-12-09T20:30:00.1234567Z")),
            ("2016-12-09T20:30:00.12345678912", "UTC", Some("2016-12-09T20:30:00.123456789Z")),
            ("2016-12-09T20:30", "UTC", Some("2016-12-09T20:30:00Z")),
            ("2016-12-09", "UTC", Some("2016-12-09T00:00:00Z")),
            ("2016-12-09T20:30:00Z", "UTC", Some("2016-12-09T20:30:00Z")),
            ("2016-12-09T20:30:00+05:30", "UTC", Some("2016-12-09T15:00:00Z")),
            ("2016-12-09T20:30:00-0500", "tzone://Microsoft/Custom", Some("2016-12-10T01:30:00Z")),
            ("2016-12-09T20:30:00.0", "tzone://Microsoft/Custom", None),
            ("2016-12-09T20:30:00.0", "tzone://Microsoft/Utc", Some("2016-12-09T20:30:00Z")),
            ("2016-12-09T20:30:00.0", "Atlantis Standard Time", None),
            ("2016-12-09T20:30:00", "Pacific Standard Time", Some("2016-12-10T04:30:00Z")),
            ("2016-12-09T20:30:00", "W. Europe Standard Time", Some("2016-12-09T19:30:00Z")),
            ("2016-12-09T20:30:00", "GMT Standard Time", Some("2016-12-09T20:30:00Z")),
            ("2016-07-09T20:30:00", "GMT Standard Time", Some("2016-07-09T19:30:00Z")),
            ("2016-12-09T20:30:00", "UTC-11", Some("2016-12-10T07:30:00Z")),
            ("2016-12-09T20:30:00", "Kamchatka Standard Time", Some("2016-12-09T08:30:00Z")),
            ("2016-12-09T20:30:00", "Europe/Berlin", Some("2016-12-09T19:30:00Z")),
            // In the gap: as if the clock had not been changed yet. In the fold: the first.
            ("2026-03-29T02:30:00", "Europe/Berlin", Some("2026-03-29T01:30:00Z")),
            ("2026-10-25T02:30:00", "Europe/Berlin", Some("2026-10-25T00:30:00Z")),
            ("0001-01-01T00:00:00.0000000", "UTC", Some("0001-01-01T00:00:00Z")),
            ("9999-12-31T23:59:59", "Pacific Standard Time", None),
            ("2016-12-09T20:30:00.", "UTC", None),
            ("2016-12-09T20:30:00+", "UTC", None),
            ("2016-12-09T20:30:00+99:00", "UTC", None),
            ("2016-12-09T20:30:00Zulu", "UTC", None),
            ("2016-13-09T20:30:00", "UTC", None),
            ("2016-02-30T20:30:00", "UTC", None),
            ("2016-12-09T24:30:00", "UTC", None),
            ("2016-12-09T20-30", "UTC", None),
            ("20161209", "UTC", None),
            ("tomorrow", "UTC", None),
            ("", "UTC", None),
            ("2016-12-09T20:30:00", "", None),
        ] {
            assert_eq!(instant(date_time, zone).as_deref(), expected, "{date_time} {zone}");
        }
    }

    #[test]
    fn member_names_come_in_either_case_and_wrong_shapes_mean_nothing() {
        let read = |raw: &str| Zones::default().instant(raw).is_some();
        assert!(read(r#"{"DateTime":"2016-12-09T20:30:00","TimeZone":"UTC","x":[{}]}"#));
        for raw in [
            r#"{"dateTime":"2016-12-09T20:30:00"}"#,
            r#"{"dateTime":"2016-12-09T20:30:00","timeZone":null}"#,
            r#"{"dateTime":5,"timeZone":"UTC"}"#,
            r#"{"timeZone":"UTC"}"#,
            r#""2016-12-09T20:30:00Z""#,
            "null",
            "[]",
            "7",
        ] {
            assert!(!read(raw), "{raw}");
        }
    }
}
