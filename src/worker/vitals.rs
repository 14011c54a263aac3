//! What a worker publishes about its window, and what others ask of it.

use std::sync::Arc;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use tokio::sync::Notify;

use crate::mirror::status::{
    Glance, LastError, LastResync, LastRound, SegmentStatus, State, WindowStatus,
};
use crate::mirror::window::{Edges, Window};
use crate::store::Attached;

/// The meeting point of a worker and everybody who watches it. Small: there may be a million.
#[derive(Debug)]
pub struct Cell {
    window: Mutex<Arc<Window>>,
    vitals: Mutex<Vitals>,
    /// Somebody asked for something.
    pub(super) wake: Notify,
    /// An attempt is over.
    over: Notify,
}

/// A window's health, in the form that costs least while it sleeps.
#[derive(Debug)]
pub(super) struct Vitals {
    pub(super) state: State,
    pub(super) edges: Edges,
    pub(super) edges_at: Timestamp,
    pub(super) events: u64,
    /// Attempts that are over, good or bad; the running one has the next number.
    pub(super) rounds: u64,
    pub(super) running: bool,
    pub(super) asked: Option<Asked>,
    pub(super) last_round: Option<Box<LastRound>>,
    pub(super) last_success: Option<Timestamp>,
    pub(super) next_due: Option<Timestamp>,
    pub(super) failures: u32,
    pub(super) resyncs: u64,
    pub(super) last_resync: Option<LastResync>,
    pub(super) last_error: Option<Box<LastError>>,
    pub(super) settled_once: bool,
    /// The trouble that the log was told of and that is not over.
    pub(super) told: Option<State>,
}

/// What somebody asked of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Asked {
    /// A round now.
    Sync,
    /// A full resync now.
    Resync,
    /// A full resync now whose removals are believed however many.
    AcceptRemovals,
}

impl Vitals {
    /// Seconds since the last success.
    fn stale_s(&self, now: Timestamp) -> Option<f64> {
        self.last_success.map(|at| now.duration_since(at).as_secs_f64().max(0.0))
    }
}

impl Cell {
    /// A window as the store has it.
    pub fn new(window: Arc<Window>, attached: &Attached) -> Self {
        Self {
            window: Mutex::new(window),
            vitals: Mutex::new(Vitals {
                state: if attached.settled { State::Settled } else { State::Enumerating },
                edges: attached.edges,
                edges_at: attached.edges_at,
                events: attached.events,
                rounds: attached.rounds,
                running: false,
                asked: None,
                last_round: None,
                last_success: attached.last_success,
                next_due: None,
                failures: 0,
                resyncs: attached.resyncs,
                last_resync: attached.last_resync.clone(),
                last_error: None,
                settled_once: attached.settled,
                told: None,
            }),
            wake: Notify::new(),
            over: Notify::new(),
        }
    }

    /// The window's settings.
    pub fn window(&self) -> Arc<Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn vitals(&self) -> MutexGuard<'_, Vitals> {
        // Every critical section assigns whole fields, so what a panic leaves is still true.
        self.vitals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for a round and tells the number of the one that will serve: the running one began
    /// before the question, so it does not count.
    pub fn ask(&self, asked: Asked) -> u64 {
        let mut vitals = self.vitals();
        vitals.asked = vitals.asked.max(Some(asked));
        let round = vitals.rounds + 1 + u64::from(vitals.running);
        drop(vitals);
        self.wake.notify_one();
        round
    }

    /// Makes a sleeping worker look up.
    pub fn rouse(&self) {
        self.wake.notify_one();
    }

    /// Waits until an attempt of that number, or a later one, is over.
    pub async fn finished(&self, round: u64) {
        loop {
            let over = self.over.notified();
            tokio::pin!(over);
            // Registered before the look, so that nothing falls between.
            over.as_mut().enable();
            if self.vitals().rounds >= round {
                return;
            }
            over.await;
        }
    }

    /// The worker is gone; another will take the window up.
    pub fn collapse(&self) {
        let mut vitals = self.vitals();
        vitals.running = false;
        vitals.rounds += 1;
        vitals.failures = vitals.failures.saturating_add(1);
        vitals.state = State::BackingOff;
        drop(vitals);
        self.announce();
    }

    pub(super) fn announce(&self) {
        self.over.notify_waiters();
    }

    /// The window's state alone.
    pub fn state(&self) -> State {
        self.vitals().state
    }

    /// What is counted over a fleet.
    pub fn glance(&self, now: Timestamp) -> Glance {
        let interval_s = self.window().interval.as_secs_f64();
        let vitals = self.vitals();
        Glance {
            state: vitals.state,
            events: vitals.events,
            stale_s: vitals.stale_s(now),
            interval_s,
            settled_once: vitals.settled_once,
        }
    }

    /// Everything readers are told.
    pub fn status(&self, now: Timestamp) -> WindowStatus {
        let window = self.window();
        let vitals = self.vitals();
        WindowStatus {
            name: window.name.to_string(),
            account: window.account.to_string(),
            mailbox: window.mailbox.to_string(),
            calendar: window.calendar.to_string(),
            start: vitals.edges.start,
            end: vitals.edges.end,
            state: vitals.state,
            events: vitals.events,
            segments: vitals
                .edges
                .segments()
                .into_iter()
                .map(|segment| SegmentStatus {
                    start: segment.start,
                    end: segment.end,
                    mode: "delta".to_owned(),
                })
                .collect(),
            last_round: vitals.last_round.as_deref().cloned(),
            last_success: vitals.last_success,
            stale_s: vitals.stale_s(now).map(|s| (s * 10.0).round() / 10.0),
            next_due: vitals.next_due,
            failures: vitals.failures,
            resyncs: vitals.resyncs,
            last_resync: vitals.last_resync.clone(),
            last_error: vitals.last_error.as_deref().cloned(),
            settled_once: vitals.settled_once,
            interval_s: window.interval.as_secs_f64(),
        }
    }
}
