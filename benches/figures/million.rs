//! `million`: a million windows in one process, at an interval of an hour: 278 rounds a second.
//!
//! This process fills the stores by commits, so that no enumeration is measured. The first store is
//! a tenth of the second one: the difference is the memory of a window.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use calmirror::env::Env;
use calmirror::mirror::commit::Commit;
use calmirror::mirror::page::Link;
use calmirror::mirror::position::{Phase, Position, WindowId};
use calmirror::store::{Store, StoreOptions};
use jiff::{SignedDuration, Timestamp};

use crate::daemon::{Daemon, Setup, directory, write_mailboxes};
use crate::graph::mailbox;
use crate::query::{item, wanted};
use crate::quiet::{QuietGraph, link};
use crate::table::{Row, Table, ms, note, quantile};

/// The name to select this figure by.
pub(crate) const NAME: &str = "million";
/// The name to select the memory of windows that have had a round by.
pub(crate) const SETTLED_NAME: &str = "settled";
/// The windows of the two fleets of it.
const SETTLED: [usize; 2] = [100_000, 300_000];
/// The number of windows, unless [`WINDOWS_VARIABLE`] is set.
const WINDOWS: usize = 1_000_000;
/// The variable with another number of windows.
const WINDOWS_VARIABLE: &str = "CALMIRROR_FIGURES_WINDOWS";
/// Events in each window, unless [`EVENTS_VARIABLE`] is set.
const EVENTS: usize = 3;
/// The variable with another number of events in each window.
const EVENTS_VARIABLE: &str = "CALMIRROR_FIGURES_WINDOW_EVENTS";
/// Bytes of each event.
const BYTES: usize = 1500;
/// Windows filled at the same time.
const WRITERS: usize = 256;
/// Windows registered at once.
const SLICE: usize = 10_000;
const MINUTE: Duration = Duration::from_secs(60);
/// Pages of 10,000 windows whose due times are read from the API.
const PAGES: usize = 6;

pub(crate) async fn run(table: &mut Table) {
    let number =
        |name, usual| std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(usual);
    let windows: usize = number(WINDOWS_VARIABLE, WINDOWS);
    let events = number(EVENTS_VARIABLE, EVENTS);
    let graph = QuietGraph::start().await;
    let few = windows / 10;
    let small = Measured::of(&graph, few, events, None).await;
    let large = Measured::of(&graph, windows, events, Some(table)).await;
    let each = (large.resident as f64 - small.resident as f64) / (windows - few) as f64;
    table.row(Row {
        figure: format!("{NAME}: memory per further window"),
        measured: format!("{:.2} KiB", each / 1024.0),
        baseline: format!("{} MiB, at {few} {} MiB", large.resident >> 20, small.resident >> 20),
        ratio: Some(each / 2500.0),
        limit: "≤ 2.5 KB".to_owned(),
        kept: Some(each <= 2500.0),
    });
}

/// The memory of a further window once each has had a round in the process: of 200,000 more.
pub(crate) async fn settled_memory(table: &mut Table) {
    let graph = QuietGraph::start().await;
    let [few, many] = SETTLED;
    let [small, large] = [after_rounds(&graph, few).await, after_rounds(&graph, many).await];
    let each = (large as f64 - small as f64) / (many - few) as f64;
    table.row(Row {
        figure: format!("{SETTLED_NAME}: memory per further window"),
        measured: format!("{:.2} KiB", each / 1024.0),
        baseline: format!("{} MiB, at {few} {} MiB", large >> 20, small >> 20),
        ratio: Some(each / 2500.0),
        limit: "≤ 2.5 KB".to_owned(),
        kept: Some(each <= 2500.0),
    });
}

/// The resident memory of a daemon once every window has had a round.
async fn after_rounds(graph: &QuietGraph, windows: usize) -> u64 {
    let directory = directory();
    let origin = graph.origin();
    fill(directory.path(), &origin, windows, EVENTS).await;
    let setup = Setup { origin, mailboxes: windows, interval: "2m", page_size: 200 };
    let daemon = Daemon::start(directory.path(), &setup).await;
    graph.take_arrivals();
    let mut came = BTreeSet::new();
    while came.len() < windows {
        tokio::time::sleep(Duration::from_secs(1)).await;
        came.extend(graph.take_arrivals().into_iter().map(|arrival| arrival.mailbox));
    }
    let resident = daemon.resident();
    note(format_args!("{SETTLED_NAME}: {windows} windows, {} MiB", resident >> 20));
    daemon.stop().await;
    resident
}

