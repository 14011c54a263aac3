//! Formats times, durations, states and rounds.

use anstyle::{AnsiColor, Style};
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::mirror::status::{RoundFigures, WindowState};

/// The colour of a state.
pub(super) fn style(state: WindowState) -> Style {
    match state {
        WindowState::Settled | WindowState::Following => AnsiColor::Green.on_default(),
        WindowState::Enumerating => AnsiColor::Cyan.on_default(),
        WindowState::BackingOff | WindowState::Held => AnsiColor::Yellow.on_default(),
        WindowState::Quarantined | WindowState::SignInRequired | WindowState::StoreFull => {
            AnsiColor::Red.on_default()
        }
    }
}

/// A recent time (less than 20 hours ago) without its date, other times with it.
pub(super) fn time(at: Timestamp, now: Timestamp, zone: &TimeZone) -> String {
    let recent = now.duration_since(at).as_hours() < 20;
    let form = if recent { "%H:%M:%S" } else { "%Y-%m-%d %H:%M" };
    at.to_zoned_datetime(zone.clone()).strftime(form).to_string()
}

/// A time with its date.
pub(in crate::cli) fn full(at: Timestamp, zone: &TimeZone) -> String {
    at.to_zoned_datetime(zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// The distance of a time from now.
pub(super) fn until(at: Timestamp, now: Timestamp) -> String {
    let seconds = at.duration_since(now).as_secs_f64();
    if seconds >= 0.0 { format!("in {}", span(seconds)) } else { format!("{} ago", span(-seconds)) }
}

/// A duration in its two largest units.
pub(super) fn span(seconds: f64) -> String {
    // Whole seconds are precise enough here.
    #[expect(clippy::cast_possible_truncation, reason = "a float cast saturates")]
    let whole = seconds.max(0.0) as i64;
    match (whole / 86_400, whole / 3600 % 24, whole / 60 % 60, whole % 60) {
        (0, 0, 0, s) => format!("{s}s"),
        (0, 0, m, s) => format!("{m}m {s}s"),
        (0, h, m, _) => format!("{h}h {m}m"),
        (d, h, ..) => format!("{d}d {h}h"),
    }
}

/// A finished round as text.
pub(in crate::cli) fn report(round: &RoundFigures) -> String {
    let RoundFigures { number, took_ms, requests, created, updated, removed, .. } = round;
    let plural = if *requests == 1 { "" } else { "s" };
    let took =
        if *took_ms < 10_000 { format!("{took_ms} ms") } else { format!("{} s", took_ms / 1000) };
    format!(
        "round {number}, {requests} request{plural}, +{created} ~{updated} -{removed} in {took}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_two_units() {
        for (seconds, text) in [
            (0.0, "0s"),
            (59.9, "59s"),
            (61.0, "1m 1s"),
            (3_661.0, "1h 1m"),
            (90_061.0, "1d 1h"),
            (-1.0, "0s"),
        ] {
            assert_eq!(span(seconds), text);
        }
    }
}
