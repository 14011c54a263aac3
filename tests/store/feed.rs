//! The feed: its followers, its cursors, and the tombstones that are trimmed from it.

use std::collections::BTreeSet;
use std::pin::pin;

use calmirror::env::Env;
use calmirror::mirror::change::{ChangeKind, RemovalReason, Seq};
use calmirror::mirror::commit::Commit;
use calmirror::mirror::page::Item;
use calmirror::mirror::position::WindowId;
use calmirror::store::{
    BATCH_BYTES, Change, Changes, FeedError, FeedFilter, Follower, Store, StoreError,
};
use futures_util::FutureExt as _;

use crate::kit::*;

on_each_engine! {
    a_follower_continues_at_a_cursor,
    entries_of_one_commit_are_read_from_each_cursor_to_each_end,
    an_end_counts_what_readers_get_of_each_event,
    what_replaces_an_event_comes_before_its_removal,
    a_follower_waits_for_a_commit,
    a_trimmed_cursor_is_an_error,
    closing_the_store_ends_its_followers,
    old_tombstones_are_trimmed_and_old_cursors_refused,
    cursors_are_valid_after_restarts,
    an_update_names_what_it_changed,
    a_reader_that_missed_a_change_is_told_that_there_was_one,
    a_removal_says_what_was_removed,
    what_a_change_says_is_bounded,
    the_same_event_in_other_bytes_writes_no_row,
}

/// Creates these events, in a commit each: the order within a commit is undefined.
async fn create(store: &Store, window: WindowId, ids: &[&str]) {
    for id in ids {
        put(store, window, vec![single(id, 0, "x")]).await;
    }
}

async fn remove(store: &Store, window: WindowId, id: &str) {
    let removals = vec![removal(id, RemovalReason::Deleted)];
    store.commit(Commit { removals, ..commit(window) }).await.unwrap();
}

fn changed(changes: &Changes) -> Vec<&str> {
    changes.value.iter().map(|change| change.id.as_str()).collect()
}

async fn a_follower_continues_at_a_cursor(engine: TestEngine) {
    let (dir, store, window) = engine.fresh("a").await;
    create(&store, window, &["a", "b"]).await;
    create(&store, window, &["c", "d"]).await;
    let mut follower = Follower::from_beginning(&store, FeedFilter::All);
    assert!(follower.cursor().ends_with("~0"));
    let first = follower.next_batch(3, BATCH_BYTES).await.unwrap();
    assert_eq!(changed(&first), ["a", "b", "c"]);
    assert_eq!(first.value[2].cursor, follower.cursor());
    assert!(follower.cursor().ends_with("~3"), "still on the way from the beginning");
    let (end, end_cursor) = follower.reach(10, BATCH_BYTES).await.unwrap();
    assert_eq!((end, follower.seq()), (4, 3));
    let cursors: Vec<String> = first.value.into_iter().map(|change| change.cursor).collect();
    store.close().await.unwrap();

    let store = engine.open(&dir);
    create(&store, window, &["e"]).await;
    for (cursor, rest) in [
        (&cursors[0], &["b", "c", "d", "e"][..]),
        (&cursors[2], &["d", "e"]),
        (&end_cursor, &["e"]),
    ] {
        let mut follower = Follower::after(&store, cursor, FeedFilter::All).unwrap();
        assert_eq!(&follower.cursor(), cursor);
        let changes = follower.read(10, BATCH_BYTES).await.unwrap();
        assert_eq!(changed(&changes), rest);
        assert!(changes.at_end);
        assert_eq!(follower.cursor(), store.cursor(5), "no longer from the beginning");
    }
    let mut bounded = Follower::after(&store, &cursors[0], FeedFilter::All).unwrap();
    let changes = bounded.read_to(end, 10, BATCH_BYTES).await.unwrap();
    assert_eq!((changed(&changes), changes.at_end), (vec!["b", "c", "d"], true));
    let beyond = format!("{}~6", store.cursor(5));
    for bad in ["x", "x~1", &*beyond, &*format!("{}~", cursors[0])] {
        let refused = Follower::after(&store, bad, FeedFilter::All);
        assert!(matches!(refused, Err(FeedError::Malformed)), "{bad}");
    }
}

