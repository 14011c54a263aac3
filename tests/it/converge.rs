//! After any history, with every behaviour of Graph, mirror, feed and truth are the same.

use std::sync::Arc;
use std::time::Duration;

use calmirror::env::Env;
use calmirror::mirror::window::{Completion, Edges, WindowSettings};
use calmirror::simulator::{
    Behaviour, Faults, InstanceListing, Population, PrivateEvents, Simulator, SimulatorSettings,
};

use crate::compare::{assert_mirrored, assert_same, changes_after, mirror, truth};
use crate::memory::Memory;
use crate::rig::{Rig, noon, window, window_settings, window_with};

const MAILBOX: &str = "alice@contoso.com";

pub(crate) fn simulator(seed: u64, behaviour: Behaviour, env: &Env) -> Simulator {
    let settings = SimulatorSettings {
        behaviour,
        latency: Duration::from_millis(5)..Duration::from_millis(400),
        ..SimulatorSettings::new(seed, env.clone())
    };
    let simulator = crate::rig::graph(settings, &[MAILBOX]);
    let plan = Population {
        singles: 40,
        series: 8,
        all_day: 6,
        body_bytes: 200,
        around: noon(),
        spread_days: 100,
    };
    simulator.populate(MAILBOX, None, plan);
    simulator
}

struct Case {
    seed: u64,
    behaviour: Behaviour,
    complete: Completion,
    mutations: u32,
    faults: f64,
}

/// Mutates the calendar and runs rounds. Compares everything now and then, and at the end.
async fn live(name: &str, case: Case) {
    let directory = tempfile::tempdir().unwrap();
    let env = Env::simulated(case.seed, noon());
    let simulator = simulator(case.seed, case.behaviour, &env);
    let mut tracked = window(MAILBOX);
    tracked.settings_mut().complete = case.complete;
    let rig =
        Rig::start(directory.path(), Arc::new(Memory(simulator.clone())), &env, vec![tracked])
            .await;
    let id = rig.fleet.id(MAILBOX).unwrap();
    simulator.set_faults(Faults::by_rate(case.faults));
    let mut pauses = fastrand::Rng::with_seed(case.seed);
    for step in 1..=case.mutations {
        simulator.mutate_randomly();
        tokio::time::sleep(Duration::from_millis(pauses.u64(0..20_000))).await;
        if step % 100 == 0 || step == case.mutations {
            simulator.clear_faults();
            let status = rig.settle(MAILBOX, 40).await;
            let edges = Edges { start: status.start, end: status.end };
            let what = format!("{name}, seed {}, after {step} mutations", case.seed);
            let real = truth(&simulator, MAILBOX, None, edges, case.complete).await;
            let mirrored = assert_mirrored(&rig.store, id, &real, &what).await;
            assert_eq!(status.events as usize, mirrored.len(), "count, {what}");
            simulator.set_faults(Faults::by_rate(case.faults));
        }
    }
    rig.stop().await;
}

/// All behaviours of Graph whose names begin with `master`, 500 mutations each.
async fn every_reading(master: &str) {
    let mut played = 0;
    for (number, (name, behaviour)) in (0..).zip(Behaviour::all()) {
        if name.starts_with(master) {
            played += 1;
            let case = Case {
                seed: 100 + number,
                behaviour,
                complete: Completion::Master,
                mutations: 500,
                faults: 0.0,
            };
            live(&name, case).await;
        }
    }
    assert_eq!(played, 12);
}

#[tokio::test(start_paused = true)]
async fn every_interpretation_converges_with_the_master_first() {
    every_reading("first").await;
}

#[tokio::test(start_paused = true)]
async fn every_interpretation_converges_with_the_master_last() {
    every_reading("last").await;
}

#[tokio::test(start_paused = true)]
async fn every_interpretation_converges_without_the_master() {
    every_reading("absent").await;
}

