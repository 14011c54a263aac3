//! Any sequence of commits and restarts: the store against a simple model, on each engine. On sled
//! some rows are moved to where 0.1 wrote them before a restart; in memory the power is cut during
//! some commits.

use std::collections::{BTreeMap, BTreeSet};

use crate::kit::*;
use calmirror::mirror::availability::Availability;
use calmirror::mirror::busy_time::BusyTime;
use calmirror::mirror::change::RemovalReason;
use calmirror::mirror::commit::Commit;
use calmirror::mirror::page::{EventKind, Item, Span};
use calmirror::mirror::position::WindowId;
use calmirror::store::{DiskFault, EventQuery, Store, StoreError};
use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::Value;

#[derive(Clone, Debug)]
struct StoreStep {
    window: usize,
    segment: u8,
    upserts: Vec<Spec>,
    removals: Vec<u8>,
    orphans: Vec<u8>,
    restart: bool,
    /// How many operations before the power is cut, and how many of the next ones survive.
    cut: Option<(u64, usize)>,
}

/// An item of a commit.
#[derive(Clone, Debug)]
struct Spec {
    id: u8,
    kind: u8,
    of: u8,
    start: i64,
    subject: u8,
    reordered: bool,
}

/// Ids 0 and 1 may be masters, or become single instances.
fn name(id: u8) -> String {
    if id < 2 { format!("M/{id}+") } else { format!("i{id}") }
}

impl Spec {
    fn item(&self) -> Item {
        let (id, of, subject) = (name(self.id), name(self.of), self.subject.to_string());
        match (self.id < 2, self.kind) {
            (true, 0..3) => showing(master(&id, &subject), self.subject),
            (false, 0..2) => bare(&id, &of, self.start),
            (false, 2) => exception(&id, &of, self.start, &subject),
            _ if self.reordered => reordered(&id, self.start, &subject),
            // Some are longer than the index looks back.
            _ => lasting(&id, self.start, 30 + 2000 * i64::from(self.of), &subject),
        }
    }
}

