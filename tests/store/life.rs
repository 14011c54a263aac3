//! The store in use: paged reads, writes from many tasks, deferred writes, dropping.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::kit::*;
use calmirror::env::Env;
use calmirror::mirror::change::RemovalReason;
use calmirror::mirror::commit::Commit;
use calmirror::mirror::page::Span;
use calmirror::mirror::position::{PendingEntry, WindowId};
use calmirror::mirror::status::ResyncReason;
use calmirror::store::{
    BATCH_BYTES, EventQuery, FeedFilter, Follower, KnownWindow, Store, StoreError, StoreOptions,
};

on_each_engine! {
    events_with_equal_starts_are_paged_completely,
    pages_of_events_and_changes_are_limited_in_bytes,
    an_event_is_listed_in_every_range_it_overlaps,
    large_events_are_kept_whole,
    one_failed_commit_affects_no_other,
    a_dropped_window_leaves_tombstones_and_nothing_else,
    too_little_space_refuses_writing_only,
    deferred_commits_are_dropped_on_a_full_disk_and_the_next_commit_fails,
    a_closed_store_returns_an_error,
    a_window_with_fewer_segments_releases_the_rows_of_the_others,
    an_event_held_by_another_segment_leaves_only_this_segment,
    a_lagging_segment_does_not_restore_an_older_event,
    many_windows_are_registered_in_one_transaction,
}

async fn events_with_equal_starts_are_paged_completely(engine: TestEngine) {
    let (_dir, store, w) = engine.fresh("alice").await;
    let items = (0..40).map(|n| single(&format!("e{n:02}"), n / 15, "")).collect();
    put(&store, w, items).await;
    let expected: Vec<String> = (0..40).map(|n| format!("e{n:02}")).collect();
    for limit in [1, 2, 7, 15, 39, 40, 41] {
        let pages = pages(&store, EventQuery { limit, ..all(w) }).await;
        assert!(pages.iter().all(|page| (1..=limit).contains(&page.len())), "limit {limit}");
        assert_eq!(ids(&pages.concat()), expected, "limit {limit}");
    }
    store.close().await.unwrap();
}

async fn pages_of_events_and_changes_are_limited_in_bytes(engine: TestEngine) {
    let (_dir, store, w) = engine.fresh("alice").await;
    let large = "x".repeat(3 << 20);
    for n in 0..4 {
        put(&store, w, vec![single(&format!("e{n}"), n, &large)]).await;
    }
    let query = EventQuery { bytes: 4 << 20, ..all(w) };
    let page = store.events(query.clone()).await.unwrap();
    assert_eq!(
        ids(&page.value),
        ["e0", "e1"],
        "the event that exceeds the byte limit is the last one"
    );
    let rest = store.events(EventQuery { after: page.next, ..query.clone() }).await.unwrap();
    assert_eq!(ids(&rest.value), ["e2", "e3"]);
    let one = store.events(EventQuery { bytes: 0, ..query }).await.unwrap();
    assert_eq!(ids(&one.value), ["e0"], "a page has at least one event");
    let changes = changes_after(&store, 0, 1000).await.unwrap();
    assert_eq!((changes.value.len(), changes.at_end), (2, false));
    let changes = changes_after(&store, changes.seq, 1000).await.unwrap();
    assert_eq!(changes.value.len(), 2, "the remaining changes");
    store.close().await.unwrap();
}

