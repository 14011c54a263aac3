//! `export` and `import` with the real binary: a store moves to another directory, and nothing
//! half-written is left of what fails.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Stdio;

use calmirror::mirror::window::{Completion, Edges};

use crate::compare::{assert_same, truth};
use crate::process::{CommandOutput, DaemonFixture, DaemonProcess, eventually};
use crate::socket::FeedClient;
use crate::stores::{SmallDisk, skip};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Asserts exit code and message of a failed command.
fn assert_failed(outcome: &CommandOutput, code: i32, message: &str) {
    assert_eq!(outcome.code, Some(code), "{outcome:?}");
    assert!(outcome.err.contains(message), "no {message:?} in {}", outcome.err);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_moves_and_its_readers_and_rounds_go_on() {
    let fixture = DaemonFixture::new(91, &["alice", "bob"]).await;
    let daemon = fixture.run().await;
    fixture.settle("alice").await;
    fixture.settle("bob").await;
    fixture.simulator.mutate_randomly();
    fixture.settle("alice").await;
    let mut follower = FeedClient::default();
    follower.catch_up(&fixture.api).await;
    let events = follower.held.len();

    let file = fixture.path("calmirror.export");
    let done = fixture.cli(&["export", text(&file)]).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(done.out.contains(&format!("windows: 2, events: {events}, size: ")), "{done:?}");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let whole = fs::read(&file).unwrap();
    let secrets = ["s3cret".as_bytes(), b"access_token"];
    assert!(!secrets.iter().any(|secret| whole.windows(secret.len()).any(|part| part == *secret)));
    let again = fixture.cli(&["export", text(&file)]).await;
    assert_failed(&again, 1, "exists already");
    assert_eq!(fs::read(&file).unwrap(), whole, "the existing file was changed");

    // To standard output, with the same content: nothing was committed in between, or more was.
    let piped = fixture.path("piped");
    let mut command = fixture.command();
    command.args(["export", "-"]).stdout(File::create(&piped).unwrap()).stderr(Stdio::null());
    let mut exporting = DaemonProcess::of(command.spawn().unwrap(), fixture.path("log"));
    assert_eq!(exporting.ended().await.code(), Some(0));
    assert!(fs::read(&piped).unwrap().starts_with(b"calmirror export 1\n"));

    let running = fixture.cli(&["import", text(&file)]).await;
    assert_failed(&running, 74, "in use by another process");
    assert!(running.err.contains("stop the daemon"), "{}", running.err);
    daemon.stop().await;
    let filled = fixture.cli(&["import", text(&file)]).await;
    assert_failed(&filled, 74, "is not empty");

    fs::rename(fixture.path("store"), fixture.path("old")).unwrap();
    // As on a machine on which the daemon has started already, without a window.
    fixture.configure(&fixture.preamble());
    fixture.run().await.stop().await;
    // A client's user may not read the secret.
    fs::remove_file(fixture.path("secret")).unwrap();
    let imported = fixture.cli(&["import", text(&file), "--json"]).await;
    assert_eq!(imported.code, Some(0), "{imported:?}");
    let imported: serde_json::Value = serde_json::from_str(&imported.out).unwrap();
    assert_eq!((&imported["windows"], &imported["events"]), (&2.into(), &events.into()));
    fs::write(fixture.path("secret"), "s3cret").unwrap();
    fs::set_permissions(fixture.path("secret"), fs::Permissions::from_mode(0o600)).unwrap();

    let windows = ["alice", "bob"].map(|name| {
        format!(
            "[[window]]\nname = \"{name}\"\naccount = \"contoso\"\nmailbox = \"{name}@contoso.com\"\n"
        )
    });
    fixture.configure(&(fixture.preamble() + &windows.concat()));
    fixture.simulator.mutate_randomly();
    let daemon = fixture.run().await;
    let status = fixture.settle("alice").await;
    // It continues from its link.
    assert_eq!(status.resyncs, 0);
    assert_eq!(fixture.settle("bob").await.resyncs, 0);
    // The reader's cursor is accepted, and what it gets is newer than what it has.
    follower.catch_up(&fixture.api).await;
    let edges = Edges { start: status.start, end: status.end };
    let real =
        truth(&fixture.simulator, "alice@contoso.com", None, edges, Completion::Master).await;
    assert_same("after the import", &fixture.api.events("alice").await, &real);
    assert_eq!(fixture.api.events("alice").await, follower.of("alice"));
    let expected = |line: &String| line.contains("there is no window");
    assert!(daemon.warnings_logged().iter().all(expected), "{:?}", daemon.warnings_logged());
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_files_and_full_disks_leave_nothing() {
    let fixture = DaemonFixture::new(92, &["alice"]).await;
    let daemon = fixture.run().await;
    fixture.settle("alice").await;
    let file = fixture.path("calmirror.export");
    assert_eq!(fixture.cli(&["export", text(&file)]).await.code, Some(0));
    let whole = fs::read(&file).unwrap();
    if let Some(small) = SmallDisk::mount(&fixture.path("small"), "size=16k,mode=0700") {
        let full = fixture.path("small/file");
        let refused = fixture.cli(&["export", text(&full)]).await;
        assert_failed(&refused, 1, "No space left on device");
        assert!(!full.exists());
        drop(small);
    } else {
        skip("this process may not mount a file system");
    }
    let missing = fixture.cli(&["export", text(&fixture.path("no/file"))]).await;
    assert_failed(&missing, 1, "cannot write");
    daemon.stop().await;
    let unreachable = fixture.path("unreachable");
    let refused = fixture.cli(&["export", text(&unreachable)]).await;
    assert_failed(&refused, 69, "cannot be reached");
    assert!(!unreachable.exists());

    fs::rename(fixture.path("store"), fixture.path("old")).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 4;
    let cut = &whole[..whole.len() - 1];
    for (bytes, message) in [
        (cut, format!("at byte {}: the file ends before", cut.len())),
        (&flipped[..], "the file is damaged".to_owned()),
        (b"%PDF-1.7", "at byte 0: this is not an export of calmirror".to_owned()),
        (b"calmirror export 7\n", "which a newer version wrote".to_owned()),
    ] {
        let bad = fixture.path("bad");
        fs::write(&bad, bytes).unwrap();
        assert_failed(&fixture.cli(&["import", text(&bad)]).await, 1, &message);
        assert!(!fixture.path("store").exists(), "{message}");
    }
    assert_failed(&fixture.cli(&["import", "/no/such"]).await, 1, "cannot read /no/such");
    // The tree needs more than the disk has.
    if let Some(small) = SmallDisk::mount(&fixture.path("store"), "size=1m,mode=0700") {
        let full = fixture.cli(&["import", text(&file)]).await;
        assert_failed(&full, 74, "the disk is full");
        let left: Vec<_> = fs::read_dir(&small.0).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }
    fixture.configure("[store]\npath = 7\n");
    assert_failed(&fixture.cli(&["import", text(&file)]).await, 78, "store.path");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_export_removes_its_file() {
    let fixture = DaemonFixture::new(93, &[]).await;
    // A daemon that sends a first part and then nothing more.
    let listener = UnixListener::bind(fixture.path("api.sock")).unwrap();
    let signals = ["INT", "TERM", "HUP"];
    let (sent, begun) = std::sync::mpsc::channel();
    let silent = std::thread::spawn(move || {
        signals.map(|_| {
            let (mut connection, _) = listener.accept().unwrap();
            // The request arrives as a whole.
            assert!(connection.read(&mut [0; 4096]).unwrap() > 0);
            let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
            let part = "13\r\ncalmirror export 1\n\r\n";
            connection.write_all([head, part].concat().as_bytes()).unwrap();
            sent.send(()).unwrap();
            connection
        })
    });
    for signal in signals {
        let file = fixture.path(signal);
        let mut command = fixture.command();
        command.arg("export").arg(&file).stdout(Stdio::null()).stderr(Stdio::null());
        let mut exporting = DaemonProcess::of(command.spawn().unwrap(), fixture.path("log"));
        eventually("the export begins", async || begun.try_recv().ok()).await;
        assert!(file.exists());
        exporting.signal(signal);
        assert_eq!(exporting.ended().await.code(), Some(1), "{signal}");
        assert!(!file.exists(), "{signal}");
    }
    drop(silent.join().unwrap());
}
