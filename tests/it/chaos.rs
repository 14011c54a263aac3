//! Compressed days under everything at once: random readings of Graph, faults, dead links,
//! restarts in mid-round, resyncs, several calendars. After the faults stop the mirror is the
//! truth and the feed folds to the mirror. A failing seed prints itself; it replays exactly with
//! `CALMIRROR_SEED=n cargo test --test it chaos`.

use std::sync::Arc;
use std::time::Duration;

use calmirror::mirror::window::{Body, Calendar, Complete, Edges, Window};
use calmirror::simulator::{Behaviour, Faults, Population, Settings, Simulator};
use calmirror::world::World;

use crate::compare::{assert_same, folded, mirror, truth};
use crate::memory::Memory;
use crate::rig::{BASE, Rig, noon, window};

const PEOPLE: [&str; 2] = ["alice@contoso.com", "bob@contoso.com"];
/// Seeds of an ordinary `cargo test`; `CALMIRROR_SEEDS=10000` for a long run.
const SEEDS: u64 = 24;

/// A tracked window and the calendar it is about.
struct Tracked {
    window: Window,
    calendar: Option<String>,
}

fn organisation(seed: u64, rng: &mut fastrand::Rng, world: &World) -> (Simulator, Vec<Tracked>) {
    let settings = Settings {
        behaviour: Behaviour::by_seed(seed),
        latency: Duration::from_millis(1)..Duration::from_millis(900),
        ..Settings::new(seed, world.clone())
    };
    let simulator = Simulator::new(settings);
    simulator.set_base_url(BASE);
    let mut tracked = Vec::new();
    for person in PEOPLE {
        simulator.add_mailbox(person);
        let side = simulator.add_calendar(person, "Side");
        simulator.set_shared(person, &side, rng.bool());
        for calendar in [None, Some(side)] {
            let plan = Population {
                singles: rng.usize(0..30),
                series: rng.usize(0..6),
                all_day: rng.usize(0..5),
                body_bytes: 60,
                around: noon(),
                spread_days: 90,
            };
            simulator.populate(person, calendar.as_deref(), plan);
            let name = format!("{person}:{}", calendar.as_deref().map_or("default", |_| "side"));
            let window = Window {
                name: name.into(),
                calendar: calendar
                    .as_deref()
                    .map_or(Calendar::Default, |id| Calendar::Id(id.into())),
                page_size: rng.u32(3..60),
                complete: if rng.u8(0..4) == 0 { Complete::Exact } else { Complete::Master },
                body: Body::Html,
                interval: Duration::from_secs(rng.u64(20..300)),
                confirm_after: Duration::from_secs(120),
                ..window(person)
            };
            tracked.push(Tracked { window, calendar });
        }
    }
    (simulator, tracked)
}

async fn day(seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let directory = tempfile::tempdir().unwrap();
    let world = World::simulated(seed, noon());
    let (simulator, tracked) = organisation(seed, &mut rng, &world);
    let windows: Vec<Window> = tracked.iter().map(|t| t.window.clone()).collect();
    let start = || {
        Rig::start(directory.path(), Arc::new(Memory(simulator.clone())), &world, windows.clone())
    };
    let mut rig = start().await;
    let mut restarted = false;
    for _ in 0..120 {
        match rng.u8(0..24) {
            0 => simulator.kill_tokens(rng.bool().then(|| PEOPLE[rng.usize(0..2)])),
            1 => simulator.expire_tokens(),
            2 if seed.is_multiple_of(2) => {
                // In mid-round, whatever is under way.
                rig.stop().await;
                rig = start().await;
                restarted = true;
            }
            3 => {
                let name = &windows[rng.usize(0..windows.len())].name;
                rig.fleet.resync(name, false, None).await.unwrap();
            }
            4 => simulator.set_faults(Faults::by_rate(rng.f64() * 0.4)),
            5 => simulator.clear_faults(),
            _ => drop(simulator.step()),
        }
        let most = if rng.u8(0..10) == 0 { 900_000 } else { 20_000 };
        tokio::time::sleep(Duration::from_millis(rng.u64(0..most))).await;
    }
    simulator.clear_faults();
    for Tracked { window, calendar } in &tracked {
        let status = rig.settle(&window.name, 60).await;
        let id = rig.fleet.id(&window.name).unwrap();
        let edges = Edges { start: status.start, end: status.end };
        let mirrored = mirror(&rig.store, id).await;
        let real =
            truth(&simulator, &window.mailbox, calendar.as_deref(), edges, window.complete).await;
        let what = format!("seed {seed}, {}", window.name);
        assert_same(&format!("mirror and truth, {what}"), &mirrored, &real);
        assert_same(&format!("feed and mirror, {what}"), &folded(&rig.store, id).await, &mirrored);
        assert_eq!(status.events, mirrored.len() as u64, "count, {what}");
    }
    let statistics = simulator.statistics();
    for (mailbox, tally) in &statistics.mailboxes {
        // A process that starts anew knows nothing of a pause that its forerunner was told of.
        let asked = if restarted { 0 } else { tally.during_pause };
        assert_eq!(asked, 0, "asked during a pause, seed {seed}, {mailbox}");
        assert!(
            tally.max_concurrent <= 3,
            "{} at once, seed {seed}, {mailbox}",
            tally.max_concurrent
        );
        assert!(tally.max_in_10_minutes < 10_000, "seed {seed}, {mailbox}");
    }
    rig.stop().await;
}

#[test]
fn chaos_ends_in_the_truth() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let (first, count) = match number("CALMIRROR_SEED") {
        Some(seed) => (seed, 1),
        None => (1, number("CALMIRROR_SEEDS").unwrap_or(SEEDS)),
    };
    for seed in first..first + count {
        let run = std::panic::catch_unwind(|| {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .start_paused(true)
                .build()
                .unwrap()
                .block_on(day(seed));
        });
        assert!(run.is_ok(), "replay it: CALMIRROR_SEED={seed} cargo test --test it chaos");
    }
}
