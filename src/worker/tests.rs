//! When rounds are due and when a worker ends; and what the tests of its parts need: a window in a
//! real store, and a Graph that answers from a script.

use std::cell::Cell;

use futures_util::FutureExt as _;
use jiff::SignedDuration;
use tempfile::TempDir;

use super::attempt::{AttemptEnd, AttemptStats};
use super::*;
use crate::graph::script::{self, BASE, Script, ScriptedResponse, granted, reply, tokens};
use crate::graph::{Budgets, Tokens};
use crate::mirror::account::Credential;
use crate::mirror::position::WindowId;
use crate::mirror::window::Edges;
use crate::tests::{env, open, registration, window};

/// A window, and what its worker has.
pub(super) struct WorkerFixture {
    pub(super) services: Arc<Services>,
    pub(super) script: Arc<Script>,
    pub(super) id: WindowId,
    pub(super) handle: Arc<WindowHandle>,
    pub(super) stop: CancellationToken,
    tokens: Arc<Tokens>,
    target: Target,
    window: Arc<Window>,
    steps: AtomicU32,
    directory: TempDir,
}

impl WorkerFixture {
    /// A new window. Its requests get these answers, in order.
    pub(super) async fn new(
        window: Window,
        answers: impl IntoIterator<Item = ScriptedResponse>,
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let env = env();
        let store = open(directory.path(), &env);
        let registered = store.register(vec![registration(&window)], env.now()).await.unwrap();
        let window = Arc::new(window);
        let handle = Arc::new(WindowHandle::new(window.clone(), &registered[0], env.now()));
        let script = Script::new((0..9).map(|_| granted("t", 3600)), answers);
        let (budgets, timeout) = (Budgets::new(8, 3), Duration::from_secs(100));
        let client = GraphClient::new(script.clone(), BASE, budgets, env.clone(), timeout).unwrap();
        let tokens = tokens(&script);
        Self {
            target: client.target(&tokens, &window.mailbox, window.calendar.clone()),
            services: Arc::new(Services {
                store,
                client,
                env,
                metrics: Arc::default(),
                states: StateFeed::default(),
            }),
            script,
            id: registered[0].id,
            handle,
            stop: CancellationToken::new(),
            tokens,
            window,
            steps: AtomicU32::new(0),
            directory,
        }
    }

    /// With the token of a person instead of that of an application.
    pub(super) fn of_a_person(mut self) -> Self {
        let file = self.directory.path().join("token");
        std::fs::write(&file, "t").unwrap();
        let sign_in = script::sign_in(Credential::AccessTokenFile(file));
        self.tokens = Tokens::new(sign_in, self.script.clone(), env());
        let (mailbox, calendar) = (&self.window.mailbox, self.window.calendar.clone());
        self.target = self.services.client.target(&self.tokens, mailbox, calendar);
        self
    }

    pub(super) fn worker(&self) -> Worker {
        let (services, handle) = (self.services.clone(), self.handle.clone());
        Worker::new(services, self.tokens.clone(), handle, self.stop.clone())
    }

    pub(super) fn attempt(&self) -> Attempt<'_> {
        Attempt::new(AttemptContext {
            services: &self.services,
            target: &self.target,
            id: self.id,
            window: &self.window,
            handle: &self.handle,
            stop: &self.stop,
            steps: &self.steps,
            number: 1,
        })
    }

    /// Runs a round, which must not fail.
    pub(super) async fn run(&self) -> (AttemptEnd, AttemptStats) {
        let mut attempt = self.attempt();
        let end = attempt.run(None, SegmentSet::EMPTY).await.unwrap();
        (end, attempt.into_stats())
    }

    pub(super) fn edges(&self) -> Edges {
        self.handle.lock().edges
    }

    /// The number of events that readers see.
    pub(super) fn events(&self) -> u64 {
        self.handle.lock().events
    }
}