#[tokio::test(start_paused = true)]
async fn full_occurrences_are_stored_like_stubs() {
    for (number, (name, reading)) in (0..).zip(Behaviour::all()).step_by(3) {
        let limited_instances = number % 2 == 0;
        let case = Case {
            seed: 400 + number,
            behaviour: Behaviour { whole_occurrences: true, limited_instances, ..reading },
            complete: if number % 4 == 0 { Completion::Exact } else { Completion::Master },
            mutations: 200,
            faults: 0.0,
        };
        live(&format!("whole occurrences, {name}"), case).await;
    }
}

/// Listings of series without exceptions, private events that cannot be fetched by id, and both. An
/// event missing from one of these answers stays until the plain view lacks it too.
#[tokio::test(start_paused = true)]
async fn events_missing_from_one_response_stay_and_deleted_ones_are_removed() {
    use InstanceListing::{Complete as All, OccurrencesOrNotFound, WithoutExceptions};
    use PrivateEvents::{ListedOnly, Readable};
    let readings = [
        (WithoutExceptions, Readable),
        (OccurrencesOrNotFound, Readable),
        (All, ListedOnly),
        (WithoutExceptions, ListedOnly),
    ];
    for (number, (name, reading)) in (0..).zip(Behaviour::all()) {
        let (instances, private_events) = readings[number as usize % 4];
        let case = Case {
            seed: 500 + number,
            behaviour: Behaviour { instances, private_events, ..reading },
            complete: if number % 5 == 0 { Completion::Exact } else { Completion::Master },
            mutations: 100,
            faults: 0.0,
        };
        live(&format!("{instances:?}, {private_events:?}, {name}"), case).await;
    }
}

#[tokio::test(start_paused = true)]
async fn exact_occurrences_converge_too() {
    for (number, (name, behaviour)) in (0..).zip(Behaviour::all()).step_by(5) {
        let case = Case {
            seed: 200 + number,
            behaviour,
            complete: Completion::Exact,
            mutations: 200,
            faults: 0.0,
        };
        live(&format!("exact, {name}"), case).await;
    }
}

#[tokio::test(start_paused = true)]
async fn transient_faults_leave_no_trace() {
    for seed in 300..312 {
        let behaviour = Behaviour::by_seed(seed);
        let case =
            Case { seed, behaviour, complete: Completion::Master, mutations: 200, faults: 0.1 };
        live("with faults", case).await;
    }
}

/// A first enumeration removes nothing, even in a small calendar and with series that arrive late.
#[tokio::test(start_paused = true)]
async fn a_first_enumeration_removes_nothing() {
    for (number, (name, behaviour)) in (0..).zip(Behaviour::all()) {
        let complete = if number % 2 == 0 { Completion::Master } else { Completion::Exact };
        let directory = tempfile::tempdir().unwrap();
        let env = Env::simulated(number, noon());
        let simulator = crate::rig::graph(
            SimulatorSettings { behaviour, ..SimulatorSettings::new(number, env.clone()) },
            &[MAILBOX],
        );
        let plan = Population {
            singles: 4,
            series: 1,
            all_day: 0,
            body_bytes: 20,
            around: noon(),
            spread_days: 9,
        };
        simulator.populate(MAILBOX, None, plan);
        let tracked = window_with(MAILBOX, WindowSettings { complete, ..window_settings() });
        let transport = Arc::new(Memory(simulator.clone()));
        let rig = Rig::start(directory.path(), transport, &env, vec![tracked]).await;
        let status = rig.settle(MAILBOX, 4).await;
        let id = rig.fleet.id(MAILBOX).unwrap();
        let edges = Edges { start: status.start, end: status.end };
        let real = truth(&simulator, MAILBOX, None, edges, complete).await;
        assert_same(&name, &mirror(&rig.store, id).await, &real);
        let changes = changes_after(&rig.store, 0, None, 10_000).await;
        assert_eq!(changes.seq, real.len() as u64, "{name}: exactly one change per event");
        assert_eq!(status.resyncs, 0, "{name}");
        rig.stop().await;
    }
}
