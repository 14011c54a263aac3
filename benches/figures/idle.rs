//! `fleet idle`: 20,000 windows at 60 s without changes, which shows the cost of polling.
//!
//! The fleet settles once, then the daemon restarts, as after an update: its first rounds are
//! spread over the interval, and one minute of that is measured.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};

use crate::daemon::{Daemon, Setup, directory};
use crate::graph::{Arrival, Graph, mailbox};
use crate::table::{Row, Table, ms, note, quantile};

/// The name to select this figure by.
pub(crate) const NAME: &str = "fleet idle";
/// The name of its last figure, which needs no large fleet.
pub(crate) const MOST: &str = "fleet idle: most rounds/s";
const WINDOWS: usize = 20_000;
const FEW: usize = 2_000;
const BUSY: usize = 4_000;
const QUIET: usize = 200;
const MINUTE: Duration = Duration::from_secs(60);
/// Windows whose due times are read from the API, and the interval of reading each.
const SAMPLE: usize = 500;
const EVERY: Duration = Duration::from_secs(10);

pub(crate) async fn run(table: &mut Table) {
    let graph = Graph::start(WINDOWS).await;
    let watched = watch(&graph, WINDOWS, "60s", MINUTE).await;
    let rate = watched.rounds as f64 / MINUTE.as_secs_f64();
    let core = watched.cpu.as_secs_f64() / MINUTE.as_secs_f64();
    table.row(Row {
        figure: format!("{NAME}: cpu, {WINDOWS} windows at 60 s"),
        measured: format!("{:.1} % of a core", core * 100.0),
        baseline: format!("{rate:.0} rounds/s, {:.2} ms each", core / rate * 1000.0),
        ratio: Some(core),
        limit: "< 0.25".to_owned(),
        kept: Some(core < 0.25),
    });
    let late = watched.lateness;
    let [half, slow] = [0.5, 0.99].map(|share| ms(quantile(&late, share).unwrap()));
    table.row(Row {
        figure: format!("{NAME}: lateness p50/p99"),
        measured: format!("{half:.0}/{slow:.0} ms"),
        baseline: format!("{} rounds looked at", late.len()),
        ratio: Some(slow / 60_000.0),
        limit: "< 1,000 ms".to_owned(),
        kept: Some(slow < 1000.0),
    });
    let few = watch(&graph, FEW, "15s", Duration::from_secs(20)).await;
    let each = (watched.resident as f64 - few.resident as f64) / (WINDOWS - FEW) as f64 / 1024.0;
    table.row(Row {
        figure: format!("{NAME}: memory per further window"),
        measured: format!("{each:.2} KiB"),
        baseline: format!("{} MiB, at {FEW} {} MiB", watched.resident >> 20, few.resident >> 20),
        limit: "≤ 200 MB in all".to_owned(),
        kept: Some(watched.resident <= 200_000_000),
        ..Row::default()
    });
    written(table, &graph).await;
}

/// Measures the bytes written in a minute without a round, by a store that took many links before.
async fn written(table: &mut Table, graph: &Graph) {
    let directory = directory();
    let setup =
        |interval| Setup { origin: graph.origin(), mailboxes: QUIET, interval, page_size: 200 };
    let mut daemon = Daemon::start(directory.path(), &setup("1s")).await;
    daemon.settle(Duration::from_secs(1)).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    daemon.stop().await;
    let daemon = Daemon::start(directory.path(), &setup("1d")).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let before = daemon.written();
    tokio::time::sleep(MINUTE).await;
    let rate = (daemon.written() - before) as f64 / MINUTE.as_secs_f64() / 1024.0;
    table.row(Row {
        figure: format!("{NAME}: written to disk, {QUIET} windows, none due"),
        measured: format!("{rate:.2} KiB/s"),
        limit: "0".to_owned(),
        kept: Some(rate == 0.0),
        ..Row::default()
    });
    daemon.stop().await;
}

/// The measured cost of watching a settled fleet.
struct Watched {
    rounds: u64,
    cpu: Duration,
    resident: u64,
    /// The delays of rounds, sorted.
    lateness: Vec<Duration>,
}

