//! The state of a window and its worker.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::mirror::health::WindowHealth;
use crate::mirror::outcome::RoundOutcome;
use crate::mirror::position::SegmentIndex;
use crate::mirror::schedule;
use crate::mirror::status::{
    AuditRecord, AuditStatus, PastRound, ResyncReason, RoundFigures, WindowState,
};
use crate::mirror::window::{Edges, Window};
use crate::store::RegisteredWindow;

use super::history::RoundHistory;
use super::monotonic::{MonotonicTime, PackedInstant};
use super::rare_state::{NO_RARE_STATE, RareState};

/// The state of a window and its worker, in the form that costs least while the window sleeps.
#[derive(Debug)]
pub(super) struct WorkerState {
    /// The settings.
    pub(super) window: Arc<Window>,
    pub(super) health: WindowHealth,
    /// The state that readers of the feed know.
    pub(super) told: WindowState,
    pub(super) edges: Edges,
    pub(super) edges_at: Timestamp,
    pub(super) events: u64,
    /// Finished attempts, successful or not. A running attempt has the next number.
    pub(super) rounds: u64,
    pub(super) running: bool,
    /// Whether the worker was asked to stop.
    pub(super) stopping: bool,
    /// Ends the running round.
    pub(super) stop: Option<CancellationToken>,
    /// When a running worker last ran its stall check; `None` while none runs.
    last_heartbeat: Option<PackedInstant>,
    pub(super) request: Option<RoundRequest>,
    pub(super) history: RoundHistory,
    /// The resync that began in the running round.
    pub(super) resync: Option<ResyncReason>,
    pub(super) last_success: Option<MonotonicTime>,
    pub(super) next_due: Option<MonotonicTime>,
    pub(super) audits: PackedAudit,
    /// What most windows do not have.
    rare: Option<Box<RareState>>,
    /// The longest segment that Graph answers for, in days: at most 1825.
    segment_days: u16,
}

impl WorkerState {
    /// The state of a window as the store has it, at the wall-clock time `now`.
    pub(super) fn new(window: Arc<Window>, registered: &RegisteredWindow, now: Timestamp) -> Self {
        let rare = RareState {
            resyncs: registered.resyncs,
            last_resync: registered.last_resync.clone(),
            snapshots: registered.snapshots,
            ..RareState::default()
        };
        let initial = if registered.settled {
            WindowState::Settled
        } else if registered.held {
            WindowState::Held
        } else {
            WindowState::Enumerating
        };
        Self {
            window,
            told: if registered.settled { initial } else { WindowState::Enumerating },
            health: WindowHealth {
                state: initial,
                failures: 0,
                settled_once: registered.settled_once,
                logged: None,
            },
            edges: registered.edges,
            edges_at: registered.edges_at,
            events: registered.events,
            rounds: registered.rounds,
            running: false,
            stopping: false,
            stop: None,
            last_heartbeat: None,
            request: None,
            history: RoundHistory::default(),
            resync: None,
            last_success: registered.last_success.map(|at| MonotonicTime::from_stored(at, now)),
            next_due: None,
            audits: PackedAudit::of(registered.audit),
            rare: rare.boxed(),
            segment_days: u16::try_from(registered.segment_days).unwrap_or(u16::MAX),
        }
    }

    /// Takes over the window as the store has it now. The history, the failure count and a state of
    /// trouble are kept.
    pub(super) fn reattach(&mut self, window: Arc<Window>, registered: &RegisteredWindow) {
        self.window = window;
        self.set_edges(registered.edges, registered.edges_at);
        self.events = registered.events;
        self.edit_rare(|rare| {
            rare.resyncs = registered.resyncs;
            rare.last_resync = registered.last_resync.clone();
        });
        self.audits = PackedAudit::of(registered.audit);
        if !self.health.state.is_trouble() {
            self.health.state =
                if registered.settled { WindowState::Settled } else { WindowState::Enumerating };
        }
    }

    /// Counts unreadable items of a page, which the mirror may lack. An enumeration of the segment
    /// starts its count again.
    pub(super) fn count_unreadable(&mut self, segment: SegmentIndex, first: bool, count: usize) {
        if count == 0 && (!first || self.rare().unreadable.is_empty()) {
            return;
        }
        self.edit_rare(|rare| {
            if first {
                rare.unreadable.remove(&segment);
            }
            if let Ok(count @ 1..) = u32::try_from(count) {
                let known = rare.unreadable.entry(segment).or_default();
                *known = known.saturating_add(count);
            }
        });
    }

    /// What most windows do not have.
    pub(super) fn rare(&self) -> &RareState {
        self.rare.as_deref().unwrap_or(&NO_RARE_STATE)
    }

    /// Changes what most windows do not have. Nothing is allocated if nothing of it is left.
    pub(super) fn edit_rare<T>(&mut self, edit: impl FnOnce(&mut RareState) -> T) -> T {
        let mut rare = self.rare.take().map_or(RareState::NONE, |rare| *rare);
        let result = edit(&mut rare);
        self.rare = rare.boxed();
        result
    }

    /// Records that a round runs and is not stuck.
    pub(super) fn beat(&mut self) {
        self.last_heartbeat = Some(PackedInstant::of(Instant::now()));
    }

    /// Records that no round runs.
    pub(super) fn end_round(&mut self) {
        self.running = false;
        self.stop = None;
        self.last_heartbeat = None;
    }

    /// The time since the running worker last ran its stall check; `None` if none runs.
    pub(super) fn unchecked(&self) -> Option<Duration> {
        let beat = self.last_heartbeat.filter(|_| self.running);
        beat.map(|beat| beat.instant().elapsed())
    }

