//! The durable mirror and its change feed. Only this module uses sled.
//!
//! A store is a directory that one process has open. It holds, for each window, every event as
//! Graph sent it and the position of each segment, and one feed over all windows. The feed has one
//! entry per existing event (its latest change) and one per removal. One thread writes:
//! [`Store::commit`] returns when the commit is durable. Readers see only whole commits that no
//! crash can take back.
//!
//! The store does not answer before a write is durable and does not continue after a failed write.
//! It does not touch a store that is locked, full, read-only or of a newer format, and never
//! deletes a damaged one.
//!
//! Files, from the bottom up: `keys`, `record`, `row` and `batch` (what is written); `tree`
//! (reading the tree); `parts`, `plan`, `commit_applier`, `change_writer`, `register` and `purge`
//! (from a request to a batch); `writer` (the thread); `shared` (state of writer and readers);
//! `query`, `render`, `feed`, `follower`, `change_line` and `cursor` (what readers get); `directory`, `open`, `watermark` and
//! `audit` (opening); `disk_space` and `reserve` (full disks).

mod audit;
mod batch;
mod change_line;
mod change_writer;
mod commit_applier;
mod cursor;
mod directory;
mod disk_space;
mod error;
mod feed;
mod follower;
mod keys;
mod open;
mod parts;
mod pending;
mod plan;
mod purge;
mod query;
mod record;
mod register;
mod render;
mod reserve;
mod row;
mod shared;
mod tree;
mod types;
mod watermark;
mod writer;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};

use self::disk_space::DiskSpace;
pub use self::disk_space::Footprint;
pub use self::error::{FeedError, OpenError, OpenFault, StoreError};
pub use self::feed::FeedFilter;
pub use self::follower::{BATCH_BYTES, Follower};
use self::purge::PurgeProgress;
use self::reserve::SpaceReserve;
use self::shared::StoreShared;
pub use self::types::{
    AuditRow, Change, Changes, EventQuery, Events, OpenReport, RegisteredWindow, SeriesRow,
    StoreOptions, WindowRegistration,
};
use self::writer::{WriteJob, Writer};
use crate::env::Env;
use crate::metrics::StoreMetrics;
use crate::mirror::audit::EventDigest;
use crate::mirror::change::{RemovalReason, Seq};
use crate::mirror::commit::{Commit, CommitOutcome, Removal, StoredKind};
use crate::mirror::page::{EventHash, EventId, Item, Span};
use crate::mirror::position::{PendingEntry, Position, SegmentIndex, WindowId};
use crate::mirror::segment_set::SegmentSet;
use crate::mirror::window::{Edges, WindowIdentity};

/// Jobs that may be queued for the writer. Sending another one waits.
const QUEUE: usize = 1024;
/// Rows read under one lock.
const SLICE: usize = 512;

/// A handle to the store. Clones share the same store.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    /// Dropped before the thread is joined, so that the writer stops without `close` too.
    jobs: Option<mpsc::Sender<WriteJob>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    shared: Arc<StoreShared>,
    linger: Duration,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.jobs = None;
        self.join();
    }
}

