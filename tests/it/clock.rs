//! Wrong wall clocks: through the whole fleet in paused time, where Graph's clock is always right,
//! and with the real binary, whose clock a preloaded library shifts. However wrong the clock was:
//! once it is right again, the mirror equals what plain `calendarView` lists between the right
//! edges, and nothing waits for a time computed from the wrong clock.

mod process;

use std::sync::Arc;
use std::time::Duration;

use calmirror::env::Env;
use calmirror::mirror::clock::ClockCheck;
use calmirror::mirror::position::WindowId;
use calmirror::mirror::schedule;
use calmirror::mirror::status::{WindowState, WindowStatus};
use calmirror::mirror::window::{Completion, Edge, Edges, Window, WindowSettings};
use calmirror::simulator::{
    Behaviour, Edit, Fault, Mutation, PlannedFault, SignInRefusal, Simulator,
};
use jiff::{SignedDuration, Timestamp};
use tempfile::TempDir;

use crate::compare::{assert_mirrored, truth};
use crate::converge::simulator;
use crate::memory::Memory;
use crate::rig::{Rig, noon, window_settings, window_with};

const MAILBOX: &str = "alice@contoso.com";
/// Longer than any round takes, including its waits.
const LONG: Duration = Duration::from_secs(8 * 3600);
const MINUTE: Duration = Duration::from_secs(60);
const DAY: SignedDuration = SignedDuration::from_hours(24);

/// Ten years ahead, eight days ahead, a year behind.
const JUMPS: [i32; 3] = [3650, 8, -365];

/// One window with relative edges. Graph has a clock of its own, which is always right.
struct Scene {
    simulator: Simulator,
    rig: Rig,
    id: WindowId,
    window: Window,
    /// The daemon's clock.
    env: Env,
    /// Graph's clock.
    right: Env,
    directory: TempDir,
}

impl Scene {
    async fn settled(seed: u64) -> Self {
        let right = Env::simulated(seed, noon());
        let env = Env::simulated(seed + 1, noon());
        let simulator = simulator(seed, Behaviour::by_seed(seed), &right);
        let days = |days| Edge::Relative { years: 0, months: 0, days };
        let window = window_with(
            MAILBOX,
            WindowSettings { start: days(-30), end: days(90), ..window_settings() },
        );
        let directory = tempfile::tempdir().unwrap();
        let graph = Arc::new(Memory(simulator.clone()));
        let rig = Rig::start(directory.path(), graph, &env, vec![window.clone()]).await;
        rig.settle(MAILBOX, 5).await;
        let id = rig.fleet.id(MAILBOX).unwrap();
        let scene = Self { simulator, rig, id, window, env, right, directory };
        scene.assert_exact("at first").await;
        assert!(scene.status().events > 40, "{}", scene.status().events);
        scene
    }

    /// Stops as by SIGTERM and starts again.
    async fn restarted(self) -> Self {
        let Self { simulator, rig, id, window, env, right, directory } = self;
        rig.stop().await;
        let graph = Arc::new(Memory(simulator.clone()));
        let rig = Rig::start(directory.path(), graph, &env, vec![window.clone()]).await;
        Self { simulator, rig, id, window, env, right, directory }
    }

    async fn round(&self) -> WindowStatus {
        let started = self.rig.fleet.sync(MAILBOX, Some(LONG)).await.unwrap();
        started.finished.expect("the round ends")
    }

    async fn succeeded(&self) {
        let status = self.round().await;
        // The next round may be in progress already.
        let well = matches!(status.state, WindowState::Settled | WindowState::Following);
        assert!(well && status.last_error.is_none(), "{status:?}");
    }

    fn status(&self) -> WindowStatus {
        self.rig.fleet.window(MAILBOX).unwrap()
    }

    fn edit(&self, edit: Edit) -> String {
        let mutation = Mutation { mailbox: MAILBOX.into(), calendar: None, edit };
        self.simulator.mutate(mutation).unwrap()
    }

    fn requests(&self) -> u64 {
        self.simulator.statistics().total.requests
    }

    /// Asserts that mirror, feed and truth agree between the edges by Graph's clock.
    async fn assert_exact(&self, when: &str) {
        let status = self.status();
        let edges = Edges { start: status.start, end: status.end };
        assert_eq!(edges, schedule::edges(&self.window, self.right.now()), "{when}");
        self.assert_mirrored(edges, when).await;
    }

