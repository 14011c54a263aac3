//! Stuck streams, through the whole fleet in paused time. With every fallback the mirror equals
//! what plain `calendarView` lists, the feed folds to it, and the status names the mode.

mod heavy;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use calmirror::env::Env;
use calmirror::mirror::status::{ResyncReason, WindowState, WindowStatus};
use calmirror::mirror::window::{Completion, WindowSettings};
use calmirror::simulator::{Behaviour, Edit, Fault, Faults, Pattern, PlannedFault};
use jiff::Timestamp;

use crate::compare::{assert_same, changes_after};
use crate::converge::simulator;
use crate::memory::Memory;
use crate::rig::{noon, window_settings, window_with};
use crate::window_fixture::{LONG, MAILBOX, WindowFixture};

const DAY: Duration = Duration::from_secs(86_400);

impl WindowFixture {
    /// A settled and exact window. The test starts the rounds, except for one every two days.
    async fn two_daily(seed: u64, behaviour: Behaviour, complete: Completion) -> Self {
        let env = Env::simulated(seed, noon());
        let simulator = simulator(seed, behaviour, &env);
        let interval = DAY * 2;
        let window = window_with(
            MAILBOX,
            WindowSettings { complete, interval, jitter: 0.0, ..window_settings() },
        );
        let graph = Arc::new(Memory(simulator.clone()));
        let fixture = Self::start(simulator, graph, env.clone(), env, window).await;
        fixture.assert_exact("at first").await;
        fixture
    }

    async fn ordinary(seed: u64) -> Self {
        Self::two_daily(seed, Behaviour::by_seed(seed), Completion::Master).await
    }

    /// Waits until the next scheduled round is over.
    async fn wait_for_next_round(&self) -> WindowStatus {
        let before = self.status();
        let due = before.next_due.unwrap().duration_since(self.env.now());
        tokio::time::sleep(Duration::try_from(due).unwrap_or_default() + LONG).await;
        self.status()
    }

    /// Runs rounds until one succeeds. Returns the status and the errors before it.
    async fn rounds_until_success(&self) -> (WindowStatus, Vec<String>) {
        let mut errors = Vec::new();
        for _ in 0..20 {
            let status = self.round().await;
            match &status.last_error {
                None => return (status, errors),
                Some(error) => {
                    errors.push(error.kind.as_str().to_owned());
                    let due = status.next_due.unwrap().duration_since(self.env.now());
                    let due = Duration::try_from(due).unwrap_or_default();
                    if error.kind.as_str().ends_with("_stuck") {
                        // No requests are made meanwhile unless a round is requested.
                        let asked = self.requests();
                        tokio::time::sleep(due - Duration::from_secs(1)).await;
                        assert_eq!(self.requests(), asked, "a request was made too early");
                        assert!(due > Duration::from_secs(590), "{due:?}");
                        // Rounds begin on a grid of 10 ms.
                        let most = self.window.settings.confirm_after + Duration::from_millis(10);
                        assert!(due < most, "{due:?}");
                    }
                    let left = status.next_due.unwrap().duration_since(self.env.now());
                    let left = Duration::try_from(left).unwrap_or_default();
                    tokio::time::sleep(left + Duration::from_secs(1)).await;
                }
            }
        }
        panic!("never healed: {errors:?} {:?}", self.status());
    }

    /// The page sizes requested since the statistics were reset.
    fn page_sizes(&self) -> BTreeSet<u32> {
        let prefer = self.simulator.statistics().prefer;
        let sizes = prefer.iter().filter_map(|prefer| prefer.split("odata.maxpagesize=").nth(1));
        sizes.map(|size| size.split(',').next().unwrap().parse().unwrap()).collect()
    }

    /// Drives the window into snapshot mode: no page size helps.
    async fn enter_snapshot_mode(&self) {
        self.simulator.mutate_randomly();
        self.simulator.plan(PlannedFault::always(endless(usize::MAX)).path("delta"));
        let (status, _) = self.rounds_until_success().await;
        assert_eq!(mode(&status), "snapshot");
    }
}

fn endless(below: usize) -> Fault {
    Fault::EndlessPaging { below }
}

fn mode(status: &WindowStatus) -> &'static str {
    status.segments[0].mode.as_str()
}

