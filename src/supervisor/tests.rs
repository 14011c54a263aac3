//! Messages to the service manager, and the handling of failing workers.

use std::os::unix::net::UnixDatagram;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use jiff::SignedDuration;
use tempfile::TempDir;
use tracing::subscriber::DefaultGuard;

use super::fleet::HUNG_AFTER;
use super::*;
use crate::graph::transport::{BodyStream, TransportError};
use crate::graph::{Transport, script};
use crate::mirror::commit::Commit;
use crate::mirror::page::Link;
use crate::mirror::position::{Phase, Position};
use crate::mirror::window::Edge;
use crate::store::{Store, StoreOptions};
use crate::tests::{capture_log, env, identity, window};
use crate::worker::StateFeed;

/// A Graph that never responds.
struct Silence;

impl Transport for Silence {
    fn send(
        &self,
        _: http::Request<Bytes>,
    ) -> BoxFuture<'_, Result<http::Response<BodyStream>, TransportError>> {
        Box::pin(std::future::pending())
    }
}

pub(super) fn spec(window: Window, tokens: &Arc<Tokens>) -> WindowSpec {
    WindowSpec { identity: identity(&window), window: Arc::new(window), tokens: tokens.clone() }
}

/// Starts a supervisor, whatever is dropped.
pub(super) async fn start<const N: usize>(supervisor: &mut Supervisor, specs: [WindowSpec; N]) {
    let permit = |_, _: &[_]| Ok::<_, StoreError>(());
    supervisor.start(specs.into(), &StartProgress::default(), permit).await.unwrap();
}

/// Captures the log of this thread in a file.
fn captured_log() -> (tempfile::NamedTempFile, DefaultGuard) {
    let log = tempfile::NamedTempFile::new().unwrap();
    let writer = std::sync::Mutex::new(log.reopen().unwrap());
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(writer).finish();
    (log, capture_log(subscriber))
}

pub(super) struct SupervisorFixture {
    directory: TempDir,
    pub(super) supervisor: Supervisor,
    manager: UnixDatagram,
}

impl SupervisorFixture {
    /// Two windows with a silent Graph, and a service manager's socket.
    pub(super) async fn new() -> Self {
        Self::with(|options| options).await
    }

    /// The same with other store options.
    async fn with(change: impl FnOnce(StoreOptions) -> StoreOptions) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let env = env();
        let options = change(StoreOptions::new(directory.path().join("store")));
        let (store, _) = Store::open(&options, &env).unwrap();
        let transport = Arc::new(Silence);
        // With a secret a sign-in is requested that never gets a response, so rounds never end.
        let client = script::client(&transport);
        let tokens = script::tokens(&transport);
        let mut supervisor = Supervisor::new(
            Services { store, client, env, metrics: Arc::default(), states: StateFeed::default() },
            Duration::from_secs(86_400),
        );
        start(&mut supervisor, ["alice", "bob"].map(|name| spec(window(name), &tokens))).await;

        let path = directory.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let environment = [("NOTIFY_SOCKET", path.to_str().unwrap()), ("WATCHDOG_USEC", "4000000")];
        let environment =
            environment.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        supervisor.announce(Notify::new(&environment, 7));
        Self { directory, supervisor, manager }
    }

    fn heard(&self) -> String {
        self.manager.set_nonblocking(true).unwrap();
        let mut buffer = [0; 512];
        match self.manager.recv(&mut buffer) {
            Ok(length) => String::from_utf8(buffer[..length].to_vec()).unwrap(),
            Err(_) => String::new(),
        }
    }

    /// Ends the workers. Returns a supervisor over the same store that has not started yet, and its
    /// tokens.
    pub(super) async fn successor(self) -> (Self, Arc<Tokens>) {
        let Self { directory, supervisor, manager } = self;
        let Services { store, client, env, .. } = (*supervisor.services).clone();
        let tokens = supervisor.tokens["contoso"].clone();
        assert!(supervisor.drain(Duration::from_secs(30)).await);
        let services =
            Services { store, client, env, metrics: Arc::default(), states: StateFeed::default() };
        let supervisor = Supervisor::new(services, Duration::from_secs(86_400));
        (Self { directory, supervisor, manager }, tokens)
    }

    pub(super) async fn end(self) {
        let store = self.supervisor.services.store.clone();
        assert!(self.supervisor.drain(Duration::from_secs(30)).await);
        store.close().await.unwrap();
        drop(self.directory);
    }
}

