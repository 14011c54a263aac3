//! The connection between a worker and those who read its state or request rounds of it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::mirror::health::WindowHealth;
use crate::mirror::outcome::{RoundOutcome, SegmentMode};
use crate::mirror::position::WindowId;
use crate::mirror::schedule;
use crate::mirror::status::{PastRounds, RoundFigures, SegmentStatus, WindowState, WindowStatus};
use crate::mirror::window::{CalendarRef, Window};
use crate::store::RegisteredWindow;

use super::state::{RoundRequest, WorkerState};
use super::state_feed::StateFeed;

/// Connects a worker with its readers and requesters. Small, because there may be a million.
#[derive(Debug)]
pub struct WindowHandle {
    id: WindowId,
    state: Mutex<WorkerState>,
    /// Wakes the worker: a request was made, the settings changed, or it has to stop.
    pub(super) wake: Notify,
}

/// The part of a window's state that lists of windows need.
#[derive(Clone, Debug)]
pub struct WindowSummary {
    /// Its settings.
    pub window: Arc<Window>,
    /// Its state.
    pub state: WindowState,
    /// Not in a state of trouble, and not stale for more than 3 × interval.
    pub healthy: bool,
    /// Whether it has settled once since it was created.
    pub settled_once: bool,
    /// Number of events that readers see.
    pub events: u64,
    /// Seconds since the last successful round, if there was one.
    pub stale_s: Option<f64>,
}

impl WindowSummary {
    /// Whether the name, mailbox, account or calendar contains `wanted`, which is in lower case.
    pub fn matches(&self, wanted: &str) -> bool {
        let Window { name, mailbox, account, .. } = &*self.window;
        let holds = |text: &str| text.to_lowercase().contains(wanted);
        let by_id = || match &self.window.calendar {
            CalendarRef::Default => false,
            CalendarRef::Id(id) => holds(id),
        };
        wanted.is_empty() || holds(name) || holds(mailbox) || holds(account) || by_id()
    }
}

impl WindowHandle {
    /// A handle for a window as the store has it, at the wall-clock time `now`.
    pub fn new(window: Arc<Window>, registered: &RegisteredWindow, now: Timestamp) -> Self {
        Self {
            id: registered.id,
            state: Mutex::new(WorkerState::new(window, registered, now)),
            wake: Notify::new(),
        }
    }

    /// The window's number in the store.
    pub fn id(&self) -> WindowId {
        self.id
    }

    /// Asks the worker to stop: its round ends at once, and it begins no other.
    pub fn stop_worker(&self) {
        let mut state = self.lock();
        state.stopping = true;
        let stop = state.stop.take();
        drop(state);
        if let Some(stop) = stop {
            stop.cancel();
        }
        self.wake_worker();
    }

    /// Prepares the handle for a new worker, after the previous one has ended.
    pub fn allow_worker(&self) {
        let mut state = self.lock();
        (state.stopping, state.stop) = (false, None);
    }

    /// A token that ends what the worker does next, if the worker or `all` is asked to stop.
    pub fn arm_stop(&self, all: &CancellationToken) -> CancellationToken {
        let stop = all.child_token();
        let mut state = self.lock();
        if state.stopping {
            stop.cancel();
        } else {
            state.stop = Some(stop.clone());
        }
        stop
    }

    /// Whether the worker was asked to stop.
    pub(super) fn is_stopping(&self) -> bool {
        self.lock().stopping
    }

    /// Replaces the settings. They take effect at the next round; a sleeping worker computes its
    /// wait again at once.
    pub fn set_window(&self, window: Arc<Window>) {
        self.lock().window = window;
        self.wake_worker();
    }

    /// The window's worker was stopped and will be started again: wakes the callers that wait for
    /// its round.
    pub fn interrupt(&self) {
        let mut state = self.lock();
        state.rounds += u64::from(state.running);
        state.end_round();
        drop(state);
        self.notify_finished();
    }

    /// Restarts the window as the store has it now. The history, the failure count and a state of
    /// trouble are kept.
    pub fn reattach(&self, window: Arc<Window>, registered: &RegisteredWindow) {
        self.lock().reattach(window, registered);
    }

