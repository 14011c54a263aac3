//! Completes pending series: each is applied as a whole once everything it needs is known.

use jiff::Timestamp;

use super::{Effect, Round, Step, deleted};
use crate::mirror::commit::Commit;
use crate::mirror::page::{EventKind, Item};
use crate::mirror::pending::{SeriesFindings, needs_only_master};
use crate::mirror::position::PendingKey;
use crate::mirror::series::{ListedInstances, SeriesMember};
use crate::mirror::window::Completion;

impl Round {
    /// The effect that the next pending series needs.
    pub(super) fn pending(&mut self) -> Option<Step> {
        let series = self.pending.current()?;
        let master = series.master.clone();
        if series.needs_master
            && let Some(carried) = series.carried_master().cloned()
        {
            series.needs_master = false;
            series.fetched = Some(carried);
        }
        // Listing a series yields stubs of its occurrences, so its master is needed too; the store
        // may not have it.
        let yields_stubs = self.context.complete == Completion::Master
            && self.phase.enumeration_reason().is_none()
            && series.fetched.is_none();
        Some(if series.needs_master || !series.needs_listing || yields_stubs {
            Step::Do(Effect::Master(master))
        } else {
            Step::Do(Effect::Instances(master))
        })
    }

    pub(super) fn master(&mut self, found: Option<Item>, at: Timestamp) -> Step {
        let Some(series) = self.pending.current() else { return self.next_effect(at) };
        match found {
            // The server returned another id, or an instance under this id: try again later.
            Some(item)
                if item.id != series.master
                    || matches!(item.kind, EventKind::Occurrence | EventKind::Exception) =>
            {
                self.unavailable(at)
            }
            Some(item) if item.kind == EventKind::Master => {
                series.needs_master = false;
                series.fetched = Some(item);
                series.findings.found = true;
                if series.findings.unlisted {
                    self.view_as_listing(Vec::new(), at)
                } else if series.needs_listing {
                    Step::Do(Effect::Instances(series.master.clone()))
                } else {
                    self.complete(None, at)
                }
            }
            // No longer a series.
            Some(_) => Step::Do(Effect::Rows(series.master.clone())),
            // Gone, or a private series of another mailbox.
            None => {
                series.findings.missing = true;
                Step::Do(Effect::Rows(series.master.clone()))
            }
        }
    }

    pub(super) fn instances(
        &mut self,
        found: Option<(ListedInstances, Vec<SeriesMember>)>,
        at: Timestamp,
    ) -> Step {
        let Some(series) = self.pending.current() else { return self.next_effect(at) };
        match found {
            Some((listing, rows)) => self.confirm_exceptions(listing, rows, at),
            // Only a request for the master by its id shows whether the series is gone.
            None if !series.findings.found => {
                series.findings.unlisted = true;
                Step::Do(Effect::Master(series.master.clone()))
            }
            // The master exists but its instances cannot be listed (fact 196).
            None => {
                series.findings.unlisted = true;
                self.view_as_listing(Vec::new(), at)
            }
        }
    }

    /// The series cannot be completed in this run. Received items that can be published are
    /// published, nothing is removed, and the series stays pending.
    pub(super) fn unavailable(&mut self, at: Timestamp) -> Step {
        let master_kept = self.context.complete == Completion::Master;
        let Some(series) = self.pending.current() else { return self.next_effect(at) };
        series.deferred = true;
        series.findings = SeriesFindings::default();
        let master = series.fetched.take().filter(|_| master_kept);
        let current = |item: &&Item| !series.earlier.contains(&item.id.hash());
        let mut upserts: Vec<Item> = series
            .waiting
            .values()
            .filter(current)
            .filter(|item| match item.kind {
                EventKind::Exception => item.full,
                EventKind::Occurrence => item.full || master.is_some(),
                EventKind::Single | EventKind::Master => false,
            })
            .cloned()
            .collect();
        if upserts.is_empty() && master.is_none() {
            return self.next_effect(at);
        }
        upserts.extend(master);
        let mut commit = self.commit(at);
        commit.upserts = upserts;
        Step::Do(Effect::Commit(Box::new(commit)))
    }

    /// Applies a series in one commit; everything it needs is known.
    pub(super) fn complete(
        &mut self,
        listing: Option<(ListedInstances, Vec<SeriesMember>)>,
        at: Timestamp,
    ) -> Step {
        let Some((hash, mut series)) = self.pending.take_current() else {
            return self.next_effect(at);
        };
        let mut commit = self.commit(at);
        commit.finished_pending = series.keys(hash);
        series.waiting.remove(&hash);
        match listing {
            Some((listing, rows)) => {
                let tombstones = self.tombstoned();
                let reconciled = self.reconciliation(&series, &tombstones).apply(listing, &rows);
                for item in &reconciled.upserts {
                    self.pending.cancel_removal(item.id.hash());
                }
                commit.upserts = reconciled.upserts;
                commit.removals = deleted(reconciled.removals);
            }
            None => {
                commit.upserts = series
                    .waiting
                    .values()
                    .filter(|item| needs_only_master(item))
                    .cloned()
                    .collect()
            }
        }
        if let Some(master) = series.fetched.take()
            && self.context.complete == Completion::Master
        {
            self.masters_seen.insert(hash, master.etag.clone());
            commit.upserts.push(master);
        }
        commit.orphans.push(hash);
        if self.context.has_other_segments {
            self.leave_later(&mut commit);
        }
        self.pending.write(&mut commit);
        if self.too_many(commit.removals.len()) {
            return self.hold_removals(at);
        }
        self.removed += commit.removals.len();
        self.tombstones_done(&mut commit);
        commit.position = Some(self.position());
        Step::Do(Effect::Commit(Box::new(commit)))
    }

    /// Defers the removals of a series to the end of the round.
    fn leave_later(&mut self, commit: &mut Commit) {
        for removal in std::mem::take(&mut commit.removals) {
            if !self.pending.removals().contains(&removal.id) {
                self.removed_by_listing.insert(removal.id);
                self.pending.add_removal(removal.id);
            }
        }
    }

    /// Finishes the pending removals that this commit performs, so that they are not performed and
    /// counted again at the end of the round.
    pub(super) fn tombstones_done(&mut self, commit: &mut Commit) {
        for removal in &commit.removals {
            if self.pending.removals().contains(&removal.id) {
                self.pending.cancel_removal(removal.id);
                commit.finished_pending.push(PendingKey::Removal(removal.id));
            }
        }
    }

    /// The series is gone: removes its rows. It may have become a single event, which is published.
    pub(super) fn remove_series(&mut self, rows: &[SeriesMember], at: Timestamp) -> Step {
        let Some((hash, series)) = self.pending.take_current() else { return self.next_effect(at) };
        // A series that ended counts as one removal, however many occurrences it had.
        let count = usize::from(!rows.is_empty());
        if self.too_many(count) {
            return self.hold_removals(at);
        }
        self.removed += count;
        let mut commit = self.commit(at);
        commit.removals = deleted(rows.iter().map(|row| row.id));
        commit.upserts = series
            .waiting
            .values()
            .filter(|item| item.kind == EventKind::Single)
            .cloned()
            .collect();
        commit.orphans.push(hash);
        commit.finished_pending = series.keys(hash);
        self.tombstones_done(&mut commit);
        commit.position = Some(self.position());
        Step::Do(Effect::Commit(Box::new(commit)))
    }
}
