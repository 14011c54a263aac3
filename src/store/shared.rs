//! State shared by the writer thread and the readers.
//!
//! Readers read the tree under a lock that the writer takes to apply a batch, so no read sees half
//! a batch. A result is returned only when everything it shows is durable, so a crash cannot take
//! back what a reader was given. Rows that were only compressed again show the same as before.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use tokio::sync::{Semaphore, watch};

use super::batch::WriteBatch;
use super::cursor::{Incarnations, ReadPosition};
use super::dictionary::Dictionaries;
use super::engine::OpenEngine;
use super::error::{FeedError, StoreError, TreeError};
use super::tree::Tree;
use super::written_keys::CopyRecords;
use crate::env::{self, Env};
use crate::error_chain::error_chain;
use crate::metrics::StoreMetrics;
use crate::mirror::change::Seq;
use crate::mirror::position::WindowId;

/// Reads at the same time, each of which may wait for the disk. More would need more threads.
const READS: usize = 8;

/// Slots for the last changes of windows. Windows may share a slot, so that many cost nothing.
const CHANGE_SLOTS: usize = 8192;

/// State shared by the writer thread and the readers.
pub(super) struct StoreShared {
    pub(super) path: PathBuf,
    /// Opens the trees of the store.
    pub(super) engine: Arc<OpenEngine>,
    pub(super) env: Env,
    /// Limits the reads that need a thread.
    reading: Arc<Semaphore>,
    pub(super) incarnations: Incarnations,
    pub(super) dictionaries: Arc<Dictionaries>,
    /// The tree while the store is open.
    tree: RwLock<Option<Tree>>,
    /// The number of the group whose batch was applied last.
    applied: AtomicU64,
    /// The same of batches that change what readers see.
    visible: AtomicU64,
    /// Keys that were deleted since this opening.
    deleted_keys: AtomicU64,
    /// The number of the last durable group.
    durable_group: watch::Sender<u64>,
    durable: watch::Sender<Seq>,
    min_seq: AtomicU64,
    /// For each slot, the seq of the last change of its windows since this opening.
    changed: Box<[AtomicU64]>,
    /// Whether the last group was refused for lack of disk space.
    full: AtomicBool,
    /// Set once the store can no longer be used.
    over: watch::Sender<Option<StoreError>>,
    /// Deferred commits that are not durable yet, by window.
    deferred: Mutex<BTreeMap<WindowId, usize>>,
    /// What is written while copies of the tree are made.
    pub(super) copies: CopyRecords,
    pub(super) metrics: Arc<StoreMetrics>,
}

impl StoreShared {
    /// The shared state of a store that was just opened.
    pub(super) fn new(
        path: PathBuf,
        engine: Arc<OpenEngine>,
        env: Env,
        incarnations: Incarnations,
        tree: Tree,
        last_seq: Seq,
        min_seq: Seq,
    ) -> Self {
        Self {
            path,
            engine,
            env,
            reading: Arc::new(Semaphore::new(READS)),
            incarnations,
            dictionaries: tree.dictionaries.clone(),
            tree: RwLock::new(Some(tree)),
            applied: AtomicU64::new(0),
            visible: AtomicU64::new(0),
            deleted_keys: AtomicU64::new(0),
            durable_group: watch::Sender::new(0),
            durable: watch::Sender::new(last_seq),
            min_seq: AtomicU64::new(min_seq),
            changed: (0..CHANGE_SLOTS).map(|_| AtomicU64::new(0)).collect(),
            full: AtomicBool::new(false),
            over: watch::Sender::new(None),
            deferred: Mutex::new(BTreeMap::new()),
            copies: CopyRecords::default(),
            metrics: Arc::default(),
        }
    }

    // === for the writer ===

    /// Applies a batch of a group; readers see all of it or nothing.
    pub(super) fn apply(&self, group: u64, batch: WriteBatch) -> Result<(), TreeError> {
        let tree = self.tree.write().unwrap_or_else(PoisonError::into_inner);
        let Some(tree) = &*tree else { return Ok(()) };
        self.applied.store(group, Ordering::Release);
        if !batch.reads_alike() {
            self.visible.store(group, Ordering::Release);
        }
        self.deleted_keys.fetch_add(batch.deleted() as u64, Ordering::Relaxed);
        self.copies.add(&batch);
        tree.apply(batch)
    }

