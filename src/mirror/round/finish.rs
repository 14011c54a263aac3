//! Ends a round: the sweep, the removals, the hold of mass removals, and the fallbacks of stuck
//! streams.

use std::collections::BTreeSet;

use super::{AfterCommit, PageFailure, Round, RoundEnd, Step};
use crate::mirror::change::RemovalReason;
use crate::mirror::commit::{Commit, Removal};
use crate::mirror::fallback::StallKind;
use crate::mirror::page::{EventHash, Item};
use crate::mirror::position::{PendingEntry, PendingKey, Phase};
use crate::mirror::stall::StallDetector;
use crate::mirror::status::ResyncReason;

/// Rows removed in one commit of a sweep.
const SWEEP_SLICE: usize = 256;

impl Round {
    /// Handles the rows that the sweep found. They are judged as a whole, not slice by slice.
    pub(super) fn on_unseen(&mut self, mut rows: Vec<Removal>) -> Step {
        if let Some(step) = self.doubt_listing(&rows) {
            return step;
        }
        let pending = &mut self.progress.pending;
        if self.removal_check.awaits_segments()
            && !(rows.is_empty() && pending.removals().is_empty())
        {
            return Step::AwaitSegments;
        }
        for row in rows.extract_if(.., |row| self.removal_check.retains(&row.id)) {
            pending.add_removal(row.id);
        }
        let deleted = rows.iter().filter(|r| r.reason == RemovalReason::Deleted).count();
        if self.is_mass_removal(deleted) {
            return self.hold_removals(Vec::new());
        }
        self.sweep_slice(rows)
    }

    /// Removes a slice of the rows of an approved sweep, and settles with the last one.
    pub(super) fn sweep_slice(&mut self, mut rows: Vec<Removal>) -> Step {
        let mut commit = self.commit();
        if rows.len() > SWEEP_SLICE {
            commit.removals = rows.split_off(rows.len() - SWEEP_SLICE);
            self.after_commit = AfterCommit::Sweep(rows);
            return self.write(commit);
        }
        commit.removals = rows;
        self.settle(commit)
    }

    /// Lists again if a plain listing of several pages lacks events. When an event ahead of the
    /// next page is removed during a listing, a later event moves ahead too and is then on no page
    /// (fact 38). So an event that is missing is removed only if a second listing, made at once,
    /// lacks it too.
    fn doubt_listing(&mut self, rows: &[Removal]) -> Option<Step> {
        let Phase::Sweeping { reason, .. } = self.progress.phase else { return None };
        if !self.uses_plain_pages() || self.progress.stall.pages == 0 {
            return None;
        }
        let lacking = rows.iter().map(|row| row.id);
        let doubtful: Vec<EventHash> =
            lacking.filter(|id| !self.progress.pending.removals().contains_key(id)).collect();
        if doubtful.is_empty() {
            return None;
        }
        for id in doubtful {
            self.progress.pending.add_removal(id);
        }
        self.progress.phase = Phase::start(reason);
        self.progress.stall = StallDetector::default();
        self.progress.ids_seen.clear();
        let mut commit = self.commit();
        commit.clear_seen = true;
        self.progress.pending.write(&mut commit);
        Some(self.write(commit))
    }

    /// Settles after the pending series are done: only removals are left.
    pub(super) fn publish_removals_and_settle(&mut self) -> Step {
        if self.removal_check.awaits_segments() && !self.progress.pending.removals().is_empty() {
            return Step::AwaitSegments;
        }
        self.judge_and_settle(self.commit())
    }

    /// Settles, or holds a mass removal.
    pub(super) fn judge_and_settle(&mut self, commit: Commit) -> Step {
        if self.is_mass_removal(self.due_removals().count()) {
            // Received items are published nevertheless.
            return self.hold_removals(commit.upserts);
        }
        self.settle(commit)
    }

