//! The one thread that writes.
//!
//! What waits is written as a group: each run of commits of different windows is one atomic
//! batch, then all of it is flushed, then synced (sled's flush alone does not reach the disk's
//! own cache), then published, then answered. Nothing is answered before it is durable. Any error
//! of these steps ends the store: a failed sync cannot be tried again.
//!
//! Where too little disk space is left (`space`) a group is refused whole, and nothing has happened;
//! only windows that are as the store knows them are still attached, and, so that a daemon starts,
//! those that the first group of an opening wants.
//!
//! A commit that is too large for one batch is written in parts (`parts`).
//!
//! Lazy commits wait here without a clock: whoever sent one sends [`Job::Flush`] when it has
//! waited long enough.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::batch::WriteBatch;
use super::disk_space::DiskSpace;
use super::error::{StoreError, TreeError};
use super::keys;
use super::parts;
use super::plan::{self, CommitPlan, PlanError};
use super::purge::{self, PurgeProgress};
use super::record::{self, FeedChecksum};
use super::reserve::SpaceReserve;
use super::shared::{DeferredCommit, StoreShared};
use super::tree::Tree;
use super::watermark::{self, Watermark};
use super::{RegisteredWindow, WindowRegistration, register};
use crate::mirror::change::Seq;
use crate::mirror::commit::{Commit, CommitOutcome};
use crate::mirror::position::WindowId;
use crate::mirror::status::ResyncReason;
use crate::mirror::window::Edges;

/// The most commits in one batch. 256 of them took 4 ms to be durable; more only wait longer.
const COMMITS: usize = 256;
/// About the most bytes in one batch of several commits.
const BYTES: usize = 1 << 20;
/// Windows made known in one batch.
const WINDOWS: usize = 1024;
/// What a window that becomes known takes, about; one slice of dropping or trimming; a reset.
const WINDOW: usize = 600;
const SLICE: usize = 256 << 10;
const RESET: usize = 64 << 10;
/// How often the watermark is written.
const WATERMARK: Duration = Duration::from_secs(2);

type JobReply<T> = oneshot::Sender<Result<T, StoreError>>;
type JobAnswer = Box<dyn FnOnce(Option<&StoreError>) + Send>;

/// What the writer is asked to do.
pub(super) enum WriteJob {
    /// Write a commit; `lingering` is set for lazy ones.
    Commit {
        commit: Box<Commit>,
        lingering: Option<DeferredCommit>,
        reply: JobReply<CommitOutcome>,
    },
    /// Make windows known.
    Attach {
        wanted: Vec<WindowRegistration>,
        leaving: Vec<WindowId>,
        at: Timestamp,
        reply: JobReply<Vec<RegisteredWindow>>,
    },
    /// Move a window's edges.
    Move { window: WindowId, edges: Edges, at: Timestamp, reply: JobReply<()> },
    /// Cut a window into shorter segments.
    Cut { window: WindowId, days: i64, at: Timestamp, reply: JobReply<()> },
    /// One slice of dropping a window; answers the next step.
    Drop {
        window: WindowId,
        at: Timestamp,
        step: PurgeProgress,
        reply: JobReply<Option<PurgeProgress>>,
    },
    /// One slice of trimming; answers how many left and whether there may be more.
    Trim { before: Timestamp, reply: JobReply<(u64, bool)> },
    /// Write what lingers.
    Flush { reply: JobReply<()> },
    /// Write what lingers and stop.
    Close { reply: oneshot::Sender<()> },
}

/// See the module.
pub(super) struct Writer<P> {
    pub(super) shared: Arc<StoreShared>,
    pub(super) tree: Tree,
    /// The tree's file, to sync it.
    pub(super) file: File,
    pub(super) jobs: mpsc::Receiver<WriteJob>,
    pub(super) space: DiskSpace<P>,
    pub(super) last_seq: Seq,
    pub(super) group: u64,
    pub(super) lingering: Vec<WriteJob>,
    /// The watermark, and when this opening last wrote it.
    pub(super) marked: (Seq, Option<Instant>),
    /// Held for the next opening, unless nothing is to be.
    pub(super) reserve: Option<SpaceReserve>,
    /// Whether it is held again since the opening.
    pub(super) reserved: bool,
}