    /// The window's segments, earliest first.
    pub(super) fn segments(&self) -> Vec<Edges> {
        self.edges.cut(self.segment_days())
    }

    pub(super) fn segment_days(&self) -> i64 {
        self.segment_days.into()
    }

    pub(super) fn set_segment_days(&mut self, days: i64) {
        self.segment_days = u16::try_from(days).unwrap_or(u16::MAX);
    }

    /// Sets the edges, which were computed at `at`. Segments that no longer exist have no
    /// unreadable items.
    pub(super) fn set_edges(&mut self, edges: Edges, at: Timestamp) {
        (self.edges, self.edges_at) = (edges, at);
        let segments = self.segments().len();
        self.edit_rare(|rare| {
            rare.unreadable.retain(|segment, _| usize::from(*segment) < segments);
        });
    }

    /// Keeps a request for the next round. Of several requests the greatest is served.
    pub(super) fn keep_request(&mut self, request: Option<RoundRequest>) {
        self.request = self.request.max(request);
    }

    /// Records a finished round.
    pub(super) fn record_round(&mut self, round: RoundFigures, outcome: RoundOutcome) {
        let usual = self.segments().len();
        let resync = self.resync.take();
        self.history.record(PastRound { round, outcome, resync }, usual);
    }

    /// Seconds since the last successful round.
    pub(super) fn stale_s(&self) -> Option<f64> {
        self.last_success.map(|at| at.age().as_secs_f64())
    }

    /// Publishes whether a segment is in snapshot mode.
    pub(super) fn set_snapshot_mode(&mut self, segment: SegmentIndex, snapshot: bool) {
        if self.rare().snapshots.contains(segment) == snapshot {
            return;
        }
        self.edit_rare(|rare| {
            if snapshot { rare.snapshots.insert(segment) } else { rare.snapshots.remove(segment) }
        });
    }
}

/// An [`AuditRecord`] in few bytes: times in whole seconds, 0 for never.
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

    /// `None` before the window first settled.
    pub(super) fn record(self) -> Option<AuditRecord> {
        let instant = |at: u32| Timestamp::from_second(at.into()).ok().filter(|_| at > 0);
        let differences = self.differences.into();
        Some(AuditRecord { since: instant(self.since)?, at: instant(self.at), differences })
    }

    /// The window has settled. The audit period counts from the first time.
    pub(super) fn begin(&mut self, now: Timestamp) {
        if self.since == 0 {
            self.since = seconds(now);
        }
    }

    /// Records a finished audit.
    pub(super) fn end(&mut self, now: Timestamp, differences: u64) {
        self.at = seconds(now);
        let differences = u32::try_from(differences).unwrap_or(u32::MAX);
        self.differences = self.differences.saturating_add(differences);
    }

    /// When the next audit is due, if audits are enabled.
    fn due(self, window: &Window) -> Option<Timestamp> {
        Some(schedule::next_audit(&window.name, &self.record()?, window.settings.audit?))
    }

    /// Whether an audit is due at `now`; `false` if audits are disabled.
    pub(super) fn is_due(self, window: &Window, now: Timestamp) -> bool {
        let due = |record, period| schedule::is_audit_due(&window.name, &record, period, now);
        self.record().zip(window.settings.audit).is_some_and(|(record, period)| due(record, period))
    }

    pub(super) fn status(self, window: &Window) -> AuditStatus {
        let at = self.record().and_then(|record| record.at);
        AuditStatus { at, differences: self.differences.into(), next_due: self.due(window) }
    }
}

fn seconds(at: Timestamp) -> u32 {
    u32::try_from(at.as_second()).unwrap_or(0)
}

/// A requested round. Of several requests the greatest is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RoundRequest {
    /// A round now.
    Sync,
    /// A full resync now.
    Resync,
    /// A full resync now whose removals need no confirmation, whatever their number.
    AcceptRemovals,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::tests::{NOON, registered, window};

    #[tokio::test(start_paused = true)]
    async fn a_segment_that_no_longer_exists_has_no_unreadable_items() {
        let edges = |end: &str| Edges { start: NOON, end: end.parse().unwrap() };
        let long = registered(edges("2036-11-02T12:00:00Z"));
        let mut state = WorkerState::new(Arc::new(window("alice")), &long, NOON);
        assert_eq!(state.segments().len(), 3);
        for segment in 0..3 {
            state.count_unreadable(segment, true, 1);
        }
        state.set_edges(edges("2026-12-02T12:00:00Z"), NOON);
        assert_eq!(state.rare().unreadable, BTreeMap::from([(0, 1)]));
    }

    #[test]
    fn an_audit_is_due_a_period_after_the_window_first_settled() {
        let mut audited = window("alice");
        audited.settings_mut().audit = Some(Duration::from_secs(86_400));
        let mut audit = PackedAudit::default();
        let later = |hours| NOON + jiff::SignedDuration::from_hours(hours);
        assert!(!audit.is_due(&audited, later(100)), "it never settled");
        audit.begin(NOON);
        audit.begin(later(90));
        assert!(audit.is_due(&audited, later(100)), "the first time counts");
        assert!(!audit.is_due(&window("alice"), later(100)), "audits are disabled");
        audit.end(later(100), 3);
        assert!(!audit.is_due(&audited, later(101)));
        audit.end(later(200), 4);
        let record = AuditRecord { since: NOON, at: Some(later(200)), differences: 7 };
        assert_eq!(audit.record(), Some(record));
        assert_eq!(PackedAudit::of(Some(record)).record(), Some(record));
    }
}
