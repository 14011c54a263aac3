//! Reads when an event takes place: Graph's `{dateTime, timeZone}` as the civil time it shows and
//! the instant it means. This is the only parser of these times, so that the mirror, the API and
//! the command line agree on every event.
//!
//! A `dateTime` has no offset and up to seven fractional digits (fact 77). If it has an offset, the
//! offset decides. `timeZone` is `UTC` unless another zone was preferred; then it is a Windows or
//! IANA name. Local times that a clock change skips or repeats are resolved the compatible way (the
//! later instant of a gap, the first of a fold). If the end would then precede the start, the other
//! instant of the end or of the start is used. A local time in an unknown zone, such as a sender's
//! custom zone (fact 82), is rejected, never guessed.
//!
//! All-day events are days, from midnight to midnight in the requested zone (fact 79). As instants
//! they begin at midnight in the zone they are written in.

use std::borrow::Cow;
use std::fmt;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde::de::{self, IgnoredAny, MapAccess, Visitor};

use super::zone;
use crate::json::{JsonMembers, JsonText};

/// The start or the end of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventTime {
    /// The local time as written, regardless of its offset or zone. Its date is the day of an
    /// all-day event.
    pub civil: DateTime,
    /// The instant it means.
    pub at: Timestamp,
}

/// When an event takes place, `[start, end)`; the end is never before the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventSpan {
    /// Inclusive.
    pub start: EventTime,
    /// Exclusive.
    pub end: EventTime,
}

/// Reads event times. Caches the last zone, which is the same for a whole page or window.
#[derive(Default)]
pub struct TimeReader {
    last: Option<(String, Option<TimeZone>)>,
}

impl TimeReader {
    /// When an event takes place, from its members `start` and `end`; `None` if they cannot be
    /// read.
    pub fn event(&mut self, event: &JsonMembers<'_>) -> Option<EventSpan> {
        self.parse_span(Some(event.get("start")?.get()), Some(event.get("end")?.get())).ok()
    }

    /// When an event takes place, from the raw JSON of its `start` and `end`.
    ///
    /// # Errors
    /// Says what is wrong with them; names members, never values.
    pub fn parse_span(
        &mut self,
        start: Option<&str>,
        end: Option<&str>,
    ) -> Result<EventSpan, &'static str> {
        let mut read = |raw: Option<&str>| self.parse_time(raw?);
        let (start, start_other) = read(start).ok_or("start is missing or not a valid date")?;
        let (end, end_other) = read(end).ok_or("end is missing or not a valid date")?;
        // In the night in which clocks go back, 02:45 to 02:15 is half an hour. So is 02:45 to
        // 03:15 in the night in which they skip the hour from 02:00.
        let readings = [(start.at, end.at), (start.at, end_other), (start_other, end.at)];
        let (from, to) =
            readings.into_iter().find(|(from, to)| from <= to).ok_or("end is before start")?;
        Ok(EventSpan { start: EventTime { at: from, ..start }, end: EventTime { at: to, ..end } })
    }

    /// Reads a time, and the other instant that its local time can mean: the second one if the
    /// clock shows it twice, the one by the offset after the change if the clock skips it.
    fn parse_time(&mut self, raw: &str) -> Option<(EventTime, Timestamp)> {
        let DateTimeTimeZone { date_time, time_zone } = serde_json::from_str(raw).ok()?;
        let (civil, offset) = read(date_time?.as_bytes())?;
        let fixed = |at: Timestamp| Some((EventTime { civil, at }, at));
        let utc = || TimeZone::UTC.to_timestamp(civil).ok();
        if let Some(seconds) = offset {
            // With an offset, the zone does not matter.
            return fixed(utc()?.checked_sub(jiff::SignedDuration::from_secs(seconds)).ok()?);
        }
        let zone = time_zone?;
        if zone == "UTC" {
            return fixed(utc()?);
        }
        let at = self.zone(&zone)?.to_ambiguous_timestamp(civil);
        let (usual, earlier, later) = (at.compatible().ok()?, at.earlier().ok()?, at.later().ok()?);
        Some((EventTime { civil, at: usual }, if usual == earlier { later } else { earlier }))
    }

    fn zone(&mut self, name: &str) -> Option<&TimeZone> {
        if self.last.as_ref().is_none_or(|(last, _)| last != name) {
            self.last = Some((name.to_owned(), zone::find(name)));
        }
        self.last.as_ref().and_then(|(_, zone)| zone.as_ref())
    }
}

