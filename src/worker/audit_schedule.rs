//! What a worker does beside its rounds: audits, and letting far segments rest.
//!
//! Kept apart and boxed, because a sleeping window of one segment, whose last audit found nothing,
//! needs none of it.

use std::sync::atomic::AtomicU32;
use std::time::Duration;

use tokio::time::Instant;

use super::attempt::audit::Audited;
use super::{Attempt, AttemptError, Worker, WorkerExit};
use crate::mirror::audit::SuspectedDrift;
use crate::mirror::schedule;
use crate::mirror::status::WindowState;
use crate::mirror::window::Window;
use crate::store::StoreError;

/// First wait after an audit that could not be made; doubles up to a day.
const FIRST_AUDIT_RETRY: Duration = Duration::from_secs(3600);
const MAX_AUDIT_RETRY: Duration = Duration::from_secs(86_400);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct AuditSchedule {
    /// What a first look suspects, until a second one tells.
    suspects: SuspectedDrift,
    /// Audits in a row that could not be made, and when the next may be tried.
    failed: u32,
    not_before: Option<Instant>,
    /// When each segment of several is due.
    due: Vec<Instant>,
}

impl Worker {
    fn schedule(&mut self) -> &mut AuditSchedule {
        self.audit_schedule.get_or_insert_default()
    }

    /// Segments that need no round yet, as bits.
    pub(super) fn resting(&self) -> u64 {
        let Some(schedule) = &self.audit_schedule else { return 0 };
        if !schedule.suspects.is_empty() {
            // A suspicion waits for a round of all of them.
            return 0;
        }
        let now = Instant::now();
        let rests = schedule.due.iter().enumerate().filter(|(_, due)| **due > now);
        rests.fold(0, |bits, (segment, _)| bits | 1 << (segment & 63))
    }

    /// Notes when the segments that have just settled are due again.
    pub(super) fn rest(&mut self, window: &Window, begun: Instant, settled: u64) {
        let segments = self.handle.lock().segments();
        if segments.len() < 2 {
            if let Some(schedule) = &mut self.audit_schedule {
                schedule.due.clear();
            }
            return;
        }
        let now = self.services.env.now();
        let due = &mut self.schedule().due;
        if due.len() != segments.len() {
            // They were halved, or the edges moved: what was noted was of others.
            due.clear();
        }
        due.resize(segments.len(), begun);
        for (segment, due) in due.iter_mut().enumerate() {
            let interval = schedule::segment_interval(window.interval, &segments, segment, now);
            if settled & 1 << segment != 0 && interval > window.interval {
                // The shortest delay that jitter makes of it, so that it falls to a round.
                *due = begun + schedule::delay(interval, window.jitter, 0.0);
            }
        }
    }

    /// Whether to look now: an audit is due, or a suspicion waits for its second look.
    pub(super) fn audit_is_due(&self) -> bool {
        let schedule = self.audit_schedule.as_deref();
        if schedule.is_some_and(|a| a.not_before.is_some_and(|at| at > Instant::now())) {
            return false;
        }
        let window = self.handle.window();
        let worker_state = self.handle.lock();
        let due = worker_state.audits.is_due(&window, self.services.env.now());
        let suspected = window.audit.is_some() && schedule.is_some_and(|a| !a.suspects.is_empty());
        worker_state.health.state == WindowState::Settled
            && !worker_state.edges.is_empty()
            && (due || suspected)
    }

    /// One look at the whole window; answers when the next round is due, or why there is none.
    ///
    /// # Errors
    /// Where the store has failed.
    pub(super) async fn audit(
        &mut self,
        due: Instant,
    ) -> Result<Result<Instant, WorkerExit>, StoreError> {
        let mut suspects = std::mem::take(&mut self.schedule().suspects);
        let window = self.handle.window();
        let number = self.handle.lock().rounds;
        let (services, id, mut stop) = (self.services.clone(), self.id, self.stop.clone());
        let steps = AtomicU32::new(0);
        let mut attempt = Attempt::new(
            &services,
            &self.target,
            id,
            &window,
            &self.handle,
            &self.stop,
            &steps,
            number,
        );
        let result = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return Ok(Err(WorkerExit::Stopped)),
            result = attempt.audit(&mut suspects) => result,
            () = self.stalled(&steps) => return Ok(Err(WorkerExit::Stuck)),
        };
        let error = match result {
            Ok(Audited::Clean | Audited::Suspicious) => {
                let schedule = self.schedule();
                schedule.suspects = suspects;
                (schedule.failed, schedule.not_before) = (0, None);
                if schedule.suspects.is_empty() && schedule.due.is_empty() {
                    self.audit_schedule = None;
                }
                return Ok(Ok(due));
            }
            Ok(Audited::Repaired) => {
                // All segments, and at once: what is on their to-do is not settled.
                self.audit_schedule = None;
                return Ok(Ok(Instant::now()));
            }
            Ok(Audited::Unavailable) => None,
            Err(AttemptError::Store(error @ (StoreError::Failed(_) | StoreError::Closed))) => {
                return Err(error);
            }
            Err(error) => Some(error),
        };
        let chance = services.env.random();
        let schedule = self.schedule();
        schedule.suspects = suspects;
        schedule.failed = schedule.failed.saturating_add(1);
        let wait = schedule::backoff(FIRST_AUDIT_RETRY, MAX_AUDIT_RETRY, schedule.failed, chance);
        schedule.not_before = Some(Instant::now() + wait);
        let error = error.map(|t| t.describe(services.env.now(), None));
        tracing::info!(
            kind = error.as_ref().map(|e| e.kind.as_str()),
            status = error.as_ref().and_then(|e| e.status),
            retry_in_s = wait.as_secs(),
            "drift audit could not be made"
        );
        Ok(Ok(due))
    }
}
