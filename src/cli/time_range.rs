//! The time options of `events`, `busy` and `free`, and how they are read in the user's zone.

use clap::Args;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, ToSpan as _, ZonedDateTime};

use super::exit::{CliError, USAGE};
use super::terminal::printable;
use crate::mirror::zone;

/// Days shown unless `--to` says otherwise.
const DAYS: i64 = 7;

/// From when to when, and the zone of both.
#[derive(Args, Debug, Default)]
pub struct TimeRange {
    /// Start: a time, a date, or relative to today such as -7d [default: today].
    #[arg(long, value_name = "T", allow_hyphen_values = true)]
    pub from: Option<String>,

    /// End, exclusive, in the same form [default: seven days after --from].
    #[arg(long, value_name = "T", allow_hyphen_values = true)]
    pub to: Option<String>,

    /// Time zone of days and times, by its IANA or Windows name [default: $TZ, else the
    /// system's].
    #[arg(long, value_name = "ZONE")]
    pub zone: Option<String>,
}

impl TimeRange {
    /// The zone of days and times.
    pub(super) fn time_zone(&self) -> Result<TimeZone, CliError> {
        let Some(name) = &self.zone else { return Ok(TimeZone::system()) };
        zone::find(name).ok_or_else(|| {
            let failure =
                CliError::new(USAGE, format!("--zone: unknown time zone: {}", printable(name)));
            failure.remedy("write a name such as Europe/Berlin, America/New_York or UTC")
        })
    }

    /// `--from` and `--to`, as far as they are given.
    pub(super) fn given(&self) -> Result<[Option<ZonedDateTime>; 2], CliError> {
        let today = self.today()?;
        let read = |text: &Option<String>, option| {
            text.as_ref().map(|text| parse_time(text, &today, option)).transpose()
        };
        Ok([read(&self.from, "--from")?, read(&self.to, "--to")?])
    }

    /// Both: from today for some days, unless they are given.
    pub(super) fn days(&self) -> Result<[ZonedDateTime; 2], CliError> {
        let [from, to] = self.given()?;
        let from = from.map_or_else(|| self.today(), Ok)?;
        let to = to.map_or_else(
            || from.checked_add(DAYS.days()).map_err(|error| out_of_calendar(&error)),
            Ok,
        )?;
        if to <= from {
            return Err(CliError::new(USAGE, "--to: must be later than --from"));
        }
        Ok([from, to])
    }

    /// Midnight in the zone.
    fn today(&self) -> Result<ZonedDateTime, CliError> {
        let now = Timestamp::now().to_zoned_datetime(self.time_zone()?);
        now.start_of_day().map_err(|error| out_of_calendar(&error))
    }
}

fn out_of_calendar(error: &jiff::Error) -> CliError {
    CliError::new(USAGE, format!("date out of range: {error}"))
}

/// Parses a time option. Dates and relative times are in the user's zone and count from midnight.
fn parse_time(text: &str, today: &ZonedDateTime, option: &str) -> Result<ZonedDateTime, CliError> {
    let zone = today.time_zone();
    if text == "now" || text == "today" {
        return Ok(today.clone());
    }
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(at.to_zoned_datetime(zone.clone()));
    }
    if text.starts_with(['-', '+'])
        && let Ok(span) = text.parse::<Span>()
        && let Ok(at) = today.checked_add(span)
    {
        return Ok(at);
    }
    if let Ok(local) = text.parse::<DateTime>()
        && let Ok(at) = local.to_zoned_datetime(zone.clone())
    {
        return Ok(at);
    }
    let failure = CliError::new(USAGE, format!("{option}: not a time: {}", printable(text)));
    Err(failure.remedy(
        "write 2026-11-21, 2026-11-21T10:00, 2026-11-21T10:00:00Z, today, or relative to today such as -7d, +2w, +6mo, +1y",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_in_the_users_zone() {
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        let today = "2026-11-23T00:00".parse::<DateTime>().unwrap();
        let today = today.to_zoned_datetime(zone).unwrap();
        for (text, expected) in [
            ("now", Some("2026-11-22T23:00:00Z")),
            ("2026-07-01", Some("2026-06-30T22:00:00Z")),
            ("2026-07-01T10:00", Some("2026-07-01T08:00:00Z")),
            ("2026-07-01T10:00:00Z", Some("2026-07-01T10:00:00Z")),
            ("2026-07-01T10:00:00+05:00", Some("2026-07-01T05:00:00Z")),
            ("-7d", Some("2026-11-15T23:00:00Z")),
            ("+2w", Some("2026-12-06T23:00:00Z")),
            ("+8mo", Some("2027-07-22T22:00:00Z")),
            ("tomorrow", None),
            ("7d", None),
            ("+99999999999y", None),
        ] {
            let read = parse_time(text, &today, "--from").ok().map(|at| at.timestamp());
            assert_eq!(read, expected.map(|at| at.parse().unwrap()), "{text}");
        }
    }
}
