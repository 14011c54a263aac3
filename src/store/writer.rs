//! The writer: the only thread that writes to the tree.
//!
//! Queued jobs are written as a group. Each run of commits of different windows is one atomic
//! batch. The whole group is then flushed, published and answered, in this order. No job is answered
//! before it is durable. Any error of these steps ends the store, because a failed sync cannot be
//! retried.
//!
//! If disk space is short (`disk_space`), the whole group is refused and nothing is written. Only
//! two kinds of registrations are still done: those that change nothing and, so that a daemon can
//! start, those of a start.
//!
//! A commit that is too large for one batch is written in parts (`parts`).
//!
//! Deferred commits wait (`deferred`) without a timer: `supervisor/maintenance` sends
//! [`WriteJob::Flush`] when they have waited long enough.

use std::collections::BTreeMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::batch::WriteBatch;
use super::compaction::{Compaction, CompactionError, TreeHandles};
use super::deferred::DeferredQueue;
use super::disk_space::DiskSpace;
use super::error::{PlanError, StoreError, TreeError};
use super::exchange::ExchangeError;
use super::job::{CommitGroup, WriteJob, answer_flush, estimated_bytes, refuse};
use super::keys;
use super::parts;
use super::plan;
use super::purge::{self, Trimmed};
use super::record::FeedChecksum;
use super::reserve::SpaceReserve;
use super::row_commit::RowCommit;
use super::shared::StoreShared;
use super::tree::Tree;
use super::watermark::{self, Watermark};
use super::write_watcher::WriteWatcher;
use super::{RegisteredWindow, WindowRegistration, register};
use crate::error_chain::error_chain;
use crate::mirror::change::{ChangeKind, Seq};
use crate::mirror::commit::{Commit, CommitOutcome};
use crate::mirror::position::WindowId;
use crate::mirror::status::ResyncReason;

/// Most commits in one batch. 256 took 4 ms to become durable; more only wait longer.
pub(super) const MAX_BATCH_COMMITS: usize = 256;
/// Most bytes, roughly, in one batch of several commits.
pub(super) const MAX_BATCH_BYTES: usize = 1 << 20;
/// Windows registered in one batch.
const MAX_BATCH_WINDOWS: usize = 1024;
/// How often the watermark is written.
const WATERMARK_INTERVAL: Duration = Duration::from_secs(2);

/// The state of the writer thread.
pub(super) struct Writer<P> {
    pub(super) shared: Arc<StoreShared>,
    /// Watches the writes to `tree`, and has a handle to it.
    pub(super) watcher: WriteWatcher,
    pub(super) tree: Tree,
    pub(super) jobs: mpsc::Receiver<WriteJob>,
    pub(super) space: DiskSpace<P>,
    pub(super) last_seq: Seq,
    pub(super) group: u64,
    pub(super) deferred: DeferredQueue,
    /// The seq of the watermark, and when this opening last wrote it.
    pub(super) watermark: (Seq, Option<Instant>),
    /// Disk space held for the next opening; `None` if no space is to be kept free.
    pub(super) reserve: Option<SpaceReserve>,
    /// Whether the reserve was allocated again since the opening.
    pub(super) reserve_held: bool,
}

impl<P: FnMut() -> io::Result<(u64, u64)>> Writer<P> {
    /// Runs until the store is closed or all senders are gone. Returns the reply to send once
    /// everything of the store has been dropped.
    pub(super) fn run(&mut self) -> Option<oneshot::Sender<()>> {
        let mut closing = None;
        while closing.is_none() {
            let Some(first) = self.jobs.blocking_recv() else { break };
            let mut urgent = Vec::new();
            let mut bytes = 0;
            let mut next = Some(first);
            while let Some(job) = next {
                bytes += estimated_bytes(&job);
                if let WriteJob::Close { reply } = job {
                    closing = Some(reply);
                    break;
                }
                urgent.push(job);
                // Nothing of this group is written after the tree was replaced.
                let full = matches!(urgent.last(), Some(WriteJob::Replace { .. }))
                    || urgent.len() >= MAX_BATCH_COMMITS
                    || bytes >= MAX_BATCH_BYTES;
                next = if full { None } else { self.jobs.try_recv().ok() };
            }
            self.write(urgent);
        }
        self.write(Vec::new());
        self.jobs.close();
        self.deferred.close();
        if self.shared.end_reason().is_none() {
            self.write_watermark(true);
            self.shared.end(StoreError::Closed);
        }
        while let Ok(job) = self.jobs.try_recv() {
            refuse(job, &self.shared.end_reason().unwrap_or(StoreError::Closed));
        }
        closing
    }

