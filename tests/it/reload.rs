//! A running daemon applies a changed configuration: only changed windows are affected, and a
//! faulty configuration changes nothing.

mod listeners;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::time::Duration;

use calmirror::mirror::status::{ResyncReason, WindowState};
use calmirror::simulator::Application;
use http::StatusCode;
use serde_json::{Value, json};

use crate::process::{DaemonFixture, eventually};
use crate::socket::FeedClient;
use crate::stores::{SmallDisk, skip};

/// A configuration with long intervals, so that only explicitly started rounds make requests.
fn text(fixture: &DaemonFixture, windows: &[(&str, &str)]) -> String {
    let mut text = fixture.preamble().replace("interval = \"1s\"", "interval = \"1h\"");
    for (name, more) in windows {
        text.push_str(&format!(
            "[[window]]\nname = \"{name}\"\naccount = \"contoso\"\nmailbox = \"{name}@contoso.com\"\n{more}\n"
        ));
    }
    text
}

/// The number of requests for a window's mailbox.
fn requests(fixture: &DaemonFixture, name: &str) -> u64 {
    let statistics = fixture.simulator.statistics();
    statistics.mailboxes.get(&format!("{name}@contoso.com")).map_or(0, |tally| tally.requests)
}

async fn last(fixture: &DaemonFixture) -> Value {
    fixture.api.get("/v1/status").await.json()["last_reload"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_affects_only_changed_windows() {
    let fixture = DaemonFixture::new(91, &["same", "gone", "timed", "moved", "other"]).await;
    fixture.populate("new");
    fixture.configure(&text(
        &fixture,
        &[("same", ""), ("gone", ""), ("timed", ""), ("moved", ""), ("other", "")],
    ));
    let daemon = fixture.run().await;
    for name in ["same", "gone", "timed", "moved", "other"] {
        fixture.settle(name).await;
    }
    let mut held = FeedClient::default();
    held.catch_up(&fixture.api).await;
    let before: Vec<u64> = ["same", "timed"].map(|name| requests(&fixture, name)).into();
    let timed = fixture.api.window("timed").await;
    assert_eq!(last(&fixture).await, Value::Null);

    fixture.configure(&text(
        &fixture,
        &[
            ("same", ""),
            ("timed", "interval = \"2h\"\njitter = 0.1\npage_size = 20"),
            ("moved", "end = \"2027-01-01\""),
            ("other", "immutable_ids = true"),
            ("new", ""),
        ],
    ));
    let told = fixture.cli(&["reload"]).await;
    assert_eq!(told.code, Some(0), "{told:?}");
    for line in [
        "  + new\n",
        "  - gone\n",
        "  ~ moved (end): is enumerated again\n",
        "  ~ other (immutable_ids): another calendar, all its events are replaced\n",
        "  ~ timed (interval, jitter, page_size)\n",
        "windows: 1 added, 1 removed, 1 replaced, 1 resynced, 1 retimed, 1 unchanged\n",
    ] {
        assert!(told.out.contains(line), "{line:?} in {}", told.out);
    }
    for name in ["new", "moved", "other"] {
        eventually("the window settles by itself", async || {
            (fixture.api.window(name).await.state == WindowState::Settled).then_some(())
        })
        .await;
    }
    eventually("the removed window is gone", async || {
        held.catch_up(&fixture.api).await;
        held.of("gone").is_empty().then_some(())
    })
    .await;
    for name in ["new", "moved", "other", "same", "timed"] {
        assert_eq!(held.of(name), fixture.api.events(name).await, "{name}");
        assert!(!held.of(name).is_empty(), "{name}");
    }
    assert_eq!(fixture.api.get("/v1/windows/gone").await.status, StatusCode::NOT_FOUND);
    let moved = fixture.api.window("moved").await;
    assert_eq!(moved.last_resync.map(|resync| resync.reason), Some(ResyncReason::WindowMoved));
    assert_eq!(moved.end.to_string(), "2027-01-01T00:00:00Z");

    let after: Vec<u64> = ["same", "timed"].map(|name| requests(&fixture, name)).into();
    assert_eq!(before, after, "unaffected windows made requests");
    let now = fixture.api.window("timed").await;
    assert_eq!((now.interval_s, now.resyncs), (7200.0, 0));
    let left = |due: Option<jiff::Timestamp>| {
        due.unwrap().duration_since(jiff::Timestamp::now()).as_secs_f64()
    };
    // The time left doubled, give or take the time this test has taken since.
    let ratio = left(now.next_due) / left(timed.next_due);
    assert!((1.9..2.1).contains(&ratio), "{ratio}");

    let status = last(&fixture).await;
    assert_eq!(status["outcome"], "applied");
    assert_eq!(daemon.warnings_logged(), Vec::<String>::new());
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_faulty_configuration_changes_nothing_and_is_reported_everywhere() {
    let fixture = DaemonFixture::new(92, &["alice"]).await;
    let good = text(&fixture, &[("alice", "")]);
    fixture.configure(&good);
    let daemon = fixture.run().await;
    fixture.settle("alice").await;
    let asked = requests(&fixture, "alice");

    fixture.configure(&(good.clone() + "intervall = \"1m\"\n[[window]]\nname = \"bob\"\n"));
    daemon.signal("HUP");
    let status = eventually("the status has the outcome", async || {
        Some(last(&fixture).await).filter(|last| !last.is_null())
    })
    .await;
    assert_eq!(status["outcome"], "refused");
    assert!(status["faults"][0]["key"].as_str().unwrap().contains("intervall"), "{status}");
    let log = daemon.log();
    assert!(log.contains("did you mean `interval`?") && log.contains("not reloaded"), "{log}");

    let told = fixture.cli(&["reload"]).await;
    assert_eq!(told.code, Some(78), "{told:?}");
    for part in ["calmirror.toml:", "intervall", "window[bob].mailbox"] {
        assert!(told.err.contains(part), "{part} in {}", told.err);
    }
    let answer = fixture.api.post("/v1/reload").await;
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
    let problem: Value = serde_json::from_slice(&answer.body).unwrap();
    assert!(problem["type"].as_str().unwrap().ends_with("/configuration-faults"), "{problem}");
    let faults = problem["faults"].as_array().unwrap();
    assert_eq!(faults.len(), 3, "{problem}");
    for fault in faults {
        assert!(fault["file"].as_str().unwrap().ends_with("calmirror.toml"), "{fault}");
        assert!(fault["line"].is_u64() && !fault["remedy"].as_str().unwrap().is_empty());
    }
    let health = fixture.cli(&["health"]).await;
    assert_eq!(health.code, Some(0), "the daemon keeps running");
    let shown = fixture.cli(&["status"]).await;
    let said = shown.out.lines().find(|line| line.contains("changed nothing")).unwrap();
    let first = problem["faults"][0]["line"].as_u64().unwrap();
    let first = format!("{}:{first}: window[alice].intervall: ", fixture.config.display());
    let told = format!("changed nothing: 3 faults in the configuration, the first: {first}");
    assert!(said.contains(&told), "{said}");
    assert_eq!(requests(&fixture, "alice"), asked);

    // The fault names the setting that cannot change.
    fixture.configure(&good.replace("format = \"json\"", "format = \"text\""));
    let told = fixture.cli(&["reload"]).await;
    assert_eq!(told.code, Some(78), "{told:?}");
    assert!(told.err.contains("log.format: cannot change while the daemon runs"), "{}", told.err);

    fixture.configure(&good);
    assert_eq!(fixture.cli(&["reload"]).await.code, Some(0));
    assert_eq!(last(&fixture).await["outcome"], "applied");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_truncated_file_does_not_wipe_a_fleet() {
    let fixture = DaemonFixture::new(93, &["kept"]).await;
    let names: Vec<String> = (0..24).map(|n| format!("room{n}")).collect();
    for name in &names {
        fixture.simulator.add_mailbox(&format!("{name}@contoso.com"));
    }
    let all: Vec<(&str, &str)> =
        names.iter().map(|name| (name.as_str(), "")).chain([("kept", "")]).collect();
    fixture.configure(&text(&fixture, &all));
    let daemon = fixture.run().await;
    let few = text(&fixture, &[("kept", "")]);
    fixture.configure(&few);
    let told = fixture.cli(&["reload"]).await;
    assert_eq!(told.code, Some(78), "{told:?}");
    assert!(told.err.contains("24 of 25") && told.err.contains("--accept-drops"), "{}", told.err);
    // Replacing windows under their old names counts as dropping them too.
    let others: Vec<(&str, &str)> =
        all.iter().map(|(name, _)| (*name, "immutable_ids = true")).collect();
    fixture.configure(&text(&fixture, &others));
    let answer = fixture.api.post("/v1/reload").await;
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
    daemon.stop().await;

    let refused = fixture.cli(&["run"]).await;
    assert_eq!(refused.code, Some(78), "{refused:?}");
    assert!(refused.err.contains("25 of 25"), "{}", refused.err);

    fixture.configure(&text(&fixture, &all));
    let daemon = fixture.run().await;
    fixture.configure(&few);
    let told = fixture.cli(&["reload", "--accept-drops", "--json"]).await;
    assert_eq!(told.code, Some(0), "{told:?}");
    let told: Value = serde_json::from_str(&told.out).unwrap();
    assert_eq!(told["windows"]["removed"], 24);
    assert_eq!(fixture.api.get("/v1/status").await.json()["windows"]["total"], 1);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_sign_in_is_retried_with_the_rotated_secret() {
    let fixture = DaemonFixture::new(95, &["alice", "more"]).await;
    let good = text(&fixture, &[("alice", "")]);
    fixture.configure(&good);
    let application = |secret: &str| Application {
        tenant: "00000000-0000-0000-0000-000000000000".to_owned(),
        client_id: "11111111-1111-1111-1111-111111111111".to_owned(),
        client_secret: Some(secret.to_owned()),
        ..Application::default()
    };
    fixture.simulator.set_applications(vec![application("rotated")]);
    let daemon = fixture.run().await;
    eventually("the window needs a sign-in", async || {
        (fixture.api.window("alice").await.state == WindowState::SignInRequired).then_some(())
    })
    .await;
    fs::write(fixture.path("secret"), "rotated").unwrap();
    assert_eq!(fixture.cli(&["reload"]).await.code, Some(0));
    eventually("the account signs in by itself", async || {
        (fixture.api.window("alice").await.state == WindowState::Settled).then_some(())
    })
    .await;

    // A secret in another file: windows are not affected, and the next token request uses it.
    let asked = requests(&fixture, "alice");
    fs::write(fixture.path("next"), "next").unwrap();
    fs::set_permissions(fixture.path("next"), fs::Permissions::from_mode(0o600)).unwrap();
    fixture.configure(&good.replace("file = \"secret\"", "file = \"next\""));
    fixture.simulator.set_applications(vec![application("next")]);
    fixture.simulator.expire_tokens();
    let told = fixture.api.post("/v1/reload").await.json();
    assert_eq!(
        (&told["accounts"], &told["windows"]["unchanged"]),
        (&json!(["contoso"]), &json!(1))
    );
    assert_eq!(requests(&fixture, "alice"), asked);
    let round = fixture.api.post("/v1/windows/alice/sync?wait=30s").await.json();
    assert_eq!((&round["state"], &round["last_error"]), (&json!("settled"), &Value::Null));

    // A refusal that is fixed elsewhere, for example by a consent: no file has changed.
    fixture.simulator.set_applications(vec![application("another")]);
    fixture.simulator.expire_tokens();
    let round = fixture.api.post("/v1/windows/alice/sync?wait=30s").await.json();
    assert_eq!(round["state"], "sign_in_required");
    fixture.simulator.set_applications(vec![application("next")]);
    let round = fixture.api.post("/v1/windows/alice/sync?wait=30s").await.json();
    assert_eq!(round["state"], "sign_in_required", "the refusal is remembered");
    // With a change of the fleet, or without.
    for names in [&["alice"][..], &["alice", "more"]] {
        let windows: Vec<(&str, &str)> = names.iter().map(|name| (*name, "")).collect();
        fixture
            .configure(&text(&fixture, &windows).replace("file = \"secret\"", "file = \"next\""));
        assert_eq!(fixture.cli(&["reload"]).await.code, Some(0));
        for name in names {
            eventually("the account signs in by itself", async || {
                (fixture.api.window(name).await.state == WindowState::Settled).then_some(())
            })
            .await;
        }
        fixture.simulator.set_applications(vec![application("another")]);
        fixture.simulator.expire_tokens();
        let round = fixture.api.post("/v1/windows/alice/sync?wait=30s").await.json();
        assert_eq!(round["state"], "sign_in_required");
        fixture.simulator.set_applications(vec![application("next")]);
    }
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drop_interrupted_by_a_kill_is_completed() {
    let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let fixture = DaemonFixture::new(97, &names).await;
    let all: Vec<(&str, &str)> = names.iter().map(|name| (*name, "")).collect();
    let (mut held, mut log) = (FeedClient::default(), String::new());
    for lived in [0, 2, 5, 10, 20, 40] {
        fixture.configure(&text(&fixture, &all));
        let daemon = fixture.run().await;
        for name in names {
            fixture.settle(name).await;
        }
        held.catch_up(&fixture.api).await;
        let events = held.held.len();
        fixture.configure(&text(&fixture, &all[..1]));
        let told = fixture.cli(&["reload"]).await;
        assert_eq!(told.code, Some(0), "{told:?}");
        tokio::time::sleep(Duration::from_millis(lived)).await;
        daemon.kill().await;

        let daemon = fixture.run().await;
        let lines = held.lines;
        eventually("the removed windows are dropped", async || {
            held.catch_up(&fixture.api).await;
            (held.held.len() == held.of("a").len()).then_some(())
        })
        .await;
        assert_eq!(held.lines - lines, events - held.held.len(), "each event is removed once");
        assert_eq!(held.of("a"), fixture.api.events("a").await);
        assert_eq!(fixture.api.get("/v1/status").await.json()["windows"]["total"], 1);
        log = daemon.log();
        daemon.stop().await;
    }
    let begun = log.matches("dropping their events").count();
    assert!(begun > 6, "no kill came before the end of the drop");
}

/// The name and number of a group other than the files' current one that this process may assign.
fn another_group() -> Option<(String, u32)> {
    let own = rustix::process::getegid().as_raw();
    let root = rustix::process::geteuid().is_root();
    let mine: Vec<u32> = rustix::process::getgroups().ok()?.iter().map(|g| g.as_raw()).collect();
    let groups = fs::read_to_string("/etc/group").ok()?;
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, number) = (fields.next()?, fields.nth(1)?.parse().ok()?);
        (number != own && (root || mine.contains(&number))).then(|| (name.to_owned(), number))
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_refused_by_a_full_disk_changes_nothing() {
    let fixture = DaemonFixture::new(99, &["kept", "gone", "moved", "new"]).await;
    let Some(small) = SmallDisk::mount(&fixture.path("store"), "size=192m,mode=0700") else {
        return skip("this process may not mount a file system");
    };
    let good = text(&fixture, &[("kept", ""), ("gone", ""), ("moved", "")]);
    fixture.configure(&good);
    let daemon = fixture.run().await;
    for name in ["kept", "gone", "moved"] {
        fixture.settle(name).await;
    }
    let ballast = small.fill();
    fixture.until_store_full("kept").await;
    let mut held = FeedClient::default();
    held.catch_up(&fixture.api).await;
    let before: Vec<u64> = ["gone", "moved", "new"].map(|name| requests(&fixture, name)).into();
    let due = fixture.api.window("gone").await.next_due;

    // This reload makes every kind of change; the first steps are rolled back.
    let group = another_group();
    let own = fs::metadata(fixture.path("api.sock")).unwrap().gid();
    let port = {
        let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        free.local_addr().unwrap()
    };
    fs::write(fixture.path("token"), "t0ken").unwrap();
    fs::set_permissions(fixture.path("token"), fs::Permissions::from_mode(0o600)).unwrap();
    let mut api = format!("[api]\nlisten = \"{port}\"\ntoken_file = \"token\"\n");
    if let Some((name, _)) = &group {
        api.push_str(&format!("socket_group = \"{name}\"\n"));
    }
    let wanted = text(
        &fixture,
        &[("kept", "interval = \"9m\""), ("moved", "end = \"2027-01-01\""), ("new", "")],
    )
    .replace("[api]\n", &api);
    fixture.configure(&wanted);
    let answer = fixture.api.post("/v1/reload").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{:?}", answer.body);
    assert!(String::from_utf8_lossy(&answer.body).contains("disk"), "{:?}", answer.body);
    let socket = fixture.path("api.sock").display().to_string();
    let told = fixture.cli(&["--api", &socket, "reload"]).await;
    assert_eq!(told.code, Some(1), "{told:?}");
    assert_eq!(last(&fixture).await["outcome"], "failed");
    assert!(daemon.log().contains("configuration not reloaded, the old one stays in force"));

    let now: Vec<u64> = ["gone", "moved", "new"].map(|name| requests(&fixture, name)).into();
    assert_eq!(now, before, "a window made requests");
    assert_eq!(fixture.api.get("/v1/status").await.json()["windows"]["total"], 3);
    assert_eq!(fixture.api.get("/v1/windows/new").await.status, StatusCode::NOT_FOUND);
    assert_eq!(fixture.api.window("kept").await.interval_s, 3600.0);
    assert_eq!(fixture.api.window("moved").await.end.to_string(), "2027-02-01T00:00:00Z");
    for name in ["gone", "moved"] {
        assert_eq!(fixture.api.events(name).await, held.of(name), "{name}");
    }
    assert!(fixture.api.window("gone").await.next_due.is_some() && due.is_some());
    assert!(tokio::net::TcpStream::connect(port).await.is_err(), "the new listener is open");
    assert_eq!(fs::metadata(fixture.path("api.sock")).unwrap().gid(), own);
    let lines = held.lines;
    held.catch_up(&fixture.api).await;
    assert_eq!(held.lines, lines, "the feed has new lines");

    // The workers stopped for the reload continue: with space again everything works as before.
    fs::remove_file(&ballast).unwrap();
    for name in ["kept", "gone", "moved"] {
        assert_eq!(fixture.settle(name).await.resyncs, 0, "{name}");
    }
    let told = fixture.api.post("/v1/reload").await.json();
    assert_eq!(
        told["windows"],
        json!({"added": 1, "removed": 1, "replaced": 0, "resynced": 1, "retimed": 1, "unchanged": 0})
    );
    eventually("the new configuration is in force", async || {
        held.catch_up(&fixture.api).await;
        let settled = fixture.api.window("new").await.state == WindowState::Settled;
        (settled && held.of("gone").is_empty()).then_some(())
    })
    .await;
    daemon.stop().await;
}
