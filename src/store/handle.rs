//! The handle to a store: opens and closes it, passes writes to the writer, and says how far the
//! feed is durable. [`lookup`](super::lookup) and [`query`](super::query) add the reads of the tree.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};

use super::cursor::ReadPosition;
use super::deferred::DeferredQueue;
use super::disk_space::{self, DiskSpace, Footprint};
#[cfg(any(test, feature = "simulator"))]
use super::engine::memory::MemoryDisk;
use super::engine::{self, OpenEngine};
use super::error::{FeedError, OpenError, OpenFault, StoreError, TreeError};
use super::job::{WindowEdit, WriteJob};
use super::purge::PurgeProgress;
use super::reserve::SpaceReserve;
use super::row_commit::RowCommit;
use super::shared::StoreShared;
use super::tree::Tree;
use super::writer::{MAX_BATCH_BYTES, MAX_BATCH_COMMITS, Writer};
use super::{OpenReport, RegisteredWindow, StoreOptions, WindowRegistration, open};
use crate::env::Env;
use crate::metrics::StoreMetrics;
use crate::mirror::change::Seq;
use crate::mirror::commit::{Commit, CommitOutcome};
use crate::mirror::position::WindowId;
use crate::mirror::status::ResyncReason;
use crate::mirror::window::Edges;

/// Jobs that may be queued for the writer. Sending another one waits.
const QUEUE: usize = 1024;