    /// Writes the deferred commits, then the urgent jobs, as one group.
    ///
    /// A deferred commit may so overtake an urgent job of its window, which an aborted attempt left
    /// in the queue, and which the next attempt did not see when it began. That is harmless: a
    /// deferred commit has no events, only the link of an empty last page, or counters. The job
    /// then replaces its link by an older one, and the next round repeats one request. In the other
    /// order it would replace a link or a reset that it knows nothing of.
    fn write(&mut self, urgent: Vec<WriteJob>) {
        let mut jobs = self.deferred.take();
        jobs.extend(urgent);
        // Registrations come first at a start and may use the disk space that the opening freed.
        // The reserve is therefore allocated again with the first other job.
        if !self.reserve_held && !jobs.iter().all(|job| matches!(job, WriteJob::Register { .. })) {
            self.reserve_held = true;
            self.reserve.iter().for_each(SpaceReserve::hold);
        }
        if jobs.is_empty() {
            return;
        }
        if let Some(why) = self.shared.end_reason() {
            for job in jobs {
                refuse(job, &why);
            }
            return;
        }
        if jobs.iter().all(|job| matches!(job, WriteJob::Flush { .. })) {
            // What was deferred before is durable.
            return jobs.into_iter().for_each(answer_flush);
        }
        let enough = self.space.allows(jobs.iter().map(estimated_bytes).sum());
        // Before the jobs are answered, so that the next `submit` sees it.
        self.shared.note_space(enough);
        if !enough {
            jobs = self.refuse_for_space(jobs);
        }
        if jobs.is_empty() {
            return;
        }
        self.group += 1;
        let mut group = CommitGroup::default();
        let watched = self.watcher.watch_write();
        let done = self.perform(jobs, &mut group).and_then(|()| self.make_durable(&mut group));
        drop(watched);
        if done.is_ok() {
            // Before publishing: if readers saw the group and it is then lost, the watermark shows
            // that.
            self.write_watermark(false);
        }
        let failed = done.err().map(|fault| {
            tracing::error!(reason = %error_chain(&fault), "store write failed");
            self.shared.fail(&fault)
        });
        if failed.is_none() {
            for window in group.changed {
                self.shared.mark_changed(window, self.last_seq);
            }
            // A group that wrote nothing, such as a trim that found nothing, is not published: the
            // store counts as unchanged (`compact`).
            if self.shared.has_applied(self.group) {
                self.shared.publish(self.group, self.last_seq);
            }
        }
        for answer in group.replies {
            answer(failed.as_ref());
        }
        drop(group.deferred);
    }

    /// Refuses jobs for lack of disk space; returns the jobs that can still be done.
    fn refuse_for_space(&mut self, jobs: Vec<WriteJob>) -> Vec<WriteJob> {
        let mut possible = Vec::new();
        for job in jobs {
            match job {
                // The deferred commits are refused as well, so nothing is left to flush.
                job @ WriteJob::Flush { .. } => answer_flush(job),
                WriteJob::Register { ref wanted, ref unwanted, at, .. }
                    if self.fits_start_reserve(&job) || self.is_noop(wanted, unwanted, at) =>
                {
                    possible.push(job);
                }
                job => refuse(job, &StoreError::Full),
            }
        }
        possible
    }

    /// Whether a daemon needs this job to start and the space that is kept free suffices for it.
    /// The first group after an opening belongs to a start too.
    fn fits_start_reserve(&mut self, job: &WriteJob) -> bool {
        let starting = matches!(job, WriteJob::Register { starting: true, .. });
        (starting || self.group == 0) && self.space.allows_start(estimated_bytes(job))
    }

    /// Whether the registrations would change nothing.
    fn is_noop(&self, wanted: &[WindowRegistration], unwanted: &[WindowId], at: Timestamp) -> bool {
        let mut batch = WriteBatch::default();
        let (mut next, none) = (0, BTreeMap::new());
        unwanted.is_empty()
            && wanted.iter().all(|wanted| {
                // A fault occurs again in `register_windows` and is reported there.
                register::register(&self.tree, wanted, at, &mut next, &none, &mut batch).is_err()
                    || batch.is_empty()
            })
    }

