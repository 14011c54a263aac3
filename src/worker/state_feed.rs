//! Tells readers of the feed when the state of a window changes.
//!
//! Like the feed of events it holds each window once, at its latest change, under a number that
//! grows. So a reader that is slow misses nothing that still holds, and costs the others nothing.
//! Of windows that are not in trouble only the newest [`KEPT`] are held: a reader that is further
//! behind begins again with the list of those in trouble.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::state::WorkerState;
use crate::mirror::status::{LastError, WindowState};

/// Changes of windows that are not in trouble, which are held.
const KEPT: usize = 4096;

/// How soon a reader is woken again after changes that it has read: in an outage states change
/// thousands of times a second.
const PAUSE: Duration = Duration::from_secs(1);

/// A change of a window's state: it settled for the first time, failed, recovered, or began or
/// ended a resync.
#[derive(Clone, Debug)]
pub struct StateChange {
    /// When.
    pub at: Timestamp,
    /// The name of the window.
    pub window: Arc<str>,
    /// Its state since then.
    pub state: WindowState,
    /// Why it is in trouble, if it is.
    pub error: Option<LastError>,
}

/// The latest changes of all windows. Clones share them.
#[derive(Clone, Debug)]
pub struct StateFeed {
    latest: Arc<Mutex<LatestStates>>,
    /// The number of the last change.
    last: watch::Sender<u64>,
}

/// Each window at its latest change.
#[derive(Debug, Default)]
struct LatestStates {
    numbers: HashMap<Arc<str>, u64>,
    troubled: BTreeMap<u64, Arc<StateChange>>,
    others: BTreeMap<u64, Arc<StateChange>>,
    last: u64,
    /// The last change that is held no longer although it is the latest of its window.
    forgotten: u64,
}

impl LatestStates {
    fn forget(&mut self, window: &str) {
        if let Some(number) = self.numbers.remove(window) {
            self.troubled.remove(&number);
            self.others.remove(&number);
        }
    }

    fn put(&mut self, change: StateChange) {
        self.forget(&change.window);
        self.last += 1;
        self.numbers.insert(change.window.clone(), self.last);
        let held = if change.state.is_trouble() { &mut self.troubled } else { &mut self.others };
        held.insert(self.last, Arc::new(change));
        if self.others.len() > KEPT
            && let Some((number, oldest)) = self.others.pop_first()
        {
            self.numbers.remove(&oldest.window);
            self.forgotten = number;
        }
    }
}

impl Default for StateFeed {
    fn default() -> Self {
        Self { latest: Arc::default(), last: watch::Sender::new(0) }
    }
}

impl StateFeed {
    /// A reader of the windows in trouble, and one of every change from now on.
    pub fn readers(&self) -> (StateReader, StateReader) {
        let end = self.lock().last;
        let reader = |position| StateReader {
            feed: self.clone(),
            last: self.last.subscribe(),
            position,
            listed_to: end,
            rests_until: Instant::now(),
        };
        (reader(0), reader(end))
    }

    /// Tells readers the state of a window, if it is another than they know.
    pub(super) fn tell(&self, worker: &mut WorkerState, at: Timestamp) {
        let state = match worker.health.state {
            // An ordinary round is under way.
            WindowState::Following => WindowState::Settled,
            state => state,
        };
        if std::mem::replace(&mut worker.told, state) == state {
            return;
        }
        let error = worker.rare().last_error.clone().filter(|_| state.is_trouble());
        self.put(StateChange { at, window: worker.window.name.clone(), state, error });
    }

    /// The window is gone: it is in trouble no longer.
    pub fn forget(&self, window: &str) {
        self.lock().forget(window);
    }

    pub(crate) fn put(&self, change: StateChange) {
        let mut latest = self.lock();
        latest.put(change);
        self.last.send_replace(latest.last);
    }

    fn lock(&self) -> MutexGuard<'_, LatestStates> {
        // A panic leaves at most a window that is missing until its next change.
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a list of the windows in trouble, and then each change.
#[derive(Debug)]
pub struct StateReader {
    feed: StateFeed,
    last: watch::Receiver<u64>,
    /// The number of the last change that was read.
    position: u64,
    /// The changes up to here are a list of the windows in trouble.
    listed_to: u64,
    rests_until: Instant,
}

impl StateReader {
    /// Whether the list of the windows in trouble has not ended.
    pub fn lists(&self) -> bool {
        self.position < self.listed_to
    }

    /// Whether everything was read.
    pub fn is_at_end(&self) -> bool {
        self.position >= *self.last.borrow()
    }

    /// Waits for changes. Cancel safe.
    pub async fn changed(&mut self) {
        let (position, rests_until) = (self.position, self.rests_until);
        // The feed is held by this reader, so the wait never fails.
        self.last.wait_for(|last| *last > position).await.ok();
        sleep_until(rests_until).await;
    }