impl Inner {
    fn join(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        // A panic of the writer was reported when it happened.
        thread.map(|t| t.join().ok());
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
        let opened = open::open(options, env)?;
        let shared = Arc::new(StoreShared::new(
            options.path.clone(),
            env.clone(),
            opened.incarnations,
            opened.tree.clone(),
            opened.last_seq,
            opened.floor,
        ));
        let (jobs, queue) = mpsc::channel(QUEUE);
        let path = options.path.clone();
        let mut writer = Writer {
            shared: shared.clone(),
            tree: opened.tree,
            file: opened.file,
            jobs: queue,
            space: DiskSpace::new(options.min_free_bytes, move || disk_space::free(&path)),
            last_seq: opened.last_seq,
            group: 0,
            lingering: Vec::new(),
            watermark: (opened.last_seq, None),
            reserve_held: false,
            reserve: (options.min_free_bytes > 0).then(|| SpaceReserve::of(&options.path)),
        };
        let ending = shared.clone();
        let thread = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || {
                let closing =
                    catch_unwind(AssertUnwindSafe(|| writer.run())).unwrap_or_else(|_| {
                        ending.fail(&error::TreeError::Damaged("tree"));
                        None
                    });
                // The last handle dropped runs sled's final sync, which may panic: see `release`.
                let Writer { tree, jobs, .. } = writer;
                drop((catch_unwind(AssertUnwindSafe(|| drop(tree))), jobs));
                ending.release();
                open::await_release(&ending.path);
                // The caller of `close` may have given up.
                closing.map(|reply| reply.send(()).ok());
            })
            .map_err(|e| OpenError { path: options.path.clone(), why: OpenFault::Io(e) })?;
        let inner = Inner {
            jobs: Some(jobs),
            thread: Mutex::new(Some(thread)),
            shared,
            linger: options.max_defer.min(Duration::from_secs(30)),
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

    /// Writes a commit and returns when it is durable.
    ///
    /// # Errors
    /// [`StoreError::UnknownWindow`], [`StoreError::MissingMaster`] and [`StoreError::Full`] mean
    /// that nothing of this commit was written. After any other error the store cannot be used.
    pub async fn commit(&self, commit: Commit) -> Result<CommitOutcome, StoreError> {
        let commit = Box::new(Commit { deferrable: false, ..commit });
        let began = tokio::time::Instant::now();
        let outcome = self.ask(|reply| WriteJob::Commit { commit, deferred: None, reply }).await?;
        self.inner.shared.metrics.commits.observe(began.elapsed());
        Ok(outcome)
    }

    /// Hands over a deferrable commit without waiting for it. It is written with the next commit
    /// that a caller waits for, or with the next [`Store::flush`]. Until it is durable,
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
        let lingering = Some(self.inner.shared.defer(commit.window));
        let (reply, _) = oneshot::channel();
        let job = WriteJob::Commit { commit: Box::new(commit), deferred: lingering, reply };
        self.inner.shared.env.block_on_external(self.send(job)).await
    }

    /// The longest time a submitted commit may stay deferred: call [`Store::flush`] this often.
    pub fn max_defer(&self) -> Duration {
        self.inner.linger
    }

