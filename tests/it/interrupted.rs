//! An interrupted resync: wherever a process dies in it, the next process continues from there,
//! readers keep seeing the old mirror, and the feed only gets true changes.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use calmirror::env::Env;
use calmirror::graph::transport::{BodyStream, Transport, TransportError};
use calmirror::mirror::status::WindowState;
use calmirror::mirror::window::{Completion, Edges, WindowSettings};
use calmirror::simulator::{Behaviour, Fault, MasterOnPage, PlannedFault, Simulator};
use futures_util::future::BoxFuture;

use crate::compare::{EventsById, assert_same, changes_after, folded, mirror, truth};
use crate::converge::simulator;
use crate::memory::Memory;
use crate::rig::{Rig, noon, window_settings, window_with};

const MAILBOX: &str = "alice@contoso.com";

/// A Graph that answers this many requests and then no more.
struct LimitedTransport {
    graph: Memory,
    left: Arc<AtomicI64>,
}

impl Transport for LimitedTransport {
    fn send(
        &self,
        request: http::Request<Bytes>,
    ) -> BoxFuture<'_, Result<http::Response<BodyStream>, TransportError>> {
        let sign_in = request.uri().path().contains("oauth2");
        if !sign_in && self.left.fetch_sub(1, Ordering::Relaxed) <= 0 {
            return Box::pin(std::future::pending());
        }
        self.graph.send(request)
    }
}

struct ResyncFixture {
    simulator: Simulator,
    env: Env,
    left: Arc<AtomicI64>,
    interval: Duration,
}

/// Long enough that no round starts by itself.
const DAY: Duration = Duration::from_secs(86_400);

impl ResyncFixture {
    async fn start(&self, directory: &Path) -> Rig {
        let tracked =
            window_with(MAILBOX, WindowSettings { interval: self.interval, ..window_settings() });
        let graph = Memory(self.simulator.clone());
        let transport = Arc::new(LimitedTransport { graph, left: self.left.clone() });
        Rig::start(directory, transport, &self.env, vec![tracked]).await
    }

    fn enumerations(&self) -> u64 {
        self.simulator.statistics().total.enumerations
    }
}

async fn seen(rig: &Rig) -> EventsById {
    mirror(&rig.store, rig.fleet.id(MAILBOX).unwrap()).await
}

/// Plays a resync that is interrupted after `requests`. Returns whether it had finished before.
async fn cut_off_after(requests: i64, behaviour: Behaviour, changes: u32) -> bool {
    let what = format!("cut off after {requests} requests, {changes} changes");
    let directory = tempfile::tempdir().unwrap();
    let env = Env::simulated(1600, noon());
    let simulator = simulator(1600, behaviour, &env);
    let fixture =
        ResyncFixture { simulator, env, left: Arc::new(AtomicI64::new(i64::MAX)), interval: DAY };
    let rig = fixture.start(directory.path()).await;
    let settled = rig.settle(MAILBOX, 5).await;
    let (before, seq) = (seen(&rig).await, rig.store.durable_seq());
    let rows = |rig: &Rig| rig.metrics.store.rows.load(Ordering::Relaxed);
    let written = rows(&rig);
    for _ in 0..changes {
        fixture.simulator.mutate_randomly();
    }
    let enumerations = fixture.enumerations();
    fixture.left.store(requests, Ordering::Relaxed);
    let wait = Some(Duration::from_secs(90));
    let over = rig.fleet.resync(MAILBOX, false, wait).await.unwrap().finished.is_some();
    // No event is removed before the end of an enumeration.
    let during = seen(&rig).await;
    assert!(over || before.keys().all(|id| during.contains_key(id)), "{what}: an event is missing");
    let written = rows(&rig) - written;
    // As by kill -9.
    rig.crash().await;
    fixture.left.store(i64::MAX, Ordering::Relaxed);
    let rig = fixture.start(directory.path()).await;
    let status = rig.settle(MAILBOX, 5).await;
    let after = seen(&rig).await;
    let edges = Edges { start: settled.start, end: settled.end };
    let real = truth(&fixture.simulator, MAILBOX, None, edges, Completion::Master).await;
    assert_same(&what, &after, &real);
    let id = rig.fleet.id(MAILBOX).unwrap();
    assert_same(&what, &folded(&rig.store, id).await, &after);
    let again = fixture.enumerations() - enumerations;
    assert_eq!(again, 1, "{what}: it was enumerated again");
    assert_eq!(status.resyncs, 1, "{what}");
    // Every difference is published exactly once.
    let told = changes_after(&rig.store, seq, Some(id), 10_000).await;
    assert!(told.at_end, "{what}");
    let ids: Vec<String> = told.value.iter().map(|c| c.id.as_str().to_owned()).collect();
    let unique: BTreeSet<String> = ids.iter().cloned().collect();
    assert_eq!(unique.len(), ids.len(), "{what}: a change was published twice");
    let differ: BTreeSet<String> = before
        .keys()
        .chain(after.keys())
        .filter(|id| before.get(*id) != after.get(*id))
        .cloned()
        .collect();
    assert_eq!(unique, differ, "{what}");
    assert!(changes > 0 || differ.is_empty(), "{what}");
    // Unchanged rows are not rewritten, masters included.
    let written = written + rows(&rig);
    assert!(changes > 0 || written == 0, "{what}: {written} rows rewritten");
    rig.stop().await;
    over
}

