//! How a round ends: the sweep, the removals, the hold of those too large to believe, and the
//! remedies for streams that are stuck.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::{After, Effect, Failure, Over, Round, SLICE, deleted, is_mass_removal};
use crate::mirror::change::RemovalReason;
use crate::mirror::commit::{Commit, Removal};
use crate::mirror::guard::Guard;
use crate::mirror::page::EventHash;
use crate::mirror::position::{Phase, Todo, TodoKey};
use crate::mirror::remedy::Ailment;
use crate::mirror::status::ResyncReason;

impl Round {
    pub(super) fn sweep_slice(&mut self, mut rows: Vec<Removal>, at: Timestamp) -> Effect {
        if let Some(effect) = self.doubt_listing(&rows, at) {
            return effect;
        }
        if self.waits() && !(rows.is_empty() && self.todo.removals().is_empty()) {
            return Effect::Seam;
        }
        if let Some(withheld) = &self.withheld {
            let stay = rows.extract_if(.., |row| withheld.has(&row.id));
            stay.for_each(|row| self.todo.leave(row.id));
        }
        let deleted = rows.iter().filter(|r| r.reason == RemovalReason::Deleted).count();
        if self.too_many(deleted) {
            return self.hold(at);
        }
        // Judged as a whole, not slice by slice.
        self.believed = true;
        let mut commit = self.commit(at);
        if rows.len() > SLICE {
            commit.removals = rows.split_off(rows.len() - SLICE);
            self.sweep = Some(rows);
            return Effect::Commit(Box::new(commit));
        }
        commit.removals = rows;
        let swept: BTreeSet<EventHash> = commit.removals.iter().map(|r| r.id).collect();
        let tombstones = self.tombstones().into_iter().filter(|r| !swept.contains(&r.id)).collect();
        self.settle(commit, tombstones, at)
    }

    /// While several pages are listed one after the other, what leaves ahead of the next page
    /// draws an event from behind it that then stands on none (fact 38). So what a listing of
    /// several pages lacks leaves only if the next one, made at once, lacks it too.
    fn doubt_listing(&mut self, rows: &[Removal], at: Timestamp) -> Option<Effect> {
        let Phase::Sweeping { reason, .. } = self.phase else { return None };
        if !self.lists() || self.guard.pages == 0 || self.believed {
            return None;
        }
        let lacking = rows.iter().map(|row| row.id);
        let doubtful: Vec<EventHash> =
            lacking.filter(|id| !self.todo.removals().contains(id)).collect();
        if doubtful.is_empty() {
            return None;
        }
        for id in doubtful {
            self.todo.leave(id);
        }
        self.phase = Phase::start(reason);
        self.guard = Guard::default();
        self.met.clear();
        let mut commit = self.commit(at);
        commit.clear_seen = true;
        self.todo.write(&mut commit);
        Some(self.finish(commit))
    }

    /// Nothing is left to do but what leaves.
    pub(super) fn leave_and_settle(&mut self, at: Timestamp) -> Effect {
        if self.waits() && !self.todo.removals().is_empty() {
            return Effect::Seam;
        }
        let removals = self.tombstones();
        self.settle(self.commit(at), removals, at)
    }

    /// The round's last commit.
    pub(super) fn settle(
        &mut self,
        mut commit: Commit,
        removals: Vec<Removal>,
        at: Timestamp,
    ) -> Effect {
        if self.too_many(commit.removals.len() + removals.len()) {
            // What came is shown all the same.
            return match self.hold(at) {
                Effect::Commit(mut held) => {
                    held.upserts = commit.upserts;
                    Effect::Commit(held)
                }
                other => other,
            };
        }
        let upserted: BTreeSet<EventHash> =
            commit.upserts.iter().map(|item| item.id.hash()).collect();
        commit.removals.extend(removals.into_iter().filter(|r| !upserted.contains(&r.id)));
        let withheld = self.withheld.as_ref();
        let stays = |id: &EventHash| withheld.is_some_and(|stay| stay.has(id));
        let taken = self.todo.take_removals(stays);
        commit.done.extend(taken.into_iter().map(TodoKey::Removal));
        let leaves = |todo: &Todo| matches!(todo, Todo::Removal { id } if !stays(id));
        commit.todo.retain(|todo| !leaves(todo));
        self.todo.age();
        self.todo.write(&mut commit);
        commit.orphans.extend(self.came.keys().copied());
        let delta = match &self.phase {
            Phase::Completing { delta } => Some(delta.clone()),
            Phase::Sweeping { delta, .. } | Phase::Settled { delta } => delta.clone(),
            Phase::Enumerating { .. } | Phase::Following { .. } => return self.next(at),
        };
        commit.clear_seen = matches!(self.phase, Phase::Sweeping { .. });
        if delta.is_some() && self.remedy.is_snapshot() {
            self.remedy.recover();
        }
        self.guard = Guard::default();
        self.phase = Phase::Settled { delta };
        self.after = After::Settle;
        commit.position = Some(self.position());
        Effect::Commit(Box::new(commit))
    }

