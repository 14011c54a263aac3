//! Hours of certain days in a time zone, as intervals of instants: when meetings may take place.
//!
//! Hours are what a clock on the wall shows. On a day with 23 or 25 hours they still begin when the
//! clock first shows their start, and end when it last shows their end. Hours that the clock skips
//! do not exist.

use jiff::Timestamp;
use jiff::civil::{Date, DateTime, Time};
use jiff::tz::{AmbiguousOffset, TimeZone};

use super::page::Span;

/// The days of a week, Monday first.
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// Minutes of a day.
const DAY: u16 = 24 * 60;

/// Some days of the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeekDays([bool; 7]);

impl WeekDays {
    /// Every day.
    pub const ALL: Self = Self([true; 7]);
    /// Monday to Friday.
    pub const WORKDAYS: Self = Self([true, true, true, true, true, false, false]);

    /// Parses days and ranges of days separated by commas, such as `mon-fri` or `mon,wed`. A range
    /// may go on after Sunday.
    pub fn parse(text: &str) -> Option<Self> {
        let number = |name: &str| DAYS.iter().position(|day| *day == name);
        let mut days = [false; 7];
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            let last = if last < first { last + DAYS.len() } else { last };
            for day in first..=last {
                if let Some(day) = days.get_mut(day % DAYS.len()) {
                    *day = true;
                }
            }
        }
        Some(Self(days))
    }

    fn contain(self, date: Date) -> bool {
        let number = usize::try_from(date.weekday().to_monday_zero_offset()).unwrap_or(0);
        self.0.get(number).is_some_and(|day| *day)
    }
}

/// Hours of a day, in minutes after midnight. If they end before they begin, they end on the next
/// day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DayHours {
    start: u16,
    end: u16,
}

impl DayHours {
    /// The whole day.
    pub const ALL: Self = Self { start: 0, end: DAY };

    /// Parses hours such as `09:00-17:00`, `22:00-06:00` and `00:00-24:00`.
    pub fn parse(text: &str) -> Option<Self> {
        let (start, end) = text.split_once('-')?;
        let (start, end) = (minutes(start)?, minutes(end)?);
        (start != end && start < DAY && end <= DAY).then_some(Self { start, end })
    }

    /// How long they are on a day without a clock change, in minutes.
    pub fn minutes(self) -> u16 {
        if self.start < self.end { self.end - self.start } else { DAY - self.start + self.end }
    }
}

/// Parses `hh:mm` as minutes after midnight.
fn minutes(text: &str) -> Option<u16> {
    let (hour, minute) = text.split_once(':')?;
    let number = |text: &str| {
        let two = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u16>().ok().filter(|_| two)
    };
    let (hour, minute) = (number(hour)?, number(minute)?);
    (minute < 60).then_some(hour * 60 + minute)
}

/// When meetings may take place.
#[derive(Clone, Debug)]
pub struct OpenHours {
    /// Where the clock hangs.
    pub zone: TimeZone,
    /// The days on which the hours begin.
    pub days: WeekDays,
    /// The hours of each of them.
    pub hours: DayHours,
}

impl OpenHours {
    /// The open times between two instants: in order, apart from each other.
    pub fn between(&self, from: Timestamp, to: Timestamp) -> Vec<Span> {
        let mut spans: Vec<Span> = Vec::new();
        let date = |at: Timestamp| self.zone.to_datetime(at).date();
        let (mut day, last) = (date(from), date(to));
        // The hours of the day before may not be over.
        day = day.yesterday().unwrap_or(day);
        while day <= last {
            let span = self.days.contain(day).then(|| self.of_day(day)).flatten();
            if let Some(Span { start, end }) = span {
                let (start, end) = (start.max(from), end.min(to));
                match spans.last_mut() {
                    Some(before) if start <= before.end => before.end = before.end.max(end),
                    _ if start < end => spans.push(Span { start, end }),
                    _ => {}
                }
            }
            match day.tomorrow() {
                Ok(next) => day = next,
                Err(_) => break,
            }
        }
        spans
    }

