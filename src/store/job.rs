//! The jobs of the writer, and groups of them that become durable together. The answers to their
//! callers wait until they are.

use std::collections::BTreeSet;

use jiff::Timestamp;
use tokio::sync::oneshot;

use super::batch::WriteBatch;
use super::compaction::{Compaction, CompactionError, TreeHandles};
use super::error::{PlanError, StoreError, TreeError};
use super::parts;
use super::purge::{PurgeProgress, Trimmed};
use super::record::WindowRecord;
use super::row_commit::RowCommit;
use super::shared::DeferredCommit;
use super::tree::Tree;
use super::{RegisteredWindow, WindowRegistration};
use crate::mirror::commit::CommitOutcome;
use crate::mirror::position::WindowId;
use crate::mirror::status::ResyncReason;

/// Rough bytes written for registering a window, one slice of dropping or trimming, and a reset.
const WINDOW: usize = 600;
const SLICE: usize = 1 << 20;
const RESET: usize = 64 << 10;

/// Answers the caller of a job.
pub(super) type JobReply<T> = oneshot::Sender<Result<T, StoreError>>;

/// A change of a window's record.
pub(super) type WindowEdit = Box<dyn FnOnce(&mut WindowRecord) + Send>;

/// A change of records that is no commit.
pub(super) type TreeEdit = Box<dyn FnOnce(&Tree, &mut WriteBatch) -> Result<(), TreeError> + Send>;

/// A request to the writer.
pub(super) enum WriteJob {
    /// Write a commit; `deferred` is set if no caller waits for it.
    Commit {
        commit: Box<RowCommit>,
        deferred: Option<DeferredCommit>,
        reply: JobReply<CommitOutcome>,
    },
    /// Free the names of the `unwanted` windows, then register the wanted ones.
    Register {
        wanted: Vec<WindowRegistration>,
        unwanted: Vec<WindowId>,
        at: Timestamp,
        /// Whether a daemon needs it to start.
        starting: bool,
        reply: JobReply<Vec<RegisteredWindow>>,
    },
    /// Edit a window's record and reset its segments for this reason.
    Reset {
        window: WindowId,
        edit: WindowEdit,
        reason: ResyncReason,
        at: Timestamp,
        reply: JobReply<()>,
    },
    /// One slice of dropping a window; the reply is the next step.
    Drop {
        window: WindowId,
        at: Timestamp,
        step: PurgeProgress,
        reply: JobReply<Option<PurgeProgress>>,
    },
    /// One slice of trimming.
    Trim { before: Timestamp, reply: JobReply<Trimmed> },
    /// Change records that are no commit; `bytes` is roughly how much it writes.
    Edit { edit: TreeEdit, bytes: usize, reply: JobReply<()> },
    /// Finish a compaction and go on with its tree; the reply is the old one.
    Replace { compaction: Box<Compaction>, reply: JobReply<Result<TreeHandles, CompactionError>> },
    /// Write the deferred commits.
    Flush { reply: JobReply<()> },
    /// Write the deferred commits and stop.
    Close { reply: oneshot::Sender<()> },
}

/// Answers a job once its group is durable, or with the reason why it is not.
type JobAnswer = Box<dyn FnOnce(Option<&StoreError>) + Send>;

/// A group of jobs being written.
#[derive(Default)]
pub(super) struct CommitGroup {
    /// What is not applied yet.
    pub(super) batch: WriteBatch,
    /// Windows that have a commit in `batch`.
    pub(super) windows: BTreeSet<WindowId>,
    /// Windows whose visible content changes.
    pub(super) changed: BTreeSet<WindowId>,
    pub(super) replies: Vec<JobAnswer>,
    /// The deferred commits of the group; dropped after the group was answered.
    pub(super) deferred: Vec<DeferredCommit>,
}

impl CommitGroup {
    /// Queues the reply to a job and returns its fault. The caller may have given up.
    pub(super) fn queue_reply<T: Send + 'static>(
        &mut self,
        reply: JobReply<T>,
        done: Result<T, impl Into<PlanError>>,
    ) -> Result<(), TreeError> {
        let (value, fault) = match done.map_err(Into::into) {
            Ok(value) => (Ok(value), Ok(())),
            Err(PlanError::Rejected(why)) => (Err(why), Ok(())),
            Err(PlanError::Fault(fault)) => (Err(fault.to_store_error()), Err(fault)),
        };
        self.replies.push(Box::new(move |failed| {
            reply.send(failed.map_or(value, |why| Err(why.clone()))).ok();
        }));
        fault
    }

    /// Queues the reply to a job that was not executed because the group failed.
    pub(super) fn defer_failure(&mut self, job: WriteJob) {
        self.replies.push(Box::new(move |failed| {
            refuse(job, failed.unwrap_or(&StoreError::Closed));
        }));
    }
}

/// Roughly how many bytes a job writes.
pub(super) fn estimated_bytes(job: &WriteJob) -> usize {
    match job {
        WriteJob::Commit { commit, .. } => parts::weight(commit),
        WriteJob::Register { wanted, unwanted, .. } => (wanted.len() + unwanted.len()) * WINDOW,
        WriteJob::Reset { .. } => RESET,
        WriteJob::Edit { bytes, .. } => *bytes,
        WriteJob::Drop { .. } | WriteJob::Trim { .. } => SLICE,
        WriteJob::Replace { .. } | WriteJob::Flush { .. } | WriteJob::Close { .. } => 0,
    }
}

/// Answers a flush for which nothing is left to write. The caller may have given up.
pub(super) fn answer_flush(job: WriteJob) {
    if let WriteJob::Flush { reply } = job {
        reply.send(Ok(())).ok();
    }
}

/// Answers a job without executing it. The caller may have given up.
pub(super) fn refuse(job: WriteJob, why: &StoreError) {
    let why = why.clone();
    match job {
        WriteJob::Commit { reply, .. } => drop(reply.send(Err(why))),
        WriteJob::Register { reply, .. } => drop(reply.send(Err(why))),
        WriteJob::Reset { reply, .. }
        | WriteJob::Edit { reply, .. }
        | WriteJob::Flush { reply } => drop(reply.send(Err(why))),
        WriteJob::Drop { reply, .. } => drop(reply.send(Err(why))),
        WriteJob::Trim { reply, .. } => drop(reply.send(Err(why))),
        WriteJob::Replace { reply, .. } => drop(reply.send(Err(why))),
        WriteJob::Close { reply } => drop(reply.send(())),
    }
}