async fn entries_of_one_commit_are_read_from_each_cursor_to_each_end(engine: TestEngine) {
    let (_dir, store, window) = engine.fresh("a").await;
    let ids: Vec<String> = (0..40).map(|n| format!("e{n}")).collect();
    put(&store, window, ids.iter().map(|id| single(id, 0, "x")).collect()).await;
    // One is updated, and one removed, out of the middle.
    put(&store, window, vec![single("e7", 0, "y")]).await;
    remove(&store, window, "e8").await;
    let mut follower = Follower::from_beginning(&store, FeedFilter::All);
    let all = follower.read(100, BATCH_BYTES).await.unwrap().value;
    let seqs: Vec<Seq> = all.iter().map(|change| change.seq).collect();
    let found: BTreeSet<&str> = all.iter().map(|change| change.id.as_str()).collect();
    assert_eq!((found.len(), seqs.len()), (40, 40));
    assert_eq!((seqs[38], seqs[39]), (41, 42));
    for (after, from) in all.iter().zip(1..) {
        for limit in [1, 3, 20] {
            let cursor = store.cursor(after.seq);
            let mut follower = Follower::after(&store, &cursor, FeedFilter::All).unwrap();
            let (end, _) = follower.reach(limit, BATCH_BYTES).await.unwrap();
            let read = follower.read_to(end, 100, BATCH_BYTES).await.unwrap();
            let read: Vec<Seq> = read.value.iter().map(|change| change.seq).collect();
            assert_eq!(read, seqs[from..(from + limit).min(40)], "{limit} after {}", after.seq);
        }
    }
}

async fn an_end_counts_what_readers_get_of_each_event(engine: TestEngine) {
    let (_dir, store, window) = engine.fresh("a").await;
    let large = "x".repeat(20_000);
    let mut items = vec![master("series", &large)];
    items.extend((0..20).map(|n| bare(&format!("o{n}"), "series", n)));
    items.extend((0..20).map(|n| single(&format!("e{n}"), n, &large[..4000])));
    put(&store, window, items).await;
    remove(&store, window, "e7").await;
    for subject in [&large, &large[..10]] {
        // An update of the series is one of its occurrences.
        put(&store, window, vec![master("series", subject)]).await;
        let mut all = Follower::from_beginning(&store, FeedFilter::All);
        let changes = all.read(100, BATCH_BYTES).await.unwrap().value;
        let length = |change: &Change| change.event.as_ref().map_or(0, |event| event.len());
        let total: usize = changes.iter().map(length).sum();
        for wanted in (1000..total - 1000).step_by(10_000) {
            let follower = Follower::from_beginning(&store, FeedFilter::All);
            let (end, _) = follower.reach(100, wanted).await.unwrap();
            let to = |end: Seq| -> usize {
                changes.iter().filter(|change| change.seq <= end).map(length).sum()
            };
            // Each size is at most a step of 256 bytes and the repeated members of a series too large.
            let tolerance = changes.len() * 400;
            assert!(to(end - 1) < wanted, "{wanted}: more than was wanted before {end}");
            assert!(to(end) + tolerance > wanted, "{wanted}: only {} up to {end}", to(end));
        }
    }
}

