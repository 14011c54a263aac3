//! The store's guarantees, on each engine.

use crate::kit::*;
use calmirror::mirror::change::RemovalReason;
use calmirror::mirror::commit::{Commit, StoredKind};
use calmirror::mirror::page::{EventKind, Link};
use calmirror::mirror::position::{PendingEntry, Phase, Position};
use calmirror::mirror::status::ResyncReason;
use calmirror::store::{StoreError, StoreOptions};

on_each_engine! {
    commits_are_present_after_a_restart,
    an_event_is_in_the_feed_once,
    a_changed_master_changes_its_occurrences,
    registering_a_window_again_reports_what_changed,
    events_missing_from_an_enumeration_are_published_as_removed,
    settled_once_is_never_reset,
    only_a_start_uses_the_reserved_space,
    a_refused_commit_in_parts_writes_nothing,
}

async fn commits_are_present_after_a_restart(engine: TestEngine) {
    let (dir, store, w) = engine.fresh("alice").await;
    let mut c = commit(w);
    c.upserts =
        vec![single("a", 10, "A"), master("M", "S"), bare("o1", "M", 5), bare("o2", "M", 6)];
    c.position = Some(settled("link-1"));
    c.pending =
        vec![PendingEntry::Series { master: id("M"), needs_master: true, needs_listing: false }];
    c.counters.round = Some(3);
    let outcome = store.commit(c).await.unwrap();
    assert_eq!((outcome.created, outcome.updated, outcome.removed, outcome.events), (3, 0, 0, 3));
    store.close().await.unwrap();

    let store = engine.open(&dir);
    let attached = store.register(vec![wanted("alice")], at(0)).await.unwrap().remove(0);
    assert_eq!((attached.id, attached.events, attached.rounds), (w, 3, 3));
    assert!(attached.resync.is_none());
    assert_eq!(store.position(w, 0).await.unwrap(), Some(settled("link-1")));
    assert_eq!(store.pending(w, 0).await.unwrap().len(), 1);
    assert_eq!(ids(&events(&store, w).await), ["o1", "o2", "a"]);
    let o1 = store.event(w, &id("o1")).await.unwrap().unwrap();
    assert_eq!(json(&o1)["subject"], "S");
    assert_eq!(json(&o1)["recurrence"], serde_json::Value::Null);
    assert!(store.event(w, &id("M")).await.unwrap().is_none(), "a master is listed as an event");
    assert_eq!(fold(&store, None).await, mirror(&store, &[w]).await);
    let known = store.known(w, vec![hash("M"), hash("o1"), hash("a"), hash("?")]).await.unwrap();
    assert_eq!(
        known,
        [
            StoredKind::Master { etag: Some("W/1".into()) },
            StoredKind::Instance { master: id("M") },
            StoredKind::Single,
            StoredKind::Unknown
        ]
    );
    let series = store.series(w, 0, hash("M")).await.unwrap();
    assert_eq!(series.len(), 2);
    store.close().await.unwrap();
}

async fn an_event_is_in_the_feed_once(engine: TestEngine) {
    let (_dir, store, w) = engine.fresh("alice").await;
    let step = |store: &calmirror::store::Store, upserts, removals| {
        let mut c = commit(w);
        (c.upserts, c.removals) = (upserts, removals);
        let store = store.clone();
        async move { store.commit(c).await.unwrap() }
    };
    step(&store, vec![single("a", 1, "1")], vec![]).await;
    step(&store, vec![single("b", 2, "1")], vec![]).await;
    step(&store, vec![single("a", 1, "2")], vec![]).await;
    assert_eq!(feed(&store).await, ["2 created b", "3 updated a"]);
    step(&store, vec![], vec![removal("b", RemovalReason::Deleted)]).await;
    assert_eq!(feed(&store).await, ["3 updated a", "4 removed b"]);
    step(&store, vec![single("b", 2, "1")], vec![removal("?", RemovalReason::Deleted)]).await;
    assert_eq!(feed(&store).await, ["3 updated a", "5 created b"]);
    // The same content with members in another order: no change.
    let outcome = step(&store, vec![reordered("a", 1, "2")], vec![]).await;
    assert_eq!((outcome.created, outcome.updated, outcome.events), (0, 0, 2));
    assert_eq!(store.durable_seq(), 5);
    store.close().await.unwrap();
}