    fn perform(&mut self, jobs: Vec<WriteJob>, group: &mut CommitGroup) -> Result<(), TreeError> {
        let mut done = Ok(());
        for job in jobs {
            match done {
                Ok(()) => done = self.job(job, group),
                // Not executed; answered with the failure of the group.
                Err(_) => group.defer_failure(job),
            }
        }
        done
    }

    fn job(&mut self, job: WriteJob, group: &mut CommitGroup) -> Result<(), TreeError> {
        match job {
            WriteJob::Commit { commit, deferred, reply } => {
                group.deferred.extend(deferred);
                let window = commit.commit.window;
                if group.windows.len() >= MAX_BATCH_COMMITS
                    || group.batch.bytes() >= MAX_BATCH_BYTES
                    || !group.windows.insert(window)
                {
                    self.apply(group)?;
                    group.windows.insert(window);
                }
                let outcome = self.commit(*commit, group);
                group.queue_reply(reply, outcome)
            }
            WriteJob::Register { wanted, unwanted, at, reply, .. } => {
                let registered = self.register_windows(group, &wanted, &unwanted, at);
                for window in registered.iter().flatten() {
                    self.count(CommitOutcome::default(), window.resync);
                }
                group.queue_reply(reply, registered)
            }
            WriteJob::Reset { window, edit, reason, at, reply } => {
                self.apply(group)?;
                let done = register::change(&self.tree, window, edit, reason, at, &mut group.batch);
                if done.is_ok() {
                    self.count(CommitOutcome::default(), Some(reason));
                }
                group.queue_reply(reply, done)?;
                self.apply(group)
            }
            WriteJob::Drop { window, at, step, reply } => {
                self.apply(group)?;
                let (tree, at, last) = (&self.tree, at.as_microsecond(), self.last_seq);
                let slice = purge::drop_slice(tree, window, at, step, last, &mut group.batch);
                if let Ok((seq, _)) = slice {
                    self.shared
                        .metrics
                        .changes
                        .add(ChangeKind::Removed.as_str(), seq - self.last_seq);
                    if seq > self.last_seq {
                        group.changed.insert(window);
                    }
                    self.last_seq = seq;
                }
                group.queue_reply(reply, slice.map(|(_, next)| next))?;
                self.apply(group)
            }
            WriteJob::Trim { before, reply } => {
                self.apply(group)?;
                let now = self.shared.env.now().as_microsecond();
                let before = before.as_microsecond();
                let slice = purge::trim_slice(&self.tree, before, now, &mut group.batch);
                if let Ok(Trimmed { min_seq: Some(min_seq), .. }) = slice {
                    self.shared.raise_min_seq(min_seq);
                }
                group.queue_reply(reply, slice)?;
                self.apply(group)
            }
            WriteJob::Edit { edit, reply, .. } => {
                self.apply(group)?;
                let done = edit(&self.tree, &mut group.batch);
                group.queue_reply(reply, done)?;
                self.apply(group)
            }
            WriteJob::Replace { compaction, reply } => {
                self.apply(group)?;
                let done = self.replace_tree(*compaction);
                group.queue_reply(reply, done)
            }
            WriteJob::Flush { reply } => group.queue_reply(reply, Ok::<_, TreeError>(())),
            WriteJob::Close { reply } => {
                // `run` never puts this job into a group; the dropped reply signals an error.
                drop(reply);
                Ok(())
            }
        }
    }

    /// Finishes a compaction and goes on with its tree. Returns the old one, or why the store keeps
    /// it.
    fn replace_tree(
        &mut self,
        compaction: Compaction,
    ) -> Result<Result<TreeHandles, CompactionError>, TreeError> {
        let finish = AssertUnwindSafe(|| compaction.finish());
        let finished = catch_unwind(finish).unwrap_or(Err(CompactionError::Panicked));
        let mut handles = match finished {
            Ok(new) => new,
            Err(CompactionError::Exchange(ExchangeError::Unknown(error))) => {
                return Err(TreeError::Sync(error));
            }
            Err(error) => return Ok(Err(error)),
        };
        self.shared.replace(handles.tree());
        handles.swap(&mut self.watcher, &mut self.tree);
        // The smaller store needs less.
        self.reserve.iter().for_each(SpaceReserve::hold);
        Ok(Ok(handles))
    }

