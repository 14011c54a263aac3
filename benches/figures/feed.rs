//! `feed`: the speed of reading the whole feed from its beginning, and the memory and latency of a
//! thousand waiting readers.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::daemon::{Daemon, Setup, directory};
use crate::graph::{Graph, mailbox};
use crate::query;
use crate::table::{Row, Table, ms, note, quantile};

/// The name to select this figure by.
pub(crate) const NAME: &str = "feed";
/// Windows of 10,000 events of 1.5 KB that are read from the beginning.
const WINDOWS: usize = 10;
/// The number of waiting readers.
const READERS: usize = 1000;
/// Readers that come after them, by whose memory that of one is measured.
const FURTHER: usize = 3000;
/// The number of changes sent to them.
const CHANGES: usize = 40;
/// How long they wait for another one before their memory is measured: what their responses took is
/// free by then.
const REST: Duration = Duration::from_secs(5);

pub(crate) async fn run(table: &mut Table) {
    catch_up(table).await;
    readers(table).await;
}

/// Reads the feed from its beginning to its end, and a file with the same bytes as the baseline.
async fn catch_up(table: &mut Table) {
    let directory = directory();
    query::fill(directory.path(), WINDOWS).await;
    // Nothing listens at this address, so the windows do not change.
    let origin = "http://127.0.0.1:9".to_owned();
    let setup = Setup { origin, mailboxes: WINDOWS, interval: "7d", page_size: 200 };
    let daemon = Daemon::start(directory.path(), &setup).await;
    // A new store trains a dictionary, and then writes its rows again.
    daemon.rest().await;
    let path = directory.path().join("feed");
    // The first pass fills the caches and writes the file.
    let mut file = File::create(&path).unwrap();
    whole(&daemon, |body| file.write_all(body).unwrap());
    file.sync_all().unwrap();
    tokio::task::block_in_place(|| lines(&path));
    let (entries, bytes, took) = whole(&daemon, |_| {});
    let (same, plain) = tokio::task::block_in_place(|| lines(&path));
    assert_eq!(entries, same, "the feed of a store at rest is the same each time");
    let rate = entries as f64 / took.as_secs_f64();
    let file = entries as f64 / plain.as_secs_f64();
    table.row(Row {
        figure: format!("{NAME}: catch-up, {entries} entries, {} MB", bytes / 1_000_000),
        measured: format!("{rate:.0}/s, {:.0} MB/s", bytes as f64 / 1e6 / took.as_secs_f64()),
        baseline: format!("the same from a file {file:.0}/s"),
        ratio: Some(rate / file),
        limit: "≥ 182,000/s".to_owned(),
        kept: Some(rate >= 182_000.0),
    });
    daemon.stop().await;
}

/// Reads the feed from its beginning to its end, and gives `take` each piece as it arrives. Returns the
/// entries, the bytes and the time.
pub(crate) fn whole(daemon: &Daemon, mut take: impl FnMut(&[u8])) -> (usize, usize, Duration) {
    daemon.alone(async |api| {
        let began = Instant::now();
        let (mut entries, mut bytes, mut after) = (0, 0, String::new());
        loop {
            let path = format!("/v1/changes?limit=10000{after}");
            let before = entries;
            let take = |piece: &[u8]| {
                entries += piece.iter().filter(|b| **b == b'\n').count();
                bytes += piece.len();
                take(piece);
            };
            let head = api.stream(&path, take).await;
            if entries == before {
                return (entries, bytes, began.elapsed());
            }
            after = format!("&after={}", head["x-calmirror-cursor"].to_str().unwrap());
        }
    })
}

/// Counts the lines of a file, read through a buffer of the size of a socket's.
fn lines(path: &Path) -> (usize, Duration) {
    let began = Instant::now();
    let (mut file, mut buffer, mut lines) = (File::open(path).unwrap(), vec![0; 64 << 10], 0);
    loop {
        let read = file.read(&mut buffer).unwrap();
        if read == 0 {
            return (lines, began.elapsed());
        }
        lines += buffer[..read].iter().filter(|b| **b == b'\n').count();
    }
}

