//! Ends a round: the sweep, the removals, the hold of mass removals, and the fallbacks of stuck
//! streams.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::{
    AfterCommit, Effect, PageFailure, Round, RoundEnd, SWEEP_SLICE, Step, deleted, is_mass_removal,
};
use crate::mirror::change::RemovalReason;
use crate::mirror::commit::{Commit, Removal};
use crate::mirror::fallback::StallKind;
use crate::mirror::page::EventHash;
use crate::mirror::position::{PendingEntry, PendingKey, Phase};
use crate::mirror::stall::StallDetector;
use crate::mirror::status::ResyncReason;

impl Round {
    pub(super) fn sweep_slice(&mut self, mut rows: Vec<Removal>, at: Timestamp) -> Step {
        if let Some(effect) = self.doubt_listing(&rows, at) {
            return effect;
        }
        if self.waits_for_segments() && !(rows.is_empty() && self.pending.removals().is_empty()) {
            return Step::Do(Effect::AwaitSegments);
        }
        if let Some(retained) = &self.retained {
            let retained_rows = rows.extract_if(.., |row| retained.has(&row.id));
            retained_rows.for_each(|row| self.pending.add_removal(row.id));
        }
        let deleted = rows.iter().filter(|r| r.reason == RemovalReason::Deleted).count();
        if self.too_many(deleted) {
            return self.hold_removals(at);
        }
        // The sweep is judged as a whole, not slice by slice.
        self.removal_approved = true;
        let mut commit = self.commit(at);
        if rows.len() > SWEEP_SLICE {
            commit.removals = rows.split_off(rows.len() - SWEEP_SLICE);
            self.sweep = Some(rows);
            return Step::Do(Effect::Commit(Box::new(commit)));
        }
        commit.removals = rows;
        let swept: BTreeSet<EventHash> = commit.removals.iter().map(|r| r.id).collect();
        let tombstones = self.tombstones().into_iter().filter(|r| !swept.contains(&r.id)).collect();
        self.settle(commit, tombstones, at)
    }

    /// Lists again if a plain listing of several pages lacks events. When an event ahead of the
    /// next page is removed during a listing, a later event moves ahead too and is then on no page
    /// (fact 38). So an event that is missing is removed only if a second listing, made at once,
    /// lacks it too.
    fn doubt_listing(&mut self, rows: &[Removal], at: Timestamp) -> Option<Step> {
        let Phase::Sweeping { reason, .. } = self.phase else { return None };
        if !self.is_listing() || self.stall.pages == 0 || self.removal_approved {
            return None;
        }
        let lacking = rows.iter().map(|row| row.id);
        let doubtful: Vec<EventHash> =
            lacking.filter(|id| !self.pending.removals().contains(id)).collect();
        if doubtful.is_empty() {
            return None;
        }
        for id in doubtful {
            self.pending.add_removal(id);
        }
        self.phase = Phase::start(reason);
        self.stall = StallDetector::default();
        self.ids_seen.clear();
        let mut commit = self.commit(at);
        commit.clear_seen = true;
        self.pending.write(&mut commit);
        Some(self.finish(commit))
    }

    /// Settles after the pending series are done: only removals are left.
    pub(super) fn leave_and_settle(&mut self, at: Timestamp) -> Step {
        if self.waits_for_segments() && !self.pending.removals().is_empty() {
            return Step::Do(Effect::AwaitSegments);
        }
        let removals = self.tombstones();
        self.settle(self.commit(at), removals, at)
    }

    /// Makes the round's last commit, or holds a mass removal.
    pub(super) fn settle(
        &mut self,
        mut commit: Commit,
        removals: Vec<Removal>,
        at: Timestamp,
    ) -> Step {
        if self.too_many(commit.removals.len() + removals.len()) {
            // Received items are published all the same.
            return match self.hold_removals(at) {
                Step::Do(Effect::Commit(mut held)) => {
                    held.upserts = commit.upserts;
                    Step::Do(Effect::Commit(held))
                }
                other => other,
            };
        }
        let upserted: BTreeSet<EventHash> =
            commit.upserts.iter().map(|item| item.id.hash()).collect();
        commit.removals.extend(removals.into_iter().filter(|r| !upserted.contains(&r.id)));
        let retained = self.retained.as_ref();
        let stays = |id: &EventHash| retained.is_some_and(|retain| retain.has(id));
        let taken = self.pending.take_removals(stays);
        commit.finished_pending.extend(taken.into_iter().map(PendingKey::Removal));
        let leaves =
            |entry: &PendingEntry| matches!(entry, PendingEntry::Removal { id } if !stays(id));
        commit.pending.retain(|entry| !leaves(entry));
        self.pending.end_round();
        self.pending.write(&mut commit);
        commit.orphans.extend(self.masters_seen.keys().copied());
        let delta = match &self.phase {
            Phase::Completing { delta } => Some(delta.clone()),
            Phase::Sweeping { delta, .. } | Phase::Settled { delta } => delta.clone(),
            Phase::Enumerating { .. } | Phase::Following { .. } => return self.next_effect(at),
        };
        commit.clear_seen = matches!(self.phase, Phase::Sweeping { .. });
        if delta.is_some() && self.fallback.is_snapshot() {
            self.fallback.delta_recovered();
        }
        self.stall = StallDetector::default();
        self.phase = Phase::Settled { delta };
        self.after_commit = AfterCommit::Settle;
        commit.position = Some(self.position());
        Step::Do(Effect::Commit(Box::new(commit)))
    }