    /// The hours that begin on a day; `None` at the ends of the calendar.
    fn of_day(&self, day: Date) -> Option<Span> {
        let DayHours { start, end } = self.hours;
        let next = if start < end && end < DAY { day } else { day.tomorrow().ok()? };
        let start = self.instant(clock(day, start)?, false)?;
        let end = self.instant(clock(next, end % DAY)?, true)?;
        Some(Span { start, end })
    }

    /// When the clock shows a time: the last time that it does, or the first; if it skips the time,
    /// when it does that.
    fn instant(&self, time: DateTime, last: bool) -> Option<Timestamp> {
        let ambiguous = self.zone.to_ambiguous_timestamp(time);
        let (is_gap, earlier) =
            (matches!(ambiguous.offset(), AmbiguousOffset::Gap { .. }), ambiguous.earlier().ok()?);
        match (is_gap, last) {
            (true, _) => self.zone.following(earlier).next().map(|change| change.timestamp()),
            (false, true) => ambiguous.later().ok(),
            (false, false) => Some(earlier),
        }
    }
}

/// A time of a day, given in minutes after midnight.
fn clock(day: Date, minutes: u16) -> Option<DateTime> {
    let (hour, minute) = (i8::try_from(minutes / 60).ok()?, i8::try_from(minutes % 60).ok()?);
    Some(day.to_datetime(Time::new(hour, minute, 0, 0).ok()?))
}

#[cfg(test)]
mod tests {
    use jiff::ToSpan as _;
    use proptest::prelude::*;

    use super::*;

    fn open(zone: &str, days: &str, hours: &str) -> OpenHours {
        OpenHours {
            zone: TimeZone::get(zone).unwrap(),
            days: WeekDays::parse(days).unwrap(),
            hours: DayHours::parse(hours).unwrap(),
        }
    }

    fn between(open: &OpenHours, from: &str, to: &str) -> Vec<String> {
        let at = |day: &str| format!("{day}T00:00:00Z").parse::<Timestamp>().unwrap();
        let text = |at: Timestamp| at.strftime("%d %H:%M").to_string();
        let spans = open.between(at(from), at(to)).into_iter();
        spans.map(|span| format!("{}-{}", text(span.start), text(span.end))).collect()
    }

    #[test]
    fn hours_follow_the_clock_when_it_changes() {
        let berlin = open("Europe/Berlin", "mon-sun", "09:00-17:00");
        for (from, to, expected) in [
            ("2026-03-28", "2026-03-30", ["28 08:00-28 16:00", "29 07:00-29 15:00"]),
            ("2026-10-24", "2026-10-26", ["24 07:00-24 15:00", "25 08:00-25 16:00"]),
        ] {
            assert_eq!(between(&berlin, from, to), expected);
        }
        for (days, hours, from, to, expected) in [
            // A day of 23 hours, and one of 25.
            ("sun", "00:00-24:00", "2026-03-28", "2026-03-31", &["28 23:00-29 22:00"][..]),
            ("sun", "00:00-24:00", "2026-10-24", "2026-10-27", &["24 22:00-25 23:00"]),
            // The clock goes from 02:00 to 03:00, so hours between do not exist.
            ("sun", "02:15-02:45", "2026-03-28", "2026-03-31", &[]),
            ("sun", "02:30-03:30", "2026-03-28", "2026-03-31", &["29 01:00-29 01:30"]),
            ("sun", "01:00-02:30", "2026-03-28", "2026-03-31", &["29 00:00-29 01:00"]),
            // It shows the times from 02:00 to 03:00 twice.
            ("sun", "02:15-02:45", "2026-10-24", "2026-10-27", &["25 00:15-25 01:45"]),
            // Nights belong to the day on which they begin.
            (
                "fri-sat",
                "22:00-06:00",
                "2026-03-27",
                "2026-04-03",
                &["27 21:00-28 05:00", "28 21:00-29 04:00"],
            ),
            ("mon", "22:00-06:00", "2026-03-24", "2026-03-25", &["24 00:00-24 05:00"]),
            // Days that follow each other are one interval.
            ("mon-wed", "00:00-24:00", "2026-11-01", "2026-11-08", &["01 23:00-04 23:00"]),
        ] {
            let open = open("Europe/Berlin", days, hours);
            assert_eq!(between(&open, from, to), expected, "{days} {hours}");
        }
    }

