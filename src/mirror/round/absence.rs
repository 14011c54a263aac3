//! Instances that an answer lacks: what it takes to believe that they are gone.
//!
//! Two answers have been seen to lack events that exist. A series' listing may leave out its
//! exceptions (fact 196), and everything that is asked for by id answers 404 for private events of
//! another mailbox (fact 180). Plain `calendarView` lists both, and it is what the mirror is
//! compared with; so it has the last word, asked once for all instances in question.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::{Effect, Round};
use crate::mirror::page::{EventHash, Kind};
use crate::mirror::series::{self, Listed, Reconciliation, Row, ViewRequest};
use crate::mirror::todo::{Series, ViewPurpose};
use crate::mirror::window::Complete;

impl Round {
    /// Completes a series by its listing, or first asks about the exceptions that the listing
    /// lacks.
    pub(super) fn confirm_exceptions(
        &mut self,
        listing: Listed,
        rows: Vec<Row>,
        at: Timestamp,
    ) -> Effect {
        let tombstones = self.tombstoned();
        let unconfirmed = self
            .todo
            .peek()
            .and_then(|s| self.reconciliation(s, &tombstones).unconfirmed(&listing, &rows));
        match (self.todo.current(), unconfirmed) {
            (Some(series), Some((ids, edges))) => {
                series.inquiry.view = Some(ViewPurpose::Exceptions(listing));
                let master = series.master.clone();
                let request = ViewRequest { master, ids, only: true, edges, content: true };
                Effect::View(Box::new(request))
            }
            _ => self.complete(Some((listing, rows)), at),
        }
    }

    /// The master is not found, or is no master any more; the mirror's rows of the series.
    pub(super) fn gone(&mut self, rows: Vec<Row>, at: Timestamp) -> Effect {
        let master_kept = self.place.complete == Complete::Master;
        let enumerating = self.phase.enumeration().is_some();
        let Some(series) = self.todo.current() else { return self.next(at) };
        let carried = series.waiting_instances().next().is_some();
        if !series.inquiry.missing || (rows.is_empty() && !carried) {
            return self.bury(&rows, at);
        }
        if let Some(master) = series.carried_master().cloned() {
            series.fetched = Some(master);
        }
        if !carried {
            // Nothing but the mirror speaks for the series: does any of it still exist?
            return self.view_presence(&rows, at);
        }
        // A private series: what pages carried counts, and needs no look if it is everything.
        let completed = master_kept && series.fetched.is_some();
        let shown = series.waiting_instances().all(|(id, item)| {
            !series.earlier.contains(id)
                && (item.whole || (completed && item.kind == Kind::Occurrence))
        });
        let known = enumerating || rows.iter().all(|row| series.waiting.contains_key(&row.id));
        if shown && known {
            return self.complete(Some((Listed::default(), rows)), at);
        }
        self.view_as_listing(rows, at)
    }

    fn view_presence(&mut self, rows: &[Row], at: Timestamp) -> Effect {
        let Some(series) = self.todo.current() else { return self.next(at) };
        series.inquiry.view = Some(ViewPurpose::Presence);
        let request = ViewRequest {
            master: series.master.clone(),
            ids: rows.iter().map(|row| row.id).collect(),
            only: false,
            edges: series::widen(self.place.edges, 1),
            content: false,
        };
        Effect::View(Box::new(request))
    }

    /// Asks for the series' instances in the whole segment, by way of the plain view.
    pub(super) fn view_as_listing(&mut self, rows: Vec<Row>, at: Timestamp) -> Effect {
        let Some(series) = self.todo.current() else { return self.next(at) };
        series.inquiry.view = Some(ViewPurpose::Listing);
        let carried = series.waiting_instances().map(|(id, _)| *id);
        let request = ViewRequest {
            master: series.master.clone(),
            ids: rows.iter().map(|row| row.id).chain(carried).collect(),
            only: false,
            edges: series::widen(self.place.edges, 1),
            content: true,
        };
        Effect::View(Box::new(request))
    }

    /// The plain view has answered.
    pub(super) fn viewed(&mut self, viewed: Listed, rows: Vec<Row>, at: Timestamp) -> Effect {
        let Some(series) = self.todo.current() else { return self.next(at) };
        match series.inquiry.view.take() {
            Some(ViewPurpose::Exceptions(mut listing)) => {
                listing.merge(viewed);
                self.complete(Some((listing, rows)), at)
            }
            Some(ViewPurpose::Presence) => {
                let exists = viewed.nameless
                    || !viewed.items.is_empty()
                    || rows.iter().any(|row| viewed.has(&row.id));
                if exists { self.view_as_listing(rows, at) } else { self.bury(&rows, at) }
            }
            Some(ViewPurpose::Listing) => self.complete(Some((viewed, rows)), at),
            None => self.unavailable(at),
        }
    }

    /// What this round's tombstones named.
    pub(super) fn tombstoned(&self) -> BTreeSet<EventHash> {
        self.todo.removals().difference(&self.listed_out).copied().collect()
    }

    /// How a series is reconciled with a listing of it.
    pub(super) fn reconciliation<'a>(
        &self,
        series: &'a Series,
        tombstones: &'a BTreeSet<EventHash>,
    ) -> Reconciliation<'a> {
        // Without a master only instances that are whole can be shown.
        let complete = match (&series.fetched, series.inquiry.missing) {
            (None, true) => Complete::Exact,
            _ => self.place.complete,
        };
        Reconciliation {
            edges: self.place.edges,
            complete,
            membership: self.phase.enumeration().is_none(),
            waiting: &series.waiting,
            earlier: &series.earlier,
            tombstones,
        }
    }
}
