//! Dead links, in every known form, in a round and in an enumeration. Each costs one enumeration,
//! and the feed only gets true changes.

use calmirror::store::{BATCH_BYTES, FeedFilter, Follower};

use super::*;

const DEATHS: [DeadLinkAnswer; 10] = [
    DeadLinkAnswer::Generation,
    DeadLinkAnswer::RootFolder,
    DeadLinkAnswer::Invalid,
    DeadLinkAnswer::ResyncRequired,
    DeadLinkAnswer::ApplyDifferences,
    DeadLinkAnswer::UploadDifferences,
    DeadLinkAnswer::BadRequest,
    DeadLinkAnswer::InvalidDeltaToken,
    DeadLinkAnswer::BadlyFormed,
    DeadLinkAnswer::InvalidData,
];

/// Follows the feed from here through one round. Returns the ids reported as removed, also those
/// reported in between.
fn watch(fixture: &WindowFixture) -> tokio::task::JoinHandle<Vec<String>> {
    let mut follower = Follower::from_now(&fixture.rig.store, FeedFilter::Window(fixture.id));
    tokio::spawn(async move {
        let mut removed = Vec::new();
        // Longer than a pause within a round; nothing else happens in this window.
        while tokio::time::timeout(Duration::from_secs(600), follower.wait()).await.is_ok() {
            let changes = follower.read(10_000, BATCH_BYTES).await.unwrap();
            let gone = changes.value.into_iter().filter(|c| c.kind == ChangeKind::Removed);
            removed.extend(gone.map(|change| change.id.as_str().to_owned()));
        }
        removed
    })
}

#[tokio::test(start_paused = true)]
async fn a_dead_link_costs_an_enumeration_and_publishes_only_real_changes() {
    let fixture = WindowFixture::exact(907).await;
    let mut differed = 0;
    for how in DEATHS {
        for path in ["deltatoken", "skiptoken"] {
            let what = format!("{how:?} on {path}");
            let dies =
                || fixture.simulator.plan(PlannedFault::once(Fault::DeadLink { how }).path(path));
            // Next links are only requested in enumerations.
            let die = async || match path {
                "skiptoken" => fixture.resync().await,
                _ => fixture.round().await,
            };

            // Without changes in the calendar the feed gets no entry.
            let (before, seq) = (fixture.mirror().await, fixture.seq());
            let resyncs = fixture.status().resyncs;
            dies();
            let status = die().await;
            assert_eq!(status.state, WindowState::Settled, "{what}: {:?}", status.last_error);
            assert!(fixture.simulator.faults().planned.is_empty(), "{what} did not happen");
            let asked = u64::from(path == "skiptoken");
            assert_eq!(status.resyncs, resyncs + 1 + asked, "{what}");
            assert_eq!(status.last_resync.unwrap().reason, ResyncReason::SyncStateNotFound);
            assert_eq!(fixture.seq(), seq, "{what}: a quiet resync writes no feed entry");
            assert_same(&what, &fixture.mirror().await, &before);

            // Changes meanwhile are published, and nothing else.
            for _ in 0..6 {
                fixture.simulator.mutate_randomly();
            }
            let watching = watch(&fixture);
            dies();
            assert_eq!(die().await.state, WindowState::Settled, "{what}");
            fixture.assert_exact(&what).await;
            let after = fixture.mirror().await;
            let differ = differences(&before, &after);
            differed += differ.len();
            assert_eq!(changed_ids(&fixture, seq).await, differ, "{what}");
            for id in watching.await.unwrap() {
                let flickered = before.contains_key(&id) && after.contains_key(&id);
                assert!(!flickered, "{what}: {id} was removed and created again");
            }
        }
    }
    assert!(differed > 40, "{differed}");
    fixture.rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_instance_removed_with_its_series_is_counted_once() {
    let directory = tempfile::tempdir().unwrap();
    let env = Env::simulated(910, noon());
    let behaviour = Behaviour { resend: Resend::Tombstones, ..Behaviour::calm() };
    let simulator = crate::rig::graph(
        SimulatorSettings { behaviour, ..SimulatorSettings::new(910, env.clone()) },
        &[MAILBOX],
    );
    let mutate = |edit| {
        simulator.mutate(Mutation { mailbox: MAILBOX.into(), calendar: None, edit }).unwrap()
    };
    let series = mutate(Edit::CreateSeries {
        subject: "Standup".into(),
        start: "2026-11-03T09:00:00Z".parse().unwrap(),
        minutes: 15,
        repeats: Pattern::Daily { every: 1 },
        until: Some("2026-12-02".parse().unwrap()),
        all_day: false,
    });
    let graph = Arc::new(Memory(simulator.clone()));
    let rig = Rig::start(directory.path(), graph, &env, vec![daily()]).await;
    assert_eq!(rig.settle(MAILBOX, 5).await.events, 30);
    // Sixteen events are removed without confirmation: each has a tombstone and is missing from the
    // listing.
    mutate(Edit::SetEnd { event: series, until: Some("2026-11-16".parse().unwrap()) });
    let status = rig.fleet.sync(MAILBOX, Some(LONG)).await.unwrap().finished.unwrap();
    assert_eq!((status.state, status.resyncs, status.events), (WindowState::Settled, 0, 14));
    assert_eq!(status.last_round.unwrap().removed, 16);
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn links_that_keep_dying_back_off_and_change_nothing() {
    let fixture = WindowFixture::exact(908).await;
    fixture.simulator.mutate_randomly();
    let (before, seq) = (fixture.mirror().await, fixture.seq());
    let fault = Fault::DeadLink { how: DeadLinkAnswer::Generation };
    fixture.simulator.plan(PlannedFault::always(fault));
    let requests = fixture.requests();
    let status = fixture.round().await;
    assert_eq!(status.state, WindowState::BackingOff);
    let requests = fixture.requests() - requests;
    assert!(requests <= 4, "two dead links end the round: {requests}");
    assert_eq!(differences(&before, &fixture.mirror().await), changed_ids(&fixture, seq).await);
    fixture.recovered("after the dead links").await;
    fixture.rig.stop().await;
}
