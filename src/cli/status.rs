//! `status`: the fleet in a table, trouble first; or one window in full.

use std::fmt::Write as _;
use std::io::Write;
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::arguments::StatusArgs;
use super::client::{Client, encode, printable};
use super::exit::{DONE, FAILED, Failure, UNAVAILABLE};
use crate::api::model::Window;
use crate::mirror::status::{State, WindowStatus};
use crate::supervisor::reload::{Ending, LastReload};

/// How often `--watch` looks again.
const REDRAW: Duration = Duration::from_secs(2);

/// Errors are cut here in the table; one window's view has them whole.
const ERROR_WIDTH: usize = 60;

/// What of `/v1/status` the head line shows.
#[derive(Debug, Deserialize)]
struct Daemon {
    version: String,
    uptime_s: f64,
    #[serde(default)]
    last_reload: Option<LastReload>,
}

/// A page of windows, as they came.
#[derive(Debug, Deserialize)]
struct Page {
    value: Vec<Value>,
    next: Option<String>,
}

#[derive(Serialize)]
struct Fleet<'a> {
    status: &'a Value,
    value: &'a [Value],
}

/// Shows the fleet or a window.
pub(super) async fn status(
    client: &Client,
    args: &StatusArgs,
    json: bool,
    out: &mut impl Write,
) -> Result<u8, Failure> {
    if args.watch {
        return watch(client, args, out).await;
    }
    let (text, healthy) = look(client, args, json).await?;
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(if healthy { DONE } else { FAILED })
}

async fn look(client: &Client, args: &StatusArgs, json: bool) -> Result<(String, bool), Failure> {
    match &args.window {
        Some(name) => one(client, name, json).await,
        None => fleet(client, json).await,
    }
}

/// Looks again and again, until nobody looks on. A daemon that restarts is waited for.
async fn watch(client: &Client, args: &StatusArgs, out: &mut impl Write) -> Result<u8, Failure> {
    let mut reached = false;
    loop {
        let text = match look(client, args, false).await {
            Ok((text, _)) => text,
            Err(failure) if reached && failure.exit == UNAVAILABLE => format!("{failure}\n"),
            Err(failure) => return Err(failure),
        };
        reached = true;
        let mut screen = std::io::stdout();
        let text = match rustix::termios::tcgetwinsize(&screen) {
            Ok(size) => {
                // Home, and clear from there on. Not through `out`, which takes it for a colour.
                screen.write_all(b"\x1b[H\x1b[J")?;
                fitting(&text, size.ws_row.into())
            }
            Err(_) => text,
        };
        out.write_all(text.as_bytes())?;
        out.flush()?;
        tokio::time::sleep(REDRAW).await;
    }
}

/// As much of it as a screen of so many lines holds: trouble stands first.
fn fitting(text: &str, height: usize) -> String {
    let count = text.lines().count();
    if height < 4 || count < height {
        return text.to_owned();
    }
    let shown: Vec<&str> = text.lines().take(height - 2).collect();
    format!("{}\n… and {} lines more\n", shown.join("\n"), count - shown.len())
}

async fn one(client: &Client, name: &str, json: bool) -> Result<(String, bool), Failure> {
    let path = format!("/v1/windows/{}", encode(name));
    let value: Value = client.get(&path).await?.json()?;
    let window = understand(&value)?;
    let text = if json {
        format!("{value}\n")
    } else {
        details(&window, Timestamp::now(), &TimeZone::system())
    };
    Ok((text, window.is_healthy()))
}

