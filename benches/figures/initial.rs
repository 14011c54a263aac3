//! `fleet initial`: 200 mailboxes of 500 events of 3 KB each, from an empty store to a durable one.

use std::ffi::OsStr;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::bare::{self, Outcome};
use crate::daemon::{Daemon, Setup, directory};
use crate::graph::Graph;
use crate::table::{Row, Table, ms, note};
use crate::{disk, stages};

/// The name to select this figure by.
pub(crate) const NAME: &str = "fleet initial";
/// The variable with the path of another client, which downloads the same pages.
const CLIENT_VARIABLE: &str = "CALMIRROR_FIGURES_CLIENT";
const MAILBOXES: usize = 200;
const EVENTS: usize = 500;
const ALL: f64 = (MAILBOXES * EVENTS) as f64;
/// Events of a mailbox and bytes of their bodies, for 138,000 events of about 5 KB.
const LARGE: (usize, usize) = (690, 2300);
/// The daemon's default.
const PAGE_SIZE: u32 = 200;
/// Graph's pace: 500 events take 42 pages of about 1.5 s, just over a minute.
const SLOW_PAGE_SIZE: u32 = 12;
const SLOW: std::ops::Range<Duration> = Duration::from_millis(1450)..Duration::from_millis(1550);

/// An enumeration by the daemon.
struct Mirrored {
    took: Duration,
    cpu: Duration,
    /// Peak resident memory, bytes.
    peak: u64,
    /// Disk space of the store's files afterwards, bytes, with the reserve for a full disk.
    disk: u64,
}

pub(crate) async fn run(table: &mut Table) {
    let graph = Graph::start(MAILBOXES).await;
    graph.populate(EVENTS);
    for gzip in [false, true] {
        graph.set_gzip(gzip);
        let form = if gzip { "gzip" } else { "plain" };
        note(format_args!("{NAME}: {form}, pages rendered beforehand"));
        bare::download(&graph, MAILBOXES, PAGE_SIZE).await;
        let bare = bare::download(&graph, MAILBOXES, PAGE_SIZE).await;
        let size = bare.bytes as f64 / ALL;
        let daemon = mirror(&graph, EVENTS, PAGE_SIZE).await;
        note(format_args!(
            "{form}: {size:.0} bytes an event; bare {:.2} s, daemon {:.2} s",
            bare.took.as_secs_f64(),
            daemon.took.as_secs_f64()
        ));
        cost(table, form, &bare, &daemon);
        speed(table, form, &bare, &daemon);
        if let Some(client) = std::env::var_os(CLIENT_VARIABLE) {
            compare(table, form, &client, &graph, &daemon);
        }
        space(table, form, &bare, &daemon);
        if !gzip {
            stages::run(table, &graph, MAILBOXES, PAGE_SIZE).await;
        }
    }
    large(table).await;
    note(format_args!("{NAME}: Graph's pace, 1.5 s a page"));
    bare::download(&graph, MAILBOXES, SLOW_PAGE_SIZE).await;
    graph.set_latency(SLOW);
    let bare = bare::download(&graph, MAILBOXES, SLOW_PAGE_SIZE).await;
    let daemon = mirror(&graph, EVENTS, SLOW_PAGE_SIZE).await;
    let share = share(&bare, &daemon);
    table.row(Row {
        figure: format!("{NAME}: share of bare, 1.5 s a page"),
        measured: format!("{:.1} s", daemon.took.as_secs_f64()),
        baseline: format!("bare {:.1} s", bare.took.as_secs_f64()),
        ratio: Some(share),
        limit: "≥ 0.99".to_owned(),
        kept: Some(share >= 0.99),
    });
}

/// Larger events, compressed: the whole cost of an enumeration.
async fn large(table: &mut Table) {
    let (events, body_bytes) = LARGE;
    let graph = Graph::start(MAILBOXES).await;
    graph.populate_with(events, body_bytes);
    graph.set_gzip(true);
    bare::download(&graph, MAILBOXES, PAGE_SIZE).await;
    let bare = bare::download(&graph, MAILBOXES, PAGE_SIZE).await;
    let daemon = mirror(&graph, events, PAGE_SIZE).await;
    let all = MAILBOXES * events;
    let size = bare.bytes as f64 / all as f64 / 1000.0;
    let seconds = |name: &str, mine: Duration, least: Duration, limit: f64| Row {
        figure: format!("{NAME}: {name}, {all} events of {size:.1} KB, gzip"),
        measured: format!("{:.1} s", mine.as_secs_f64()),
        baseline: format!("bare {:.1} s", least.as_secs_f64()),
        ratio: Some(mine.as_secs_f64() / least.as_secs_f64()),
        limit: format!("≤ {limit} s"),
        kept: Some(mine.as_secs_f64() <= limit),
    };
    table.row(seconds("cpu", daemon.cpu, bare.cpu, 8.0));
    table.row(seconds("time", daemon.took, bare.took, 6.0));
    space(table, "gzip, large", &bare, &daemon);
}