    /// Too large to believe: nothing leaves, and one more enumeration has to agree.
    pub(super) fn hold(&mut self, at: Timestamp) -> Effect {
        self.restart_later(ResyncReason::Confirm, After::Hold, at)
    }

    /// Begins anew, but not before `confirm_after` is over.
    fn restart_later(&mut self, reason: ResyncReason, after: After, at: Timestamp) -> Effect {
        let mut effect = self.restart(reason, at);
        self.held_until = at.checked_add(self.place.confirm_after).ok();
        if let Effect::Commit(commit) = &mut effect {
            commit.position = Some(self.position());
        }
        self.after = after;
        effect
    }

    /// A page cannot be had in this attempt.
    pub(super) fn failed(&mut self, failure: Failure, at: Timestamp) -> Effect {
        match failure {
            // A trial, and what it stands in for works.
            _ if self.phase.enumeration() == Some(ResyncReason::DeltaRetry) => {
                self.ail(Ailment::Heavy, at)
            }
            Failure::TooLarge => self.ail(Ailment::Heavy, at),
            // What smaller pages began needs no second proof that the page is at fault.
            Failure::Refused if self.phase.enumeration() == Some(ResyncReason::PageStuck) => {
                self.ail(Ailment::Heavy, at)
            }
            Failure::Refused if self.guard.refuse() => self.ail(Ailment::Heavy, at),
            // Once may be a bad day: it is remembered.
            Failure::Refused => {
                self.after = After::Fail;
                self.finish(self.commit(at))
            }
            Failure::Other => Effect::Over(Over::Failed),
        }
    }

    /// The stream is stuck: the next remedy, if there is one.
    pub(super) fn ail(&mut self, ailment: Ailment, at: Timestamp) -> Effect {
        if self.phase.enumeration() == Some(ResyncReason::DeltaRetry) {
            self.remedy.postpone(at);
            return self.restart(ResyncReason::Snapshot, at);
        }
        let reason = match ailment {
            Ailment::Endless => ResyncReason::RoundStuck,
            Ailment::Heavy => ResyncReason::PageStuck,
        };
        match self.remedy.next(ailment, self.place.page_size, at) {
            Some(next) => {
                self.remedy = next;
                self.restart_later(reason, After::Stick(ailment), at)
            }
            // Even the listing: it begins anew, much later.
            None if ailment == Ailment::Endless => {
                let effect = self.restart(reason, at);
                self.after = After::Fail;
                effect
            }
            None => Effect::Over(Over::Failed),
        }
    }

    /// Until when a removal that was not believed, or a stuck stream, waits.
    pub fn held_until(&self) -> Option<Timestamp> {
        self.held_until
    }

    pub(super) fn too_many(&self, more: usize) -> bool {
        // Of the whole window, before anything left any of its segments.
        let removed = self.removed + self.gone + more;
        !self.believed
            && self.phase.enumeration() != Some(ResyncReason::Confirm)
            && more > 0
            && is_mass_removal(
                removed,
                usize::try_from(self.events).unwrap_or(usize::MAX) + self.gone,
            )
    }

    pub(super) fn tombstones(&self) -> Vec<Removal> {
        let stays = |id: &EventHash| self.withheld.as_ref().is_some_and(|stay| stay.has(id));
        deleted(self.todo.removals().iter().copied().filter(|id| !stays(id)))
    }
}