/// An event of an hour in November 2026.
pub(super) fn event(id: &str, day: u8) -> String {
    part(id, r#""type":"singleInstance","changeKey":"1""#, day)
}

/// An item with these members.
pub(super) fn part(id: &str, members: &str, day: u8) -> String {
    let time =
        |hour| format!(r#"{{"dateTime":"2026-11-{day:02}T{hour:02}:00:00","timeZone":"UTC"}}"#);
    format!(r#"{{"id":"{id}",{members},"start":{},"end":{}}}"#, time(9), time(10))
}

/// A page or a listing. `link` is the member after the items: see [`delta`] and [`next`].
fn answer(items: &[String], link: &str) -> ScriptedResponse {
    reply(200, format!(r#"{{"value":[{}]{link}}}"#, items.join(",")))
}

/// The last page of a round.
pub(super) fn delta(items: &[String]) -> ScriptedResponse {
    answer(items, &format!(r#","@odata.deltaLink":"{BASE}/delta""#))
}

/// A page before another one; each has a link of its own.
pub(super) fn next(items: &[String], number: u8) -> ScriptedResponse {
    answer(items, &format!(r#","@odata.nextLink":"{BASE}/next{number}""#))
}

/// The last page of a listing.
pub(super) fn list(items: &[String]) -> ScriptedResponse {
    answer(items, "")
}

/// The answer about an event or a mailbox that does not exist.
pub(super) fn not_found() -> ScriptedResponse {
    reply(404, r#"{"error":{"code":"ErrorItemNotFound"}}"#)
}

#[tokio::test(start_paused = true)]
async fn another_interval_moves_the_next_round_unless_the_window_waits_for_a_decision() {
    let fixture = WorkerFixture::new(window("alice"), []).await;
    let (worker, now) = (fixture.worker(), Instant::now());
    let (due, minute, hour) =
        (now + Duration::from_secs(30), Duration::from_secs(60), Duration::from_secs(3600));
    for (state, expected) in [
        (WindowState::Settled, 30 * 60),
        (WindowState::BackingOff, 30 * 60),
        (WindowState::Held, 30),
        (WindowState::Quarantined, 30),
        (WindowState::SignInRequired, 30),
    ] {
        fixture.handle.lock().health.state = state;
        let moved = worker.retimed(due, minute.as_secs_f32(), hour);
        assert_eq!(moved.duration_since(now).as_secs(), expected, "{state}");
        assert_eq!(worker.retimed(due, minute.as_secs_f32(), minute), due, "{state}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_round_is_spread_and_waits_for_a_pause_of_the_mailbox() {
    let fixture = WorkerFixture::new(window("alice"), []).await;
    let (worker, now) = (fixture.worker(), Instant::now());
    assert_eq!(worker.first_due(FirstRun::Now), now);
    let spread = worker.first_due(FirstRun::Spread).duration_since(now);
    assert!(spread > Duration::ZERO && spread < Duration::from_secs(60), "{spread:?}");
    worker.budget.pause(Duration::from_secs(600));
    assert_eq!(worker.first_due(FirstRun::Now).duration_since(now).as_secs(), 600);
}

/// A stored time may come from a wrong clock.
#[tokio::test(start_paused = true)]
async fn waits_for_stored_times_are_capped_at_confirm_after() {
    let fixture = WorkerFixture::new(window("alice"), []).await;
    let (worker, now) = (fixture.worker(), fixture.services.env.now());
    let longest = fixture.window.settings.confirm_after;
    let later = |seconds| Some(now + SignedDuration::from_secs(seconds));
    for (until, wait) in [
        (None, Duration::ZERO),
        (later(-5), Duration::ZERO),
        (later(5), Duration::from_secs(5)),
        (later(1 << 31), longest),
    ] {
        assert_eq!(worker.remaining_wait(&fixture.window, until), wait, "{until:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_worker_runs_rounds_until_it_is_stopped() {
    let fixture =
        WorkerFixture::new(window("alice"), [delta(&[event("a", 3)]), reply(503, ""), delta(&[])])
            .await;
    let mut worker = fixture.worker();
    let running = tokio::spawn(async move { worker.run(FirstRun::Now).await.unwrap() });
    for round in [1, 2] {
        fixture.handle.finished(round).await;
        let last = fixture.handle.status(fixture.services.env.now()).last_round.unwrap();
        assert_eq!((last.number, fixture.handle.state()), (round, WindowState::Settled));
    }
    let next = fixture.handle.status(fixture.services.env.now()).next_due.unwrap();
    assert_eq!(next.subsec_nanosecond() % 10_000_000, 0, "rounds begin together: {next}");
    assert_eq!(fixture.script.urls().len(), 3, "a round, and one with a repeated request");
    fixture.stop.cancel();
    fixture.handle.wake_worker();
    assert_eq!(running.await.unwrap(), WorkerExit::Stopped);
}

#[tokio::test(start_paused = true)]
async fn only_a_round_without_progress_that_is_not_queued_is_stuck() {
    let begun = Instant::now();
    let minutes = || begun.elapsed().as_secs() / 60;
    unchanged_for(STALL_LIMIT, || Some(1)).await;
    assert_eq!(minutes(), 10, "nothing moves");

    // Moves for an hour, queues for an hour, then hangs.
    let moved = Cell::new(0);
    let progress = || match minutes() - 10 {
        ..60 => {
            moved.set(moved.get() + 1);
            Some(moved.get())
        }
        60..120 => None,
        _ => Some(0),
    };
    unchanged_for(STALL_LIMIT, progress).await;
    assert_eq!(minutes(), 10 + 120 + 10);
}

/// There may be a million windows. The task adds about a hundred bytes to its future.
#[tokio::test(start_paused = true)]
async fn a_sleeping_window_uses_little_memory() {
    let fixture = WorkerFixture::new(window("alice"), []).await;
    let mut worker = fixture.worker();
    let size = size_of_val(&worker);
    let sleeping = size_of_val(&worker.run(FirstRun::Now));
    let round = size_of_val(&fixture.attempt().run(None, SegmentSet::EMPTY));
    assert!(size <= 56 && sleeping <= 248, "worker {size}, its sleeping future {sleeping}");
    let (handle, window) = (size_of::<WindowHandle>(), size_of::<Window>());
    assert!(handle <= 232 && window <= 72, "handle {handle}, window {window}");
    assert!(round <= 8700, "a round in progress: {round}");
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_the_round_of_its_window_at_once() {
    let fixture = WorkerFixture::new(window("alice"), [ScriptedResponse::Silence]).await;
    let mut worker = fixture.worker();
    let running = tokio::spawn(async move { worker.run(FirstRun::Now).await.unwrap() });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(fixture.handle.lock().running);
    let begun = Instant::now();
    fixture.handle.stop_worker();
    assert_eq!(running.await.unwrap(), WorkerExit::Stopped);
    assert_eq!(begun.elapsed(), Duration::ZERO);
    // Another worker of the window begins no round until it is allowed to.
    assert!(fixture.handle.arm_stop(&fixture.stop).is_cancelled());
    assert_eq!(fixture.worker().run(FirstRun::Now).await.unwrap(), WorkerExit::Stopped);
    fixture.handle.allow_worker();
    assert!(!fixture.handle.arm_stop(&fixture.stop).is_cancelled());
}

/// A fleet whose windows are all due at once must not take the memory of as many rounds.
#[tokio::test(start_paused = true)]
async fn a_round_that_nobody_requested_waits_for_its_turn() {
    let fixture = WorkerFixture::new(window("alice"), [delta(&[]), delta(&[])]).await;
    let budgets = fixture.services.client.budgets().clone();
    let mut others = Vec::new();
    for _ in 0..1024 {
        others.push(budgets.admit_round().await);
    }
    let mut worker = fixture.worker();
    let running = tokio::spawn(async move { worker.run(FirstRun::Now).await.unwrap() });
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(fixture.script.urls().is_empty(), "it did not wait");
    let round = fixture.handle.request_round(RoundRequest::Sync);
    fixture.handle.finished(round).await;
    assert_eq!(fixture.script.urls().len(), 1, "a requested round begins at once");
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(fixture.script.urls().len(), 1);
    drop(others.pop());
    fixture.handle.finished(round + 1).await;
    assert_eq!(fixture.script.urls().len(), 2);
    tokio::task::yield_now().await;
    assert!(budgets.admit_round().now_or_never().is_some(), "the place is free again");
    fixture.handle.stop_worker();
    assert_eq!(running.await.unwrap(), WorkerExit::Stopped);
}

#[tokio::test(start_paused = true)]
async fn a_round_of_a_throttled_mailbox_keeps_no_other_from_beginning() {
    let fixture = WorkerFixture::new(window("alice"), [ScriptedResponse::Silence]).await;
    let budgets = fixture.services.client.budgets().clone();
    let mut worker = fixture.worker();
    let mailbox = worker.budget.clone();
    let running = tokio::spawn(async move { worker.run(FirstRun::Now).await.unwrap() });
    tokio::task::yield_now().await;
    let mut others = Vec::new();
    for _ in 0..1023 {
        others.push(budgets.admit_round().await);
    }
    let begun = Instant::now();
    let busy = tokio::time::timeout(HEARTBEAT + Duration::from_secs(1), budgets.admit_round());
    assert!(busy.await.is_err(), "a round that is only slow gives its place away");
    mailbox.pause(Duration::from_secs(600));
    assert!(budgets.admit_round().await.is_some());
    assert_eq!(begun.elapsed(), 2 * HEARTBEAT);
    fixture.handle.stop_worker();
    assert_eq!(running.await.unwrap(), WorkerExit::Stopped);
}
