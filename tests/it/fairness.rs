//! A large enumeration beside many idle windows: it delays none of them, and Graph's limits are
//! kept.

use std::sync::Arc;
use std::time::Duration;

use calmirror::env::Env;
use calmirror::mirror::status::WindowState;
use calmirror::mirror::window::{CalendarRef, Window, WindowSettings};
use calmirror::simulator::{Fault, FaultRate, Faults, Population, Simulator, SimulatorSettings};

use crate::memory::Memory;
use crate::rig::{BASE, Rig, noon, window_settings, window_with};

const IDLE: usize = 1000;
const GREAT: usize = 50_000;
const INTERVAL: Duration = Duration::from_secs(60);
/// The rig's limits of concurrent requests: in total, and per mailbox.
const OVERALL: usize = 64;
const PER_MAILBOX: usize = 3;

fn idle(number: usize) -> String {
    format!("idle-{number}@contoso.com")
}

fn plan(singles: usize) -> Population {
    Population { singles, series: 0, all_day: 0, body_bytes: 40, around: noon(), spread_days: 25 }
}

#[tokio::test(start_paused = true)]
async fn a_large_enumeration_does_not_delay_idle_windows() {
    let directory = tempfile::tempdir().unwrap();
    let env = Env::simulated(7, noon());
    let simulator = Simulator::new(SimulatorSettings {
        latency: Duration::from_millis(200)..Duration::from_millis(900),
        ..SimulatorSettings::new(7, env.clone())
    });
    simulator.set_base_url(BASE);
    let mut windows = Vec::new();
    for number in 0..IDLE {
        simulator.add_mailbox(&idle(number));
        simulator.populate(&idle(number), None, plan(1));
        windows.push(window_with(
            &idle(number),
            WindowSettings { interval: INTERVAL, ..window_settings() },
        ));
    }
    // One idle window shares its mailbox with the large window and with some of medium size.
    let side = simulator.add_calendar(&idle(0), "Side");
    let middling: Vec<String> =
        (0..4).map(|n| simulator.add_calendar(&idle(0), &format!("Middling {n}"))).collect();
    let graph = Arc::new(Memory(simulator.clone()));
    let rig = Rig::start(directory.path(), graph.clone(), &env, windows.clone()).await;
    let unsettled = |rig: &Rig| {
        let settled = |name: &String| rig.fleet.window(name).unwrap().state == WindowState::Settled;
        (0..IDLE).map(idle).filter(|name| !settled(name)).count()
    };
    let begun = tokio::time::Instant::now();
    while unsettled(&rig) > IDLE / 10 {
        assert!(begun.elapsed() < 10 * INTERVAL, "{} are late", unsettled(&rig));
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    rig.stop().await;

    simulator.populate(&idle(0), Some(&side), plan(GREAT));
    for calendar in &middling {
        simulator.populate(&idle(0), Some(calendar), plan(GREAT / 50));
    }
    simulator.reset_statistics();
    let throttled = Fault::Throttled { retry_after: Some("10".to_owned()) };
    let rates = vec![FaultRate { fault: throttled, probability: 0.002 }];
    simulator.set_faults(Faults { rates, planned: Vec::new() });
    for (name, calendar) in std::iter::once(("great", &side))
        .chain(["one", "two", "three", "four"].into_iter().zip(&middling))
    {
        windows.push(Window {
            name: name.into(),
            calendar: CalendarRef::Id(calendar.as_str().into()),
            ..window_with(&idle(0), WindowSettings { interval: INTERVAL, ..window_settings() })
        });
    }
    let rig = Rig::start(directory.path(), graph, &env, windows).await;
    let begun = tokio::time::Instant::now();
    let mut stalest = 0.0_f64;
    while rig.fleet.window("great").unwrap().last_success.is_none() {
        tokio::time::sleep(Duration::from_secs(10)).await;
        for number in 0..IDLE {
            let status = rig.fleet.window(&idle(number)).unwrap();
            let stale = status.stale_s.unwrap();
            // A throttled window waits for another reason.
            if status.failures == 0 {
                stalest = stalest.max(stale);
            }
        }
        assert!(begun.elapsed() < Duration::from_secs(4 * 3600), "the enumeration does not end");
    }
    assert!(begun.elapsed() > 5 * INTERVAL, "the enumeration ended before a window could be late");
    // An interval with its jitter, and one more interval of delay.
    assert!(stalest < INTERVAL.as_secs_f64() * 2.1, "{stalest} s");
    assert_eq!(rig.fleet.window("great").unwrap().events, GREAT as u64);

    let statistics = simulator.statistics();
    let total = &statistics.total;
    assert!(total.statuses.contains_key(&429), "no request was throttled");
    assert_eq!(total.during_pause, 0);
    assert!(total.max_concurrent <= OVERALL, "{}", total.max_concurrent);
    let shared = &statistics.mailboxes[&idle(0)];
    assert_eq!(shared.max_concurrent, PER_MAILBOX, "windows of one mailbox share its limit");
    for (mailbox, tally) in &statistics.mailboxes {
        assert!(tally.max_concurrent <= PER_MAILBOX, "{mailbox}: {}", tally.max_concurrent);
        assert!(tally.max_in_10_minutes < 10_000, "{mailbox}: {}", tally.max_in_10_minutes);
        assert_eq!(tally.during_pause, 0, "{mailbox}");
    }
    rig.stop().await;
}