/// A group on its way.
struct CommitGroup {
    draft: WriteBatch,
    /// The windows that the draft's commits are of.
    windows: BTreeSet<WindowId>,
    /// The windows that readers will see something else of.
    changed: BTreeSet<WindowId>,
    answers: Vec<JobAnswer>,
    /// Released when the group is durable.
    lingering: Vec<DeferredCommit>,
}

impl<P: FnMut() -> io::Result<(u64, u64)>> Writer<P> {
    /// Works until closed, or until nobody can send any more. Answers whom to tell that the
    /// store is closed, once everything of it has been dropped.
    pub(super) fn run(&mut self) -> Option<oneshot::Sender<()>> {
        let mut closing = None;
        while closing.is_none() {
            let Some(first) = self.jobs.blocking_recv() else { break };
            let mut urgent = Vec::new();
            let mut bytes = 0;
            let mut next = Some(first);
            while let Some(job) = next {
                bytes += weight(&job);
                match job {
                    WriteJob::Close { reply } => {
                        closing = Some(reply);
                        break;
                    }
                    WriteJob::Commit { lingering: Some(_), .. } => self.lingering.push(job),
                    job => urgent.push(job),
                }
                let full = urgent.len() + self.lingering.len() >= COMMITS || bytes >= BYTES;
                next = if full { None } else { self.jobs.try_recv().ok() };
            }
            let waiting = self.lingering.len() >= COMMITS || bytes >= BYTES;
            if urgent.is_empty() && !waiting && closing.is_none() {
                continue;
            }
            self.write(urgent);
        }
        self.write(Vec::new());
        self.jobs.close();
        if self.shared.over().is_none() {
            self.mark(true);
            self.shared.end(StoreError::Closed);
        }
        while let Ok(job) = self.jobs.try_recv() {
            refuse(job, &self.shared.over().unwrap_or(StoreError::Closed));
        }
        closing
    }

    /// Writes what lingers and what is urgent, in this order, as one group.
    fn write(&mut self, urgent: Vec<WriteJob>) {
        let mut jobs = std::mem::take(&mut self.lingering);
        jobs.extend(urgent);
        // Windows are attached before anything else, from what an opening may use.
        if !self.reserved && !jobs.iter().all(|job| matches!(job, WriteJob::Attach { .. })) {
            self.reserved = true;
            self.reserve.iter().for_each(SpaceReserve::hold);
        }
        if jobs.is_empty() {
            return;
        }
        if let Some(why) = self.shared.over() {
            for job in jobs {
                refuse(job, &why);
            }
            return;
        }
        if jobs.iter().any(|job| !matches!(job, WriteJob::Flush { .. })) {
            let enough = self.space.allows(jobs.iter().map(weight).sum());
            // Before anybody is answered, so that the next to submit knows.
            self.shared.note_space(enough);
            if !enough {
                jobs = self.refuse_for_space(jobs);
            }
        }
        if jobs.is_empty() {
            return;
        }
        self.group += 1;
        let mut group = CommitGroup {
            draft: WriteBatch::default(),
            windows: BTreeSet::new(),
            changed: BTreeSet::new(),
            answers: Vec::with_capacity(jobs.len()),
            lingering: Vec::new(),
        };
        let done = self.perform(jobs, &mut group).and_then(|()| self.make_durable(&mut group));
        if done.is_ok() {
            // Before readers are shown it: what they saw is known to be missing if it is lost.
            self.mark(false);
        }
        let failed = done.err().map(|fault| {
            tracing::error!(reason = %fault, "store cannot be written");
            self.shared.fail(&fault)
        });
        if failed.is_none() {
            for window in group.changed {
                self.shared.changed(window, self.last_seq);
            }
            self.shared.publish(self.group, self.last_seq);
        }
        for answer in group.answers {
            answer(failed.as_ref());
        }
        drop(group.lingering);
    }

