//! What a compaction gives back, and what is left of one that ends early.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use jiff::SignedDuration;

use super::super::batch::WriteBatch;
use super::*;
use crate::env::Env;
use crate::mirror::commit::Commit;
use crate::mirror::page::Span;
use crate::mirror::position::WindowId;
use crate::store::{
    BATCH_BYTES, DiskFault, EventQuery, FeedFilter, Follower, MemoryDisk, StoreOptions,
};
use crate::tests::{NOON, env, open, registration, single, store_options, window};

const NO_PAUSE: Duration = Duration::ZERO;

/// Commits `count` events whose content depends on `version`.
async fn put(store: &Store, window: WindowId, count: i64, version: u64) {
    let mut random = fastrand::Rng::with_seed(version);
    let event = |n| {
        let start = NOON + SignedDuration::from_mins(n);
        let noise: String = (0..2000).map(|_| random.alphanumeric()).collect();
        let content = format!(r#"{{"id":"e{n}","subject":"{version}","body":"{noise}"}}"#);
        single(&format!("e{n}"), Span { start, end: start }, content)
    };
    let upserts = (0..count).map(event).collect();
    store.commit(Commit { upserts, ..Commit::new(window, 0, NOON) }).await.unwrap();
}

/// A store with one window of 100 events that were rewritten often.
async fn churned(dir: &Path, env: &Env) -> (Store, WindowId) {
    let store = open(dir, env);
    let id = store.register(vec![registration(&window("alice"))], NOON).await.unwrap()[0].id;
    for version in 0..40 {
        put(&store, id, 100, version).await;
    }
    (store, id)
}

async fn events(store: &Store, window: WindowId) -> Vec<Bytes> {
    let (limit, bytes) = (usize::MAX, usize::MAX);
    let query = EventQuery { window, from: None, to: None, limit, bytes, after: None };
    store.events(query).await.unwrap().value
}

async fn changes(store: &Store, cursor: &str) -> Vec<String> {
    let mut follower = Follower::after(store, cursor, FeedFilter::All).unwrap();
    let changes = follower.read(usize::MAX, BATCH_BYTES).await.unwrap();
    assert!(changes.at_end);
    changes.value.iter().map(|c| format!("{} {}", c.seq, c.id.as_str())).collect()
}

fn directories(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap());
    let directories = entries.filter(|entry| entry.file_type().unwrap().is_dir());
    let mut names: Vec<_> = directories.map(|d| d.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_compaction_gives_space_back_while_the_store_is_used() {
    let dir = tempfile::tempdir().unwrap();
    // In a simulated environment nothing else would run meanwhile.
    let (store, alice) = churned(dir.path(), &Env::real()).await;
    let bob = store.register(vec![registration(&window("bob"))], NOON).await.unwrap()[0].id;
    let middle = store.cursor(store.durable_seq() - 50);
    let (before, feed) = (events(&store, alice).await, changes(&store, &middle).await);
    let (mut written, mut read) = (0, 0);
    let outcome = {
        let live = store.live_bytes(NO_PAUSE).await.unwrap();
        let compacting = store.compact(live, Duration::from_millis(1));
        tokio::pin!(compacting);
        loop {
            tokio::select! {
                biased;
                outcome = &mut compacting => break outcome.unwrap(),
                () = put(&store, bob, 3, written) => written += 1,
            }
            assert_eq!(events(&store, alice).await, before);
            read += 1;
        }
    };
    let CompactionOutcome::Done { before: larger, after } = outcome else { panic!("{outcome:?}") };
    assert!(after * 2 < larger, "{larger} bytes before, {after} after");
    assert!(written > 2 && read > 2, "{written} commits, {read} reads meanwhile");
    assert_eq!(directories(dir.path()), ["store.second"]);
    let again = store.compact(0, NO_PAUSE).await.unwrap();
    assert!(matches!(again, CompactionOutcome::Done { .. }), "{again:?}");
    assert_eq!(directories(dir.path()), ["store"]);
    store.compact(0, NO_PAUSE).await.unwrap();
    let shared = store.shared().dictionaries.clone();
    let same = store.read_tree(move |tree| Ok(Arc::ptr_eq(&tree.dictionaries, &shared)));
    assert!(same.await.unwrap(), "a dictionary trained later would be missing");
    put(&store, bob, 3, written).await;
    let bobs = events(&store, bob).await;
    for reopened in [false, true] {
        if reopened {
            store.close().await.unwrap();
        }
        let store = if reopened { open(dir.path(), &env()) } else { store.clone() };
        assert_eq!(events(&store, alice).await, before);
        assert_eq!(events(&store, bob).await, bobs);
        assert!(bobs[0].starts_with(format!(r#"{{"id":"e0","subject":"{written}""#).as_bytes()));
        assert_eq!(changes(&store, &middle).await[..feed.len()], feed);
        if reopened {
            store.close().await.unwrap();
        }
    }
}

/// What is on the disk when the process ends after a step of a compaction.
#[tokio::test]
async fn a_compaction_that_ends_at_any_step_leaves_one_whole_store() {
    let cache = 1 << 20;
    for step in 0..6 {
        let dir = tempfile::tempdir().unwrap();
        let (store, alice) = churned(dir.path(), &env()).await;
        let (before, start) = (events(&store, alice).await, store.cursor(0));
        let feed = changes(&store, &start).await;
        let shared = store.shared().clone();
        let steps = move || -> Result<(), CompactionError> {
            let mut compaction = Compaction::begin(&shared, 0, 0)?;
            if step > 0 {
                compaction.copy_slice()?;
            }
            if step > 1 {
                while !compaction.copy_slice()? {}
            }
            if step > 2 {
                compaction = compaction.close()?.open(cache)?;
            }
            if step > 3 {
                compaction.check()?;
            }
            if step > 4 {
                drop(compaction.finish()?);
            }
            Ok(())
        };
        store.on_blocking_thread(steps).await.unwrap();
        store.close().await.unwrap();
        assert_eq!(directories(dir.path()), ["store", "store.second"], "step {step}");
        let store = open(dir.path(), &env());
        assert_eq!(directories(dir.path()), ["store"], "step {step}");
        assert_eq!(events(&store, alice).await, before, "step {step}");
        assert_eq!(changes(&store, &start).await, feed, "step {step}");
        store.close().await.unwrap();
    }
}

/// The writer copies what was written last, and must not use the copy before that is durable.
#[tokio::test]
async fn a_power_cut_during_an_exchange_loses_no_commit() {
    for operations in 0.. {
        let (dir, disk) = (tempfile::tempdir().unwrap(), MemoryDisk::default());
        let options = store_options(dir.path());
        let store = Store::open_in_memory(&disk, &options, &env()).unwrap().0;
        let id = store.register(vec![registration(&window("alice"))], NOON).await.unwrap()[0].id;
        put(&store, id, 3, 1).await;
        let shared = store.shared().clone();
        let copied = store.on_blocking_thread(move || {
            let mut compaction = Compaction::begin(&shared, 0, 0)?;
            while !compaction.copy_slice()? {}
            compaction.close()?.open(0)
        });
        let compaction = Box::new(copied.await.unwrap());
        put(&store, id, 4, 2).await;
        let before = events(&store, id).await;
        let first = disk.operations();
        disk.fail_at(first + operations, DiskFault::PowerCut);
        let replaced = store.ask(|reply| WriteJob::Replace { compaction, reply }).await;
        let is_cut = disk.operations() > first + operations;
        assert!(is_cut || matches!(replaced, Ok(Ok(_))));
        drop(replaced);
        store.close().await.ok();
        disk.restart(0);
        let (store, opening) = Store::open_in_memory(&disk, &options, &env()).unwrap();
        assert_eq!(opening.moved_aside, None);
        assert_eq!(events(&store, id).await, before, "cut after {operations} operations");
        store.close().await.unwrap();
        if !is_cut {
            assert!(operations > 5);
            break;
        }
    }
}

/// The engine may panic when the last handle to a copy is dropped, also on the writer's thread.
#[tokio::test]
async fn a_copy_that_cannot_be_closed_does_not_end_the_store() {
    let (dir, disk) = (tempfile::tempdir().unwrap(), MemoryDisk::default());
    let open = |options: StoreOptions| Store::open_in_memory(&disk, &options, &env()).unwrap().0;
    let store = open(store_options(dir.path()));
    let id = store.register(vec![registration(&window("alice"))], NOON).await.unwrap()[0].id;
    put(&store, id, 3, 1).await;
    let before = events(&store, id).await;
    store.close().await.unwrap();
    // The writer of a full store refuses the copy, another one fails to finish it.
    for min_free_bytes in [1 << 60, 0] {
        let store = open(StoreOptions { min_free_bytes, ..store_options(dir.path()) });
        let (shared, disk) = (store.shared().clone(), disk.clone());
        let broken = store.on_blocking_thread(move || {
            let mut compaction = Compaction::begin(&shared, 0, 0)?;
            disk.fail_at(disk.operations(), DiskFault::Broken);
            assert!(matches!(compaction.copy_slice(), Err(CompactionError::Copy(_))));
            Ok(compaction)
        });
        let compaction = Box::new(broken.await.unwrap());
        let replaced = store.ask(|reply| WriteJob::Replace { compaction, reply }).await;
        match replaced.map(|replaced| replaced.map(drop)) {
            Err(StoreError::Full) => assert!(min_free_bytes > 0),
            Ok(Err(CompactionError::Copy(_))) => assert_eq!(min_free_bytes, 0),
            other => panic!("{other:?}"),
        }
        assert_eq!(events(&store, id).await, before);
        if min_free_bytes == 0 {
            put(&store, id, 3, 2).await;
        }
        store.close().await.unwrap();
    }
}

/// The time of the test passes only in the pauses.
#[tokio::test(start_paused = true)]
async fn a_compaction_pauses_while_it_copies_and_while_it_reads_the_copy() {
    const QUARTER: u64 = 256 << 10;
    let dir = tempfile::tempdir().unwrap();
    let (store, alice) = churned(dir.path(), &env()).await;
    put(&store, alice, 1500, 50).await;
    let live = store.live_bytes(NO_PAUSE).await.unwrap();
    let (pause, began) = (Duration::from_secs(60), Instant::now());
    let outcome = store.compact(live, pause).await.unwrap();
    let CompactionOutcome::Done { after, .. } = outcome else { panic!("{outcome:?}") };
    let pauses = began.elapsed().as_secs() / pause.as_secs();
    // Four times as fast.
    let (copied, read) = (live / QUARTER, after / QUARTER / 4);
    assert!(copied >= 2 && read >= 4, "{copied} slices, {read} slices");
    assert!(pauses >= copied + read, "{pauses} pauses, {copied} slices copied, {read} read");
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_compaction_that_writes_outrun_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let (store, alice) = churned(dir.path(), &Env::real()).await;
    let before = events(&store, alice).await;
    assert!(!store.is_being_copied());
    let mut batch = WriteBatch::default();
    batch.put(vec![0; 40 << 20], Vec::new());
    let outcome = {
        let compacting = store.compact(0, Duration::from_millis(20));
        tokio::pin!(compacting);
        let mut copied = false;
        loop {
            tokio::select! {
                outcome = &mut compacting => {
                    assert!(copied);
                    break outcome.unwrap();
                }
                () = tokio::time::sleep(Duration::from_millis(1)) => {
                    copied |= store.is_being_copied();
                    store.shared().copies.add(&batch);
                }
            }
        }
    };
    assert_eq!(outcome, CompactionOutcome::Overrun);
    assert!(!store.is_being_copied());
    assert_eq!(directories(dir.path()), ["store"]);
    assert_eq!(events(&store, alice).await, before);
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_compaction_without_space_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (store, alice) = churned(dir.path(), &env()).await;
    let before = events(&store, alice).await;
    store.close().await.unwrap();
    let options = StoreOptions { min_free_bytes: 1 << 60, ..store_options(dir.path()) };
    let store = Store::open(&options, &env()).unwrap().0;
    let outcome = store.compact(1000, NO_PAUSE).await.unwrap();
    let CompactionOutcome::NoSpace { free, needed } = outcome else { panic!("{outcome:?}") };
    assert!(free < needed && needed > 1 << 60);
    // Nothing was written since the opening.
    let mut watch = SizeWatch { min_bytes: 0, group: u64::MAX, ..SizeWatch::default() };
    for read in [true, false] {
        store.metrics().live_bytes.store(0, Ordering::Relaxed);
        let outcome = store.compact_if_grown(&mut watch, NO_PAUSE).await.unwrap();
        assert!(matches!(outcome, CompactionOutcome::NoSpace { .. }), "{outcome:?}");
        let live = store.metrics().live_bytes.load(Ordering::Relaxed);
        assert_eq!(live > 0, read, "{live} bytes read before the free space was looked at");
    }
    assert_eq!(directories(dir.path()), ["store"]);
    assert_eq!(events(&store, alice).await, before);
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_store_is_compacted_once_its_files_have_grown() {
    let dir = tempfile::tempdir().unwrap();
    let (store, alice) = churned(dir.path(), &env()).await;
    for version in 40..44 {
        put(&store, alice, 500, version).await;
    }
    let mut watch = SizeWatch::default();
    let outcome = store.compact_if_grown(&mut watch, NO_PAUSE).await.unwrap();
    assert_eq!(outcome, CompactionOutcome::NotNeeded);
    assert!(watch.measured.is_none(), "small files are not read");
    let mut watch = SizeWatch { min_bytes: 0, ..SizeWatch::default() };
    let outcome = store.compact_if_grown(&mut watch, NO_PAUSE).await.unwrap();
    assert!(matches!(outcome, CompactionOutcome::Done { .. }), "{outcome:?}");
    let live = watch.measured.unwrap().live;
    assert!((750_000..1_500_000).contains(&live), "{live} bytes in 500 events");
    let metrics = store.metrics();
    assert_eq!(metrics.compactions.load(Ordering::Relaxed), 1);
    assert_eq!(metrics.live_bytes.load(Ordering::Relaxed), live);

    // Written, but not grown: nothing is read. Then nothing is written.
    metrics.live_bytes.store(0, Ordering::Relaxed);
    put(&store, alice, 1, 99).await;
    for _ in 0..3 {
        let outcome = store.compact_if_grown(&mut watch, NO_PAUSE).await.unwrap();
        assert_eq!(outcome, CompactionOutcome::NotNeeded);
        assert_eq!(watch.group, store.shared().durable_group());
    }
    watch.measured = None;
    let outcome = store.compact_if_grown(&mut watch, NO_PAUSE).await.unwrap();
    assert_eq!(outcome, CompactionOutcome::NotNeeded);
    assert!(watch.measured.is_none(), "read again, although nothing was written");
    assert_eq!(metrics.live_bytes.load(Ordering::Relaxed), 0);
    assert_eq!(metrics.compactions.load(Ordering::Relaxed), 1);
    store.close().await.unwrap();
}

/// It may stay as it is for long, and then a tenth is worth a copy.
#[tokio::test]
async fn a_store_that_rests_is_compacted_once_more() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = churned(dir.path(), &env()).await;
    let (_, live) = store.content(NO_PAUSE).await.unwrap();
    let compacted = (store.tree_bytes().await * 100 / 115, live);
    let mut watch = SizeWatch { min_bytes: 0, compacted, ..SizeWatch::default() };
    let outcome = store.compact_if_grown(&mut watch, NO_PAUSE).await.unwrap();
    assert_eq!(outcome, CompactionOutcome::NotNeeded, "something was written");
    let outcome = store.compact_if_grown(&mut watch, NO_PAUSE).await.unwrap();
    assert!(matches!(outcome, CompactionOutcome::Done { .. }), "{outcome:?}");
    let outcome = store.compact_if_grown(&mut watch, NO_PAUSE).await.unwrap();
    assert_eq!(outcome, CompactionOutcome::NotNeeded);
    store.close().await.unwrap();
}

#[tokio::test]
async fn what_writes_nothing_does_not_count_as_a_write() {
    let dir = tempfile::tempdir().unwrap();
    let (store, alice) = churned(dir.path(), &env()).await;
    let group = store.shared().durable_group();
    assert_eq!(store.trim(NOON).await.unwrap(), 0);
    let unknown = store.commit(Commit::new(WindowId(99), 0, NOON)).await;
    assert!(matches!(unknown, Err(StoreError::UnknownWindow(_))), "{unknown:?}");
    assert_eq!(store.shared().durable_group(), group);
    put(&store, alice, 1, 99).await;
    assert!(store.shared().durable_group() > group);
    store.close().await.unwrap();
}

#[test]
fn a_compaction_that_left_much_is_not_repeated_before_the_ratio_grows() {
    let watch = SizeWatch { compacted: (4000, 1000), ..SizeWatch::default() };
    let is_worth_it = |disk, live| watch.is_worth_it(disk, live, GROWN);
    assert!(!is_worth_it(4999, 1000) && is_worth_it(5000, 1000));
    assert!(!is_worth_it(5000, 2000), "the content has grown");
    assert!(!is_worth_it(4000, 801) && is_worth_it(4000, 800), "it has shrunk");
    let at_rest = |disk| watch.is_worth_it(disk, 1000, GROWN_AT_REST);
    assert!(!at_rest(4399) && at_rest(4400));
    let first = |disk| SizeWatch::default().is_worth_it(disk, 1000, GROWN);
    assert!(!first(2749) && first(2750));
}

#[tokio::test(start_paused = true)]
async fn a_measurement_counts_until_growth_or_deletions_or_for_a_day() {
    let then = ContentSize { at: Instant::now(), disk: 1000, live: 1, keys: 100, deleted: 7 };
    let watch = SizeWatch { measured: Some(then), ..SizeWatch::default() };
    let is_outdated = |disk, deleted| watch.is_outdated(disk, deleted, GROWN);
    assert!(!is_outdated(1249, 7) && is_outdated(1250, 7));
    assert!(
        !watch.is_outdated(1099, 7, GROWN_AT_REST) && watch.is_outdated(1100, 7, GROWN_AT_REST)
    );
    assert!(!is_outdated(1000, 32) && is_outdated(1000, 33));
    tokio::time::advance(REMEASURE_AFTER).await;
    assert!(is_outdated(1000, 7), "values that shrink are not noticed");
    assert!(SizeWatch::default().is_outdated(0, 0, GROWN));
}

/// New writes use the space again, so that the files need not grow.
#[tokio::test]
async fn content_that_is_deleted_gives_space_back_soon() {
    let dir = tempfile::tempdir().unwrap();
    let (store, alice) = churned(dir.path(), &env()).await;
    let bob = store.register(vec![registration(&window("bob"))], NOON).await.unwrap()[0].id;
    put(&store, bob, 3, 1).await;
    let mut watch = SizeWatch { min_bytes: 0, ..SizeWatch::default() };
    let outcome = store.compact_if_grown(&mut watch, NO_PAUSE).await.unwrap();
    assert!(matches!(outcome, CompactionOutcome::Done { .. }), "{outcome:?}");
    let before = watch.measured.unwrap().live;
    let kept = events(&store, bob).await;

    store.drop_window(alice, NOON).await.unwrap();
    assert!(store.trim(NOON + SignedDuration::from_secs(1)).await.unwrap() > 0);
    // As in a larger store, whose files do not grow by what was written for that.
    let disk = store.tree_bytes().await;
    watch.measured.as_mut().unwrap().disk = disk;
    watch.compacted.0 = disk;
    let outcome = store.compact_if_grown(&mut watch, NO_PAUSE).await.unwrap();
    assert!(matches!(outcome, CompactionOutcome::Done { .. }), "{outcome:?}");
    let after = watch.measured.unwrap().live;
    assert!(after * 5 < before, "{before} bytes before, {after} after");
    assert_eq!(events(&store, bob).await, kept);
    store.close().await.unwrap();
}

/// A text that is as repetitive as those of events.
fn words(random: &mut fastrand::Rng, count: usize) -> String {
    let word = |random: &mut fastrand::Rng| format!("{:x} ", random.u32(..) % 3000 * 7919);
    (0..count).map(|_| word(random)).collect()
}

/// Writes events, rewrites all of them, then changes a few at a time; prints the sizes.
#[tokio::test]
#[ignore = "a measurement of half a minute"]
async fn sizes_of_a_store_that_is_rewritten_and_compacted() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), &env());
    let id = store.register(vec![registration(&window("alice"))], NOON).await.unwrap()[0].id;
    let (count, mut random) = (4000, fastrand::Rng::with_seed(5));
    let mut event = |n: i64| {
        let start = NOON + SignedDuration::from_mins(n);
        let body = words(&mut random, 600);
        let content = format!(r#"{{"id":"e{n}","subject":"{n}","body":"{body}"}}"#);
        single(&format!("e{n}"), Span { start, end: start }, content)
    };
    let logical = usize::try_from(count).unwrap() * (event(0).content.len() + 150);
    let commit = |upserts| store.commit(Commit { upserts, ..Commit::new(id, 0, NOON) });
    let say = |line: &str| writeln!(std::io::stdout(), "{line}").unwrap();
    let print = async |what: &str, logical: usize| {
        let (live, disk) = (store.live_bytes(NO_PAUSE).await.unwrap(), store.tree_bytes().await);
        let [live, disk, logical] = [live as f64, disk as f64, logical as f64].map(|b| b / 1e6);
        let (of_live, of_logical) = (disk / live, disk / logical);
        say(&format!("{what}: {disk:.1} MB, of live {of_live:.2}, of logical {of_logical:.2}"));
    };
    let mut choice = fastrand::Rng::with_seed(6);
    for round in 0..11 {
        for first in (0..count).step_by(50) {
            let upserts = (first..first + 50).map(&mut event).collect();
            commit(upserts).await.unwrap();
        }
        if round == 0 {
            print("one sync", logical).await;
        }
    }
    print("ten rewrites", logical).await;
    let compact = async || {
        let began = Instant::now();
        let live = store.live_bytes(NO_PAUSE).await.unwrap();
        let outcome = store.compact(live, NO_PAUSE).await.unwrap();
        say(&format!("{outcome:?} in {:?}", began.elapsed()));
    };
    compact().await;
    print("compacted", logical).await;
    for round in 1..=4000 {
        let upserts = (0..8).map(|_| event(choice.i64(0..count))).collect();
        commit(upserts).await.unwrap();
        if round % 1000 == 0 {
            print(&format!("after {round} commits of 8 changes"), logical).await;
        }
    }
    compact().await;
    print("compacted", logical).await;
    let (mut watch, mut largest, mut compactions) = (SizeWatch::default(), 0, 0);
    for round in 1..=4000 {
        let upserts = (0..8).map(|_| event(choice.i64(0..count))).collect();
        commit(upserts).await.unwrap();
        if round % 100 == 0 {
            largest = largest.max(store.tree_bytes().await);
            let outcome = store.compact_if_grown(&mut watch, NO_PAUSE).await.unwrap();
            compactions += u32::from(outcome != CompactionOutcome::NotNeeded);
        }
    }
    say(&format!("{compactions} compactions, {largest} bytes at most"));
    print("compacted while 32,000 changes are written", logical).await;
    store.close().await.unwrap();
}