    #[test]
    fn days_and_hours_are_parsed_or_refused() {
        let days = |text: &str| WeekDays::parse(text).map(|days| days.0.map(u8::from));
        for (text, expected) in [
            ("mon-fri", Some([1, 1, 1, 1, 1, 0, 0])),
            ("mon,wed", Some([1, 0, 1, 0, 0, 0, 0])),
            ("sat-mon", Some([1, 0, 0, 0, 0, 1, 1])),
            ("sun-sat", Some([1; 7])),
            ("tue-tue,sun", Some([0, 1, 0, 0, 0, 0, 1])),
        ] {
            assert_eq!(days(text), expected, "{text}");
        }
        for text in ["", "mon,", "Mon", "monday", "mon-", "-fri", "mon-wed-fri", "mon fri", "mon;"]
        {
            assert_eq!(days(text), None, "{text}");
        }
        let hours = |text: &str| DayHours::parse(text).map(DayHours::minutes);
        for (text, minutes) in
            [("09:00-17:30", 510), ("00:00-24:00", 1440), ("22:00-06:00", 480), ("23:59-00:00", 1)]
        {
            assert_eq!(hours(text), Some(minutes), "{text}");
        }
        for text in [
            "",
            "9:00-17:00",
            "09:00",
            "09:00-09:00",
            "24:00-06:00",
            "09:00-24:01",
            "09:60-10:00",
            "09:00-17:00-18:00",
            "+9:00-17:00",
            "0900-1700",
            "09:00–17:00",
            "25:00-26:00",
        ] {
            assert_eq!(hours(text), None, "{text}");
        }
    }

    proptest! {
        /// Outside the night in which the clock shows an hour twice, an instant is open if and only
        /// if the clock says so.
        #[test]
        fn the_clock_decides(
            start in 0..1440u16, end in 0..=1440u16, days in any::<[bool; 7]>(), minutes in 0..20_000i64,
            autumn in any::<bool>(), zone in prop::sample::select(vec!["Europe/Berlin", "America/New_York", "UTC"]),
        ) {
            prop_assume!(start != end);
            let zone = TimeZone::get(zone).unwrap();
            let (days, hours) = (WeekDays(days), DayHours { start, end });
            let open = OpenHours { zone: zone.clone(), days, hours };
            let from: Timestamp = if autumn { "2026-10-20T00:00:00Z" } else { "2026-03-20T00:00:00Z" }.parse().unwrap();
            let spans = open.between(from, from + 20_000.minutes());
            prop_assert!(spans.windows(2).all(|pair| pair[0].end < pair[1].start));
            let at = from + minutes.minutes();
            let local = zone.to_datetime(at);
            let clock = u16::try_from(i32::from(local.hour()) * 60 + i32::from(local.minute())).unwrap();
            let (today, yesterday) = (local.date(), local.date().yesterday().unwrap());
            let by_clock = match start < end {
                true => days.contain(today) && (start..end).contains(&clock),
                false => days.contain(today) && clock >= start || days.contain(yesterday) && clock < end,
            };
            let ambiguous = [-60, 0, 60].iter().any(|near: &i64| {
                let near = zone.to_datetime(at + near.minutes());
                matches!(zone.to_ambiguous_timestamp(near).offset(), AmbiguousOffset::Fold { .. })
            });
            let is_open = spans.iter().any(|span| span.start <= at && at < span.end);
            prop_assert!(is_open == by_clock || ambiguous, "{at} {local}");
        }
    }
}