async fn an_event_is_listed_in_every_range_it_overlaps(engine: TestEngine) {
    let (_dir, store, w) = engine.fresh("alice").await;
    const DAY: i64 = 24 * 60;
    let mut negative = lasting("before-the-epoch", -40_000_000, 60, "");
    negative.span = Span { start: at(-40_000_000), end: at(-39_999_940) };
    let items = vec![
        lasting("long", 0, 30 * DAY, ""),
        lasting("26h", 9 * DAY, 26 * 60, ""),
        lasting("26h+", 9 * DAY, 26 * 60 + 1, ""),
        lasting("ends-at-from", 10 * DAY - 60, 60, ""),
        lasting("instant", 10 * DAY, 0, ""),
        lasting("inside", 10 * DAY + 5, 10, ""),
        lasting("at-to", 11 * DAY, 10, ""),
        negative,
    ];
    let model = items.clone();
    put(&store, w, items).await;
    for (from, to) in [(10, 11), (0, 1), (9, 10), (29, 31), (30, 31), (-40, 40), (11, 12)] {
        let (from, to) = (at(from * DAY), at(to * DAY));
        let edges = calmirror::mirror::window::Edges { start: from, end: to };
        let mut expected: Vec<_> =
            model.iter().filter(|i| edges.overlap(i.span.start, i.span.end)).collect();
        expected.sort_by_key(|i| (i.span.start, i.id.clone()));
        let expected: Vec<_> = expected.iter().map(|i| i.id.as_str().to_owned()).collect();
        for limit in [1, 3, 100] {
            let query = EventQuery { from: Some(from), to: Some(to), limit, ..all(w) };
            let got = pages(&store, query).await.concat();
            assert_eq!(ids(&got), expected, "{from}..{to} by {limit}");
        }
    }
    assert_eq!(ids(&events(&store, w).await)[0], "before-the-epoch");
    let late = EventQuery { from: Some(at(10 * DAY)), ..all(w) };
    let late = ids(&store.events(late).await.unwrap().value);
    assert_eq!(late, ["long", "26h", "26h+", "instant", "inside", "at-to"]);
    store.close().await.unwrap();
}

async fn large_events_are_kept_whole(engine: TestEngine) {
    let (dir, store, w) = engine.fresh("alice").await;
    for size in [60_000, 65_536, 70_000, 1_000_000, 300, 200_000] {
        let big = single("big", 1, &"x".repeat(size));
        let mut c = commit(w);
        c.upserts = vec![big.clone(), single("after", 2, "")];
        c.pending =
            vec![PendingEntry::Waiting { item: bare("big", &"y".repeat(size), 1), earlier: true }];
        store.commit(c).await.unwrap();
        assert_eq!(store.event(w, &id("big")).await.unwrap().unwrap(), big.content);
        assert_eq!(events(&store, w).await.len(), 2, "chunks are listed as events");
        let todo = store.pending(w, 0).await.unwrap();
        assert_eq!(
            todo,
            [PendingEntry::Waiting { item: bare("big", &"y".repeat(size), 1), earlier: true }]
        );
        let mut c = commit(w);
        c.finished_pending = vec![todo[0].key()];
        c.seen = Some(seen(0, (0..10_000).map(|n| hash(&n.to_string()))));
        store.commit(c).await.unwrap();
        assert!(store.pending(w, 0).await.unwrap().is_empty());
        assert_eq!(store.unseen(w, 0, wanted("").edges).await.unwrap().len(), 2);
    }
    store.drop_window(w, at(1)).await.unwrap();
    store.close().await.unwrap();
    let store = engine.open(&dir);
    assert_eq!(fold(&store, None).await, FeedCopy::new());
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tasks_write_and_read_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let names: Vec<String> = (0..32).map(|n| format!("w{n:02}")).collect();
    let all = names.iter().map(|n| wanted(n)).collect();
    let windows: Vec<WindowId> =
        store.register(all, at(0)).await.unwrap().iter().map(|a| a.id).collect();
    let mut tasks = Vec::new();
    for &w in &windows {
        let store = store.clone();
        tasks.push(tokio::spawn(async move {
            for n in 0..30 {
                let mut c = commit(w);
                // Both events always have the same content.
                c.upserts = vec![single("a", 1, &n.to_string()), single("b", 1, &n.to_string())];
                c.position = Some(settled(&n.to_string()));
                store.commit(c).await.unwrap();
                let both = events(&store, w).await;
                assert_eq!(
                    json(&both[0])["subject"],
                    json(&both[1])["subject"],
                    "a partial commit is visible"
                );
            }
        }));
    }
    let reader = {
        let store = store.clone();
        tokio::spawn(async move {
            let mut held = FeedCopy::new();
            let mut follower = Follower::from_beginning(&store, FeedFilter::All);
            while follower.seq() < 32 * 30 * 2 {
                let after = follower.seq();
                let changes = follower.next_batch(500, BATCH_BYTES).await.unwrap();
                assert!(changes.value.iter().all(|c| c.seq > after && c.seq <= changes.seq));
                assert!(changes.value.is_sorted_by_key(|c| c.seq));
                apply(&mut held, &changes.value);
            }
            held
        })
    };
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(store.durable_seq(), 32 * 30 * 2, "seqs have no gaps");
    assert_eq!(reader.await.unwrap(), mirror(&store, &windows).await);
    store.close().await.unwrap();
}

