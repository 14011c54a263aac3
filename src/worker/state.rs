//! What a worker publishes about its window, and what others ask of it.

use std::sync::Arc;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::mirror::health::WindowHealth;
use crate::mirror::outcome::{RoundOutcome, SegmentMode};
use crate::mirror::position::SegmentIndex;
use crate::mirror::schedule;
use crate::mirror::status::{
    AuditRecord, AuditStatus, LastError, LastResync, LastRound, PastRound, PastRounds,
    ResyncReason, SegmentStatus, WindowState, WindowStatus,
};
use crate::mirror::window::{CalendarRef, Edges, Window};
use crate::store::RegisteredWindow;

use super::history::RoundHistory;
use super::monotonic::MonotonicTime;

/// The meeting point of a worker and everybody who watches it. Small: there may be a million.
#[derive(Debug)]
pub struct WindowHandle {
    window: Mutex<Arc<Window>>,
    state: Mutex<WorkerState>,
    /// Somebody asked for something.
    pub(super) wake: Notify,
    /// An attempt is over.
    finished: Notify,
}

/// A window's health, in the form that costs least while it sleeps.
#[derive(Debug)]
pub(super) struct WorkerState {
    pub(super) health: WindowHealth,
    pub(super) edges: Edges,
    pub(super) edges_at: Timestamp,
    pub(super) events: u64,
    /// Attempts that are over, good or bad; the running one has the next number.
    pub(super) rounds: u64,
    pub(super) running: bool,
    /// When a running worker last looked around.
    pub(super) last_heartbeat: Instant,
    pub(super) asked: Option<RoundRequest>,
    pub(super) past: RoundHistory,
    /// The resync that began in the running round.
    pub(super) resync: Option<ResyncReason>,
    pub(super) last_success: Option<MonotonicTime>,
    pub(super) next_due: Option<MonotonicTime>,
    /// Until when a removal that is too large to believe waits.
    pub(super) held: Option<Box<MonotonicTime>>,
    /// Until when a move of the edges waits that drops most of the window.
    pub(super) held_move: Option<Box<MonotonicTime>>,
    pub(super) resyncs: u64,
    pub(super) last_resync: Option<Box<LastResync>>,
    pub(super) audits: PackedAudit,
    pub(super) last_error: Option<Box<LastError>>,
    /// See [`WindowStatus::unreadable`].
    pub(super) unreadable: u32,
    /// The segments in snapshot mode, as bits.
    snapshots: u64,
    /// The longest segment that Graph answers for, in days: at most 1825.
    segment_days: u16,
}

impl WorkerState {
    /// The window's segments, earliest first.
    pub(super) fn segments(&self) -> Vec<Edges> {
        self.edges.cut(self.segment_days())
    }

    pub(super) fn segment_days(&self) -> i64 {
        self.segment_days.into()
    }

    pub(super) fn cut(&mut self, days: i64) {
        self.segment_days = u16::try_from(days).unwrap_or(u16::MAX);
    }

    /// A round is over.
    pub(super) fn record_round(&mut self, round: LastRound, outcome: RoundOutcome) {
        let usual = self.segments().len();
        let resync = self.resync.take();
        self.past.record(PastRound { round, outcome, resync }, usual);
    }

    /// Shows whether a segment is listed whole or followed.
    pub(super) fn show_mode(&mut self, segment: SegmentIndex, snapshot: bool) {
        let bit = 1 << (segment & 63);
        self.snapshots = if snapshot { self.snapshots | bit } else { self.snapshots & !bit };
    }
}

/// An [`AuditRecord`] in few bytes: whole seconds, 0 for never.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PackedAudit {
    since: u32,
    at: u32,
    differences: u32,
}

impl PackedAudit {
    fn of(record: Option<AuditRecord>) -> Self {
        let Some(AuditRecord { since, at, differences }) = record else { return Self::default() };
        Self {
            since: seconds(since),
            at: at.map_or(0, seconds),
            differences: u32::try_from(differences).unwrap_or(u32::MAX),
        }
    }

    /// None before the window first settled.
    pub(super) fn record(self) -> Option<AuditRecord> {
        let instant = |at: u32| Timestamp::from_second(at.into()).ok().filter(|_| at > 0);
        let differences = self.differences.into();
        Some(AuditRecord { since: instant(self.since)?, at: instant(self.at), differences })
    }

    /// The window has settled: audits are counted from its first time.
    pub(super) fn begin(&mut self, now: Timestamp) {
        if self.since == 0 {
            self.since = seconds(now);
        }
    }

    /// An audit is over.
    pub(super) fn end(&mut self, now: Timestamp, differences: u64) {
        self.at = seconds(now);
        let differences = u32::try_from(differences).unwrap_or(u32::MAX);
        self.differences = self.differences.saturating_add(differences);
    }