/// What a fleet that has restarted costs.
struct Measured {
    resident: u64,
}

impl Measured {
    /// Fills a store, and measures the daemon that opens it; all of it if there is a table.
    async fn of(
        graph: &QuietGraph,
        windows: usize,
        events: usize,
        table: Option<&mut Table>,
    ) -> Self {
        let directory = directory();
        let origin = graph.origin();
        let began = Instant::now();
        fill(directory.path(), &origin, windows, events).await;
        let filled = began.elapsed().as_secs_f64();
        note(format_args!("{NAME}: filled {windows} windows of {events} events in {filled:.0} s"));
        let setup = Setup { origin, mailboxes: windows, interval: "1h", page_size: 200 };
        let began = Instant::now();
        let mut daemon = Daemon::start(directory.path(), &setup).await;
        let opened = began.elapsed();
        let Some(table) = table else {
            // As long as the larger fleet is watched before its memory is read.
            tokio::time::sleep(MINUTE / 4).await;
            let resident = daemon.resident();
            daemon.stop().await;
            return Self { resident };
        };
        opening(table, "a clean stop", windows, opened, Duration::from_secs(30));
        let resident = watch(table, graph, &mut daemon, windows).await;
        reload(table, &mut daemon, directory.path(), windows).await;
        // It is killed after minutes of rounds, whose writes the next one has to read.
        write_mailboxes(directory.path(), 0..windows);
        drop(daemon);
        let began = Instant::now();
        let daemon = Daemon::start(directory.path(), &setup).await;
        opening(table, "a kill", windows, began.elapsed(), Duration::from_secs(60));
        let began = Instant::now();
        daemon.stop().await;
        note(format_args!("{NAME}: stopped in {:.1} s", began.elapsed().as_secs_f64()));
        Self { resident }
    }
}

fn opening(table: &mut Table, after: &str, windows: usize, took: Duration, limit: Duration) {
    table.row(Row {
        figure: format!("{NAME}: {windows} windows ready after {after}"),
        measured: format!("{:.1} s", took.as_secs_f64()),
        ratio: Some(took.as_secs_f64() / limit.as_secs_f64()),
        limit: format!("< {} s", limit.as_secs()),
        kept: Some(took < limit),
        ..Row::default()
    });
}

/// Measures a minute of rounds. Returns the resident memory at its end.
async fn watch(table: &mut Table, graph: &QuietGraph, daemon: &mut Daemon, windows: usize) -> u64 {
    let due = due_times(daemon, windows).await;
    graph.take_arrivals();
    let (since, began, cpu) = (Timestamp::now(), Instant::now(), daemon.cpu());
    tokio::time::sleep(MINUTE).await;
    let (took, cpu) = (began.elapsed().as_secs_f64(), daemon.cpu() - cpu);
    let resident = daemon.resident();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let arrivals = graph.take_arrivals();
    let core = cpu.as_secs_f64() / took;
    let rate = arrivals.len() as f64 / (took + 3.0);
    table.row(Row {
        figure: format!("{NAME}: cpu, {windows} windows at 1 h"),
        measured: format!("{:.1} % of a core", core * 100.0),
        baseline: format!("{rate:.0} rounds/s, {:.2} ms each", core / rate * 1000.0),
        ratio: Some(core / 0.5),
        limit: "≤ 0.5".to_owned(),
        kept: Some(core <= 0.5),
    });
    let first: BTreeMap<usize, Timestamp> =
        arrivals.iter().rev().map(|arrival| (arrival.mailbox, arrival.at)).collect();
    let until = since + SignedDuration::from_secs(60);
    let mut late: Vec<Duration> = due
        .into_iter()
        .filter(|(_, at)| (since..until).contains(at))
        .map(|(number, at)| {
            // A missing request counts with the longest delay observable.
            let came = first.get(&number).copied().unwrap_or(until + SignedDuration::from_secs(3));
            Duration::try_from(came.duration_since(at)).unwrap_or_default()
        })
        .collect();
    late.sort_unstable();
    let [half, slow] = [0.5, 0.99].map(|share| ms(quantile(&late, share).unwrap_or_default()));
    table.row(Row {
        figure: format!("{NAME}: lateness p50/p99"),
        measured: format!("{half:.0}/{slow:.0} ms"),
        baseline: format!("{} rounds looked at", late.len()),
        ratio: Some(slow / 2000.0),
        limit: "≤ 2,000 ms".to_owned(),
        kept: Some(slow <= 2000.0),
    });
    table.row(Row {
        figure: format!("{NAME}: memory, {windows} windows"),
        measured: format!("{} MiB", resident >> 20),
        ratio: Some(resident as f64 / (4_u64 << 30) as f64),
        limit: "≤ 4 GiB".to_owned(),
        kept: Some(resident <= 4 << 30),
        ..Row::default()
    });
    resident
}

