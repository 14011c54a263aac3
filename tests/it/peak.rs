//! What answers that are far too large cost the real process in memory: never more than a few
//! times the cap, and the mirror is exact again afterwards.

use std::fs;

use calmirror::mirror::window::{Complete, Edges};
use calmirror::simulator::{Fault, Lie, Planned};

use crate::compare::{assert_same, truth};
use crate::process::{Daemon, Ground};

const WINDOW: &str = "alice";

/// The most memory the process had resident, MiB.
fn peak(daemon: &Daemon) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_far_too_large_costs_bounded_memory() {
    for fault in [
        Fault::Lie { how: Lie::SixtyMebibytes },
        Fault::Lie { how: Lie::TenThousand },
        Fault::Bomb,
        Fault::EndlessBody,
    ] {
        let ground = Ground::new(61, &[WINDOW]).await;
        let daemon = ground.run().await;
        ground.settle(WINDOW).await;
        let before = peak(&daemon);
        ground.simulator.plan(Planned::once(fault.clone()).path("deltatoken"));
        ground.api.post(&format!("/v1/windows/{WINDOW}/sync?wait=60s")).await;
        assert!(ground.simulator.faults().planned.is_empty(), "{fault:?} happened");
        // Whatever was believed is swept by an enumeration.
        ground
            .api
            .post(&format!("/v1/windows/{WINDOW}/resync?accept_removals=true&wait=60s"))
            .await;
        let status = ground.settle(WINDOW).await;
        let edges = Edges { start: status.start, end: status.end };
        let mailbox = format!("{WINDOW}@contoso.com");
        let real = truth(&ground.simulator, &mailbox, None, edges, Complete::Master).await;
        assert_same(&format!("{fault:?}"), &ground.api.events(WINDOW).await, &real);
        let after = peak(&daemon);
        // The largest page, its largest item, and that item on its way through the store.
        assert!(after < 512, "{fault:?}: {before} MiB before, {after} MiB at most");
        daemon.stop().await;
    }
}
