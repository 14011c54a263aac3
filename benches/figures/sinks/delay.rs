//! How long it takes from the return of a commit until a receiver has the event, beside a reader of
//! the plain feed that waits for the same commits.
//!
//! The daemon runs in this process, so that the return of a commit is known.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use calmirror::api::BuildInfo;
use calmirror::config::{Config, Sources};
use calmirror::daemon::{Daemon, DaemonOptions};
use calmirror::env::Env;
use calmirror::graph::transport::HttpTransport;
use calmirror::mirror::position::WindowId;
use calmirror::platform::start_progress::StartProgress;
use calmirror::reload::ReloadQueue;
use calmirror::store::{Store, StoreError, StoreOptions};
use futures_util::StreamExt as _;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::MissedTickBehavior;

use super::places::{SinkPlaces, SinkType, have_sent, jetstream, patience};
use super::{created, stream};
use crate::daemon::{Api, Setup, configure, directory};
use crate::graph::mailbox;
use crate::query::{now, wanted};
use crate::table::{Row, Table, ms, quantile};

/// The name to select this figure by.
pub(super) const NAME: &str = "sinks: commit to";
const WINDOWS: usize = 10;
/// Commits of one event each, in a turn.
const COMMITS: usize = 500;
/// The time from one commit to the next.
const EVERY: Duration = Duration::from_millis(5);
/// Each type of sink takes turns with the others.
const TURNS: usize = 3;
/// The pause between two looks into a database.
const LOOK: Duration = Duration::from_micros(200);
/// The sink.
const SINK: &str = "copy";

/// The id of an event, and when it was there.
type Arrivals = mpsc::UnboundedSender<(String, Instant)>;

pub(super) async fn run(table: &mut Table) {
    let (send, mut arrivals) = mpsc::unbounded_channel();
    let hooked = send.clone();
    let places = SinkPlaces::start(move |at, body| tell(&hooked, at, body)).await;
    let types = places.types();
    let mut delays = vec![(Vec::new(), Vec::new()); types.len()];
    for _ in 0..TURNS {
        for (to, (mine, plain)) in types.iter().zip(&mut delays) {
            let delays = turn(&places, *to, &send, &mut arrivals).await;
            mine.extend(delays.0);
            plain.extend(delays.1);
            places.forget(*to, SINK).await;
        }
    }
    for (to, (mut mine, mut plain)) in types.into_iter().zip(delays) {
        let of = |delays: &mut Vec<Duration>| {
            delays.sort_unstable();
            [0.5, 0.99].map(|share| ms(quantile(delays, share).unwrap()))
        };
        let ([half, slow], [plain_half, plain_slow]) = (of(&mut mine), of(&mut plain));
        table.row(Row {
            figure: format!("{NAME} {}, p50/p99", to.as_str()),
            measured: format!("{half:.2}/{slow:.2} ms"),
            baseline: format!("plain feed {plain_half:.2}/{plain_slow:.2} ms"),
            ratio: Some(half / plain_half),
            ..Row::default()
        });
    }
}

/// The delays of one turn: to the sink, and to the reader of the feed.
async fn turn(
    places: &SinkPlaces,
    to: SinkType,
    send: &Arrivals,
    arrivals: &mut mpsc::UnboundedReceiver<(String, Instant)>,
) -> (Vec<Duration>, Vec<Duration>) {
    let directory = directory();
    let windows = fill(directory.path()).await;
    let local = LocalDaemon::start(directory.path(), &places.section(to, SINK, "0s")).await;
    let watch = Watch::start(places, to, send).await;
    let (tell_plain, mut plain) = mpsc::unbounded_channel();
    let mut reader = JoinSet::new();
    let socket = directory.path().join("api.sock");
    reader.spawn(stream::read(socket, move |at, text| tell(&tell_plain, at, text)));
    // The readers have begun to wait.
    tokio::time::sleep(Duration::from_millis(500)).await;
    while arrivals.try_recv().is_ok() {}
    let commits: Vec<_> =
        (0..COMMITS).map(|number| created(windows[number % WINDOWS], number..number + 1)).collect();
    let mut returned = HashMap::with_capacity(COMMITS);
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for commit in commits {
        let id = commit.upserts[0].id.as_str().to_owned();
        ticks.tick().await;
        local.store.commit(commit).await.unwrap();
        returned.insert(id, Instant::now());
    }
    let (mine, plain) = (delays(&returned, arrivals).await, delays(&returned, &mut plain).await);
    reader.shutdown().await;
    watch.stop().await;
    local.stop().await;
    (mine, plain)
}

/// The time from the return of each commit to the first arrival of its event. One may arrive before
/// the commit has returned to its task.
async fn delays(
    returned: &HashMap<String, Instant>,
    arrivals: &mut mpsc::UnboundedReceiver<(String, Instant)>,
) -> Vec<Duration> {
    let mut first: HashMap<String, Instant> = HashMap::with_capacity(returned.len());
    while first.len() < returned.len() {
        let waiting = tokio::time::timeout(Duration::from_secs(60), arrivals.recv());
        let (id, at) = waiting.await.expect("an event did not arrive").unwrap();
        if returned.contains_key(&id) {
            first.entry(id).or_insert(at);
        }
    }
    first.iter().map(|(id, at)| at.saturating_duration_since(returned[id])).collect()
}

/// Tells of the events in a text.
fn tell(send: &Arrivals, at: Instant, text: &[u8]) {
    for id in stream::ids(text) {
        // After a turn nobody may listen.
        send.send((id, at)).ok();
    }
}