    /// The next changes, at most `limit`; only those of the list while that has not ended.
    pub fn read(&mut self, limit: usize) -> Vec<Arc<StateChange>> {
        let latest = self.feed.lock();
        if !self.lists() && self.position < latest.forgotten {
            (self.position, self.listed_to) = (0, latest.last);
        }
        let end = if self.lists() { self.listed_to } else { latest.last };
        let after = self.position + 1;
        let troubled = latest.troubled.range(after..).take(limit);
        let mut read: Vec<(u64, Arc<StateChange>)> =
            troubled.map(|(number, change)| (*number, change.clone())).collect();
        if !self.lists() {
            let others = latest.others.range(after..).take(limit);
            read.extend(others.map(|(number, change)| (*number, change.clone())));
            read.sort_unstable_by_key(|(number, _)| *number);
        }
        read.truncate(limit);
        read.retain(|(number, _)| *number <= end);
        let full = read.len() == limit;
        let position = read.last().filter(|_| full).map_or(end, |(number, _)| *number);
        drop(latest);
        if self.position < position {
            self.position = position;
            self.rests_until = Instant::now() + PAUSE;
        }
        read.into_iter().map(|(_, change)| change).collect()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use crate::mirror::window::Edges;
    use crate::tests::{NOON, registered, window};

    fn put(states: &StateFeed, window: &str, state: WindowState) {
        states.put(StateChange { at: NOON, window: window.into(), state, error: None });
    }

    fn read(reader: &mut StateReader, limit: usize) -> Vec<String> {
        let changes = reader.read(limit);
        changes.iter().map(|change| format!("{} {}", change.window, change.state)).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn readers_are_told_each_state_once_and_rounds_are_none() {
        let states = StateFeed::default();
        let edges = Edges { start: NOON, end: "2026-12-02T12:00:00Z".parse().unwrap() };
        let mut worker = WorkerState::new(Arc::new(window("alice")), &registered(edges), NOON);
        let mut reader = states.readers().1;
        let mut told = |state| {
            worker.health.state = state;
            states.tell(&mut worker, NOON);
            reader.read(9).first().map(|change| change.state)
        };
        assert_eq!(told(WindowState::Following), None);
        assert_eq!(told(WindowState::Settled), None);
        assert_eq!(told(WindowState::BackingOff), Some(WindowState::BackingOff));
        assert_eq!(told(WindowState::BackingOff), None);
        assert_eq!(told(WindowState::Quarantined), Some(WindowState::Quarantined));
        assert_eq!(told(WindowState::Enumerating), Some(WindowState::Enumerating));
        assert_eq!(told(WindowState::Following), Some(WindowState::Settled));
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_begins_with_those_in_trouble_and_gets_each_window_at_its_latest() {
        let states = StateFeed::default();
        for (window, state) in [
            ("a", WindowState::Held),
            ("b", WindowState::Settled),
            ("c", WindowState::Quarantined),
            ("d", WindowState::Held),
            ("e", WindowState::Held),
        ] {
            put(&states, window, state);
        }
        states.forget("e");
        let (mut reader, mut later) = states.readers();
        assert_eq!(read(&mut reader, 1), ["a held"]);
        put(&states, "d", WindowState::Settled);
        put(&states, "f", WindowState::BackingOff);
        assert!(reader.lists());
        assert_eq!(read(&mut reader, 9), ["c quarantined"]);
        assert!(!reader.lists());
        assert_eq!(read(&mut reader, 1), ["d settled"]);
        put(&states, "f", WindowState::Settled);
        assert_eq!(read(&mut reader, 9), ["f settled"]);
        assert!(read(&mut reader, 9).is_empty());
        assert_eq!(read(&mut later, 9), ["d settled", "f settled"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_is_far_behind_begins_again() {
        let states = StateFeed::default();
        let mut reader = states.readers().1;
        put(&states, "a", WindowState::Held);
        for number in 0..2 * KEPT {
            put(&states, &format!("w{number}"), WindowState::Settled);
        }
        put(&states, "b", WindowState::Held);
        assert_eq!(read(&mut reader, 9), ["a held", "b held"]);
        put(&states, "c", WindowState::Settled);
        assert_eq!(read(&mut reader, 9), ["c settled"]);
        assert!(states.lock().numbers.len() <= KEPT + 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_is_woken_at_most_once_a_second() {
        let states = StateFeed::default();
        let mut reader = states.readers().1;
        assert!(reader.changed().now_or_never().is_none());
        let begun = Instant::now();
        for _ in 0..3 {
            put(&states, "a", WindowState::Held);
            reader.changed().await;
            assert_eq!(reader.read(9).len(), 1);
        }
        assert_eq!(begun.elapsed(), 2 * PAUSE);
    }
}
