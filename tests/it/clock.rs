//! Wrong wall clocks: through the whole fleet in paused time, where Graph's clock is always right,
//! and with the real binary, whose clock a preloaded library shifts. However wrong the clock was:
//! once it is right again, the mirror equals what plain `calendarView` lists between the right
//! edges, and nothing waits for a time computed from the wrong clock.

mod process;

use std::sync::Arc;
use std::time::Duration;

use calmirror::env::Env;
use calmirror::mirror::clock::ClockCheck;
use calmirror::mirror::schedule;
use calmirror::mirror::status::WindowState;
use calmirror::mirror::window::{Edge, Edges, WindowSettings};
use calmirror::simulator::{Behaviour, Edit, Fault, PlannedFault, SignInRefusal};
use jiff::{SignedDuration, Timestamp};

use crate::converge::simulator;
use crate::memory::Memory;
use crate::rig::{Rig, noon, window_settings, window_with};
use crate::window_fixture::{LONG, MAILBOX, WindowFixture};

const MINUTE: Duration = Duration::from_secs(60);
const DAY: SignedDuration = SignedDuration::from_hours(24);

/// Ten years ahead, eight days ahead, a year behind.
const JUMPS: [i32; 3] = [3650, 8, -365];

impl WindowFixture {
    /// A settled and exact window with relative edges. The daemon's clock can be set apart from
    /// Graph's.
    async fn relative(seed: u64) -> Self {
        let right = Env::simulated(seed, noon());
        let env = Env::simulated(seed + 1, noon());
        let simulator = simulator(seed, Behaviour::by_seed(seed), &right);
        let days = |days| Edge::Relative { years: 0, months: 0, days };
        let window = window_with(
            MAILBOX,
            WindowSettings { start: days(-30), end: days(90), ..window_settings() },
        );
        let graph = Arc::new(Memory(simulator.clone()));
        let fixture = Self::start(simulator, graph, env, right, window).await;
        fixture.assert_exact("at first").await;
        assert!(fixture.status().events > 40, "{}", fixture.status().events);
        fixture
    }

