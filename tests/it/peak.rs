//! Memory that oversized responses cost the real process: never more than a few times the cap.
//! Afterwards the mirror is exact again.

use std::fs;
use std::time::Duration;

use calmirror::mirror::window::{Completion, Edges};
use calmirror::simulator::{Fault, Lie, PlannedFault};
use tokio::time::Instant;

use crate::compare::{assert_same, truth};
use crate::process::{DaemonFixture, DaemonProcess, eventually};

const WINDOW: &str = "alice";

/// The process's peak resident memory, MiB.
pub(crate) fn peak(daemon: &DaemonProcess) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_huge_response_costs_bounded_memory() {
    for fault in [
        Fault::Lie { how: Lie::SixtyMebibytes },
        Fault::Lie { how: Lie::TenThousand },
        Fault::Bomb,
        Fault::EndlessBody,
    ] {
        let fixture = DaemonFixture::new(61, &[WINDOW]).await;
        let daemon = fixture.run().await;
        fixture.settle(WINDOW).await;
        let before = peak(&daemon);
        fixture.simulator.plan(PlannedFault::once(fault.clone()).path("deltatoken"));
        fixture.api.post(&format!("/v1/windows/{WINDOW}/sync?wait=60s")).await;
        assert!(fixture.simulator.faults().planned.is_empty(), "{fault:?} did not happen");
        // The enumeration sweeps any events accepted by mistake.
        fixture
            .api
            .post(&format!("/v1/windows/{WINDOW}/resync?accept_removals=true&wait=60s"))
            .await;
        let status = fixture.settle(WINDOW).await;
        let edges = Edges { start: status.start, end: status.end };
        let mailbox = format!("{WINDOW}@contoso.com");
        let real = truth(&fixture.simulator, &mailbox, None, edges, Completion::Master).await;
        assert_same(&format!("{fault:?}"), &fixture.api.events(WINDOW).await, &real);
        let after = peak(&daemon);
        // The largest page, its largest item, and that item while the store writes it. Measured in
        // the test profile: 286 to 367.
        assert!(after < 450, "{fault:?}: {before} MiB before, {after} MiB at most");
        daemon.stop().await;
    }
}

/// The memory allowed with one of the responses below, or with thirty at once, MiB. The memory that
/// responses share, and the one response that may exceed it, take 128 MiB; the allocator keeps what
/// the responses before have freed for a second. Measured in the test profile: 117 to 146 MiB, 218
/// to 270 with thirty, once 320.
const MOST: u64 = 380;
/// The longest `/healthz` may take meanwhile: one second, more in unoptimised builds.
const HEALTHY: Duration = Duration::from_secs(if cfg!(debug_assertions) { 5 } else { 1 });
/// The longest a stop may take meanwhile.
const STOPPED: Duration = Duration::from_secs(10);

/// Waits until at most `left` planned faults remain. Returns the slowest `/healthz`.
async fn until_left(fixture: &DaemonFixture, left: u32) -> Duration {
    let mut longest = Duration::ZERO;
    eventually("the planned responses are sent", async || {
        let asked = Instant::now();
        let answer = fixture.api.get("/healthz").await;
        assert!(answer.status.is_success());
        longest = longest.max(asked.elapsed());
        let planned = fixture.simulator.faults().planned;
        let times: u32 = planned.iter().filter_map(|planned| planned.times).sum();
        (times <= left).then_some(())
    })
    .await;
    longest
}

/// The oversized responses, and the number of windows that get one at the same time: a page of
/// 100,000 events, and thirty compressed responses that inflate to 128 MiB.
fn too_large() -> [(Fault, u32); 2] {
    [(Fault::CrowdedPage { above: 0 }, 1), (Fault::Bomb, 30)]
}

/// A daemon with settled windows, each of which gets one of these responses next.
async fn expecting(fault: &Fault, windows: u32) -> (DaemonFixture, DaemonProcess, Vec<String>) {
    let names: Vec<String> = (0..windows).map(|n| format!("room-{n}")).collect();
    let fixture =
        DaemonFixture::new(62, &names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    // Leaves room for smaller pages, and time to fetch them.
    let config = fs::read_to_string(&fixture.config).unwrap();
    let config = config.replace("page_size = 10", "page_size = 200");
    fixture.configure(&config.replace("interval = \"1s\"", "interval = \"3s\""));
    let daemon = fixture.run().await;
    for name in &names {
        fixture.settle(name).await;
    }
    fixture.simulator.plan(PlannedFault::once(fault.clone()).path("deltatoken").times(windows));
    (fixture, daemon, names)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn huge_responses_are_bounded_in_total_and_block_nothing() {
    for (fault, windows) in too_large() {
        let (fixture, daemon, names) = expecting(&fault, windows).await;
        let mut longest = until_left(&fixture, 0).await;
        // Until the last of them is read.
        for name in &names {
            let asked = Instant::now();
            assert!(fixture.api.get("/healthz").await.status.is_success());
            longest = longest.max(asked.elapsed());
            fixture.settle(name).await;
        }
        assert!(longest < HEALTHY, "{fault:?}: /healthz took {longest:?}");
        let most = peak(&daemon);
        assert!(most < MOST, "{fault:?}: {most} MiB");
        daemon.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn huge_responses_do_not_delay_a_stop() {
    for (fault, windows) in too_large() {
        let (fixture, daemon, _) = expecting(&fault, windows).await;
        until_left(&fixture, windows / 2).await;
        let asked = Instant::now();
        daemon.stop().await;
        assert!(asked.elapsed() < STOPPED, "{fault:?}: the stop took {:?}", asked.elapsed());
    }
}