    /// Makes the round's last commit. It also publishes the pending removals.
    fn settle(&mut self, mut commit: Commit) -> Step {
        let upserted = commit.upserts.iter().map(|item| item.id.hash());
        let done: BTreeSet<EventHash> =
            upserted.chain(commit.removals.iter().map(|removal| removal.id)).collect();
        let due = self.due_removals().filter(|id| !done.contains(*id));
        commit.removals.extend(due.copied().map(Removal::deleted));
        let stays = |id: &EventHash| self.removal_check.retains(id);
        let taken = self.progress.pending.take_removals(stays);
        commit.finished_pending.extend(taken.into_iter().map(PendingKey::Removal));
        let leaves =
            |entry: &PendingEntry| matches!(entry, PendingEntry::Removal { id } if !stays(id));
        commit.pending.retain(|entry| !leaves(entry));
        self.progress.pending.end_round();
        self.progress.pending.write(&mut commit);
        commit.orphans.extend(self.progress.masters_seen.keys().copied());
        let delta = match &self.progress.phase {
            Phase::Completing { delta } => Some(delta.clone()),
            Phase::Sweeping { delta, .. } | Phase::Settled { delta } => delta.clone(),
            Phase::Enumerating { .. } | Phase::Following { .. } => return self.next_effect(),
        };
        commit.clear_seen = matches!(self.progress.phase, Phase::Sweeping { .. });
        if delta.is_some() && self.fallback.is_snapshot() {
            self.fallback.delta_recovered();
        }
        self.progress.stall = StallDetector::default();
        self.progress.phase = Phase::Settled { delta };
        self.after_commit = AfterCommit::End(match self.progress.pending.has_series() {
            true => RoundEnd::Incomplete,
            false => RoundEnd::Settled,
        });
        self.write(commit)
    }

    /// Holds a mass removal: publishes these items, and removes nothing until one more enumeration
    /// agrees.
    pub(super) fn hold_removals(&mut self, upserts: Vec<Item>) -> Step {
        self.restart_later(ResyncReason::Confirm, RoundEnd::Held, upserts)
    }

    /// Ends the round; the enumeration starts again, but not before `confirm_after` has passed.
    fn restart_later(&mut self, reason: ResyncReason, end: RoundEnd, upserts: Vec<Item>) -> Step {
        let mut commit = self.restart_commit(reason);
        commit.upserts = upserts;
        self.progress.held_until = self.at.checked_add(self.context.confirm_after).ok();
        self.after_commit = AfterCommit::End(end);
        self.write(commit)
    }

    /// Handles a page that cannot be fetched in this attempt.
    pub(super) fn on_page_failure(&mut self, failure: PageFailure) -> Step {
        match (failure, self.reason()) {
            // A delta retry: snapshot mode, which it would replace, works. After a fallback to
            // smaller pages one failure is enough to blame the page.
            (_, Some(ResyncReason::DeltaRetry))
            | (PageFailure::TooLarge, _)
            | (PageFailure::PageSpecific, Some(ResyncReason::PageStuck)) => {
                self.next_fallback(StallKind::PageTooLarge)
            }
            (PageFailure::PageSpecific, _) if self.progress.stall.page_failed() => {
                self.next_fallback(StallKind::PageTooLarge)
            }
            // Other pages would be forbidden too.
            (PageFailure::LinkForbidden, _) => {
                self.fallback.postpone_delta(self.at);
                self.restart(ResyncReason::Snapshot)
            }
            // A single failure may be a passing problem: it is recorded.
            (PageFailure::PageSpecific, _) => {
                self.after_commit = AfterCommit::Fail;
                self.write(self.commit())
            }
            (PageFailure::Other, _) => Step::Fail,
        }
    }

    /// The stream is stuck: restarts with the next fallback, if there is one.
    pub(super) fn next_fallback(&mut self, kind: StallKind) -> Step {
        if self.reason() == Some(ResyncReason::DeltaRetry) {
            self.fallback.postpone_delta(self.at);
            return self.restart(ResyncReason::Snapshot);
        }
        let reason = match kind {
            StallKind::NoProgress => ResyncReason::RoundStuck,
            StallKind::PageTooLarge => ResyncReason::PageStuck,
        };
        match self.fallback.next(kind, self.context.page_size, self.at) {
            Some(next) => {
                self.fallback = next;
                self.restart_later(reason, RoundEnd::Stuck(kind), Vec::new())
            }
            // Even the plain listing does not end: it starts again, much later.
            None if kind == StallKind::NoProgress => {
                let effect = self.restart(reason);
                self.after_commit = AfterCommit::Fail;
                effect
            }
            None => Step::Fail,
        }
    }

    /// Whether `more` removals need a confirmation that they do not have.
    pub(super) fn is_mass_removal(&self, more: usize) -> bool {
        self.reason() != Some(ResyncReason::Confirm) && self.removal_check.is_mass(more)
    }

    /// The pending removals that may be published.
    fn due_removals(&self) -> impl Iterator<Item = &EventHash> {
        self.progress.pending.removals().keys().filter(|id| !self.removal_check.retains(id))
    }
}
