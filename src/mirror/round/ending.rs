//! How a round ends: the sweep, the removals, and the hold of those too large to believe.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::{After, BELIEVED, Effect, Round, SLICE, deleted};
use crate::mirror::change::RemovalReason;
use crate::mirror::commit::{Commit, Removal};
use crate::mirror::page::EventHash;
use crate::mirror::position::{Phase, Todo, TodoKey};
use crate::mirror::status::ResyncReason;

impl Round {
    pub(super) fn sweep_slice(&mut self, mut rows: Vec<Removal>, at: Timestamp) -> Effect {
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
        commit.done.extend(self.todo.take_removals().into_iter().map(TodoKey::Removal));
        commit.todo.retain(|todo| !matches!(todo, Todo::Removal { .. }));
        commit.orphans.extend(self.came.keys().copied());
        let delta = match &self.phase {
            Phase::Completing { delta }
            | Phase::Sweeping { delta, .. }
            | Phase::Settled { delta } => delta.clone(),
            Phase::Enumerating { .. } | Phase::Following { .. } => return self.next(at),
        };
        commit.clear_seen = matches!(self.phase, Phase::Sweeping { .. });
        self.phase = Phase::Settled { delta };
        self.after = After::Settle;
        commit.position = Some(self.position());
        Effect::Commit(Box::new(commit))
    }

    /// Too large to believe: nothing leaves, and one more enumeration has to agree.
    pub(super) fn hold(&mut self, at: Timestamp) -> Effect {
        let mut effect = self.restart(ResyncReason::Confirm, at);
        self.held_until = at.checked_add(self.place.confirm_after).ok();
        if let Effect::Commit(commit) = &mut effect {
            commit.position = Some(self.position());
        }
        self.after = After::Hold;
        effect
    }

    /// Until when the removal that was not believed waits for its confirmation.
    pub fn held_until(&self) -> Option<Timestamp> {
        self.held_until
    }

    pub(super) fn too_many(&self, more: usize) -> bool {
        let removed = self.removed + more;
        !self.believed
            && self.phase.enumeration() != Some(ResyncReason::Confirm)
            && more > 0
            && removed >= BELIEVED
            && (removed as u64).saturating_mul(2) > self.events
    }

    pub(super) fn tombstones(&self) -> Vec<Removal> {
        deleted(self.todo.removals().iter().copied())
    }
}
