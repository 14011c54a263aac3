//! The effects of a reload on a fleet, in simulated time: a whole daemon over an in-memory Graph,
//! with a configuration that is rewritten while it runs.

mod certificate;

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use calmirror::env::Env;
use calmirror::graph::Transport;
use calmirror::mirror::change::{ChangeKind, RemovalReason};
use calmirror::mirror::status::{ResyncReason, WindowState, WindowStatus};
use calmirror::mirror::window::{Completion, Edges};
use calmirror::reload::{ReloadError, ReloadSummary};
use calmirror::simulator::{Population, Simulator, SimulatorSettings};
use tempfile::TempDir;

use crate::compare::{assert_mirrored, changes_after, truth};
use crate::daemon::Running;
use crate::memory::Memory;
use crate::rig::{BASE, noon};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// A daemon whose configuration can be rewritten.
struct Live {
    directory: TempDir,
    simulator: Simulator,
    env: Env,
    daemon: Running,
}

/// A Graph with these mailboxes, each with `events` single events and some series.
fn graph(seed: u64, mailboxes: &[&str], events: usize) -> (Simulator, Env) {
    let env = Env::simulated(seed, noon());
    let simulator = Simulator::new(SimulatorSettings::new(seed, env.clone()));
    simulator.set_base_url(BASE);
    for name in mailboxes {
        let address = format!("{name}@contoso.com");
        simulator.add_mailbox(&address);
        let plan = Population {
            singles: events,
            series: events / 5,
            all_day: 1,
            body_bytes: 50,
            around: noon(),
            spread_days: 60,
        };
        if events > 0 {
            simulator.populate(&address, None, plan);
        }
    }
    (simulator, env)
}

impl Live {
    /// Starts with these windows: name, mailbox, and further lines of the entry.
    async fn start(graph: (Simulator, Env), windows: &[(&str, &str, &str)]) -> Self {
        let transport = Arc::new(Memory(graph.0.clone()));
        Self::over(transport, graph, "s3cret", &text(windows)).await
    }

    /// Starts with this configuration. The account's file `secret` holds `secret`.
    async fn over(
        transport: Arc<dyn Transport>,
        graph: (Simulator, Env),
        secret: &str,
        text: &str,
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (simulator, env) = graph;
        let daemon = Running::start(directory.path(), secret, text, transport, &env).await;
        Self { directory, simulator, env, daemon }
    }

    async fn reload(&self, windows: &[(&str, &str, &str)]) -> Result<ReloadSummary, ReloadError> {
        fs::write(self.directory.path().join("calmirror.toml"), text(windows)).unwrap();
        self.daemon.reloads.ask(false).await
    }

    async fn stop(self) {
        self.daemon.stop().await;
    }

    fn requests(&self) -> u64 {
        self.simulator.statistics().total.requests
    }

    fn window(&self, name: &str) -> WindowStatus {
        self.daemon.fleet.window(name).unwrap()
    }

