//! The fleet's status: fetches it page by page and prints a few lines and the table.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Deserialize;
use serde_json::{Value, json};

use super::format::{full, span};
use super::table;
use crate::api::model::WindowJson;
use crate::api::{ConsumerJson, FleetStatusJson, SinkStatusJson};
use crate::cli::arguments::StatusArgs;
use crate::cli::client::{ApiClient, parse};
use crate::cli::exit::CliError;
use crate::cli::shards::MissingShards;
use crate::cli::sink::described;
use crate::cli::terminal::{printable, wrapped};
use crate::mirror::clock;
use crate::mirror::status::WindowStatus;
use crate::reload::{LastReload, ReloadOutcome};

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
    #[serde(default)]
    fleets: Vec<FleetStatusJson>,
    #[serde(default)]
    consumers: Vec<ConsumerJson>,
    #[serde(default)]
    sinks: Vec<ListedSink>,
    #[serde(default)]
    shards: Vec<ShardStatus>,
}

/// A sink, with its shard if there are several.
#[derive(Debug, Deserialize)]
struct ListedSink {
    #[serde(flatten)]
    sink: SinkStatusJson,
    shard: Option<String>,
}

/// One of several shards.
#[derive(Debug, Deserialize)]
struct ShardStatus {
    ordinal: String,
    version: String,
    uptime_s: f64,
    windows: StateCounts,
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
    #[serde(flatten)]
    missing: MissingShards,
}

/// The requested windows, and the status of their daemon.
#[derive(Debug)]
pub(super) struct FleetStatus {
    status: Value,
    daemon: DaemonStatus,
    value: Vec<Value>,
    pub(super) windows: Vec<WindowStatus>,
    /// The number of matching windows, listed or not; `None` if it is not known.
    matching: Option<usize>,
    /// Whether a filter or a limit was given.
    filtered: bool,
    missing: MissingShards,
}