    /// Answers what cannot be written for want of space; the jobs that can be done all the same.
    fn refuse_for_space(&mut self, jobs: Vec<WriteJob>) -> Vec<WriteJob> {
        let mut possible = Vec::new();
        for job in jobs {
            match job {
                // Nothing lingers any more, which is all that was asked.
                WriteJob::Flush { reply } => reply.send(Ok(())).ok().unwrap_or_default(),
                WriteJob::Attach { ref wanted, ref leaving, at, .. }
                    if self.starts_with(&job) || self.changes_nothing(wanted, leaving, at) =>
                {
                    possible.push(job);
                }
                job => refuse(job, &StoreError::Full),
            }
        }
        possible
    }

    /// Whether a daemon cannot start without this, and there is space for it in what is kept free:
    /// the first group of an opening is its start's, every later one a reload's.
    fn starts_with(&mut self, job: &WriteJob) -> bool {
        self.group == 0 && self.space.allows_start(weight(job))
    }

    /// Whether the windows are as the store knows them.
    fn changes_nothing(
        &self,
        wanted: &[WindowRegistration],
        leaving: &[WindowId],
        at: Timestamp,
    ) -> bool {
        let mut draft = WriteBatch::default();
        let (mut next, none) = (0, |_: &str| Vec::new());
        leaving.is_empty()
            && wanted.iter().all(|wanted| {
                // A fault is met again, and told, where the windows are attached.
                register::register(&self.tree, wanted, at, &mut next, none, &mut draft).is_err()
                    || draft.is_empty()
            })
    }

    fn perform(&mut self, jobs: Vec<WriteJob>, group: &mut CommitGroup) -> Result<(), TreeError> {
        let mut fault = None;
        for job in jobs {
            if fault.is_none() {
                if let Err(e) = self.job(job, group) {
                    fault = Some(e);
                }
            } else {
                // Still owed an answer: the failure of the group.
                defer_failure(job, group);
            }
        }
        fault.map_or(Ok(()), Err)
    }

    fn job(&mut self, job: WriteJob, group: &mut CommitGroup) -> Result<(), TreeError> {
        match job {
            WriteJob::Commit { commit, lingering, reply } => {
                group.lingering.extend(lingering);
                let window = commit.window;
                if group.windows.len() >= COMMITS
                    || group.draft.bytes() >= BYTES
                    || !group.windows.insert(window)
                {
                    self.apply(group)?;
                    group.windows.insert(window);
                }
                let (outcome, fault) = match self.commit(*commit, group) {
                    Ok(outcome) => (Ok(outcome), None),
                    Err(PlanError::Told(why)) => (Err(why), None),
                    Err(PlanError::Fault(fault)) => (Err(fault.to_store_error()), Some(fault)),
                };
                group.answers.push(answer(reply, outcome));
                fault.map_or(Ok(()), Err)
            }
            WriteJob::Attach { wanted, leaving, at, reply } => {
                let attached = self.attach(group, &wanted, &leaving, at);
                for attached in attached.iter().flatten() {
                    self.count(CommitOutcome::default(), attached.resync);
                }
                settle(group, reply, attached)
            }
            WriteJob::Move { window, edges, at, reply } => {
                self.reset(group, window, ResyncReason::WindowMoved, reply, |tree, draft| {
                    register::move_edges(tree, window, edges, at, draft)
                })
            }
            WriteJob::Cut { window, days, at, reply } => {
                self.reset(group, window, ResyncReason::SegmentTooLong, reply, |tree, draft| {
                    register::cut(tree, window, days, at, draft)
                })
            }
            WriteJob::Drop { window, at, step, reply } => {
                self.apply(group)?;
                let mut draft = WriteBatch::default();
                let (tree, at, last) = (&self.tree, record::micros(at), self.last_seq);
                let slice = purge::drop_slice(tree, window, at, step, last, &mut draft);
                group.draft.merge(draft);
                if let Ok((seq, _)) = slice {
                    self.shared.metrics.changes.add("removed", seq - self.last_seq);
                    if seq > self.last_seq {
                        group.changed.insert(window);
                    }
                    self.last_seq = seq;
                }
                settle(group, reply, slice.map(|(_, next)| next))?;
                self.apply(group)
            }
            WriteJob::Trim { before, reply } => {
                self.apply(group)?;
                let mut draft = WriteBatch::default();
                let now = record::micros(self.shared.env.now());
                let before = record::micros(before);
                let slice = purge::trim_slice(&self.tree, before, now, &mut draft);
                group.draft.merge(draft);
                if let Ok((_, Some(floor), _)) = slice {
                    self.shared.raise_min_seq(floor);
                }
                settle(group, reply, slice.map(|(trimmed, _, more)| (trimmed, more)))?;
                self.apply(group)
            }
            WriteJob::Flush { reply } => settle(group, reply, Ok(())),
            WriteJob::Close { reply } => {
                // Never grouped; dropping the reply tells as much.
                drop(reply);
                Ok(())
            }
        }
    }