    /// Whether a batch of this group, the last one, was applied.
    pub(super) fn has_applied(&self, group: u64) -> bool {
        self.applied.load(Ordering::Acquire) == group
    }

    /// Publishes a durable group and its last seq. The seq is published first: a caller whose
    /// answer waited for the group finds all of it in the feed.
    pub(super) fn publish(&self, group: u64, seq: Seq) {
        self.durable.send_if_modified(|durable| std::mem::replace(durable, seq) != seq);
        self.durable_group.send_replace(group);
    }

    /// Records that the visible content of a window changed at `seq`. Called after the batch is
    /// applied and before its seq is published: a reader may get newer events with the old version,
    /// and then asks once more in vain, but never takes old events for new ones.
    pub(super) fn mark_changed(&self, window: WindowId, seq: Seq) {
        if let Some(place) = self.changed.get(change_slot(window)) {
            place.fetch_max(seq, Ordering::AcqRel);
        }
    }

    /// Raises the lowest valid seq. Called before the trimming batch is applied, so that no cursor
    /// below it is accepted in between.
    pub(super) fn raise_min_seq(&self, seq: Seq) {
        self.min_seq.fetch_max(seq, Ordering::AcqRel);
    }

    /// Records whether there was enough disk space for a group.
    pub(super) fn note_space(&self, enough: bool) {
        self.full.store(!enough, Ordering::Release);
    }

    /// Ends the store for all handles; the first reason is kept.
    pub(super) fn end(&self, why: StoreError) {
        self.over.send_if_modified(|over| {
            let first = over.is_none();
            over.get_or_insert(why);
            first
        });
    }

    /// Reads from this tree from now on. Waits for running reads.
    pub(super) fn replace(&self, new: &Tree) {
        let mut tree = self.tree.write().unwrap_or_else(PoisonError::into_inner);
        tree.iter_mut().for_each(|tree| *tree = new.clone());
    }

    /// Drops the tree. Waits for running reads.
    pub(super) fn release(&self) {
        let tree = self.tree.write().unwrap_or_else(PoisonError::into_inner).take();
        // Nothing is lost if this fails: what was answered was synced before.
        if !tree.is_none_or(Tree::close) {
            tracing::warn!("store was not closed cleanly");
        }
    }

    // === for writer and readers ===

    /// Watches the last durable seq.
    pub(super) fn durable(&self) -> watch::Receiver<Seq> {
        self.durable.subscribe()
    }

    /// The last durable seq.
    pub(super) fn durable_seq(&self) -> Seq {
        *self.durable.borrow()
    }

    /// The number of the last durable group: how often something was written since the opening.
    pub(super) fn durable_group(&self) -> u64 {
        *self.durable_group.borrow()
    }

    /// How many keys were deleted since the opening.
    pub(super) fn deleted_keys(&self) -> u64 {
        self.deleted_keys.load(Ordering::Relaxed)
    }

    /// The lowest valid seq: the highest one of a trimmed tombstone.
    pub(super) fn min_seq(&self) -> Seq {
        self.min_seq.load(Ordering::Acquire)
    }

    /// The cursor for a position.
    pub(super) fn cursor(&self, position: ReadPosition) -> String {
        self.incarnations.cursor(position, self.min_seq())
    }

    /// The position of a cursor.
    pub(super) fn position(&self, cursor: &str) -> Result<ReadPosition, FeedError> {
        self.incarnations.position(cursor, self.durable_seq(), self.min_seq())
    }

    /// A seq that changes with the visible content of a window, and sometimes without a change.
    pub(super) fn last_changed(&self, window: WindowId) -> Seq {
        self.changed.get(change_slot(window)).map_or(0, |place| place.load(Ordering::Acquire))
    }

    /// Whether the last group was refused for lack of disk space.
    pub(super) fn is_full(&self) -> bool {
        self.full.load(Ordering::Acquire)
    }

    /// Why the store can no longer be used; `None` while it can.
    pub(super) fn end_reason(&self) -> Option<StoreError> {
        self.over.borrow().clone()
    }

    /// Resolves when the store can no longer be used.
    pub(super) async fn wait_ended(&self) -> StoreError {
        let mut over = self.over.subscribe();
        let ended = over.wait_for(Option::is_some).await;
        ended.ok().and_then(|why| why.clone()).unwrap_or(StoreError::Closed)
    }

