//! Segments that cannot all be listed at once: an event that may have moved across a segment
//! boundary stays.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use calmirror::env::Env;
use calmirror::mirror::change::ChangeKind;
use calmirror::mirror::status::{WindowState, WindowStatus};
use calmirror::mirror::window::{Completion, Edge, Edges, Window, WindowSettings};
use calmirror::simulator::{
    Behaviour, Edit, Fault, MailboxFault, Mutation, Pattern, PlannedFault, Simulator,
    SimulatorSettings,
};
use jiff::{SignedDuration, Timestamp};

use crate::compare::{assert_mirrored, changes_after, mirror, truth};
use crate::memory::Memory;
use crate::rig::{Rig, noon, window_settings, window_with};

pub(crate) const ALICE: &str = "alice@contoso.com";
pub(crate) const LONG: Duration = Duration::from_secs(8 * 3600);

pub(crate) fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// The boundary between the two segments of the window.
fn boundary() -> Timestamp {
    at("2024-01-01T00:00:00Z") + SignedDuration::from_hours(24 * 1825)
}

fn near(hours: i64) -> Timestamp {
    boundary() + SignedDuration::from_hours(hours)
}

/// A window of two segments, several years on each side of the boundary.
pub(crate) fn tracked() -> Window {
    window_with(
        ALICE,
        WindowSettings {
            start: Edge::At(at("2024-01-01T00:00:00Z")),
            end: Edge::At(at("2032-01-01T00:00:00Z")),
            confirm_after: Duration::from_secs(120),
            ..window_settings()
        },
    )
}

fn graph(seed: u64, behaviour: Behaviour, env: &Env) -> Simulator {
    let latency = Duration::from_millis(5)..Duration::from_millis(900);
    crate::rig::graph(
        SimulatorSettings { behaviour, latency, ..SimulatorSettings::new(seed, env.clone()) },
        &[ALICE],
    )
}

pub(crate) fn edit(simulator: &Simulator, edit: Edit) -> String {
    simulator.mutate(Mutation { mailbox: ALICE.to_owned(), calendar: None, edit }).unwrap()
}

pub(crate) fn single(subject: &str, start: Timestamp) -> Edit {
    Edit::CreateSingle { subject: subject.into(), start, minutes: 30 }
}

pub(crate) async fn start(
    directory: &Path,
    simulator: &Simulator,
    env: &Env,
    tracked: Window,
) -> Rig {
    Rig::start(directory, Arc::new(Memory(simulator.clone())), env, vec![tracked]).await
}

async fn assert_true(rig: &Rig, simulator: &Simulator, status: &WindowStatus, what: &str) {
    let edges = Edges { start: status.start, end: status.end };
    let id = rig.fleet.id(ALICE).unwrap();
    let real = truth(simulator, ALICE, None, edges, Completion::Master).await;
    assert_mirrored(&rig.store, id, &real, what).await;
}

/// An occurrence moves into a segment that cannot list its series. It stays in place until that
/// segment can list it; other removals from the first segment take effect.
#[tokio::test(start_paused = true)]
async fn an_event_that_moves_into_an_unlistable_series_stays_until_it_can_be_listed() {
    for seed in 0..6 {
        let directory = tempfile::tempdir().unwrap();
        let env = Env::simulated(seed, noon());
        let simulator = graph(seed, Behaviour::by_seed(seed), &env);
        let gone = edit(&simulator, single("goes for good", near(-50)));
        let repeats = Pattern::Daily { every: 1 };
        let (start_at, until) = (near(-24 * 8 + 5), Some("2029-01-07".parse().unwrap()));
        let series = Edit::CreateSeries {
            subject: "daily".into(),
            start: start_at,
            minutes: 45,
            repeats,
            until,
            all_day: false,
        };
        let series = edit(&simulator, series);
        let rig = start(directory.path(), &simulator, &env, tracked()).await;
        rig.settle(ALICE, 5).await;
        let id = rig.fleet.id(ALICE).unwrap();
        let before = mirror(&rig.store, id).await;
        let earlier = |id: &String| {
            let start = before[id]["start"]["dateTime"].as_str().unwrap().to_owned();
            format!("{start}Z").parse::<Timestamp>().unwrap() < near(-24)
        };
        let occurrence = before
            .iter()
            .find(|(id, event)| event["seriesMasterId"] == series.as_str() && earlier(id))
            .map(|(id, _)| id.clone())
            .unwrap();
        let cursor = rig.store.durable_seq();

        // Only the second segment requests listings that begin a day before the boundary.
        let day = near(-24).strftime("instances?startDateTime=%Y-%m-%d").to_string();
        simulator.plan(PlannedFault::always(Fault::InternalError).path(&day));
        let start_at = near(50);
        edit(&simulator, Edit::MoveOccurrence { occurrence: occurrence.clone(), start: start_at });
        edit(&simulator, Edit::Delete { event: gone.clone() });
        for _ in 0..3 {
            let status = rig.fleet.sync(ALICE, Some(LONG)).await.unwrap().finished.unwrap();
            assert_eq!(status.last_error.unwrap().kind.as_str(), "incomplete", "seed {seed}");
        }
        let now = mirror(&rig.store, id).await;
        assert!(now.contains_key(&occurrence), "seed {seed}: the moved occurrence is missing");
        assert!(!now.contains_key(&gone), "seed {seed}: the deleted event is still there");

        simulator.clear_faults();
        let status = rig.settle(ALICE, 5).await;
        assert_true(&rig, &simulator, &status, &format!("seed {seed}")).await;
        let changes = changes_after(&rig.store, cursor, None, 1000).await;
        for change in &changes.value {
            let expected = if change.id.as_str() == gone { "removed" } else { "updated" };
            assert_eq!(change.kind, kind(expected), "seed {seed}: {}", change.id.as_str());
        }
        rig.stop().await;
    }
}