    async fn succeeded(&self) {
        let status = self.round().await;
        // The next round may be in progress already.
        let well = matches!(status.state, WindowState::Settled | WindowState::Following);
        assert!(well && status.last_error.is_none(), "{status:?}");
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
        let mut fixture = WindowFixture::relative(seed).await;
        // The process restarts in the jump, after it, both, or not at all.
        for restarts in [[false, false], [true, false], [false, true], [true, true]] {
            let when = format!("{days} days, restarts {restarts:?}");
            let (seq, edges) = (fixture.rig.store.durable_seq(), fixture.status().start);
            fixture.env.advance_wall_clock(DAY * days);
            if restarts[0] {
                fixture = fixture.restarted().await;
            }
            // Several rounds, also requested ones.
            fixture.round().await;
            seconds(200).await;
            let status = fixture.round().await;
            assert_eq!(status.state, WindowState::Settled, "{when}");
            assert_eq!(status.start, edges, "{when}");
            fixture.assert_times_plausible(&when);
            fixture.assert_exact(&format!("in the jump, {when}")).await;
            let metrics = &fixture.rig.metrics.graph.clock;
            let ClockCheck::Skew(skew) = metrics.check(fixture.env.now()) else {
                panic!("the clock's error is unknown, {when}")
            };
            assert!((skew - DAY * days).abs() < SignedDuration::from_secs(5), "{when}: {skew:#}");
            fixture.env.advance_wall_clock(DAY * -days);
            if restarts[1] {
                fixture = fixture.restarted().await;
            }
            fixture.round().await;
            seconds(200).await;
            assert_eq!(fixture.round().await.state, WindowState::Settled, "{when}");
            fixture.assert_times_plausible(&when);
            fixture.assert_exact(&when).await;
            assert_eq!(fixture.rig.store.durable_seq(), seq, "the feed has new entries, {when}");
        }
        fixture.rig.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn edges_of_a_window_created_under_a_wrong_clock_are_corrected() {
    for (seed, days) in (10..).zip(JUMPS) {
        let fixture = WindowFixture::relative(seed).await;
        let WindowFixture { simulator, rig, window, env, right, .. } = fixture;
        rig.stop().await;
        // A store from a first start under a wrong clock.
        env.advance_wall_clock(DAY * days);
        let graph = Arc::new(Memory(simulator.clone()));
        let mut fixture = WindowFixture::start(simulator, graph, env, right, window).await;
        let edges = schedule::edges(&fixture.window, fixture.env.now());
        assert_eq!(fixture.status().start, edges.start, "{days} days");
        fixture.env.advance_wall_clock(DAY * -days);
        if days == 8 {
            fixture = fixture.restarted().await;
        }
        // Removals may have to be confirmed.
        fixture.round().await;
        tokio::time::sleep(fixture.window.settings.confirm_after + MINUTE * 2).await;
        fixture.rig.settle(MAILBOX, 5).await;
        fixture.assert_exact(&format!("made {days} days off")).await;
        fixture.rig.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_move_that_drops_most_of_a_window_is_held_and_confirmed() {
    let fixture = WindowFixture::relative(20).await;
    let before = Edges { start: fixture.status().start, end: fixture.status().end };
    // Both clocks jump, so only the size of the step is suspicious.
    let jump = async |by| {
        fixture.env.advance_wall_clock(by);
        fixture.right.advance_wall_clock(by);
        // The first response shows that Graph's clock has jumped as well.
        fixture.round().await;
    };
    jump(DAY * 3650).await;
    let status = fixture.round().await;
    assert_eq!(status.state, WindowState::Held);
    let until = status.held_until.expect("the status has a time to hold until");
    let wait = until.duration_since(fixture.env.now());
    assert!(wait > SignedDuration::ZERO && wait <= SignedDuration::from_mins(10), "{wait:#}");
    // Readers keep the old edges, and changes still arrive.
    fixture.simulator.mutate_randomly();
    let status = fixture.round().await;
    assert_eq!((status.state, status.start), (WindowState::Held, before.start));
    fixture.assert_mirrored(before, "while the move is held").await;
    // The clock returns: the hold ends without a trace.
    jump(DAY * -3650).await;
    assert_eq!(fixture.round().await.state, WindowState::Settled);
    fixture.assert_exact("the clock has returned").await;

    // The jump persists: the edges move after `confirm_after`, and no sooner.
    jump(DAY * 3650).await;
    assert_eq!(fixture.round().await.state, WindowState::Held);
    seconds(590).await;
    assert_eq!(fixture.status().start, before.start);
    seconds(200).await;
    fixture.rig.settle(MAILBOX, 5).await;
    fixture.assert_exact("ten years later").await;

    // The edges move back at once when the removals are accepted.
    jump(DAY * -3650).await;
    let started = fixture.rig.fleet.resync(MAILBOX, true, Some(LONG)).await.unwrap();
    assert_eq!(started.finished.unwrap().state, WindowState::Settled);
    fixture.assert_exact("accepted").await;
    fixture.rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_week_of_downtime_moves_the_edges_at_once() {
    let fixture = WindowFixture::relative(21).await;
    let WindowFixture { simulator, rig, window, env, right, directory, .. } = fixture;
    rig.stop().await;
    for env in [&env, &right] {
        env.advance_wall_clock(DAY * 8);
    }
    let graph = Arc::new(Memory(simulator.clone()));
    let rig = Rig::start(directory.path(), graph, &env, vec![window.clone()]).await;
    let fixture = WindowFixture { simulator, rig, window, env, right, directory, ..fixture };
    let status = fixture.round().await;
    assert_eq!((status.state, status.held_until), (WindowState::Settled, None));
    fixture.assert_exact("after eight days").await;
    fixture.rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn no_hold_lasts_longer_than_confirm_after_at_any_clock() {
    for (seed, days) in (30..).zip(JUMPS) {
        for restarts in [[false, false], [true, false], [false, true]] {
            let when = format!("{days} days, restarts {restarts:?}");
            let mut fixture = WindowFixture::relative(seed).await;
            let create = |n: u32| Edit::CreateSingle {
                subject: format!("{n}"),
                start: noon() + DAY * i32::try_from(n % 60).unwrap(),
                minutes: 30,
            };
            let created: Vec<String> = (0..600).map(|n| fixture.edit(create(n))).collect();
            assert_eq!(fixture.round().await.state, WindowState::Settled, "{when}");
            for event in created {
                fixture.edit(Edit::Delete { event });
            }
            // Held while the clock is wrong.
            fixture.env.advance_wall_clock(DAY * days);
            let status = fixture.round().await;
            assert_eq!(status.state, WindowState::Held, "{when}");
            let (until, due) = (status.held_until.unwrap(), status.next_due.unwrap());
            // Rounds begin on a grid of 10 ms.
            let later = due.duration_since(until);
            assert!((0..10).contains(&later.as_millis()) && !later.is_negative(), "{when}");
            // A requested round reports the hold and makes no request.
            let requests = fixture.requests();
            let status = fixture.round().await;
            assert_eq!((status.state, fixture.requests()), (WindowState::Held, requests), "{when}");
            assert!(status.held_until.is_some(), "{when}");
            if restarts[0] {
                fixture = fixture.restarted().await;
            }
            fixture.env.advance_wall_clock(DAY * -days);
            if restarts[1] {
                fixture = fixture.restarted().await;
            }
            tokio::time::sleep(fixture.window.settings.confirm_after + MINUTE * 2).await;
            assert_eq!(fixture.status().state, WindowState::Settled, "{when}");
            fixture.assert_exact(&when).await;
            fixture.rig.stop().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn stored_pauses_are_capped_at_an_hour() {
    let fixture = WindowFixture::relative(40).await;
    fixture.env.advance_wall_clock(DAY * 3650);
    let pause = Fault::Throttled { retry_after: Some("1800".into()) };
    fixture.simulator.plan(PlannedFault::once(pause));
    assert_eq!(fixture.round().await.state, WindowState::BackingOff);
    fixture.env.advance_wall_clock(DAY * -3650);
    // The real pause is over; the recorded one ends ten years ahead.
    seconds(3600).await;
    let fixture = fixture.restarted().await;
    let begun = tokio::time::Instant::now();
    fixture.succeeded().await;
    assert!(begun.elapsed() < MINUTE, "{:?}", begun.elapsed());
    // The next pause is remembered as usual.
    let pause = Fault::Throttled { retry_after: Some("1800".into()) };
    fixture.simulator.plan(PlannedFault::once(pause));
    assert_eq!(fixture.round().await.state, WindowState::BackingOff);
    let fixture = fixture.restarted().await;
    let begun = tokio::time::Instant::now();
    fixture.succeeded().await;
    assert!(begun.elapsed() > MINUTE * 25, "{:?}", begun.elapsed());
    fixture.rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn delta_is_tried_again_within_a_day_although_the_clock_jumped() {
    for (seed, days) in (50..).zip(JUMPS) {
        let mut fixture = WindowFixture::relative(seed).await;
        fixture.env.advance_wall_clock(DAY * days);
        fixture
            .simulator
            .plan(PlannedFault::always(Fault::EndlessPaging { below: usize::MAX }).path("delta"));
        let mode = |fixture: &WindowFixture| fixture.status().segments[0].mode.as_str();
        for _ in 0..20 {
            fixture.round().await;
            if mode(&fixture) == "snapshot" {
                break;
            }
            tokio::time::sleep(fixture.window.settings.confirm_after + MINUTE).await;
        }
        assert_eq!(mode(&fixture), "snapshot", "{days} days");
        fixture.env.advance_wall_clock(DAY * -days);
        fixture.simulator.clear_faults();
        fixture = fixture.restarted().await;
        tokio::time::sleep(Duration::from_secs(25 * 3600)).await;
        fixture.rig.settle(MAILBOX, 5).await;
        assert_eq!(mode(&fixture), "delta", "{days} days");
        let status = fixture.status();
        let edges = Edges { start: status.start, end: status.end };
        fixture.assert_mirrored(edges, &format!("{days} days")).await;
        fixture.rig.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_requested_round_retries_a_refused_sign_in_at_once() {
    let fixture = WindowFixture::relative(60).await;
    let refused = PlannedFault::once(Fault::SignIn { how: SignInRefusal::WrongSecret });
    fixture.simulator.plan(refused.times(2));
    // A process without a token.
    let fixture = fixture.restarted().await;
    assert_eq!(fixture.round().await.state, WindowState::SignInRequired);
    let first = fixture.status();
    seconds(2).await;
    // Refused again, by a new request to the endpoint.
    let status = fixture.round().await;
    assert_eq!(status.state, WindowState::SignInRequired);
    assert!(fixture.simulator.faults().planned.is_empty(), "no token request was made");
    assert!(status.last_error.unwrap().at > first.last_error.unwrap().at);
    // Rounds within a second reuse the refusal: they make no request and lengthen no wait.
    let status = fixture.status();
    let (failures, due, requests) = (status.failures, status.next_due.unwrap(), fixture.requests());
    for _ in 0..5 {
        let status = fixture.round().await;
        assert_eq!(status.failures, failures);
        assert!(status.next_due.unwrap() <= due, "{:?} and {due}", status.next_due);
    }
    assert_eq!(fixture.requests(), requests);
    // With the sign-in fixed the next requested round succeeds.
    seconds(2).await;
    let status = fixture.round().await;
    assert_eq!((status.state, status.last_error), (WindowState::Settled, None));
    fixture.assert_exact("signed in again").await;
    fixture.rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn ages_count_from_the_start_if_the_stored_time_is_in_the_future() {
    let fixture = WindowFixture::relative(70).await;
    fixture.env.advance_wall_clock(DAY * -365);
    let fixture = fixture.restarted().await;
    let stale = fixture.status().stale_s.unwrap();
    assert!((0.0..60.0).contains(&stale), "{stale}");
    let seen: Timestamp = fixture.status().last_success.unwrap();
    assert!(seen <= fixture.env.now());
    fixture.rig.stop().await;
}
