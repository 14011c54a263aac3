//! What an engine promises, tested on each, and the faults of the one in memory.

use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeBounds;
use std::panic::{AssertUnwindSafe, catch_unwind};

use proptest::prelude::*;

use super::memory::{DiskFault, MemoryDisk};
use super::*;
use crate::store::open::await_unlocked;

type TreeModel = BTreeMap<Vec<u8>, Vec<u8>>;
type KeyRange = (Bound<Vec<u8>>, Bound<Vec<u8>>);

fn engines() -> [Arc<OpenEngine>; 2] {
    [Arc::new(open), MemoryDisk::default().opener()]
}

fn opened(engine: &OpenEngine, dir: &Path) -> Arc<dyn Engine> {
    engine(dir, 1 << 20).unwrap()
}

fn put(key: &str, value: &str) -> EngineWrite {
    (key.into(), Some(value.into()))
}

fn apply(tree: &dyn Engine, batch: Vec<EngineWrite>) -> Result<(), EngineError> {
    tree.apply(&mut batch.into_iter())
}

/// The entries of a range in order.
fn entries(tree: &dyn Engine, range: impl RangeBounds<[u8]>) -> Vec<(Vec<u8>, Vec<u8>)> {
    let scan = tree.scan(range.start_bound(), range.end_bound());
    scan.map(|entry| entry.unwrap()).map(|(k, v)| (k.to_vec(), v.to_vec())).collect()
}

fn all(tree: &dyn Engine) -> Vec<(Vec<u8>, Vec<u8>)> {
    entries(tree, ..)
}

#[derive(Clone, Debug)]
enum EngineStep {
    Batch(Vec<(Vec<u8>, Option<Vec<u8>>)>),
    Write(Vec<u8>, Option<Vec<u8>>),
    /// A range, and from which end each entry is taken.
    Scan(KeyRange, Vec<bool>),
    Reopen,
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::sample::select(vec![0, 1, 0xFF]), 0..4)
}

fn engine_step() -> impl Strategy<Value = EngineStep> {
    let write = || (key(), prop::option::of(prop::collection::vec(any::<u8>(), 0..40)));
    let bound = || {
        prop_oneof![
            key().prop_map(Bound::Included),
            key().prop_map(Bound::Excluded),
            Just(Bound::Unbounded)
        ]
    };
    let ends = prop::collection::vec(any::<bool>(), 50);
    prop_oneof![
        4 => prop::collection::vec(write(), 0..12).prop_map(EngineStep::Batch),
        2 => write().prop_map(|(key, value)| EngineStep::Write(key, value)),
        6 => ((bound(), bound()), ends).prop_map(|(range, ends)| EngineStep::Scan(range, ends)),
        1 => Just(EngineStep::Reopen),
    ]
}

/// The entries of a range of the model, in the order of a scan from both ends.
fn scanned(model: &TreeModel, range: &KeyRange, ends: &[bool]) -> Vec<Vec<u8>> {
    let within = |key: &&Vec<u8>| range.contains::<Vec<u8>>(key);
    let mut left: VecDeque<_> = model.keys().filter(within).cloned().collect();
    ends.iter().map_while(|back| if *back { left.pop_back() } else { left.pop_front() }).collect()
}

fn check(engine: &OpenEngine, steps: Vec<EngineStep>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let (mut tree, mut model) = (opened(engine, &path), TreeModel::new());
    for step in steps {
        match step {
            EngineStep::Batch(writes) => {
                let shared = |(k, v): &(Vec<u8>, Option<Vec<u8>>)| {
                    (k.clone().into(), v.clone().map(EngineBytes::from))
                };
                apply(&*tree, writes.iter().map(shared).collect()).unwrap();
                writes.into_iter().for_each(|(key, value)| update(&mut model, key, value));
            }
            EngineStep::Write(key, value) => {
                let shared = value.clone().map(EngineBytes::from);
                tree.write((key.clone().into(), shared)).unwrap();
                update(&mut model, key, value);
            }
            EngineStep::Scan(range, ends) => {
                let (from, to) = (range.start_bound(), range.end_bound());
                let mut scan = tree.scan(from.map(Vec::as_slice), to.map(Vec::as_slice));
                let next =
                    ends.iter().map_while(|b| if *b { scan.next_back() } else { scan.next() });
                let found: Vec<_> = next.map(|entry| entry.unwrap().0.to_vec()).collect();
                assert_eq!(found, scanned(&model, &range, &ends));
            }
            EngineStep::Reopen => {
                tree.flush().unwrap();
                drop(tree);
                await_unlocked(&path);
                tree = opened(engine, &path);
            }
        }
        assert_eq!(all(&*tree), model.clone().into_iter().collect::<Vec<_>>());
        for after in [&[][..], &[1], &[1, 0xFF]] {
            let behind = tree.scan_all(after).map(|entry| entry.unwrap().0.to_vec());
            let range = (Bound::Excluded(after), Bound::Unbounded);
            assert!(behind.eq(model.range::<[u8], _>(range).map(|(key, _)| key.clone())));
        }
    }
    for key in model.keys() {
        assert_eq!(tree.get(key).unwrap().as_deref(), model.get(key).map(Vec::as_slice));
    }
    assert_eq!(tree.get(b"absent").unwrap(), None);
}

fn update(model: &mut TreeModel, key: Vec<u8>, value: Option<Vec<u8>>) {
    match value {
        Some(value) => model.insert(key, value),
        None => model.remove(&key),
    };
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn every_engine_is_an_ordered_map(steps in prop::collection::vec(engine_step(), 1..30)) {
        for engine in engines() {
            check(&*engine, steps.clone());
        }
    }
}

