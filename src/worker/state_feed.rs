//! Tells readers of the feed when the state of a window changes.

use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::broadcast;

use super::state::WorkerState;
use crate::mirror::status::{LastError, WindowState};

/// Changes kept for a reader that is behind; one that falls further behind has to begin again.
const CAPACITY: usize = 4096;

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

/// The changes of the states of all windows. Clones share them.
#[derive(Clone, Debug)]
pub struct StateFeed(broadcast::Sender<StateChange>);

impl Default for StateFeed {
    fn default() -> Self {
        Self(broadcast::Sender::new(CAPACITY))
    }
}

impl StateFeed {
    /// The changes from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<StateChange> {
        self.0.subscribe()
    }

    /// Tells readers a change as if a worker had done it.
    #[cfg(test)]
    pub(crate) fn send(&self, change: StateChange) {
        self.0.send(change).ok();
    }

    /// Tells readers the state of a window, if it is another than they know.
    pub(super) fn tell(&self, worker: &mut WorkerState, at: Timestamp) {
        let state = match worker.health.state {
            // An ordinary round is under way.
            WindowState::Following => WindowState::Settled,
            state => state,
        };
        let known = std::mem::replace(&mut worker.told, state);
        if known == state || self.0.receiver_count() == 0 {
            return;
        }
        let error = worker.rare().last_error.clone().filter(|_| state.is_trouble());
        let window = worker.window.name.clone();
        // Fails only if the last reader has just gone.
        self.0.send(StateChange { at, window, state, error }).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::window::Edges;
    use crate::tests::{NOON, registered, window};

    #[test]
    fn readers_are_told_each_state_once_and_rounds_are_none() {
        let states = StateFeed::default();
        let edges = Edges { start: NOON, end: "2026-12-02T12:00:00Z".parse().unwrap() };
        let mut worker = WorkerState::new(Arc::new(window("alice")), &registered(edges), NOON);
        let mut reader = states.subscribe();
        let mut told = |state| {
            worker.health.state = state;
            states.tell(&mut worker, NOON);
            reader.try_recv().ok().map(|change| change.state)
        };
        assert_eq!(told(WindowState::Following), None);
        assert_eq!(told(WindowState::Settled), None);
        assert_eq!(told(WindowState::BackingOff), Some(WindowState::BackingOff));
        assert_eq!(told(WindowState::BackingOff), None);
        assert_eq!(told(WindowState::Quarantined), Some(WindowState::Quarantined));
        assert_eq!(told(WindowState::Enumerating), Some(WindowState::Enumerating));
        assert_eq!(told(WindowState::Following), Some(WindowState::Settled));
    }
}