async fn what_replaces_an_event_comes_before_its_removal(engine: TestEngine) {
    let (_dir, store, window) = engine.fresh("a").await;
    let of = |kind: &str, start: i64| -> Vec<Item> {
        (0..10).map(|n| single(&format!("{kind}{n}"), start + n, "x")).collect()
    };
    put(&store, window, of("old", 0)).await;
    let removals = (0..10).map(|n| removal(&format!("old{n}"), RemovalReason::Deleted)).collect();
    let replaced = Commit { upserts: of("new", 100), removals, ..commit(window) };
    store.commit(replaced).await.unwrap();
    let changes = changes_after(&store, 10, 100).await.unwrap();
    let kinds: Vec<ChangeKind> = changes.value.iter().map(|change| change.kind).collect();
    assert_eq!(kinds, [[ChangeKind::Created; 10], [ChangeKind::Removed; 10]].concat());
    // In the order of their starts, as their rows lie.
    let created: Vec<String> = (0..10).map(|n| format!("new{n}")).collect();
    assert_eq!(changed(&changes)[..10], created);
}

async fn a_follower_waits_for_a_commit(engine: TestEngine) {
    let (_dir, store, window) = engine.fresh("a").await;
    create(&store, window, &["a"]).await;
    let mut follower = Follower::from_now(&store, FeedFilter::All);
    let quiet = follower.read(10, BATCH_BYTES).await.unwrap();
    assert!(quiet.value.is_empty() && quiet.at_end);
    {
        let mut wait = pin!(follower.wait());
        assert!(wait.as_mut().now_or_never().is_none());
        create(&store, window, &["b"]).await;
        wait.await.unwrap();
    }
    follower.wait().now_or_never().unwrap().unwrap();
    assert_eq!(changed(&follower.next_batch(10, BATCH_BYTES).await.unwrap()), ["b"]);
    let next = follower.next_batch(10, BATCH_BYTES);
    let (next, ()) = tokio::join!(biased; next, create(&store, window, &["c"]));
    assert_eq!(changed(&next.unwrap()), ["c"]);
    assert!(follower.wait().now_or_never().is_none());
}

async fn a_trimmed_cursor_is_an_error(engine: TestEngine) {
    let dir = engine.directory();
    let store = engine.open(&dir);
    let (window, other) = (attach(&store, "a").await, attach(&store, "b").await);
    create(&store, window, &["a", "b", "c"]).await;
    let mut late = Follower::from_now(&store, FeedFilter::All);
    let mut quiet = Follower::from_now(&store, FeedFilter::Window(other));
    let cursor = late.cursor();
    remove(&store, window, "c").await;
    let mut halfway = Follower::from_beginning(&store, FeedFilter::All);
    assert_eq!(changed(&halfway.read(1, BATCH_BYTES).await.unwrap()), ["a"]);
    assert!(quiet.read(10, BATCH_BYTES).await.unwrap().value.is_empty());
    assert_eq!(store.trim(at(1)).await.unwrap(), 1);

    let expired = late.read(10, BATCH_BYTES).await;
    assert!(matches!(expired, Err(FeedError::SnapshotRequired)), "{expired:?}");
    assert_eq!(late.cursor(), cursor, "a failed read does not move it");
    let reach = late.reach(10, BATCH_BYTES).await;
    assert!(matches!(reach, Err(FeedError::SnapshotRequired)), "{reach:?}");
    let again = Follower::after(&store, &cursor, FeedFilter::All);
    assert!(matches!(again, Err(FeedError::SnapshotRequired)), "{again:?}");
    // It began after the removal, so it needs no tombstone of it.
    assert_eq!(changed(&halfway.read(10, BATCH_BYTES).await.unwrap()), ["b"]);
    // It read past the removal, which its filter rejected.
    assert!(quiet.read(10, BATCH_BYTES).await.is_ok());
}

