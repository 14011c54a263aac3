//! The store and its machine: a disk with transient faults, writes while idle, and the memory of a
//! huge commit. Each of these concerns a whole process, so the tests start child processes.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "children print their results")]
#![allow(clippy::disallowed_methods, reason = "an idle process is observed in real time")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::kit::*;
use bytes::Bytes;
use calmirror::env::Env;
use calmirror::mirror::page::Item;
use calmirror::mirror::position::WindowId;
use calmirror::store::{
    BATCH_BYTES, FeedError, FeedFilter, Follower, Store, StoreError, StoreOptions,
};

const DIR: &str = "CALMIRROR_TEST_FAULT_DIR";
const EVENTS: usize = 600;
/// Events of 4 KB in one commit: 48 MB.
const LARGE: usize = 12_000;

/// Runs a test that is a child process and returns its output.
pub(crate) fn run(child: &str, dir: &Path, environment: &[(&str, &str)]) -> String {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", child, "--nocapture"])
        .env(DIR, dir)
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The value that a child printed under this name.
pub(crate) fn said<'a>(text: &'a str, name: &str) -> &'a str {
    let found = text.split_once(&format!("{name}=")).map(|(_, rest)| rest);
    found.and_then(|rest| rest.lines().next()).unwrap_or_else(|| panic!("no {name} in: {text}"))
}

pub(crate) fn of_child() -> Option<(PathBuf, tokio::runtime::Runtime)> {
    let dir = std::env::var_os(DIR)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    Some((dir.into(), runtime))
}

pub(crate) fn options_at(dir: &Path) -> StoreOptions {
    StoreOptions { cache_bytes: 16 << 20, min_free_bytes: 0, ..StoreOptions::new(dir) }
}