#[tokio::test(start_paused = true)]
async fn endless_rounds_end_with_larger_pages() {
    let slow = Duration::from_secs(10)..Duration::from_secs(25);
    for (seed, fault, latency) in [
        (1, endless(50), None),
        (2, Fault::EndlessEmpty { below: 50 }, None),
        (3, Fault::EndlessOld { below: 50 }, Some(slow)),
    ] {
        let mut fixture = WindowFixture::ordinary(seed).await;
        for _ in 0..5 {
            fixture.simulator.mutate_randomly();
        }
        let before = fixture.mirror().await;
        fixture.simulator.plan(PlannedFault::always(fault.clone()).path("delta"));
        if let Some(latency) = latency {
            fixture.simulator.set_latency(latency);
        }
        let status = fixture.round().await;
        assert_eq!(status.state, WindowState::BackingOff, "{fault:?}");
        let error = status.last_error.unwrap();
        assert_eq!((error.kind.as_str(), error.status), ("round_stuck", None), "{fault:?}");
        assert_eq!(error.retry_at, status.next_due);
        assert_eq!(status.last_resync.unwrap().reason, ResyncReason::RoundStuck);
        assert_eq!(mode(&fixture.status()), "delta");
        let now = fixture.mirror().await;
        assert!(
            before.keys().all(|id| now.contains_key(id)),
            "an event was removed before the enumeration ended"
        );
        // The fallback and its wait survive a restart.
        fixture = fixture.restarted().await;
        fixture.simulator.reset_statistics();
        let (status, errors) = fixture.rounds_until_success().await;
        assert_eq!(errors, ["round_stuck"], "{fault:?}");
        assert_eq!(fixture.page_sizes(), [40, 80].into(), "{fault:?}");
        assert_eq!((status.state, mode(&status)), (WindowState::Settled, "delta"), "{fault:?}");
        fixture.assert_exact(&format!("after {fault:?}")).await;
        // The page size that helped stays in use, also after another restart.
        fixture.simulator.set_latency(Duration::ZERO..Duration::ZERO);
        fixture = fixture.restarted().await;
        fixture.simulator.reset_statistics();
        for _ in 0..10 {
            fixture.simulator.mutate_randomly();
        }
        let started = fixture.rig.fleet.resync(MAILBOX, false, Some(LONG)).await.unwrap();
        let status = started.finished.unwrap();
        assert_eq!((status.state, status.last_error), (WindowState::Settled, None), "{fault:?}");
        assert_eq!(fixture.page_sizes(), [80].into(), "{fault:?}");
        fixture.assert_exact(&format!("later, after {fault:?}")).await;
        fixture.rig.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_endless_stream_enters_snapshot_mode_and_returns_to_delta() {
    for (seed, complete) in [(4, Completion::Master), (5, Completion::Exact)] {
        let mut fixture = WindowFixture::two_daily(seed, Behaviour::by_seed(seed), complete).await;
        fixture.enter_snapshot_mode().await;
        assert_eq!(fixture.page_sizes(), [20, 40, 80, 160, 320, 640, 1000].into());
        fixture.assert_exact("listed").await;

        // Nothing changed: one page, no other request, no change visible to readers.
        let (seq, asked) = (fixture.seq(), fixture.requests());
        let resyncs = fixture.status().resyncs;
        let status = fixture.round().await;
        assert_eq!((status.state, mode(&status)), (WindowState::Settled, "snapshot"));
        assert_eq!((fixture.seq(), fixture.requests()), (seq, asked + 1), "a quiet snapshot");
        let last = status.last_round.unwrap();
        assert_eq!((last.created, last.updated, last.removed), (0, 0, 0));
        assert_eq!(status.resyncs, resyncs, "a snapshot round does not count as a resync");

        // Every change arrives, and nothing else.
        for _ in 0..6 {
            for _ in 0..20 {
                fixture.simulator.mutate_randomly();
            }
            let (before, seq) = (fixture.mirror().await, fixture.seq());
            assert_eq!(fixture.round().await.state, WindowState::Settled);
            fixture.assert_exact("in snapshot mode").await;
            let after = fixture.mirror().await;
            let ids: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
            let differ = ids.into_iter().filter(|id| before.get(*id) != after.get(*id)).count();
            let told = changes_after(&fixture.rig.store, seq, Some(fixture.id), 10_000).await.value;
            assert_eq!(told.len(), differ, "exactly one change for each difference");
        }

        // Snapshot mode survives a restart.
        fixture = fixture.restarted().await;
        assert_eq!(mode(&fixture.status()), "snapshot");
        fixture.simulator.mutate_randomly();
        let enumerations = fixture.simulator.statistics().total.enumerations;
        assert_eq!(fixture.round().await.state, WindowState::Settled);
        fixture.assert_exact("after a restart").await;

        // A day later delta is tried without success: no error, and the next trial comes a day
        // later.
        fixture.simulator.mutate_randomly();
        let status = fixture.wait_for_next_round().await;
        let tried = fixture.simulator.statistics().total.enumerations - enumerations;
        assert_eq!(tried, 1, "delta is tried once");
        assert_eq!((status.state, mode(&status)), (WindowState::Settled, "snapshot"));
        assert_eq!(status.last_error, None);
        assert_eq!(status.last_resync.unwrap().reason, ResyncReason::DeltaRetry);
        fixture.assert_exact("after a trial").await;
        fixture.round().await;
        let enumerations = fixture.simulator.statistics().total.enumerations;
        fixture.round().await;
        assert_eq!(
            fixture.simulator.statistics().total.enumerations,
            enumerations,
            "delta was tried too early"
        );

        // When the fault is gone delta works again, with the page size found before.
        fixture.simulator.clear_faults();
        fixture.simulator.mutate_randomly();
        let seq = fixture.seq();
        let status = fixture.wait_for_next_round().await;
        assert_eq!((status.state, mode(&status)), (WindowState::Settled, "delta"));
        assert_eq!(status.last_resync.unwrap().reason, ResyncReason::DeltaRetry);
        fixture.assert_exact("followed again").await;
        let (before, told) = (seq, fixture.seq() - seq);
        assert!(told < 100, "{told} changes after {before}: the resync is not quiet");
        fixture.simulator.reset_statistics();
        fixture.simulator.mutate_randomly();
        assert_eq!(fixture.round().await.state, WindowState::Settled);
        assert_eq!(fixture.page_sizes(), [1000].into());
        assert_eq!(fixture.simulator.statistics().total.enumerations, 0);
        fixture.assert_exact("followed").await;
        fixture.rig.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn every_kind_of_change_arrives_in_snapshot_mode() {
    let fixture = WindowFixture::two_daily(6, Behaviour::calm(), Completion::Master).await;
    let at = |text: &str| text.parse::<Timestamp>().unwrap();
    let single = fixture.edit(Edit::CreateSingle {
        subject: "Lunch".into(),
        start: at("2026-11-05T11:00:00Z"),
        minutes: 60,
    });
    let series = fixture.edit(Edit::CreateSeries {
        subject: "Standup".into(),
        start: at("2026-11-03T09:00:00Z"),
        minutes: 15,
        repeats: Pattern::Daily { every: 1 },
        until: Some("2026-11-12".parse().unwrap()),
        all_day: false,
    });
    fixture.enter_snapshot_mode().await;
    fixture.assert_exact("at first").await;
    let of_series = async |day: &str| {
        let mirrored = fixture.mirror().await;
        let found = mirrored.values().find(|event| {
            event["seriesMasterId"] == series.as_str()
                && event["start"]["dateTime"].as_str().unwrap().starts_with(day)
        });
        found.map(|event| event["id"].as_str().unwrap().to_owned())
    };
    let fifth = of_series("2026-11-05").await.unwrap();
    let sixth = of_series("2026-11-06").await.unwrap();
    // The edits, and the least number of events that look different afterwards.
    let edits: Vec<(Edit, usize)> = vec![
        (Edit::Rename { event: single.clone(), subject: "Late lunch".into() }, 1),
        (Edit::Move { event: single.clone(), start: at("2026-11-06T11:00:00Z") }, 1),
        (Edit::Delete { event: single }, 1),
        (Edit::Rename { event: series.clone(), subject: "Sit down".into() }, 10),
        (Edit::RenameOccurrence { occurrence: fifth.clone(), subject: "Long".into() }, 1),
        (Edit::UndoException { occurrence: fifth.clone() }, 1),
        (Edit::CancelOccurrence { occurrence: sixth }, 1),
        (Edit::SetEnd { event: series.clone(), until: Some("2026-11-10".parse().unwrap()) }, 2),
        // Seven occurrences change their times, or their days and ids.
        (Edit::Move { event: series.clone(), start: at("2026-11-03T10:00:00Z") }, 8),
        (Edit::Delete { event: series }, 8),
    ];
    for (edit, least) in edits {
        let what = format!("{edit:?}");
        let seq = fixture.seq();
        fixture.edit(edit);
        let status = fixture.round().await;
        assert_eq!((status.state, mode(&status)), (WindowState::Settled, "snapshot"), "{what}");
        fixture.assert_exact(&what).await;
        let told = changes_after(&fixture.rig.store, seq, Some(fixture.id), 1000).await.value;
        assert!(told.len() >= least, "{what}: {}", told.len());
        let seq = fixture.seq();
        fixture.round().await;
        assert_eq!(fixture.seq(), seq, "{what}: published once");
    }
    fixture.rig.stop().await;
}

/// All faults at once by seed, with restarts in mid-round. After the faults stop the mirror is
/// exact.
#[tokio::test(start_paused = true)]
async fn stuck_streams_converge_under_random_faults() {
    for seed in 20..23 {
        let complete = if seed % 4 == 0 { Completion::Exact } else { Completion::Master };
        let mut fixture = WindowFixture::two_daily(seed, Behaviour::by_seed(seed), complete).await;
        let mut rng = fastrand::Rng::with_seed(seed);
        for _ in 0..60 {
            match rng.u8(0..12) {
                0 => fixture = fixture.restarted().await,
                1 => {
                    let below = [30, 100, usize::MAX][rng.usize(..3)];
                    let fault = match rng.u8(0..3) {
                        0 => endless(below),
                        1 => Fault::StickyGatewayTimeout { above: rng.usize(5..40) },
                        _ => Fault::EndlessOld { below },
                    };
                    if matches!(fault, Fault::EndlessOld { .. }) {
                        // Half an hour of quick responses would be ten thousand pages.
                        let slow = Duration::from_secs(10)..Duration::from_secs(25);
                        fixture.simulator.set_latency(slow);
                    }
                    fixture.simulator.plan(PlannedFault::always(fault).path("delta"));
                }
                2 => fixture.simulator.set_faults(Faults::by_rate(rng.f64() * 0.3)),
                3 => {
                    fixture.simulator.clear_faults();
                    fixture.simulator.set_latency(Duration::ZERO..Duration::from_secs(1));
                }
                4 => drop(fixture.rig.fleet.sync(MAILBOX, None).await.unwrap()),
                _ => drop(fixture.simulator.mutate_randomly()),
            }
            tokio::time::sleep(Duration::from_secs(rng.u64(0..7200))).await;
        }
        fixture.simulator.clear_faults();
        fixture.simulator.set_latency(Duration::ZERO..Duration::from_secs(1));
        tokio::time::sleep(DAY).await;
        fixture.rig.settle(MAILBOX, 30).await;
        fixture.assert_exact(&format!("seed {seed}")).await;
        // After two quiet days the window follows delta links again.
        let status = match fixture.wait_for_next_round().await {
            status if mode(&status) == "delta" => status,
            _ => fixture.wait_for_next_round().await,
        };
        assert_eq!((status.state, mode(&status)), (WindowState::Settled, "delta"), "seed {seed}");
        fixture.assert_exact(&format!("followed, seed {seed}")).await;
        fixture.rig.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn segments_that_are_too_long_are_halved_without_losing_events() {
    let mut fixture = WindowFixture::ordinary(11).await;
    for _ in 0..5 {
        fixture.simulator.mutate_randomly();
    }
    fixture.round().await;
    let before = fixture.mirror().await;
    let seq = fixture.seq();
    // A window of 123 days is followed; Graph lowers its limit before the link dies.
    let behaviour = Behaviour { max_days: 40, ..fixture.simulator.behaviour() };
    fixture.simulator.set_behaviour(behaviour);
    fixture.simulator.kill_tokens(None);
    // One of the halves cannot be fetched at first.
    fixture.simulator.plan(PlannedFault::always(Fault::InternalError).path("2026-11-01"));
    let status = fixture.round().await;
    assert_eq!(status.last_resync.unwrap().reason, ResyncReason::SegmentTooLong);
    assert_eq!(status.segments.len(), 4);
    let days = |s: &calmirror::mirror::status::SegmentStatus| {
        s.end.duration_since(s.start).as_hours() / 24
    };
    assert_eq!(status.segments.iter().map(days).collect::<Vec<_>>(), [31, 31, 31, 30]);
    assert_eq!(status.state, WindowState::BackingOff);
    assert_same("the old rows are kept", &fixture.mirror().await, &before);
    fixture = fixture.restarted().await;
    assert_eq!(fixture.status().segments.len(), 4, "the halving survives a restart");
    assert_eq!(fixture.round().await.state, WindowState::BackingOff);
    assert_same("the old rows are kept over a restart", &fixture.mirror().await, &before);
    fixture.simulator.clear_faults();
    let status = fixture.rig.settle(MAILBOX, 5).await;
    fixture.assert_exact("halved").await;
    assert_eq!(fixture.seq(), seq, "a quiet resync");
    assert_eq!(status.resyncs, 4, "the dead link, two halvings, smaller pages for one piece");
    for _ in 0..30 {
        fixture.simulator.mutate_randomly();
    }
    fixture.rig.settle(MAILBOX, 5).await;
    fixture.assert_exact("followed in halves").await;
    fixture.rig.stop().await;
}