    /// Plans a commit into the group's batch; a large one in parts, each in a batch of its own.
    fn commit(
        &mut self,
        rows: RowCommit,
        group: &mut CommitGroup,
    ) -> Result<CommitOutcome, PlanError> {
        let Commit { window, counters, .. } = &rows.commit;
        let (window, resync) = (*window, counters.resync);
        let mut all = CommitOutcome::default();
        let parts = parts::cut(&self.tree, rows)?;
        if parts.len() > 1 {
            // Checks all parts first: the commit must not be refused after a part was written. No
            // part depends on another one here, because a series is never split.
            parts.iter().try_for_each(|part| plan::check(&self.tree, part))?;
        }
        for (number, part) in parts.into_iter().enumerate() {
            if number > 0 {
                // A part is planned on top of what the previous part wrote.
                self.apply(group)?;
                group.windows.insert(window);
            }
            let (outcome, last_seq) =
                plan::plan(&self.tree, self.last_seq, &part, &mut group.batch)?;
            if last_seq > self.last_seq {
                group.changed.insert(window);
            }
            self.last_seq = last_seq;
            all.created += outcome.created;
            all.updated += outcome.updated;
            all.removed += outcome.removed;
            all.events = outcome.events;
        }
        self.count(all, resync);
        Ok(all)
    }

    /// Updates the metrics, also for changes that do not become durable: then the store has failed.
    fn count(&self, outcome: CommitOutcome, resync: Option<ResyncReason>) {
        let metrics = &self.shared.metrics;
        let CommitOutcome { created, updated, removed, events: _ } = outcome;
        for (kind, n) in [
            (ChangeKind::Created, created),
            (ChangeKind::Updated, updated),
            (ChangeKind::Removed, removed),
        ] {
            metrics.changes.add(kind.as_str(), n.into());
        }
        if let Some(reason) = resync {
            metrics.resyncs.add(reason.as_str(), 1);
        }
    }

    fn register_windows(
        &mut self,
        group: &mut CommitGroup,
        wanted: &[WindowRegistration],
        unwanted: &[WindowId],
        at: Timestamp,
    ) -> Result<Vec<RegisteredWindow>, TreeError> {
        self.apply(group)?;
        for slice in unwanted.chunks(MAX_BATCH_WINDOWS) {
            for id in slice {
                if let Some(record) = self.tree.window(*id)? {
                    register::mark_dropping(*id, &record, &mut group.batch);
                }
            }
            self.apply(group)?;
        }
        let dropping = self.tree.dropping_by_name()?;
        let next = self.tree.number(keys::NEXT_WINDOW)?;
        let mut next = u32::try_from(next).unwrap_or(u32::MAX).max(1);
        let mut all = Vec::with_capacity(wanted.len());
        for slice in wanted.chunks(MAX_BATCH_WINDOWS) {
            for wanted in slice {
                let batch = &mut group.batch;
                all.push(register::register(&self.tree, wanted, at, &mut next, &dropping, batch)?);
            }
            self.apply(group)?;
        }
        Ok(all)
    }

    fn apply(&mut self, group: &mut CommitGroup) -> Result<(), TreeError> {
        group.windows.clear();
        let mut batch = std::mem::take(&mut group.batch);
        if batch.is_empty() {
            return Ok(());
        }
        if batch.checksum() != FeedChecksum::default() {
            let mut sum = self.tree.sum()?;
            sum.merge(batch.checksum());
            batch.put(keys::SUM.to_vec(), sum.encode());
        }
        self.shared.metrics.rows.fetch_add(batch.rows(), Ordering::Relaxed);
        self.shared.apply(self.group, batch)
    }

    fn make_durable(&mut self, group: &mut CommitGroup) -> Result<(), TreeError> {
        self.apply(group)?;
        self.tree.flush()
    }

    /// Writes the watermark: for the first change after the opening, then at most every
    /// [`WATERMARK_INTERVAL`], and when the store is closed. Then lets the reserve grow with the
    /// store.
    fn write_watermark(&mut self, closing: bool) {
        let (seq, at) = self.watermark;
        let recent = at.is_some_and(|at| at.elapsed() < WATERMARK_INTERVAL);
        if self.last_seq == seq || (recent && !closing) {
            return;
        }
        let incarnation = self.shared.incarnations.current();
        let mark = Watermark { format: watermark::FORMAT, seq: self.last_seq, incarnation };
        match mark.write(&self.shared.path) {
            Ok(()) => self.watermark = (self.last_seq, Some(Instant::now())),
            // An old watermark protects less, but still protects.
            Err(error) => tracing::warn!(%error, "watermark could not be written"),
        }
        self.reserve.iter().for_each(SpaceReserve::hold);
    }
}
