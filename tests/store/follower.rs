//! Followers of a real store.

use std::pin::pin;

use calmirror::mirror::change::RemovalReason;
use calmirror::mirror::position::WindowId;
use calmirror::store::{BATCH_BYTES, Changes, FeedError, FeedFilter, Follower, Store, StoreError};
use futures_util::FutureExt as _;

use crate::kit::{at, attach, commit, open, removal, single};

/// Creates these events, in a commit each: the order within a commit is undefined.
async fn create(store: &Store, window: WindowId, ids: &[&str]) {
    for id in ids {
        let mut commit = commit(window);
        commit.upserts = vec![single(id, 0, "x")];
        store.commit(commit).await.unwrap();
    }
}

async fn remove(store: &Store, window: WindowId, id: &str) {
    let mut commit = commit(window);
    commit.removals = vec![removal(id, RemovalReason::Deleted)];
    store.commit(commit).await.unwrap();
}

fn ids(changes: &Changes) -> Vec<&str> {
    changes.value.iter().map(|change| change.id.as_str()).collect()
}

#[tokio::test]
async fn a_follower_continues_at_a_cursor() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let window = attach(&store, "a").await;
    create(&store, window, &["a", "b"]).await;
    create(&store, window, &["c", "d"]).await;
    let mut follower = Follower::from_beginning(&store, FeedFilter::All);
    assert!(follower.cursor().ends_with("~0"));
    let first = follower.next_batch(3, BATCH_BYTES).await.unwrap();
    assert_eq!(ids(&first), ["a", "b", "c"]);
    assert_eq!(first.value[2].cursor, follower.cursor());
    assert!(follower.cursor().ends_with("~3"), "still on the way from the beginning");
    let (end, end_cursor) = follower.reach(10, BATCH_BYTES).await.unwrap();
    assert_eq!((end, follower.seq()), (4, 3));
    let cursors: Vec<String> = first.value.into_iter().map(|change| change.cursor).collect();
    store.close().await.unwrap();

    let store = open(&dir);
    create(&store, window, &["e"]).await;
    for (cursor, rest) in [
        (&cursors[0], &["b", "c", "d", "e"][..]),
        (&cursors[2], &["d", "e"]),
        (&end_cursor, &["e"]),
    ] {
        let mut follower = Follower::after(&store, cursor, FeedFilter::All).unwrap();
        assert_eq!(&follower.cursor(), cursor);
        let changes = follower.read(10, BATCH_BYTES).await.unwrap();
        assert_eq!(ids(&changes), rest);
        assert!(changes.at_end);
        assert_eq!(follower.cursor(), store.cursor(5), "no longer from the beginning");
    }
    let mut bounded = Follower::after(&store, &cursors[0], FeedFilter::All).unwrap();
    let changes = bounded.read_to(end, 10, BATCH_BYTES).await.unwrap();
    assert_eq!((ids(&changes), changes.at_end), (vec!["b", "c", "d"], true));
    let beyond = format!("{}~6", store.cursor(5));
    for bad in ["x", "x~1", &*beyond, &*format!("{}~", cursors[0])] {
        let refused = Follower::after(&store, bad, FeedFilter::All);
        assert!(matches!(refused, Err(FeedError::Malformed)), "{bad}");
    }
}

#[tokio::test]
async fn a_follower_waits_for_a_commit() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let window = attach(&store, "a").await;
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
    assert_eq!(ids(&follower.next_batch(10, BATCH_BYTES).await.unwrap()), ["b"]);
    let next = follower.next_batch(10, BATCH_BYTES);
    let (next, ()) = tokio::join!(biased; next, create(&store, window, &["c"]));
    assert_eq!(ids(&next.unwrap()), ["c"]);
    assert!(follower.wait().now_or_never().is_none());
}

#[tokio::test]
async fn a_trimmed_cursor_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let (window, other) = (attach(&store, "a").await, attach(&store, "b").await);
    create(&store, window, &["a", "b", "c"]).await;
    let mut late = Follower::from_now(&store, FeedFilter::All);
    let mut quiet = Follower::from_now(&store, FeedFilter::Window(other));
    let cursor = late.cursor();
    remove(&store, window, "c").await;
    let mut halfway = Follower::from_beginning(&store, FeedFilter::All);
    assert_eq!(ids(&halfway.read(1, BATCH_BYTES).await.unwrap()), ["a"]);
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
    assert_eq!(ids(&halfway.read(10, BATCH_BYTES).await.unwrap()), ["b"]);
    // It read past the removal, which its filter rejected.
    assert!(quiet.read(10, BATCH_BYTES).await.is_ok());
}

#[tokio::test]
async fn closing_the_store_ends_its_followers() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let window = attach(&store, "a").await;
    let mut follower = Follower::from_now(&store, FeedFilter::All);
    let mut unread = Follower::from_now(&store, FeedFilter::All);
    create(&store, window, &["a"]).await;
    assert_eq!(ids(&follower.next_batch(10, BATCH_BYTES).await.unwrap()), ["a"]);
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
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir);
        let window = attach(&store, "a").await;
        create(&store, window, &["a", "b"]).await;
        let mut follower = Follower::from_beginning(&store, FeedFilter::All);
        let (release, held) = std::sync::mpsc::channel::<()>();
        let busy = tokio::task::spawn_blocking(move || held.recv().is_err());
        assert!(follower.next_batch(10, BATCH_BYTES).now_or_never().is_none());
        drop(release);
        assert!(busy.await.unwrap());
        assert_eq!(follower.seq(), 0);
        assert_eq!(ids(&follower.next_batch(10, BATCH_BYTES).await.unwrap()), ["a", "b"]);
    });
}