/// All instances that one segment holds of a series without lookup by id (fact 180) move to another
/// segment. The first segment must not remove them before the second one has them.
#[tokio::test(start_paused = true)]
async fn a_private_series_that_moves_over_a_segment_boundary_is_never_absent() {
    let directory = tempfile::tempdir().unwrap();
    let env = Env::simulated(1, noon());
    let simulator = graph(1, Behaviour::calm(), &env);
    let series = Edit::CreateSeries {
        subject: "private".into(),
        start: near(-48),
        minutes: 45,
        repeats: Pattern::Daily { every: 1 },
        until: Some(near(-48).to_zoned_datetime(jiff::tz::TimeZone::UTC).date()),
        all_day: false,
    };
    edit(&simulator, series);
    let rig = start(directory.path(), &simulator, &env, tracked()).await;
    rig.settle(ALICE, 5).await;
    let id = rig.fleet.id(ALICE).unwrap();
    let before = mirror(&rig.store, id).await;
    let occurrence = before.keys().next().unwrap().clone();
    assert_eq!(before.len(), 1);
    let cursor = rig.store.durable_seq();

    simulator.plan(
        PlannedFault::always(Fault::Mailbox { how: MailboxFault::ItemNotFound }).path("/events/"),
    );
    edit(&simulator, Edit::MoveOccurrence { occurrence: occurrence.clone(), start: near(48) });
    for _ in 0..3 {
        rig.fleet.sync(ALICE, Some(LONG)).await.unwrap();
    }
    let changes = changes_after(&rig.store, cursor, None, 1000).await;
    assert!(!changes.value.is_empty());
    for change in &changes.value {
        assert_eq!((change.id.as_str(), change.kind), (&*occurrence, ChangeKind::Updated));
    }
    assert!(mirror(&rig.store, id).await.contains_key(&occurrence));
    rig.stop().await;
}

fn kind(word: &str) -> ChangeKind {
    if word == "removed" { ChangeKind::Removed } else { ChangeKind::Updated }
}

/// Segments in snapshot mode do not trigger each other's listings endlessly.
#[tokio::test(start_paused = true)]
async fn listed_segments_settle_with_one_listing_each() {
    let directory = tempfile::tempdir().unwrap();
    let env = Env::simulated(1, noon());
    let simulator = graph(1, Behaviour::calm(), &env);
    let moving = edit(&simulator, single("moves", near(-30)));
    let gone = edit(&simulator, single("goes", near(-50)));
    for n in 0..20 {
        edit(&simulator, single("stays", near(n * 7 - 70)));
    }
    let rig = start(directory.path(), &simulator, &env, tracked()).await;
    rig.settle(ALICE, 5).await;
    simulator.plan(PlannedFault::always(Fault::EndlessPaging { below: usize::MAX }).path("delta"));
    for n in 0..12 {
        // New events on both sides, because paging is only endless when there is something to list.
        edit(&simulator, single("more", near(-90 - n)));
        edit(&simulator, single("more", near(90 + n)));
        rig.fleet.sync(ALICE, Some(LONG)).await.unwrap();
        tokio::time::sleep(Duration::from_secs(300)).await;
    }
    let status = rig.settle(ALICE, 20).await;
    assert!(
        status.segments.iter().all(|segment| segment.mode.as_str() == "snapshot"),
        "{status:?}"
    );

    let round = async || rig.fleet.sync(ALICE, Some(LONG)).await.unwrap().finished.unwrap();
    let status = round().await;
    assert_eq!(status.state, WindowState::Settled);
    assert_eq!(status.last_round.unwrap().requests, 2, "an idle round lists each segment once");
    let cursor = rig.store.durable_seq();
    edit(&simulator, Edit::Move { event: moving.clone(), start: near(30) });
    edit(&simulator, Edit::Delete { event: gone });
    let status = round().await;
    assert_eq!((status.state, status.last_error.as_ref()), (WindowState::Settled, None));
    // The later segment is listed once more before the earlier segment publishes its removals.
    assert!(status.last_round.as_ref().unwrap().requests <= 4, "{:?}", status.last_round);
    assert_true(&rig, &simulator, &status, "after a move").await;
    let changes = changes_after(&rig.store, cursor, None, 1000).await;
    let told: Vec<_> = changes.value.iter().map(|c| (c.id.as_str() == moving, c.kind)).collect();
    assert_eq!(told, [(true, ChangeKind::Updated), (false, ChangeKind::Removed)]);
    rig.stop().await;
}