fn open_at(dir: &Path) -> Store {
    Store::open(&options_at(dir), &Env::real()).unwrap().0
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// Writes rows of about 2 KB, a few per commit.
async fn fill(store: &Store, from: usize, to: usize) {
    let w = attach(store, "alice").await;
    for n in (from..to).step_by(20) {
        let mut c = commit(w);
        c.upserts =
            (n..n + 20).map(|n| single(&format!("e{n}"), 1, &format!("{n:0>2000}"))).collect();
        c.position = Some(settled(&format!("link-{n}")));
        store.commit(c).await.unwrap();
    }
}

#[test]
#[ignore = "a child of the test below"]
fn child_opens() {
    let Some((dir, runtime)) = of_child() else { return };
    runtime.block_on(async {
        match Store::open(&options_at(&dir), &Env::real()) {
            Ok((store, opening)) => {
                println!("opened={}", opening.moved_aside.is_none());
                store.close().await.ok();
            }
            Err(error) => println!("refused={}", error.why),
        }
    });
}

#[tokio::test]
async fn a_single_read_error_while_opening_is_harmless() {
    let dir = tempfile::tempdir().unwrap();
    let Some(shim) = shim("read_fault.c", dir.path()) else {
        eprintln!("skipped: there is no C compiler");
        return;
    };
    let good = dir.path().join("good");
    let store = open_at(&good);
    fill(&store, 0, EVENTS / 2).await;
    store.close().await.unwrap();
    // A store with a snapshot and a log that continues after it.
    let store = open_at(&good);
    fill(&store, EVENTS / 2, EVENTS).await;
    let held = fold(&store, None).await;
    let cursor = store.cursor(store.durable_seq());
    store.close().await.unwrap();
    let (mut refused, mut opened) = (0, 0);
    let (mut changed, mut lost) = (Vec::new(), Vec::new());
    for read in 1..=40 {
        let dir = dir.path().join(format!("{read}"));
        copy(&good, &dir);
        let text = run(
            "faults::child_opens",
            &dir,
            &[
                ("LD_PRELOAD", shim.to_str().unwrap()),
                ("READ_FAULT_DIR", dir.to_str().unwrap()),
                ("READ_FAULT", &read.to_string()),
            ],
        );
        if text.contains("refused=") {
            refused += 1;
            let same =
                fs::read(dir.join("store/db")).unwrap() == fs::read(good.join("store/db")).unwrap();
            if !same {
                changed.push(read);
            }
        } else {
            opened += 1;
        }
        let store = open_at(&dir);
        let gone = fs::read_dir(&dir)
            .unwrap()
            .any(|e| e.unwrap().file_name().to_string_lossy().starts_with("store.damaged."));
        if gone || fold(&store, None).await != held || store.seq(&cursor).is_err() {
            lost.push(read);
        }
        store.close().await.unwrap();
        fs::remove_dir_all(&dir).unwrap();
    }
    println!("refused {refused} (changed anyway: {changed:?}), opened {opened}, lost {lost:?}");
    assert!(lost.is_empty(), "stores lost by a fault in read {lost:?}");
    assert!(
        changed.is_empty(),
        "refused, but the store was changed by a fault in read {changed:?}"
    );
    assert!(refused > 0 && opened > 0, "refused {refused}, opened {opened}");
}

/// Opening keeps the content of a small store, to restore it on failure. It must not overwrite what
/// another process has written since.
#[tokio::test]
async fn writes_of_another_process_during_the_opening_are_not_reverted() {
    let dir = tempfile::tempdir().unwrap();
    let Some(shim) = shim("lock_fault.c", dir.path()) else {
        eprintln!("skipped: there is no C compiler");
        return;
    };
    let path = dir.path().join("store");
    let store = open_at(&path);
    fill(&store, 0, 20).await;
    store.close().await.unwrap();
    let mut expected = fs::read(path.join("store/db")).unwrap();
    let db = path.join("store/db");
    let environment =
        [("LD_PRELOAD", shim.to_str().unwrap()), ("LOCK_FAULT", db.to_str().unwrap())];
    let text = run("faults::child_opens", &path, &environment);
    assert_eq!(said(&text, "refused"), "is in use by another process");
    expected.extend_from_slice(b"written by another process");
    assert!(fs::read(&db).unwrap() == expected, "another process's writes were overwritten");
}

#[test]
#[ignore = "a child of the test below"]
fn child_commits() {
    let Some((dir, runtime)) = of_child() else { return };
    runtime.block_on(async {
        let store = match Store::open(&options_at(&dir), &Env::real()) {
            Ok((store, opening)) => {
                assert!(opening.moved_aside.is_none());
                store
            }
            Err(error) => return println!("refused={}", error.why),
        };
        for n in (0..EVENTS).step_by(20) {
            let mut c = commit(WindowId(1));
            c.upserts =
                (n..n + 20).map(|n| single(&format!("e{n}"), 1, &format!("{n:0>2000}"))).collect();
            c.upserts.push(single("always", 1, &n.to_string()));
            if let Err(error) = store.commit(c).await {
                assert!(matches!(error, StoreError::Full), "{error}");
                println!("ended={}", store.failed().await);
                return;
            }
            println!("at={n}");
        }
        println!("closed={}", store.close().await.is_ok());
    });
}

/// Space is checked before a write, but other processes can take it in between. Whichever write
/// fails, acknowledged commits are there when the store is opened again, and the store does not
/// count as damaged.
#[tokio::test]
async fn a_disk_full_during_a_write_loses_no_acknowledged_commit() {
    let dir = tempfile::tempdir().unwrap();
    let Some(shim) = shim("write_fault.c", dir.path()) else {
        eprintln!("skipped: there is no C compiler");
        return;
    };
    let good = dir.path().join("good");
    let store = open_at(&good);
    fill(&store, 0, EVENTS / 2).await;
    store.close().await.unwrap();
    let (mut refused, mut ended) = (0, 0);
    for write in [1, 2, 3, 4, 5, 8, 15, 25, 35] {
        let dir = dir.path().join(format!("{write}"));
        copy(&good, &dir);
        let environment = [
            ("LD_PRELOAD", shim.to_str().unwrap()),
            ("WRITE_FAULT_DIR", dir.to_str().unwrap()),
            ("WRITE_FAULT", &write.to_string()),
        ];
        let text = run("faults::child_commits", &dir, &environment);
        refused += usize::from(text.contains("refused=the disk is full"));
        ended += usize::from(text.contains("ended=the store's disk is full"));
        assert!(!text.contains("closed="), "write {write} did not fail: {text}");
        let (store, opening) = Store::open(&options_at(&dir), &Env::real()).unwrap();
        assert!(opening.moved_aside.is_none(), "write {write}");
        let w = attach(&store, "alice").await;
        let held = fold(&store, None).await;
        assert_eq!(held, mirror(&store, &[w]).await, "write {write}");
        let answered = text.lines().filter_map(|line| line.strip_prefix("at=")).next_back();
        let answered = answered.map_or(0, |n| n.parse::<usize>().unwrap() + 20);
        let there = |n| held.contains_key(&("alice".to_owned(), format!("e{n}")));
        assert!(
            (0..answered.max(EVENTS / 2)).all(there),
            "write {write}: {answered} were acknowledged"
        );
        store.close().await.unwrap();
        fs::remove_dir_all(&dir).unwrap();
    }
    println!("refused {refused}, ended {ended}");
    assert!(refused > 0 && ended > 0, "refused {refused}, ended {ended}");
}

/// A store restored to a state before its newest change must be recognised as old, even if that
/// change was made right after an opening.
#[tokio::test]
async fn a_lost_first_change_of_an_opening_is_detected() {
    let dir = tempfile::tempdir().unwrap();
    let (now, before) = (dir.path().join("now"), dir.path().join("before"));
    let store = open_at(&now);
    fill(&store, 0, 40).await;
    store.close().await.unwrap();
    copy(&now, &before);
    let store = open_at(&now);
    fill(&store, 40, 60).await;
    let cursor = store.cursor(store.durable_seq());
    // Readers were shown this change, so its absence must be detected.
    fs::copy(now.join("watermark"), before.join("watermark")).unwrap();
    store.close().await.unwrap();
    let options = StoreOptions { min_free_bytes: 0, ..StoreOptions::new(&before) };
    let (store, opening) = Store::open(&options, &Env::real()).unwrap();
    assert!(opening.moved_aside.is_some(), "the rollback was not detected");
    assert!(matches!(store.seq(&cursor), Err(FeedError::SnapshotRequired)));
    store.close().await.unwrap();
}

#[test]
#[ignore = "a child of the test below"]
fn child_idles() {
    let Some((dir, runtime)) = of_child() else { return };
    runtime.block_on(async {
        let store = open_at(&dir);
        let mut windows = Vec::new();
        for n in 0..100 {
            windows.push(attach(&store, &format!("w{n}")).await);
        }
        for round in 0..30 {
            for window in &windows {
                let mut c = commit(*window);
                c.position = Some(settled(&format!("{round:0>700}")));
                store.submit(c).await.unwrap();
            }
            store.flush().await.unwrap();
        }
        let threads = fs::read_dir("/proc/self/task").unwrap();
        let names = threads.map(|t| fs::read_to_string(t.unwrap().path().join("comm")).unwrap());
        println!("flusher={}", names.into_iter().any(|name| name.trim() == "log flusher"));
        let written = || {
            let io = fs::read_to_string("/proc/self/io").unwrap();
            let line = io.lines().find_map(|line| line.strip_prefix("wchar: ")).unwrap();
            line.parse::<u64>().unwrap()
        };
        let before = written();
        std::thread::sleep(Duration::from_millis(1500));
        println!("written={}", written() - before);
        store.close().await.unwrap();
    });
}

#[test]
fn an_idle_store_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let text = run("faults::child_idles", dir.path(), &[]);
    assert_eq!(
        said(&text, "flusher"),
        "false",
        "a background thread syncs and cleans periodically"
    );
    // The line above goes through a pipe before the measurement begins.
    assert_eq!(said(&text, "written"), "0");
}