async fn one_failed_commit_affects_no_other(engine: TestEngine) {
    let dir = engine.directory();
    let store = engine.open(&dir);
    let (a, b) = (attach(&store, "a").await, attach(&store, "b").await);
    let mut bad = commit(a);
    bad.upserts = vec![bare("o", "nobody", 1), single("x", 1, "")];
    bad.position = Some(settled("bad"));
    let mut good = commit(b);
    good.upserts = vec![single("y", 1, "")];
    let stranger = commit(WindowId(999));
    let (bad, good, stranger) =
        tokio::join!(store.commit(bad), store.commit(good), store.commit(stranger));
    assert!(matches!(bad, Err(StoreError::MissingMaster(id)) if id == hash("o")));
    assert!(matches!(stranger, Err(StoreError::UnknownWindow(WindowId(999)))));
    assert_eq!(good.unwrap().created, 1);
    assert_eq!(feed(&store).await, ["1 created y"]);
    assert_eq!(store.position(a, 0).await.unwrap(), None);
    store.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn deferred_commits_wait_but_reads_are_never_stale() {
    let dir = tempfile::tempdir().unwrap();
    let env = Env::simulated(1, at(0));
    let store = Store::open(&options(&dir), &env).unwrap().0;
    let (a, b) = (attach(&store, "a").await, attach(&store, "b").await);
    let submit = |window, link: &str| {
        let mut c = commit(window);
        (c.deferrable, c.position) = (true, Some(settled(link)));
        store.submit(c)
    };
    let begun = tokio::time::Instant::now();
    // Submitting does not wait, and the position is visible at once.
    submit(a, "1").await.unwrap();
    assert_eq!(store.position(a, 0).await.unwrap(), Some(settled("1")));
    // It stays in order with later commits of its own window and of others.
    submit(a, "2").await.unwrap();
    submit(a, "3").await.unwrap();
    put(&store, b, vec![single("x", 1, "")]).await;
    assert_eq!(store.position(a, 0).await.unwrap(), Some(settled("3")));
    submit(a, "4").await.unwrap();
    store.commit(Commit { position: Some(settled("5")), ..commit(a) }).await.unwrap();
    assert_eq!(store.position(a, 0).await.unwrap(), Some(settled("5")));
    // Closing writes deferred commits.
    submit(a, "6").await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(1), "a submitted commit was waited for");
    store.close().await.unwrap();
    drop(store);
    let store = Store::open(&options(&dir), &env).unwrap().0;
    assert_eq!(store.position(a, 0).await.unwrap(), Some(settled("6")));
    store.close().await.unwrap();
}

async fn a_dropped_window_leaves_tombstones_and_nothing_else(engine: TestEngine) {
    let dir = engine.directory();
    let store = engine.open(&dir);
    let (a, b) = (attach(&store, "a").await, attach(&store, "b").await);
    let mut items: Vec<_> = (0..700).map(|n| bare(&format!("o{n}"), "M", n)).collect();
    items.push(master("M", "S"));
    put(&store, a, items).await;
    put(&store, b, vec![single("kept", 1, "")]).await;
    let mut c = commit(a);
    c.seen = Some(seen(0, [hash("o1")]));
    c.pending = vec![PendingEntry::Removal { id: hash("o1") }];
    c.position = Some(settled("l"));
    store.commit(c).await.unwrap();
    let cursor = store.cursor(store.durable_seq());
    let mut held = fold(&store, None).await;
    assert_eq!(held.len(), 701);
    // Interrupted in the middle, then by a restart.
    let dropping = tokio::spawn({
        let store = store.clone();
        async move { store.drop_window(a, at(1)).await }
    });
    Follower::from_now(&store, FeedFilter::All).wait().await.unwrap();
    assert!(store.durable_seq() > 701 + 200, "the first slice");
    dropping.abort();
    assert_eq!(store.windows().await.unwrap()[0], KnownWindow { dropping: true, ..live("a", a) });
    // Its remaining events are still complete.
    assert!(fold(&store, None).await.values().all(|e| e["subject"] != serde_json::Value::Null));
    let refused = store.commit(commit(a)).await;
    assert!(
        matches!(refused, Err(StoreError::UnknownWindow(_))),
        "a window being dropped accepts a commit"
    );
    store.close().await.unwrap();

    let store = engine.open(&dir);
    store.drop_window(a, at(2)).await.unwrap();
    store.drop_window(a, at(2)).await.unwrap();
    assert_eq!(store.windows().await.unwrap(), [live("b", b)]);
    let changes = changes_after(&store, store.seq(&cursor).unwrap(), 10_000).await.unwrap();
    assert_eq!(changes.value.len(), 700);
    let dropped = |c: &calmirror::store::Change| {
        c.reason == Some(RemovalReason::WindowDropped) && &*c.window == "a"
    };
    assert!(changes.value.iter().all(dropped));
    apply(&mut held, &changes.value);
    assert_eq!(held, mirror(&store, &[b]).await);
    let again = attach(&store, "a").await;
    assert_ne!(again, a);
    assert_eq!(events(&store, again).await.len(), 0);
    assert_eq!(store.position(again, 0).await.unwrap(), None);
    assert!(store.item(a, hash("M")).await.unwrap().is_none());
    store.close().await.unwrap();
}