/// What looks for new events at the place of a sink.
struct Watch {
    stopping: Arc<AtomicBool>,
    task: Option<JoinHandle<()>>,
}

impl Watch {
    async fn start(places: &SinkPlaces, to: SinkType, send: &Arrivals) -> Self {
        let (stopping, send) = (Arc::new(AtomicBool::new(false)), send.clone());
        let task = match to {
            // The receiver tells by itself.
            SinkType::Webhook => None,
            SinkType::Sqlite => {
                let connection = rusqlite::Connection::open(places.file(SINK)).unwrap();
                let mut last = 0_i64;
                Some(poll(&stopping, send, move || newer_in_sqlite(&connection, &mut last)))
            }
            SinkType::Postgres => {
                let client = places.postgres(SINK).await;
                // Without it each look reads the whole table.
                client.batch_execute("CREATE INDEX ON event (seq)").await.unwrap();
                let newer = "SELECT seq, id FROM event WHERE seq > $1 ORDER BY seq";
                let newer = client.prepare(newer).await.unwrap();
                let (handle, mut last) = (Handle::current(), 0_i64);
                Some(poll(&stopping, send, move || {
                    let rows = handle.block_on(client.query(&newer, &[&last])).unwrap();
                    last = rows.last().map_or(last, |row| row.get(0));
                    rows.iter().map(|row| row.get(1)).collect()
                }))
            }
            SinkType::Nats => {
                let context = jetstream(&places.nats_url()).await;
                let stream = context.get_stream(SINK).await.unwrap();
                let config = async_nats::jetstream::consumer::pull::OrderedConfig::default();
                let consumer = stream.create_consumer(config).await.unwrap();
                let mut messages = consumer.messages().await.unwrap();
                Some(tokio::spawn(async move {
                    while let Some(message) = messages.next().await {
                        tell(&send, Instant::now(), &message.unwrap().payload);
                    }
                }))
            }
        };
        Self { stopping, task }
    }

    async fn stop(self) {
        self.stopping.store(true, Ordering::Relaxed);
        if let Some(task) = self.task {
            // Only what waits for NATS; a look into a database ends by itself.
            task.abort();
            task.await.ok();
        }
    }
}

/// Looks for new events, one look soon after the other, on a thread that may block.
fn poll(
    stopping: &Arc<AtomicBool>,
    send: Arrivals,
    mut newer: impl FnMut() -> Vec<String> + Send + 'static,
) -> JoinHandle<()> {
    let stopping = stopping.clone();
    tokio::task::spawn_blocking(move || {
        while !stopping.load(Ordering::Relaxed) {
            let found = newer();
            let at = Instant::now();
            for id in found {
                send.send((id, at)).ok();
            }
            std::thread::sleep(LOOK);
        }
    })
}

/// The ids of the rows after the last one.
fn newer_in_sqlite(connection: &rusqlite::Connection, last: &mut i64) -> Vec<String> {
    let newer = "SELECT rowid, id FROM event WHERE rowid > ?1 ORDER BY rowid";
    let mut newer = connection.prepare_cached(newer).unwrap();
    let rows = newer.query_map([*last], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    rows.map(|row| {
        let id;
        (*last, id) = row.unwrap();
        id
    })
    .collect()
}

/// A daemon in this process.
struct LocalDaemon {
    store: Store,
    stop: oneshot::Sender<()>,
    running: JoinHandle<Result<(), StoreError>>,
}

impl LocalDaemon {
    /// Starts it and waits until its sink has ended the snapshot of nothing.
    async fn start(directory: &Path, sink: &str) -> Self {
        // Nothing listens at this address, so the windows change by commits only.
        let origin = "http://127.0.0.1:9".to_owned();
        let setup = Setup { origin, mailboxes: WINDOWS, interval: "7d", page_size: 200 };
        let file = configure(directory, &setup, sink);
        let (env, sources) = (Env::real(), Sources::find(Some(&file), BTreeMap::new()));
        let config = Config::load(&sources, env.now()).unwrap();
        let about = BuildInfo {
            version: "figures".to_owned(),
            commit: "figures".to_owned(),
            target: "figures".to_owned(),
            started: env.now(),
            since: tokio::time::Instant::now(),
        };
        let daemon = Daemon::start(DaemonOptions {
            config,
            load: Arc::new(move || Config::load(&sources, now())),
            reloads: ReloadQueue::default(),
            telemetry: None,
            about,
            env,
            transport: Arc::new(HttpTransport::new().unwrap()),
            progress: StartProgress::default(),
            accept_drops: false,
            open_loopback: false,
        });
        let daemon = daemon.await.unwrap();
        let store = daemon.store();
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(daemon.run(async { drop(stopped.await) }));
        let (mut api, began) = (Api::new(directory), Instant::now());
        loop {
            let sinks = serde_json::from_slice(&api.get("/v1/sinks").await).unwrap();
            if have_sent(&sinks, 0) {
                return Self { store, stop, running };
            }
            patience(began, sinks);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        drop(self.store);
        self.running.await.unwrap().unwrap();
    }
}

/// Windows without events, which need no round.
async fn fill(directory: &Path) -> Vec<WindowId> {
    let options = StoreOptions::new(directory.join("store"));
    let (store, _) = Store::open(&options, &Env::real()).unwrap();
    let all = (0..WINDOWS).map(|number| wanted(&mailbox(number))).collect();
    let windows: Vec<_> = store.register(all, now()).await.unwrap().iter().map(|w| w.id).collect();
    for window in &windows {
        store.commit(created(*window, 0..0)).await.unwrap();
    }
    store.close().await.unwrap();
    windows
}
