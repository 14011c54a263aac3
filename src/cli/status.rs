//! `status`: prints the fleet as a table, windows in trouble first, or one window in full.
//! `--watch` redraws it.

mod format;
mod table;

use std::fmt::Write as _;
use std::io::Write;
use std::time::Duration;

use futures_util::StreamExt as _;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::arguments::StatusArgs;
use super::client::ApiClient;
use super::exit::{CliError, DONE, FAILED, UNAVAILABLE};
use super::suggest;
use super::terminal::{TerminalSize, printable, wrapped};
use crate::api::model::WindowJson;
use crate::mirror::clock;
use crate::mirror::status::{WindowState, WindowStatus};
use crate::percent;
use crate::platform::signals;
use crate::reload::{LastReload, ReloadOutcome};
pub(super) use format::{full, report};
use format::{span, style, until};

/// How often `--watch` fetches the status again.
const REDRAW: Duration = Duration::from_secs(2);

/// How long `--watch` keeps showing the last table while it waits for a response: an old table must
/// not look up to date.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

/// The most windows that one API response lists.
const PAGE: usize = 1000;

/// The members of `/v1/status` that are shown.
#[derive(Debug, Deserialize)]
struct DaemonStatus {
    version: String,
    uptime_s: f64,
    windows: StateCounts,
    #[serde(default)]
    last_reload: Option<LastReload>,
    #[serde(default)]
    clock: ReportedClock,
}

/// The daemon's wall clock compared with Graph's.
#[derive(Debug, Default, Deserialize)]
struct ReportedClock {
    skew_s: Option<f64>,
    wrong: bool,
}

/// Counts of the whole fleet, whatever the filter.
#[derive(Clone, Copy, Debug, Deserialize)]
struct StateCounts {
    total: usize,
    unhealthy: usize,
}

/// A page of windows; the windows are kept as raw JSON.
#[derive(Debug, Deserialize)]
struct WindowList {
    value: Vec<Value>,
    total: usize,
    next: Option<String>,
}

/// The fetched status of the fleet or of a window.
#[derive(Debug)]
enum StatusView {
    Fleet(Box<FleetStatus>),
    Window { value: Value, status: Box<WindowStatus> },
}

/// The requested windows, and the status of their daemon.
#[derive(Debug)]
struct FleetStatus {
    status: Value,
    daemon: DaemonStatus,
    value: Vec<Value>,
    windows: Vec<WindowStatus>,
    /// The number of matching windows, listed or not; `None` if it is not known.
    matching: Option<usize>,
    /// Whether a filter or a limit was given.
    filtered: bool,
}

#[derive(Serialize)]
struct FleetStatusJson<'a> {
    status: &'a Value,
    value: &'a [Value],
}

/// Prints the status of the fleet or of a window.
pub(super) async fn status(
    client: &ApiClient,
    args: &StatusArgs,
    json: bool,
    out: &mut impl Write,
) -> Result<u8, CliError> {
    if args.watch {
        return watch(client, args, out).await;
    }
    let view = StatusView::fetch(client, args, json).await?;
    let text = if json { view.json() } else { view.text(TerminalSize::of_stdout()) };
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(if view.is_healthy() { DONE } else { FAILED })
}

/// Fetches and draws the status until interrupted. Redraws when the terminal changes its size.
/// Waits for a daemon that restarts.
async fn watch(
    client: &ApiClient,
    args: &StatusArgs,
    out: &mut impl Write,
) -> Result<u8, CliError> {
    let mut resizes = signals::resizes()?;
    let mut reached = false;
    loop {
        let looking =
            tokio::time::timeout(RESPONSE_TIMEOUT, StatusView::fetch(client, args, false)).await;
        let silent = || {
            let message =
                format!("the daemon has not answered for {} s", RESPONSE_TIMEOUT.as_secs());
            CliError::new(UNAVAILABLE, message)
        };
        let view = match looking.unwrap_or_else(|_| Err(silent())) {
            Ok(view) => Ok(view),
            Err(failure) if reached && failure.exit == UNAVAILABLE => Err(failure),
            Err(failure) => return Err(failure),
        };
        reached = true;
        let mut over = std::pin::pin!(tokio::time::sleep(REDRAW));
        loop {
            let size = TerminalSize::of_stdout();
            let text = match &view {
                Ok(view) => view.text(size),
                Err(failure) => wrap_lines(&failure.to_string(), size),
            };
            draw(&text, size, out)?;
            tokio::select! {
                () = &mut over => break,
                Some(()) = resizes.next() => {}
            }
        }
    }
}

/// Replaces the content of the terminal with the text. Without a terminal, appends the text to the
/// output.
fn draw(text: &str, size: Option<TerminalSize>, out: &mut impl Write) -> Result<(), CliError> {
    let Some(size) = size else {
        out.write_all(text.as_bytes())?;
        return Ok(out.flush()?);
    };
    // Home, and clear from there on. Not through `out`, which would strip it like a colour.
    std::io::stdout().write_all(b"\x1b[H\x1b[J")?;
    out.write_all(truncate_lines(text, size.rows).as_bytes())?;
    Ok(out.flush()?)
}

