//! The real daemon with an unusable store: an obstacle is left alone, a damaged store is moved
//! aside and rebuilt.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use calmirror::mirror::window::{Completion, Edges};
use http::StatusCode;

use crate::compare::{assert_same, truth};
use crate::process::{CommandOutput, DaemonFixture};
use crate::socket::FeedClient;

/// Every file below a directory, with its content.
fn files(path: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(files(&path));
        } else {
            all.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    all
}

/// Asserts that the start is refused with exit code 74, naming the store, the cause and a remedy.
fn assert_refused(outcome: &CommandOutput, fixture: &DaemonFixture, cause: &str, remedy: &str) {
    assert_eq!(outcome.code, Some(74), "{outcome:?}");
    let store = fixture.path("store").display().to_string();
    for part in [&*store, cause, remedy] {
        assert!(outcome.err.contains(part), "no {part:?} in {}", outcome.err);
    }
}

/// Makes a store with a settled window and stops the daemon.
async fn filled(fixture: &DaemonFixture) -> FeedClient {
    let daemon = fixture.run().await;
    fixture.settle("alice").await;
    let mut follower = FeedClient::default();
    follower.catch_up(&fixture.api).await;
    assert!(follower.held.len() > 20);
    daemon.stop().await;
    follower
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_daemon_is_refused_without_affecting_the_first() {
    let fixture = DaemonFixture::new(71, &["alice"]).await;
    let daemon = fixture.run().await;
    let before = fixture.settle("alice").await.last_round.unwrap().number;
    let second = fixture.cli(&["run"]).await;
    assert_refused(&second, &fixture, "in use by another process", "stop the other process");
    assert!(fixture.path("api.sock").exists(), "the second daemon removed the first one's socket");
    assert_eq!(fixture.cli(&["health"]).await.code, Some(0));
    let after = fixture.settle("alice").await;
    assert!(after.last_round.unwrap().number > before);
    assert_eq!(after.resyncs, 0);
    assert_eq!(daemon.warnings_logged(), Vec::<String>::new());
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_of_a_newer_format_is_not_touched() {
    let fixture = DaemonFixture::new(72, &["alice"]).await;
    filled(&fixture).await;
    let watermark = fixture.path("store/watermark");
    let old = fs::read(&watermark).unwrap();
    fs::write(&watermark, sealed(br#"{"format":8,"something":"else"}"#)).unwrap();
    let before = files(&fixture.path("store"));
    let refused = fixture.cli(&["run"]).await;
    assert_refused(
        &refused,
        &fixture,
        "newer version (format 8, this one knows 5)",
        "run the version that wrote it",
    );
    assert_eq!(files(&fixture.path("store")), before, "the store was changed");
    assert!(!fixture.path("api.sock").exists());

    // A watermark with a newer layout is refused too; only its leading version number is readable.
    let mut newer = sealed(b"another layout");
    newer[0] = 9;
    fs::write(&watermark, newer).unwrap();
    let before = files(&fixture.path("store"));
    let refused = fixture.cli(&["run"]).await;
    assert_refused(
        &refused,
        &fixture,
        "newer version (format 9, this one knows 5)",
        "run the version that wrote it",
    );
    assert_eq!(files(&fixture.path("store")), before, "the store was changed");

    // With the old watermark restored the store works again.
    fs::write(&watermark, &old).unwrap();
    let daemon = fixture.run().await;
    assert_eq!(fixture.settle("alice").await.resyncs, 0);
    daemon.stop().await;
}

/// A record in the program's format: version, checksum, payload.
fn sealed(payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![1];
    bytes.extend_from_slice(&crc32fast::hash(payload).to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// Root ignores file permissions, so this obstacle must stop root as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_path_that_is_a_file_is_not_touched() {
    let fixture = DaemonFixture::new(73, &["alice"]).await;
    fs::write(fixture.path("store"), "somebody's notes").unwrap();
    let refused = fixture.cli(&["run"]).await;
    assert_refused(&refused, &fixture, "cannot be opened", "not changed");
    assert_eq!(fs::read(fixture.path("store")).unwrap(), b"somebody's notes");
}

async fn damage(seed: u64, how: impl Fn(&Path)) {
    let fixture = DaemonFixture::new(seed, &["alice"]).await;
    let held = filled(&fixture).await;
    how(&fixture.path("store/store"));
    let daemon = fixture.run().await;
    // Readers with an old cursor are rejected; other readers are not affected.
    let cursor = held.cursor.as_ref().unwrap();
    let answer = fixture.api.get(&format!("/v1/changes?after={cursor}")).await;
    assert_eq!(answer.status, StatusCode::GONE);
    let problem: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    assert!(problem["type"].as_str().unwrap().ends_with("/snapshot-required"), "{problem}");

    fixture.settle("alice").await;
    assert_eq!(fixture.api.events("alice").await, held.of("alice"), "the mirror was not rebuilt");
    let mut fresh = FeedClient::default();
    fresh.catch_up(&fixture.api).await;
    assert_eq!(fresh.of("alice"), held.of("alice"));
    let entries = fs::read_dir(fixture.path("store")).unwrap();
    let names: Vec<String> =
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    let aside: Vec<&String> =
        names.iter().filter(|name| name.starts_with("store.damaged.")).collect();
    let [aside] = aside[..] else { panic!("expected one directory moved aside: {names:?}") };
    assert!(fixture.path("store").join(aside).join("db").exists());
    let told = daemon.warnings_logged();
    assert!(told.iter().any(|line| line.contains(aside.as_str())), "{told:?}");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_truncated_store_is_moved_aside_and_rebuilt() {
    damage(74, |store| {
        let db = fs::File::options().write(true).open(store.join("db")).unwrap();
        db.set_len(db.metadata().unwrap().len() / 3).unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_corrupted_store_is_moved_aside_and_rebuilt() {
    damage(75, |store| {
        let db = fs::File::options().write(true).open(store.join("db")).unwrap();
        let length = db.metadata().unwrap().len();
        for at in (0..length - 64).step_by(997) {
            db.write_all_at(&[0xA5; 64], at).unwrap();
        }
    })
    .await;
}

/// A small file system for one test, if this process may mount one.
pub(crate) struct SmallDisk(pub(crate) PathBuf);

impl SmallDisk {
    pub(crate) fn mount(at: &Path, options: &str) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(at)
            .output()
            .is_ok_and(|output| output.status.success());
        mounted.then(|| Self(at.to_owned()))
    }

    /// Fills the file system except for a rest too small for any commit. Returns the path of the
    /// ballast file.
    pub(crate) fn fill(&self) -> PathBuf {
        let ballast = self.0.join("ballast");
        let disk = rustix::fs::statvfs(&self.0).unwrap();
        let rest = 8 << 20;
        fs::write(&ballast, vec![0; (disk.f_bavail * disk.f_frsize - rest) as usize]).unwrap();
        ballast
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily, because a process that is still ending may use it.
        Command::new("umount").arg("-l").arg(&self.0).status().ok();
    }
}

#[expect(clippy::print_stderr, reason = "a skipped test reports why")]
pub(crate) fn skip(why: &str) {
    eprintln!("skipped: {why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_only_store_is_refused_and_not_touched() {
    let fixture = DaemonFixture::new(76, &["alice"]).await;
    let Some(small) = SmallDisk::mount(&fixture.path("store"), "size=192m,mode=0700") else {
        return skip("this process may not mount a file system");
    };
    filled(&fixture).await;
    let remount = |how: &str| {
        let done = Command::new("mount").args(["-o", how]).arg(&small.0).status().unwrap();
        assert!(done.success());
    };
    remount("remount,ro");
    let before = files(&small.0);
    let refused = fixture.cli(&["run"]).await;
    assert_refused(&refused, &fixture, "read-only", "remount");
    assert_eq!(files(&small.0), before);
    remount("remount,rw");
    let daemon = fixture.run().await;
    assert_eq!(fixture.settle("alice").await.resyncs, 0);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_stops_writes_but_not_reads_and_recovers() {
    let fixture = DaemonFixture::new(77, &["alice", "bob"]).await;
    let Some(small) = SmallDisk::mount(&fixture.path("store"), "size=192m,mode=0700") else {
        return skip("this process may not mount a file system");
    };
    let daemon = fixture.run().await;
    fixture.settle("alice").await;
    let ballast = small.fill();
    fixture.until_store_full("alice").await;
    let before = fixture.api.events("alice").await;
    for _ in 0..40 {
        fixture.simulator.mutate_randomly();
    }
    let answer = fixture.api.post("/v1/windows/alice/sync?wait=30s").await.json();
    assert_eq!(answer["state"], "store_full");
    assert_eq!(fixture.api.events("alice").await, before, "reading still works");
    assert_eq!(fixture.cli(&["status"]).await.code, Some(1));
    fs::remove_file(&ballast).unwrap();
    let status = fixture.settle("alice").await;
    let mirrored = fixture.api.events("alice").await;
    assert_ne!(mirrored, before);
    let edges = Edges { start: status.start, end: status.end };
    let mailbox = "alice@contoso.com";
    let real = truth(&fixture.simulator, mailbox, None, edges, Completion::Master).await;
    assert_same("after the disk was full", &mirrored, &real);
    daemon.stop().await;
}

/// Fills the file system to the last byte, as other programs would.
pub(crate) fn fill_up(at: &Path) -> PathBuf {
    let file = at.join("of-somebody-else");
    let mut size = 1 << 20;
    let mut other = fs::File::create(&file).unwrap();
    while size > 0 {
        use std::io::Write as _;
        if other.write_all(&vec![0x5A; size]).is_err() {
            size /= 4;
        }
    }
    file
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_filled_by_others_neither_ends_the_daemon_nor_prevents_a_start() {
    let fixture = DaemonFixture::new(78, &["alice"]).await;
    let Some(small) = SmallDisk::mount(&fixture.path("store"), "size=192m,mode=0700") else {
        return skip("this process may not mount a file system");
    };
    let mut daemon = fixture.run().await;
    fixture.settle("alice").await;
    let other = fill_up(&small.0);
    fixture.until_store_full("alice").await;
    let held = fixture.api.events("alice").await;
    // Longer than the engine's own cleanup used to wait.
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    assert!(daemon.exit_status().is_none(), "the daemon ended: {}", daemon.log());

    // However it ended, it starts, serves, and reports the full store.
    for how in ["stop", "kill"] {
        match how {
            "stop" => daemon.stop().await,
            _ => daemon.kill().await,
        }
        daemon = fixture.run().await;
        assert_eq!(fixture.api.events("alice").await, held, "after {how}");
        fixture.until_store_full("alice").await;
        assert_eq!(fixture.api.events("alice").await, held, "after {how}");
        // The space freed by the start is taken again.
        let mut rest = fs::File::create(small.0.join(format!("after-{how}"))).unwrap();
        while std::io::Write::write_all(&mut rest, &[0x5A; 4096]).is_ok() {}
    }

    for name in [other, small.0.join("after-stop"), small.0.join("after-kill")] {
        fs::remove_file(name).unwrap();
    }
    let status = fixture.settle("alice").await;
    assert_eq!(status.resyncs, 0);
    let edges = Edges { start: status.start, end: status.end };
    let real =
        truth(&fixture.simulator, "alice@contoso.com", None, edges, Completion::Master).await;
    assert_same("after the disk was full", &fixture.api.events("alice").await, &real);
    daemon.stop().await;
}

fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_readable_by_others_is_made_private() {
    let fixture = DaemonFixture::new(79, &["alice"]).await;
    filled(&fixture).await;
    let (store, inner) = (fixture.path("store"), fixture.path("store/store"));
    set_mode(&store, 0o757);
    set_mode(&inner, 0o755);
    for file in files(&inner).keys() {
        set_mode(file, 0o644);
    }
    let daemon = fixture.run().await;
    fixture.settle("alice").await;
    assert_eq!(mode(&store), 0o750);
    assert_eq!(mode(&inner), 0o700);
    for file in files(&inner).keys() {
        assert_eq!(mode(file), 0o600, "{}", file.display());
    }
    let told = daemon.warnings_logged();
    assert!(told.iter().any(|line| line.contains("open to other users")), "{told:?}");
    assert!(told.iter().any(|line| line.contains("open to its group")), "{told:?}");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_directory_of_another_user_is_refused_with_a_remedy() {
    let fixture = DaemonFixture::new(80, &["alice"]).await;
    let store = fixture.path("store");
    fs::create_dir(&store).unwrap();
    set_mode(&store, 0o777);
    if std::os::unix::fs::chown(&store, Some(12345), None).is_err() {
        return skip("only root may give directories away");
    }
    let refused = fixture.cli(&["run"]).await;
    assert_eq!(refused.code, Some(78), "{refused:?}");
    for part in ["open to other users (mode 0777)", "chmod o= ", &store.display().to_string()] {
        assert!(refused.err.contains(part), "no {part:?} in {}", refused.err);
    }
    assert!(files(&store).is_empty(), "the store was changed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_symbolic_link_in_the_store_is_not_followed() {
    for name in ["watermark", "watermark.new", "suspect", "reserve", "store", "store/db"] {
        let fixture = DaemonFixture::new(81, &["alice"]).await;
        let link = fixture.path("store").join(name);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        let target = fixture.path("elsewhere");
        fs::write(&target, "of somebody else").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        let refused = fixture.cli(&["run"]).await;
        assert_eq!(refused.code, Some(78), "{name}: {refused:?}");
        assert!(refused.err.contains("symbolic link"), "{name}: {}", refused.err);
        assert_eq!(fs::read(&target).unwrap(), b"of somebody else", "{name}");
    }
}