async fn fleet(client: &Client, json: bool) -> Result<(String, bool), Failure> {
    let status: Value = client.get("/v1/status").await?.json()?;
    let value = windows(client).await?;
    let windows = value.iter().map(understand).collect::<Result<Vec<_>, _>>()?;
    let healthy = windows.iter().all(WindowStatus::is_healthy);
    let text = if json {
        let fleet = Fleet { status: &status, value: &value };
        serde_json::to_string(&fleet).unwrap_or_default() + "\n"
    } else {
        let daemon: Daemon = Deserialize::deserialize(&status)
            .map_err(|error| Failure::new(FAILED, format!("status not understood: {error}")))?;
        let version = printable(&daemon.version);
        let mut head = format!("calmirror {version}, up {}\n", span(daemon.uptime_s));
        if let Some(last) = daemon.last_reload.filter(|last| last.outcome != Ending::Applied) {
            let at = last.at.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string();
            let why = printable(&reason(&last));
            head += &format!("the last reload ({at}) changed nothing: {why}\n");
        }
        head + &table(windows, Timestamp::now(), &TimeZone::system())
    };
    Ok((text, healthy))
}

/// Why a reload changed nothing: of several faults the first, which is where to begin.
fn reason(last: &LastReload) -> String {
    match last.faults.as_slice() {
        // One fault is the message itself.
        [first, _, ..] => {
            format!("{}, the first: {first} (calmirror check shows them all)", last.message)
        }
        _ => last.message.clone(),
    }
}

/// Every window, as the API has them.
async fn windows(client: &Client) -> Result<Vec<Value>, Failure> {
    let mut all = Vec::new();
    let mut path = "/v1/windows".to_owned();
    loop {
        let page: Page = client.get(&path).await?.json()?;
        all.extend(page.value);
        match page.next {
            Some(next) => path = format!("/v1/windows?page={next}"),
            None => return Ok(all),
        }
    }
}

/// The names of every window.
pub(super) async fn names(client: &Client) -> Result<Vec<String>, Failure> {
    let windows = windows(client).await?;
    windows.iter().map(|value| understand(value).map(|window| window.name)).collect()
}

fn understand(value: &Value) -> Result<WindowStatus, Failure> {
    Window::deserialize(value).map(WindowStatus::from).map_err(|error| {
        Failure::new(FAILED, format!("a window's status is not understood: {error}"))
            .remedy("are command line and daemon of the same version (calmirror --version)?")
    })
}

/// One line a window, trouble first, columns aligned.
fn table(mut windows: Vec<WindowStatus>, now: Timestamp, zone: &TimeZone) -> String {
    let count = windows.len();
    let healthy = windows.iter().filter(|w| w.is_healthy()).count();
    let events: u64 = windows.iter().map(|w| w.events).sum();
    let mut text = format!("windows: {count}, healthy: {healthy}, events: {events}\n");
    if windows.is_empty() {
        return text;
    }
    windows.sort_by(|a, b| {
        (a.is_healthy(), !a.state.is_trouble(), &a.name).cmp(&(
            b.is_healthy(),
            !b.state.is_trouble(),
            &b.name,
        ))
    });
    let bold = Style::new().bold();
    let mut rows = vec![
        ["WINDOW", "STATE", "EVENTS", "LAST SUCCESS", "STALE", "DUE", "FAILURES", "LAST ERROR"]
            .map(|title| (title.to_owned(), bold)),
    ];
    rows.extend(windows.iter().map(|window| row(window, now, zone)));
    let widths: [usize; 8] = std::array::from_fn(|column| {
        rows.iter().map(|row| row[column].0.chars().count()).max().unwrap_or(0)
    });
    for row in &rows {
        text.push('\n');
        for (column, (cell, style)) in row.iter().enumerate() {
            let padding = widths[column] - cell.chars().count();
            // Numbers stand to the right; the last column needs no padding.
            let (before, after) = match column {
                2 | 6 => (padding, 2),
                7 => (0, 0),
                _ => (0, padding + 2),
            };
            write!(text, "{:before$}{style}{cell}{style:#}{:after$}", "", "").ok();
        }
        text.truncate(text.trim_end_matches(' ').len());
    }
    text.push('\n');
    text
}