/// Runs another client on the same pages. It gets the origin, an access token and the number of
/// mailboxes, whose names are `m00000@contoso.example` and so on.
fn compare(table: &mut Table, form: &str, client: &OsStr, graph: &Graph, daemon: &Mirrored) {
    let mailboxes = MAILBOXES.to_string();
    let began = Instant::now();
    let ended = tokio::task::block_in_place(|| {
        Command::new(client).args([graph.origin(), graph.token(), mailboxes]).status()
    });
    let took = began.elapsed();
    assert!(ended.expect("the client can be run").success(), "the client failed");
    let ratio = took.as_secs_f64() / daemon.took.as_secs_f64();
    table.row(Row {
        figure: format!("{NAME}: events/s, {form}, beside another client"),
        measured: format!("{:.0}/s", ALL / daemon.took.as_secs_f64()),
        baseline: format!("{:.0}/s", ALL / took.as_secs_f64()),
        ratio: Some(ratio),
        limit: "> 1".to_owned(),
        kept: Some(ratio > 1.0),
    });
}

/// Measures from the first request until all windows are settled.
async fn mirror(graph: &Graph, events: usize, page_size: u32) -> Mirrored {
    let directory = directory();
    graph.take_arrivals();
    let setup = Setup { origin: graph.origin(), mailboxes: MAILBOXES, interval: "1h", page_size };
    let mut daemon = Daemon::start(directory.path(), &setup).await;
    daemon.settle(Duration::from_millis(20)).await;
    let settled = jiff::Timestamp::now();
    let cpu = daemon.cpu();
    let first =
        graph.take_arrivals().first().map(|arrival| arrival.at).expect("the daemon made a request");
    assert_eq!(daemon.events().await, (MAILBOXES * events) as u64, "events are missing");
    let peak = daemon.peak();
    daemon.stop().await;
    let took = settled.duration_since(first).unsigned_abs();
    Mirrored { took, cpu, peak, disk: disk::disk_bytes(&directory.path().join("store")).0 }
}

/// Memory and disk, beside the bytes of the events as Graph sends them, uncompressed.
fn space(table: &mut Table, form: &str, bare: &Outcome, daemon: &Mirrored) {
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    table.row(Row {
        figure: format!("{NAME}: peak memory, {form}"),
        measured: format!("{:.0} MiB", mib(daemon.peak)),
        baseline: format!("{:.0} MiB of events", mib(bare.bytes)),
        ratio: None,
        limit: "≤ 300 MB".to_owned(),
        kept: Some(daemon.peak <= 300_000_000),
    });
    // The limit is of rows and keys, which `disk` counts.
    table.row(Row {
        figure: format!("{NAME}: disk after it, {form}"),
        measured: format!("{:.0} MiB", mib(daemon.disk)),
        baseline: format!("{:.0} MiB of events", mib(bare.bytes)),
        ratio: Some(daemon.disk as f64 / bare.bytes as f64),
        ..Row::default()
    });
}

fn share(bare: &Outcome, daemon: &Mirrored) -> f64 {
    bare.took.as_secs_f64() / daemon.took.as_secs_f64()
}

fn cost(table: &mut Table, form: &str, bare: &Outcome, daemon: &Mirrored) {
    let per = |cpu: Duration| ms(cpu) / ALL * 1000.0;
    let (mine, least) = (per(daemon.cpu), per(bare.cpu));
    table.row(Row {
        figure: format!("{NAME}: cpu per 1,000 events, {form}"),
        measured: format!("{mine:.1} ms"),
        baseline: format!("bare {least:.1} ms (receive)"),
        ratio: Some(mine / least),
        limit: "≤ 40 ms".to_owned(),
        kept: Some(mine <= 40.0),
    });
}

fn speed(table: &mut Table, form: &str, bare: &Outcome, daemon: &Mirrored) {
    let per_second = |took: Duration| ALL / took.as_secs_f64();
    let (mine, most) = (per_second(daemon.took), per_second(bare.took));
    table.row(Row {
        figure: format!("{NAME}: events/s, {form}"),
        measured: format!("{mine:.0}/s"),
        baseline: format!("bare {most:.0}/s"),
        ratio: Some(share(bare, daemon)),
        limit: "≥ 5,000/s".to_owned(),
        kept: Some(mine >= 5000.0),
    });
}