    async fn assert_mirrored(&self, edges: Edges, when: &str) {
        let real = truth(&self.simulator, MAILBOX, None, edges, Completion::Master).await;
        assert_mirrored(&self.rig.store, self.id, &real, when).await;
    }

    /// Asserts that the times in the status are consistent with the daemon's clock.
    fn assert_times_plausible(&self, when: &str) {
        let (status, now) = (self.status(), self.env.now());
        let hour = SignedDuration::from_hours(1);
        let stale = status.stale_s.unwrap();
        assert!((0.0..3600.0).contains(&stale), "{when}: {stale}");
        let due = status.next_due.unwrap().duration_since(now);
        assert!(due.abs() <= hour, "{when}: due in {due:#}");
        let last = status.last_success.unwrap();
        assert!(last <= now, "{when}: {last} is ahead of {now}");
    }
}

async fn seconds(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_and_returns_moves_no_edge() {
    for (seed, days) in (1..).zip(JUMPS) {
        let mut scene = Scene::settled(seed).await;
        // The process restarts in the jump, after it, both, or not at all.
        for restarts in [[false, false], [true, false], [false, true], [true, true]] {
            let when = format!("{days} days, restarts {restarts:?}");
            let (seq, edges) = (scene.rig.store.durable_seq(), scene.status().start);
            scene.env.advance_wall_clock(DAY * days);
            if restarts[0] {
                scene = scene.restarted().await;
            }
            // Several rounds, also requested ones.
            scene.round().await;
            seconds(200).await;
            let status = scene.round().await;
            assert_eq!(status.state, WindowState::Settled, "{when}");
            assert_eq!(status.start, edges, "{when}");
            scene.assert_times_plausible(&when);
            scene.assert_exact(&format!("in the jump, {when}")).await;
            let metrics = &scene.rig.metrics.graph.clock;
            let ClockCheck::Skew(skew) = metrics.check(scene.env.now()) else {
                panic!("the clock's error is unknown, {when}")
            };
            assert!((skew - DAY * days).abs() < SignedDuration::from_secs(5), "{when}: {skew:#}");
            scene.env.advance_wall_clock(DAY * -days);
            if restarts[1] {
                scene = scene.restarted().await;
            }
            scene.round().await;
            seconds(200).await;
            assert_eq!(scene.round().await.state, WindowState::Settled, "{when}");
            scene.assert_times_plausible(&when);
            scene.assert_exact(&when).await;
            assert_eq!(scene.rig.store.durable_seq(), seq, "the feed has new entries, {when}");
        }
        scene.rig.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn edges_of_a_window_created_under_a_wrong_clock_are_corrected() {
    for (seed, days) in (10..).zip(JUMPS) {
        let scene = Scene::settled(seed).await;
        let Scene { simulator, rig, window, env, right, .. } = scene;
        rig.stop().await;
        // A store from a first start under a wrong clock.
        let directory = tempfile::tempdir().unwrap();
        env.advance_wall_clock(DAY * days);
        let graph = Arc::new(Memory(simulator.clone()));
        let rig = Rig::start(directory.path(), graph, &env, vec![window.clone()]).await;
        rig.settle(MAILBOX, 5).await;
        let id = rig.fleet.id(MAILBOX).unwrap();
        let mut scene = Scene { simulator, rig, id, window, env, right, directory };
        let edges = schedule::edges(&scene.window, scene.env.now());
        assert_eq!(scene.status().start, edges.start, "{days} days");
        scene.env.advance_wall_clock(DAY * -days);
        if days == 8 {
            scene = scene.restarted().await;
        }
        // Removals may have to be confirmed.
        scene.round().await;
        tokio::time::sleep(scene.window.settings.confirm_after + MINUTE * 2).await;
        scene.rig.settle(MAILBOX, 5).await;
        scene.assert_exact(&format!("made {days} days off")).await;
        scene.rig.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_move_that_drops_most_of_a_window_is_held_and_confirmed() {
    let scene = Scene::settled(20).await;
    let before = Edges { start: scene.status().start, end: scene.status().end };
    // Both clocks jump, so only the size of the step is suspicious.
    let jump = async |by| {
        scene.env.advance_wall_clock(by);
        scene.right.advance_wall_clock(by);
        // The first response shows that Graph's clock has jumped as well.
        scene.round().await;
    };
    jump(DAY * 3650).await;
    let status = scene.round().await;
    assert_eq!(status.state, WindowState::Held);
    let until = status.held_until.expect("the status has a time to hold until");
    let wait = until.duration_since(scene.env.now());
    assert!(wait > SignedDuration::ZERO && wait <= SignedDuration::from_mins(10), "{wait:#}");
    // Readers keep the old edges, and changes still arrive.
    scene.simulator.mutate_randomly();
    let status = scene.round().await;
    assert_eq!((status.state, status.start), (WindowState::Held, before.start));
    scene.assert_mirrored(before, "while the move is held").await;
    // The clock returns: the hold ends without a trace.
    jump(DAY * -3650).await;
    assert_eq!(scene.round().await.state, WindowState::Settled);
    scene.assert_exact("the clock has returned").await;

    // The jump persists: the edges move after `confirm_after`, and no sooner.
    jump(DAY * 3650).await;
    assert_eq!(scene.round().await.state, WindowState::Held);
    seconds(590).await;
    assert_eq!(scene.status().start, before.start);
    seconds(200).await;
    scene.rig.settle(MAILBOX, 5).await;
    scene.assert_exact("ten years later").await;

    // The edges move back at once when the removals are accepted.
    jump(DAY * -3650).await;
    let started = scene.rig.fleet.resync(MAILBOX, true, Some(LONG)).await.unwrap();
    assert_eq!(started.finished.unwrap().state, WindowState::Settled);
    scene.assert_exact("accepted").await;
    scene.rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_week_of_downtime_moves_the_edges_at_once() {
    let scene = Scene::settled(21).await;
    let Scene { simulator, rig, window, env, right, directory, id } = scene;
    rig.stop().await;
    for env in [&env, &right] {
        env.advance_wall_clock(DAY * 8);
    }
    let graph = Arc::new(Memory(simulator.clone()));
    let rig = Rig::start(directory.path(), graph, &env, vec![window.clone()]).await;
    let scene = Scene { simulator, rig, id, window, env, right, directory };
    let status = scene.round().await;
    assert_eq!((status.state, status.held_until), (WindowState::Settled, None));
    scene.assert_exact("after eight days").await;
    scene.rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn no_hold_lasts_longer_than_confirm_after_at_any_clock() {
    for (seed, days) in (30..).zip(JUMPS) {
        for restarts in [[false, false], [true, false], [false, true]] {
            let when = format!("{days} days, restarts {restarts:?}");
            let mut scene = Scene::settled(seed).await;
            let create = |n: u32| Edit::CreateSingle {
                subject: format!("{n}"),
                start: noon() + DAY * i32::try_from(n % 60).unwrap(),
                minutes: 30,
            };
            let created: Vec<String> = (0..600).map(|n| scene.edit(create(n))).collect();
            assert_eq!(scene.round().await.state, WindowState::Settled, "{when}");
            for event in created {
                scene.edit(Edit::Delete { event });
            }
            // Held while the clock is wrong.
            scene.env.advance_wall_clock(DAY * days);
            let status = scene.round().await;
            assert_eq!(status.state, WindowState::Held, "{when}");
            assert_eq!(status.held_until, status.next_due, "{when}");
            // A requested round reports the hold and makes no request.
            let requests = scene.requests();
            let status = scene.round().await;
            assert_eq!((status.state, scene.requests()), (WindowState::Held, requests), "{when}");
            assert!(status.held_until.is_some(), "{when}");
            if restarts[0] {
                scene = scene.restarted().await;
            }
            scene.env.advance_wall_clock(DAY * -days);
            if restarts[1] {
                scene = scene.restarted().await;
            }
            tokio::time::sleep(scene.window.settings.confirm_after + MINUTE * 2).await;
            assert_eq!(scene.status().state, WindowState::Settled, "{when}");
            scene.assert_exact(&when).await;
            scene.rig.stop().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn stored_pauses_are_capped_at_an_hour() {
    let scene = Scene::settled(40).await;
    scene.env.advance_wall_clock(DAY * 3650);
    let pause = Fault::Throttled { retry_after: Some("1800".into()) };
    scene.simulator.plan(PlannedFault::once(pause));
    assert_eq!(scene.round().await.state, WindowState::BackingOff);
    scene.env.advance_wall_clock(DAY * -3650);
    // The real pause is over; the recorded one ends ten years ahead.
    seconds(3600).await;
    let scene = scene.restarted().await;
    let begun = tokio::time::Instant::now();
    scene.succeeded().await;
    assert!(begun.elapsed() < MINUTE, "{:?}", begun.elapsed());
    // The next pause is remembered as usual.
    let pause = Fault::Throttled { retry_after: Some("1800".into()) };
    scene.simulator.plan(PlannedFault::once(pause));
    assert_eq!(scene.round().await.state, WindowState::BackingOff);
    let scene = scene.restarted().await;
    let begun = tokio::time::Instant::now();
    scene.succeeded().await;
    assert!(begun.elapsed() > MINUTE * 25, "{:?}", begun.elapsed());
    scene.rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn delta_is_tried_again_within_a_day_although_the_clock_jumped() {
    for (seed, days) in (50..).zip(JUMPS) {
        let mut scene = Scene::settled(seed).await;
        scene.env.advance_wall_clock(DAY * days);
        scene
            .simulator
            .plan(PlannedFault::always(Fault::EndlessPaging { below: usize::MAX }).path("delta"));
        let mode = |scene: &Scene| scene.status().segments[0].mode.as_str();
        for _ in 0..20 {
            scene.round().await;
            if mode(&scene) == "snapshot" {
                break;
            }
            tokio::time::sleep(scene.window.settings.confirm_after + MINUTE).await;
        }
        assert_eq!(mode(&scene), "snapshot", "{days} days");
        scene.env.advance_wall_clock(DAY * -days);
        scene.simulator.clear_faults();
        scene = scene.restarted().await;
        tokio::time::sleep(Duration::from_secs(25 * 3600)).await;
        scene.rig.settle(MAILBOX, 5).await;
        assert_eq!(mode(&scene), "delta", "{days} days");
        let status = scene.status();
        let edges = Edges { start: status.start, end: status.end };
        scene.assert_mirrored(edges, &format!("{days} days")).await;
        scene.rig.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_requested_round_retries_a_refused_sign_in_at_once() {
    let scene = Scene::settled(60).await;
    let refused = PlannedFault::once(Fault::SignIn { how: SignInRefusal::WrongSecret });
    scene.simulator.plan(refused.times(2));
    // A process without a token.
    let scene = scene.restarted().await;
    assert_eq!(scene.round().await.state, WindowState::SignInRequired);
    let first = scene.status();
    seconds(2).await;
    // Refused again, by a new request to the endpoint.
    let status = scene.round().await;
    assert_eq!(status.state, WindowState::SignInRequired);
    assert!(scene.simulator.faults().planned.is_empty(), "no token request was made");
    assert!(status.last_error.unwrap().at > first.last_error.unwrap().at);
    // Rounds within a second reuse the refusal: they make no request and lengthen no wait.
    let status = scene.status();
    let (failures, due, requests) = (status.failures, status.next_due.unwrap(), scene.requests());
    for _ in 0..5 {
        let status = scene.round().await;
        assert_eq!(status.failures, failures);
        assert!(status.next_due.unwrap() <= due, "{:?} and {due}", status.next_due);
    }
    assert_eq!(scene.requests(), requests);
    // With the sign-in fixed the next requested round succeeds.
    seconds(2).await;
    let status = scene.round().await;
    assert_eq!((status.state, status.last_error), (WindowState::Settled, None));
    scene.assert_exact("signed in again").await;
    scene.rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn ages_count_from_the_start_if_the_stored_time_is_in_the_future() {
    let scene = Scene::settled(70).await;
    scene.env.advance_wall_clock(DAY * -365);
    let scene = scene.restarted().await;
    let stale = scene.status().stale_s.unwrap();
    assert!((0.0..60.0).contains(&stale), "{stale}");
    let seen: Timestamp = scene.status().last_success.unwrap();
    assert!(seen <= scene.env.now());
    scene.rig.stop().await;
}
