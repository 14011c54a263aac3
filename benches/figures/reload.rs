//! `reload`: the cost of applying a changed configuration. A file of 100,000 mailboxes is parsed
//! and compared; then a running daemon with 20,000 windows changes a hundred of them. A scrape of
//! that daemon's metrics, which reads all windows, is measured too.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use calmirror::config::{self, Config, Sources};
use jiff::Timestamp;

use crate::daemon::{Daemon, Setup, directory, write_mailboxes};
use crate::graph::Graph;
use crate::table::{Row, Table, ms, quantile};

/// The name to select this figure by.
pub(crate) const NAME: &str = "reload";
const MAILBOXES: usize = 100_000;
const WINDOWS: usize = 20_000;
/// The number of windows removed, and the number added.
const CHANGED: usize = 50;
/// Scrapes of the metrics.
const SCRAPES: u32 = 200;

pub(crate) async fn run(table: &mut Table) {
    tokio::task::block_in_place(|| compare(table));
    apply(table).await;
}

fn compare(table: &mut Table) {
    let directory = directory();
    let directory = directory.path();
    let file = configure(directory);
    write_mailboxes(directory, 0..MAILBOXES);
    let sources = Sources::find(Some(&file), BTreeMap::new());
    let load = || Config::load(&sources, Timestamp::now()).unwrap();
    let old = load();
    write_mailboxes(directory, CHANGED..MAILBOXES + CHANGED);
    let began = Instant::now();
    let new = load();
    let parsed = began.elapsed();
    let difference = config::diff(&old, &new);
    let took = began.elapsed();
    assert_eq!((difference.added.len(), difference.removed.len()), (CHANGED, CHANGED));
    let began = Instant::now();
    let text = fs::read_to_string(directory.join("mailboxes.txt")).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    let bare = began.elapsed();
    assert_eq!(lines.len(), MAILBOXES);
    table.row(Row {
        figure: format!("{NAME}: {MAILBOXES} mailboxes parsed and compared"),
        measured: format!("{:.0} ms ({:.0} to parse)", ms(took), ms(parsed)),
        baseline: format!("lines read and sorted {:.0} ms", ms(bare)),
        ratio: Some(took.as_secs_f64() / bare.as_secs_f64()),
        limit: "< 2 s".to_owned(),
        kept: Some(took < Duration::from_secs(2)),
    });
}

async fn apply(table: &mut Table) {
    let graph = Graph::start(WINDOWS + CHANGED).await;
    let directory = directory();
    let setup =
        Setup { origin: graph.origin(), mailboxes: WINDOWS, interval: "6h", page_size: 200 };
    let mut daemon = Daemon::start(directory.path(), &setup).await;
    daemon.settle(Duration::from_millis(500)).await;
    // No round is due soon, so that only the reload causes requests.
    for what in ["nothing", "a hundred"] {
        let first = if what == "nothing" { 0 } else { CHANGED };
        write_mailboxes(directory.path(), first..WINDOWS + first);
        graph.take_arrivals();
        let began = Instant::now();
        let told = daemon.post("/v1/reload").await;
        let took = began.elapsed();
        assert_eq!(told["windows"]["unchanged"], WINDOWS - first);
        daemon.settle(Duration::from_millis(100)).await;
        let arrivals = graph.take_arrivals();
        let others = arrivals.iter().filter(|arrival| arrival.mailbox < WINDOWS).count();
        let began = Instant::now();
        daemon.get("/healthz").await;
        table.row(Row {
            figure: format!("{NAME}: {WINDOWS} windows, {what} changed"),
            measured: format!("{:.0} ms", ms(took)),
            baseline: format!(
                "healthz {:.2} ms, {others} requests for the unchanged",
                ms(began.elapsed())
            ),
            ratio: None,
            limit: "< 1 s, 0".to_owned(),
            kept: Some(took < Duration::from_secs(1) && others == 0),
        });
    }
    scrape(table, &mut daemon).await;
    daemon.stop().await;
}

/// Measures `/metrics` while nothing else happens.
async fn scrape(table: &mut Table, daemon: &mut Daemon) {
    let [metrics, healthz] = [time(daemon, "/metrics").await, time(daemon, "/healthz").await];
    let [half, slow] = [0.5, 0.99].map(|share| ms(quantile(&metrics.took, share).unwrap()));
    let bare = ms(quantile(&healthz.took, 0.5).unwrap());
    table.row(Row {
        figure: format!("{NAME}: /metrics, {WINDOWS} windows, p50/p99"),
        measured: format!("{half:.2}/{slow:.2} ms, cpu {:.2} ms", ms(metrics.cpu / SCRAPES)),
        baseline: format!("healthz {bare:.2} ms, cpu {:.2} ms", ms(healthz.cpu / SCRAPES)),
        ratio: Some(half / bare),
        ..Row::default()
    });
}

/// The times and the processor time of [`SCRAPES`] requests.
struct Timed {
    /// Sorted.
    took: Vec<Duration>,
    cpu: Duration,
}

async fn time(daemon: &mut Daemon, path: &str) -> Timed {
    daemon.get(path).await;
    let cpu = daemon.cpu();
    let mut took = Vec::new();
    for _ in 0..SCRAPES {
        let began = Instant::now();
        daemon.get(path).await;
        took.push(began.elapsed());
    }
    took.sort_unstable();
    Timed { took, cpu: daemon.cpu() - cpu }
}

/// A configuration with all windows in one file.
fn configure(directory: &Path) -> std::path::PathBuf {
    let secret = directory.join("secret");
    fs::write(&secret, "s3cret").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let mut text = String::from("[account.bench]\ntenant = \"t\"\nclient_id = \"c\"\n");
    writeln!(text, "client_secret_file = \"secret\"\n[[window]]\naccount = \"bench\"").unwrap();
    writeln!(text, "mailboxes_file = \"mailboxes.txt\"\nname = \"room {{mailbox}}\"").unwrap();
    let file = directory.join("calmirror.toml");
    fs::write(&file, text).unwrap();
    file
}
