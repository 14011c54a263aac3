//! Killed at random moments, the first enumeration included, the daemon loses nothing, repeats at
//! most a page, and tells its readers nothing that it takes back.

use std::collections::BTreeMap;
use std::time::Duration;

use calmirror::mirror::status::ResyncReason;
use calmirror::mirror::window::{Completion, Edges};
use calmirror::simulator::Behaviour;

use crate::compare::{assert_same, truth};
use crate::process::{Daemon, Ground, eventually};
use crate::socket::{Api, Follower};

const WINDOWS: [&str; 4] = ["alice", "bob", "carol", "dave"];
const MUTATIONS: u32 = 500;

/// For every window, how many kills came before anything of it was known to be committed.
type Bare = BTreeMap<&'static str, u64>;

/// A daemon asks for anything but a first page only once the first page is durable.
fn count_bare(ground: &Ground, bare: &mut Bare) -> usize {
    let statistics = ground.simulator.statistics();
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

/// The fewest requests that all first enumerations together can take.
fn pages(ground: &Ground) -> u64 {
    let at = |text: &str| text.parse().unwrap();
    let (start, end) = (at("2026-10-01T00:00:00Z"), at("2027-02-01T00:00:00Z"));
    let of = |name| ground.simulator.truth(&format!("{name}@contoso.com"), None, start, end).len();
    WINDOWS.iter().map(|name| of(name) as u64 / 10).sum()
}

/// Follows across the deaths of the daemon until told to stop, then to the end.
async fn follow(api: Api, mut stop: tokio::sync::oneshot::Receiver<()>) -> Follower {
    let mut follower = Follower::default();
    while stop.try_recv().is_err() {
        if follower.follow(&api, "2s").await.is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    follower.catch_up(&api).await;
    follower
}

/// Waits until at least so many requests have been made in all.
async fn requests(ground: &Ground, daemon: &mut Daemon, at_least: u64) {
    eventually("Graph is asked", async || {
        assert!(daemon.over().is_none(), "the daemon ended");
        (ground.simulator.statistics().total.requests >= at_least).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_killed_twenty_times_ends_as_if_it_had_never_been() {
    let kills: u32 =
        std::env::var("CALMIRROR_KILLS").map_or(20, |kills| kills.parse().expect("a number"));
    let ground = Ground::new(41, &WINDOWS).await;
    // Odd in every way, but with patience for links: after a death one is asked again.
    ground.simulator.set_behaviour(Behaviour { kept_tokens: 8, ..Behaviour::by_seed(41) });
    let ms = Duration::from_millis;
    // Slow enough that the first enumeration lives through several deaths.
    ground.simulator.set_latency(ms(10)..ms(60));
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let following = tokio::spawn(follow(ground.api.clone(), stopped));
    let mut chance = fastrand::Rng::with_seed(41);
    let mut bare = Bare::new();
    let (mut resuming, mut early) = (0, 0);
    let least = pages(&ground);
    let mut mutated = 0;
    for kill in 1..=kills {
        let mut daemon = ground.spawn();
        // A few requests or many, and then anywhere between two of them.
        let asked = ground.simulator.statistics().total.requests;
        requests(&ground, &mut daemon, asked + chance.u64(1..20)).await;
        while mutated * kills < MUTATIONS * kill {
            ground.simulator.mutate_randomly();
            mutated += 1;
            if chance.u8(..4) == 0 {
                tokio::time::sleep(ms(chance.u64(..30))).await;
            }
        }
        daemon.kill().await;
        resuming += count_bare(&ground, &mut bare);
        early += u32::from(ground.simulator.statistics().total.requests < least);
    }
    assert_eq!(mutated, MUTATIONS);

    ground.simulator.set_latency(Duration::ZERO..Duration::ZERO);
    let daemon = ground.run().await;
    for name in WINDOWS {
        ground.settle(name).await;
    }
    stop.send(()).unwrap();
    let follower = following.await.unwrap();
    let mut fresh = Follower::default();
    fresh.catch_up(&ground.api).await;
    let mut resyncs = BTreeMap::new();
    for name in WINDOWS {
        let status = ground.api.window(name).await;
        let mirrored = ground.api.events(name).await;
        let edges = Edges { start: status.start, end: status.end };
        let mailbox = format!("{name}@contoso.com");
        let real = truth(&ground.simulator, &mailbox, None, edges, Completion::Master).await;
        assert!(real.len() > 50, "{name} has something to lose: {}", real.len());
        assert_same(&format!("{name}: mirror and truth"), &mirrored, &real);
        assert_same(&format!("{name}: feed and mirror"), &fresh.of(name), &mirrored);
        assert_same(&format!("{name}: follower and mirror"), &follower.of(name), &mirrored);
        assert_eq!(status.events as usize, mirrored.len(), "{name}: count");
        // So much changes between deaths that a round may remove too much to be believed at once,
        // which an enumeration confirms; a restart is no reason for one.
        let other = status.last_resync.as_ref().filter(|last| last.reason != ResyncReason::Confirm);
        assert_eq!(other, None, "{name}: enumerated again");
        resyncs.insert(name, status.resyncs);
    }

    // Whoever had begun went on: only a death before the first page was durable costs another.
    let statistics = ground.simulator.statistics();
    for name in WINDOWS {
        let tally = &statistics.mailboxes[&format!("{name}@contoso.com")];
        let allowed = 1 + bare.get(name).copied().unwrap_or(0) + resyncs[name];
        assert!(tally.enumerations <= allowed, "{name}: {} > {allowed}", tally.enumerations);
    }
    assert!(early > 1, "the first enumeration was over before a death");
    assert!(resuming > kills as usize * WINDOWS.len() / 2, "{resuming} resumed, {bare:?}");
    assert_eq!(statistics.unknown_tokens, 0);
    // A series that changes faster than it can be listed waits for the next round.
    let known = ["removal too large to believe", "some series could not be completed"];
    let told = |line: &String| known.iter().any(|known| line.contains(known));
    assert!(daemon.complaints().iter().all(told), "{:?}", daemon.complaints());
    assert!(!daemon.log().contains("link is dead"), "the stored link is at most one use old");
    daemon.stop().await;
}