/// The first lines of the text, as many as the terminal has rows. Windows in trouble come first.
fn truncate_lines(text: &str, rows: usize) -> String {
    let count = text.lines().count();
    if rows < 4 || count < rows {
        return text.to_owned();
    }
    let shown: Vec<&str> = text.lines().take(rows - 2).collect();
    format!("{}\n… and {} more lines\n", shown.join("\n"), count - shown.len())
}

/// The text with its lines wrapped to the width of the terminal.
fn wrap_lines(text: &str, size: Option<TerminalSize>) -> String {
    let columns = size.map_or(0, |size| size.columns);
    let lines = text.lines().flat_map(|line| {
        let indent = &line[..line.len() - line.trim_start().len()];
        wrapped(line, columns, indent)
    });
    lines.map(|line| line + "\n").collect()
}

impl StatusView {
    async fn fetch(client: &ApiClient, args: &StatusArgs, json: bool) -> Result<Self, CliError> {
        match &args.window {
            Some(name) => {
                let answer = client.get(&format!("/v1/windows/{}", percent::encode(name))).await?;
                let value: Value = suggest::or_suggestion(client, name, answer).await?.json()?;
                let status = Box::new(parse_window(&value)?);
                Ok(Self::Window { value, status })
            }
            None => Ok(Self::Fleet(Box::new(FleetStatus::fetch(client, args, json).await?))),
        }
    }

    fn is_healthy(&self) -> bool {
        match self {
            Self::Fleet(fleet) => fleet.windows.iter().all(WindowStatus::is_healthy),
            Self::Window { status, .. } => status.is_healthy(),
        }
    }

    fn json(&self) -> String {
        match self {
            Self::Fleet(fleet) => {
                let fleet = FleetStatusJson { status: &fleet.status, value: &fleet.value };
                serde_json::to_string(&fleet).unwrap_or_default() + "\n"
            }
            Self::Window { value, .. } => format!("{value}\n"),
        }
    }

    fn text(&self, size: Option<TerminalSize>) -> String {
        let (now, zone) = (Timestamp::now(), TimeZone::system());
        let columns = size.map(|size| size.columns).filter(|columns| *columns > 0);
        match self {
            Self::Fleet(fleet) => fleet.text(now, &zone, columns),
            Self::Window { status, .. } => details(status, now, &zone, columns),
        }
    }
}

impl FleetStatus {
    async fn fetch(client: &ApiClient, args: &StatusArgs, json: bool) -> Result<Self, CliError> {
        let status: Value = client.get("/v1/status").await?.json()?;
        let daemon: DaemonStatus = Deserialize::deserialize(&status)
            .map_err(|error| CliError::new(FAILED, format!("cannot parse the status: {error}")))?;
        let filtered = args.trouble || !args.state.is_empty() || args.limit.is_some();
        let limit = args.limit.unwrap_or(usize::MAX);
        // JSON of the whole fleet is ordered by name: scripts rely on it.
        let order = if json && !filtered { "name" } else { "trouble" };
        let states = args.state.join(",");
        let states = if states.is_empty() { states } else { format!("&state={states}") };
        let list = format!("/v1/windows?order={order}&limit={}{states}", limit.min(PAGE));
        let mut fleet = Self {
            status,
            matching: None,
            filtered,
            value: Vec::new(),
            windows: Vec::new(),
            daemon,
        };
        let mut path = list.clone();
        'pages: loop {
            let page: WindowList = client.get(&path).await?.json()?;
            fleet.matching = match (args.trouble, states.is_empty()) {
                (false, _) => Some(page.total),
                (true, true) => Some(fleet.daemon.windows.unhealthy),
                (true, false) => None,
            };
            for value in page.value {
                let window = parse_window(&value)?;
                // Unhealthy windows come first, so all windows after a healthy one are healthy.
                if fleet.windows.len() == limit || args.trouble && window.is_healthy() {
                    break 'pages;
                }
                fleet.windows.push(window);
                fleet.value.push(value);
            }
            match page.next {
                Some(next) if fleet.windows.len() < limit => path = format!("{list}&page={next}"),
                _ => break,
            }
        }
        Ok(fleet)
    }

    /// A few lines about the fleet, then the table.
    fn text(&self, now: Timestamp, zone: &TimeZone, columns: Option<usize>) -> String {
        let version = printable(&self.daemon.version);
        let mut lines = vec![format!("calmirror {version}, up {}", span(self.daemon.uptime_s))];
        let failed = |last: &&LastReload| last.outcome != ReloadOutcome::Applied;
        if let Some(last) = self.daemon.last_reload.as_ref().filter(failed) {
            let (at, why) = (full(last.at, zone), printable(&reason(last)));
            let line = format!("the last reload ({at}) changed nothing: {why}");
            lines.extend(wrapped(&line, columns.unwrap_or(0), "  "));
        }
        if let Some(skew) = self.daemon.clock.skew_s.filter(|_| self.daemon.clock.wrong) {
            lines.extend(wrapped(&wrong_clock(skew), columns.unwrap_or(0), "  "));
        }
        let StateCounts { total, unhealthy } = self.daemon.windows;
        let counts = format!("windows: {total}, healthy: {}", total.saturating_sub(unhealthy));
        if self.filtered {
            lines.push(counts);
        } else {
            let events: u64 = self.windows.iter().map(|window| window.events).sum();
            lines.push(format!("{counts}, events: {events}"));
        }
        if self.windows.is_empty() && self.filtered {
            lines.push("no window matches".to_owned());
        }
        lines.extend(table::lines(&self.windows, now, zone, columns));
        let left = self.matching.map_or(0, |all| all.saturating_sub(self.windows.len()));
        if left > 0 {
            lines.push(format!("… and {left} more"));
        }
        lines.join("\n") + "\n"
    }
}