async fn closing_the_store_ends_its_followers(engine: TestEngine) {
    let (_dir, store, window) = engine.fresh("a").await;
    let mut follower = Follower::from_now(&store, FeedFilter::All);
    let mut unread = Follower::from_now(&store, FeedFilter::All);
    create(&store, window, &["a"]).await;
    assert_eq!(changed(&follower.next_batch(10, BATCH_BYTES).await.unwrap()), ["a"]);
    let (ended, closed) = tokio::join!(biased; follower.next_batch(10, BATCH_BYTES), store.close());
    closed.unwrap();
    let is_closed = |error| matches!(error, FeedError::Store(StoreError::Closed));
    assert!(is_closed(ended.unwrap_err()));
    assert!(is_closed(follower.wait().await.unwrap_err()));
    assert!(is_closed(unread.wait().await.unwrap_err()));
    assert!(is_closed(unread.read(10, BATCH_BYTES).await.unwrap_err()));
}

#[test]
fn a_cancelled_read_is_repeated() {
    // The only blocking thread is kept busy, so that the read cannot end at once.
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.max_blocking_threads(1).build().unwrap().block_on(async {
        let (_dir, store, window) = fresh("a").await;
        create(&store, window, &["a", "b"]).await;
        let mut follower = Follower::from_beginning(&store, FeedFilter::All);
        let (release, held) = std::sync::mpsc::channel::<()>();
        let busy = tokio::task::spawn_blocking(move || held.recv().is_err());
        assert!(follower.next_batch(10, BATCH_BYTES).now_or_never().is_none());
        drop(release);
        assert!(busy.await.unwrap());
        assert_eq!(follower.seq(), 0);
        assert_eq!(changed(&follower.next_batch(10, BATCH_BYTES).await.unwrap()), ["a", "b"]);
    });
}

/// Tombstones written under a clock that was ahead, and under one that was behind.
#[tokio::test]
async fn tombstones_with_wrong_times_are_trimmed_with_their_neighbours() {
    let dir = tempfile::tempdir().unwrap();
    let env = Env::simulated(1, at(1000));
    let store = Store::open(&options(&dir), &env).unwrap().0;
    let w = attach(&store, "a").await;
    let count = 600;
    put(&store, w, (0..count + 4).map(|n| single(&format!("e{n}"), n, "")).collect()).await;
    let remove = async |n: i64, when| {
        let removals = vec![removal(&format!("e{n}"), RemovalReason::Deleted)];
        store.commit(Commit { at: when, removals, ..commit(w) }).await.unwrap();
    };
    let years_ahead = at(1000) + jiff::SignedDuration::from_hours(10 * 365 * 24);
    // More of them than one slice of trimming covers.
    for n in 0..count {
        remove(n, years_ahead).await;
    }
    remove(count, at(500)).await;
    // The next one is young; after it come one from a clock that was behind, and one from a clock
    // that was ahead.
    remove(count + 1, at(900)).await;
    remove(count + 2, at(1)).await;
    remove(count + 3, years_ahead).await;
    assert_eq!(store.trim(at(400)).await.unwrap(), 0, "tombstones of unknown age were trimmed");
    assert_eq!(store.trim(at(600)).await.unwrap(), 601);
    assert_eq!(
        store.trim(at(600)).await.unwrap(),
        0,
        "a tombstone after a younger one was trimmed"
    );
    assert_eq!(store.trim(at(950)).await.unwrap(), 2);
    assert_eq!(fold(&store, None).await, mirror(&store, &[w]).await);
    store.close().await.unwrap();
}