/// The store's id of a window.
pub(super) async fn stored_id(supervisor: &Supervisor, name: &str) -> WindowId {
    let windows = supervisor.services.store.windows().await.unwrap();
    windows.iter().find(|window| &*window.name == name).unwrap().id
}

/// Commits that a window has settled, so that its next round is not due for a while.
pub(super) async fn settle(supervisor: &Supervisor, name: &str) {
    let Services { store, env, .. } = &*supervisor.services;
    let phase = Phase::Settled { delta: Some(Link::new("http://127.0.0.1:1/v1.0/delta")) };
    let position = Some(Position::new(phase, false));
    let id = stored_id(supervisor, name).await;
    store.commit(Commit { position, ..Commit::new(id, 0, env.now()) }).await.unwrap();
}

/// Handles the supervisor's events for some seconds, as the daemon's loop does.
async fn watch(supervisor: &mut Supervisor, seconds: u64) {
    let mut over = std::pin::pin!(tokio::time::sleep(Duration::from_secs(seconds)));
    let mut ticks = supervisor.ticks();
    loop {
        tokio::select! {
            biased;
            () = &mut over => return,
            _ = ticks.tick() => supervisor.on_tick(),
            exit = supervisor.next_exit() => supervisor.on_task_exit(exit).unwrap(),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn only_the_loop_feeds_the_watchdog() {
    let mut fixture = SupervisorFixture::new().await;
    assert_eq!(fixture.heard(), "READY=1\nSTATUS=2 windows: 2 enumerating\n");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(fixture.heard(), "", "messages without the supervisor's loop");
    watch(&mut fixture.supervisor, 5).await;
    for _ in 0..3 {
        let heard = fixture.heard();
        assert!(heard.starts_with("STATUS=2 windows"), "{heard:?}");
        assert!(heard.ends_with("\nWATCHDOG=1\n"), "{heard:?}");
    }
    assert_eq!(fixture.heard(), "", "at 0, 2 and 4 s");
    fixture.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_stuck_worker_is_restarted_and_counted() {
    let mut fixture = SupervisorFixture::new().await;
    let supervisor = &mut fixture.supervisor;
    let id = *supervisor.running.keys().next().unwrap();
    let running = supervisor.running.remove(&id).unwrap();
    running.task.abort();
    let stuck = supervisor.tasks.spawn(async { Ok(WorkerExit::Stuck) });
    supervisor.running.insert(stuck.id(), running);
    watch(supervisor, 1).await;
    assert_eq!(supervisor.running.len(), 2, "the window has no new worker");
    assert_eq!(supervisor.fleet.restarts(), 1);
    let summary = supervisor.fleet.summary();
    assert!(summary.ends_with("; restarted workers: 1"), "{summary}");
    fixture.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_reload_drops_requests_at_once_and_cuts_off_stuck_workers() {
    let mut fixture = SupervisorFixture::new().await;
    let supervisor = &mut fixture.supervisor;
    watch(supervisor, 1).await;
    let remove = |name: &str| FleetChange {
        removed: vec![name.into()],
        to_start: Vec::new(),
        retimed: Vec::new(),
    };
    // Both workers wait for their sign-in.
    let begun = tokio::time::Instant::now();
    supervisor.change_fleet(remove("alice"), || ()).await.unwrap();
    assert_eq!(begun.elapsed(), Duration::ZERO);

    // Bob's worker does not react to its token.
    let (_, bob) = supervisor.running.drain().next().unwrap();
    bob.task.abort();
    let task = supervisor.tasks.spawn(std::future::pending());
    supervisor.running.insert(task.id(), RunningWorker { task, ..bob });
    let (log, _guard) = captured_log();
    supervisor.change_fleet(remove("bob"), || ()).await.unwrap();
    assert_eq!(begun.elapsed(), RELOAD_STOP_TIMEOUT);
    assert!(supervisor.running.is_empty());
    let line = std::fs::read_to_string(&log).unwrap();
    assert!(
        line.contains(r#"during="reload" windows="bob" maintenance_tasks=0 deadline_s=2"#),
        "{line}"
    );
    fixture.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_reload_reports_how_a_worker_that_it_stops_ends() {
    type End = fn() -> Result<WorkerExit, StoreError>;
    let ends: [(End, bool, &str); 2] = [
        (|| panic!("a bug"), true, r#"task panicked while stopping window="alice""#),
        (|| Err(StoreError::Closed), false, ""),
    ];
    for (end, goes_on, expected) in ends {
        let SupervisorFixture { directory, mut supervisor, .. } = SupervisorFixture::new().await;
        let id = supervisor.running.iter().find(|(_, r)| &*r.handle.window().name == "alice");
        let id = *id.unwrap().0;
        let alice = supervisor.running.remove(&id).unwrap();
        alice.task.abort();
        let task = supervisor.tasks.spawn(async move { end() });
        supervisor.running.insert(task.id(), RunningWorker { task, ..alice });
        let (log, _guard) = captured_log();
        let removed = vec!["alice".into()];
        let change = FleetChange { removed, to_start: Vec::new(), retimed: Vec::new() };
        let changed = supervisor.change_fleet(change, || ()).await;
        assert_eq!(changed.is_ok(), goes_on);
        let lines = std::fs::read_to_string(&log).unwrap();
        assert!(lines.contains(expected), "{lines}");
        let store = supervisor.services.store.clone();
        supervisor.drain(Duration::from_secs(30)).await;
        store.close().await.unwrap();
        drop(directory);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_logs_some_names_of_the_workers_it_cut_off() {
    let SupervisorFixture { directory, mut supervisor, .. } = SupervisorFixture::new().await;
    let tokens = supervisor.tokens["contoso"].clone();
    let rooms = (10..22).map(|number| format!("room {number}"));
    let to_start = rooms.map(|name| spec(window(&name), &tokens)).collect();
    let change = FleetChange { removed: Vec::new(), to_start, retimed: Vec::new() };
    supervisor.change_fleet(change, || ()).await.unwrap();
    // No worker of a room reacts to its token.
    let is_room = |running: &RunningWorker| running.handle.window().name.starts_with("room");
    let rooms: Vec<_> = supervisor.running.extract_if(|_, running| is_room(running)).collect();
    for (_, room) in rooms {
        room.task.abort();
        let task = supervisor.tasks.spawn(std::future::pending());
        supervisor.running.insert(task.id(), RunningWorker { task, ..room });
    }
    let store = supervisor.services.store.clone();
    let (log, _guard) = captured_log();
    assert!(!supervisor.drain(Duration::from_secs(2)).await);
    let line = std::fs::read_to_string(&log).unwrap();
    let rooms = (10..20).map(|number| format!("room {number}")).collect::<Vec<_>>().join(", ");
    let named =
        format!(r#"during="stop" windows="{rooms} and 2 more" maintenance_tasks=0 deadline_s=2"#);
    assert!(line.contains(&named), "{line}");
    store.close().await.unwrap();
    drop(directory);
}

#[tokio::test(start_paused = true)]
async fn a_panicking_maintenance_task_is_restarted() {
    // A zero period makes the timer panic, which simulates a bug in the maintenance task.
    let max_defer = Duration::ZERO;
    let mut fixture =
        SupervisorFixture::with(|options| StoreOptions { max_defer, ..options }).await;
    // Not longer, because this test does not read the manager's socket.
    watch(&mut fixture.supervisor, 10).await;
    assert_eq!(fixture.supervisor.tasks.len(), 5, "two workers and three maintenance tasks");
    fixture.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_holds_its_thread_starves_the_watchdog() {
    let fixture = SupervisorFixture::new().await;
    // The workers' tasks run once; after this the test does not yield to them.
    tokio::task::yield_now().await;
    fixture.heard();
    fixture.supervisor.on_tick();
    assert!(fixture.heard().contains("WATCHDOG=1"));
    // The first poll moves the clock without running other tasks, as if a worker held its thread.
    let past = tokio::time::advance(HUNG_AFTER + Duration::from_secs(1)).now_or_never();
    assert!(past.is_none());
    fixture.supervisor.on_tick();
    assert_eq!(fixture.heard(), "STATUS=stuck: the worker of alice holds its thread\n");
    fixture.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_window_inherits_the_pending_drops_of_its_predecessor() {
    let mut fixture = SupervisorFixture::new().await;
    let supervisor = &mut fixture.supervisor;
    let tokens = supervisor.tokens["contoso"].clone();
    // Carol's worker is stopped before it has run at all.
    for mailbox in ["carol", "dave"] {
        let window = Window { mailbox: mailbox.into(), ..window("alice") };
        let to_start = vec![spec(window, &tokens)];
        let change = FleetChange { removed: Vec::new(), to_start, retimed: Vec::new() };
        supervisor.change_fleet(change, || ()).await.unwrap();
    }
    watch(supervisor, 1).await;
    let known = supervisor.services.store.windows().await.unwrap();
    let names: Vec<&str> = known.iter().map(|window| &*window.name).collect();
    assert_eq!(names, ["bob", "alice"], "removed windows are still stored: {known:?}");
    fixture.end().await;
}

#[tokio::test(start_paused = true)]
async fn unconfigured_windows_are_marked_for_dropping_before_the_workers_start() {
    let (mut fixture, tokens) = SupervisorFixture::new().await.successor().await;
    let store = fixture.supervisor.services.store.clone();
    start(&mut fixture.supervisor, [spec(window("alice"), &tokens)]).await;
    // The events are not removed yet, but an interrupted start needs no second permission for the
    // drop.
    let known: Vec<_> = store.identities().await.unwrap().into_keys().collect();
    assert_eq!(known, ["alice".into()]);
    fixture.end().await;
}

/// A change that fails resumes the workers it stopped. The wake-up of a request may be lost with
/// the stopped worker.
#[tokio::test(start_paused = true)]
async fn a_round_requested_just_before_a_reload_that_fails_begins_at_once() {
    let (mut fixture, tokens) = SupervisorFixture::new().await.successor().await;
    let next = &mut fixture.supervisor;
    settle(next, "alice").await;
    start(next, [spec(window("alice"), &tokens)]).await;
    let handle = next.running.values().next().unwrap().handle.clone();
    let round = handle.request_round(RoundRequest::Sync);
    let stopped = next.stop_workers(&[Arc::from("alice")].into()).await.unwrap();
    stopped.into_values().for_each(|running| next.resume(running));
    watch(next, 1).await;
    assert!(handle.request_round(RoundRequest::Sync) > round, "the requested round has not begun");
    fixture.end().await;
}

/// A window reconfigured under a wrong clock gets edges by Graph's time: edges by the wrong clock
/// would remove all its events.
#[tokio::test(start_paused = true)]
async fn edges_configured_under_a_wrong_clock_use_graphs_time() {
    let mut fixture = SupervisorFixture::new().await;
    let supervisor = &mut fixture.supervisor;
    let tokens = supervisor.tokens["contoso"].clone();
    let Services { client, env, .. } = &*supervisor.services;
    let right = env.now();
    env.advance_wall_clock(SignedDuration::from_hours(24 * 3650));
    client.metrics().clock.answered(Some(right), env.now());
    let start = Edge::Relative { years: 0, months: 0, days: -30 };
    let mut wanted = window("alice");
    wanted.settings_mut().start = start;
    let expected = schedule::edges(&wanted, right).start;
    let to_start = vec![spec(wanted, &tokens)];
    let change = FleetChange { removed: Vec::new(), to_start, retimed: Vec::new() };
    supervisor.change_fleet(change, || ()).await.unwrap();
    assert_eq!(supervisor.fleet().window("alice").unwrap().start, expected);
    fixture.end().await;
}
