//! A disk that becomes full at the moment the daemon writes.

use std::fs;
use std::path::Path;
use std::process::Command;

use calmirror::mirror::window::{Completion, Edges};

use crate::compare::{assert_same, truth};
use crate::process::{DaemonFixture, eventually};
use crate::socket::FeedClient;
use crate::stores::{SmallDisk, fill_up, skip};

/// Builds a shim to preload into daemons. Returns false without a C compiler.
pub(crate) fn shim(source: &str, library: &Path) -> bool {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/faults").join(source);
    let mut compiler = Command::new("cc");
    compiler.args(["-O1", "-shared", "-fPIC", "-o"]).arg(library).arg(source).arg("-ldl");
    compiler.status().is_ok_and(|status| status.success())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_ends_the_daemon_with_a_remedy_and_a_new_start_serves_the_same_events() {
    let fixture = DaemonFixture::new(82, &["alice"]).await;
    let library = fixture.path("write_fault.so");
    if !shim("write_fault.c", &library) {
        return skip("there is no C compiler");
    }
    let Some(small) = SmallDisk::mount(&fixture.path("store"), "size=192m,mode=0700") else {
        return skip("this process may not mount a file system");
    };
    let (full, db) = (fixture.path("full"), fixture.path("store/store/db"));
    let mut daemon = fixture.spawn_in(&[
        ("LD_PRELOAD", library.to_str().unwrap()),
        ("WRITE_FAULT_DIR", db.to_str().unwrap()),
        ("WRITE_FAULT_WHILE", full.to_str().unwrap()),
    ]);
    eventually("the window settles", async || {
        let window = fixture.api.try_get("/v1/windows/alice").await?.json();
        (window["state"] == "settled").then_some(())
    })
    .await;
    let mut held = FeedClient::default();
    held.catch_up(&fixture.api).await;
    fs::write(&full, "").unwrap();
    let ended = eventually("the daemon meets the full disk", async || {
        fixture.simulator.mutate_randomly();
        daemon.exit_status()
    })
    .await;
    assert_eq!(ended.code(), Some(74), "{}", daemon.log());
    let log = daemon.log();
    let last: serde_json::Value = serde_json::from_str(log.lines().next_back().unwrap()).unwrap();
    assert!(last["message"].as_str().unwrap().contains("disk is full"), "{last}");
    assert!(last["remedy"].as_str().unwrap().starts_with("free some space"), "{last}");

    // As before the failure, readers keep everything shown to them; there is still no space.
    let other = fill_up(&fixture.path("store"));
    let daemon = fixture.run().await;
    assert_eq!(fixture.api.events("alice").await, held.of("alice"));
    let lines = held.lines;
    held.catch_up(&fixture.api).await;
    assert_eq!(held.lines, lines, "the feed has changes that were never written");
    fixture.until_store_full("alice").await;

    fs::remove_file(&other).unwrap();
    let status = fixture.settle("alice").await;
    assert_eq!(status.resyncs, 0);
    held.catch_up(&fixture.api).await;
    let edges = Edges { start: status.start, end: status.end };
    let real =
        truth(&fixture.simulator, "alice@contoso.com", None, edges, Completion::Master).await;
    assert_same("after the disk was full", &fixture.api.events("alice").await, &real);
    assert_eq!(fixture.api.events("alice").await, held.of("alice"));
    daemon.stop().await;
    drop(small);
}
