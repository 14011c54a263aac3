//! Schedules drift audits.
//!
//! Kept apart from the worker and boxed: a sleeping window whose last audit found nothing does not
//! need it.

use std::time::Duration;

use tokio::time::Instant;

use super::attempt::audit::AuditOutcome;
use super::{RoundProgress, Worker, WorkerEnd, WorkerExit};
use crate::mirror::audit::SuspectedDrift;
use crate::mirror::schedule;
use crate::mirror::status::WindowState;

/// First wait after a failed audit; doubles up to a day.
const FIRST_AUDIT_RETRY: Duration = Duration::from_secs(3600);
const MAX_AUDIT_RETRY: Duration = Duration::from_secs(86_400);

/// A window's suspected differences and failed audits.
#[derive(Debug, Default)]
pub(super) struct AuditSchedule {
    /// What a first audit suspects, until a second one confirms or clears it.
    suspects: SuspectedDrift,
    /// Failed audits in a row.
    failed: u32,
    /// When the next audit may be tried.
    not_before: Option<Instant>,
}

impl Worker {
    fn schedule(&mut self) -> &mut AuditSchedule {
        self.audit_schedule.get_or_insert_default()
    }

    /// Whether an audit suspects differences, until a second one confirms or clears them.
    pub(super) fn suspects_drift(&self) -> bool {
        self.audit_schedule.as_deref().is_some_and(|schedule| !schedule.suspects.is_empty())
    }

    /// Whether to audit now: an audit is due, or a suspicion waits for its second audit.
    pub(super) fn audit_is_due(&self) -> bool {
        let schedule = self.audit_schedule.as_deref();
        if schedule.is_some_and(|a| a.not_before.is_some_and(|at| at > Instant::now())) {
            return false;
        }
        let window = self.handle.window();
        let state = self.handle.lock();
        let due = state.audits.is_due(&window, self.services.env.now());
        let suspected = window.settings.audit.is_some() && self.suspects_drift();
        state.health.state == WindowState::Settled && !state.edges.is_empty() && (due || suspected)
    }

    /// Audits the whole window; returns when the next round is due.
    pub(super) async fn audit(&mut self, due: Instant) -> Result<Instant, WorkerEnd> {
        let mut suspects = std::mem::take(&mut self.schedule().suspects);
        let window = self.handle.window();
        let number = self.handle.lock().rounds;
        let progress = RoundProgress::new(self.target(&window));
        let stop = self.handle.arm_stop(&self.stop);
        let result = {
            let mut attempt = self.attempt(&window, &progress, &stop, number);
            tokio::select! {
                biased;
                result = attempt.audit(&mut suspects) => result,
                () = self.stalled(&progress) => return Err(WorkerEnd::Exit(WorkerExit::Stuck)),
            }
        };
        let error = match result {
            Ok(AuditOutcome::Clean | AuditOutcome::Suspicious) => {
                let suspected = AuditSchedule { suspects, ..AuditSchedule::default() };
                self.audit_schedule = (!suspected.suspects.is_empty()).then(|| Box::new(suspected));
                return Ok(due);
            }
            Ok(AuditOutcome::Repaired) => {
                // A round of all segments at once, because those with pending entries are not
                // settled.
                self.audit_schedule = None;
                self.segment_schedule = None;
                return Ok(Instant::now());
            }
            Ok(AuditOutcome::Unavailable) => None,
            Err(error) => Some(error.or_end()?),
        };
        let chance = self.services.env.random();
        let schedule = self.schedule();
        schedule.suspects = suspects;
        schedule.failed = schedule.failed.saturating_add(1);
        let wait = schedule::backoff(FIRST_AUDIT_RETRY, MAX_AUDIT_RETRY, schedule.failed, chance);
        schedule.not_before = Some(Instant::now() + wait);
        let error = error.map(|cause| cause.describe(self.services.env.now(), None));
        tracing::info!(
            kind = error.as_ref().map(|e| e.kind.as_str()),
            status = error.as_ref().and_then(|e| e.status),
            retry_in_s = wait.as_secs(),
            "drift audit failed"
        );
        Ok(due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::script::reply;
    use crate::mirror::segment_set::SegmentSet;
    use crate::tests::window;
    use crate::worker::Admission;
    use crate::worker::tests::{WorkerFixture, delta, event, list};

    const DAY: Duration = Duration::from_secs(86_400);

    #[tokio::test(start_paused = true)]
    async fn a_failed_audit_waits_but_suspected_drift_does_not() {
        let mut audited = window("alice");
        audited.settings_mut().audit = Some(DAY);
        let failing = (0..5).map(|_| reply(500, ""));
        let answers = std::iter::once(delta(&[event("a", 3)])).chain(failing).chain([
            list(&[]),
            list(&[]),
            list(&[]),
        ]);
        let fixture = WorkerFixture::new(audited, answers).await;
        let mut worker = fixture.worker();
        let due =
            worker.round(fixture.handle.window(), 1, None, Admission::default()).await.unwrap();
        assert!(!worker.audit_is_due(), "it has just settled");
        tokio::time::advance(2 * DAY).await;
        assert!(worker.audit_is_due());
        assert_eq!(worker.audit(due).await.unwrap(), due, "the failed one");
        assert!(!worker.audit_is_due());
        tokio::time::advance(2 * FIRST_AUDIT_RETRY).await;
        assert!(worker.audit_is_due());
        assert_eq!(worker.audit(due).await.unwrap(), due, "the first one that finds something");
        assert!(worker.suspects_drift() && worker.audit_is_due());
        assert_eq!(worker.resting_segments(), SegmentSet::EMPTY);
        assert_eq!(worker.audit(due).await.unwrap(), Instant::now(), "the one that repairs");
        assert_eq!(fixture.events(), 0);
        assert!(!worker.suspects_drift() && !worker.audit_is_due());
    }
}