async fn cut_off_everywhere(behaviour: Behaviour, changes: u32) {
    // Cut off at pages, at fetches of masters, and at other pending entries, until the resync
    // completes.
    let mut cuts = 0;
    while !cut_off_after(cuts, behaviour.clone(), changes).await {
        cuts += 1;
        assert!(cuts < 100, "the resync does not end");
    }
    assert!(cuts > 10, "only {cuts} places to cut off at");
}

/// A `Retry-After` also holds for the next process, however the last one ended.
#[tokio::test(start_paused = true)]
async fn a_throttling_pause_survives_a_restart() {
    for crash in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let env = Env::simulated(1700, noon());
        let simulator = simulator(1700, Behaviour::calm(), &env);
        let interval = Duration::from_secs(60);
        let fixture =
            ResyncFixture { simulator, env, left: Arc::new(AtomicI64::new(i64::MAX)), interval };
        let rig = fixture.start(directory.path()).await;
        rig.settle(MAILBOX, 5).await;
        let retry_after = Some("1800".to_owned());
        fixture.simulator.plan(PlannedFault::once(Fault::Throttled { retry_after }));
        let wait = Some(Duration::from_secs(600));
        let throttled = rig.fleet.sync(MAILBOX, wait).await.unwrap().finished.unwrap();
        assert_eq!(throttled.state, WindowState::BackingOff);
        let asked = tokio::time::Instant::now();
        match crash {
            true => rig.crash().await,
            false => rig.stop().await,
        }
        let rig = fixture.start(directory.path()).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let due = rig.fleet.window(MAILBOX).unwrap().next_due.unwrap();
        let wait = due.duration_since(fixture.env.now()).as_secs();
        assert!((1797..1860).contains(&wait), "crash {crash}: due in {wait} s");
        rig.settle(MAILBOX, 3).await;
        let waited = asked.elapsed().as_secs();
        assert!((1799..1860).contains(&waited), "crash {crash}: asked again after {waited} s");
        assert_eq!(fixture.simulator.statistics().total.during_pause, 0, "crash {crash}");
        rig.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_resync_interrupted_anywhere_resumes_and_publishes_nothing() {
    let behaviour = Behaviour { master: MasterOnPage::Absent, ..Behaviour::calm() };
    cut_off_everywhere(behaviour, 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_resync_interrupted_anywhere_publishes_each_difference_once() {
    let behaviour = Behaviour {
        master: MasterOnPage::Absent,
        bare_exceptions: true,
        split_series: true,
        ..Behaviour::calm()
    };
    cut_off_everywhere(behaviour, 12).await;
}
