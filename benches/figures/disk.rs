//! `disk`: the size of a store's files beside its logical bytes, which are the uncompressed rows and
//! keys: after one sync, after ten rewrites of everything, and under fast changes.
//!
//! This process commits, and compacts as the daemon does, at the daemon's pace. The file that a
//! store keeps in reserve for a full disk is counted, and named in the row.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use calmirror::env::Env;
use calmirror::graph::wire;
use calmirror::mirror::change::RemovalReason;
use calmirror::mirror::commit::{Commit, Removal};
use calmirror::mirror::page::{EventId, Item};
use calmirror::mirror::position::WindowId;
use calmirror::mirror::window::BodyFormat;
use calmirror::store::{CompactionOutcome, EventQuery, SizeWatch, Store, StoreOptions};
use jiff::{SignedDuration, Timestamp};
use tokio::task::JoinHandle;

use crate::daemon::directory;
use crate::graph::{Graph, mailbox};
use crate::query;
use crate::stages::download;
use crate::table::{Row, Table, ms, note, quantile};

/// The name to select this figure by.
pub(crate) const NAME: &str = "disk";
const WINDOWS: usize = 200;
const EVENTS: usize = 500;
const REWRITES: usize = 10;
/// Events that exist at any time of the churn.
const CHURNING: usize = 4000;
/// Bytes of each of them.
const CHURNED_BYTES: usize = 5000;
/// The changes of seven minutes at 80 a second.
const CHANGES: usize = 33_600;
/// The pace of the churn here: seven times that of [`CHANGES`].
const CHANGE_EVERY: Duration = Duration::from_micros(1_785);
/// The daemon's pause in a compaction (`supervisor::maintenance`).
const PAUSE: Duration = Duration::from_millis(10);
/// How often the daemon looks whether the store has to be compacted (`supervisor::maintenance`).
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// The same at the pace of the churn here.
const CHURN_LOOK_EVERY: Duration = Duration::from_micros(8_571_429);
/// How often something is read, and the size measured.
const READ_EVERY: Duration = Duration::from_millis(20);
/// Keys of an event, the values that are no row, and the fields of a row before its texts.
const KEYS: usize = 59 + 54 + 42;
/// The same for a tombstone: its entry in the feed, its age, and the seq under its id.
const TOMBSTONE_KEYS: usize = 9 + 54 + 9 + 8 + 21 + 13;

pub(crate) async fn run(table: &mut Table) {
    let graph = Graph::start(WINDOWS).await;
    graph.populate(EVENTS);
    let mut pages: Vec<Vec<Vec<Item>>> = Vec::with_capacity(WINDOWS);
    for number in 0..WINDOWS {
        let bodies = download(&graph, number, 200).await;
        pages.push(bodies.iter().map(present).collect());
    }
    drop(graph);
    rewrites(table, &pages).await;
    churn(table).await;
}

fn present(body: &Bytes) -> Vec<Item> {
    wire::page(body, BodyFormat::Html).unwrap().present
}

/// One sync, and then each event ten times with another subject.
async fn rewrites(table: &mut Table, pages: &[Vec<Vec<Item>>]) {
    let measured = Measured::start(WINDOWS).await;
    let logical: u64 = pages.iter().flatten().flatten().map(logical).sum();
    write(&measured, pages, 0).await;
    row(table, "one sync", measured.disk(), logical, 0.3);
    let maintenance = measured.maintain(LOOK_EVERY);
    for turn in 1..=REWRITES {
        write(&measured, pages, turn).await;
    }
    let Looked { most, quiet, compacting } = maintenance.end().await;
    pauses(table, quiet, compacting);
    row(table, "ten rewrites", measured.disk(), logical, 0.6);
    row(table, "at most during ten rewrites", most, logical, f64::INFINITY);
    measured.store.close().await.unwrap();
}

/// Commits every page, all windows at once.
async fn write(measured: &Measured, pages: &[Vec<Vec<Item>>], turn: usize) {
    let writing: Vec<_> = pages
        .iter()
        .zip(&measured.windows)
        .map(|(pages, window)| {
            let (store, window, pages) = (measured.store.clone(), *window, pages.clone());
            tokio::spawn(async move {
                for page in pages {
                    let upserts = page.iter().map(|item| rewritten(item, turn)).collect();
                    let commit = Commit { upserts, ..Commit::new(window, 0, Timestamp::now()) };
                    store.commit(commit).await.unwrap();
                }
            })
        })
        .collect();
    for window in writing {
        window.await.unwrap();
    }
}