    /// When the next one is due, if audits are wanted.
    fn due(self, window: &Window) -> Option<Timestamp> {
        Some(schedule::next_audit(&window.name, &self.record()?, window.audit?))
    }

    /// Whether one is due at `now`, if audits are wanted.
    pub(super) fn is_due(self, window: &Window, now: Timestamp) -> bool {
        let due = |record, period| schedule::is_audit_due(&window.name, &record, period, now);
        self.record().zip(window.audit).is_some_and(|(record, period)| due(record, period))
    }

    fn status(self, window: &Window) -> AuditStatus {
        let at = self.record().and_then(|record| record.at);
        AuditStatus { at, differences: self.differences.into(), next_due: self.due(window) }
    }
}

fn seconds(at: Timestamp) -> u32 {
    u32::try_from(at.as_second()).unwrap_or(0)
}

/// What somebody asked of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RoundRequest {
    /// A round now.
    Sync,
    /// A full resync now.
    Resync,
    /// A full resync now whose removals are believed however many.
    AcceptRemovals,
}

/// A window at a glance.
#[derive(Clone, Debug)]
pub struct WindowSummary {
    /// Its settings.
    pub window: Arc<Window>,
    /// What it is doing.
    pub state: WindowState,
    /// In a state of normal life and not stale beyond 3 × interval.
    pub healthy: bool,
    /// Whether it has settled once since it began.
    pub settled_once: bool,
    /// Events readers see.
    pub events: u64,
    /// Seconds since a round last succeeded, if one did.
    pub stale_s: Option<f64>,
}

impl WorkerState {
    /// Seconds since the last success.
    fn stale_s(&self) -> Option<f64> {
        self.last_success.map(|at| at.age().as_secs_f64())
    }
}

impl WindowSummary {
    /// Whether `wanted`, in small letters, stands in the name, mailbox, account or calendar.
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
    /// A window as the store has it, at the wall-clock time `now`.
    pub fn new(window: Arc<Window>, attached: &RegisteredWindow, now: Timestamp) -> Self {
        Self {
            window: Mutex::new(window),
            state: Mutex::new(WorkerState {
                health: WindowHealth {
                    state: if attached.settled {
                        WindowState::Settled
                    } else if attached.held {
                        WindowState::Held
                    } else {
                        WindowState::Enumerating
                    },
                    failures: 0,
                    settled_once: attached.settled_once,
                    logged: None,
                },
                edges: attached.edges,
                edges_at: attached.edges_at,
                events: attached.events,
                rounds: attached.rounds,
                running: false,
                last_heartbeat: Instant::now(),
                asked: None,
                past: RoundHistory::default(),
                resync: None,
                last_success: attached.last_success.map(|at| MonotonicTime::from_stored(at, now)),
                next_due: None,
                held: None,
                held_move: None,
                resyncs: attached.resyncs,
                last_resync: attached.last_resync.clone().map(Box::new),
                audits: PackedAudit::of(attached.audit),
                last_error: None,
                unreadable: 0,
                snapshots: attached.snapshots,
                segment_days: u16::try_from(attached.segment_days).unwrap_or(u16::MAX),
            }),
            wake: Notify::new(),
            finished: Notify::new(),
        }
    }

    /// The window is set otherwise, from its next round on; what a sleeping worker waits for
    /// changes at once.
    pub fn set_window(&self, window: Arc<Window>) {
        *self.window.lock().unwrap_or_else(PoisonError::into_inner) = window;
        self.wake_worker();
    }

    /// The window's worker was stopped in order to begin again: whoever waits for its round is told.
    pub fn interrupt(&self) {
        let mut worker_state = self.lock();
        worker_state.rounds += u64::from(worker_state.running);
        worker_state.running = false;
        drop(worker_state);
        self.announce();
    }

    /// The window begins again as the store has it now; health and history go on.
    pub fn reattach(&self, window: Arc<Window>, attached: &RegisteredWindow) {
        *self.window.lock().unwrap_or_else(PoisonError::into_inner) = window;
        let mut worker_state = self.lock();
        (worker_state.edges, worker_state.edges_at) = (attached.edges, attached.edges_at);
        worker_state.events = attached.events;
        worker_state.resyncs = attached.resyncs;
        worker_state.last_resync = attached.last_resync.clone().map(Box::new);
        worker_state.audits = PackedAudit::of(attached.audit);
        if !worker_state.health.state.is_trouble() {
            worker_state.health.state =
                if attached.settled { WindowState::Settled } else { WindowState::Enumerating };
        }
    }