async fn old_tombstones_are_trimmed_and_old_cursors_refused(engine: TestEngine) {
    let (dir, store, w) = engine.fresh("a").await;
    let items = (0..600).map(|n| single(&format!("e{n}"), n, "")).collect();
    put(&store, w, items).await;
    let early = store.cursor(600);
    for (n, when) in [(0, 10), (1, 20), (2, 30)] {
        let removals = vec![removal(&format!("e{n}"), RemovalReason::Deleted)];
        store.commit(Commit { at: at(when), removals, ..commit(w) }).await.unwrap();
    }
    let late = store.cursor(602);
    assert_eq!(store.trim(at(10)).await.unwrap(), 0);
    assert_eq!(store.trim(at(25)).await.unwrap(), 2);
    assert!(matches!(store.seq(&early), Err(FeedError::SnapshotRequired)));
    assert_eq!(store.seq(&late).unwrap(), 602);
    // Reading from the beginning is always possible, and so is continuing from there, although
    // these cursors lie below the minimal seq.
    let begun = changes_after(&store, 0, 100).await.unwrap();
    assert!(begun.seq < 602);
    assert_eq!(store.seq(&store.cursor(begun.seq)).unwrap(), begun.seq);
    assert_eq!(fold(&store, None).await, mirror(&store, &[w]).await);
    // An event that is created again has no tombstone to trim.
    put(&store, w, vec![single("e2", 1, "")]).await;
    assert_eq!(store.trim(at(99)).await.unwrap(), 0);
    assert_eq!(changes_after(&store, 602, 9).await.unwrap().value[0].kind, ChangeKind::Created);
    store.close().await.unwrap();
    let store = engine.open(&dir);
    assert!(matches!(store.seq(&early), Err(FeedError::SnapshotRequired)));
    assert_eq!(store.seq(&late).unwrap(), 602);
    store.close().await.unwrap();
}

async fn cursors_are_valid_after_restarts(engine: TestEngine) {
    let dir = engine.directory();
    let mut given: Vec<(String, u64)> = Vec::new();
    for n in 0..5 {
        let store = engine.open(&dir);
        for (cursor, seq) in &given {
            assert_eq!(store.seq(cursor).unwrap(), *seq);
            assert_eq!(&store.cursor(*seq), cursor);
        }
        let w = attach(&store, "a").await;
        // Every other opening assigns no seq.
        if n % 2 == 1 {
            put(&store, w, vec![single(&n.to_string(), 1, ""), single("x", n, "")]).await;
        }
        let last = store.durable_seq();
        given.extend((0..=last).map(|seq| (store.cursor(seq), seq)));
        let beyond = store.cursor(last + 1);
        assert!(matches!(store.seq(&beyond), Err(FeedError::SnapshotRequired)));
        store.close().await.unwrap();
    }
    assert_eq!(given.iter().map(|(c, _)| c).collect::<BTreeSet<_>>().len(), 5);
}