/// The event with another subject, unless `turn` is 0.
fn rewritten(item: &Item, turn: usize) -> Item {
    if turn == 0 {
        return item.clone();
    }
    let content = std::str::from_utf8(&item.content).unwrap();
    let content = content.replacen("\"subject\":\"", &format!("\"subject\":\"{turn} "), 1);
    Item { content: content.into(), ..item.clone() }
}

/// Deletes an event and creates another one, one commit after the other.
async fn churn(table: &mut Table) {
    let measured = Measured::start(1).await;
    let (store, window) = (&measured.store, measured.windows[0]);
    let event = |number: usize| query::item(&format!("{number:08}"), number, 0, CHURNED_BYTES);
    let upserts: Vec<Item> = (0..CHURNING).map(event).collect();
    let mut living: u64 = upserts.iter().map(logical).sum();
    store.commit(Commit { upserts, ..Commit::new(window, 0, Timestamp::now()) }).await.unwrap();
    let maintenance = measured.maintain(CHURN_LOOK_EVERY);
    let mut due = tokio::time::interval(CHANGE_EVERY);
    for number in 0..CHANGES / 2 {
        due.tick().await;
        due.tick().await;
        let (old, new) = (event(number), event(number + CHURNING));
        // The summary of a tombstone has about 200 bytes here.
        living += (2 * old.id.as_str().len() + 200 + TOMBSTONE_KEYS) as u64;
        let removals = vec![Removal { id: old.id.hash(), reason: RemovalReason::Deleted }];
        let commit = Commit { removals, ..Commit::new(window, 0, Timestamp::now()) };
        store.commit(commit).await.unwrap();
        let commit = Commit { upserts: vec![new], ..Commit::new(window, 0, Timestamp::now()) };
        store.commit(commit).await.unwrap();
    }
    let Looked { most, .. } = maintenance.end().await;
    row(table, "fast changes", measured.disk(), living, 1.0);
    row(table, "at most during fast changes", most, living, 3.0);
    measured.store.close().await.unwrap();
}

/// Uncompressed bytes of an event's row, and of its keys.
fn logical(item: &Item) -> u64 {
    let texts = item.id.as_str().len() + item.etag.as_deref().map_or(0, str::len);
    let master = item.master.as_ref().map_or(0, |master: &EventId| master.as_str().len());
    (item.content.len() + texts + master + KEYS) as u64
}

fn row(table: &mut Table, figure: &str, (disk, reserve): (u64, u64), logical: u64, limit: f64) {
    let ratio = disk as f64 / logical as f64;
    let bounded = limit.is_finite();
    table.row(Row {
        figure: format!("{NAME}: {figure}"),
        measured: format!("{} MiB, of it {} reserve", disk >> 20, reserve >> 20),
        baseline: format!("{} MiB of rows and keys", logical >> 20),
        ratio: Some(ratio),
        limit: if bounded { format!("≤ {limit}") } else { String::new() },
        kept: bounded.then_some(ratio <= limit),
    });
}

/// A store and its size.
struct Measured {
    store: Store,
    windows: Vec<WindowId>,
    tree: PathBuf,
    _directory: tempfile::TempDir,
}

/// A task that compacts a store, reads from it, and looks at its size.
struct Maintenance {
    task: JoinHandle<Looked>,
    stop: Arc<AtomicBool>,
}

/// What was seen meanwhile.
#[derive(Default)]
struct Looked {
    /// The largest size in bytes, and the reserve in it.
    most: (u64, u64),
    /// How long reads took while nothing was compacted.
    quiet: Vec<Duration>,
    /// The same during compactions.
    compacting: Vec<Duration>,
}

impl Maintenance {
    /// Waits for the next look, and for a compaction that it begins.
    async fn end(self) -> Looked {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap()
    }
}

/// What readers notice of compactions, while all windows commit.
fn pauses(table: &mut Table, mut quiet: Vec<Duration>, mut compacting: Vec<Duration>) {
    let of = |times: &mut Vec<Duration>| {
        times.sort_unstable();
        [0.5, 0.99, 1.0].map(|share| ms(quantile(times, share).unwrap_or_default()))
    };
    let ([a, b, c], [x, y, z]) = (of(&mut compacting), of(&mut quiet));
    table.row(Row {
        figure: format!("{NAME}: a day read during compactions, p50/p99/max"),
        measured: format!("{a:.1}/{b:.1}/{c:.1} ms, {} reads", compacting.len()),
        baseline: format!("without {x:.1}/{y:.1}/{z:.1} ms, {} reads", quiet.len()),
        ratio: Some(b / y),
        ..Row::default()
    });
}

