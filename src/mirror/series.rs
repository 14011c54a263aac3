//! Reconciles the mirror's rows of a series with a listing of the series' instances.
//!
//! Graph may re-send a whole series without tombstones, send tombstones for occurrences, or
//! send only what changed (facts 65-70). A listing covers all three cases, because it is the
//! membership. Only at the window's edges it does not decide: all-day events appear there up to a
//! day off (fact 80), and the listing is a day wider than the window. What the round's pages do not
//! decide either ([`Reconciliation::undecided`]) is decided by plain `calendarView` between the
//! exact edges.
//!
//! Absence from one response does not prove a deletion. A series' listing has been seen without
//! the series' exceptions (fact 196), and any occurrence may just have become an exception. So an
//! instance that a listing lacks ([`Reconciliation::absent`]) is removed only if plain
//! `calendarView` lacks it too. Private events of another mailbox cannot be fetched by id at all
//! (fact 180); for them plain `calendarView` replaces the listing.

use std::collections::{BTreeMap, BTreeSet};

use jiff::SignedDuration;

use super::page::{EventHash, EventId, EventKind, Item, Span};
use super::window::{Completion, Edges};
use crate::json::JsonMembers;

/// The length of a view at an edge, in days: events that are undecided begin or end within one day
/// of the edge.
const EDGE_VIEW_DAYS: i64 = 3;

/// A listing of a series, and the mirror's rows of it.
pub type ListedSeries = (ListedInstances, Vec<SeriesMember>);

/// A row of the mirror that belongs to a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeriesMember {
    /// The instance.
    pub id: EventHash,
    /// Occurrence or exception.
    pub kind: EventKind,
    /// When it takes place.
    pub span: Span,
}

/// Whether instances near an edge are in the segment, by plain `calendarView`.
pub type EdgeAnswers = BTreeMap<EventHash, bool>;

/// A request to plain `calendarView` for instances of one series.
#[derive(Clone, Debug, PartialEq)]
pub struct ViewRequest {
    /// The series' master: listed instances that name it match, unless [`Self::ids_only`] is set.
    pub master: EventId,
    /// Instances that match even if they do not name the master.
    pub ids: BTreeSet<EventHash>,
    /// Whether only `ids` match.
    pub ids_only: bool,
    /// The days to list.
    pub edges: Edges,
}

/// A request that asks only whether any of these events exist.
#[derive(Clone, Debug, PartialEq)]
pub struct PresenceRequest {
    /// Instances of this series match.
    pub master: Option<EventId>,
    /// These events match.
    pub ids: BTreeSet<EventHash>,
}

impl ViewRequest {
    /// Whether a listed event matches the request.
    pub fn matches(&self, item: &Item) -> bool {
        self.ids.contains(&item.id.hash())
            || (!self.ids_only && item.master.as_ref() == Some(&self.master))
    }
}

/// The result of listing a series' instances, all pages together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ListedInstances {
    /// The instances that could be read.
    pub items: Vec<Item>,
    /// Instances that could not be read. They are members, and their rows stay unchanged.
    pub unreadable: BTreeSet<EventHash>,
    /// Whether some instances had no readable id. Then absence from the listing removes nothing.
    pub has_unidentified: bool,
}

impl ListedInstances {
    /// The instances that the listing contains, as far as they have a readable id.
    pub fn ids(&self) -> BTreeSet<EventHash> {
        let readable = self.items.iter().map(|item| item.id.hash());
        readable.chain(self.unreadable.iter().copied()).collect()
    }

    /// Whether the listing contains the instance.
    pub fn has(&self, id: &EventHash) -> bool {
        self.unreadable.contains(id) || self.items.iter().any(|item| item.id.hash() == *id)
    }

    /// Adds the result of a view, which wins where both list an instance. Its `has_unidentified` is
    /// ignored, because events without a readable id may belong to another series.
    pub fn merge(&mut self, view: Self) {
        self.items.extend(view.items);
        self.unreadable.extend(view.unreadable);
    }
}

impl From<Vec<Item>> for ListedInstances {
    fn from(items: Vec<Item>) -> Self {
        Self { items, ..Self::default() }
    }
}

/// The changes that follow from a listing.
#[derive(Debug, Default, PartialEq)]
pub struct Reconciled {
    /// Instances in their current state.
    pub upserts: Vec<Item>,
    /// Instances that are no longer members.
    pub removals: Vec<EventHash>,
}

/// The inputs of a reconciliation.
#[derive(Debug)]
pub struct Reconciliation<'a> {
    /// The segment's edges. The listing was requested one day wider on both sides.
    pub edges: Edges,
    /// How occurrences are completed.
    pub complete: Completion,
    /// Whether the listing decides membership. In an enumeration it does not: there the pages and
    /// the sweep decide, and the listing only completes waiting instances.
    pub decides_membership: bool,
    /// Items of the series that pages carried and that are not yet shown.
    pub waiting: &'a BTreeMap<EventHash, Item>,
    /// The waiting ids that an earlier round carried and no page of this round.
    pub earlier: &'a BTreeSet<EventHash>,
    /// The ids of this round's tombstones.
    pub tombstones: &'a BTreeSet<EventHash>,
    /// What is known about the instances that were undecided.
    pub edge_answers: &'a EdgeAnswers,
}

