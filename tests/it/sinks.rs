//! Sinks with the real binary: what they hold equals the mirror, whatever is killed.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;

use crate::copies::{EventsByWindow, FoldedLines, copied, mirrored, secret_file, without_versions};
use crate::process::{DaemonFixture, DaemonProcess, eventually};

const WINDOWS: [&str; 2] = ["alice", "bob"];

/// A receiver that folds what it gets, and refuses every third request.
#[derive(Default)]
struct Receiver {
    lines: FoldedLines,
    requests: u64,
}

type SharedReceiver = Arc<Mutex<Receiver>>;

async fn receive(
    State(receiver): State<SharedReceiver>,
    headers: HeaderMap,
    body: Bytes,
) -> StatusCode {
    let mut receiver = receiver.lock().unwrap();
    receiver.requests += 1;
    if receiver.requests.is_multiple_of(3) {
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    assert!(headers["webhook-signature"].to_str().unwrap().starts_with("v1,"));
    receiver.lines.apply(&body);
    StatusCode::OK
}

/// Serves a receiver; returns its address.
async fn serve(receiver: &SharedReceiver) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().route("/hook/canary", post(receive)).with_state(receiver.clone());
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}/hook/canary")
}

/// Changes events while the daemon runs.
fn edit(fixture: &DaemonFixture, count: usize) {
    for _ in 0..count {
        fixture.simulator.mutate_randomly();
    }
}

async fn wait_for_copies(fixture: &DaemonFixture, receiver: &SharedReceiver) {
    let path = fixture.path("copy.sqlite");
    eventually("the copies equal the mirror", async || {
        let truth = mirrored(fixture, &WINDOWS).await;
        let copy = copied(&path)?;
        let received = receiver.lock().unwrap().lines.events();
        let stable: EventsByWindow =
            truth.iter().map(|(key, event)| (key.clone(), without_versions(event))).collect();
        (copy == truth && received == stable).then_some(())
    })
    .await;
}

async fn settled(fixture: &DaemonFixture) -> DaemonProcess {
    let daemon = fixture.run().await;
    for window in WINDOWS {
        fixture.settle(window).await;
    }
    daemon
}

#[tokio::test]
async fn copies_equal_the_mirror_after_kills_edits_and_another_filter() {
    let fixture = DaemonFixture::new(1601, &WINDOWS).await;
    let receiver = SharedReceiver::default();
    let url = serve(&receiver).await;
    let secret = secret_file(&fixture);
    let text = std::fs::read_to_string(&fixture.config).unwrap();
    let sinks = format!(
        "[sink.copy]\ntype = \"sqlite\"\npath = {:?}\nbatch = \"0s\"\n[sink.hook]\ntype = \"webhook\"\nurl = {url:?}\n{secret}\nallow_private = true\nbatch = \"0s\"\n",
        fixture.path("copy.sqlite")
    );
    let with = |more: &str| format!("{text}\n{sinks}{more}");
    fixture.configure(&with(""));
    let mut daemon = settled(&fixture).await;
    for _ in 0..4 {
        edit(&fixture, 20);
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        daemon.kill().await;
        edit(&fixture, 20);
        daemon = settled(&fixture).await;
    }
    wait_for_copies(&fixture, &receiver).await;
    assert_eq!(receiver.lock().unwrap().lines.snapshots, 1, "a restart continues");

    let listed = fixture.cli(&["sink", "list"]).await;
    assert!(listed.out.contains("copy: running, everything sent (sqlite"), "{}", listed.out);
    assert!(!listed.out.contains("canary"), "{}", listed.out);
    for (arguments, code, said) in [
        (&["sink", "test", "hook"][..], 0, "hook: the test was delivered to http://127.0.0.1:"),
        (&["sink", "pause", "hook"], 0, "hook: paused"),
        (&["sink", "resume", "hook"], 0, "hook: sends again"),
        (&["sink", "replay", "hook", "--from", "-1d"], 0, "hook: sends again from there"),
        (&["sink", "replay", "hook", "--from", "soon"], 64, ""),
        (&["sink", "test", "nobody"], 1, ""),
    ] {
        let done = fixture.cli(arguments).await;
        // The receiver refuses every third request, and so perhaps the test.
        if arguments[1] != "test" || done.code == Some(code) {
            assert_eq!(done.code, Some(code), "{arguments:?}: {} {}", done.out, done.err);
            assert!(done.out.contains(said), "{arguments:?}: {}", done.out);
        }
    }

    // Another filter is another copy.
    let filtered = sinks.replace(
        "batch = \"0s\"\n[sink.hook]",
        "batch = \"0s\"\nfilter = \"showAs=!busy\"\n[sink.hook]",
    );
    fixture.configure(&format!("{text}\n{filtered}"));
    assert_eq!(fixture.cli(&["reload"]).await.code, Some(0));
    let path = fixture.path("copy.sqlite");
    eventually("the copy has the events of the filter only", async || {
        let mut wanted = mirrored(&fixture, &WINDOWS).await;
        wanted.retain(|_, event| event["showAs"] != "busy");
        (copied(&path)? == wanted).then_some(())
    })
    .await;
    assert!(!daemon.log().contains("canary"), "an address is a secret");
    daemon.stop().await;
}