    /// Ends the store after a fault. If the bytes on disk are wrong, also marks the store as
    /// suspect, so that the next opening audits all of it.
    pub(super) fn fail(&self, fault: &TreeError) -> StoreError {
        let why = fault.to_store_error();
        if fault.is_damage() {
            tracing::error!(reason = %error_chain(fault), "store is damaged, a restart rebuilds it");
            if let Err(error) = super::open::suspect(&self.path) {
                tracing::warn!(%error, "store could not be marked as suspect");
            }
        }
        self.end(why.clone());
        why
    }

    /// Reads the tree while no batch is applied; keep it short. Also returns the number of the last
    /// group that the read may have seen anything of.
    pub(super) fn read_tree<T>(
        &self,
        look: impl FnOnce(&Tree) -> Result<T, TreeError>,
    ) -> Result<(T, u64), StoreError> {
        let tree = self.tree.read().unwrap_or_else(PoisonError::into_inner);
        let Some(tree) = &*tree else {
            return Err(self.end_reason().unwrap_or(StoreError::Closed));
        };
        let visible = self.visible.load(Ordering::Acquire);
        look(tree).map(|value| (value, visible)).map_err(|fault| self.fail(&fault))
    }

    /// Reads on a blocking thread, which may be the caller's, and returns when everything that was
    /// read is durable, except for how it is compressed.
    pub(super) async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Self) -> Result<(T, u64), StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        if let Some(why) = self.end_reason() {
            return Err(why);
        }
        let shared = self.clone();
        let reading = async {
            // The engine panics on some kinds of damage.
            let read = AssertUnwindSafe(move || read(&shared));
            let read = move || catch_unwind(read);
            let read = match Env::may_block() {
                true => read(),
                false => match env::limited(&self.reading, read).await {
                    Ok(read) => read,
                    // The runtime ended before the read began, which says nothing about the store.
                    Err(_) => return Err(StoreError::Closed),
                },
            };
            let (value, visible) =
                read.unwrap_or_else(|_| Err(self.fail(&TreeError::Damaged("tree"))))?;
            let mut durable = self.durable_group.subscribe();
            tokio::select! {
                biased;
                _ = durable.wait_for(|group| *group >= visible) => Ok(value),
                why = self.wait_ended() => Err(why),
            }
        };
        self.env.block_on_external(reading).await
    }

    /// Records a deferred commit that is not durable yet, until the returned value is dropped.
    pub(super) fn defer(self: &Arc<Self>, window: WindowId) -> DeferredCommit {
        let mut deferred = self.deferred.lock().unwrap_or_else(PoisonError::into_inner);
        *deferred.entry(window).or_default() += 1;
        DeferredCommit { shared: self.clone(), window }
    }

    /// Whether any window has a deferred commit that is not durable yet.
    pub(super) fn any_deferred(&self) -> bool {
        !self.deferred.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Whether a window has a deferred commit that is not durable yet.
    pub(super) fn is_deferred(&self, window: WindowId) -> bool {
        let deferred = self.deferred.lock().unwrap_or_else(PoisonError::into_inner);
        deferred.contains_key(&window)
    }
}

fn change_slot(window: WindowId) -> usize {
    usize::try_from(window.0).unwrap_or(0) % CHANGE_SLOTS
}

/// A deferred commit that is not durable yet.
pub(super) struct DeferredCommit {
    shared: Arc<StoreShared>,
    window: WindowId,
}