impl Reconciliation<'_> {
    /// Instances that would be removed, or could not be shown, only because a listing of the series
    /// lacks them.
    pub fn absent(&self, listing: &ListedInstances, rows: &[SeriesMember]) -> Vec<SeriesMember> {
        let listed = listing.ids();
        let unlisted = |id: &EventHash| !listed.contains(id) && !self.tombstones.contains(id);
        let judged = self.decides_membership && !listing.has_unidentified;
        let leaving = rows.iter().filter(|row| judged && !self.carried_now(&row.id)).copied();
        let hidden = self
            .waiting
            .iter()
            .filter(|(id, item)| {
                item.kind == EventKind::Exception && (!item.full || self.only_in_earlier_round(id))
            })
            .map(|(id, item)| SeriesMember { id: *id, kind: item.kind, span: item.span });
        leaving.chain(hidden).filter(|row| unlisted(&row.id)).collect()
    }

    /// Listed instances that the mirror has, or an earlier round carried, and of which neither the
    /// round's pages nor their times tell whether the segment still has them: all-day instances
    /// within a day of an edge. Without those of which [`Self::edge_answers`] knows.
    pub fn undecided<'l>(
        &self,
        listing: &'l ListedInstances,
        rows: &[SeriesMember],
    ) -> impl Iterator<Item = &'l Item> {
        let mirrored: BTreeSet<EventHash> = rows.iter().map(|row| row.id).collect();
        listing.items.iter().filter(move |item| {
            let id = item.id.hash();
            self.decides_membership
                && !self.tombstones.contains(&id)
                && !self.carried_now(&id)
                && (mirrored.contains(&id) || self.waiting.contains_key(&id))
                && !self.edge_answers.contains_key(&id)
                && inside(self.edges, item.span, item.all_day).is_none()
        })
    }

    /// Computes the changes from a listing and the mirror's rows of the series.
    pub fn apply(&self, listing: ListedInstances, rows: &[SeriesMember]) -> Reconciled {
        let mirrored: BTreeSet<EventHash> = rows.iter().map(|row| row.id).collect();
        let mut listed = listing.unreadable;
        let mut out = Reconciled::default();
        // If an instance is listed twice, on two pages, the last one counts (fact 58).
        for item in listing.items.into_iter().rev() {
            if matches!(item.kind, EventKind::Master | EventKind::Single) {
                continue;
            }
            let id = item.id.hash();
            if !listed.insert(id) {
                continue;
            }
            let keep = if !self.decides_membership {
                self.waiting.contains_key(&id)
            } else if self.tombstones.contains(&id) {
                // A tombstone of this round: not in the view. The listing is wider than the view.
                false
            } else if self.carried_now(&id) {
                true
            } else {
                inside(self.edges, item.span, item.all_day)
                    .or_else(|| self.edge_answers.get(&id).copied())
                    .unwrap_or(false)
            };
            if keep {
                out.upserts.push(stored_form(item, self.complete));
            } else if self.decides_membership && mirrored.contains(&id) {
                out.removals.push(id);
            }
        }
        out.upserts.reverse();
        for (id, item) in self.waiting {
            // A page carried the instance, but it was gone by the time of the listing. The next
            // round will report that. Until then it is shown, if it can be.
            if !listed.contains(id)
                && !self.only_in_earlier_round(id)
                && (item.full
                    || self.complete == Completion::Master && item.kind == EventKind::Occurrence)
            {
                out.upserts.push(item.clone());
            }
        }
        if self.decides_membership && !listing.has_unidentified {
            for id in mirrored {
                if !listed.contains(&id)
                    && (!self.waiting.contains_key(&id) || self.only_in_earlier_round(&id))
                {
                    out.removals.push(id);
                }
            }
        }
        out
    }

    /// Whether a page of this round carried the item.
    fn carried_now(&self, id: &EventHash) -> bool {
        self.waiting.contains_key(id) && !self.only_in_earlier_round(id)
    }

    /// Whether only an earlier round carried the item. Always false in an enumeration.
    fn only_in_earlier_round(&self, id: &EventHash) -> bool {
        self.decides_membership && self.earlier.contains(id)
    }
}

/// An instance as the mirror keeps it: an occurrence is bare if its master completes it.
pub fn stored_form(item: Item, complete: Completion) -> Item {
    match (complete, item.kind) {
        (Completion::Master, EventKind::Occurrence) => strip_to_stub(item),
        _ => item,
    }
}

/// Whether the view contains an event. `None` if the times alone do not decide: an all-day event
/// within a day of an edge may be on either side (fact 80).
pub fn inside(edges: Edges, span: Span, all_day: bool) -> Option<bool> {
    let inside = edges.overlap(span.start, span.end);
    if !all_day {
        return Some(inside);
    }
    let narrow = widen(edges, -1).overlap(span.start, span.end);
    let wide = widen(edges, 1).overlap(span.start, span.end);
    (narrow == wide).then_some(inside)
}

/// A part of `edges`, at the edge that this all-day event is near to, whose view has the event if and
/// only if the view of all of `edges` has it.
pub fn at_nearest_edge(edges: Edges, span: Span) -> Edges {
    let near_end = span.start >= widen(edges, -1).end;
    let inner = widen(edges, -EDGE_VIEW_DAYS);
    match near_end {
        true => Edges { start: inner.end.max(edges.start), end: edges.end },
        false => Edges { start: edges.start, end: inner.start.min(edges.end) },
    }
}

/// Moves both edges outwards by `days`, or inwards if `days` is negative.
pub fn widen(edges: Edges, days: i64) -> Edges {
    let by = SignedDuration::from_hours(24 * days);
    Edges {
        start: edges.start.checked_sub(by).unwrap_or(edges.start),
        end: edges.end.checked_add(by).unwrap_or(edges.end),
    }
}

/// Strips a listed occurrence down to the members that delta pages carry, so that its content does
/// not depend on the request that returned it.
pub fn strip_to_stub(item: Item) -> Item {
    const KEPT: [&str; 6] = ["@odata.etag", "id", "seriesMasterId", "type", "start", "end"];
    let Ok(members) = JsonMembers::parse(&item.content) else { return item };
    Item { full: false, availability: None, content: members.only(&KEPT).into(), ..item }
}