/// Parses `YYYY-MM-DD[Thh:mm[:ss[.f…]]][Z|±hh[:]mm]`: the civil time and the offset in seconds.
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

/// A `dateTimeTimeZone`; its member names may be in either case (fact 76).
struct DateTimeTimeZone<'a> {
    date_time: Option<Cow<'a, str>>,
    time_zone: Option<Cow<'a, str>>,
}

impl<'de> de::Deserialize<'de> for DateTimeTimeZone<'de> {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct DateTimeVisitor;

        impl<'de> Visitor<'de> for DateTimeVisitor {
            type Value = DateTimeTimeZone<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a dateTimeTimeZone")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut moment = DateTimeTimeZone { date_time: None, time_zone: None };
                while let Some(JsonText(name)) = map.next_key()? {
                    let place = if name.eq_ignore_ascii_case("dateTime") {
                        &mut moment.date_time
                    } else if name.eq_ignore_ascii_case("timeZone") {
                        &mut moment.time_zone
                    } else {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    };
                    *place = map.next_value::<Option<JsonText<'de>>>()?.map(|JsonText(text)| text);
                }
                Ok(moment)
            }
        }

        deserializer.deserialize_map(DateTimeVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(date_time: &str, zone: &str) -> String {
        format!(r#"{{"dateTime":"{date_time}","timeZone":"{zone}"}}"#)
    }

    fn read_moment(raw: &str) -> Option<EventTime> {
        TimeReader::default().parse_time(raw).map(|(moment, _)| moment)
    }

    fn instant(date_time: &str, zone: &str) -> Option<String> {
        read_moment(&raw(date_time, zone)).map(|moment| moment.at.to_string())
    }

    #[test]
    fn an_end_is_not_before_its_start_when_clocks_change() {
        let when = |start: &str, end: &str| {
            let (start, end) = (raw(start, "Europe/Berlin"), raw(end, "Europe/Berlin"));
            let when = TimeReader::default().parse_span(Some(&start), Some(&end));
            when.map(|when| (when.start.at.to_string(), when.end.at.to_string()))
        };
        let night = when("2026-10-25T02:45:00", "2026-10-25T02:15:00").unwrap();
        assert_eq!(night, ("2026-10-25T00:45:00Z".into(), "2026-10-25T01:15:00Z".into()));
        let first = when("2026-10-25T02:15:00", "2026-10-25T02:45:00").unwrap();
        assert_eq!(first, ("2026-10-25T00:15:00Z".into(), "2026-10-25T00:45:00Z".into()));
        // The clock goes from 02:00 to 03:00.
        let skipped = when("2026-03-29T02:45:00", "2026-03-29T03:15:00").unwrap();
        assert_eq!(skipped, ("2026-03-29T00:45:00Z".into(), "2026-03-29T01:15:00Z".into()));
        assert_eq!(when("2026-10-26T02:45:00", "2026-10-26T02:15:00"), Err("end is before start"));
    }

    #[test]
    fn the_civil_time_is_as_written() {
        for (date_time, zone) in [
            ("2026-11-02T00:00:00+13:00", "UTC"),
            ("2026-11-02T00:00:00Z", "Tonga Standard Time"),
            ("2026-11-02T00:00:00.0000000", "Tonga Standard Time"),
            ("2026-11-02", "Hawaiian Standard Time"),
        ] {
            let moment = read_moment(&raw(date_time, zone)).unwrap();
            assert_eq!(moment.civil.to_string(), "2026-11-02T00:00:00", "{date_time} {zone}");
        }
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
            // Gap: as if the clock had not been changed yet. Fold: the first instant.
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
        let read = |raw: &str| read_moment(raw).is_some();
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
