//! The deferred commits that wait for the next group. They do not wake the writer: it takes them
//! with the first job that a caller waits for, or when there are enough for a batch of their own.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::job::{WriteJob, estimated_bytes};

/// The deferred commits that the writer has not taken yet. Cheap to clone; clones share them.
#[derive(Clone, Default)]
pub(super) struct DeferredQueue(Arc<Mutex<WaitingCommits>>);

#[derive(Default)]
struct WaitingCommits {
    jobs: Vec<WriteJob>,
    bytes: usize,
    /// Whether nothing takes further ones.
    closed: bool,
}

impl DeferredQueue {
    /// Adds a deferred commit. Returns whether there are enough for a batch of at most this many
    /// commits and bytes: then the writer has to be woken. `None`: the queue is closed.
    pub(super) fn push(&self, job: WriteJob, max_commits: usize, max_bytes: usize) -> Option<bool> {
        let bytes = estimated_bytes(&job);
        let mut waiting = self.lock();
        if waiting.closed {
            return None;
        }
        waiting.bytes += bytes;
        waiting.jobs.push(job);
        Some(waiting.jobs.len() >= max_commits || waiting.bytes >= max_bytes)
    }

    /// Takes all, in the order in which they were added.
    pub(super) fn take(&self) -> Vec<WriteJob> {
        let mut waiting = self.lock();
        waiting.bytes = 0;
        std::mem::take(&mut waiting.jobs)
    }

    /// Refuses further ones, and drops those that were not taken.
    pub(super) fn close(&self) {
        let mut waiting = self.lock();
        waiting.closed = true;
        waiting.jobs = Vec::new();
    }

    fn lock(&self) -> MutexGuard<'_, WaitingCommits> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt as _;
    use tokio::sync::oneshot;
    use tokio::time::timeout;

    use super::*;
    use crate::env::Env;
    use crate::mirror::commit::Commit;
    use crate::mirror::page::Link;
    use crate::mirror::position::{Phase, Position};
    use crate::store::writer::MAX_BATCH_COMMITS;
    use crate::tests::{NOON, open, registration, window};

    #[test]
    fn a_full_batch_wakes_the_writer_and_is_taken_once() {
        let queue = DeferredQueue::default();
        let push = |max_commits, max_bytes| {
            let (reply, _) = oneshot::channel();
            let edit = Box::new(|_: &_, _: &mut _| Ok(()));
            queue.push(WriteJob::Edit { edit, bytes: 10, reply }, max_commits, max_bytes)
        };
        assert_eq!([push(3, 100), push(3, 100)], [Some(false); 2], "too few");
        assert_eq!([push(3, 100), push(3, 100)], [Some(true); 2], "enough commits");
        assert_eq!((queue.take().len(), queue.take().len()), (4, 0));
        assert_eq!([push(9, 20), push(9, 20)], [Some(false), Some(true)], "enough bytes");
        queue.close();
        assert_eq!((push(9, 20), queue.take().len()), (None, 0), "closed");
    }

    /// Nothing flushes, reads or closes the store: only their number wakes the writer.
    #[tokio::test]
    async fn a_full_batch_is_written_without_a_flush() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), &Env::real());
        let wanted = vec![registration(&window("alice"))];
        let id = store.register(wanted, NOON).await.unwrap().remove(0).id;
        for _ in 0..MAX_BATCH_COMMITS {
            store.submit(Commit { deferrable: true, ..Commit::new(id, 0, NOON) }).await.unwrap();
        }
        let written = async {
            while store.shared().any_deferred() {
                tokio::task::yield_now().await;
            }
        };
        assert!(timeout(Duration::from_secs(20), written).await.is_ok());
        store.close().await.unwrap();
    }

    /// An attempt is aborted while its commit is queued, and the next one reads what was before it.
    #[tokio::test]
    async fn an_overtaking_commit_does_not_hide_the_link_of_the_events() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), &Env::real());
        let wanted = vec![registration(&window("alice"))];
        let id = store.register(wanted, NOON).await.unwrap().remove(0).id;
        let settled = |link: &str| {
            Some(Position::new(Phase::Settled { delta: Some(Link::new(link)) }, false))
        };
        let (begin, begun) = std::sync::mpsc::channel();
        let (release, held) = std::sync::mpsc::channel::<()>();
        let edit = Box::new(move |_: &_, _: &mut _| {
            begin.send(()).ok();
            held.recv().ok();
            Ok(())
        });
        let busy = store.ask(|reply| WriteJob::Edit { edit, bytes: 0, reply });
        assert!(busy.now_or_never().is_none());
        begun.recv().unwrap();
        let aborted = store.commit(Commit { position: settled("1"), ..Commit::new(id, 0, NOON) });
        assert!(aborted.now_or_never().is_none());
        let next = Commit { position: settled("0"), ..Commit::new(id, 0, NOON) };
        store.submit(Commit { deferrable: true, ..next }).await.unwrap();
        drop(release);
        assert_eq!(store.position(id, 0).await.unwrap(), settled("1"));
        store.close().await.unwrap();
    }
}
