//! The power is cut, or the disk fails, at every single operation of a store in memory.

use std::time::Duration;

use crate::crash::{expected, large, nth, reached, resume_large};
use crate::kit::*;
use calmirror::mirror::position::WindowId;
use calmirror::store::{
    BATCH_BYTES, CompactionOutcome, DiskFault, FeedError, FeedFilter, Follower, MemoryDisk,
    OpenFault, Store, StoreError,
};

const NAMES: [&str; 2] = ["a", "b"];
const ROUNDS: usize = 7;

/// What a store has acknowledged, and what a reader has of it.
#[derive(Default)]
struct Acknowledged {
    windows: Vec<WindowId>,
    /// Commits of each window.
    commits: usize,
    /// Whether the second window was to be dropped, and whether it was.
    is_dropping: bool,
    is_dropped: bool,
    copy: FeedCopy,
    cursor: Option<String>,
}

/// A store that was interrupted, with its disk before the restart.
struct Interrupted {
    dir: tempfile::TempDir,
    disk: MemoryDisk,
    acknowledged: Acknowledged,
}

/// Reads the feed to its end.
async fn follow(store: &Store, done: &mut Acknowledged) -> Result<(), FeedError> {
    let mut follower = match &done.cursor {
        Some(cursor) => Follower::after(store, cursor, FeedFilter::All)?,
        None => Follower::from_beginning(store, FeedFilter::All),
    };
    loop {
        let changes = follower.read(4, BATCH_BYTES).await?;
        apply(&mut done.copy, &changes.value);
        done.cursor = Some(store.cursor(changes.seq));
        if changes.at_end {
            return Ok(());
        }
    }
}

/// Uses a store in every way that writes.
async fn use_store(
    store: &Store,
    done: &mut Acknowledged,
    compacting: bool,
) -> Result<(), FeedError> {
    let wanted = NAMES.map(wanted).into();
    let windows = store.register(wanted, at(0)).await?;
    done.windows = windows.iter().map(|window| window.id).collect();
    let [a, b] = done.windows[..] else { panic!() };
    for n in 1..=ROUNDS {
        // Both become durable in one group, so that the operations are always the same.
        store.submit(nth(a, n)).await?;
        store.commit(nth(b, n)).await?;
        done.commits = n;
        follow(store, done).await?;
        if compacting && n == 5 {
            let outcome = store.compact(0, Duration::ZERO).await?;
            let done = matches!(outcome, CompactionOutcome::Done { .. });
            assert!(done || matches!(outcome, CompactionOutcome::GivenUp(_)), "{outcome:?}");
        }
    }
    if compacting {
        return Ok(());
    }
    done.is_dropping = true;
    store.drop_window(b, at(1)).await?;
    done.is_dropped = true;
    follow(store, done).await?;
    store.trim(at(100)).await?;
    Ok(())
}

/// Uses a new store until an operation fails; `None` if it needs fewer operations.
async fn interrupt(operation: u64, fault: DiskFault, compacting: bool) -> Option<Interrupted> {
    let disk = MemoryDisk::default();
    disk.fail_at(operation, fault);
    let mut acknowledged = Acknowledged::default();
    let engine = TestEngine::Memory(disk.clone());
    let dir = engine.directory();
    let opened = engine.try_open(&options(&dir));
    let is_full = fault == DiskFault::Full;
    match opened {
        Ok((store, _)) => {
            let used = use_store(&store, &mut acknowledged, compacting).await;
            if used.is_ok() && disk.operations() <= operation {
                return None;
            }
            match used {
                Err(FeedError::Store(why)) => {
                    assert_eq!(matches!(why, StoreError::Full), is_full, "{why}");
                    assert!(is_full || matches!(why, StoreError::Failed(_)), "{why}");
                    assert_eq!(store.failed().await.to_string(), why.to_string());
                    let window = acknowledged.windows.first().copied().unwrap_or(WindowId(1));
                    assert!(store.events(all(window)).await.is_err(), "what is read may be lost");
                    store.close().await.unwrap_err();
                }
                // A compaction was given up.
                Ok(()) => {
                    assert!(compacting && fault != DiskFault::PowerCut);
                    store.close().await.unwrap();
                }
                Err(error) => panic!("{error}"),
            }
        }
        Err(error) => {
            assert_eq!(matches!(error.why, OpenFault::Full), is_full, "{error:?}");
            assert!(is_full || matches!(error.why, OpenFault::Io(_)), "{error:?}");
        }
    }
    Some(Interrupted { dir, disk, acknowledged })
}