impl FleetStatus {
    pub(super) async fn fetch(
        client: &ApiClient,
        args: &StatusArgs,
        json: bool,
    ) -> Result<Self, CliError> {
        let status: Value = client.get("/v1/status").await?.json()?;
        let daemon: DaemonStatus = parse(&status)?;
        let missing: MissingShards = parse(&status)?;
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
            missing,
        };
        let mut path = list.clone();
        'pages: loop {
            let page: WindowList = client.get(&path).await?.json()?;
            fleet.missing.add(page.missing);
            fleet.matching = match (args.trouble, states.is_empty()) {
                (false, _) => Some(page.total),
                (true, true) => Some(fleet.daemon.windows.unhealthy),
                (true, false) => None,
            };
            for value in page.value {
                let window = WindowStatus::from(parse::<WindowJson>(&value)?);
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

    /// Whether every window is healthy, every fleet could be listed, and every shard has
    /// answered.
    pub(super) fn is_healthy(&self) -> bool {
        self.windows.iter().all(WindowStatus::is_healthy)
            && self.daemon.fleets.iter().all(|fleet| fleet.last_error.is_none())
            && self.missing.is_empty()
    }

    /// The status of the daemon and of the windows as one JSON text.
    pub(super) fn json(&self) -> String {
        format!("{}\n", json!({ "status": self.status, "value": self.value }))
    }

    /// A few lines about the fleet, then the table.
    pub(super) fn text(&self, now: Timestamp, zone: &TimeZone, columns: Option<usize>) -> String {
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
        if let Some(line) = self.missing.line() {
            lines.extend(wrapped(&line, columns.unwrap_or(0), "  "));
        }
        lines.extend(self.daemon.shards.iter().map(shard_line));
        for fleet in &self.daemon.fleets {
            for line in fleet_lines(fleet, now, zone) {
                lines.extend(wrapped(&printable(&line), columns.unwrap_or(0), "  "));
            }
        }
        for consumer in &self.daemon.consumers {
            let line = consumer_line(consumer, now);
            lines.extend(wrapped(&printable(&line), columns.unwrap_or(0), "  "));
        }
        for ListedSink { sink, shard } in &self.daemon.sinks {
            let shard = shard.as_ref().map(|shard| format!("shard {}: ", printable(shard)));
            let shard = shard.unwrap_or_default();
            let text = format!("{shard}sink {}", described(sink, now, zone));
            for line in text.lines() {
                lines.extend(wrapped(line, columns.unwrap_or(0), "  "));
            }
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

/// A shard in a line.
fn shard_line(shard: &ShardStatus) -> String {
    let ShardStatus { ordinal, version, uptime_s, windows } = shard;
    let StateCounts { total, unhealthy } = windows;
    let healthy = total.saturating_sub(*unhealthy);
    let (ordinal, version, up) = (printable(ordinal), printable(version), span(*uptime_s));
    format!("shard {ordinal}: calmirror {version}, up {up}, windows: {total}, healthy: {healthy}")
}

/// A consumer in a line.
fn consumer_line(consumer: &ConsumerJson, now: Timestamp) -> String {
    let ConsumerJson { name, level, windows, last_used, .. } = consumer;
    let windows = windows.as_ref().map_or("all windows".to_owned(), |all| all.join(", "));
    let used = match last_used {
        Some(at) => format!("used {} ago", span(now.duration_since(*at).as_secs_f64().max(0.0))),
        None => "not used yet".to_owned(),
    };
    format!("consumer {name}: level {level}, {windows}, {used}")
}

/// A fleet in a line, and one for each of its troubles.
pub(in crate::cli) fn fleet_lines(
    fleet: &FleetStatusJson,
    now: Timestamp,
    zone: &TimeZone,
) -> Vec<String> {
    let name = &fleet.name;
    let listed = match fleet.listed_at {
        Some(at) => format!("listed {} ago", span(now.duration_since(at).as_secs_f64().max(0.0))),
        None => "not listed yet".to_owned(),
    };
    let without = match fleet.without_mailbox {
        0 => String::new(),
        count => format!(" ({count} without a mailbox)"),
    };
    let (members, windows) = (fleet.members, fleet.windows);
    let mut lines =
        vec![format!("fleet {name}: members: {members}{without}, windows: {windows}, {listed}")];
    if let Some(error) = &fleet.last_error {
        let remedy = error.remedy.as_ref().map(|remedy| format!("; {remedy}")).unwrap_or_default();
        lines.push(format!("fleet {name}: not listed, members stay: {}{remedy}", error.problem));
    }
    if let Some(held) = &fleet.held {
        let until = full(held.until, zone);
        let missing = held.missing;
        lines.push(format!(
            "fleet {name}: the listing lacks {missing} members; they stay unless one after {until} agrees"
        ));
    }
    if let Some(held) = &fleet.calendars_held {
        let (missing, until) = (held.missing, full(held.until, zone));
        lines.push(format!(
            "fleet {name}: the listing lacks the calendars of {missing} windows; they stay unless one after {until} agrees"
        ));
    }
    let faults = fleet.members_with_faults.iter().map(|fault| format!("fleet {name}: {fault}"));
    lines.extend(faults);
    let more = fleet.faults.saturating_sub(fleet.members_with_faults.len());
    if more > 0 {
        lines.push(format!("fleet {name}: … and {more} more members without a window"));
    }
    if !fleet.calendars_left_out.is_empty() {
        let names = fleet.calendars_left_out.join(", ");
        lines.push(format!("fleet {name}: calendars left out: {names}"));
    }
    lines
}

/// The consequence of a wall clock that differs from Graph's, and the remedy.
pub(super) fn wrong_clock(skew_s: f64) -> String {
    let way = if skew_s > 0.0 { "ahead of" } else { "behind" };
    let by = span(skew_s.abs());
    format!(
        "the daemon's clock is {by} {way} Graph's, edges of windows do not move: {}",
        clock::REMEDY
    )
}

/// Why a reload changed nothing. Of several faults only the first is named.
pub(super) fn reason(last: &LastReload) -> String {
    match last.faults.as_slice() {
        // A single fault is already in the message.
        [first, _, ..] => {
            format!("{}, the first: {first} (calmirror check shows them all)", last.message)
        }
        _ => last.message.clone(),
    }
}