#[test]
fn a_tree_is_locked_while_it_is_open_and_follows_its_directory() {
    for engine in engines() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (dir.path().join("first"), dir.path().join("second"));
        let tree = opened(&*engine, &first);
        apply(&*tree, vec![put("a", "1"), put("a", "2")]).unwrap();
        tree.flush().unwrap();
        assert!(tree.size_on_disk().unwrap() > 0);
        assert!(tree.background_error().is_none());
        let Err(EngineError::Io(locked)) = engine(&first, 1 << 20) else { panic!() };
        assert!(matches!(locked.into(), crate::store::OpenFault::Locked));
        drop(tree);
        await_unlocked(&first);
        std::fs::rename(&first, &second).unwrap();
        let tree = opened(&*engine, &second);
        assert_eq!(tree.get(b"a").unwrap().as_deref(), Some(&b"2"[..]), "the last write counts");
        assert!(all(&*opened(&*engine, &first)).is_empty());
    }
}

#[test]
fn a_flush_of_sled_is_an_error_if_its_files_cannot_be_synced() {
    let dir = tempfile::tempdir().unwrap();
    let tree = opened(&open, dir.path());
    apply(&*tree, vec![put("a", "1")]).unwrap();
    std::fs::rename(dir.path().join("db"), dir.path().join("moved")).unwrap();
    assert!(matches!(tree.flush(), Err(EngineError::Sync(_))));
    std::fs::rename(dir.path().join("moved"), dir.path().join("db")).unwrap();
    // The system reports an error once, and it is unknown afterwards what is on the disk.
    assert!(matches!(tree.flush(), Err(EngineError::Sync(_))));
}

/// A tree with a flushed batch and two that were not flushed.
fn half_flushed(disk: &MemoryDisk, dir: &Path) -> Arc<dyn Engine> {
    let tree = opened(&*disk.opener(), dir);
    apply(&*tree, vec![put("a", "1"), put("b", "1")]).unwrap();
    tree.flush().unwrap();
    apply(&*tree, vec![put("a", "2"), put("b", "2")]).unwrap();
    tree.write(("a".into(), None)).unwrap();
    assert_eq!(entries(&*tree, ..), [(b"b".to_vec(), b"2".to_vec())]);
    assert_eq!((disk.operations(), disk.unflushed()), (4, 2));
    tree
}

#[test]
fn whole_batches_survive_a_power_cut_in_order() {
    for (kept, left) in [(0, "a1 b1"), (1, "a2 b2"), (2, "b2"), (9, "b2")] {
        let dir = tempfile::tempdir().unwrap();
        let disk = MemoryDisk::default();
        let tree = half_flushed(&disk, dir.path());
        disk.fail_at(4, DiskFault::PowerCut);
        assert!(tree.flush().is_err());
        assert!(tree.get(b"a").is_err() && tree.background_error().is_some());
        assert!(tree.scan(Bound::Unbounded, Bound::Unbounded).next().unwrap().is_err());
        drop(tree);
        assert!(disk.opener()(dir.path(), 0).is_err());
        disk.restart(kept);
        let tree = opened(&*disk.opener(), dir.path());
        let text = |(k, v): (Vec<u8>, Vec<u8>)| String::from_utf8([k, v].concat()).unwrap();
        let found: Vec<_> = all(&*tree).into_iter().map(text).collect();
        assert_eq!(found.join(" "), left, "{kept} kept");
        assert!(disk.unflushed() == 0 && apply(&*tree, vec![put("c", "1")]).is_ok());
    }
}

#[test]
fn a_tree_with_an_error_refuses_writes_until_it_is_opened_again() {
    for (fault, kind) in [
        (DiskFault::Full, io::ErrorKind::StorageFull),
        (DiskFault::Broken, io::Error::from(rustix::io::Errno::IO).kind()),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let disk = MemoryDisk::default();
        let tree = half_flushed(&disk, &dir.path().join("one"));
        let other = opened(&*disk.opener(), &dir.path().join("other"));
        disk.fail_at(4, fault);
        let failed = [
            apply(&*tree, vec![put("a", "3"), put("b", "3")]),
            apply(&*tree, vec![put("a", "4"), put("b", "4")]),
            tree.write(put("a", "4")),
            tree.flush(),
            tree.background_error().map_or(Ok(()), Err),
        ];
        for failed in failed {
            assert!(matches!(failed, Err(EngineError::Io(error)) if error.kind() == kind));
        }
        let in_part = [(b"a".to_vec(), b"3".to_vec()), (b"b".to_vec(), b"2".to_vec())];
        assert_eq!(all(&*tree), in_part, "readers go on");
        assert!(other.flush().is_ok() && other.background_error().is_none());
        let closed = catch_unwind(AssertUnwindSafe(|| drop(tree)));
        assert_eq!(closed.is_err(), fault == DiskFault::Broken);
        let tree = opened(&*disk.opener(), &dir.path().join("one"));
        assert_eq!(tree.get(b"b").unwrap().as_deref(), Some(&b"1"[..]), "never flushed");
        assert!(tree.flush().is_ok());
    }
}

#[test]
fn a_tree_of_another_disk_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    drop(half_flushed(&MemoryDisk::default(), dir.path()));
    let other = MemoryDisk::default().opener()(dir.path(), 0);
    assert!(matches!(other, Err(EngineError::Damaged(_))));
}