impl Interrupted {
    /// Restarts with some batches that were not flushed. The store has everything that it had
    /// acknowledged, nothing in part, and goes on.
    async fn check(self, kept: usize) {
        let Self { dir, disk, acknowledged: mut done } = self;
        disk.restart(kept);
        let engine = TestEngine::Memory(disk.clone());
        // Once more, during the opening.
        for operations in 0..2 {
            disk.fail_at(disk.operations() + operations, DiskFault::PowerCut);
            let why = engine.try_open(&options(&dir)).unwrap_err().why;
            assert!(matches!(why, OpenFault::Io(_)), "{why:?}");
            disk.restart(kept);
        }
        for reopened in [false, true] {
            let (store, opening) = engine.try_open(&options(&dir)).unwrap();
            assert_eq!(opening.moved_aside, None, "the audit found damage");
            let known = store.windows().await.unwrap();
            assert!(known.len() >= done.windows.len() - usize::from(done.is_dropping));
            assert!(!done.is_dropped || known.iter().all(|window| &*window.name != "b"));
            let mut live = Vec::new();
            for window in known {
                if window.dropping {
                    store.drop_window(window.id, at(3)).await.unwrap();
                } else {
                    check_window(&store, window.id, done.commits).await;
                    live.push(window.id);
                }
            }
            follow(&store, &mut done).await.unwrap();
            assert_eq!(done.copy, mirror(&store, &live).await, "the reader missed something");
            assert_eq!(done.copy, fold(&store, None).await);
            if !reopened && let Some(window) = live.first() {
                let next = reached(&store, *window).await + 1;
                store.commit(nth(*window, next)).await.unwrap();
            }
            store.close().await.unwrap();
        }
    }
}

/// A window has at least the acknowledged commits, and exactly the events of those that it has.
async fn check_window(store: &Store, window: WindowId, acknowledged: usize) {
    let reached = reached(store, window).await;
    assert!(reached >= acknowledged, "{acknowledged} were acknowledged, {reached} are there");
    let mut found = ids(&events(store, window).await);
    found.sort();
    assert_eq!(found, expected(reached));
}

/// Interrupts a store at one operation, with each number of batches that may survive.
async fn interrupt_with_all_outcomes(operation: u64, fault: DiskFault, compacting: bool) -> bool {
    let mut kept = 0;
    loop {
        let Some(interrupted) = interrupt(operation, fault, compacting).await else {
            assert_eq!(kept, 0);
            return false;
        };
        let unflushed = interrupted.disk.unflushed();
        interrupted.check(kept).await;
        if kept >= unflushed {
            return true;
        }
        // Of many writes, one and all.
        kept = if kept == 0 { 1 } else { unflushed };
    }
}

#[tokio::test]
async fn a_power_cut_at_any_operation_loses_nothing_that_was_acknowledged() {
    let mut operation = 0;
    while interrupt_with_all_outcomes(operation, DiskFault::PowerCut, false).await {
        operation += 1;
    }
    assert!(operation > 30, "only {operation} operations");
}

#[tokio::test]
async fn a_disk_that_fails_at_any_operation_ends_the_store_and_loses_nothing() {
    for fault in [DiskFault::Full, DiskFault::Broken] {
        let mut operation = 0;
        while interrupt_with_all_outcomes(operation, fault, false).await {
            operation += 1;
        }
        assert!(operation > 30, "only {operation} operations");
    }
}

#[tokio::test]
async fn an_interrupted_compaction_leaves_one_whole_store() {
    let mut random = fastrand::Rng::with_seed(3);
    for fault in [DiskFault::PowerCut, DiskFault::Full, DiskFault::Broken] {
        let mut operation = 0;
        while interrupt_with_all_outcomes(operation, fault, true).await {
            operation += random.u64(1..12);
        }
        assert!(operation > 60, "only {operation} operations");
    }
}

#[tokio::test]
async fn a_commit_in_parts_that_a_power_cut_interrupts_is_resumed() {
    let disk = MemoryDisk::default();
    let engine = TestEngine::Memory(disk.clone());
    let (dir, mut store, window) = engine.fresh("w").await;
    store.commit(large(window, 1)).await.unwrap();
    let (mut answered, mut torn, mut parts) = (1, 0, usize::MAX);
    let mut kept = 0;
    while kept <= parts {
        // With the flush all parts are applied.
        let before = disk.operations();
        disk.fail_at(before + 2, DiskFault::PowerCut);
        store.commit(large(window, answered + 1)).await.unwrap_err();
        parts = disk.unflushed();
        store.close().await.unwrap_err();
        disk.restart(kept);
        store = engine.open(&dir);
        let (next, in_part) = resume_large(&store, window, answered..=answered + 1).await;
        (answered, torn, kept) = (next, torn + usize::from(in_part), kept + 1);
    }
    assert!(torn > 0, "no part survived");
    store.close().await.unwrap();
}