    /// Holds a mass removal: nothing is removed until one more enumeration agrees.
    pub(super) fn hold_removals(&mut self, at: Timestamp) -> Step {
        self.restart_later(ResyncReason::Confirm, AfterCommit::Hold, at)
    }

    /// Restarts the enumeration, but not before `confirm_after` has passed.
    fn restart_later(&mut self, reason: ResyncReason, after: AfterCommit, at: Timestamp) -> Step {
        let mut step = self.restart(reason, at);
        self.held_until = at.checked_add(self.context.confirm_after).ok();
        if let Step::Do(Effect::Commit(commit)) = &mut step {
            commit.position = Some(self.position());
        }
        self.after_commit = after;
        step
    }

    /// Handles a page that cannot be fetched in this attempt.
    pub(super) fn on_page_failure(&mut self, failure: PageFailure, at: Timestamp) -> Step {
        match failure {
            // A delta retry: snapshot mode, which it would replace, works.
            _ if self.phase.enumeration_reason() == Some(ResyncReason::DeltaRetry) => {
                self.next_fallback(StallKind::PageTooLarge, at)
            }
            PageFailure::TooLarge => self.next_fallback(StallKind::PageTooLarge, at),
            // After a fallback to smaller pages one failure is enough to blame the page.
            PageFailure::Refused
                if self.phase.enumeration_reason() == Some(ResyncReason::PageStuck) =>
            {
                self.next_fallback(StallKind::PageTooLarge, at)
            }
            PageFailure::Refused if self.stall.page_failed() => {
                self.next_fallback(StallKind::PageTooLarge, at)
            }
            // A single failure may be a passing problem: it is recorded.
            PageFailure::Refused => {
                self.after_commit = AfterCommit::Fail;
                self.finish(self.commit(at))
            }
            PageFailure::Other => Step::End(RoundEnd::Failed),
        }
    }

    /// The stream is stuck: restarts with the next fallback, if there is one.
    pub(super) fn next_fallback(&mut self, kind: StallKind, at: Timestamp) -> Step {
        if self.phase.enumeration_reason() == Some(ResyncReason::DeltaRetry) {
            self.fallback.postpone_delta(at);
            return self.restart(ResyncReason::Snapshot, at);
        }
        let reason = match kind {
            StallKind::NoProgress => ResyncReason::RoundStuck,
            StallKind::PageTooLarge => ResyncReason::PageStuck,
        };
        match self.fallback.next(kind, self.context.page_size, at) {
            Some(next) => {
                self.fallback = next;
                self.restart_later(reason, AfterCommit::Stall(kind), at)
            }
            // Even the plain listing does not end: it starts again, much later.
            None if kind == StallKind::NoProgress => {
                let effect = self.restart(reason, at);
                self.after_commit = AfterCommit::Fail;
                effect
            }
            None => Step::End(RoundEnd::Failed),
        }
    }

    /// Until when a held removal or a stuck stream waits.
    pub fn held_until(&self) -> Option<Timestamp> {
        self.held_until
    }

    pub(super) fn too_many(&self, more: usize) -> bool {
        // Counts for the whole window, as before any removal in any of its segments.
        let removed = self.removed + self.removed_elsewhere + more;
        !self.removal_approved
            && self.phase.enumeration_reason() != Some(ResyncReason::Confirm)
            && more > 0
            && is_mass_removal(
                removed,
                usize::try_from(self.events).unwrap_or(usize::MAX) + self.removed_elsewhere,
            )
    }

    pub(super) fn tombstones(&self) -> Vec<Removal> {
        let stays = |id: &EventHash| self.retained.as_ref().is_some_and(|retain| retain.has(id));
        deleted(self.pending.removals().iter().copied().filter(|id| !stays(id)))
    }
}
