//! Confirms that instances which a response lacks are gone.
//!
//! Two responses may lack events that exist. A series' listing may omit its exceptions (fact 196),
//! and every request by id answers 404 for private events of another mailbox (fact 180). Plain
//! `calendarView` lists both, and it is what the mirror is compared with. So it decides.
//!
//! A response is also some seconds newer than the page that led to it: an instance may have moved
//! meanwhile, or an occurrence may have become an exception. So first the days of the exceptions
//! are listed. Then one view tells, for all series of a round, whether the segment has the
//! instances at all. Only if it has them, the whole segment is listed.
//!
//! The opposite also occurs: a listing is a day wider than the segment and contains all-day
//! instances that are outside. What the pages and the times do not decide, a view between the exact
//! edges decides ([`Reconciliation::undecided`]).

use std::collections::BTreeSet;

use super::{Effect, Round, Step};
use crate::mirror::page::{EventHash, EventKind};
use crate::mirror::pending::{MasterLookup, PendingSeries, ViewPurpose};
use crate::mirror::series::{
    self, ListedInstances, PresenceRequest, Reconciliation, SeriesMember, ViewRequest,
};
use crate::mirror::window::{Completion, Edges};

impl Round {
    /// Completes a series by its listing. Exceptions that the listing lacks are looked up first on
    /// their own days, where most of them still are.
    pub(super) fn look_on_exception_days(
        &mut self,
        listing: ListedInstances,
        rows: Vec<SeriesMember>,
    ) -> Step {
        let mut exceptions = self.absent(&listing, &rows);
        exceptions.retain(|row| row.kind == EventKind::Exception);
        let starts = exceptions.iter().map(|row| row.span.start);
        let ends = exceptions.iter().map(|row| row.span.end);
        match (self.progress.pending.current(), starts.min(), ends.max()) {
            (Some(series), Some(start), Some(end)) => {
                series.findings.view_purpose = Some(ViewPurpose::Exceptions(listing));
                let master = series.master.clone();
                let ids = exceptions.iter().map(|row| row.id).collect();
                let edges = series::widen(Edges { start, end }, 1);
                Step::Do(Effect::View(Box::new(ViewRequest { master, ids, ids_only: true, edges })))
            }
            _ => self.look_in_segment(listing, rows),
        }
    }

    /// Completes a series unless instances are still missing. These may have moved within the
    /// segment or become exceptions, so their presence in the segment is checked first.
    fn look_in_segment(&mut self, listing: ListedInstances, rows: Vec<SeriesMember>) -> Step {
        let ids: BTreeSet<EventHash> =
            self.absent(&listing, &rows).iter().map(|row| row.id).collect();
        match self.progress.pending.current() {
            Some(series) if !ids.is_empty() => {
                series.findings.view_purpose =
                    Some(ViewPurpose::Absence(listing, rows, ids.clone()));
                Step::Do(Effect::Presence(Box::new(PresenceRequest { master: None, ids })))
            }
            _ => self.decide_at_edges(listing, rows),
        }
    }

    /// Completes a series unless it has instances near an edge for which it is not known whether the
    /// segment has them. Plain `calendarView` decides these, between the exact edges, one edge at a
    /// time.
    fn decide_at_edges(&mut self, listing: ListedInstances, rows: Vec<SeriesMember>) -> Step {
        let Some(series) = self.progress.pending.current_ref() else { return self.next_effect() };
        let tombstones = self.progress.pending.tombstones();
        let at_edge: Vec<(EventHash, Edges)> = self
            .reconciliation(series, &tombstones)
            .undecided(&listing, &rows)
            .map(|item| (item.id.hash(), series::at_nearest_edge(self.context.edges, item.span)))
            .collect();
        let (Some(&(_, edges)), Some(series)) = (at_edge.first(), self.progress.pending.current())
        else {
            return self.complete(Some((listing, rows)));
        };
        let ids: BTreeSet<EventHash> =
            at_edge.iter().filter(|(_, of)| *of == edges).map(|(id, _)| *id).collect();
        series.findings.view_purpose = Some(ViewPurpose::Edge(listing, ids.clone()));
        let master = series.master.clone();
        Step::Do(Effect::View(Box::new(ViewRequest { master, ids, ids_only: true, edges })))
    }

    fn absent(&self, listing: &ListedInstances, rows: &[SeriesMember]) -> Vec<SeriesMember> {
        let tombstones = self.progress.pending.tombstones();
        let absent = |s| self.reconciliation(s, &tombstones).absent(listing, rows);
        self.progress.pending.current_ref().map(absent).unwrap_or_default()
    }

    /// The master is not found, or is no longer a master. `rows` are the mirror's rows of the
    /// series.
    pub(super) fn on_series_rows(&mut self, rows: Vec<SeriesMember>) -> Step {
        let master_kept = self.context.complete == Completion::Master;
        let enumerating = self.reason().is_some();
        let Some(series) = self.progress.pending.current() else { return self.next_effect() };
        let carried = series.waiting_instances().next().is_some();
        if series.findings.master != MasterLookup::Missing || (rows.is_empty() && !carried) {
            return self.remove_series(&rows);
        }
        if let Some(master) = series.carried_master().cloned() {
            series.fetched = Some(master);
        }
        if !carried {
            // Only the mirror has the series: find out whether any of it still exists.
            return self.ask_presence(rows);
        }
        // A private series: the instances on the pages count. If they are all there is, no view is
        // needed.
        let completed = master_kept && series.fetched.is_some();
        let shown = series.waiting_instances().all(|(id, item)| {
            !series.earlier.contains(id)
                && (item.full || (completed && item.kind == EventKind::Occurrence))
        });
        let known = enumerating || rows.iter().all(|row| series.waiting.contains_key(&row.id));
        if shown && known {
            return self.complete(Some((ListedInstances::default(), rows)));
        }
        self.view_as_listing(rows)
    }