async fn a_changed_master_changes_its_occurrences(engine: TestEngine) {
    let (_dir, store, w) = engine.fresh("alice").await;
    put(
        &store,
        w,
        vec![master("M", "1"), bare("o1", "M", 5), bare("o2", "M", 6), exception("x", "M", 7, "X")],
    )
    .await;
    // Only members that occurrences do not use differ: no visible change.
    let mut c = commit(w);
    let mut own = master("M", "1");
    own.content = String::from_utf8(own.content.to_vec()).unwrap().replace("W/1", "W/2").into();
    c.upserts = vec![own];
    let outcome = store.commit(c).await.unwrap();
    assert_eq!((outcome.updated, store.durable_seq()), (0, 3));
    // Members that occurrences use differ; one occurrence is in the commit too, and one is removed.
    let outcome = put(&store, w, vec![master("M", "2"), bare("o1", "M", 5)]).await;
    assert_eq!((outcome.updated, store.durable_seq()), (2, 5));
    let o2 = store.event(w, &id("o2")).await.unwrap().unwrap();
    assert_eq!(json(&o2)["subject"], "2");
    assert_eq!(fold(&store, None).await, mirror(&store, &[w]).await);
    // The master is only forgotten when no occurrence refers to it.
    let mut c = commit(w);
    c.removals = vec![removal("o1", RemovalReason::Deleted), removal("o2", RemovalReason::Deleted)];
    c.orphans = vec![hash("M")];
    store.commit(c).await.unwrap();
    assert_eq!(store.item(w, hash("M")).await.unwrap().unwrap().kind, EventKind::Master);
    let mut c = commit(w);
    c.removals = vec![removal("x", RemovalReason::Deleted)];
    c.orphans = vec![hash("M")];
    let outcome = store.commit(c).await.unwrap();
    assert_eq!((outcome.removed, outcome.events), (1, 0));
    assert!(store.item(w, hash("M")).await.unwrap().is_none());
    store.close().await.unwrap();
}

async fn registering_a_window_again_reports_what_changed(engine: TestEngine) {
    let (_dir, store, w) = engine.fresh("alice").await;
    let mut c = commit(w);
    c.upserts = vec![single("a", 1, "1")];
    c.position = Some(settled("l"));
    c.seen = Some(seen(0, [hash("a")]));
    store.commit(c).await.unwrap();
    let again = store.register(vec![wanted("alice")], at(9)).await.unwrap().remove(0);
    assert!(again.settled && again.resync.is_none() && again.edges_at == at(0));

    let mut reshaped = wanted("alice");
    reshaped.shape.time_zone = "W. Europe Standard Time".into();
    let again = store.register(vec![reshaped.clone()], at(9)).await.unwrap().remove(0);
    assert_eq!((again.id, again.resync), (w, Some(ResyncReason::ShapeChanged)));
    assert_eq!((again.resyncs, again.settled, again.edges_at), (1, false, at(0)));
    let start = Phase::start(ResyncReason::ShapeChanged);
    assert_eq!(store.position(w, 0).await.unwrap(), Some(Position::new(start, false)));

    let mut moved = reshaped.clone();
    moved.end = calmirror::mirror::window::Edge::At(at(5000));
    moved.edges.end = at(5000);
    let again = store.register(vec![moved.clone()], at(10)).await.unwrap().remove(0);
    assert_eq!((again.id, again.resync), (w, Some(ResyncReason::WindowMoved)));
    assert_eq!((again.edges, again.edges_at), (moved.edges, at(10)));
    assert_eq!(ids(&events(&store, w).await), ["a"], "a reset keeps the rows");

    let mut other = moved.clone();
    other.identity.mailbox = "bob@example.com".into();
    let again = store.register(vec![other.clone()], at(11)).await.unwrap().remove(0);
    assert_eq!((again.replaces, again.events), (vec![w], 0));
    assert_ne!(again.id, w);
    assert!(store.position(again.id, 0).await.unwrap().is_none());
    // Interrupted before the old one was dropped: it is reported again.
    let told = store.register(vec![other.clone()], at(11)).await.unwrap().remove(0);
    assert_eq!((told.id, told.replaces), (again.id, vec![w]));
    // The first window comes back before that. It waits for both, as the older one still has its
    // ids.
    let back = store.register(vec![moved.clone()], at(11)).await.unwrap().remove(0);
    assert_eq!(back.replaces, vec![w, again.id]);
    let again = store.register(vec![other.clone()], at(11)).await.unwrap().remove(0);
    assert_eq!(again.replaces.len(), 3);
    for old in again.replaces {
        if old != w {
            store.drop_window(old, at(12)).await.unwrap();
        }
    }
    store.drop_window(w, at(12)).await.unwrap();
    let told = store.register(vec![other], at(11)).await.unwrap().remove(0);
    assert_eq!((told.id, told.replaces), (again.id, vec![]));
    let changes = changes_after(&store, 0, 10).await.unwrap();
    assert_eq!(changes.value.len(), 1);
    assert_eq!(changes.value[0].reason, Some(RemovalReason::WindowDropped));
    assert_eq!(&*changes.value[0].window, "alice");
    assert_eq!(store.windows().await.unwrap(), [live("alice", again.id)]);
    store.close().await.unwrap();
}