    /// Registers all wanted windows at once; returns the stored state of each, in the same order.
    ///
    /// A new name gets a new window without positions. A different identity under a known name gets
    /// a new window that `replaces` the old one; the old window frees its name at once and is left
    /// to [`Store::drop_window`]. Changed configured edges, or else a changed shape, send all
    /// segments back to the first page; the resync is counted here. Rows are kept.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn register(
        &self,
        wanted: Vec<WindowRegistration>,
        at: Timestamp,
    ) -> Result<Vec<RegisteredWindow>, StoreError> {
        self.replace_windows(wanted, Vec::new(), at).await
    }

    /// Like [`Store::register`], but first frees the names of the `leaving` windows, in the same
    /// write. Those windows are then being dropped; [`Store::drop_window`] has to finish that.
    ///
    /// # Errors
    /// See [`StoreError`]; after [`StoreError::Full`] nothing was changed. The first call after
    /// opening (a daemon's start) may use the disk space that is kept free.
    pub async fn replace_windows(
        &self,
        wanted: Vec<WindowRegistration>,
        leaving: Vec<WindowId>,
        at: Timestamp,
    ) -> Result<Vec<RegisteredWindow>, StoreError> {
        self.ask(|reply| WriteJob::Register { wanted, leaving, at, reply }).await
    }

    /// Names and numbers of all windows, ordered by number; the flag marks those being dropped.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn windows(&self) -> Result<Vec<(Arc<str>, WindowId, bool)>, StoreError> {
        self.read_tree(|tree| tree.windows()).await
    }

    /// Names and identities of all windows that are not being dropped.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn identities(&self) -> Result<BTreeMap<Arc<str>, WindowIdentity>, StoreError> {
        self.read_tree(|tree| tree.identities()).await
    }

    /// Writes moved edges and resets every segment to enumerate for that reason (counted as a
    /// resync here).
    ///
    /// # Errors
    /// [`StoreError::UnknownWindow`], and see [`StoreError`].
    pub async fn move_edges(
        &self,
        window: WindowId,
        edges: Edges,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        self.ask(|reply| WriteJob::MoveEdges { window, edges, at, reply }).await
    }

    /// Cuts a window into segments of at most `days` days ([`Edges::cut`]), because Graph does not
    /// answer for longer ones, and resets every segment to enumerate for that reason (counted as a
    /// resync here). Rows keep the segments that held them.
    ///
    /// # Errors
    /// [`StoreError::UnknownWindow`], and see [`StoreError`].
    pub async fn shorten_segments(
        &self,
        window: WindowId,
        days: i64,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        self.ask(|reply| WriteJob::Cut { window, days, at, reply }).await
    }

    /// Drops a window in slices: writes a `window_dropped` removal for every event to the feed,
    /// then deletes the rows. After an interruption, calling again does the rest. A window that is
    /// not in the store counts as dropped.
    ///
    /// # Errors
    /// See [`StoreError`].
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
    /// See [`StoreError`].
    pub async fn trim(&self, before: Timestamp) -> Result<u64, StoreError> {
        let mut all = 0;
        loop {
            let (trimmed, more) = self.ask(|reply| WriteJob::Trim { before, reply }).await?;
            all += trimmed;
            if !more {
                return Ok(all);
            }
        }
    }

    /// The position of a segment. Waits until deferred commits of that window are durable.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn position(
        &self,
        window: WindowId,
        segment: SegmentIndex,
    ) -> Result<Option<Position>, StoreError> {
        self.wait_for_deferred(window).await?;
        self.read_tree(move |tree| tree.position(window, segment)).await
    }

    /// The segments of a window that have a position, ascending.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn segments(&self, window: WindowId) -> Result<Vec<SegmentIndex>, StoreError> {
        self.wait_for_deferred(window).await?;
        self.read_tree(move |tree| {
            Ok(tree.positions(window)?.into_iter().map(|(s, _)| s).collect())
        })
        .await
    }

    /// The pending entries of a segment.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn todo(
        &self,
        window: WindowId,
        segment: SegmentIndex,
    ) -> Result<Vec<PendingEntry>, StoreError> {
        self.wait_for_deferred(window).await?;
        self.read_tree(move |tree| tree.todos(window, segment)).await
    }

    /// What the store knows of each id, in the same order.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn known(
        &self,
        window: WindowId,
        ids: Vec<EventHash>,
    ) -> Result<Vec<StoredKind>, StoreError> {
        self.read_tree(move |tree| ids.into_iter().map(|id| tree.known(window, id)).collect()).await
    }

    /// A stored row as an item, masters included.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn item(&self, window: WindowId, id: EventHash) -> Result<Option<Item>, StoreError> {
        self.read_tree(move |tree| Ok(tree.row(window, id)?.map(|stored| stored.row.item()))).await
    }

    /// The rows of a series that a segment holds.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn series(
        &self,
        window: WindowId,
        segment: SegmentIndex,
        master: EventHash,
    ) -> Result<Vec<SeriesRow>, StoreError> {
        self.read_tree(move |tree| tree.series(window, segment, master)).await
    }

    /// Rows of the segment, masters excluded, that are in none of its seen lists. The reason is
    /// `left_window` if the row lies outside `edges` or another segment still holds it, else
    /// `deleted`. Rows held only by retired segments are treated as belonging to every segment.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn unseen(
        &self,
        window: WindowId,
        segment: SegmentIndex,
        edges: Edges,
    ) -> Result<Vec<Removal>, StoreError> {
        self.inner
            .shared
            .read(move |shared| {
                let ((seen, retired), _) = shared.read_tree(|tree| {
                    let retired = tree.window(window)?.map(|r| r.retired).unwrap_or_default();
                    Ok((tree.seen(window, segment)?, retired))
                })?;
                let mut unseen = Vec::new();
                let mut after = None;
                loop {
                    let (rows, group) = shared.read_tree(|tree| tree.rows(window, after, SLICE))?;
                    after = rows.last().map(|(id, _)| *id);
                    let last = rows.len() < SLICE;
                    for (id, stored) in rows {
                        let row = stored.row;
                        let counted = row.segments.without(retired);
                        let held = row.segments.contains(segment) || counted.is_empty();
                        if held && row.is_shown() && seen.binary_search(&id).is_err() {
                            let Span { start, end } = row.span();
                            let elsewhere = !counted.without(SegmentSet::of(segment)).is_empty();
                            let reason = if edges.overlap(start, end) && !elsewhere {
                                RemovalReason::Deleted
                            } else {
                                RemovalReason::LeftWindow
                            };
                            unseen.push(Removal { id, reason });
                        }
                    }
                    if last {
                        return Ok((unseen, group));
                    }
                }
            })
            .await
    }

    /// How many events of a window lie outside `edges`, and how many it has in all.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn outside(
        &self,
        window: WindowId,
        edges: Edges,
    ) -> Result<(usize, usize), StoreError> {
        self.inner
            .shared
            .read(move |shared| {
                let (mut outside, mut all, mut after) = (0, 0, None);
                loop {
                    let (rows, group) = shared.read_tree(|tree| tree.rows(window, after, SLICE))?;
                    after = rows.last().map(|(id, _)| *id);
                    for (_, stored) in rows.iter().filter(|(_, stored)| stored.row.is_shown()) {
                        let Span { start, end } = stored.row.span();
                        all += 1;
                        outside += usize::from(!edges.overlap(start, end));
                    }
                    if rows.len() < SLICE {
                        return Ok(((outside, all), group));
                    }
                }
            })
            .await
    }

    /// Rows that a segment holds, masters excluded, after a hash. Also returns the hash to continue
    /// after if there may be more.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn audit_rows(
        &self,
        window: WindowId,
        segment: SegmentIndex,
        after: Option<EventHash>,
    ) -> Result<(Vec<AuditRow>, Option<EventHash>), StoreError> {
        self.read_tree(move |tree| {
            let rows = tree.rows(window, after, SLICE)?;
            let next = rows.last().map(|(id, _)| *id).filter(|_| rows.len() == SLICE);
            let held = rows
                .into_iter()
                .map(|(id, stored)| (id, stored.row))
                .filter(|(_, row)| row.is_shown() && row.segments.contains(segment));
            let seen = held.map(|(id, row)| AuditRow {
                id,
                sketch: EventDigest::of(&row.item()),
                master: row.master.clone(),
            });
            Ok((seen.collect(), next))
        })
        .await
    }

    /// Events of a window. A page shows one state of the tree. A window that is not in the store
    /// has no events.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn events(&self, query: EventQuery) -> Result<Events, StoreError> {
        self.inner
            .shared
            .read(move |shared| {
                // Taken before reading: a change written meanwhile may be on the page already and
                // is delivered again after the cursor. A seq taken afterwards could skip it.
                let seq = shared.durable_seq();
                let ((gathered, more), group) =
                    shared.read_tree(|tree| query::gather(tree, &query))?;
                Ok((query::answer(&gathered, more, seq), group))
            })
            .await
    }

    /// One complete event. A master is not an event.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn event(&self, window: WindowId, id: &EventId) -> Result<Option<Bytes>, StoreError> {
        let id = id.clone();
        self.inner
            .shared
            .read(move |shared| {
                let (gathered, group) = shared.read_tree(|tree| {
                    let mut gathered = query::ResultPage::default();
                    let stored = tree.row(window, id.hash())?;
                    // The key is only a hash, so compare the id.
                    if let Some(stored) = stored.filter(|s| s.row.is_shown() && s.row.id == id) {
                        gathered.add(tree, window, stored.row)?;
                    }
                    Ok(gathered)
                })?;
                Ok((gathered.show().into_iter().next(), group))
            })
            .await
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

    /// The highest seq of a trimmed tombstone. A cursor below it that was made before the tombstone
    /// was trimmed is no longer valid.
    pub fn min_seq(&self) -> Seq {
        self.inner.shared.min_seq()
    }

    /// The cursor for `seq`, which must have been read already: a cursor made later does not notice
    /// what was trimmed before.
    pub fn cursor(&self, seq: Seq) -> String {
        self.inner.shared.cursor(seq)
    }

    /// The seq of a cursor.
    ///
    /// # Errors
    /// See [`FeedError`].
    pub fn seq(&self, cursor: &str) -> Result<Seq, FeedError> {
        self.inner.shared.seq(cursor)
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

    /// Waits until deferred commits of a window, if any, are durable.
    async fn wait_for_deferred(&self, window: WindowId) -> Result<(), StoreError> {
        if self.inner.shared.is_deferred(window) { self.flush().await } else { Ok(()) }
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

    async fn ask<T>(
        &self,
        job: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> WriteJob,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let asking = async {
            self.send(job(reply)).await?;
            self.answered(answer.await)
        };
        self.inner.shared.env.block_on_external(asking).await
    }

    fn answered<T>(
        &self,
        answer: Result<Result<T, StoreError>, oneshot::error::RecvError>,
    ) -> Result<T, StoreError> {
        answer.unwrap_or_else(|_| Err(self.gone()))
    }

    /// The reason why the writer does not answer.
    fn gone(&self) -> StoreError {
        self.inner.shared.end_reason().unwrap_or(StoreError::Closed)
    }

    /// One short read of the tree; returns when what it saw is durable.
    async fn read_tree<T: Send + 'static>(
        &self,
        look: impl FnOnce(&tree::Tree) -> Result<T, error::TreeError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.inner.shared.read(move |shared| shared.read_tree(look)).await
    }
}
