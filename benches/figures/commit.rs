//! `store commit`: the number of durable rounds per second and the latency of each, with many
//! rounds waiting at once, compared with the disk's own sync rate.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use calmirror::env::Env;
use calmirror::mirror::commit::Commit;
use calmirror::mirror::page::Link;
use calmirror::mirror::position::{Phase, Position, WindowId};
use calmirror::store::{Store, StoreOptions};
use jiff::Timestamp;

use crate::daemon::directory;
use crate::query::{item, wanted};
use crate::table::{Row, Table, ms, quantile};

/// The name to select this figure by.
pub(crate) const NAME: &str = "store commit";
const PATIENCE: Duration = Duration::from_secs(3);
/// Rounds that wait at the same time.
const WAITING: [usize; 3] = [1, 64, 256];
/// The rounds per second of 450,000 windows at the default interval of five minutes.
const NEEDED: f64 = 1500.0;

pub(crate) async fn run(table: &mut Table) {
    let directory = directory();
    let options = StoreOptions {
        cache_bytes: 512 << 20,
        ..StoreOptions::new(directory.path().join("store"))
    };
    let (store, _) = Store::open(&options, &Env::real()).unwrap();
    let most = WAITING.into_iter().max().unwrap();
    let windows = (0..most).map(|n| wanted(&format!("w{n}"))).collect();
    let windows: Vec<WindowId> =
        store.register(windows, at()).await.unwrap().iter().map(|w| w.id).collect();
    for events in [3, 0] {
        let what = if events == 0 { "links only" } else { "3 events + link" };
        for waiting in WAITING {
            let syncs = tokio::task::block_in_place(|| syncs(directory.path()));
            let mut times = rounds(&store, &windows[..waiting], events).await;
            let rate = times.len() as f64 / PATIENCE.as_secs_f64();
            times.sort_unstable();
            let [half, slow] = [0.5, 0.99].map(|share| ms(quantile(&times, share).unwrap()));
            // A single writer waits for the disk each time; the limit is for a fleet.
            let fleet = waiting == most;
            table.row(Row {
                figure: format!("{NAME}: {what}, {waiting} waiting"),
                measured: format!("{rate:.0}/s, {half:.1}/{slow:.1} ms"),
                baseline: format!("{syncs:.0} fdatasync/s"),
                ratio: Some(rate / syncs),
                limit: if fleet { "≥ 1,500/s".to_owned() } else { String::new() },
                kept: fleet.then_some(rate >= NEEDED),
            });
        }
    }
    store.close().await.unwrap();
}

/// Every window commits one round after the other. Returns their latencies.
async fn rounds(store: &Store, windows: &[WindowId], events: usize) -> Vec<Duration> {
    let until = Instant::now() + PATIENCE;
    let tasks: Vec<_> = windows
        .iter()
        .map(|window| {
            let (store, window) = (store.clone(), *window);
            tokio::spawn(async move {
                let mut times = Vec::new();
                for turn in 0.. {
                    let commit = round(window, events, turn);
                    let began = Instant::now();
                    if began >= until {
                        break;
                    }
                    store.commit(commit).await.unwrap();
                    times.push(began.elapsed());
                }
                times
            })
        })
        .collect();
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await.unwrap());
    }
    all
}

/// New content of the same events each turn, and the following link.
fn round(window: WindowId, events: usize, turn: usize) -> Commit {
    let mut commit = Commit::new(window, 0, at());
    commit.upserts = (0..events)
        .map(|event| item(&format!("{}-{event}", window.0), event, turn, 3000))
        .collect();
    let delta = Link::new(format!("http://127.0.0.1:1/v1.0/delta?$deltatoken={turn:0>600}"));
    commit.position = Some(Position::new(Phase::Settled { delta: Some(delta) }, false));
    commit
}

/// The number of durable 4 KiB writes per second that the disk achieves.
fn syncs(directory: &Path) -> f64 {
    let mut file = File::create(directory.join("sync")).unwrap();
    let began = Instant::now();
    let mut times = 0;
    while began.elapsed() < Duration::from_secs(1) {
        file.write_all(&[7; 4096]).unwrap();
        file.sync_data().unwrap();
        times += 1;
    }
    f64::from(times) / began.elapsed().as_secs_f64()
}

fn at() -> Timestamp {
    "2026-07-01T12:00:00Z".parse().unwrap()
}
