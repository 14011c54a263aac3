//! The state of a window and its worker.

use std::collections::BTreeMap;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::mirror::health::WindowHealth;
use crate::mirror::outcome::RoundOutcome;
use crate::mirror::position::SegmentIndex;
use crate::mirror::schedule;
use crate::mirror::segment_set::SegmentSet;
use crate::mirror::status::{
    AuditRecord, AuditStatus, LastError, LastResync, PastRound, ResyncReason, RoundFigures,
    WindowState,
};
use crate::mirror::window::{Edges, Window};
use crate::store::RegisteredWindow;

use super::history::RoundHistory;
use super::monotonic::MonotonicTime;

/// The state of a window and its worker, in the form that costs least while the window sleeps.
#[derive(Debug)]
pub(super) struct WorkerState {
    pub(super) health: WindowHealth,
    pub(super) edges: Edges,
    pub(super) edges_at: Timestamp,
    pub(super) events: u64,
    /// Finished attempts, successful or not. A running attempt has the next number.
    pub(super) rounds: u64,
    pub(super) running: bool,
    /// When a running worker last ran its stall check.
    pub(super) last_heartbeat: Instant,
    pub(super) request: Option<RoundRequest>,
    pub(super) history: RoundHistory,
    /// The resync that began in the running round.
    pub(super) resync: Option<ResyncReason>,
    pub(super) last_success: Option<MonotonicTime>,
    pub(super) next_due: Option<MonotonicTime>,
    /// Until when a mass removal waits for its confirmation.
    pub(super) held: Option<Box<MonotonicTime>>,
    /// Until when a move of the edges waits that would drop most of the window.
    pub(super) held_move: Option<Box<MonotonicTime>>,
    pub(super) resyncs: u64,
    pub(super) last_resync: Option<Box<LastResync>>,
    pub(super) audits: PackedAudit,
    pub(super) last_error: Option<Box<LastError>>,
    /// Unreadable items by segment; see [`WindowStatus::unreadable`].
    pub(super) unreadable: BTreeMap<SegmentIndex, u32>,
    /// The segments in snapshot mode.
    pub(super) snapshots: SegmentSet,
    /// The longest segment that Graph answers for, in days: at most 1825.
    segment_days: u16,
}

impl WorkerState {
    /// The state of a window as the store has it, at the wall-clock time `now`.
    pub(super) fn new(registered: &RegisteredWindow, now: Timestamp) -> Self {
        Self {
            health: WindowHealth {
                state: if registered.settled {
                    WindowState::Settled
                } else if registered.held {
                    WindowState::Held
                } else {
                    WindowState::Enumerating
                },
                failures: 0,
                settled_once: registered.settled_once,
                logged: None,
            },
            edges: registered.edges,
            edges_at: registered.edges_at,
            events: registered.events,
            rounds: registered.rounds,
            running: false,
            last_heartbeat: Instant::now(),
            request: None,
            history: RoundHistory::default(),
            resync: None,
            last_success: registered.last_success.map(|at| MonotonicTime::from_stored(at, now)),
            next_due: None,
            held: None,
            held_move: None,
            resyncs: registered.resyncs,
            last_resync: registered.last_resync.clone().map(Box::new),
            audits: PackedAudit::of(registered.audit),
            last_error: None,
            unreadable: BTreeMap::new(),
            snapshots: registered.snapshots,
            segment_days: u16::try_from(registered.segment_days).unwrap_or(u16::MAX),
        }
    }

    /// Takes over the window as the store has it now. The history, the failure count and a state of
    /// trouble are kept.
    pub(super) fn reattach(&mut self, registered: &RegisteredWindow) {
        self.set_edges(registered.edges, registered.edges_at);
        self.events = registered.events;
        self.resyncs = registered.resyncs;
        self.last_resync = registered.last_resync.clone().map(Box::new);
        self.audits = PackedAudit::of(registered.audit);
        if !self.health.state.is_trouble() {
            self.health.state =
                if registered.settled { WindowState::Settled } else { WindowState::Enumerating };
        }
    }

    /// Counts unreadable items of a page, which the mirror may lack. An enumeration of the segment
    /// starts its count again.
    pub(super) fn count_unreadable(&mut self, segment: SegmentIndex, first: bool, count: usize) {
        if first {
            self.unreadable.remove(&segment);
        }
        if let Ok(count @ 1..) = u32::try_from(count) {
            let known = self.unreadable.entry(segment).or_default();
            *known = known.saturating_add(count);
        }
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
        self.unreadable.retain(|segment, _| usize::from(*segment) < segments);
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
        if snapshot { self.snapshots.insert(segment) } else { self.snapshots.remove(segment) }
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
    use std::time::Duration;

    use super::*;
    use crate::tests::{NOON, registered, window};

    #[tokio::test(start_paused = true)]
    async fn a_segment_that_no_longer_exists_has_no_unreadable_items() {
        let edges = |end: &str| Edges { start: NOON, end: end.parse().unwrap() };
        let long = registered(edges("2036-11-02T12:00:00Z"));
        let mut state = WorkerState::new(&long, NOON);
        assert_eq!(state.segments().len(), 3);
        for segment in 0..3 {
            state.count_unreadable(segment, true, 1);
        }
        state.set_edges(edges("2026-12-02T12:00:00Z"), NOON);
        assert_eq!(state.unreadable, BTreeMap::from([(0, 1)]));
    }

    #[test]
    fn an_audit_is_due_a_period_after_the_window_first_settled() {
        let mut audited = window("alice");
        audited.settings.audit = Some(Duration::from_secs(86_400));
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