    fn ask_presence(&mut self, rows: Vec<SeriesMember>) -> Step {
        let Some(series) = self.progress.pending.current() else { return self.next_effect() };
        let ids = rows.iter().map(|row| row.id).collect();
        series.findings.view_purpose = Some(ViewPurpose::Presence(rows));
        let master = Some(series.master.clone());
        Step::Do(Effect::Presence(Box::new(PresenceRequest { master, ids })))
    }

    /// Lists the series' instances in the whole segment by a plain view.
    pub(super) fn view_as_listing(&mut self, rows: Vec<SeriesMember>) -> Step {
        let Some(series) = self.progress.pending.current() else { return self.next_effect() };
        series.findings.view_purpose = Some(ViewPurpose::InsteadOfListing);
        let carried = series.waiting_instances().map(|(id, _)| *id);
        let request = ViewRequest {
            master: series.master.clone(),
            ids: rows.iter().map(|row| row.id).chain(carried).collect(),
            ids_only: false,
            edges: series::widen(self.context.edges, 1),
        };
        Step::Do(Effect::View(Box::new(request)))
    }

    /// Handles the response of a plain view.
    pub(super) fn on_view(&mut self, viewed: ListedInstances, rows: Vec<SeriesMember>) -> Step {
        let Some(series) = self.progress.pending.current() else { return self.next_effect() };
        match series.findings.view_purpose.take() {
            Some(ViewPurpose::Exceptions(mut listing)) => {
                listing.merge(viewed);
                self.look_in_segment(listing, rows)
            }
            Some(ViewPurpose::Locate(mut listing)) => {
                listing.merge(viewed);
                self.complete_without_absent(listing, rows)
            }
            Some(ViewPurpose::InsteadOfListing) => self.decide_at_edges(viewed, rows),
            // An item without a readable id may be one of these instances. Unless the view has all
            // of them, it decides nothing.
            Some(ViewPurpose::Edge(_, ids))
                if viewed.has_unidentified && !ids.iter().all(|id| viewed.has(id)) =>
            {
                self.unavailable()
            }
            Some(ViewPurpose::Edge(listing, ids)) => {
                let answers = ids.into_iter().map(|id| (id, viewed.has(&id)));
                series.findings.edge_answers.extend(answers);
                self.decide_at_edges(listing, rows)
            }
            Some(ViewPurpose::Absence(..) | ViewPurpose::Presence(_)) | None => self.unavailable(),
        }
    }

    /// Handles whether any of the requested events exist.
    pub(super) fn on_presence(&mut self, present: bool) -> Step {
        let edges = series::widen(self.context.edges, 1);
        let Some(series) = self.progress.pending.current() else { return self.next_effect() };
        match series.findings.view_purpose.take() {
            Some(ViewPurpose::Presence(rows)) if present => self.view_as_listing(rows),
            Some(ViewPurpose::Presence(rows)) => self.remove_series(&rows),
            Some(ViewPurpose::Absence(listing, _, ids)) if present => {
                series.findings.view_purpose = Some(ViewPurpose::Locate(listing));
                let master = series.master.clone();
                Step::Do(Effect::View(Box::new(ViewRequest { master, ids, ids_only: true, edges })))
            }
            Some(ViewPurpose::Absence(listing, rows, _)) => {
                self.complete_without_absent(listing, rows)
            }
            Some(
                ViewPurpose::Exceptions(_)
                | ViewPurpose::Locate(_)
                | ViewPurpose::InsteadOfListing
                | ViewPurpose::Edge(..),
            )
            | None => self.unavailable(),
        }
    }

    /// Completes a series whose absent instances are confirmed not to be in the segment. An absent
    /// instance that was on a page of this round may have moved to another segment that has already
    /// run. Then the series stays pending, and its events in other segments stay, until this
    /// segment's next round reports that the instance left.
    fn complete_without_absent(
        &mut self,
        listing: ListedInstances,
        rows: Vec<SeriesMember>,
    ) -> Step {
        let absent = self.absent(&listing, &rows);
        let Some(series) = self.progress.pending.current() else { return self.next_effect() };
        let carried = |id| series.waiting.contains_key(id) && !series.earlier.contains(id);
        if self.context.has_other_segments && absent.iter().any(|row| carried(&row.id)) {
            return self.unavailable();
        }
        self.decide_at_edges(listing, rows)
    }

    /// How a series is reconciled with a listing of it.
    pub(super) fn reconciliation<'a>(
        &self,
        series: &'a PendingSeries,
        tombstones: &'a BTreeSet<EventHash>,
    ) -> Reconciliation<'a> {
        // Without a master only full instances can be published.
        let complete = match (&series.fetched, series.findings.master) {
            (None, MasterLookup::Missing) => Completion::Exact,
            _ => self.context.complete,
        };
        Reconciliation {
            edges: self.context.edges,
            complete,
            decides_membership: self.reason().is_none(),
            waiting: &series.waiting,
            earlier: &series.earlier,
            tombstones,
            edge_answers: &series.findings.edge_answers,
        }
    }
}
