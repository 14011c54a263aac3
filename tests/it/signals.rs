//! How the real process reacts to stop and reload signals, and what it reports to the service
//! manager meanwhile.

use std::fs;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::{UnixDatagram, UnixStream};

use crate::process::{DaemonFixture, DaemonProcess, PATIENCE, eventually};
use crate::socket::FeedClient;
use crate::stores::skip;

/// Far longer than a daemon without pending requests needs, far shorter than its deadline.
const QUICK: Duration = Duration::from_secs(10);

async fn ends_quickly(daemon: &mut DaemonProcess) -> Option<i32> {
    let ended = tokio::time::timeout(QUICK, daemon.ended()).await;
    ended.expect("the daemon ends quickly").code()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_and_sigint_shut_down_cleanly_with_an_intact_store() {
    let fixture = DaemonFixture::new(51, &["alice"]).await;
    let mut held = FeedClient::default();
    for signal in ["TERM", "INT"] {
        let mut daemon = fixture.run().await;
        fixture.settle("alice").await;
        held.catch_up(&fixture.api).await;
        // A waiting long-poll reader is released and does not delay the end.
        let api = fixture.api.clone();
        let waiting =
            tokio::spawn(async move { api.try_get("/v1/changes?after=now&wait=60s").await });
        daemon.signal(signal);
        assert_eq!(ends_quickly(&mut daemon).await, Some(0), "{signal}");
        waiting.await.unwrap();
        assert!(!fixture.path("api.sock").exists(), "the daemon left its socket behind");
        assert_eq!(daemon.warnings_logged(), Vec::<String>::new());
    }
    let enumerations = fixture.simulator.statistics().total.enumerations;
    let daemon = fixture.run().await;
    let status = fixture.settle("alice").await;
    assert_eq!(fixture.simulator.statistics().total.enumerations, enumerations);
    assert_eq!((status.resyncs, status.settled_once), (0, true));
    assert_eq!(held.of("alice"), fixture.api.events("alice").await);
    let lines = held.lines;
    held.catch_up(&fixture.api).await;
    assert_eq!(held.lines, lines, "the feed has new lines although nothing changed");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_during_a_request_is_fast() {
    let fixture = DaemonFixture::new(52, &["alice", "bob"]).await;
    // Bob's next round is an hour away; stopping does not wait for it.
    let text = fs::read_to_string(&fixture.config).unwrap();
    fixture.configure(&text.replace("interval = \"1s\"", "interval = \"1h\""));
    let mut daemon = fixture.run().await;
    for name in ["alice", "bob"] {
        fixture.settle(name).await;
    }
    fixture.simulator.set_latency(Duration::from_secs(50)..Duration::from_secs(51));
    let requests = fixture.simulator.statistics().total.requests;
    fixture.api.post("/v1/windows/alice/sync").await;
    eventually("a request is under way", async || {
        (fixture.simulator.statistics().total.requests > requests).then_some(())
    })
    .await;
    daemon.signal("TERM");
    assert_eq!(ends_quickly(&mut daemon).await, Some(0));
}

/// Requests everything and reads nothing, so that the response cannot finish.
async fn stalled_reader(fixture: &DaemonFixture) -> UnixStream {
    let mut stream = UnixStream::connect(&fixture.api.0).await.unwrap();
    stream.write_all(b"GET /v1/changes HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    stream.readable().await.unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_stop_signal_exits_at_once_with_an_intact_store() {
    let fixture = DaemonFixture::new(53, &["alice", "bob", "carol"]).await;
    let mut daemon = fixture.run().await;
    for name in ["alice", "bob", "carol"] {
        fixture.settle(name).await;
    }
    let mut held = FeedClient::default();
    held.catch_up(&fixture.api).await;
    let reader = stalled_reader(&fixture).await;
    daemon.signal("TERM");
    eventually("a stop begins", async || daemon.log().contains("\"stopping\"").then_some(())).await;
    assert!(daemon.exit_status().is_none(), "the daemon did not wait for the reader");
    daemon.signal("INT");
    assert_eq!(ends_quickly(&mut daemon).await, Some(1));
    assert!(daemon.log().contains("stopped at once"));
    drop(reader);
    // Two signals at the same moment, while rounds are in progress.
    fixture.simulator.set_latency(Duration::from_millis(5)..Duration::from_millis(20));
    let mut daemon = fixture.run().await;
    daemon.signal("TERM");
    daemon.signal("INT");
    assert!(matches!(ends_quickly(&mut daemon).await, Some(0 | 1)));

    let daemon = fixture.run().await;
    for name in ["alice", "bob", "carol"] {
        assert_eq!(fixture.settle(name).await.resyncs, 0, "{name}");
        assert_eq!(fixture.api.events(name).await, held.of(name));
    }
    assert_eq!(fixture.simulator.statistics().total.enumerations, 3);
    assert!(!daemon.log().contains("damaged"), "{}", daemon.log());
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_never_reads_does_not_prevent_shutdown() {
    let fixture = DaemonFixture::new(56, &["alice", "bob", "carol"]).await;
    let mut daemon = fixture.run().await;
    for name in ["alice", "bob", "carol"] {
        fixture.settle(name).await;
    }
    let reader = stalled_reader(&fixture).await;
    daemon.signal("TERM");
    // Requests in progress get five seconds.
    let ended = tokio::time::timeout(2 * QUICK, daemon.ended()).await;
    assert_eq!(ended.expect("the daemon waits for the reader").code(), Some(0));
    drop(reader);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_does_not_wait_for_a_slow_store_opening() {
    let fixture = DaemonFixture::new(58, &["alice"]).await;
    let library = fixture.path("lock_fault.so");
    if !crate::full::shim("lock_fault.c", &library) {
        return skip("there is no C compiler");
    }
    // The lock of the tree is never had, so the opening does not end.
    let db = fixture.path("store/store/db");
    let (library, db) = (library.to_str().unwrap(), db.to_str().unwrap());
    for signal in ["TERM", "INT"] {
        let mut daemon = fixture.spawn_in(&[("LD_PRELOAD", library), ("LOCK_STUCK", db)]);
        let started = |log: String| log.matches("\"starting\"").count();
        let before = started(daemon.log());
        eventually("it starts", async || (started(daemon.log()) > before).then_some(())).await;
        daemon.signal(signal);
        assert_eq!(ends_quickly(&mut daemon).await, Some(0), "{signal}");
        assert!(daemon.log().contains("stopped before serving"));
        assert_eq!(daemon.warnings_logged(), Vec::<String>::new());
    }
    let daemon = fixture.run().await;
    fixture.settle("alice").await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn demo_and_simulate_end_with_their_terminal() {
    let fixture = DaemonFixture::new(59, &[]).await;
    let mut codes = Vec::new();
    for name in ["demo", "simulate"] {
        let log = fixture.path(name);
        let out = fs::File::create(&log).unwrap();
        let mut command = fixture.command();
        command.args([name, "--listen", "127.0.0.1:0"]).stdout(out.try_clone().unwrap());
        let mut child = command.stderr(out).spawn().unwrap();
        // The last output before the command only runs its loop.
        let last = if name == "demo" { "changes from here on" } else { "interval = " };
        let said = || fs::read_to_string(&log).unwrap();
        eventually("the command runs", async || said().contains(last).then_some(())).await;
        let id = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(id, rustix::process::Signal::HUP).unwrap();
        let ended = eventually("the command ends", async || child.try_wait().unwrap());
        let ended = tokio::time::timeout(QUICK, ended).await;
        child.kill().ok();
        codes.push((name, ended.ok().and_then(|code| code.code())));
    }
    assert_eq!(codes, [("demo", Some(0)), ("simulate", Some(0))]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sighup_does_not_end_the_daemon() {
    let fixture = DaemonFixture::new(54, &["alice"]).await;
    let mut daemon = fixture.run().await;
    let before = fixture.settle("alice").await.last_round.unwrap().number;
    for _ in 0..5 {
        daemon.signal("HUP");
    }
    eventually("rounds continue", async || {
        assert!(daemon.exit_status().is_none(), "the daemon ended");
        let now = fixture.api.window("alice").await.last_round.unwrap().number;
        (now > before + 1).then_some(())
    })
    .await;
    daemon.stop().await;
}

/// The daemon's next message to its service manager.
async fn next_message(manager: &UnixDatagram) -> String {
    let mut buffer = [0; 2048];
    let received = tokio::time::timeout(PATIENCE, manager.recv(&mut buffer)).await;
    let length = received.expect("the manager receives a message").unwrap();
    String::from_utf8(buffer[..length].to_vec()).unwrap()
}

/// The next message other than a watchdog ping.
async fn next_status_message(manager: &UnixDatagram) -> String {
    loop {
        let message = next_message(manager).await;
        if !message.ends_with("\nWATCHDOG=1\n") {
            return message;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_manager_is_notified_of_every_state() {
    let fixture = DaemonFixture::new(57, &["alice"]).await;
    let socket = fixture.path("notify");
    let manager = UnixDatagram::bind(&socket).unwrap();
    let mut daemon = fixture
        .spawn_in(&[("NOTIFY_SOCKET", socket.to_str().unwrap()), ("WATCHDOG_USEC", "400000")]);
    assert_eq!(
        next_message(&manager).await,
        "EXTEND_TIMEOUT_USEC=30000000\nSTATUS=opening the store\n",
        "before the store is open"
    );
    assert_eq!(next_message(&manager).await, "READY=1\nSTATUS=1 window: 1 enumerating\n");
    let ready = fixture.api.try_get("/readyz").await.expect("the API answers");
    assert!(ready.status.is_success());
    for _ in 0..3 {
        let alive = next_message(&manager).await;
        assert!(
            alive.starts_with("STATUS=1 window: 1 ") && alive.ends_with("\nWATCHDOG=1\n"),
            "{alive:?}"
        );
    }

    let mut last = 0;
    let good = fs::read_to_string(&fixture.config).unwrap();
    for (text, outcome) in [(&good, "1 window: 1 "), (&"]".to_owned(), "reload refused at ")] {
        fixture.configure(text);
        daemon.signal("HUP");
        let begins = next_status_message(&manager).await;
        let at: u64 = begins
            .strip_prefix("RELOADING=1\nMONOTONIC_USEC=")
            .and_then(|rest| rest.trim_end().parse().ok())
            .unwrap_or_else(|| panic!("{begins:?}"));
        assert!(at > last, "{at} is not the time of this reload");
        last = at;
        let over = next_status_message(&manager).await;
        assert!(over.starts_with(&format!("READY=1\nSTATUS={outcome}")), "{over:?}");
    }
    // The reason of the refusal stays in the status.
    assert!(next_message(&manager).await.starts_with("STATUS=reload refused at "));
    daemon.signal("TERM");
    assert_eq!(next_status_message(&manager).await, "STOPPING=1\nSTATUS=stopping\n");
    assert_eq!(daemon.ended().await.code(), Some(0));
}
