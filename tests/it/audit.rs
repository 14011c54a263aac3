//! Drift audits: changes that delta omitted are found, confirmed by a second listing, and repaired.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use calmirror::env::Env;
use calmirror::mirror::change::ChangeKind;
use calmirror::mirror::status::{ResyncReason, WindowState, WindowStatus};
use calmirror::mirror::window::{Completion, Edges, Window, WindowSettings};
use calmirror::simulator::{
    Behaviour, Edit, Fault, Mutation, Pattern, PlannedFault, PrivateEvents, Simulator,
};
use jiff::Timestamp;
use serde_json::Value;

use crate::compare::{EventsById, assert_mirrored, assert_same, changes_after, mirror, truth};
use crate::converge::simulator;
use crate::memory::Memory;
use crate::rig::{Rig, noon, window_settings, window_with};

const MAILBOX: &str = "alice@contoso.com";
const HOUR: Duration = Duration::from_secs(3600);

async fn start(directory: &Path, simulator: &Simulator, env: &Env, tracked: Window) -> Rig {
    Rig::start(directory, Arc::new(Memory(simulator.clone())), env, vec![tracked]).await
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn single(subject: &str, day: &str) -> Edit {
    Edit::CreateSingle {
        subject: subject.into(),
        start: at(&format!("{day}T09:00:00Z")),
        minutes: 30,
    }
}

fn edit(simulator: &Simulator, edit: Edit) -> String {
    let mutation = Mutation { mailbox: MAILBOX.to_owned(), calendar: None, edit };
    simulator.mutate(mutation).unwrap()
}

/// Makes a change that delta never reports.
fn edit_unreported(simulator: &Simulator, change: Edit) -> String {
    let id = edit(simulator, change);
    assert!(simulator.suppress_change(MAILBOX, None));
    id
}

fn status(rig: &Rig) -> WindowStatus {
    rig.fleet.window(MAILBOX).unwrap()
}

/// Waits for the next audit to end.
async fn wait_for_audit(rig: &Rig) -> WindowStatus {
    let before = status(rig).audit.at;
    for _ in 0..20_000 {
        tokio::time::sleep(Duration::from_secs(300)).await;
        let status = status(rig);
        if status.audit.at != before {
            return status;
        }
    }
    panic!("no audit: {:?}", status(rig));
}

async fn assert_true(
    rig: &Rig,
    simulator: &Simulator,
    complete: Completion,
    what: &str,
) -> EventsById {
    let status = rig.settle(MAILBOX, 20).await;
    let edges = Edges { start: status.start, end: status.end };
    let id = rig.fleet.id(MAILBOX).unwrap();
    let real = truth(simulator, MAILBOX, None, edges, complete).await;
    assert_mirrored(&rig.store, id, &real, what).await
}

/// The last change of every event in the feed after a seq.
async fn feed(rig: &Rig, after: u64) -> BTreeMap<String, ChangeKind> {
    let changes = changes_after(&rig.store, after, None, 10_000).await;
    changes.value.iter().map(|change| (change.id.as_str().to_owned(), change.kind)).collect()
}

async fn lies(behaviour: Behaviour, complete: Completion, what: &str) {
    let directory = tempfile::tempdir().unwrap();
    let env = Env::simulated(7, noon());
    let simulator = simulator(7, behaviour, &env);
    let renamed = edit(&simulator, single("old name", "2026-11-10"));
    let moved = edit(&simulator, single("moved", "2026-11-11"));
    let left = edit(&simulator, single("moves out", "2026-11-11"));
    let deleted = edit(&simulator, single("deleted", "2026-11-12"));
    let series = |subject: &str| Edit::CreateSeries {
        subject: subject.into(),
        start: at("2026-11-02T10:00:00Z"),
        minutes: 60,
        repeats: Pattern::Weekly { every: 1, days: vec![1, 3] },
        until: Some("2026-12-24".parse().unwrap()),
        all_day: false,
    };
    let shortened = edit(&simulator, series("shortened"));
    let ended = edit(&simulator, series("ended"));
    let excepted = edit(&simulator, series("with exceptions"));
    let tracked = window_with(
        MAILBOX,
        WindowSettings { audit: Some(24 * HOUR), interval: HOUR, complete, ..window_settings() },
    );
    let rig = start(directory.path(), &simulator, &env, tracked).await;
    let before = assert_true(&rig, &simulator, complete, what).await;
    let seq = rig.store.durable_seq();

    let created = edit_unreported(&simulator, single("created", "2026-11-13"));
    edit_unreported(
        &simulator,
        Edit::Rename { event: renamed.clone(), subject: "new name".into() },
    );
    edit_unreported(
        &simulator,
        Edit::Move { event: moved.clone(), start: at("2026-11-20T09:00:00Z") },
    );
    edit_unreported(
        &simulator,
        Edit::Move { event: left.clone(), start: at("2028-01-01T09:00:00Z") },
    );
    edit_unreported(&simulator, Edit::Delete { event: deleted.clone() });
    let until = Some("2026-12-01".parse().unwrap());
    edit_unreported(&simulator, Edit::SetEnd { event: shortened, until });
    edit_unreported(&simulator, Edit::Delete { event: ended });
    let mut instances: Vec<String> = before
        .values()
        .filter(|event| event["seriesMasterId"] == excepted.as_str())
        .map(|event| event["id"].as_str().unwrap().to_owned())
        .collect();
    instances.sort();
    edit_unreported(&simulator, Edit::CancelOccurrence { occurrence: instances[0].clone() });
    let start = at("2026-11-21T15:00:00Z");
    edit_unreported(&simulator, Edit::MoveOccurrence { occurrence: instances[1].clone(), start });
    let subject = "by itself".to_owned();
    edit_unreported(
        &simulator,
        Edit::RenameOccurrence { occurrence: instances[2].clone(), subject },
    );
    edit_unreported(&simulator, series("never reported"));

    // Rounds alone do not detect the changes.
    tokio::time::sleep(3 * HOUR).await;
    let id = rig.fleet.id(MAILBOX).unwrap();
    assert_same("before the audit", &mirror(&rig.store, id).await, &before);
    let due = status(&rig).audit.next_due.expect("audits are on");
    let found = wait_for_audit(&rig).await;
    let late = found.audit.at.unwrap().duration_since(due).as_secs();
    // The round that starts the audit, one more round, and the second listing.
    assert!((3240..8500).contains(&late), "{what}: two listings with a round between, in {late} s");
    let after = assert_true(&rig, &simulator, complete, what).await;
    assert_eq!(status(&rig).resyncs, 0, "{what}: repaired without a resync");
    let differing = before.keys().chain(after.keys()).collect::<std::collections::BTreeSet<_>>();
    let differing: Vec<_> =
        differing.into_iter().filter(|id| before.get(*id) != after.get(*id)).collect();
    // An occurrence that differs only by its master is repaired with the master, but is not counted
    // as a difference.
    let compared = |event: Option<&Value>| {
        event.map(|event| {
            let own = event["type"] != "occurrence";
            let [kind, start, end] = ["type", "start", "end"].map(|name| event[name].clone());
            (kind, start, end, own.then(|| event["changeKey"].clone()))
        })
    };
    let counted = differing
        .iter()
        .filter(|id| compared(before.get(**id)) != compared(after.get(**id)))
        .count();
    assert_eq!(found.audit.differences, counted as u64, "{what}");
    // The feed contains exactly the events whose visible content differs, whatever else was
    // fetched.
    let feed = feed(&rig, seq).await;
    assert_eq!(feed.keys().collect::<Vec<_>>(), differing, "{what}");
    assert_eq!(feed[&created], ChangeKind::Created);
    assert_eq!(feed[&renamed], ChangeKind::Updated);
    assert_eq!(feed[&moved], ChangeKind::Updated);
    assert_eq!(feed[&left], ChangeKind::Removed);
    assert_eq!(feed[&deleted], ChangeKind::Removed);

    // The next audit finds nothing and writes nothing.
    let seq = rig.store.durable_seq();
    let again = wait_for_audit(&rig).await;
    assert_eq!(again.audit.differences, found.audit.differences, "{what}");
    assert_eq!(rig.store.durable_seq(), seq, "{what}");
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn changes_that_delta_missed_are_found_and_repaired() {
    for (number, (name, behaviour)) in (0..).zip(Behaviour::all()) {
        if number % 4 == 0 {
            lies(behaviour.clone(), Completion::Master, &name).await;
        }
        if number % 12 == 5 {
            lies(behaviour, Completion::Exact, &format!("exact {name}")).await;
        }
    }
}

/// Private events of another mailbox are listed but cannot be fetched by id. Changes of them that
/// delta omitted are repaired too.
#[tokio::test(start_paused = true)]
async fn events_missing_from_delta_are_repaired() {
    let directory = tempfile::tempdir().unwrap();
    let env = Env::simulated(8, noon());
    let behaviour = Behaviour { private_events: PrivateEvents::ListedOnly, ..Behaviour::calm() };
    let simulator = simulator(8, behaviour, &env);
    let tracked = window_with(
        MAILBOX,
        WindowSettings { audit: Some(24 * HOUR), interval: HOUR, ..window_settings() },
    );
    let rig = start(directory.path(), &simulator, &env, tracked).await;
    let before = assert_true(&rig, &simulator, Completion::Master, "at first").await;
    let mut private = before
        .values()
        .filter(|event| event["sensitivity"] == "private" && event["type"] == "singleInstance")
        .map(|event| event["id"].as_str().unwrap().to_owned());
    let [renamed, moved, deleted] = [(); 3].map(|()| private.next().expect("private events"));
    edit_unreported(&simulator, Edit::Rename { event: renamed, subject: "new name".into() });
    edit_unreported(&simulator, Edit::Move { event: moved, start: at("2026-11-20T09:00:00Z") });
    edit_unreported(&simulator, Edit::Delete { event: deleted });
    assert_eq!(wait_for_audit(&rig).await.audit.differences, 3);
    assert_true(&rig, &simulator, Completion::Master, "after the audit").await;
    rig.stop().await;
}

/// A calendar that changes continuously: every listing differs from the mirror, and the next round
/// explains every difference.
#[tokio::test(start_paused = true)]
async fn a_difference_explained_by_the_next_round_is_not_drift() {
    for seed in [1, 2] {
        let directory = tempfile::tempdir().unwrap();
        let env = Env::simulated(seed, noon());
        let simulator = simulator(seed, Behaviour::by_seed(seed), &env);
        // Seconds pass between the round's last page and the listing's.
        simulator.set_latency(Duration::from_secs(2)..Duration::from_secs(3));
        let tracked = window_with(
            MAILBOX,
            WindowSettings {
                audit: Some(HOUR),
                interval: Duration::from_secs(600),
                ..window_settings()
            },
        );
        let rig = start(directory.path(), &simulator, &env, tracked).await;
        let mut living = std::collections::VecDeque::new();
        let (mut audits, mut looks, mut last) = (0, 0, None);
        while audits < 8 {
            let now = status(&rig);
            assert_eq!(now.audit.differences, 0, "seed {seed}");
            if now.audit.at != last {
                (last, audits) = (now.audit.at, audits + 1);
            }
            let wait = now.next_due.map_or(0, |due| due.duration_since(env.now()).as_secs());
            if wait > 8 && now.state == WindowState::Settled {
                looks += 1;
                tokio::time::sleep(Duration::from_secs(wait.unsigned_abs() - 5)).await;
            } else {
                // Ids are not reused: independent changes of one event would look like a repeated
                // difference.
                living.push_back(edit(&simulator, single("new", "2026-11-10")));
                let subject = format!("name {looks}");
                edit(&simulator, Edit::Rename { event: living[living.len() / 2].clone(), subject });
                if living.len() > 8 {
                    edit(&simulator, Edit::Delete { event: living.pop_front().unwrap() });
                }
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
        }
        assert!(looks > 0);
        assert_true(&rig, &simulator, Completion::Master, &format!("seed {seed}")).await;
        rig.stop().await;
    }
}

/// The cost of an audit: one listing when it is due, and nothing if audits are off.
#[tokio::test(start_paused = true)]
async fn an_audit_without_drift_costs_one_listing_and_stores_its_time() {
    for audit in [None, Some(7 * 24 * HOUR)] {
        let directory = tempfile::tempdir().unwrap();
        let env = Env::simulated(3, noon());
        let simulator = simulator(3, Behaviour::calm(), &env);
        let tracked =
            window_with(MAILBOX, WindowSettings { audit, interval: 6 * HOUR, ..window_settings() });
        let mut rig = start(directory.path(), &simulator, &env, tracked.clone()).await;
        rig.settle(MAILBOX, 4).await;
        let seq = rig.store.durable_seq();
        simulator.reset_statistics();
        let (first, mut ended, mut differences) =
            (status(&rig).last_round.unwrap().number, Vec::new(), 0);
        for day in 0..60 {
            if day % 5 == 4 {
                rig.stop().await;
                rig = start(directory.path(), &simulator, &env, tracked.clone()).await;
            }
            tokio::time::sleep(24 * HOUR).await;
            let status = status(&rig);
            differences += status.audit.differences;
            if let Some(at) = status.audit.at
                && ended.last() != Some(&at)
            {
                ended.push(at);
            }
        }
        let rounds = status(&rig).last_round.unwrap().number - first;
        let asked = simulator.statistics().total.requests - rounds;
        assert_eq!(ended.len() as u64, asked, "one listing of one page per audit");
        assert_eq!(differences, 0);
        assert_eq!(rig.store.durable_seq(), seq, "an audit without differences is quiet");
        match audit {
            None => assert!(ended.is_empty()),
            Some(period) => {
                assert!((7..=11).contains(&ended.len()), "{ended:?}");
                for pair in ended.windows(2) {
                    let share =
                        pair[1].duration_since(pair[0]).as_secs_f64() / period.as_secs_f64();
                    assert!((0.89..1.15).contains(&share), "{share} of a period");
                }
            }
        }
        rig.stop().await;
    }
}

/// Large drift is not repaired event by event: the window is enumerated again, and a mass removal
/// is held as usual.
#[tokio::test(start_paused = true)]
async fn large_drift_causes_a_resync_with_checked_removals() {
    let directory = tempfile::tempdir().unwrap();
    let env = Env::simulated(5, noon());
    let simulator = simulator(5, Behaviour::calm(), &env);
    let ids: Vec<String> = (0..400)
        .map(|n| edit(&simulator, single(&format!("n{n}"), &format!("2026-11-{:02}", 1 + n % 28))))
        .collect();
    let interval = Duration::from_secs(1200);
    let tracked = window_with(
        MAILBOX,
        WindowSettings { audit: Some(24 * HOUR), interval, ..window_settings() },
    );
    let rig = start(directory.path(), &simulator, &env, tracked).await;
    let before = assert_true(&rig, &simulator, Completion::Master, "at first").await;
    let created: Vec<String> = (0..30)
        .map(|n| edit_unreported(&simulator, single(&format!("c{n}"), "2026-12-01")))
        .collect();
    let seq = rig.store.durable_seq();
    let found = wait_for_audit(&rig).await;
    assert_eq!(found.audit.differences, 30);
    assert_true(&rig, &simulator, Completion::Master, "after the first").await;
    let after = status(&rig);
    assert_eq!((after.resyncs, after.last_resync.unwrap().reason), (1, ResyncReason::Drift));
    assert!(
        feed(&rig, seq).await.keys().eq(created.iter().collect::<std::collections::BTreeSet<_>>())
    );

    for event in &ids {
        edit_unreported(&simulator, Edit::Delete { event: event.clone() });
    }
    assert!(ids.len() * 2 > before.len() + 30, "the removal must exceed half of the events");
    let seq = rig.store.durable_seq();
    wait_for_audit(&rig).await;
    let mut held = false;
    for _ in 0..300 {
        tokio::time::sleep(Duration::from_secs(30)).await;
        let now = status(&rig);
        held |= now.state == WindowState::Held;
        if now.state == WindowState::Held {
            assert!(
                feed(&rig, seq).await.is_empty(),
                "an event was removed while the window is held"
            );
        }
    }
    assert!(held);
    assert_true(&rig, &simulator, Completion::Master, "confirmed").await;
    assert_eq!(feed(&rig, seq).await.len(), ids.len());
    rig.stop().await;
}

/// A failed audit leaves the mirror and the rounds alone, and is repeated later.
#[tokio::test(start_paused = true)]
async fn a_failed_audit_is_repeated_later() {
    let directory = tempfile::tempdir().unwrap();
    let env = Env::simulated(6, noon());
    let simulator = simulator(6, Behaviour::calm(), &env);
    let interval = Duration::from_secs(1200);
    let tracked = window_with(
        MAILBOX,
        WindowSettings { audit: Some(24 * HOUR), interval, ..window_settings() },
    );
    let rig = start(directory.path(), &simulator, &env, tracked).await;
    let before = assert_true(&rig, &simulator, Completion::Master, "at first").await;
    let deleted = before.values().find(|e| e["type"] == "singleInstance").unwrap();
    edit_unreported(&simulator, Edit::Delete { event: deleted["id"].as_str().unwrap().to_owned() });
    let plain = Some("calendarView?".to_owned());
    simulator.plan(PlannedFault { path: plain, ..PlannedFault::always(Fault::BadRequest) });
    tokio::time::sleep(30 * HOUR).await;
    let now = status(&rig);
    assert_eq!((now.state, now.audit.at, now.failures), (WindowState::Settled, None, 0));
    assert!(simulator.statistics().total.statuses[&400] < 10, "the retries do not slow down");
    simulator.clear_faults();
    assert_eq!(wait_for_audit(&rig).await.audit.differences, 1);
    assert_true(&rig, &simulator, Completion::Master, "later").await;
    rig.stop().await;
}
