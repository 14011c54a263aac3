//! Recurrence: the days of a series, and its exceptions and cancelled occurrences.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use jiff::civil::Date;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::content::{EventContent, LocalSpan};
use super::zone::{Zone, date_of, day_of};

/// How a series repeats.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "pattern", deny_unknown_fields)]
pub enum Pattern {
    /// Every `every` days.
    Daily {
        /// At least 1.
        every: u16,
    },
    /// On given days of every `every`th week; weeks begin on Sunday.
    Weekly {
        /// At least 1.
        every: u16,
        /// Days of the week, 0 for Sunday. If empty, the weekday of the series' start.
        days: Vec<u8>,
    },
    /// On the day of the month on which the series begins (the month's last if it is shorter),
    /// every `every` months.
    Monthly {
        /// At least 1.
        every: u16,
    },
}

impl Pattern {
    fn every(&self) -> u16 {
        match self {
            Self::Daily { every } | Self::Weekly { every, .. } | Self::Monthly { every } => *every,
        }
    }
}

const WEEK: [&str; 7] =
    ["sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"];

/// The day of the week of a day counted from 1970-01-01 (a Thursday), 0 for Sunday.
fn weekday(day: i32) -> u8 {
    u8::try_from((day + 4).rem_euclid(7)).unwrap_or(0)
}

/// An occurrence that differs from its series.
#[derive(Clone, Debug)]
pub(super) struct Exception {
    pub(super) when: LocalSpan,
    pub(super) content: EventContent,
    pub(super) change: u64,
    pub(super) modified: Timestamp,
}

/// The recurrence of an item that is a series.
#[derive(Clone, Debug)]
pub(super) struct Series {
    pub(super) pattern: Pattern,
    /// The last day an occurrence may fall on; `None` for an endless series.
    pub(super) until: Option<i32>,
    /// By the original day of the occurrence.
    pub(super) exceptions: BTreeMap<i32, Exception>,
    pub(super) cancelled: BTreeSet<i32>,
}

impl Series {
    /// A series in which every occurrence is as the pattern says.
    pub(super) fn new(pattern: Pattern, until: Option<i32>) -> Self {
        Self { pattern, until, exceptions: BTreeMap::new(), cancelled: BTreeSet::new() }
    }

    /// The days from `first` to `last` on which a series that began on `begin` has occurrences.
    pub(super) fn days(&self, begin: Date, first: Timestamp, last: Timestamp) -> Vec<i32> {
        let utc = Zone::utc();
        let begin = day_of(begin);
        let from = day_of(utc.local(first).date()).max(begin);
        let to = day_of(utc.local(last).date()).min(self.until.unwrap_or(i32::MAX));
        let every = i32::from(self.pattern.every().max(1));
        let is_due = |day: i32| match &self.pattern {
            Pattern::Daily { .. } => (day - begin) % every == 0,
            Pattern::Weekly { days: on, .. } => {
                let week = |day: i32| (day + 4).div_euclid(7);
                let wanted = if on.is_empty() {
                    weekday(day) == weekday(begin)
                } else {
                    on.contains(&weekday(day))
                };
                (week(day) - week(begin)) % every == 0 && wanted
            }
            Pattern::Monthly { .. } => {
                let month = |date: Date| i32::from(date.year()) * 12 + i32::from(date.month());
                let (date, first) = (date_of(day), date_of(begin));
                (month(date) - month(first)) % every == 0
                    && date.day() == first.day().min(date.days_in_month())
            }
        };
        (from..=to).filter(|day| is_due(*day)).collect()
    }

    /// Graph's `patternedRecurrence` of a series that began on `begin` in the zone `zone`.
    pub(super) fn json(&self, begin: Date, zone: &str) -> Value {
        let (kind, on, of_month) = match &self.pattern {
            Pattern::Daily { .. } => ("daily", Vec::new(), 0),
            Pattern::Weekly { days, .. } if days.is_empty() => {
                ("weekly", vec![weekday(day_of(begin))], 0)
            }
            Pattern::Weekly { days, .. } => ("weekly", days.clone(), 0),
            Pattern::Monthly { .. } => ("absoluteMonthly", Vec::new(), begin.day()),
        };
        let on: Vec<_> = on.iter().filter_map(|day| WEEK.get(usize::from(*day))).collect();
        json!({
            "pattern": {
                "type": kind,
                "interval": self.pattern.every(),
                "month": 0,
                "dayOfMonth": of_month,
                "daysOfWeek": on,
                "firstDayOfWeek": "sunday",
                "index": "first",
            },
            "range": {
                "type": if self.until.is_some() { "endDate" } else { "noEnd" },
                "startDate": begin.to_string(),
                "endDate": self.until.map_or("0001-01-01".to_owned(), |d| date_of(d).to_string()),
                "recurrenceTimeZone": zone,
                "numberOfOccurrences": 0,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn days(
        pattern: Pattern,
        begin: &str,
        until: Option<&str>,
        from: &str,
        to: &str,
    ) -> Vec<String> {
        let until = until.map(|d| day_of(d.parse().unwrap()));
        let at = |d: &str| format!("{d}T00:00:00Z").parse().unwrap();
        Series::new(pattern, until)
            .days(begin.parse().unwrap(), at(from), at(to))
            .into_iter()
            .map(|d| date_of(d).to_string())
            .collect()
    }

    #[test]
    fn recurrence_patterns_fall_on_the_expected_days() {
        let every_third = Pattern::Daily { every: 3 };
        assert_eq!(
            days(every_third, "2026-01-01", Some("2026-01-08"), "2025-12-01", "2026-02-01"),
            ["2026-01-01", "2026-01-04", "2026-01-07"]
        );
        let fortnightly = Pattern::Weekly { every: 2, days: vec![1, 3] };
        assert_eq!(
            days(fortnightly, "2026-01-07", None, "2026-01-01", "2026-01-25"),
            ["2026-01-07", "2026-01-19", "2026-01-21"]
        );
        let monthly = Pattern::Monthly { every: 1 };
        assert_eq!(
            days(monthly, "2020-01-31", None, "2026-02-01", "2026-04-30"),
            ["2026-02-28", "2026-03-31", "2026-04-30"]
        );
    }
}