    /// The window's settings.
    pub fn window(&self) -> Arc<Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, WorkerState> {
        // Every critical section assigns whole fields, so what a panic leaves is still true.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for a round and tells the number of the one that will serve: the running one began
    /// before the question, so it does not count.
    pub fn ask(&self, asked: RoundRequest) -> u64 {
        let mut worker_state = self.lock();
        worker_state.asked = worker_state.asked.max(Some(asked));
        let round = worker_state.rounds + 1 + u64::from(worker_state.running);
        drop(worker_state);
        self.wake.notify_one();
        round
    }

    /// Makes a sleeping worker look up.
    pub fn wake_worker(&self) {
        self.wake.notify_one();
    }

    /// Waits until an attempt of that number, or a later one, is over.
    pub async fn finished(&self, round: u64) {
        loop {
            let over = self.finished.notified();
            tokio::pin!(over);
            // Registered before the look, so that nothing falls between.
            over.as_mut().enable();
            if self.lock().rounds >= round {
                return;
            }
            over.await;
        }
    }

    /// The worker is gone; another will take the window up.
    pub fn on_crash(&self, now: Timestamp) {
        let mut worker_state = self.lock();
        worker_state.running = false;
        worker_state.rounds += 1;
        let number = worker_state.rounds;
        worker_state.record_round(LastRound::without_counts(number, now), RoundOutcome::Crashed);
        worker_state.health = worker_state.health.on_crash();
        drop(worker_state);
        self.announce();
    }

    pub(super) fn announce(&self) {
        self.finished.notify_waiters();
    }

    /// Whether a round is under way whose worker has not looked around for so long: its thread
    /// is held by something that never waits.
    pub fn is_hung(&self, for_so_long: Duration) -> bool {
        let worker_state = self.lock();
        worker_state.running && worker_state.last_heartbeat.elapsed() > for_so_long
    }

    /// The window's state alone.
    pub fn state(&self) -> WindowState {
        self.lock().health.state
    }

    /// What is remembered of its rounds.
    pub fn rounds(&self) -> PastRounds {
        self.lock().past.snapshot()
    }

    /// As much as it takes to find, to order and to count windows; costs next to nothing.
    pub fn summary(&self) -> WindowSummary {
        let window = self.window();
        let worker_state = self.lock();
        let WorkerState { health: WindowHealth { state, settled_once, .. }, events, .. } =
            *worker_state;
        let stale_s = worker_state.stale_s();
        drop(worker_state);
        let fresh = stale_s.is_none_or(|s| s <= 3.0 * window.interval.as_secs_f64());
        let healthy = !state.is_trouble() && fresh;
        WindowSummary { window, state, healthy, settled_once, events, stale_s }
    }

    /// Everything readers are told.
    pub fn status(&self, now: Timestamp) -> WindowStatus {
        let window = self.window();
        let mut worker_state = self.lock();
        let segments = worker_state.segments();
        let next_due = worker_state.next_due.as_mut().map(|due| due.to_future_wall_time(now));
        let mut last_error = worker_state.last_error.as_deref().cloned();
        if let Some(error) = last_error.as_mut().filter(|error| error.retry_at.is_some()) {
            // The wall clock may have been set since.
            error.retry_at = next_due.or(error.retry_at);
        }
        let worker_state = &mut *worker_state;
        let held = worker_state.held.as_mut().or(worker_state.held_move.as_mut());
        let held = held
            .filter(|_| worker_state.health.state == WindowState::Held)
            .map(|until| until.to_future_wall_time(now));
        WindowStatus {
            name: window.name.to_string(),
            account: window.account.to_string(),
            mailbox: window.mailbox.to_string(),
            calendar: window.calendar.to_string(),
            start: worker_state.edges.start,
            end: worker_state.edges.end,
            state: worker_state.health.state,
            events: worker_state.events,
            segments: segments
                .iter()
                .enumerate()
                .map(|(index, segment)| SegmentStatus {
                    start: segment.start,
                    end: segment.end,
                    mode: if worker_state.snapshots >> index & 1 == 1 {
                        SegmentMode::Snapshot
                    } else {
                        SegmentMode::Delta
                    },
                    interval_s: schedule::segment_interval(window.interval, &segments, index, now)
                        .as_secs_f64(),
                })
                .collect(),
            last_round: worker_state.past.last(),
            last_success: worker_state.last_success.map(|at| at.to_past_wall_time(now)),
            stale_s: worker_state.stale_s().map(|s| (s * 10.0).round() / 10.0),
            next_due,
            held_until: held,
            failures: worker_state.health.failures,
            resyncs: worker_state.resyncs,
            last_resync: worker_state.last_resync.as_deref().cloned(),
            audit: worker_state.audits.status(&window),
            last_error,
            settled_once: worker_state.health.settled_once,
            unreadable: worker_state.unreadable,
            interval_s: window.interval.as_secs_f64(),
        }
    }
}
