//! The status of one window in full, one detail per line.

use std::fmt::Write as _;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::format::{full, report, style, until};
use crate::cli::terminal::{printable, wrapped};
use crate::mirror::status::{WindowState, WindowStatus};

/// All details of one window, one per line.
pub(super) fn details(
    window: &WindowStatus,
    now: Timestamp,
    zone: &TimeZone,
    columns: Option<usize>,
) -> String {
    let style = style(window.state);
    let moment = |at: Timestamp| format!("{} ({})", full(at, zone), until(at, now));
    let mut lines = vec![
        ("window", printable(&window.name)),
        ("account", printable(&window.account)),
        ("mailbox", printable(&window.mailbox)),
        ("calendar", printable(&window.calendar)),
        ("from", full(window.start, zone)),
        ("until", full(window.end, zone)),
        ("state", format!("{style}{}{style:#}", window.state.as_str())),
        ("healthy", if window.is_healthy() { "yes" } else { "no" }.to_owned()),
        ("events", window.events.to_string()),
        ("last success", window.last_success.map_or("never".into(), moment)),
        ("next due", window.next_due.map_or("-".into(), moment)),
        ("failures", window.failures.to_string()),
        ("resyncs", window.resyncs.to_string()),
    ];
    if let Some(fleet) = &window.fleet {
        lines.insert(1, ("fleet", printable(fleet)));
    }
    if let Some(place) = &window.place {
        lines.push(("place", printable(&place.to_string())));
    }
    if let Some(resync) = &window.last_resync {
        let reason = resync.reason.as_str();
        lines.push(("last resync", format!("{}: {reason}", moment(resync.at))));
    }
    if let Some(round) = &window.last_round {
        lines.push(("last round", report(round)));
    }
    for segment in window.segments.iter().filter(|_| window.segments.len() > 1) {
        let mode = segment.mode.as_str();
        let edges = format!("{} to {}", full(segment.start, zone), full(segment.end, zone));
        lines.push(("segment", format!("{edges}, {mode}")));
    }
    if let [segment] = &*window.segments {
        lines.push(("mode", segment.mode.as_str().to_owned()));
    }
    if let Some(error) = &window.last_error {
        lines.push(("last error", format!("{} at {}", error.kind.as_str(), moment(error.at))));
        lines.push(("", printable(&error.message)));
        let code = error.code.as_deref().map(printable);
        match (error.status, code) {
            (Some(status), Some(code)) => lines.push(("", format!("status {status}, {code}"))),
            (Some(status), None) => lines.push(("", format!("status {status}"))),
            (None, Some(code)) => lines.push(("", code)),
            (None, None) => {}
        }
        if let Some(id) = &error.request_id {
            lines.push(("", format!("request-id {}", printable(id))));
        }
        if let Some(retry) = error.retry_at {
            lines.push(("", format!("next attempt {}", moment(retry))));
        }
    }
    let columns = columns.unwrap_or(0);
    let mut text = String::new();
    for (name, value) in lines {
        for line in wrapped(&format!("{name:<13} {value}"), columns, &" ".repeat(14)) {
            writeln!(text, "{line}").ok();
        }
    }
    if window.state == WindowState::Held {
        let until = window.held_until.or(window.next_due);
        let until = until.map_or("the next enumeration".to_owned(), moment);
        let held = format!(
            "held: more than half of the events would be removed. None is removed before {until}; what Graph lists then, between the edges of that time, is accepted."
        );
        let command = format!("calmirror resync {} --accept-removals", shell_quote(&window.name));
        writeln!(text, "\n{}", wrapped(&held, columns, "").join("\n")).ok();
        writeln!(text, "To accept it now: {command}").ok();
    }
    text
}

/// Quotes a name so that a shell reads it as one word.
pub(in crate::cli) fn shell_quote(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "@._+:-".contains(c);
    let name = printable(name);
    if name.chars().all(plain) && !name.starts_with('-') {
        return name;
    }
    format!("'{}'", name.replace('\'', r"'\''"))
}
