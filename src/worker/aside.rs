//! What a worker does beside its rounds: audits, and letting far segments rest.
//!
//! Kept apart and boxed, because a sleeping window of one segment, whose last audit found nothing,
//! needs none of it.

use std::sync::atomic::AtomicU32;
use std::time::Duration;

use tokio::time::Instant;

use super::attempt::audit::Audited;
use super::{Attempt, Ended, Trouble, Worker};
use crate::mirror::audit::SuspectedDrift;
use crate::mirror::schedule;
use crate::mirror::status::WindowState;
use crate::mirror::window::Window;
use crate::store::StoreError;

/// First wait after an audit that could not be made; doubles up to a day.
const AUDIT_FIRST: Duration = Duration::from_secs(3600);
const AUDIT_LONGEST: Duration = Duration::from_secs(86_400);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Aside {
    /// What a first look suspects, until a second one tells.
    suspects: SuspectedDrift,
    /// Audits in a row that could not be made, and when the next may be tried.
    failed: u32,
    not_before: Option<Instant>,
    /// When each segment of several is due.
    due: Vec<Instant>,
}

impl Worker {
    fn aside(&mut self) -> &mut Aside {
        self.aside.get_or_insert_default()
    }

    /// Segments that need no round yet, as bits.
    pub(super) fn resting(&self) -> u64 {
        let Some(aside) = &self.aside else { return 0 };
        if !aside.suspects.is_empty() {
            // A suspicion waits for a round of all of them.
            return 0;
        }
        let now = Instant::now();
        let rests = aside.due.iter().enumerate().filter(|(_, due)| **due > now);
        rests.fold(0, |bits, (segment, _)| bits | 1 << (segment & 63))
    }

    /// Notes when the segments that have just settled are due again.
    pub(super) fn rest(&mut self, window: &Window, begun: Instant, settled: u64) {
        let segments = self.cell.vitals().segments();
        if segments.len() < 2 {
            if let Some(aside) = &mut self.aside {
                aside.due.clear();
            }
            return;
        }
        let now = self.services.env.now();
        let due = &mut self.aside().due;
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
        let aside = self.aside.as_deref();
        if aside.is_some_and(|a| a.not_before.is_some_and(|at| at > Instant::now())) {
            return false;
        }
        let window = self.cell.window();
        let vitals = self.cell.vitals();
        let due = vitals.audits.is_due(&window, self.services.env.now());
        let suspected = window.audit.is_some() && aside.is_some_and(|a| !a.suspects.is_empty());
        vitals.state == WindowState::Settled && !vitals.edges.is_empty() && (due || suspected)
    }

    /// One look at the whole window; answers when the next round is due, or why there is none.
    ///
    /// # Errors
    /// Where the store has failed.
    pub(super) async fn audit(
        &mut self,
        due: Instant,
    ) -> Result<Result<Instant, Ended>, StoreError> {
        let mut suspects = std::mem::take(&mut self.aside().suspects);
        let window = self.cell.window();
        let number = self.cell.vitals().rounds;
        let (services, id, mut stop) = (self.services.clone(), self.id, self.stop.clone());
        let steps = AtomicU32::new(0);
        let mut attempt = Attempt::new(
            &services,
            &self.target,
            id,
            &window,
            &self.cell,
            &self.stop,
            &steps,
            number,
        );
        let result = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return Ok(Err(Ended::Stopped)),
            result = attempt.audit(&mut suspects) => result,
            () = self.stuck(&steps) => return Ok(Err(Ended::Stuck)),
        };
        let trouble = match result {
            Ok(Audited::Clean | Audited::Suspicious) => {
                let aside = self.aside();
                aside.suspects = suspects;
                (aside.failed, aside.not_before) = (0, None);
                if aside.suspects.is_empty() && aside.due.is_empty() {
                    self.aside = None;
                }
                return Ok(Ok(due));
            }
            Ok(Audited::Repaired) => {
                // All segments, and at once: what is on their to-do is not settled.
                self.aside = None;
                return Ok(Ok(Instant::now()));
            }
            Ok(Audited::Unavailable) => None,
            Err(Trouble::Store(error @ (StoreError::Failed(_) | StoreError::Closed))) => {
                return Err(error);
            }
            Err(trouble) => Some(trouble),
        };
        let chance = services.env.random();
        let aside = self.aside();
        aside.suspects = suspects;
        aside.failed = aside.failed.saturating_add(1);
        let wait = schedule::backoff(AUDIT_FIRST, AUDIT_LONGEST, aside.failed, chance);
        aside.not_before = Some(Instant::now() + wait);
        let error = trouble.map(|t| t.describe(services.env.now(), None));
        tracing::info!(
            kind = error.as_ref().map(|e| e.kind.as_str()),
            status = error.as_ref().and_then(|e| e.status),
            retry_in_s = wait.as_secs(),
            "drift audit could not be made"
        );
        Ok(Ok(due))
    }
}
