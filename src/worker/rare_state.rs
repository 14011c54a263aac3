//! The part of a worker's state that few windows have: a hold, an error, resyncs, segments in
//! snapshot mode, callers that wait.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::Notify;

use super::monotonic::MonotonicTime;
use crate::mirror::position::SegmentIndex;
use crate::mirror::segment_set::SegmentSet;
use crate::mirror::status::{LastError, LastResync};

/// What most windows do not have. It is allocated only for a window that has some of it.
#[derive(Debug)]
pub(super) struct RareState {
    /// Until when a mass removal waits for its confirmation.
    pub(super) held: Option<MonotonicTime>,
    /// Until when a move of the edges waits that would drop most of the window.
    pub(super) held_move: Option<MonotonicTime>,
    pub(super) resyncs: u64,
    pub(super) last_resync: Option<LastResync>,
    pub(super) last_error: Option<LastError>,
    /// Unreadable items by segment; see
    /// [`WindowStatus::unreadable`](crate::mirror::status::WindowStatus::unreadable).
    pub(super) unreadable: BTreeMap<SegmentIndex, u32>,
    /// The segments in snapshot mode.
    pub(super) snapshots: SegmentSet,
    /// Wakes the callers that wait for the end of an attempt.
    pub(super) finished: Option<Arc<Notify>>,
}

/// The state of a window that has nothing of it.
pub(super) static NO_RARE_STATE: RareState = RareState::NONE;

impl RareState {
    /// Nothing.
    pub(super) const NONE: Self = Self {
        held: None,
        held_move: None,
        resyncs: 0,
        last_resync: None,
        last_error: None,
        unreadable: BTreeMap::new(),
        snapshots: SegmentSet::EMPTY,
        finished: None,
    };

    /// Until when a hold waits, by a wall clock that reads `now`.
    pub(super) fn held_until(&mut self, now: Timestamp) -> Option<Timestamp> {
        let held = self.held.as_mut().or(self.held_move.as_mut());
        held.map(|until| until.future_wall_time(now))
    }

    /// An allocation if there is anything to keep.
    pub(super) fn boxed(self) -> Option<Box<Self>> {
        // Without `..`: a new field has to be considered.
        let Self {
            held,
            held_move,
            resyncs,
            last_resync,
            last_error,
            unreadable,
            snapshots,
            finished,
        } = &self;
        let is_empty = held.is_none()
            && held_move.is_none()
            && *resyncs == 0
            && last_resync.is_none()
            && last_error.is_none()
            && unreadable.is_empty()
            && snapshots.is_empty()
            && finished.is_none();
        (!is_empty).then(|| Box::new(self))
    }
}

impl Default for RareState {
    fn default() -> Self {
        Self::NONE
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::*;
    use crate::mirror::failure::ErrorKind;
    use crate::mirror::status::ResyncReason;
    use crate::tests::NOON;

    #[tokio::test(start_paused = true)]
    async fn only_a_window_that_has_something_of_it_has_an_allocation() {
        assert!(RareState::NONE.boxed().is_none());
        let fields: [fn(&mut RareState); 8] = [
            |rare| rare.held = Some(MonotonicTime::now(NOON)),
            |rare| rare.held_move = Some(MonotonicTime::now(NOON)),
            |rare| rare.resyncs = 1,
            |rare| rare.last_resync = Some(LastResync { at: NOON, reason: ResyncReason::Drift }),
            |rare| rare.last_error = Some(error()),
            |rare| {
                rare.unreadable.insert(0, 1);
            },
            |rare| rare.snapshots.insert(0),
            |rare| rare.finished = Some(Arc::default()),
        ];
        for (number, set) in fields.into_iter().enumerate() {
            let mut rare = RareState::NONE;
            set(&mut rare);
            assert!(rare.boxed().is_some(), "{number}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_held_removal_is_shown_before_a_held_move() {
        let mut rare = RareState::NONE;
        assert_eq!(rare.held_until(NOON), None);
        let hour = |hours: u64| Instant::now() + Duration::from_secs(hours * 3600);
        rare.held_move = Some(MonotonicTime::at(hour(2), NOON));
        let shown = |rare: &mut RareState| rare.held_until(NOON).unwrap().duration_since(NOON);
        assert_eq!(shown(&mut rare).as_hours(), 2);
        rare.held = Some(MonotonicTime::at(hour(1), NOON));
        assert_eq!(shown(&mut rare).as_hours(), 1);
    }

    fn error() -> LastError {
        LastError {
            at: NOON,
            kind: ErrorKind::Incomplete,
            status: None,
            code: None,
            message: String::new(),
            request_id: None,
            retry_at: None,
        }
    }
}