impl Drop for DeferredCommit {
    fn drop(&mut self) {
        let mut deferred = self.shared.deferred.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = deferred.get_mut(&self.window) {
            *count -= 1;
            if *count == 0 {
                deferred.remove(&self.window);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;
    use std::time::Duration;

    use super::super::engine::EngineError;
    use super::*;
    use crate::store::{MemoryDisk, record};

    const KEY: &[u8] = b"m/test";

    fn shared(dir: &tempfile::TempDir) -> Arc<StoreShared> {
        let engine = MemoryDisk::default().opener();
        let tree = Tree::open(&*engine, &dir.path().join("store"), 0).unwrap();
        let incarnations = Incarnations(Vec::new());
        let (path, env) = (dir.path().to_owned(), Env::real());
        Arc::new(StoreShared::new(path, engine, env, incarnations, tree, 0, 0))
    }

    fn number(value: u64) -> WriteBatch {
        let mut batch = WriteBatch::default();
        batch.put(KEY.to_vec(), record::number(value));
        batch
    }

    fn reading(shared: &Arc<StoreShared>) -> tokio::task::JoinHandle<Result<u64, StoreError>> {
        let shared = shared.clone();
        tokio::spawn(async move { shared.read(|s| s.read_tree(|tree| tree.number(KEY))).await })
    }

    #[tokio::test]
    async fn a_read_runs_on_the_callers_thread_if_that_may_block() {
        let dir = tempfile::tempdir().unwrap();
        let shared = shared(&dir);
        let reader = || shared.read(|_| Ok((std::thread::current().id(), 0)));
        let here = std::thread::current().id();
        assert_eq!(Env::blocking(reader()).await.unwrap(), here);
        assert_ne!(reader().await.unwrap(), here);
        let panics = shared.read::<()>(|_| panic!("as the engine does"));
        assert!(matches!(Env::blocking(panics).await, Err(StoreError::Failed(_))));
    }

    /// Lets a read get as far as it can while the writer does nothing.
    async fn let_it_look(shared: &Arc<StoreShared>) {
        while shared.durable_group.receiver_count() == 0 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn nothing_is_published_before_it_is_durable() {
        let dir = tempfile::tempdir().unwrap();
        let shared = shared(&dir);
        shared.apply(1, number(1)).unwrap();
        let read = reading(&shared);
        let_it_look(&shared).await;
        assert!(!read.is_finished(), "applied, not durable");
        shared.publish(1, 7);
        assert_eq!(read.await.unwrap().unwrap(), 1);
        assert_eq!(shared.durable_seq(), 7);
    }

    /// Rows are compressed again while others read, and each sync would delay them.
    #[tokio::test]
    async fn nothing_is_waited_for_that_changes_nothing_for_readers() {
        let dir = tempfile::tempdir().unwrap();
        let shared = shared(&dir);
        let mut batch = number(1);
        batch.mark_reads_alike();
        shared.apply(1, batch).unwrap();
        let read = tokio::time::timeout(Duration::from_secs(30), reading(&shared)).await;
        assert_eq!(read.unwrap().unwrap().unwrap(), 1);
        assert!(shared.has_applied(1), "it is published like any other");
        shared.apply(2, number(2)).unwrap();
        let mut batch = number(2);
        batch.mark_reads_alike();
        shared.apply(2, batch).unwrap();
        let read = reading(&shared);
        let_it_look(&shared).await;
        assert!(!read.is_finished());
    }

    #[tokio::test]
    async fn writes_that_never_became_durable_are_never_published() {
        let dir = tempfile::tempdir().unwrap();
        let shared = shared(&dir);
        shared.apply(1, number(1)).unwrap();
        let read = reading(&shared);
        let_it_look(&shared).await;
        shared.end(StoreError::Failed("sync".into()));
        assert!(matches!(read.await.unwrap(), Err(StoreError::Failed(_))));
        assert!(matches!(reading(&shared).await.unwrap(), Err(StoreError::Failed(_))));
        assert!(matches!(shared.wait_ended().await, StoreError::Failed(_)));
    }

    #[tokio::test]
    async fn a_panic_while_reading_fails_the_store() {
        let dir = tempfile::tempdir().unwrap();
        let shared = shared(&dir);
        let read = shared.read(|_| -> Result<((), u64), StoreError> {
            std::panic::resume_unwind(Box::new("as an engine does"))
        });
        assert!(matches!(read.await, Err(StoreError::Failed(_))));
        let note = super::super::open::suspect_path(dir.path());
        assert_eq!(note.symlink_metadata().unwrap().mode() & 0o777, 0o600);
        // The mark must not be written through a symbolic link.
        std::fs::remove_file(&note).unwrap();
        let target = dir.path().join("elsewhere");
        std::os::unix::fs::symlink(&target, &note).unwrap();
        shared.fail(&TreeError::Damaged("tree"));
        assert!(!target.exists());
    }

    #[tokio::test]
    async fn the_log_names_the_cause_of_a_failure() {
        let dir = tempfile::tempdir().unwrap();
        let shared = shared(&dir);
        let log = tempfile::NamedTempFile::new().unwrap();
        let writer = Mutex::new(log.reopen().unwrap());
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(writer).finish();
        let _logging = crate::tests::capture_log(subscriber);
        shared.fail(&TreeError::Engine(EngineError::Damaged("the cause".to_owned())));
        let log = std::fs::read_to_string(log.path()).unwrap();
        assert!(log.contains("the cause"), "{log}");
    }
}