fn versioned(subject: &str, start: i64, version: u32) -> Item {
    let item = single("a", start, subject);
    let mut content = item.content.to_vec();
    content.pop();
    content.extend_from_slice(format!(r#","changeKey":"{version}"}}"#).as_bytes());
    Item { content: content.into(), ..item }
}

async fn an_update_names_what_it_changed(engine: TestEngine) {
    let (_dir, store, window) = engine.fresh("a").await;
    for (seq, (item, changed)) in (0..).zip([
        (versioned("x", 0, 1), None),
        (versioned("y", 5, 2), Some(vec!["start".to_owned(), "subject".to_owned()])),
        (versioned("y", 5, 3), Some(Vec::new())),
    ]) {
        put(&store, window, vec![item]).await;
        let changes = changes_after(&store, seq, 10).await.unwrap();
        assert_eq!(changes.value.len(), 1);
        assert_eq!(changes.value[0].changed, changed);
        assert_eq!(changes.value[0].is_new_version, seq == 2);
        assert_eq!(changes.value[0].summary, None);
    }
}

async fn a_reader_that_missed_a_change_is_told_that_there_was_one(engine: TestEngine) {
    let (_dir, store, window) = engine.fresh("a").await;
    let read = async |follower: &mut Follower, limit: usize| {
        let changes = follower.read(limit, BATCH_BYTES).await.unwrap().value;
        let told = |change: Change| (change.id.as_str().to_owned(), change.is_new_version);
        changes.into_iter().map(|change| (change.changed.clone(), told(change))).collect::<Vec<_>>()
    };
    create(&store, window, &["b"]).await;
    put(&store, window, vec![versioned("x", 0, 1)]).await;
    let mut reader = Follower::from_now(&store, FeedFilter::All);
    let before = reader.cursor();
    // Read up to the entry of "b", while that of "a" has moved on to another version.
    put(&store, window, vec![versioned("y", 0, 2)]).await;
    put(&store, window, vec![single("b", 0, "z")]).await;
    put(&store, window, vec![versioned("y", 0, 3)]).await;
    let subject = Some(vec!["subject".to_owned()]);
    assert_eq!(read(&mut reader, 1).await, [(subject, ("b".to_owned(), false))]);
    let part = reader.cursor();
    // One that goes on, one that comes back, and one that has missed both.
    for cursor in [&part, &before] {
        let mut again = Follower::after(&store, cursor, FeedFilter::All).unwrap();
        let last = read(&mut again, 10).await.pop().unwrap();
        assert_eq!(last, (None, ("a".to_owned(), false)), "a change was missed");
    }
    assert_eq!(read(&mut reader, 10).await, [(None, ("a".to_owned(), false))]);
    let caught_up = reader.cursor();
    put(&store, window, vec![versioned("y", 0, 4)]).await;
    for cursor in [&caught_up, &store.cursor(5)] {
        let mut again = Follower::after(&store, cursor, FeedFilter::All).unwrap();
        let version = (Some(Vec::new()), ("a".to_owned(), true));
        assert_eq!(read(&mut again, 10).await, [version]);
    }
}

async fn a_removal_says_what_was_removed(engine: TestEngine) {
    let (_dir, store, window) = engine.fresh("a").await;
    put(&store, window, vec![single("a", 3, "x"), master("m", "series"), bare("o", "m", 7)]).await;
    remove(&store, window, "a").await;
    let summaries = async || {
        let changes = changes_after(&store, 0, 10).await.unwrap().value;
        let removed = changes.into_iter().filter(|change| change.kind == ChangeKind::Removed);
        removed.map(|change| json(&change.summary.unwrap())).collect::<Vec<_>>()
    };
    let single = serde_json::json!({"subject": "x", "start": 3});
    assert_eq!(summaries().await, std::slice::from_ref(&single));
    store.drop_window(window, at(1)).await.unwrap();
    let occurrence = serde_json::json!({"subject": "series", "start": 7});
    assert_eq!(summaries().await, [single, occurrence], "completed from its master");
}

/// Values of more than about 128 KiB would not be durable, and Graph's own limits are lower.
async fn what_a_change_says_is_bounded(engine: TestEngine) {
    let (_dir, store, window) = engine.fresh("a").await;
    let with = |members: usize, value: &str| {
        let item = single("a", 0, &"s".repeat(200_000));
        let open = std::str::from_utf8(&item.content).unwrap().strip_suffix('}').unwrap();
        let more = (0..members).map(|n| format!(r#","member{n:04}":{value}"#)).collect::<String>();
        Item { content: format!("{open}{more}}}").into(), ..item }
    };
    put(&store, window, vec![with(900, "1")]).await;
    put(&store, window, vec![with(900, "2")]).await;
    let updated = changes_after(&store, 1, 10).await.unwrap();
    assert_eq!(updated.value[0].changed, None);
    remove(&store, window, "a").await;
    let removed = changes_after(&store, 0, 10).await.unwrap();
    assert_eq!(removed.value[0].summary, None);
}

/// A row that arrives in another order of its members stays as it is stored.
async fn the_same_event_in_other_bytes_writes_no_row(engine: TestEngine) {
    let (_dir, store, window) = engine.fresh("a").await;
    put(&store, window, vec![single("a", 0, "x")]).await;
    let rows = || store.metrics().rows.load(std::sync::atomic::Ordering::Relaxed);
    let before = rows();
    let outcome = put(&store, window, vec![reordered("a", 0, "x")]).await;
    assert_eq!((outcome.updated, rows()), (0, before));
}