/// When the windows of some pages of the list are due.
async fn due_times(daemon: &mut Daemon, windows: usize) -> Vec<(usize, Timestamp)> {
    let mut due = Vec::new();
    let mut path = "/v1/windows?limit=10000".to_owned();
    for _ in 0..PAGES.min(windows.div_ceil(10_000)) {
        let page = daemon.json(&path).await;
        for window in page["value"].as_array().unwrap() {
            let number = window["name"].as_str().unwrap().split('@').next().unwrap();
            if let Some(at) = window["next_due"].as_str() {
                due.push((number[1..].parse().unwrap(), at.parse().unwrap()));
            }
        }
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/v1/windows?limit=10000&page={next}");
    }
    due
}

async fn reload(table: &mut Table, daemon: &mut Daemon, directory: &Path, windows: usize) {
    // The first mailbox leaves, another one comes.
    write_mailboxes(directory, 1..windows + 1);
    let began = Instant::now();
    let outcome = daemon.post("/v1/reload").await;
    let took = began.elapsed();
    assert_eq!(outcome["windows"]["unchanged"], windows - 1);
    table.row(Row {
        figure: format!("{NAME}: reload of one line"),
        measured: format!("{:.2} s", took.as_secs_f64()),
        baseline: format!("{} MiB after it", daemon.resident() >> 20),
        ratio: Some(took.as_secs_f64() / 5.0),
        limit: "≤ 5 s".to_owned(),
        kept: Some(took <= Duration::from_secs(5)),
    });
}

/// Fills a store: every window has settled with these events.
pub(crate) async fn fill(directory: &Path, origin: &str, windows: usize, events: usize) {
    let options =
        StoreOptions { cache_bytes: 512 << 20, ..StoreOptions::new(directory.join("store")) };
    let (store, _) = Store::open(&options, &Env::real()).unwrap();
    let mut ids: Vec<WindowId> = Vec::with_capacity(windows);
    for first in (0..windows).step_by(SLICE) {
        let slice = first..(first + SLICE).min(windows);
        let slice = slice.map(|number| wanted(&mailbox(number))).collect();
        let registered = store.register(slice, Timestamp::now()).await.unwrap();
        ids.extend(registered.iter().map(|window| window.id));
    }
    let ids: Arc<[WindowId]> = ids.into();
    let origin: Arc<str> = origin.into();
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (store, ids, origin) = (store.clone(), ids.clone(), origin.clone());
            tokio::spawn(async move {
                for number in (writer..ids.len()).step_by(WRITERS) {
                    store.commit(settled(ids[number], number, &origin, events)).await.unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    store.close().await.unwrap();
}

/// The commit of a first enumeration.
fn settled(window: WindowId, number: usize, origin: &str, events: usize) -> Commit {
    let now = Timestamp::now();
    let mut commit = Commit::new(window, 0, now);
    commit.upserts =
        (0..events).map(|event| item(&format!("{number}-{event}"), event, 0, BYTES)).collect();
    let path = format!("/v1.0/users/{}/calendarView/delta", mailbox(number));
    let delta = Some(Link::new(link(origin, &path)));
    commit.position = Some(Position::new(Phase::Settled { delta }, false));
    (commit.counters.round, commit.counters.success) = (Some(1), Some(now));
    commit
}