/// A master that shows its time as its subject says.
fn showing(item: Item, subject: u8) -> Item {
    let show_as = if subject == 0 { "oof" } else { "busy" };
    let content = String::from_utf8(item.content.to_vec()).unwrap();
    let content = content.replacen('{', &format!(r#"{{"showAs":"{show_as}","#), 1);
    Item {
        availability: Availability::of_event(content.as_bytes()),
        content: content.into(),
        ..item
    }
}

fn spec() -> impl Strategy<Value = Spec> {
    (0..7u8, 0..4u8, 0..2u8, 0..6i64, 0..3u8, any::<bool>()).prop_map(
        |(id, kind, of, start, subject, reordered)| Spec {
            id,
            kind,
            of,
            start: start * 700,
            subject,
            reordered,
        },
    )
}

fn step() -> impl Strategy<Value = StoreStep> {
    let few = |n| prop::collection::vec(0..7u8, 0..n);
    let cut = prop::option::weighted(0.2, (0..2u64, 0..2usize));
    (0..2usize, 0..2u8, prop::collection::vec(spec(), 0..5), few(3), few(3), 0..12u8, cut).prop_map(
        |(window, segment, upserts, removals, orphans, restart, cut)| StoreStep {
            window,
            segment,
            upserts,
            removals,
            orphans,
            restart: restart == 0,
            cut,
        },
    )
}

/// A row of the model.
#[derive(Clone)]
struct Held {
    item: Item,
    segments: u64,
}

type Rows = BTreeMap<String, Held>;

/// The visible content of a row, built from parsed JSON.
fn look(rows: &Rows, held: &Held) -> Value {
    let own: Value = serde_json::from_slice(&held.item.content).unwrap();
    if held.item.full {
        return own;
    }
    let of = held.item.master.as_ref().unwrap().as_str();
    let mut all: Value = serde_json::from_slice(&rows[of].item.content).unwrap();
    all.as_object_mut().unwrap().remove("@odata.etag");
    for (name, value) in own.as_object().unwrap() {
        all[name] = value.clone();
    }
    all["recurrence"] = Value::Null;
    all["originalStart"] = held.item.span.start.to_string().into();
    let link = all["webLink"].as_str().unwrap().to_owned();
    all["webLink"] = link.replace("M%2F0%2B", held.item.id.as_str()).into();
    all["webLink"] =
        all["webLink"].as_str().unwrap().replace("M%2F1%2B", held.item.id.as_str()).into();
    all
}

/// Applies a step to the model. Returns false if the store must refuse it.
fn apply(rows: &mut Rows, step: &StoreStep, items: &[Item]) -> bool {
    let old = rows.clone();
    let mut new = rows.clone();
    let bit = 1 << step.segment;
    for item in items {
        let id = item.id.as_str().to_owned();
        let segments = new.get(&id).map_or(0, |h| h.segments) | bit;
        new.insert(id, Held { item: item.clone(), segments });
    }
    let mut forget: BTreeSet<String> = step.orphans.iter().map(|id| name(*id)).collect();
    for &removed in &step.removals {
        let Some(held) = new.get_mut(&name(removed)) else { continue };
        if held.item.kind == EventKind::Master {
            forget.insert(name(removed));
        } else {
            held.segments &= !bit;
            if held.segments == 0 {
                // The last instance removes its master too, unless the commit contains the master.
                let master = held.item.master.as_ref().map(|m| m.as_str().to_owned());
                forget.extend(master.filter(|m| items.iter().all(|i| i.id.as_str() != m)));
                new.remove(&name(removed));
            }
        }
    }
    let is_master =
        |rows: &Rows, id: &str| rows.get(id).is_some_and(|h| h.item.kind == EventKind::Master);
    let carried: BTreeSet<&str> = items.iter().map(|i| i.id.as_str()).collect();
    // Stubs whose master is no longer a master keep their visible content.
    let ended: Vec<String> = new
        .iter()
        .filter(|(_, h)| !h.item.full)
        .filter(|(_, h)| !is_master(&new, h.item.master.as_ref().unwrap().as_str()))
        .map(|(id, _)| id.clone())
        .collect();
    for id in ended {
        if carried.contains(&*id) {
            return false;
        }
        let look = serde_json::to_vec(&look(&old, &old[&id])).unwrap();
        let held = new.get_mut(&id).unwrap();
        (held.item.content, held.item.full) = (look.into(), true);
    }
    for master in forget {
        let named = |h: &Held| h.item.master.as_ref().is_some_and(|m| m.as_str() == master);
        if is_master(&new, &master) && !new.values().any(named) {
            new.remove(&master);
        }
    }
    *rows = new;
    true
}

fn expected(model: &[Rows]) -> FeedCopy {
    let mut mirror = FeedCopy::new();
    for (window, rows) in model.iter().enumerate() {
        for (id, held) in rows.iter().filter(|(_, h)| h.item.kind != EventKind::Master) {
            mirror.insert((format!("w{window}"), id.clone()), look(rows, held));
        }
    }
    mirror
}

/// Removes repeated ids from a commit.
fn tidy(step: &mut StoreStep) {
    let mut met = BTreeSet::new();
    step.upserts.retain(|spec| met.insert(spec.id));
    step.removals.retain(|id| met.insert(*id));
}

async fn check(engine: &TestEngine, mut steps: Vec<StoreStep>) {
    let dir = engine.directory();
    let mut store = engine.open(&dir);
    let windows = [attach(&store, "w0").await, attach(&store, "w1").await];
    let mut model = [Rows::new(), Rows::new()];
    let (mut reader, mut after) = (FeedCopy::new(), store.cursor(0));
    for step in &mut steps {
        tidy(step);
        if step.restart {
            store.close().await.unwrap();
            if matches!(engine, TestEngine::Sled) {
                move_rows_back(&dir, |hash| hash % 2 == step.segment);
            }
            store = engine.open(&dir);
        }
        let items: Vec<Item> = step.upserts.iter().map(Spec::item).collect();
        let mut commit = commit(windows[step.window]);
        commit.segment = step.segment;
        commit.upserts = items.clone();
        commit.removals =
            step.removals.iter().map(|id| removal(&name(*id), RemovalReason::Deleted)).collect();
        commit.orphans = step.orphans.iter().map(|id| hash(&name(*id))).collect();
        let mut after_step = model.clone();
        apply(&mut after_step[step.window], step, &items);
        if cut_power(engine, &store, step, &commit).await {
            store = engine.open(&dir);
            let found = mirror(&store, &windows).await;
            assert!([&model, &after_step].into_iter().any(|model| found == expected(model)));
        }
        let before = store.durable_seq();
        let outcome = store.commit(commit.clone()).await;
        if apply(&mut model[step.window], step, &items) {
            let outcome = outcome.unwrap();
            let shown = model[step.window].values().filter(|h| h.item.kind != EventKind::Master);
            assert_eq!(outcome.events, shown.count() as u64);
            let changes = outcome.created + outcome.updated + outcome.removed;
            assert_eq!(store.durable_seq(), before + u64::from(changes));
            // The same commit again: no change.
            let again = store.commit(commit).await.unwrap();
            assert_eq!((again.created, again.updated, again.removed), (0, 0, 0));
            assert_eq!(store.durable_seq(), before + u64::from(changes));
        } else {
            assert!(matches!(outcome, Err(StoreError::MissingMaster(_))), "{outcome:?}");
            assert_eq!(store.durable_seq(), before);
        }
        // A following reader has the current state, and each change differs from what it held.
        let changes = changes_after(&store, store.seq(&after).unwrap(), 1000).await.unwrap();
        let unseen = |c: &calmirror::store::Change| {
            let key = (c.window.to_string(), c.id.as_str().to_owned());
            c.event.as_ref().map(json).as_ref() != reader.get(&key)
        };
        assert!(changes.value.iter().all(unseen), "a change without a difference");
        crate::kit::apply(&mut reader, &changes.value);
        after = store.cursor(changes.seq);
        assert_eq!(reader, expected(&model));
        verify(&store, &windows, &reader).await;
        verify_ranges(&store, windows[step.window], &model[step.window]).await;
    }
    store.close().await.unwrap();
    if matches!(engine, TestEngine::Sled) {
        move_rows_back(&dir, |hash| hash % 3 == 0);
    }
    let store = engine.open(&dir);
    verify(&store, &windows, &reader).await;
    verify_ranges(&store, windows[0], &model[0]).await;
    store.close().await.unwrap();
}

/// Makes a commit during which the power is cut, if the step says so. Returns whether the store has
/// to be opened again: it has the commit, or nothing of it.
async fn cut_power(engine: &TestEngine, store: &Store, step: &StoreStep, commit: &Commit) -> bool {
    let (TestEngine::Memory(disk), Some((operations, kept))) = (engine, step.cut) else {
        return false;
    };
    disk.fail_at(disk.operations() + operations, DiskFault::PowerCut);
    match store.commit(commit.clone()).await {
        Err(StoreError::Failed(_)) => {
            store.close().await.unwrap_err();
            disk.restart(kept);
            true
        }
        // It needs fewer operations, or is refused.
        _ => {
            disk.fail_at(u64::MAX, DiskFault::PowerCut);
            false
        }
    }
}

async fn verify(store: &Store, windows: &[WindowId], reader: &FeedCopy) {
    assert_eq!(&mirror(store, windows).await, reader);
    assert_eq!(&fold(store, None).await, reader);
    let one: FeedCopy =
        reader.iter().filter(|(k, _)| k.0 == "w1").map(|(k, v)| (k.clone(), v.clone())).collect();
    assert_eq!(fold(store, Some(windows[1])).await, one);
    let mut met = BTreeSet::new();
    for change in changes_after(store, 0, 1000).await.unwrap().value {
        assert!(met.insert((change.window, change.id)), "an id is in the feed twice");
    }
}

/// Compares queries of ranges with the model, in order, and the busy times in them.
async fn verify_ranges(store: &Store, window: WindowId, rows: &Rows) {
    for (from, to) in [(0, 700), (10, 20), (690, 2800), (1400, 1400), (2000, 9000)] {
        let (from, to) = (at(from), at(to));
        let overlaps = |held: &&Held| {
            let Span { start, end } = held.item.span;
            held.item.kind != EventKind::Master && start < to && end > from
        };
        let mut expected: Vec<(Timestamp, &str)> = rows
            .values()
            .filter(overlaps)
            .map(|h| (h.item.span.start, h.item.id.as_str()))
            .collect();
        expected.sort_unstable();
        let query = EventQuery { from: Some(from), to: Some(to), limit: 2, ..all(window) };
        let found = ids(&pages(store, query).await.concat());
        assert_eq!(found, expected.into_iter().map(|(_, id)| id).collect::<Vec<_>>());
        let show_as = |held: &Held| {
            let shown = Availability::of_event(look(rows, held).to_string().as_bytes());
            shown.unwrap_or(Availability::UNKNOWN).show_as
        };
        let taken = rows.values().filter(overlaps).map(|held| {
            let Span { start, end } = held.item.span;
            BusyTime { start, end, show_as: show_as(held) }
        });
        let found = store.busy_times(window, from, to).await.unwrap();
        assert_eq!(sorted(found), sorted(taken.collect()));
    }
}

fn sorted(mut times: Vec<BusyTime>) -> Vec<BusyTime> {
    times.sort_unstable_by_key(|time| (time.start, time.end, time.show_as.as_str()));
    times
}

fn run(engine: &TestEngine, steps: Vec<StoreStep>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(check(engine, steps));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn the_feed_folds_to_the_mirror(steps in prop::collection::vec(step(), 1..24)) {
        run(&TestEngine::Sled, steps);
    }

    #[test]
    fn the_feed_folds_to_the_mirror_after_power_cuts(steps in prop::collection::vec(step(), 1..24)) {
        run(&TestEngine::memory(), steps);
    }
}