async fn watch(graph: &Graph, windows: usize, interval: &str, span: Duration) -> Watched {
    let directory = directory();
    let setup = Setup { origin: graph.origin(), mailboxes: windows, interval, page_size: 200 };
    let began = Instant::now();
    let mut daemon = Daemon::start(directory.path(), &setup).await;
    daemon.settle(Duration::from_secs(1)).await;
    note(format_args!("{NAME}: {windows} settled in {:.0} s", began.elapsed().as_secs_f64()));
    daemon.stop().await;
    let mut daemon = Daemon::start(directory.path(), &setup).await;
    // Startup does not count as idling.
    tokio::time::sleep(Duration::from_secs(2)).await;
    graph.take_arrivals();
    let (began, since, requests, cpu) =
        (Instant::now(), Timestamp::now(), graph.requests(), daemon.cpu());
    let due = due_times(&mut daemon, windows, began + span).await;
    let (until, cpu) = (Timestamp::now(), daemon.cpu() - cpu);
    let rounds = graph.requests() - requests;
    let resident = daemon.resident();
    // Rounds due at the very end still arrive.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let lateness = lateness(&due, &graph.take_arrivals(), since, until);
    daemon.stop().await;
    Watched { rounds, cpu, resident, lateness }
}

/// Polls `next_due` of a sample, a few windows at a time.
async fn due_times(
    daemon: &mut Daemon,
    windows: usize,
    until: Instant,
) -> BTreeMap<usize, BTreeSet<Timestamp>> {
    let mut due: BTreeMap<usize, BTreeSet<Timestamp>> = BTreeMap::new();
    let sample: Vec<usize> = (0..windows).step_by((windows / SAMPLE).max(1)).collect();
    let mut tick = tokio::time::interval(EVERY / SAMPLE as u32);
    for number in sample.iter().cycle() {
        tick.tick().await;
        if Instant::now() >= until {
            break;
        }
        let window = daemon.json(&format!("/v1/windows/{}", mailbox(*number))).await;
        if let Some(at) = window["next_due"].as_str() {
            due.entry(*number).or_default().insert(at.parse().unwrap());
        }
    }
    due
}

/// The delays between a round's due time and its request at Graph.
fn lateness(
    due: &BTreeMap<usize, BTreeSet<Timestamp>>,
    arrivals: &[Arrival],
    since: Timestamp,
    until: Timestamp,
) -> Vec<Duration> {
    let mut asked: BTreeMap<usize, Vec<Timestamp>> = BTreeMap::new();
    for arrival in arrivals {
        asked.entry(arrival.mailbox).or_default().push(arrival.at);
    }
    // The two clocks are read one after the other, so a request may seem a little early.
    let grain = SignedDuration::from_millis(5);
    let mut late = Vec::new();
    for (mailbox, times) in due {
        for at in times.iter().filter(|at| (since + grain..until).contains(*at)) {
            let came = asked.get(mailbox).and_then(|t| t.iter().find(|t| **t + grain >= *at));
            // A missing request counts with the longest delay observable.
            let came = came.copied().unwrap_or(until + SignedDuration::from_secs(2));
            late.push(Duration::try_from(came.duration_since(*at)).unwrap_or_default());
        }
    }
    late.sort_unstable();
    late
}

/// Measures the highest rate of rounds, with more windows at the shortest interval than can be
/// served.
pub(crate) async fn most(table: &mut Table) {
    let graph = Graph::start(BUSY).await;
    let directory = directory();
    let setup = Setup { origin: graph.origin(), mailboxes: BUSY, interval: "1s", page_size: 200 };
    let mut daemon = Daemon::start(directory.path(), &setup).await;
    daemon.settle(Duration::from_secs(1)).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let span = Duration::from_secs(15);
    let (requests, cpu) = (graph.requests(), daemon.cpu());
    tokio::time::sleep(span).await;
    let rate = (graph.requests() - requests) as f64 / span.as_secs_f64();
    let cpu = daemon.cpu() - cpu;
    let share = cpu.as_secs_f64() / span.as_secs_f64();
    table.row(Row {
        figure: format!("{MOST}, {BUSY} windows at 1 s"),
        measured: format!("{rate:.0}/s"),
        baseline: format!(
            "{:.0} % of a core, {:.2} ms each",
            share * 100.0,
            ms(cpu) / span.as_secs_f64() / rate
        ),
        ratio: Some(rate / BUSY as f64),
        limit: "≤ 40 %".to_owned(),
        kept: Some(share <= 0.4),
    });
    daemon.stop().await;
}