fn row(window: &WindowStatus, now: Timestamp, zone: &TimeZone) -> [(String, Style); 8] {
    let plain = Style::new();
    let error = window.last_error.as_ref().map_or(String::new(), |error| {
        let mut text = printable(&format!("{}: {}", error.kind, error.message));
        if let Some((cut, _)) = text.char_indices().nth(ERROR_WIDTH) {
            text.truncate(cut);
            text.push('…');
        }
        text
    });
    let stale = window.stale_s.map_or("-".into(), span);
    let stale_style = if window.state.is_trouble() || window.is_healthy() {
        plain
    } else {
        AnsiColor::Yellow.on_default()
    };
    [
        (printable(&window.name), plain),
        (state_text(window.state), colour(window.state)),
        (window.events.to_string(), plain),
        (window.last_success.map_or("never".into(), |at| time(at, now, zone)), plain),
        (stale, stale_style),
        (window.next_due.map_or("-".into(), |due| until(due.max(now), now)), plain),
        (window.failures.to_string(), plain),
        (error, plain),
    ]
}

/// Everything about one window, a line each.
fn details(window: &WindowStatus, now: Timestamp, zone: &TimeZone) -> String {
    let style = colour(window.state);
    let moment = |at: Timestamp| format!("{} ({})", full(at, zone), until(at, now));
    let mut lines = vec![
        ("window", printable(&window.name)),
        ("account", printable(&window.account)),
        ("mailbox", printable(&window.mailbox)),
        ("calendar", printable(&window.calendar)),
        ("from", full(window.start, zone)),
        ("until", full(window.end, zone)),
        ("state", format!("{style}{}{style:#}", state_text(window.state))),
        ("healthy", if window.is_healthy() { "yes" } else { "no" }.to_owned()),
        ("events", window.events.to_string()),
        ("last success", window.last_success.map_or("never".into(), moment)),
        ("next due", window.next_due.map_or("-".into(), moment)),
        ("failures", window.failures.to_string()),
        ("resyncs", window.resyncs.to_string()),
    ];
    if let Some(resync) = &window.last_resync {
        let reason = resync.reason.word();
        lines.push(("last resync", format!("{}: {reason}", moment(resync.at))));
    }
    if let Some(round) = &window.last_round {
        lines.push(("last round", super::sync::report(round)));
    }
    for segment in window.segments.iter().filter(|_| window.segments.len() > 1) {
        let mode = printable(&segment.mode);
        let edges = format!("{} to {}", full(segment.start, zone), full(segment.end, zone));
        lines.push(("segment", format!("{edges}, {mode}")));
    }
    if let [segment] = &*window.segments {
        lines.push(("mode", printable(&segment.mode)));
    }
    if let Some(error) = &window.last_error {
        lines.push(("last error", format!("{} at {}", printable(&error.kind), moment(error.at))));
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
    let mut text = String::new();
    for (name, value) in lines {
        writeln!(text, "{name:<13} {value}").ok();
    }
    if window.state == State::Held {
        let until = window.next_due.map_or("the next enumeration".to_owned(), moment);
        let name = quoted(&window.name);
        writeln!(
            text,
            "\nheld: a removal of more than half of the events waits until {until}; what Graph lists then is believed.\nTo believe it now: calmirror resync {name} --accept-removals"
        )
        .ok();
    }
    text
}

/// A name as a shell takes it for one word.
fn quoted(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "@._+:-".contains(c);
    let name = printable(name);
    if name.chars().all(plain) && !name.starts_with('-') {
        return name;
    }
    format!("'{}'", name.replace('\'', r"'\''"))
}

fn colour(state: State) -> Style {
    match state {
        State::Settled | State::Following => AnsiColor::Green.on_default(),
        State::Enumerating => AnsiColor::Cyan.on_default(),
        State::BackingOff | State::Held => AnsiColor::Yellow.on_default(),
        State::Quarantined | State::SignInRequired | State::StoreFull => {
            AnsiColor::Red.on_default()
        }
    }
}

fn state_text(state: State) -> String {
    state.word().replace('_', " ")
}

/// A time of the last day by the clock, others with their date.
fn time(at: Timestamp, now: Timestamp, zone: &TimeZone) -> String {
    let recent = now.duration_since(at).as_hours() < 20;
    let form = if recent { "%H:%M:%S" } else { "%Y-%m-%d %H:%M" };
    at.to_zoned(zone.clone()).strftime(form).to_string()
}

fn full(at: Timestamp, zone: &TimeZone) -> String {
    at.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

fn until(at: Timestamp, now: Timestamp) -> String {
    let seconds = at.duration_since(now).as_secs_f64();
    if seconds >= 0.0 { format!("in {}", span(seconds)) } else { format!("{} ago", span(-seconds)) }
}

/// A length of time in its two largest units.
fn span(seconds: f64) -> String {
    // Whole seconds are enough for a person.
    #[expect(clippy::cast_possible_truncation, reason = "a float cast saturates")]
    let whole = seconds.max(0.0) as i64;
    match (whole / 86_400, whole / 3600 % 24, whole / 60 % 60, whole % 60) {
        (0, 0, 0, s) => format!("{s}s"),
        (0, 0, m, s) => format!("{m}m {s}s"),
        (0, h, m, _) => format!("{h}h {m}m"),
        (d, h, ..) => format!("{d}d {h}h"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]
    use super::*;
    use anstream::adapter::strip_str;
    use serde_json::json;

    use crate::config::Fault;
    use crate::supervisor::reload::Refusal;

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
        serde_json::from_value::<Window>(value).unwrap().into()
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
                "message": "access is denied by an application access policy;\u{1b}[31m ask whoever administers the tenant",
                "request_id": "5a1c", "retry_at": "2026-11-21T12:00:00Z"}}),
            ),
        ]
    }

    #[test]
    fn the_table_shows_trouble_first() {
        let table = table(fleet(), at("2026-11-21T10:00:00Z"), &TimeZone::UTC);
        insta::assert_snapshot!(strip_str(&table).to_string());
    }

    #[test]
    fn a_window_shows_everything_known() {
        let window = fleet().pop().unwrap();
        let details = details(&window, at("2026-11-21T10:00:00Z"), &TimeZone::UTC);
        insta::assert_snapshot!(strip_str(&details).to_string());
    }

    #[test]
    fn a_held_window_says_until_when_and_how_to_end_it() {
        let now = at("2026-11-21T10:00:00Z");
        let shown = |name: &str, state: &str| {
            let window = window(name, json!({"state": state, "next_due": "2026-11-21T10:08:00Z"}));
            strip_str(&details(&window, now, &TimeZone::UTC)).to_string()
        };
        let held = shown("it's mine", "held");
        assert!(held.contains("waits until 2026-11-21 10:08:00 (in 8m 0s)"), "{held}");
        let command = r"calmirror resync 'it'\''s mine' --accept-removals";
        assert!(held.ends_with(&format!("{command}\n")), "{held}");
        assert!(shown("alice", "held").contains(" resync alice --accept-removals\n"));
        assert!(!shown("alice", "backing_off").contains("held"));
    }

    #[test]
    fn of_several_faults_the_first_is_named() {
        let fault = |line: usize| Fault {
            file: Some("/etc/c.toml".into()),
            line: Some(line),
            key: "api.listen".to_owned(),
            problem: "wrong".to_owned(),
            remedy: "mend it".to_owned(),
        };
        let last = |faults: Vec<Fault>| LastReload {
            at: at("2026-11-21T10:00:00Z"),
            outcome: Ending::Refused,
            message: Refusal::Faults(faults.clone()).to_string(),
            faults,
        };
        let one = "/etc/c.toml:7: api.listen: wrong; mend it";
        assert_eq!(reason(&last(vec![fault(7)])), one);
        let told = format!(
            "2 faults in the configuration, the first: {one} (calmirror check shows them all)"
        );
        assert_eq!(reason(&last(vec![fault(7), fault(9)])), told);
    }

    #[test]
    fn a_screen_shows_what_it_holds() {
        let text = "a\nb\nc\nd\ne\n";
        assert_eq!(fitting(text, 6), text);
        assert_eq!(fitting(text, 5), "a\nb\nc\n… and 2 lines more\n");
        assert_eq!(fitting(text, 0), text, "a screen that does not know its size");
    }

    #[test]
    fn lengths_of_time_have_two_units() {
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