async fn too_little_space_refuses_writing_only(engine: TestEngine) {
    let (dir, store, w) = engine.fresh("a").await;
    put(&store, w, vec![single("a", 1, "")]).await;
    store.close().await.unwrap();
    let options = StoreOptions { min_free_bytes: u64::MAX, ..options(&dir) };
    let store = engine.try_open(&options).unwrap().0;
    let mut c = commit(w);
    c.upserts = vec![single("b", 1, "")];
    assert!(matches!(store.commit(c).await, Err(StoreError::Full)));
    assert_eq!(ids(&events(&store, w).await), ["a"]);
    assert_eq!(changes_after(&store, 0, 9).await.unwrap().value.len(), 1);
    store.close().await.unwrap();
}

async fn deferred_commits_are_dropped_on_a_full_disk_and_the_next_commit_fails(engine: TestEngine) {
    let (dir, store, w) = engine.fresh("a").await;
    let deferrable = |link: &str| {
        let mut c = commit(w);
        c.deferrable = true;
        c.position = Some(settled(link));
        c
    };
    store.submit(deferrable("1")).await.unwrap();
    store.close().await.unwrap();
    let options = StoreOptions { min_free_bytes: u64::MAX, ..options(&dir) };
    let store = engine.try_open(&options).unwrap().0;
    // The full disk has not been detected yet.
    store.submit(deferrable("2")).await.unwrap();
    store.flush().await.unwrap();
    assert_eq!(store.position(w, 0).await.unwrap(), Some(settled("1")));
    for _ in 0..2 {
        assert!(matches!(store.submit(deferrable("3")).await, Err(StoreError::Full)));
    }
    assert!(matches!(store.trim(at(99)).await, Err(StoreError::Full)));
    store.flush().await.unwrap();
    assert_eq!(store.position(w, 0).await.unwrap(), Some(settled("1")));
    store.close().await.unwrap();
}

async fn a_closed_store_returns_an_error(engine: TestEngine) {
    let (dir, store, w) = engine.fresh("a").await;
    let other = store.clone();
    store.close().await.unwrap();
    assert!(matches!(other.commit(commit(w)).await, Err(StoreError::Closed)));
    assert!(matches!(other.events(all(w)).await, Err(StoreError::Closed)));
    assert!(matches!(other.failed().await, StoreError::Closed));
    other.close().await.unwrap();
    engine.open(&dir).close().await.unwrap();
}

async fn a_window_with_fewer_segments_releases_the_rows_of_the_others(engine: TestEngine) {
    let dir = engine.directory();
    let store = engine.open(&dir);
    let mut long = wanted("a");
    long.edges.end = at(3 * 1825 * 24 * 60);
    long.end = calmirror::mirror::window::Edge::At(long.edges.end);
    let w = store.register(vec![long], at(0)).await.unwrap().remove(0).id;
    for segment in 0..3 {
        let mut c = commit(w);
        c.segment = segment;
        c.position = Some(settled("l"));
        c.upserts = vec![single(&format!("only{segment}"), 1, ""), single("seam", 1, "")];
        store.commit(c).await.unwrap();
    }
    assert_eq!(store.segments(w).await.unwrap(), [0, 1, 2]);
    let moved = store.register(vec![wanted("a")], at(1)).await.unwrap().remove(0);
    assert_eq!(moved.resync, Some(ResyncReason::WindowMoved));
    assert_eq!(store.segments(w).await.unwrap(), [0]);
    store.commit(Commit { seen: Some(seen(0, [hash("only0")])), ..commit(w) }).await.unwrap();
    let unseen = store.unseen(w, 0, wanted("a").edges).await.unwrap();
    assert_eq!(unseen.len(), 3, "only1, only2 and seam");
    let mut c = commit(w);
    c.removals = unseen;
    assert_eq!(store.commit(c).await.unwrap().removed, 3);
    assert_eq!(ids(&events(&store, w).await), ["only0"]);
    store.close().await.unwrap();
}

