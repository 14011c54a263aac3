//! Copies of a tree that is written meanwhile.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::env::Env;
use crate::store::batch::WriteBatch;
use crate::store::cursor::Incarnations;
use crate::store::engine::{self, OpenEngine, memory::MemoryDisk};

type Content = BTreeMap<Vec<u8>, Vec<u8>>;

fn shared(dir: &tempfile::TempDir, engine: Arc<OpenEngine>) -> Arc<StoreShared> {
    let tree = Tree::open(&*engine, &dir.path().join("store"), 1 << 20).unwrap();
    let (path, env) = (dir.path().to_owned(), Env::real());
    Arc::new(StoreShared::new(path, engine, env, Incarnations(Vec::new()), tree, 0, 0))
}

/// The writes of a group: random puts and deletes in a small space of keys.
fn writes(group: u64) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
    let mut random = fastrand::Rng::with_seed(group);
    let count = if group == 1 { 3000 } else { random.usize(..40) };
    let write = |random: &mut fastrand::Rng| {
        let key = format!("k{:04}", random.u32(..2000)).into_bytes();
        (key, random.bool().then(|| vec![random.u8(..); random.usize(..200)]))
    };
    (0..count).map(|_| write(&mut random)).collect()
}

fn apply(shared: &StoreShared, group: u64) {
    let mut batch = WriteBatch::default();
    for (key, value) in writes(group) {
        match value {
            Some(value) => batch.put(key, value),
            None => batch.delete(key),
        }
    }
    shared.apply(group, batch).unwrap();
    shared.publish(group, 0);
}

fn receive(content: &mut Content, slice: CopySlice) {
    for (key, value) in slice.entries {
        match value {
            Some(value) => content.insert(key.to_vec(), value.to_vec()),
            None => content.remove(&*key),
        };
    }
}

/// What the tree holds after a group.
fn content_after(group: u64) -> Content {
    let mut content = Content::new();
    for (key, value) in (1..=group).flat_map(writes) {
        match value {
            Some(value) => content.insert(key, value),
            None => content.remove(&key),
        };
    }
    content
}

fn copy_to_end(copy: &mut TreeCopy, content: &mut Content, bytes: usize) -> (u64, usize) {
    for slices in 1.. {
        let slice = copy.next_slice(bytes).unwrap();
        let (group, last) = (slice.group, slice.last);
        receive(content, slice);
        if last {
            return (group, slices);
        }
    }
    unreachable!()
}

/// Stops the writing thread of a test, also if the test fails.
struct StopWriting<'a>(&'a AtomicBool);

impl Drop for StopWriting<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_copy_is_the_tree_of_one_moment_while_the_writer_goes_on() {
    copy_while_the_writer_goes_on(Arc::new(engine::open));
    copy_while_the_writer_goes_on(MemoryDisk::default().opener());
}

fn copy_while_the_writer_goes_on(engine: Arc<OpenEngine>) {
    let dir = tempfile::tempdir().unwrap();
    let shared = shared(&dir, engine);
    apply(&shared, 1);
    let stop = AtomicBool::new(false);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            for group in 2.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                apply(&shared, group);
            }
        });
        let _stop = StopWriting(&stop);
        let mut meanwhile = 0;
        for round in 0..5 {
            let mut copy = TreeCopy::begin(&shared).unwrap();
            let first = copy.next_slice(1).unwrap();
            assert_eq!((first.entries.len(), first.last), (1, false));
            let (began, mut content) = (first.group, Content::new());
            // On a busy machine the writer might otherwise write nothing.
            while shared.read_tree(|_| Ok(())).unwrap().1 == began {
                std::thread::yield_now();
            }
            receive(&mut content, first);
            // A copy can be continued after its end.
            for _ in 0..2 {
                let (group, slices) = copy_to_end(&mut copy, &mut content, 2000 + 500 * round);
                assert!(content == content_after(group), "round {round}, {slices} slices");
                meanwhile += group - began;
            }
        }
        assert!(meanwhile > 0, "nothing was written meanwhile");
    });
}

#[test]
fn a_copy_of_a_quiet_tree_has_each_key_once() {
    let dir = tempfile::tempdir().unwrap();
    let shared = shared(&dir, MemoryDisk::default().opener());
    let mut copy = TreeCopy::begin(&shared).unwrap();
    assert!(copy.next_slice(1000).unwrap().last, "an empty tree");
    apply(&shared, 1);
    let mut copy = TreeCopy::begin(&shared).unwrap();
    let whole = copy.next_slice(usize::MAX).unwrap();
    assert!(whole.last);
    assert_eq!(whole.entries.len(), content_after(1).len());
    let nothing = copy.next_slice(1000).unwrap();
    assert!(nothing.last && nothing.entries.is_empty());
    let (mut copy, mut content) = (TreeCopy::begin(&shared).unwrap(), Content::new());
    let (_, slices) = copy_to_end(&mut copy, &mut content, 10_000);
    assert!(slices > 5, "{slices} slices");
    assert!(content == content_after(1));
}

#[test]
fn a_copy_of_a_store_that_has_ended_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let shared = shared(&dir, MemoryDisk::default().opener());
    let mut copy = TreeCopy::begin(&shared).unwrap();
    shared.end(StoreError::Closed);
    shared.release();
    assert!(matches!(copy.next_slice(1000), Err(StoreError::Closed)));
    assert!(matches!(TreeCopy::begin(&shared), Err(StoreError::Closed)));
}