/// The consequence of a wall clock that differs from Graph's, and the remedy.
fn wrong_clock(skew_s: f64) -> String {
    let way = if skew_s > 0.0 { "ahead of" } else { "behind" };
    let by = span(skew_s.abs());
    format!(
        "the daemon's clock is {by} {way} Graph's, edges of windows do not move: {}",
        clock::REMEDY
    )
}

/// Why a reload changed nothing. Of several faults only the first is named.
fn reason(last: &LastReload) -> String {
    match last.faults.as_slice() {
        // A single fault is already in the message.
        [first, _, ..] => {
            format!("{}, the first: {first} (calmirror check shows them all)", last.message)
        }
        _ => last.message.clone(),
    }
}

/// The names of all windows.
pub(super) async fn names(client: &ApiClient) -> Result<Vec<String>, CliError> {
    #[derive(Deserialize)]
    struct WindowNameJson {
        name: String,
    }
    #[derive(Deserialize)]
    struct WindowNamesJson {
        value: Vec<WindowNameJson>,
        next: Option<String>,
    }
    let mut names = Vec::new();
    let mut path = format!("/v1/windows?limit={PAGE}");
    loop {
        let page: WindowNamesJson = client.get(&path).await?.json()?;
        names.extend(page.value.into_iter().map(|window| window.name));
        match page.next {
            Some(next) => path = format!("/v1/windows?limit={PAGE}&page={next}"),
            None => return Ok(names),
        }
    }
}

fn parse_window(value: &Value) -> Result<WindowStatus, CliError> {
    WindowJson::deserialize(value).map(WindowStatus::from).map_err(|error| {
        CliError::new(FAILED, format!("cannot parse a window's status: {error}"))
            .remedy("are this program and the daemon the same version (calmirror --version)?")
    })
}

/// All details of one window, one per line.
fn details(
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
pub(super) fn shell_quote(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "@._+:-".contains(c);
    let name = printable(name);
    if name.chars().all(plain) && !name.starts_with('-') {
        return name;
    }
    format!("'{}'", name.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use anstream::adapter::strip_str;
    use serde_json::json;

    use super::super::terminal::{is_control, width};

    use crate::config::Diagnostic;
    use crate::reload::ReloadError;

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
    fn the_table_is_as_wide_as_the_terminal() {
        insta::assert_snapshot!(shown(&fleet(), Some(100)));
    }

    #[test]
    fn a_pipe_gets_a_line_for_each_window_and_errors_are_whole() {
        let shown = shown(&fleet(), None);
        assert_eq!(shown.lines().count(), fleet().len() + 1);
        let bob = shown.lines().find(|line| line.starts_with("bob")).unwrap();
        assert!(bob.ends_with(" ask the administrator of the tenant"), "{bob}");
    }

    #[test]
    fn no_terminal_is_too_narrow_for_the_remedy() {
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
    fn names_and_errors_of_others_do_not_command_the_terminal() {
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
    fn a_window_shows_everything_known() {
        let window = fleet().pop().unwrap();
        let details = details(&window, at("2026-11-21T10:00:00Z"), &TimeZone::UTC, None);
        insta::assert_snapshot!(strip_str(&details).to_string());
    }

    #[test]
    fn a_held_window_says_until_when_and_how_to_end_it() {
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
    fn of_several_faults_the_first_is_named() {
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
        let told = format!(
            "2 faults in the configuration, the first: {one} (calmirror check shows them all)"
        );
        assert_eq!(reason(&last(vec![fault(7), fault(9)])), told);
    }

    #[test]
    fn a_wrong_clock_is_told_with_its_remedy() {
        let ahead = wrong_clock(315_360_000.0);
        assert!(ahead.starts_with("the daemon's clock is 3650d 0h ahead of Graph's, "), "{ahead}");
        assert!(ahead.contains("NTP"), "{ahead}");
        assert!(wrong_clock(-3_660.0).contains("1h 1m behind Graph's"));
    }

    #[test]
    fn a_screen_shows_what_it_holds() {
        let text = "a\nb\nc\nd\ne\n";
        assert_eq!(truncate_lines(text, 6), text);
        assert_eq!(truncate_lines(text, 5), "a\nb\nc\n… and 2 more lines\n");
        assert_eq!(truncate_lines(text, 0), text, "a terminal that does not know its size");
    }
}