/// An event that another segment still holds is not removed: it only leaves this segment, does not
/// count towards a mass removal, and stays visible to readers.
async fn an_event_held_by_another_segment_leaves_only_this_segment(engine: TestEngine) {
    let dir = engine.directory();
    let store = engine.open(&dir);
    let mut long = wanted("a");
    long.edges.end = at(2 * 1825 * 24 * 60);
    long.end = calmirror::mirror::window::Edge::At(long.edges.end);
    let edges = long.edges;
    let w = store.register(vec![long], at(0)).await.unwrap().remove(0).id;
    for segment in 0..2 {
        let mut c = commit(w);
        c.segment = segment;
        c.position = Some(settled("l"));
        c.upserts = vec![single(&format!("only{segment}"), 1, ""), single("seam", 1, "")];
        store.commit(c).await.unwrap();
    }
    let seq = changes_after(&store, 0, 10).await.unwrap().seq;
    // The first segment is enumerated again without any event.
    let mut unseen = store.unseen(w, 0, edges).await.unwrap();
    unseen.sort_by_key(|r| r.id != hash("only0"));
    assert_eq!(
        unseen,
        [removal("only0", RemovalReason::Deleted), removal("seam", RemovalReason::LeftWindow)]
    );
    let mut c = commit(w);
    c.removals = unseen;
    assert_eq!(store.commit(c).await.unwrap().removed, 1);
    assert_eq!(ids(&events(&store, w).await), ["only1", "seam"]);
    assert_eq!(changes_after(&store, seq, 10).await.unwrap().value.len(), 1);
    // The other segment is the only holder now.
    let mut unseen = store.unseen(w, 1, edges).await.unwrap();
    unseen.sort_by_key(|r| r.id != hash("only1"));
    assert_eq!(unseen, ["only1", "seam"].map(|id| removal(id, RemovalReason::Deleted)));
    store.close().await.unwrap();
}

/// An event moved from the first segment into the second, whose stream is ahead. An older version
/// in the first segment's stream is ignored, and then the first segment removes the event.
async fn a_lagging_segment_does_not_restore_an_older_event(engine: TestEngine) {
    let dir = engine.directory();
    let store = engine.open(&dir);
    let w = store.register(vec![wanted("a")], at(0)).await.unwrap().remove(0).id;
    let modified = |minute: u8| format!("2026-11-06T08:0{minute}:00Z");
    let told = async |segment, minute: u8| {
        let mut item = single("x", i64::from(minute), "");
        item.content =
            format!(r#"{{"id":"x","lastModifiedDateTime":"{}"}}"#, modified(minute)).into();
        store.commit(Commit { segment, upserts: vec![item], ..commit(w) }).await.unwrap();
        let event = json(&events(&store, w).await.remove(0));
        event["lastModifiedDateTime"].as_str().unwrap().to_owned()
    };
    assert_eq!(told(0, 5).await, modified(5));
    assert_eq!(told(1, 7).await, modified(7));
    assert_eq!(told(0, 6).await, modified(7), "late");
    // With a single holder the order of the stream counts, whatever the modification times say.
    let mut c = commit(w);
    c.removals = vec![removal("x", RemovalReason::LeftWindow)];
    store.commit(c).await.unwrap();
    assert_eq!(told(1, 4).await, modified(4));
}

async fn many_windows_are_registered_in_one_transaction(engine: TestEngine) {
    let dir = engine.directory();
    let store = engine.open(&dir);
    let all: Vec<_> = (0..3000).map(|n| wanted(&format!("w{n}"))).collect();
    let first = store.register(all.clone(), at(0)).await.unwrap();
    let again = store.register(all, at(0)).await.unwrap();
    let number =
        |a: &[calmirror::store::RegisteredWindow]| a.iter().map(|a| a.id).collect::<Vec<_>>();
    assert_eq!(number(&first), number(&again));
    assert_eq!(number(&first).into_iter().collect::<BTreeSet<_>>().len(), 3000);
    store.close().await.unwrap();
}