    /// Plans a commit into the group's batch; the parts of a large one into batches of their own.
    fn commit(
        &mut self,
        commit: Commit,
        group: &mut CommitGroup,
    ) -> Result<CommitOutcome, PlanError> {
        let (window, resync) = (commit.window, commit.tally.resync);
        let mut all = CommitOutcome::default();
        let parts = parts::cut(&self.tree, commit)?;
        if parts.len() > 1 {
            // A refusal must not come after a part was written. A series is in one part, so that
            // none of them depends on another here.
            parts.iter().try_for_each(|part| plan::check(&self.tree, part))?;
        }
        for (number, part) in parts.into_iter().enumerate() {
            if number > 0 {
                // A part is planned on top of what the one before it wrote.
                self.apply(group)?;
                group.windows.insert(window);
            }
            let CommitPlan { draft, outcome, last_seq } =
                plan::plan(&self.tree, self.last_seq, &part)?;
            group.draft.merge(draft);
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

    /// For the meter. What fails to become durable is counted too: then the store is over.
    fn count(&self, outcome: CommitOutcome, resync: Option<ResyncReason>) {
        let metrics = &self.shared.metrics;
        let CommitOutcome { created, updated, removed, events: _ } = outcome;
        for (word, n) in [("created", created), ("updated", updated), ("removed", removed)] {
            metrics.changes.add(word, n.into());
        }
        if let Some(reason) = resync {
            metrics.resyncs.add(reason.as_str(), 1);
        }
    }

    fn attach(
        &mut self,
        group: &mut CommitGroup,
        wanted: &[WindowRegistration],
        unwanted: &[WindowId],
        at: Timestamp,
    ) -> Result<Vec<RegisteredWindow>, TreeError> {
        self.apply(group)?;
        for slice in unwanted.chunks(WINDOWS) {
            for id in slice {
                if let Some(record) = self.tree.window(*id)? {
                    register::mark_dropping(*id, &record, &mut group.draft);
                }
            }
            self.apply(group)?;
        }
        let mut leaving: std::collections::BTreeMap<_, Vec<WindowId>> = Default::default();
        for entry in self.tree.0.scan_prefix(keys::all_dropping()) {
            let (key, value) = entry?;
            let id = keys::window_of(&key).ok_or(TreeError::Damaged("window"))?;
            let record = record::WindowRecord::decode(&value)?;
            leaving.entry(record.name).or_default().push(id);
        }
        let next = self.tree.number(keys::NEXT_WINDOW)?;
        let mut next = u32::try_from(next).unwrap_or(u32::MAX).max(1);
        let mut all = Vec::with_capacity(wanted.len());
        for slice in wanted.chunks(WINDOWS) {
            for wanted in slice {
                let find = |name: &str| leaving.get(name).cloned().unwrap_or_default();
                let draft = &mut group.draft;
                all.push(register::register(&self.tree, wanted, at, &mut next, find, draft)?);
            }
            self.apply(group)?;
        }
        Ok(all)
    }

    /// Begins a window's rounds anew, in a batch of its own.
    fn reset(
        &mut self,
        group: &mut CommitGroup,
        window: WindowId,
        reason: ResyncReason,
        reply: JobReply<()>,
        plan: impl FnOnce(&Tree, &mut WriteBatch) -> Result<Option<()>, TreeError>,
    ) -> Result<(), TreeError> {
        self.apply(group)?;
        let mut draft = WriteBatch::default();
        let planned = plan(&self.tree, &mut draft);
        group.draft.merge(draft);
        match planned {
            Ok(None) => {
                group.answers.push(answer(reply, Err(StoreError::UnknownWindow(window))));
                Ok(())
            }
            planned => {
                self.count(CommitOutcome::default(), Some(reason));
                settle(group, reply, planned.map(|_| ()))
            }
        }?;
        self.apply(group)
    }

    fn apply(&mut self, group: &mut CommitGroup) -> Result<(), TreeError> {
        group.windows.clear();
        if group.draft.is_empty() {
            return Ok(());
        }
        let mut draft = std::mem::take(&mut group.draft);
        if draft.checksum() != FeedChecksum::default() {
            let mut sum = self.tree.sum()?;
            sum.merge(draft.checksum());
            draft.put(keys::SUM.to_vec(), sum.encode());
        }
        self.shared.metrics.rows.fetch_add(draft.rows(), Ordering::Relaxed);
        self.shared.apply(self.group, draft.into_batch())
    }

    fn make_durable(&mut self, group: &mut CommitGroup) -> Result<(), TreeError> {
        self.apply(group)?;
        self.tree.0.flush()?;
        self.file.sync_data().map_err(TreeError::Sync)
    }

    /// Writes the watermark: for the first change of this opening, then every few seconds, and when
    /// the store is closed.
    fn mark(&mut self, closing: bool) {
        let (seq, at) = self.marked;
        let recent = at.is_some_and(|at| at.elapsed() < WATERMARK);
        if self.last_seq == seq || (recent && !closing) {
            return;
        }
        let incarnation = self.shared.incarnations.current();
        let mark = Watermark { format: watermark::FORMAT, seq: self.last_seq, incarnation };
        match mark.write(&self.shared.path) {
            Ok(()) => self.marked = (self.last_seq, Some(Instant::now())),
            // An old watermark guards less, but guards.
            Err(error) => tracing::warn!(%error, "watermark could not be written"),
        }
        self.reserve.iter().for_each(SpaceReserve::hold);
    }
}

/// Roughly how many bytes a job writes.
fn weight(job: &WriteJob) -> usize {
    match job {
        WriteJob::Commit { commit, .. } => parts::weight(commit),
        WriteJob::Attach { wanted, leaving, .. } => (wanted.len() + leaving.len()) * WINDOW,
        WriteJob::Move { .. } | WriteJob::Cut { .. } => RESET,
        WriteJob::Drop { .. } | WriteJob::Trim { .. } => SLICE,
        WriteJob::Flush { .. } | WriteJob::Close { .. } => 0,
    }
}

fn answer<T: Send + 'static>(reply: JobReply<T>, value: Result<T, StoreError>) -> JobAnswer {
    Box::new(move |failed| {
        // Whoever asked may have left.
        reply.send(failed.map_or(value, |why| Err(why.clone()))).ok();
    })
}

/// Notes the answer to a job and hands its fault on.
fn settle<T: Send + 'static>(
    group: &mut CommitGroup,
    reply: JobReply<T>,
    done: Result<T, TreeError>,
) -> Result<(), TreeError> {
    let (value, fault) = match done {
        Ok(value) => (Ok(value), None),
        Err(fault) => (Err(fault.to_store_error()), Some(fault)),
    };
    group.answers.push(answer(reply, value));
    fault.map_or(Ok(()), Err)
}

/// Notes a job that was not reached because the group failed.
fn defer_failure(job: WriteJob, group: &mut CommitGroup) {
    group.answers.push(Box::new(move |failed| {
        refuse(job, failed.unwrap_or(&StoreError::Closed));
    }));
}

/// Answers a job without doing it.
fn refuse(job: WriteJob, why: &StoreError) {
    let why = why.clone();
    // Whoever asked may have left.
    match job {
        WriteJob::Commit { reply, .. } => reply.send(Err(why)).ok().unwrap_or_default(),
        WriteJob::Attach { reply, .. } => reply.send(Err(why)).ok().unwrap_or_default(),
        WriteJob::Move { reply, .. } | WriteJob::Cut { reply, .. } | WriteJob::Flush { reply } => {
            reply.send(Err(why)).ok().unwrap_or_default();
        }
        WriteJob::Drop { reply, .. } => reply.send(Err(why)).ok().unwrap_or_default(),
        WriteJob::Trim { reply, .. } => reply.send(Err(why)).ok().unwrap_or_default(),
        WriteJob::Close { reply } => reply.send(()).ok().unwrap_or_default(),
    }
}