    /// The window's settings.
    pub fn window(&self) -> Arc<Window> {
        self.lock().window.clone()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, WorkerState> {
        // Every critical section assigns whole fields, so the state is valid even after a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Requests a round and returns the number of the round that will serve the request. A running
    /// round began before the request and does not count.
    pub fn request_round(&self, request: RoundRequest) -> u64 {
        let mut state = self.lock();
        state.keep_request(Some(request));
        let round = state.rounds + 1 + u64::from(state.running);
        drop(state);
        self.wake.notify_one();
        round
    }

    /// Wakes a sleeping worker.
    pub fn wake_worker(&self) {
        self.wake.notify_one();
    }

    /// Waits until the attempt with this number, or a later one, has ended.
    pub async fn finished(&self, round: u64) {
        loop {
            let finished = {
                let mut state = self.lock();
                if state.rounds >= round {
                    return;
                }
                let notify = state.edit_rare(|rare| rare.finished.get_or_insert_default().clone());
                // Under the lock, so that no notification is missed.
                notify.notified_owned()
            };
            finished.await;
        }
    }

    /// Records that the worker panicked or hung. Another worker will take over the window.
    pub fn on_crash(&self, states: &StateFeed, now: Timestamp) {
        let mut state = self.lock();
        state.end_round();
        state.rounds += 1;
        let number = state.rounds;
        let round = RoundFigures { number, at: now, ..RoundFigures::default() };
        state.record_round(round, RoundOutcome::Crashed);
        state.health = state.health.on_crash();
        states.tell(&mut state, now);
        drop(state);
        self.notify_finished();
    }

    pub(super) fn notify_finished(&self) {
        let mut state = self.lock();
        if state.rare().finished.is_some()
            && let Some(finished) = state.edit_rare(|rare| rare.finished.take())
        {
            finished.notify_waiters();
        }
    }

    /// Whether a round is running and its worker has not checked for stalls for `limit`: its
    /// thread is blocked by something that never yields.
    pub fn is_hung(&self, limit: Duration) -> bool {
        self.lock().unchecked().is_some_and(|unchecked| unchecked > limit)
    }

    /// The window's state.
    pub fn state(&self) -> WindowState {
        self.lock().health.state
    }

    /// The window's past rounds.
    pub fn rounds(&self) -> PastRounds {
        self.lock().history.snapshot()
    }

    /// What finding, sorting and counting windows needs; cheap.
    pub fn summary(&self) -> WindowSummary {
        let worker_state = self.lock();
        let WorkerState { health: WindowHealth { state, settled_once, .. }, events, .. } =
            *worker_state;
        let window = worker_state.window.clone();
        let stale_s = worker_state.stale_s();
        drop(worker_state);
        let fresh = stale_s.is_none_or(|s| s <= 3.0 * window.settings.interval.as_secs_f64());
        let healthy = !state.is_trouble() && fresh;
        WindowSummary { window, state, healthy, settled_once, events, stale_s }
    }

    /// The whole published status.
    pub fn status(&self, now: Timestamp) -> WindowStatus {
        let mut state = self.lock();
        let window = state.window.clone();
        let segments = state.segments();
        let next_due = state.next_due.as_mut().map(|due| due.future_wall_time(now));
        let mut last_error = state.rare().last_error.clone();
        if let Some(error) = last_error.as_mut().filter(|error| error.retry_at.is_some()) {
            // The wall clock may have been set since.
            error.retry_at = next_due.or(error.retry_at);
        }
        let state = &mut *state;
        let is_held = state.health.state == WindowState::Held;
        let held = is_held.then(|| state.edit_rare(|rare| rare.held_until(now))).flatten();
        let rare = state.rare();
        WindowStatus {
            name: window.name.to_string(),
            account: window.account.to_string(),
            mailbox: window.mailbox.to_string(),
            calendar: window.calendar.to_string(),
            start: state.edges.start,
            end: state.edges.end,
            state: state.health.state,
            events: state.events,
            segments: segments
                .iter()
                .zip(0..)
                .map(|(segment, index)| SegmentStatus {
                    start: segment.start,
                    end: segment.end,
                    mode: if rare.snapshots.contains(index) || !window.has_delta() {
                        SegmentMode::Snapshot
                    } else {
                        SegmentMode::Delta
                    },
                    interval_s: schedule::segment_interval(
                        window.settings.interval,
                        &segments,
                        index.into(),
                        now,
                    )
                    .as_secs_f64(),
                })
                .collect(),
            last_round: state.history.last(),
            last_success: state.last_success.map(|at| at.past_wall_time(now)),
            stale_s: state.stale_s().map(|s| (s * 10.0).round() / 10.0),
            next_due,
            held_until: held,
            failures: state.health.failures,
            resyncs: rare.resyncs,
            last_resync: rare.last_resync.clone(),
            audit: state.audits.status(&window),
            last_error,
            settled_once: state.health.settled_once,
            unreadable: rare.unreadable.values().fold(0, |sum, n| sum.saturating_add(*n)),
            interval_s: window.settings.interval.as_secs_f64(),
            fleet: None,
            place: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use crate::mirror::window::Edges;
    use crate::tests::{NOON, registered, window};

    fn handle(registered: &RegisteredWindow) -> WindowHandle {
        WindowHandle::new(Arc::new(window("alice")), registered, NOON)
    }

    fn month() -> RegisteredWindow {
        registered(Edges { start: NOON, end: "2026-12-02T12:00:00Z".parse().unwrap() })
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_is_served_by_the_next_round_that_begins() {
        let handle = handle(&month());
        assert_eq!(handle.request_round(RoundRequest::Resync), 8);
        assert_eq!(handle.request_round(RoundRequest::Sync), 8);
        assert_eq!(handle.lock().request, Some(RoundRequest::Resync), "the greatest is kept");
        handle.lock().running = true;
        assert_eq!(handle.request_round(RoundRequest::Sync), 9, "a running round began before");
    }

    #[tokio::test(start_paused = true)]
    async fn every_end_of_a_round_wakes_its_waiters() {
        type Finish = fn(&WindowHandle);
        let ends: [(&str, Finish); 3] = [
            ("a crash", |handle| handle.on_crash(&StateFeed::default(), NOON)),
            ("a stop of the worker", WindowHandle::interrupt),
            ("its result", |handle| {
                handle.lock().rounds += 1;
                handle.notify_finished();
            }),
        ];
        for (end, finish) in ends {
            let handle = handle(&month());
            handle.lock().running = true;
            let mut waiting = std::pin::pin!(handle.finished(8));
            assert!(waiting.as_mut().now_or_never().is_none(), "{end}");
            finish(&handle);
            assert!(waiting.as_mut().now_or_never().is_some(), "{end}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_running_round_hangs() {
        let (handle, limit) = (handle(&month()), Duration::from_secs(60));
        tokio::time::advance(2 * limit).await;
        assert!(!handle.is_hung(limit));
        handle.lock().running = true;
        handle.lock().beat();
        tokio::time::advance(2 * limit).await;
        assert!(handle.is_hung(limit));
        handle.lock().beat();
        assert!(!handle.is_hung(limit));
    }

    /// The states before and after the window's worker is replaced.
    #[tokio::test(start_paused = true)]
    async fn a_window_in_trouble_stays_in_trouble_when_it_is_reattached() {
        for (before, settled, after) in [
            (WindowState::Enumerating, true, WindowState::Settled),
            (WindowState::Following, false, WindowState::Enumerating),
            (WindowState::Quarantined, true, WindowState::Quarantined),
        ] {
            let handle = handle(&month());
            handle.lock().health.state = before;
            let again = RegisteredWindow { settled, events: 5, ..month() };
            handle.reattach(Arc::new(window("alice")), &again);
            assert_eq!((handle.state(), handle.lock().events), (after, 5), "{before}");
            assert_eq!(handle.lock().rounds, 7, "the count of rounds continues");
        }
    }
}
