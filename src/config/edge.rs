//! Parses an edge: an instant, a date, or a distance from today.

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::diagnostic::Issue;
use crate::mirror::window::Edge;

/// Edges farther away are rejected as mistakes, in years.
const MAX_YEARS: i64 = 200;

/// Parses RFC 3339, a date (its midnight in UTC), `now`, or a distance such as `-120d` or `+1y6mo`.
///
/// # Errors
/// The problem, and the accepted forms.
pub fn edge(text: &str) -> Result<Edge, Issue> {
    let text = text.trim();
    if text == "now" {
        return Ok(Edge::Relative { years: 0, months: 0, days: 0 });
    }
    if let Some(distance) = text.strip_prefix('+') {
        return relative(distance, 1);
    }
    if let Some(distance) = text.strip_prefix('-') {
        return relative(distance, -1);
    }
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(Edge::At(at));
    }
    let midnight = text.parse::<Date>().ok().filter(|_| text.len() == "2026-01-01".len());
    match midnight.and_then(|date| date.to_zoned_datetime(TimeZone::UTC).ok()) {
        Some(midnight) => Ok(Edge::At(midnight.timestamp())),
        None => Err(Issue::new(
            format!("not a time: {text:?}"),
            "write 2026-01-31, 2026-01-31T08:00:00Z (with Z or an offset), now, -120d or +2y",
        )),
    }
}

/// Parses one or more pairs of number and unit.
fn relative(text: &str, sign: i64) -> Result<Edge, Issue> {
    let unreadable = || {
        Issue::new(
            format!("not a distance: {text:?}"),
            "write a number and d, w, mo or y (days, weeks, months, years), such as -120d or +1y6mo",
        )
    };
    let (mut years, mut months, mut days) = (0_i64, 0_i64, 0_i64);
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(unreadable());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(unreadable)?;
        let (number, after) = rest.split_at(digits);
        let after = after.trim_start();
        let letters = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at(letters);
        let number =
            sign * number.parse::<i64>().ok().filter(|n| *n < 1 << 20).ok_or_else(unreadable)?;
        match unit {
            "d" | "day" | "days" => days += number,
            "w" | "week" | "weeks" => days += 7 * number,
            "mo" | "month" | "months" => months += number,
            "y" | "year" | "years" => years += number,
            _ => return Err(unreadable()),
        }
        rest = after.trim_start();
    }
    let about = years.abs() + months.abs() / 12 + days.abs() / 365;
    match (i32::try_from(years), i32::try_from(months), i32::try_from(days)) {
        (Ok(years), Ok(months), Ok(days)) if about <= MAX_YEARS => {
            Ok(Edge::Relative { years, months, days })
        }
        _ => Err(Issue::new("too far away", format!("stay within {MAX_YEARS} years"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Edge {
        Edge::At(text.parse().unwrap())
    }

    fn away(years: i32, months: i32, days: i32) -> Edge {
        Edge::Relative { years, months, days }
    }

    #[test]
    fn every_form_is_read() {
        for (text, expected) in [
            ("2026-01-01", at("2026-01-01T00:00:00Z")),
            ("2026-01-01T08:30:00Z", at("2026-01-01T08:30:00Z")),
            ("2026-01-01T08:30:00+02:00", at("2026-01-01T06:30:00Z")),
            ("2026-01-01 08:30:00Z", at("2026-01-01T08:30:00Z")),
            ("now", away(0, 0, 0)),
            ("-120d", away(0, 0, -120)),
            ("+2y", away(2, 0, 0)),
            ("+6mo", away(0, 6, 0)),
            ("+6months", away(0, 6, 0)),
            ("+3w", away(0, 0, 21)),
            ("-1 year", away(-1, 0, 0)),
            ("+1y6mo", away(1, 6, 0)),
            ("+1y 2w 1d", away(1, 0, 15)),
            ("-0d", away(0, 0, 0)),
        ] {
            assert_eq!(edge(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn invalid_edges_are_refused() {
        for text in [
            "",
            "+",
            "-",
            "+d",
            "30d",
            "+30",
            "+1h",
            "+5m",
            "+1.5y",
            "+1y-1d",
            "today",
            "now+1d",
            "2026-13-01",
            "2026-02-30",
            "2026-01-01T08:30:00",
            "20260101",
            "+2026-01-01",
            "+9999999999999999999d",
            "+201y",
            "+100000d",
            "+1048575y",
            "-2412mo",
            "--1d",
        ] {
            assert!(edge(text).is_err(), "{text:?}");
        }
    }
}
