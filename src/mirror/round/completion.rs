//! Completes pending series: each is applied as a whole once everything it needs is known.

use super::{Effect, Round, Step};
use crate::mirror::commit::Removal;
use crate::mirror::page::{EventKind, Item};
use crate::mirror::pending::{MasterLookup, SeriesFindings, needs_only_master};
use crate::mirror::series::{ListedSeries, SeriesMember};
use crate::mirror::window::Completion;

impl Round {
    /// The effect that the next pending series needs.
    pub(super) fn next_series_step(&mut self) -> Option<Step> {
        let series = self.progress.pending.current()?;
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
            && self.progress.phase.enumeration_reason().is_none()
            && series.fetched.is_none();
        Some(if series.needs_master || !series.needs_listing || yields_stubs {
            Step::Do(Effect::Master(master))
        } else {
            Step::Do(Effect::Instances(master))
        })
    }

    pub(super) fn on_master(&mut self, found: Option<Item>) -> Step {
        let Some(series) = self.progress.pending.current() else { return self.next_effect() };
        match found {
            // The server returned another id, or an instance under this id: try again later.
            Some(item)
                if item.id != series.master
                    || matches!(item.kind, EventKind::Occurrence | EventKind::Exception) =>
            {
                self.unavailable()
            }
            Some(item) if item.kind == EventKind::Master => {
                series.needs_master = false;
                series.fetched = Some(item);
                let unlisted = series.findings.master == MasterLookup::Unlisted;
                series.findings.master = MasterLookup::Found;
                if unlisted {
                    self.view_as_listing(Vec::new())
                } else if series.needs_listing {
                    Step::Do(Effect::Instances(series.master.clone()))
                } else {
                    self.complete(None)
                }
            }
            // No longer a series.
            Some(_) => Step::Do(Effect::Rows(series.master.clone())),
            // Gone, or a private series of another mailbox.
            None => {
                series.findings.master = MasterLookup::Missing;
                Step::Do(Effect::Rows(series.master.clone()))
            }
        }
    }

    pub(super) fn on_instances(&mut self, found: Option<ListedSeries>) -> Step {
        let Some(series) = self.progress.pending.current() else { return self.next_effect() };
        match found {
            Some((listing, rows)) => self.look_on_exception_days(listing, rows),
            // The master exists but its instances cannot be listed (fact 196).
            None if series.findings.master == MasterLookup::Found => {
                self.view_as_listing(Vec::new())
            }
            // Only a request for the master by its id shows whether the series is gone.
            None => {
                series.findings.master = MasterLookup::Unlisted;
                Step::Do(Effect::Master(series.master.clone()))
            }
        }
    }

    /// The series cannot be completed in this attempt. Received items that can be published are
    /// published, nothing is removed, and the series stays pending.
    pub(super) fn unavailable(&mut self) -> Step {
        let master_kept = self.context.complete == Completion::Master;
        let Some(series) = self.progress.pending.current() else { return self.next_effect() };
        series.set_aside = true;
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
            return self.next_effect();
        }
        upserts.extend(master);
        let mut commit = self.commit();
        commit.upserts = upserts;
        self.write(commit)
    }

    /// Applies a series in one commit; everything it needs is known.
    pub(super) fn complete(&mut self, listing: Option<ListedSeries>) -> Step {
        let Some((hash, mut series)) = self.progress.pending.take_current() else {
            return self.next_effect();
        };
        let mut commit = self.commit();
        commit.finished_pending = series.keys(hash);
        series.waiting.remove(&hash);
        match listing {
            Some((listing, rows)) => {
                let tombstones = self.progress.pending.tombstones();
                let reconciled = self.reconciliation(&series, &tombstones).apply(listing, &rows);
                for item in &reconciled.upserts {
                    self.progress.pending.cancel_removal(item.id.hash());
                }
                commit.upserts = reconciled.upserts;
                commit.removals = reconciled.removals.into_iter().map(Removal::deleted).collect();
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
            self.progress.masters_seen.insert(hash, master.etag.clone());
            commit.upserts.push(master);
        }
        commit.orphans.push(hash);
        if self.context.has_other_segments {
            // They wait for the end of the round.
            self.progress.pending.defer_removals(&mut commit);
        }
        self.progress.pending.write(&mut commit);
        if self.is_mass_removal(commit.removals.len()) {
            return self.hold_removals(Vec::new());
        }
        self.removal_check.count(commit.removals.len());
        self.progress.pending.finish_removals(&mut commit);
        self.write(commit)
    }

    /// The series is gone: removes its rows. It may have become a single event, which is published.
    pub(super) fn remove_series(&mut self, rows: &[SeriesMember]) -> Step {
        let Some((hash, series)) = self.progress.pending.take_current() else {
            return self.next_effect();
        };
        // A series that ended counts as one removal, however many occurrences it had.
        let count = usize::from(!rows.is_empty());
        if self.is_mass_removal(count) {
            return self.hold_removals(Vec::new());
        }
        self.removal_check.count(count);
        let mut commit = self.commit();
        commit.removals = rows.iter().map(|row| Removal::deleted(row.id)).collect();
        commit.upserts = series
            .waiting
            .values()
            .filter(|item| item.kind == EventKind::Single)
            .cloned()
            .collect();
        commit.orphans.push(hash);
        commit.finished_pending = series.keys(hash);
        self.progress.pending.finish_removals(&mut commit);
        self.write(commit)
    }
}
