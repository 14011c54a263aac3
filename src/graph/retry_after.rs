//! Parses the times in a response's headers: `Date`, and `Retry-After` as Graph sends it.
//!
//! `Retry-After` is seconds, seconds with a fraction, or an HTTP date (fact 117). An unreadable
//! value counts as absent. Waits are limited to an hour.

use std::time::Duration;

use http::header::{DATE, HeaderMap, RETRY_AFTER};
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;

/// The longest wait.
pub const MAX_WAIT: Duration = Duration::from_secs(3600);

/// When an answer was made, by the server's clock.
pub(super) fn date(headers: &HeaderMap) -> Option<Timestamp> {
    DateTimeParser::new().parse_timestamp(headers.get(DATE)?.to_str().ok()?).ok()
}

/// The wait that an answer requests at the wall-clock time `now`.
pub(super) fn of(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    parse(headers.get(RETRY_AFTER)?.to_str().ok()?, now)
}

/// The wait that a header's value requests at the wall-clock time `now`.
pub fn parse(value: &str, now: Timestamp) -> Option<Duration> {
    let value = value.trim();
    if value.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        let seconds: f64 = value.parse().ok()?;
        return Some(Duration::try_from_secs_f64(seconds).map_or(MAX_WAIT, |d| d.min(MAX_WAIT)));
    }
    let at = DateTimeParser::new().parse_timestamp(value).ok()?;
    // A date in the past requests no wait.
    let wait = Duration::try_from(at.duration_since(now)).unwrap_or_default();
    Some(wait.min(MAX_WAIT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_retry_after_is_read_and_capped_at_an_hour() {
        let now: Timestamp = "2026-11-21T10:00:00Z".parse().unwrap();
        let seconds = |s: f64| Some(Duration::from_secs_f64(s));
        for (value, expected) in [
            ("0", seconds(0.0)),
            ("1", seconds(1.0)),
            (" 17 ", seconds(17.0)),
            ("2.128", seconds(2.128)),
            (".5", seconds(0.5)),
            ("3600", seconds(3600.0)),
            ("3601", Some(MAX_WAIT)),
            ("99999999999999999999999999999", Some(MAX_WAIT)),
            ("Sat, 21 Nov 2026 10:00:30 GMT", seconds(30.0)),
            ("Sat, 21 Nov 2026 09:00:30 GMT", seconds(0.0)),
            ("Tue, 21 Nov 2028 10:00:00 GMT", Some(MAX_WAIT)),
            ("", None),
            (".", None),
            ("1.2.3", None),
            ("-1", None),
            ("-0.5", None),
            ("1e9", None),
            ("NaN", None),
            ("inf", None),
            ("soon", None),
            ("Sat, 99 Nov 2026 10:00:30 GMT", None),
        ] {
            assert_eq!(parse(value, now), expected, "{value:?}");
        }
    }
}