async fn events_missing_from_an_enumeration_are_published_as_removed(engine: TestEngine) {
    let (_dir, store, w) = engine.fresh("alice").await;
    let mut c = commit(w);
    c.upserts = vec![
        master("M", "S"),
        bare("o", "M", 1),
        single("in", 2, ""),
        single("out", 999_999, ""),
        single("seen", 3, ""),
    ];
    c.seen = Some(seen(0, [hash("o")]));
    store.commit(c).await.unwrap();
    let mut c = commit(w);
    c.seen = Some(seen(1, [hash("seen")]));
    let sweeping = Phase::Sweeping { delta: Some(Link::new("d")), reason: ResyncReason::New };
    c.position = Some(Position::new(sweeping, false));
    store.commit(c).await.unwrap();
    let mut unseen = store.unseen(w, 0, wanted("alice").edges).await.unwrap();
    unseen.sort_by_key(|r| r.id != hash("in"));
    assert_eq!(
        unseen,
        [removal("in", RemovalReason::Deleted), removal("out", RemovalReason::LeftWindow)]
    );
    assert!(store.unseen(w, 1, wanted("alice").edges).await.unwrap().is_empty());
    store.commit(Commit { clear_seen: true, ..commit(w) }).await.unwrap();
    assert_eq!(store.unseen(w, 0, wanted("alice").edges).await.unwrap().len(), 4);
    store.close().await.unwrap();
}

async fn settled_once_is_never_reset(engine: TestEngine) {
    let dir = engine.directory();
    let mut store = engine.open(&dir);
    let w = attach(&store, "alice").await;
    let enumerating = |reason| Position::start(reason, Default::default());
    let with_todo = Position { has_pending: true, ..settled("link-0") };
    let held = Position { held_until: Some(at(10)), ..enumerating(ResyncReason::Confirm) };
    // Each position, whether the window has settled by then, and whether it is held.
    let course = [
        (enumerating(ResyncReason::New), false, false),
        (enumerating(ResyncReason::SyncStateNotFound), false, false),
        (with_todo, false, false),
        (settled("link-1"), true, false),
        (held, true, true),
        (enumerating(ResyncReason::WindowMoved), true, false),
    ];
    for (position, settled_once, held) in course {
        let mut c = commit(w);
        if matches!(position.phase, Phase::Settled { .. }) {
            c.counters.success = Some(at(1));
        }
        c.position = Some(position.clone());
        store.commit(c).await.unwrap();
        store.close().await.unwrap();
        store = engine.open(&dir);
        let attached = store.register(vec![wanted("alice")], at(0)).await.unwrap().remove(0);
        assert_eq!((attached.settled_once, attached.held), (settled_once, held), "{position:?}");
    }
    // Another shape starts a resync; readers still have the complete set.
    let mut other = wanted("alice");
    other.shape.time_zone = "Europe/Berlin".into();
    let attached = store.register(vec![other], at(0)).await.unwrap().remove(0);
    assert_eq!(attached.resync, Some(ResyncReason::ShapeChanged));
    assert!(attached.settled_once && !attached.settled);
    store.close().await.unwrap();
}

async fn only_a_start_uses_the_reserved_space(engine: TestEngine) {
    let dir = engine.directory();
    let options = StoreOptions { min_free_bytes: u64::MAX, ..options(&dir) };
    let store = engine.try_open(&options).unwrap().0;
    let w = store.register(vec![wanted("a")], at(0)).await.unwrap().remove(0).id;
    // A start registers its windows in several calls.
    let c = store.register_for_start(vec![wanted("c")], vec![], at(0)).await.unwrap().remove(0).id;
    let mut reshaped = wanted("a");
    reshaped.shape.time_zone = "Europe/Berlin".into();
    // Every request of a reload is refused.
    for (wanted, leaving) in
        [(vec![wanted("a"), wanted("b")], vec![]), (vec![reshaped], vec![]), (vec![], vec![w])]
    {
        let told = store.replace_windows(wanted, leaving, at(1)).await;
        assert!(matches!(told, Err(StoreError::Full)), "{told:?}");
    }
    assert_eq!(store.windows().await.unwrap(), [live("a", w), live("c", c)]);
    // A request that changes nothing needs no space.
    let again = store.register(vec![wanted("a")], at(1)).await.unwrap().remove(0);
    assert_eq!((again.id, again.resyncs), (w, 0));
    store.close().await.unwrap();
}

async fn a_refused_commit_in_parts_writes_nothing(engine: TestEngine) {
    let (_dir, store, w) = engine.fresh("a").await;
    // Parts follow the order of the hashes: the series is in the last one.
    let mut names: Vec<String> = (0..200).map(|n| format!("e{n}")).collect();
    names.sort_by_key(|name| hash(name));
    let series = names.pop().unwrap();
    let mut c = commit(w);
    c.upserts = names.iter().map(|name| single(name, 1, &"x".repeat(60_000))).collect();
    c.upserts.push(bare("o", &series, 5));
    c.position = Some(settled("after"));
    let told = store.commit(c.clone()).await;
    assert!(matches!(&told, Err(StoreError::MissingMaster(id)) if *id == hash("o")), "{told:?}");
    assert_eq!(ids(&events(&store, w).await), [""; 0]);
    assert_eq!(changes_after(&store, 0, 9).await.unwrap().value.len(), 0);
    assert_eq!(store.position(w, 0).await.unwrap(), None);

    c.upserts.push(master(&series, "S"));
    let outcome = store.commit(c).await.unwrap();
    assert_eq!((outcome.created, outcome.events), (200, 200));
    assert_eq!(fold(&store, None).await, mirror(&store, &[w]).await);
    store.close().await.unwrap();
}
