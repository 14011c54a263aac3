//! What the table and the details of a window show.

use anstream::adapter::strip_str;
use serde_json::json;

use super::fleet::{reason, wrong_clock};
use super::*;
use crate::cli::terminal::{is_control, width};
use crate::config::Diagnostic;
use crate::reload::{LastReload, ReloadError, ReloadOutcome};

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn window(name: &str, changes: Value) -> WindowStatus {
    let mut value = json!({
        "name": name, "account": "contoso", "mailbox": format!("{name}@contoso.com"),
        "calendar": "default", "start": "2026-10-22T00:00:00Z", "end": "2027-11-28T00:00:00Z",
        "state": "settled", "events": 412,
        "segments": [{"start": "2026-10-22T00:00:00Z", "end": "2027-11-28T00:00:00Z", "mode": "delta"}],
        "last_round": {"number": 981, "at": "2026-11-21T09:59:48Z", "took_ms": 180, "requests": 1,
            "pages": 1, "created": 0, "updated": 1, "removed": 0},
        "last_success": "2026-11-21T09:59:48Z", "stale_s": 12.5, "next_due": "2026-11-21T10:04:40Z",
        "failures": 0, "resyncs": 2,
        "last_resync": {"at": "2026-11-01T00:00:00Z", "reason": "sync_state_not_found"},
        "last_error": null, "settled_once": true, "interval_s": 300.0,
    });
    for (key, new) in changes.as_object().unwrap() {
        value[key] = new.clone();
    }
    serde_json::from_value::<WindowJson>(value).unwrap().into()
}

fn fleet() -> Vec<WindowStatus> {
    vec![
        window("alice", json!({})),
        window("a room with a long name", json!({"state": "following", "events": 7})),
        window(
            "new",
            json!({"state": "enumerating", "last_success": null, "stale_s": null,
            "last_round": null, "next_due": null, "events": 0, "settled_once": false}),
        ),
        window("old", json!({"stale_s": 90061.0, "last_success": "2026-11-20T08:59:00Z"})),
        window(
            "bob",
            json!({"state": "quarantined", "failures": 12, "last_error": {
            "at": "2026-11-21T09:00:00Z", "kind": "forbidden", "status": 403, "code": "ErrorAccessDenied",
            "message": "access is denied by an application access policy;\u{1b}[31m ask the administrator of the tenant",
            "request_id": "5a1c", "retry_at": "2026-11-21T12:00:00Z"}}),
        ),
    ]
}

/// The table for a terminal with `columns` columns, or for a pipe.
fn shown(windows: &[WindowStatus], columns: Option<usize>) -> String {
    let now = at("2026-11-21T10:00:00Z");
    let lines = table::lines(windows, now, &TimeZone::UTC, columns);
    strip_str(&lines.join("\n")).to_string()
}

#[test]
fn the_table_fits_the_width_of_the_terminal() {
    insta::assert_snapshot!(shown(&fleet(), Some(100)));
}

#[test]
fn piped_output_has_a_line_for_each_window_with_untruncated_errors() {
    let shown = shown(&fleet(), None);
    assert_eq!(shown.lines().count(), fleet().len() + 1);
    let bob = shown.lines().find(|line| line.starts_with("bob")).unwrap();
    assert!(bob.ends_with(" ask the administrator of the tenant"), "{bob}");
}

#[test]
fn the_remedy_is_shown_on_the_narrowest_terminal() {
    let mut windows = fleet();
    windows.push(window("日本語の会議室@contoso.com", json!({"state": "held"})));
    windows.push(window(&"long".repeat(50), json!({})));
    for columns in 30..300 {
        let shown = shown(&windows, Some(columns));
        for line in shown.lines() {
            assert!(width(line) <= columns, "{columns}: {} columns in {line:?}", width(line));
        }
        let words = shown.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.contains("ask the administrator of the tenant"), "{columns}: {shown}");
        assert!(shown.contains("bob") && shown.contains("quarantined"), "{columns}: {shown}");
    }
}

#[test]
fn control_characters_in_names_and_errors_are_escaped() {
    let trick = "a\u{202e}b\u{2066}\u{1b}[2J\u{200f}\u{61c}\u{9b}c";
    let error = json!({"at": "2026-11-21T09:00:00Z", "kind": "forbidden", "status": 403, "code": trick,
        "message": trick, "request_id": trick, "retry_at": null});
    let window = window(
        trick,
        json!({"state": "held", "last_error": error, "account": trick, "mailbox": trick,
            "calendar": trick}),
    );
    let now = at("2026-11-21T10:00:00Z");
    for columns in [None, Some(60)] {
        let table = shown(std::slice::from_ref(&window), columns);
        let details = details(&window, now, &TimeZone::UTC, columns);
        for text in [table, strip_str(&details).to_string()] {
            assert!(!text.contains(|c| c != '\n' && is_control(c)), "{text:?}");
        }
    }
}

#[test]
fn the_status_of_a_window_shows_every_field() {
    let window = fleet().pop().unwrap();
    let details = details(&window, at("2026-11-21T10:00:00Z"), &TimeZone::UTC, None);
    insta::assert_snapshot!(strip_str(&details).to_string());
}

#[test]
fn a_held_window_shows_its_end_and_how_to_confirm_it() {
    let now = at("2026-11-21T10:00:00Z");
    let shown = |name: &str, state: &str| {
        let window = window(name, json!({"state": state, "next_due": "2026-11-21T10:08:00Z"}));
        strip_str(&details(&window, now, &TimeZone::UTC, None)).to_string()
    };
    let held = shown("it's mine", "held");
    assert!(held.contains("None is removed before 2026-11-21 10:08:00 (in 8m 0s)"), "{held}");
    let command = r"calmirror resync 'it'\''s mine' --accept-removals";
    assert!(held.ends_with(&format!("{command}\n")), "{held}");
    assert!(shown("alice", "held").contains(" resync alice --accept-removals\n"));
    assert!(!shown("alice", "backing_off").contains("held"));
}

#[test]
fn of_several_configuration_faults_the_first_is_named() {
    let fault = |line: usize| Diagnostic {
        file: Some("/etc/c.toml".into()),
        line: Some(line),
        key: "api.listen".to_owned(),
        problem: "wrong".to_owned(),
        remedy: "mend it".to_owned(),
    };
    let last = |faults: Vec<Diagnostic>| LastReload {
        at: at("2026-11-21T10:00:00Z"),
        outcome: ReloadOutcome::Refused,
        message: ReloadError::Faults(faults.clone()).to_string(),
        faults,
    };
    let one = "/etc/c.toml:7: api.listen: wrong; mend it";
    assert_eq!(reason(&last(vec![fault(7)])), one);
    let expected =
        format!("2 faults in the configuration, the first: {one} (calmirror check shows them all)");
    assert_eq!(reason(&last(vec![fault(7), fault(9)])), expected);
}

#[test]
fn a_wrong_clock_is_shown_with_its_remedy() {
    let ahead = wrong_clock(315_360_000.0);
    assert!(ahead.starts_with("the daemon's clock is 3650d 0h ahead of Graph's, "), "{ahead}");
    assert!(ahead.contains("NTP"), "{ahead}");
    assert!(wrong_clock(-3_660.0).contains("1h 1m behind Graph's"));
}

#[test]
fn output_is_cut_to_the_height_of_the_screen() {
    let text = "a\nb\nc\nd\ne\n";
    assert_eq!(truncate_lines(text, 6), text);
    assert_eq!(truncate_lines(text, 5), "a\nb\nc\n… and 2 more lines\n");
    assert_eq!(truncate_lines(text, 0), text, "a terminal that does not know its size");
}
