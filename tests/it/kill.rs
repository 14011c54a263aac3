//! A daemon killed at random moments, also during the first enumeration, loses nothing, requests at
//! most one page again, and publishes nothing that it takes back.

use std::collections::BTreeMap;
use std::time::Duration;

use calmirror::mirror::status::ResyncReason;
use calmirror::mirror::window::{Completion, Edges};
use calmirror::simulator::Behaviour;

use crate::compare::{assert_same, truth};
use crate::process::{DaemonFixture, DaemonProcess, eventually};
use crate::socket::{Api, FeedClient};

const WINDOWS: [&str; 4] = ["alice", "bob", "carol", "dave"];
const MUTATIONS: u32 = 500;

/// For every window, the number of kills before any of its commits was known to be durable.
type KillsBeforeCommit = BTreeMap<&'static str, u64>;

/// A daemon requests something other than a first page only once the first page is durable.
fn count_uncommitted(fixture: &DaemonFixture, bare: &mut KillsBeforeCommit) -> usize {
    let statistics = fixture.simulator.statistics();
    let mut resuming = 0;
    for name in WINDOWS {
        let tally = statistics.mailboxes.get(&format!("{name}@contoso.com"));
        if tally.is_some_and(|tally| tally.requests > tally.enumerations) {
            resuming += 1;
        } else {
            *bare.entry(name).or_default() += 1;
        }
    }
    resuming
}

/// A lower bound of the requests of all first enumerations together.
fn pages(fixture: &DaemonFixture) -> u64 {
    let at = |text: &str| text.parse().unwrap();
    let (start, end) = (at("2026-10-01T00:00:00Z"), at("2027-02-01T00:00:00Z"));
    let of = |name| fixture.simulator.truth(&format!("{name}@contoso.com"), None, start, end).len();
    WINDOWS.iter().map(|name| of(name) as u64 / 10).sum()
}

/// Follows the feed across kills of the daemon until stopped, then reads to its end.
async fn follow(api: Api, mut stop: tokio::sync::oneshot::Receiver<()>) -> FeedClient {
    let mut follower = FeedClient::default();
    while stop.try_recv().is_err() {
        if follower.follow(&api, "2s").await.is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    follower.catch_up(&api).await;
    follower
}

/// Waits until at least this many requests have been made in total.
async fn requests(fixture: &DaemonFixture, daemon: &mut DaemonProcess, at_least: u64) {
    eventually("Graph gets requests", async || {
        assert!(daemon.exit_status().is_none(), "the daemon ended");
        (fixture.simulator.statistics().total.requests >= at_least).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_killed_twenty_times_converges() {
    let kills: u32 =
        std::env::var("CALMIRROR_KILLS").map_or(20, |kills| kills.parse().expect("a number"));
    let fixture = DaemonFixture::new(41, &WINDOWS).await;
    // All quirks of the seed, but links stay valid longer: a restart requests one again.
    fixture.simulator.set_behaviour(Behaviour { kept_tokens: 8, ..Behaviour::by_seed(41) });
    let ms = Duration::from_millis;
    // Slow enough for the first enumeration to span several kills.
    fixture.simulator.set_latency(ms(10)..ms(60));
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let following = tokio::spawn(follow(fixture.api.clone(), stopped));
    let mut chance = fastrand::Rng::with_seed(41);
    let mut bare = KillsBeforeCommit::new();
    let (mut resuming, mut early) = (0, 0);
    let least = pages(&fixture);
    let mut mutated = 0;
    for kill in 1..=kills {
        let mut daemon = fixture.spawn();
        // The kill comes after a few requests or many, at any point between two of them.
        let asked = fixture.simulator.statistics().total.requests;
        requests(&fixture, &mut daemon, asked + chance.u64(1..20)).await;
        while mutated * kills < MUTATIONS * kill {
            fixture.simulator.mutate_randomly();
            mutated += 1;
            if chance.u8(..4) == 0 {
                tokio::time::sleep(ms(chance.u64(..30))).await;
            }
        }
        daemon.kill().await;
        resuming += count_uncommitted(&fixture, &mut bare);
        early += u32::from(fixture.simulator.statistics().total.requests < least);
    }
    assert_eq!(mutated, MUTATIONS);

    fixture.simulator.set_latency(Duration::ZERO..Duration::ZERO);
    let daemon = fixture.run().await;
    for name in WINDOWS {
        fixture.settle(name).await;
    }
    stop.send(()).unwrap();
    let follower = following.await.unwrap();
    let mut fresh = FeedClient::default();
    fresh.catch_up(&fixture.api).await;
    let mut resyncs = BTreeMap::new();
    for name in WINDOWS {
        let status = fixture.api.window(name).await;
        let mirrored = fixture.api.events(name).await;
        let edges = Edges { start: status.start, end: status.end };
        let mailbox = format!("{name}@contoso.com");
        let real = truth(&fixture.simulator, &mailbox, None, edges, Completion::Master).await;
        assert!(real.len() > 50, "{name} has too few events: {}", real.len());
        assert_same(&format!("{name}: mirror and truth"), &mirrored, &real);
        assert_same(&format!("{name}: feed and mirror"), &fresh.of(name), &mirrored);
        assert_same(&format!("{name}: follower and mirror"), &follower.of(name), &mirrored);
        assert_eq!(status.events as usize, mirrored.len(), "{name}: count");
        // Changes accumulate between kills, so a round may hold back a mass removal, which an
        // enumeration confirms. A restart alone must not cause an enumeration.
        let other = status.last_resync.as_ref().filter(|last| last.reason != ResyncReason::Confirm);
        assert_eq!(other, None, "{name}: enumerated again");
        resyncs.insert(name, status.resyncs);
    }

    // Enumerations resume: only a kill before the first page is durable costs another one.
    let statistics = fixture.simulator.statistics();
    for name in WINDOWS {
        let tally = &statistics.mailboxes[&format!("{name}@contoso.com")];
        let allowed = 1 + bare.get(name).copied().unwrap_or(0) + resyncs[name];
        assert!(tally.enumerations <= allowed, "{name}: {} > {allowed}", tally.enumerations);
    }
    assert!(early > 1, "the first enumeration ended before a kill");
    assert!(resuming > kills as usize * WINDOWS.len() / 2, "{resuming} resumed, {bare:?}");
    assert_eq!(statistics.unknown_tokens, 0);
    // A series that changes faster than it can be listed waits for the next round.
    let known = ["removal too large to believe", "some series could not be completed"];
    let told = |line: &String| known.iter().any(|known| line.contains(known));
    assert!(daemon.warnings_logged().iter().all(told), "{:?}", daemon.warnings_logged());
    assert!(!daemon.log().contains("link is dead"), "the stored link is at most one use old");
    daemon.stop().await;
}