/// A thousand event streams and one change after the other: the delay from a change's time stamp,
/// which precedes its durability, to the last stream's receipt. Then more streams, for the memory of
/// each: what a thousand share is in it no more.
async fn readers(table: &mut Table) {
    let graph = Graph::start(1).await;
    graph.populate(1);
    let directory = directory();
    let setup = Setup { origin: graph.origin(), mailboxes: 1, interval: "1s", page_size: 200 };
    let mut daemon = Daemon::start(directory.path(), &setup).await;
    daemon.settle(Duration::from_millis(100)).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut readers = Readers::new(directory.path());
    let alone = daemon.resident();
    readers.come(READERS).await;
    let [first, last] = readers.change(&graph).await;
    tokio::time::sleep(REST).await;
    let before = daemon.resident();
    readers.come(FURTHER).await;
    readers.change(&graph).await;
    let each = |resident: u64| resident.saturating_sub(before) as f64 / FURTHER as f64 / 1024.0;
    let busy = each(daemon.resident());
    tokio::time::sleep(REST).await;
    let waiting = each(daemon.resident());
    let [alone, shared] = [alone, before].map(|bytes| bytes >> 20);
    table.row(Row {
        figure: format!("{NAME}: memory per waiting reader, of {FURTHER} further"),
        measured: format!("{waiting:.1} KiB"),
        baseline: format!(
            "after the last change {busy:.1} KiB; with {READERS} {shared} MiB, without {alone}"
        ),
        limit: "≤ 16 KiB".to_owned(),
        kept: Some(waiting <= 16.0),
        ..Row::default()
    });
    let of = |delays: &[Duration]| [0.5, 0.99].map(|s| ms(quantile(delays, s).unwrap()));
    let ([half, slow], [soon, _]) = (of(&last), of(&first));
    table.row(Row {
        figure: format!("{NAME}: commit to the last of {READERS}, p50/p99"),
        measured: format!("{half:.1}/{slow:.1} ms"),
        baseline: format!("to the first {soon:.1} ms"),
        ratio: Some(half / soon),
        ..Row::default()
    });
    readers.tasks.shutdown().await;
    daemon.stop().await;
}

/// Streams of one daemon.
struct Readers {
    socket: PathBuf,
    tasks: JoinSet<()>,
    send: mpsc::UnboundedSender<Duration>,
    arrivals: mpsc::UnboundedReceiver<Duration>,
    /// Changes so far.
    changes: usize,
}

impl Readers {
    fn new(directory: &Path) -> Self {
        let (send, arrivals) = mpsc::unbounded_channel();
        let (socket, tasks) = (directory.join("api.sock"), JoinSet::new());
        Self { socket, tasks, send, arrivals, changes: 0 }
    }

    /// Opens so many more streams.
    async fn come(&mut self, count: usize) {
        for _ in 0..count {
            self.tasks.spawn(read(self.socket.clone(), self.send.clone()));
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }

    /// Makes changes, each after every stream has had the one before. Returns the delays to the first
    /// and to the last stream, sorted.
    async fn change(&mut self, graph: &Graph) -> [Vec<Duration>; 2] {
        let readers = self.tasks.len();
        let (mut first, mut last) = (Vec::new(), Vec::new());
        for _ in 0..CHANGES {
            graph.add(&mailbox(0), self.changes);
            self.changes += 1;
            let mut delays = Vec::with_capacity(readers);
            while delays.len() < readers {
                delays.push(self.arrivals.recv().await.unwrap());
            }
            delays.sort_unstable();
            first.push(delays[0]);
            last.push(delays[readers - 1]);
        }
        first.sort_unstable();
        last.sort_unstable();
        note(format_args!("{NAME}: {readers} readers received {CHANGES} changes"));
        [first, last]
    }
}

/// Reads one stream. Sends for each change the delay from its time stamp to its complete receipt.
async fn read(socket: PathBuf, send: mpsc::UnboundedSender<Duration>) {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    let request = "GET /v1/changes?after=now HTTP/1.1\r\nhost: calmirror\r\naccept: text/event-stream\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    loop {
        if stream.read_buf(&mut seen).await.unwrap() == 0 {
            return;
        }
        if !seen.ends_with(b"\n\n\r\n") {
            continue;
        }
        let now = Timestamp::now();
        if let Some(at) = stamp(&seen) {
            let delay = Duration::try_from(now.duration_since(at)).unwrap_or_default();
            send.send(delay).unwrap();
        }
        seen.clear();
    }
}

/// The time stamp of the first change in the text.
fn stamp(seen: &[u8]) -> Option<Timestamp> {
    let text = std::str::from_utf8(seen).ok()?;
    text.split_once("\"at\":\"")?.1.split_once('"')?.0.parse().ok()
}