impl Measured {
    async fn start(windows: usize) -> Self {
        let directory = directory();
        let path = directory.path().join("store");
        let (store, _) = Store::open(&StoreOptions::new(path.clone()), &Env::real()).unwrap();
        let wanted = (0..windows).map(|number| query::wanted(&mailbox(number))).collect();
        let registered = store.register(wanted, Timestamp::now()).await.unwrap();
        let windows = registered.iter().map(|window| window.id).collect();
        Self { store, windows, tree: path, _directory: directory }
    }

    /// Bytes on disk, and those of the reserve among them.
    fn disk(&self) -> (u64, u64) {
        disk_bytes(&self.tree)
    }

    /// Looks as often as this whether the store has to be compacted, and reads meanwhile.
    fn maintain(&self, every: Duration) -> Maintenance {
        let stop = Arc::new(AtomicBool::new(false));
        let (store, tree, window) = (self.store.clone(), self.tree.clone(), self.windows[0]);
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let (mut watch, mut looked) = (SizeWatch::default(), Looked::default());
            let mut compactions = 0;
            // A last look follows the last write, and one more when nothing is written.
            let mut looks_at_rest = 0;
            while looks_at_rest < 2 {
                looks_at_rest += u32::from(stopped.load(Ordering::Relaxed));
                let pause = pin!(tokio::time::sleep(every));
                let ((), reads) = reading(&store, window, &tree, &mut looked.most, pause).await;
                looked.quiet.extend(reads);
                let began = Instant::now();
                let compacting = pin!(store.compact_if_grown(&mut watch, PAUSE));
                let (done, reads) =
                    reading(&store, window, &tree, &mut looked.most, compacting).await;
                let done = done.unwrap();
                if matches!(done, CompactionOutcome::Done { .. }) {
                    let took = began.elapsed().as_secs_f64();
                    note(format_args!("{NAME}: {done:?} in {took:.1} s"));
                    compactions += 1;
                    looked.compacting.extend(reads);
                } else {
                    looked.quiet.extend(reads);
                }
            }
            note(format_args!("{NAME}: {compactions} compactions"));
            looked
        });
        Maintenance { task, stop }
    }
}

/// Reads a day and measures the size again and again until `work` ends. Returns its result, and how
/// long the reads took.
async fn reading<T>(
    store: &Store,
    window: WindowId,
    tree: &Path,
    most: &mut (u64, u64),
    mut work: impl Future<Output = T> + Unpin,
) -> (T, Vec<Duration>) {
    let mut reads = Vec::new();
    loop {
        *most = (*most).max(disk_bytes(tree));
        let read = async {
            tokio::time::sleep(READ_EVERY).await;
            let began = Instant::now();
            store.events(day(window)).await.unwrap();
            began.elapsed()
        };
        let mut read = pin!(read);
        tokio::select! {
            done = &mut work => {
                reads.push(read.await);
                return (done, reads);
            }
            took = &mut read => reads.push(took),
        }
    }
}

/// A query of one day in the middle of the events.
fn day(window: WindowId) -> EventQuery {
    let from: Timestamp = "2026-07-01T00:00:00Z".parse().unwrap();
    EventQuery {
        window,
        from: Some(from),
        to: Some(from + SignedDuration::from_hours(24)),
        limit: 1000,
        bytes: usize::MAX,
        after: None,
    }
}

/// Disk space of a store's files, bytes, and that of the reserve for a full disk among them.
pub(crate) fn disk_bytes(store: &Path) -> (u64, u64) {
    // Files come and go while a store is compacted.
    let entries = std::fs::read_dir(store).into_iter().flatten().flatten();
    let (mut all, mut reserve) = (0, 0);
    for entry in entries {
        let Ok(about) = entry.metadata() else { continue };
        let bytes = if about.is_dir() { disk_bytes(&entry.path()).0 } else { about.blocks() * 512 };
        all += bytes;
        if entry.file_name() == "reserve" {
            reserve = bytes;
        }
    }
    (all, reserve)
}