    /// Waits until the window is settled.
    async fn settled(&self, name: &str) -> WindowStatus {
        for _ in 0..10_000 {
            let status = self.window(name);
            if status.state == WindowState::Settled && status.settled_once {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("does not settle: {:?}", self.window(name));
    }

    /// Asserts that the window and its feed equal what Graph lists.
    async fn assert_true(&self, name: &str, mailbox: &str) {
        self.daemon.fleet.sync(name, Some(HOUR)).await.unwrap();
        let status = self.settled(name).await;
        let edges = Edges { start: status.start, end: status.end };
        let mailbox = format!("{mailbox}@contoso.com");
        let id = self.daemon.fleet.id(name).unwrap();
        let real = truth(&self.simulator, &mailbox, None, edges, Completion::Master).await;
        assert_mirrored(&self.daemon.store, id, &real, name).await;
    }
}

fn text(windows: &[(&str, &str, &str)]) -> String {
    let mut text = r#"
[store]
path = "store"
[graph]
base_url = "http://127.0.0.1:1/v1.0"
login_url = "http://127.0.0.1:1"
[api]
socket = "api.sock"
[defaults]
start = "2026-10-01"
end = "2027-02-01"
interval = "1h"
audit = "off"
[account.contoso]
tenant = "t"
client_id = "c"
client_secret_file = "secret"
"#
    .to_owned();
    for (name, mailbox, more) in windows {
        text.push_str(&format!(
            "[[window]]\nname = \"{name}\"\naccount = \"contoso\"\nmailbox = \"{mailbox}@contoso.com\"\n{more}\n"
        ));
    }
    text
}

#[tokio::test(start_paused = true)]
async fn a_changed_interval_neither_delays_nor_clusters_rounds() {
    let names: Vec<String> = (0..60).map(|n| format!("room{n:02}")).collect();
    let mailboxes: Vec<&str> = names.iter().map(String::as_str).collect();
    let windows = |more: &'static str| -> Vec<(&str, &str, &str)> {
        names.iter().map(|name| (name.as_str(), name.as_str(), more)).collect()
    };
    let live = Live::start(graph(1, &mailboxes, 0), &windows("")).await;
    // Two days of jitter spread the fleet.
    tokio::time::sleep(HOUR * 48).await;

    let (requests, before) = (live.requests(), live.daemon.fleet.windows());
    let now = live.env.now();
    let told = live.reload(&windows("interval = \"10m\"")).await.unwrap();
    assert_eq!((told.windows.retimed, told.windows.unchanged), (60, 0));
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(live.requests(), requests, "a reload makes no requests");
    let mut dues = Vec::new();
    for (was, is) in before.iter().zip(live.daemon.fleet.windows()) {
        let (old, new) = (was.next_due.unwrap(), is.next_due.unwrap());
        assert!(new <= old && new > now, "{}: {old} -> {new}", is.name);
        dues.push(new.duration_since(now).as_secs());
    }
    assert_spread(&dues, 600);
    tokio::time::sleep(MINUTE * 11).await;
    for window in live.daemon.fleet.windows() {
        assert!(
            window.last_success.unwrap() > now,
            "{} had no round within eleven minutes",
            window.name
        );
        assert_eq!(window.resyncs, 0);
    }

    let (requests, now) = (live.requests(), live.env.now());
    live.reload(&windows("interval = \"1h\"\npage_size = 7\nconfirm_after = \"1m\""))
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(live.requests(), requests, "a reload makes no requests");
    let mut dues = Vec::new();
    for window in live.daemon.fleet.windows() {
        let (last, due) = (window.last_success.unwrap(), window.next_due.unwrap());
        let since = due.duration_since(last).as_secs();
        assert!(since <= 66 * 60, "{}: due {since} s after its last round", window.name);
        dues.push(due.duration_since(now).as_secs());
    }
    assert_spread(&dues, 3600);

    // Repeated reloads without a change do not delay any round.
    let before: Vec<_> = live.daemon.fleet.windows().iter().map(|window| window.next_due).collect();
    for _ in 0..20 {
        let told =
            live.reload(&windows("interval = \"1h\"\npage_size = 7\nconfirm_after = \"1m\"")).await;
        assert_eq!(told.unwrap().windows.unchanged, 60);
    }
    tokio::time::sleep(Duration::from_millis(1)).await;
    let after: Vec<_> = live.daemon.fleet.windows().iter().map(|window| window.next_due).collect();
    assert_eq!(before, after);
    assert_eq!(live.simulator.statistics().total.enumerations, 60, "no window is enumerated again");
    live.stop().await;
}

/// Asserts that of the rounds due within `within` seconds, no tenth of that time has more than a
/// quarter.
fn assert_spread(dues: &[i64], within: i64) {
    let mut tenths = [0; 12];
    for due in dues {
        let tenth = usize::try_from(due * 10 / within).unwrap();
        tenths[tenth.min(11)] += 1;
    }
    assert!(tenths.iter().all(|count| *count <= dues.len() / 4), "bunched: {tenths:?}");
}

#[tokio::test(start_paused = true)]
async fn a_running_round_continues_if_only_times_change() {
    let live = Live::start(
        {
            let (simulator, env) = graph(2, &["alice"], 100);
            simulator.set_latency(Duration::from_secs(20)..Duration::from_secs(21));
            (simulator, env)
        },
        &[("alice", "alice", "page_size = 10")],
    )
    .await;
    tokio::time::sleep(MINUTE).await;
    assert_eq!(live.window("alice").state, WindowState::Enumerating);
    let told = live.reload(&[("alice", "alice", "page_size = 50\ninterval = \"20m\"")]).await;
    assert_eq!(told.unwrap().windows.retimed, 1);
    let status = live.settled("alice").await;
    assert_eq!(live.simulator.statistics().total.enumerations, 1);
    assert_eq!(status.last_round.as_ref().unwrap().number, 1, "the first round continues");
    // The round began with the old interval; the next one is scheduled by the new interval.
    let (at, due) = (status.last_round.unwrap().at, status.next_due.unwrap());
    assert!(due.duration_since(at).as_secs() <= 22 * 60, "{at} {due}");
    live.simulator.set_latency(Duration::ZERO..Duration::from_millis(1));
    live.assert_true("alice", "alice").await;
    live.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_window_whose_edges_change_during_a_round_converges() {
    for (seed, wait) in [(3, 5), (4, 25), (5, 70), (6, 200)] {
        let (simulator, env) = graph(seed, &["alice", "bob"], 40);
        let live =
            Live::start((simulator, env), &[("alice", "alice", ""), ("bob", "bob", "")]).await;
        live.settled("alice").await;
        live.settled("bob").await;
        live.simulator.set_latency(Duration::from_secs(10)..Duration::from_secs(40));
        for _ in 0..30 {
            live.simulator.mutate_randomly();
        }
        // Depending on `wait`, a round or its listings are in progress, or the round is over.
        live.daemon.fleet.sync("alice", None).await.unwrap();
        tokio::time::sleep(Duration::from_secs(wait)).await;
        let bob = live.window("bob").resyncs;
        let told = live
            .reload(&[
                ("alice", "alice", "end = \"2027-01-01\"\nbody = \"text\""),
                ("bob", "bob", ""),
            ])
            .await
            .unwrap();
        assert_eq!((told.windows.resynced, told.windows.unchanged), (1, 1));
        assert_eq!(told.changes[0].keys, ["end", "body"]);
        live.simulator.set_latency(Duration::ZERO..Duration::from_millis(1));
        let status = live.settled("alice").await;
        assert_eq!(status.end.to_string(), "2027-01-01T00:00:00Z");
        assert_eq!(status.last_resync.map(|resync| resync.reason), Some(ResyncReason::WindowMoved));
        live.daemon.fleet.sync("alice", Some(HOUR)).await.unwrap();
        assert_eq!(live.window("bob").resyncs, bob);
        live.assert_true("bob", "bob").await;
        live.reload(&[("alice", "alice", ""), ("bob", "bob", "")]).await.unwrap();
        live.settled("alice").await;
        live.assert_true("alice", "alice").await;
        live.stop().await;
    }
}

/// The feed as (window, kind, reason), in order.
async fn feed(live: &Live) -> Vec<(String, ChangeKind, Option<RemovalReason>)> {
    let changes = changes_after(&live.daemon.store, 0, None, 100_000).await;
    assert!(changes.at_end);
    let line =
        |change: &calmirror::store::Change| (change.window.to_string(), change.kind, change.reason);
    changes.value.iter().map(line).collect()
}

#[tokio::test(start_paused = true)]
async fn a_new_mailbox_under_an_old_name_starts_after_the_old_events_are_removed() {
    let live = Live::start(
        graph(7, &["alice", "bob", "carol"], 60),
        &[("w", "alice", ""), ("x", "carol", "")],
    )
    .await;
    let old = live.settled("w").await.events;
    live.settled("x").await;
    let told = live.reload(&[("w", "bob", ""), ("renamed", "carol", "")]).await.unwrap();
    let counts = told.windows;
    assert_eq!((counts.replaced, counts.added, counts.removed, counts.unchanged), (1, 1, 1, 0));
    assert!(live.daemon.fleet.window("x").is_none());
    live.settled("w").await;
    live.settled("renamed").await;
    live.assert_true("w", "bob").await;
    live.assert_true("renamed", "carol").await;
    let feed = feed(&live).await;
    let of_w: Vec<_> = feed.iter().filter(|(window, ..)| window == "w").collect();
    let gone = of_w.iter().take_while(|(_, kind, _)| *kind == ChangeKind::Removed).count() as u64;
    assert_eq!(gone, old, "all old events are removed before new ones are created");
    assert!(of_w.iter().skip(gone as usize).all(|(_, kind, _)| *kind == ChangeKind::Created));
    for (window, kind, reason) in &feed {
        let dropped = *reason == Some(RemovalReason::WindowDropped);
        assert_eq!(*kind == ChangeKind::Removed, dropped, "{window}");
    }
    assert!(feed.iter().any(|(window, kind, _)| window == "x" && *kind == ChangeKind::Removed));
    assert!(!feed.iter().any(|(window, kind, _)| window == "x" && *kind != ChangeKind::Removed));
    live.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_window_configured_again_while_it_is_dropped_is_new() {
    let live =
        Live::start(graph(8, &["alice", "bob"], 300), &[("a", "alice", ""), ("b", "bob", "")])
            .await;
    live.settled("a").await;
    live.settled("b").await;
    for _ in 0..5 {
        live.reload(&[("b", "bob", "")]).await.unwrap();
        assert!(live.daemon.fleet.window("a").is_none());
        live.reload(&[("a", "alice", ""), ("b", "bob", "")]).await.unwrap();
        live.reload(&[("a", "bob", ""), ("b", "bob", "")]).await.unwrap();
        live.reload(&[("a", "alice", ""), ("b", "bob", "")]).await.unwrap();
    }
    live.settled("a").await;
    live.assert_true("a", "alice").await;
    live.assert_true("b", "bob").await;
    tokio::time::sleep(MINUTE).await;
    let known = live.daemon.store.windows().await.unwrap();
    assert_eq!(known.len(), 2, "removed windows are still stored: {known:?}");
    assert_eq!(live.window("b").resyncs, 0);
    live.stop().await;
}

#[tokio::test(start_paused = true)]
async fn many_reloads_end_in_the_last_configuration() {
    let mailboxes = ["a", "b", "c", "d", "e", "f"];
    let live = Live::start(graph(9, &mailboxes, 12), &[("keep", "a", "interval = \"30s\"")]).await;
    live.settled("keep").await;
    live.simulator.set_latency(Duration::from_millis(10)..Duration::from_millis(300));
    let mut dice = fastrand::Rng::with_seed(9);
    let mores = [
        "",
        "interval = \"10s\"",
        "interval = \"2m\"",
        "body = \"text\"",
        "end = \"2027-01-01\"",
        "page_size = 5",
        "immutable_ids = true",
        "complete = \"exact\"",
    ];
    for _ in 0..100 {
        live.simulator.mutate_randomly();
        let mut windows = vec![("keep", "a", "interval = \"30s\"")];
        for name in ["v", "w", "x", "y", "z"] {
            if dice.u8(0..4) > 0 {
                windows.push((
                    name,
                    mailboxes[dice.usize(1..6)],
                    mores[dice.usize(0..mores.len())],
                ));
            }
        }
        live.reload(&windows).await.unwrap();
        tokio::time::sleep(Duration::from_millis(dice.u64(0..3000))).await;
    }
    live.simulator.set_latency(Duration::ZERO..Duration::from_millis(1));
    let last =
        [("keep", "a", "interval = \"30s\""), ("v", "b", ""), ("z", "f", "interval = \"5m\"")];
    live.reload(&last).await.unwrap();
    let names: Vec<String> =
        live.daemon.fleet.windows().into_iter().map(|window| window.name).collect();
    assert_eq!(names, ["keep", "v", "z"]);
    for (name, mailbox, _) in last {
        live.settled(name).await;
        live.assert_true(name, mailbox).await;
    }
    assert_eq!(live.window("z").interval_s, 300.0);
    assert_eq!(live.window("keep").resyncs, 0, "an unchanged window was enumerated again");
    assert_eq!((live.daemon.fleet.restarts(), live.daemon.reloads.counts().applied), (0, 101));
    tokio::time::sleep(MINUTE).await;
    assert_eq!(
        live.daemon.store.windows().await.unwrap().len(),
        3,
        "removed windows are still stored"
    );
    // No worker is left over either: 120 rounds an hour at 30 s, 12 at 5 min and 1 make all
    // requests.
    let requests = live.requests();
    tokio::time::sleep(HOUR).await;
    let asked = live.requests() - requests;
    assert!((113..=153).contains(&asked), "{asked} requests in an hour");
    live.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_reload_changes_nothing() {
    let live = Live::start(graph(10, &["alice"], 5), &[("a", "alice", "")]).await;
    let before = live.settled("a").await;
    let requests = live.requests();
    let refused = live.reload(&[("a", "alice", "interval = \"9m\""), ("a", "bob", "")]).await;
    assert!(matches!(refused, Err(ReloadError::Faults(faults)) if faults.len() == 1));
    // A socket path that is taken; everything else is valid.
    fs::write(live.directory.path().join("taken"), "precious").unwrap();
    let path = live.directory.path().join("calmirror.toml");
    fs::write(&path, text(&[("b", "alice", "")]).replace("api.sock", "taken")).unwrap();
    let failed = live.daemon.reloads.ask(false).await;
    assert!(
        matches!(&failed, Err(ReloadError::Failed(why)) if why.contains("not a socket")),
        "{failed:?}"
    );
    assert_eq!(live.daemon.fleet.windows().len(), 1);
    let after = live.window("a");
    assert_eq!((after.next_due, after.interval_s), (before.next_due, 3600.0));
    assert_eq!(live.requests(), requests);
    let counts = live.daemon.reloads.counts();
    assert_eq!((counts.applied, counts.refused, counts.failed), (0, 1, 1));
    live.stop().await;
}