/// A handle to the store. Clones share the same store.
///
/// A [`StoreError`] that a method does not mention means that the store can no longer be used.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    /// Dropped before the thread is joined, so that the writer stops without `close` too.
    jobs: Option<mpsc::Sender<WriteJob>>,
    deferred: DeferredQueue,
    thread: Option<JoinHandle<()>>,
    shared: Arc<StoreShared>,
    /// Held while a fleet's listing is written.
    saving_fleet: tokio::sync::Mutex<()>,
    max_defer: Duration,
    cache_bytes: u64,
    min_free_bytes: u64,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.jobs = None;
        // A panic of the writer was reported when it happened.
        self.thread.take().map(|thread| thread.join().ok());
        self.shared.release();
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("path", &self.inner.shared.path).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens or creates a store. Blocking: seconds for a large one, longer after a crash.
    ///
    /// # Errors
    /// If the store cannot be opened; [`OpenFault::remedy`] says what to do.
    pub fn open(options: &StoreOptions, env: &Env) -> Result<(Self, OpenReport), OpenError> {
        Self::open_on(Arc::new(engine::open), options, env)
    }

    /// The same for a test, with the trees on a disk in memory. The other files of the store stay in
    /// its directory.
    ///
    /// # Errors
    /// As [`Store::open`].
    #[cfg(any(test, feature = "simulator"))]
    pub fn open_in_memory(
        disk: &MemoryDisk,
        options: &StoreOptions,
        env: &Env,
    ) -> Result<(Self, OpenReport), OpenError> {
        Self::open_on(disk.opener(), options, env)
    }

    /// The same with trees of a given engine.
    pub(super) fn open_on(
        engine: Arc<OpenEngine>,
        options: &StoreOptions,
        env: &Env,
    ) -> Result<(Self, OpenReport), OpenError> {
        let opened = open::open(options, env, &*engine)?;
        let shared = Arc::new(StoreShared::new(
            options.path.clone(),
            engine,
            env.clone(),
            opened.incarnations,
            opened.tree.clone(),
            opened.last_seq,
            opened.min_seq,
        ));
        shared.metrics.cache_bytes.store(options.cache_bytes, Ordering::Relaxed);
        let (jobs, queue) = mpsc::channel(QUEUE);
        let deferred = DeferredQueue::default();
        let path = options.path.clone();
        let mut writer = Writer {
            shared: shared.clone(),
            watcher: opened.watcher,
            tree: opened.tree,
            jobs: queue,
            space: DiskSpace::new(options.min_free_bytes, move || disk_space::free(&path)),
            last_seq: opened.last_seq,
            group: 0,
            deferred: deferred.clone(),
            watermark: (opened.last_seq, None),
            reserve_held: false,
            reserve: SpaceReserve::of(&options.path, options.min_free_bytes),
        };
        let ending = shared.clone();
        let thread = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || {
                let closing =
                    catch_unwind(AssertUnwindSafe(|| writer.run())).unwrap_or_else(|_| {
                        ending.fail(&TreeError::Damaged("tree"));
                        None
                    });
                let Writer { watcher, tree, jobs, .. } = writer;
                drop(watcher);
                tree.close();
                drop(jobs);
                ending.release();
                open::await_release(&ending.path);
                // The caller of `close` may have given up.
                closing.map(|reply| reply.send(()).ok());
            })
            .map_err(|e| OpenError { path: options.path.clone(), why: OpenFault::Io(e) })?;
        let inner = Inner {
            jobs: Some(jobs),
            deferred,
            thread: Some(thread),
            shared,
            saving_fleet: tokio::sync::Mutex::default(),
            max_defer: options.max_defer.min(Duration::from_secs(30)),
            cache_bytes: options.cache_bytes,
            min_free_bytes: options.min_free_bytes,
        };
        Ok((Self { inner: Arc::new(inner) }, opened.opening))
    }

    /// Writes what is queued, stops the writer and closes the store. Every later call on any handle
    /// returns [`StoreError::Closed`]. The directory can then be opened again.
    ///
    /// # Errors
    /// The reason, if the store had failed before.
    pub async fn close(&self) -> Result<(), StoreError> {
        let (reply, closed) = oneshot::channel();
        let closing = async {
            if let Some(jobs) = &self.inner.jobs
                && jobs.send(WriteJob::Close { reply }).await.is_ok()
            {
                // Only a writer that failed drops the reply unsent; the failure is returned below.
                closed.await.ok();
            }
        };
        self.inner.shared.env.block_on_external(closing).await;
        match self.inner.shared.end_reason() {
            Some(StoreError::Closed) | None => Ok(()),
            Some(why) => Err(why),
        }
    }

    /// Resolves when the store can no longer be used: it has failed, or was closed.
    pub async fn failed(&self) -> StoreError {
        self.inner.shared.wait_ended().await
    }

    /// Compresses the items of a commit, here rather than in the writer, which is one thread.
    fn rows(&self, commit: Commit) -> Box<RowCommit> {
        let dictionary = self.inner.shared.dictionaries.newest();
        Box::new(RowCommit::of(commit, &dictionary))
    }

    /// Writes a commit and returns when it is durable.
    ///
    /// # Errors
    /// [`StoreError::UnknownWindow`], [`StoreError::MissingMaster`] and [`StoreError::Full`] mean
    /// that nothing of this commit was written. After any other error the store cannot be used.
    pub async fn commit(&self, commit: Commit) -> Result<CommitOutcome, StoreError> {
        let commit = self.rows(Commit { deferrable: false, ..commit });
        let began = tokio::time::Instant::now();
        let outcome = self.ask(|reply| WriteJob::Commit { commit, deferred: None, reply }).await?;
        self.inner.shared.metrics.commits.observe(began.elapsed());
        Ok(outcome)
    }

    /// Hands over a deferrable commit without waiting for it. It is written with the next commit that a
    /// caller waits for, or with the next [`Store::flush`]. Until it is durable,
    /// [`Store::position`] of its window waits. While the disk is full the commit is not deferred:
    /// a write that fails must not look settled.
    ///
    /// # Errors
    /// If the store can no longer be used, and [`StoreError::Full`]. If the commit is refused
    /// later, the position of its segment stays the old one.
    pub async fn submit(&self, commit: Commit) -> Result<(), StoreError> {
        if self.inner.shared.is_full() {
            return self.commit(commit).await.map(drop);
        }
        let deferred = Some(self.inner.shared.defer(commit.window));
        let (reply, _) = oneshot::channel();
        let commit = self.rows(commit);
        if let Some(why) = self.inner.shared.end_reason() {
            return Err(why);
        }
        let job = WriteJob::Commit { commit, deferred, reply };
        match self.inner.deferred.push(job, MAX_BATCH_COMMITS, MAX_BATCH_BYTES) {
            None => return Err(self.inner.shared.end_reason().unwrap_or(StoreError::Closed)),
            Some(false) => return Ok(()),
            Some(true) => {}
        }
        let (reply, _) = oneshot::channel();
        self.inner.shared.env.block_on_external(self.send(WriteJob::Flush { reply })).await
    }

    /// The longest time a submitted commit may stay deferred: call [`Store::flush`] this often.
    pub fn max_defer(&self) -> Duration {
        self.inner.max_defer
    }

    /// Registers all wanted windows at once; returns the stored state of each, in the same order.
    ///
    /// A new name gets a new window without positions. A different identity under a known name gets
    /// a new window that `replaces` the old one; the old window frees its name at once and is left
    /// to [`Store::drop_window`]. Changed configured edges, or else a changed shape, send all
    /// segments back to the first page; the resync is counted here. Rows are kept.
    ///
    /// # Errors
    /// See [`Store::replace_windows`].
    pub async fn register(
        &self,
        wanted: Vec<WindowRegistration>,
        at: Timestamp,
    ) -> Result<Vec<RegisteredWindow>, StoreError> {
        self.replace_windows(wanted, Vec::new(), at).await
    }

    /// Like [`Store::register`], but first frees the names of the `unwanted` windows, in the same
    /// write. Those windows are then being dropped; [`Store::drop_window`] has to finish that.
    ///
    /// # Errors
    /// After [`StoreError::Full`] nothing was changed. The first call after
    /// opening may use the disk space that is kept free.
    pub async fn replace_windows(
        &self,
        wanted: Vec<WindowRegistration>,
        unwanted: Vec<WindowId>,
        at: Timestamp,
    ) -> Result<Vec<RegisteredWindow>, StoreError> {
        let starting = false;
        self.ask(|reply| WriteJob::Register { wanted, unwanted, at, starting, reply }).await
    }

    /// Like [`Store::replace_windows`] for one of the slices in which a daemon registers its windows
    /// when it starts: each may use the disk space that is kept free.
    ///
    /// # Errors
    /// See [`Store::replace_windows`].
    pub async fn register_for_start(
        &self,
        wanted: Vec<WindowRegistration>,
        unwanted: Vec<WindowId>,
        at: Timestamp,
    ) -> Result<Vec<RegisteredWindow>, StoreError> {
        let starting = true;
        self.ask(|reply| WriteJob::Register { wanted, unwanted, at, starting, reply }).await
    }

    /// Writes moved edges and resets every segment to enumerate for that reason (counted as a
    /// resync here).
    ///
    /// # Errors
    /// [`StoreError::UnknownWindow`].
    pub async fn move_edges(
        &self,
        window: WindowId,
        edges: Edges,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let reason = ResyncReason::WindowMoved;
        let edit: WindowEdit = Box::new(move |w| (w.edges, w.edges_at) = (edges, at));
        self.ask(|reply| WriteJob::Reset { window, edit, reason, at, reply }).await
    }

    /// Cuts a window into segments of at most `days` days ([`Edges::cut`]), because Graph does not
    /// answer for longer ones, and resets every segment to enumerate for that reason (counted as a
    /// resync here). Rows keep the segments that held them.
    ///
    /// # Errors
    /// [`StoreError::UnknownWindow`].
    pub async fn shorten_segments(
        &self,
        window: WindowId,
        days: i64,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let reason = ResyncReason::SegmentTooLong;
        let edit: WindowEdit = Box::new(move |w| w.segment_days = days);
        self.ask(|reply| WriteJob::Reset { window, edit, reason, at, reply }).await
    }

    /// Drops a window in slices: writes a `window_dropped` removal for every event to the feed,
    /// then deletes the rows. After an interruption, calling again does the rest. A window that is
    /// not in the store counts as dropped.
    ///
    /// # Errors
    /// [`StoreError::Full`]: calling again once there is space does the rest.
    pub async fn drop_window(&self, window: WindowId, at: Timestamp) -> Result<(), StoreError> {
        let mut next = Some(PurgeProgress::Mark);
        while let Some(step) = next {
            next = self.ask(|reply| WriteJob::Drop { window, at, step, reply }).await?;
        }
        Ok(())
    }

    /// Deletes tombstones written before `before`, oldest first, and raises the feed's lowest valid
    /// seq ([`Store::min_seq`]) accordingly. Returns how many were deleted.
    ///
    /// # Errors
    /// [`StoreError::Full`]: the other tombstones can be trimmed once there is space.
    pub async fn trim(&self, before: Timestamp) -> Result<u64, StoreError> {
        let mut all = 0;
        loop {
            let trimmed = self.ask(|reply| WriteJob::Trim { before, reply }).await?;
            all += trimmed.count;
            if !trimmed.more {
                return Ok(all);
            }
        }
    }

    /// The newest durable seq: the end of the feed that readers see.
    pub fn durable_seq(&self) -> Seq {
        self.inner.shared.durable_seq()
    }

    /// An opaque version of what readers see of a window: while it is the same, the events are the
    /// same. Take it before reading, never after.
    pub fn version(&self, window: WindowId) -> String {
        let changed = self.inner.shared.last_changed(window);
        format!("{}-{:x}-{changed:x}", self.incarnation(), window.0)
    }

    /// The lowest valid seq: the highest one of a trimmed tombstone. A cursor below it that was made
    /// before the tombstone was trimmed is no longer valid.
    pub fn min_seq(&self) -> Seq {
        self.inner.shared.min_seq()
    }

    /// The cursor for `seq`, which must have been read already: a cursor made later does not notice
    /// what was trimmed before. Its reader sees every event as it is now, or later.
    pub fn cursor(&self, seq: Seq) -> String {
        self.inner.shared.cursor(ReadPosition::caught_up(seq))
    }

    /// The seq of a cursor.
    ///
    /// # Errors
    /// See [`FeedError`].
    pub fn seq(&self, cursor: &str) -> Result<Seq, FeedError> {
        Ok(self.inner.shared.position(cursor)?.seq)
    }

    /// The random id of this opening, for `/v1/status`.
    pub fn incarnation(&self) -> String {
        format!("{:016x}", self.inner.shared.incarnations.current())
    }

    /// Writes the deferred commits and waits until they are durable. On a full disk they are
    /// dropped instead; the next [`Store::submit`] reports the error.
    ///
    /// # Errors
    /// If the store can no longer be used.
    pub async fn flush(&self) -> Result<(), StoreError> {
        let shared = &self.inner.shared;
        if !shared.any_deferred() {
            // Nothing is deferred: do not wake the writer.
            return shared.end_reason().map_or(Ok(()), Err);
        }
        self.ask(|reply| WriteJob::Flush { reply }).await
    }

    /// Metrics of what is written.
    pub fn metrics(&self) -> Arc<StoreMetrics> {
        self.inner.shared.metrics.clone()
    }

    /// Jobs waiting for the writer.
    pub fn queue(&self) -> usize {
        self.inner.jobs.as_ref().map_or(0, |jobs| jobs.max_capacity() - jobs.capacity())
    }

    /// The disk usage of the store's directory. Reads file metadata on a blocking thread. An error
    /// does not affect the store.
    ///
    /// # Errors
    /// If the operating system does not report it.
    pub async fn footprint(&self) -> std::io::Result<Footprint> {
        let path = self.inner.shared.path.clone();
        let measured = tokio::task::spawn_blocking(move || disk_space::footprint(&path));
        let measured = self.inner.shared.env.block_on_external(measured).await;
        measured.unwrap_or_else(|panic| Err(std::io::Error::other(panic)))
    }

    async fn send(&self, job: WriteJob) -> Result<(), StoreError> {
        if let Some(why) = self.inner.shared.end_reason() {
            return Err(why);
        }
        match &self.inner.jobs {
            Some(jobs) => jobs.send(job).await.map_err(|_| self.gone()),
            None => Err(self.gone()),
        }
    }

    pub(super) async fn ask<T>(
        &self,
        job: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> WriteJob,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let asking = async {
            self.send(job(reply)).await?;
            answer.await.unwrap_or_else(|_| Err(self.gone()))
        };
        self.inner.shared.env.block_on_external(asking).await
    }

    /// The reason why the writer does not answer.
    fn gone(&self) -> StoreError {
        self.inner.shared.end_reason().unwrap_or(StoreError::Closed)
    }

    /// Makes sure that one fleet's listing is written at a time.
    pub(super) async fn begin_fleet_save(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.inner.saving_fleet.lock().await
    }

    /// Bytes of the engine's cache.
    pub(super) fn cache_bytes(&self) -> u64 {
        self.inner.cache_bytes
    }

    /// Bytes of disk that are kept free.
    pub(super) fn min_free_bytes(&self) -> u64 {
        self.inner.min_free_bytes
    }

    /// The state that readers share with the writer.
    pub(super) fn shared(&self) -> &Arc<StoreShared> {
        &self.inner.shared
    }

    /// One short read of the tree; returns when what it saw is durable.
    pub(super) async fn read_tree<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Tree) -> Result<T, TreeError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.inner.shared.read(move |shared| shared.read_tree(look)).await
    }
}