#[test]
#[ignore = "a child of the test below"]
fn child_commits_a_huge_page() {
    let Some((dir, runtime)) = of_child() else { return };
    runtime.block_on(async {
        let store = open_at(&dir);
        let w = attach(&store, "alice").await;
        // Items of a page are slices of its bytes.
        let mut page = Vec::new();
        let mut places = Vec::new();
        let mut dice = fastrand::Rng::with_seed(3);
        for n in 0..LARGE {
            let from = page.len();
            let subject: String =
                std::iter::repeat_with(|| dice.alphanumeric()).take(4000).collect();
            page.extend_from_slice(&single(&format!("e{n}"), 1, &subject).content);
            places.push(from..page.len());
        }
        let page = Bytes::from(page);
        let mut c = commit(w);
        c.upserts = places
            .into_iter()
            .enumerate()
            .map(|(n, place)| Item {
                content: page.slice(place),
                ..single(&format!("e{n}"), 1, "")
            })
            .collect();
        c.position = Some(settled("after"));
        drop(page);
        // So far the peak includes making the page.
        reset_peak();
        let before = peak();
        let outcome = store.commit(c).await.unwrap();
        println!("more={}", peak() - before);
        println!("created={}", outcome.created);
        println!("events={}", outcome.events);
        store.close().await.unwrap();
        let store = open_at(&dir);
        println!("again={}", fold_count(&store).await);
        println!("settled={}", store.position(w, 0).await.unwrap() == Some(settled("after")));
        store.close().await.unwrap();
    });
}

pub(crate) fn reset_peak() {
    fs::write("/proc/self/clear_refs", "5").ok();
}

/// The most memory since the last reset, in MiB.
pub(crate) fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
}

/// The number of events in the feed.
async fn fold_count(store: &Store) -> usize {
    let (mut follower, mut count) = (Follower::from_beginning(store, FeedFilter::All), 0);
    loop {
        let changes = follower.read(500, BATCH_BYTES).await.unwrap();
        count += changes.value.len();
        if changes.at_end {
            return count;
        }
    }
}

#[test]
fn a_huge_commit_is_not_copied_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    // Free memory returns to the system at once: otherwise glibc keeps about 30 MiB in fragments,
    // varying between runs.
    let environment = [("MALLOC_TRIM_THRESHOLD_", "0")];
    let text = run("faults::child_commits_a_huge_page", dir.path(), &environment);
    for name in ["created", "events", "again"] {
        assert_eq!(said(&text, name), LARGE.to_string(), "{name}");
    }
    assert_eq!(said(&text, "settled"), "true");
    // Measured: 84 MiB for parts in several stages, the engine's cache (16 MiB), its page table, and
    // the compressed rows of the whole page. Those grow with the page, and random text hardly
    // shrinks; events of Graph take a tenth of it.
    let more: u64 = said(&text, "more").parse().unwrap();
    println!("{more} MiB more");
    assert!(more < 100, "{more} MiB more for a page of 48 MB that is already in memory");
}
