//! Watches writes to the tree, so that each of them ends.
//!
//! sled writes batches to the file in the background. If such a write fails after a flush has begun
//! to wait for it, sled 0.34 does not wake the flush, which then waits for ever. Another flush wakes
//! it, and returns at once because of the error. One thread per open store looks for such an error
//! while a write is under way, and sleeps otherwise.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::tree::Tree;

/// How often a write under way is checked for an error of sled's background threads.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// The watching thread. It ends, and has released the tree, when this is dropped.
pub(super) struct WriteWatcher {
    watched: Arc<WatchedState>,
    thread: Option<JoinHandle<()>>,
}

/// A write under way; it ends when this is dropped.
pub(super) struct WatchedWrite(Arc<WatchedState>);

/// What the thread waits for.
struct WatchedState {
    phase: Mutex<WatchPhase>,
    /// Notified when the phase leaves [`WatchPhase::Parked`], and at [`WatchPhase::Closed`].
    changed: Condvar,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum WatchPhase {
    /// The thread sleeps until the next write.
    Parked,
    /// A write is under way.
    Writing,
    /// The write has ended and the thread has not parked yet. The next write need not wake it.
    Written,
    /// The thread ends.
    Closed,
}

impl WriteWatcher {
    /// Starts to watch the writes of a tree.
    ///
    /// # Errors
    /// If the system has no thread left.
    pub(super) fn start(tree: &Tree) -> io::Result<Self> {
        let tree = tree.clone();
        Self::start_with(move || {
            if tree.engine().background_error().is_some() {
                // The flush that waits returns the same error.
                tree.flush().ok();
            }
        })
    }

    /// Calls `check` every [`CHECK_INTERVAL`] while a write is under way.
    fn start_with(check: impl FnMut() + Send + 'static) -> io::Result<Self> {
        let phase = Mutex::new(WatchPhase::Parked);
        let watched = Arc::new(WatchedState { phase, changed: Condvar::new() });
        let watching = watched.clone();
        let thread = std::thread::Builder::new()
            .name("store-watcher".to_owned())
            .spawn(move || watching.run(check))?;
        Ok(Self { watched, thread: Some(thread) })
    }

    /// Watches a write until the returned value is dropped.
    pub(super) fn watch_write(&self) -> WatchedWrite {
        let mut phase = self.watched.lock();
        if std::mem::replace(&mut *phase, WatchPhase::Writing) == WatchPhase::Parked {
            self.watched.changed.notify_one();
        }
        WatchedWrite(self.watched.clone())
    }
}

impl Drop for WriteWatcher {
    fn drop(&mut self) {
        *self.watched.lock() = WatchPhase::Closed;
        self.watched.changed.notify_one();
        // A panic of the thread was reported when it happened.
        self.thread.take().map(|thread| thread.join().ok());
    }
}

impl Drop for WatchedWrite {
    fn drop(&mut self) {
        let mut phase = self.0.lock();
        if *phase == WatchPhase::Writing {
            *phase = WatchPhase::Written;
        }
    }
}

impl WatchedState {
    fn lock(&self) -> MutexGuard<'_, WatchPhase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, mut check: impl FnMut()) {
        let mut phase = self.lock();
        loop {
            phase = match *phase {
                WatchPhase::Closed => return,
                WatchPhase::Parked => {
                    self.changed.wait(phase).unwrap_or_else(PoisonError::into_inner)
                }
                WatchPhase::Writing | WatchPhase::Written => {
                    let waited = self.changed.wait_timeout(phase, CHECK_INTERVAL);
                    let (mut phase, _) = waited.unwrap_or_else(PoisonError::into_inner);
                    match *phase {
                        WatchPhase::Writing => {
                            drop(phase);
                            check();
                            self.lock()
                        }
                        WatchPhase::Written => {
                            *phase = WatchPhase::Parked;
                            phase
                        }
                        WatchPhase::Parked | WatchPhase::Closed => phase,
                    }
                }
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{self, RecvTimeoutError};
    use std::thread::ThreadId;

    use super::*;
    use crate::store::{engine, open};

    /// A watcher that sends the id of its thread at each check.
    fn watcher() -> (WriteWatcher, mpsc::Receiver<ThreadId>) {
        let (sender, checks) = mpsc::channel();
        let check = move || {
            sender.send(std::thread::current().id()).ok();
        };
        (WriteWatcher::start_with(check).unwrap(), checks)
    }

    #[test]
    fn one_thread_checks_every_write_until_its_end() {
        let (watcher, checks) = watcher();
        let patience = 50 * CHECK_INTERVAL;
        let mut threads = Vec::new();
        for _ in 0..2 {
            let write = watcher.watch_write();
            threads.extend([(); 2].map(|()| checks.recv_timeout(patience).unwrap()));
            drop(write);
            // A check that had begun before the end of the write.
            checks.recv_timeout(CHECK_INTERVAL / 2).ok();
            assert_eq!(checks.recv_timeout(5 * CHECK_INTERVAL), Err(RecvTimeoutError::Timeout));
        }
        assert!(threads.iter().all(|thread| *thread == threads[0]), "{threads:?}");
        drop(watcher);
        assert_eq!(checks.try_recv(), Err(mpsc::TryRecvError::Disconnected), "not joined");
    }

    #[test]
    fn a_write_that_begins_before_the_thread_has_parked_is_watched() {
        let (watcher, checks) = watcher();
        drop(watcher.watch_write());
        let _write = watcher.watch_write();
        checks.recv_timeout(50 * CHECK_INTERVAL).unwrap();
    }

    #[test]
    fn a_watcher_ends_with_its_store_even_during_a_write() {
        let dir = tempfile::tempdir().unwrap();
        let open_tree = || Tree::open(&engine::open, &dir.path().join("store"), 1 << 20).unwrap();
        let tree = open_tree();
        let watcher = WriteWatcher::start(&tree).unwrap();
        let write = watcher.watch_write();
        drop((watcher, tree, write));
        open::await_release(dir.path());
        open_tree();
    }
}
