//! A Graph that sends false data: nothing in it crashes the daemon, loses the rest of a page, or
//! leaves a wrong mirror without a report.

use std::sync::Arc;
use std::time::Duration;

use calmirror::env::Env;
use calmirror::mirror::status::{WindowState, WindowStatus};
use calmirror::mirror::window::{Completion, Edges, WindowSettings};
use calmirror::simulator::{Behaviour, Fault, Lie, PlannedFault};
use clap::ValueEnum as _;

use crate::compare::{EventsById, assert_same, fits, folded, mirror, truth};
use crate::converge::simulator;
use crate::memory::Memory;
use crate::rig::{Rig, noon, window_settings, window_with};

const MAILBOX: &str = "alice@contoso.com";

/// The state of the mirror after the round with the lie.
#[derive(Clone, Copy, Debug, PartialEq)]
enum LieEffect {
    /// It is exact: the lie was detected, or has no effect.
    Exact,
    /// It is exact except for events that keep their previous state (or are still missing). The
    /// status counts them.
    CountedUnreadable,
    /// This many plausible events were invented; they cannot be detected.
    Accepted(usize),
    /// Ids that differ only in case are different events; this cannot be detected.
    Others,
}

fn then(lie: Lie) -> LieEffect {
    match lie {
        Lie::Twice | Lie::RemovedAndThere | Lie::ThereAndRemoved | Lie::Circle | Lie::Orphan => {
            LieEffect::Exact
        }
        Lie::OwnMaster
        | Lie::BadDates
        | Lie::Backwards
        | Lie::BadZone
        | Lie::EmptyId
        | Lie::NoObjects
        | Lie::Deep => LieEffect::CountedUnreadable,
        Lie::LongId | Lie::DoubleMembers | Lie::SixtyMebibytes => LieEffect::Accepted(1),
        Lie::TenThousand => LieEffect::Accepted(10_000),
        Lie::OtherCase => LieEffect::Others,
    }
}

async fn seen(rig: &Rig) -> EventsById {
    let events = mirror(&rig.store, rig.fleet.id(MAILBOX).unwrap()).await;
    let feed = folded(&rig.store, rig.fleet.id(MAILBOX).unwrap()).await;
    assert_same("feed and mirror", &feed, &events);
    events
}

/// The round in which the lie is told.
#[derive(Clone, Copy, Debug, PartialEq)]
enum LieTiming {
    First,
    Later,
    Resync,
}

async fn check_lie(lie: Lie, seed: u64, when: LieTiming) {
    let what = format!("{lie:?}, {when:?}");
    let directory = tempfile::tempdir().unwrap();
    let env = Env::simulated(seed, noon());
    let simulator = simulator(seed, Behaviour::by_seed(seed), &env);
    let quiet = window_with(
        MAILBOX,
        WindowSettings { interval: Duration::from_secs(86_400 * 30), ..window_settings() },
    );
    let graph = Arc::new(Memory(simulator.clone()));
    let lie_once = PlannedFault::once(Fault::Lie { how: lie }).path("delta");
    if when == LieTiming::First {
        simulator.plan(lie_once.clone());
    }
    let rig = Rig::start(directory.path(), graph, &env, vec![quiet]).await;
    if when != LieTiming::First {
        rig.settle(MAILBOX, 5).await;
    }
    let round = async || -> WindowStatus {
        let wait = Some(Duration::from_secs(8 * 3600));
        let started = match when {
            LieTiming::Resync => rig.fleet.resync(MAILBOX, false, wait).await,
            LieTiming::First | LieTiming::Later => rig.fleet.sync(MAILBOX, wait).await,
        };
        started.unwrap().finished.expect("the round ends")
    };
    let real = async |status: &WindowStatus| {
        let edges = Edges { start: status.start, end: status.end };
        truth(&simulator, MAILBOX, None, edges, Completion::Master).await
    };
    if when != LieTiming::First {
        simulator.plan(lie_once);
        for _ in 0..3 {
            simulator.mutate_randomly();
        }
    }
    let before = seen(&rig).await;
    let status = round().await;
    assert!(simulator.faults().planned.is_empty(), "{what} was not sent");
    match (then(lie), status.state) {
        (_, WindowState::Settled) => {}
        // A series under another id than its master's cannot be completed, which is reported.
        (LieEffect::Others, WindowState::BackingOff) => {
            assert_eq!(status.last_error.as_ref().unwrap().kind.as_str(), "incomplete", "{what}");
        }
        other => panic!("{what}: {other:?} {:?}", status.last_error),
    }
    let (after, truth) = (seen(&rig).await, real(&status).await);
    match then(lie) {
        LieEffect::Exact => {
            assert_same(&what, &after, &truth);
            assert_eq!(status.unreadable, 0, "{what}");
        }
        LieEffect::CountedUnreadable => {
            assert!((1..=5).contains(&status.unreadable), "{what}: {}", status.unreadable);
            let stale = |id: &&String| match (after.get(*id), truth.get(*id)) {
                (Some(is), Some(expected)) => !fits(is, expected),
                _ => true,
            };
            let wrong: Vec<&String> = truth.keys().chain(after.keys()).filter(stale).collect();
            for id in &wrong {
                let (was, is, real) = (before.get(*id), after.get(*id), truth.get(*id));
                assert_eq!(was, is, "{what}: {id} is {real:#?}");
            }
            // At most one series: its master may be the unreadable item.
            let series = wrong.iter().map(|id| truth.get(*id).map(|e| &e["seriesMasterId"]));
            assert!(series.collect::<std::collections::HashSet<_>>().len() <= 1, "{what}");
        }
        LieEffect::Accepted(count) => {
            let made_up = after.iter().filter(|(_, e)| e["subject"] == "There is no such event");
            assert_eq!(made_up.count(), count, "{what}");
            assert_eq!(after.len(), truth.len() + count, "{what}");
        }
        LieEffect::Others => {}
    }
    // Graph is honest again and the window is enumerated again, which makes everything right.
    rig.fleet.resync(MAILBOX, false, Some(Duration::from_secs(8 * 3600))).await.unwrap();
    let status = rig.settle(MAILBOX, 6).await;
    assert_same(&format!("{what}, in the end"), &seen(&rig).await, &real(&status).await);
    assert_eq!(status.unreadable, 0, "{what}");
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn no_lie_in_a_round_is_silent_or_fatal() {
    for (seed, lie) in (1300..).zip(Lie::value_variants()) {
        check_lie(*lie, seed, LieTiming::Later).await;
    }
}

#[tokio::test(start_paused = true)]
async fn no_lie_in_an_enumeration_is_silent_or_fatal() {
    for (seed, lie) in (1400..).zip(Lie::value_variants()) {
        check_lie(*lie, seed, LieTiming::Resync).await;
    }
}

#[tokio::test(start_paused = true)]
async fn no_lie_in_a_first_enumeration_is_silent_or_fatal() {
    for (seed, lie) in (1200..).zip(Lie::value_variants()) {
        check_lie(*lie, seed, LieTiming::First).await;
    }
}
