//! Series arithmetic: what one listing of a series' instances says about the mirror.
//!
//! Graph may re-send a whole series without tombstones, send tombstones for occurrences, or
//! send only what changed (facts 65-70). A listing answers all three alike: it is the
//! membership; only at the window's edges, where all-day events look up to a day off (fact 80),
//! does the delta decide alone.
//!
//! Absence from one answer does not prove a deletion. A series' listing has been seen without the
//! series' exceptions (fact 196), and any occurrence may just have become one. So what a listing
//! lacks ([`Reconciliation::absent`]) leaves only if plain `calendarView` lacks it too. Private events of another mailbox cannot be had by id at all (fact 180); there plain
//! `calendarView` takes the place of the listing.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use jiff::SignedDuration;

use super::event::JsonMembers;
use super::page::{EventHash, EventId, EventKind, Item, Span};
use super::window::{Completion, Edges};

/// A row of the mirror that belongs to the series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeriesMember {
    /// The instance.
    pub id: EventHash,
    /// Occurrence or exception.
    pub kind: EventKind,
    /// When it takes place.
    pub span: Span,
}

/// What a plain `calendarView` is asked for about one series.
#[derive(Clone, Debug, PartialEq)]
pub struct ViewRequest {
    /// The series' master: instances that name it belong to the answer.
    pub master: EventId,
    /// Instances that belong to the answer even if they do not name the master. If this is the
    /// whole question, [`Self::only`] is set.
    pub ids: BTreeSet<EventHash>,
    /// Whether the answer is limited to `ids`.
    pub only: bool,
    /// The days to list.
    pub edges: Edges,
}

/// Events of which is asked only whether a segment has any of them.
#[derive(Clone, Debug, PartialEq)]
pub struct PresenceRequest {
    /// Instances of this series count.
    pub master: Option<EventId>,
    /// These events count.
    pub ids: BTreeSet<EventHash>,
}

impl ViewRequest {
    /// Whether a listed event belongs to the answer.
    pub fn wants(&self, item: &Item) -> bool {
        self.ids.contains(&item.id.hash())
            || (!self.only && item.master.as_ref() == Some(&self.master))
    }
}

/// What a listing of a series' instances said, all its pages together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ListedInstances {
    /// The instances that could be read.
    pub items: Vec<Item>,
    /// Those that could not: they are members, and stay as they are.
    pub unread: BTreeSet<EventHash>,
    /// Whether some could not even be named. Such a listing removes nobody.
    pub nameless: bool,
}

impl ListedInstances {
    /// Whether the listing says that the instance exists.
    pub fn has(&self, id: &EventHash) -> bool {
        self.unread.contains(id) || self.items.iter().any(|item| item.id.hash() == *id)
    }

    /// Adds what a view said; on the same instance it counts. What it could not name need not be
    /// of this series.
    pub fn merge(&mut self, view: Self) {
        self.items.extend(view.items);
        self.unread.extend(view.unread);
    }
}

impl From<Vec<Item>> for ListedInstances {
    fn from(items: Vec<Item>) -> Self {
        Self { items, ..Self::default() }
    }
}

/// What follows from a listing.
#[derive(Debug, Default, PartialEq)]
pub struct Reconciled {
    /// Instances as they now are.
    pub upserts: Vec<Item>,
    /// Instances that are no longer members.
    pub removals: Vec<EventHash>,
}

/// Everything a reconciliation looks at.
#[derive(Debug)]
pub struct Reconciliation<'a> {
    /// The segment's edges; the listing was asked one day wider on both sides.
    pub edges: Edges,
    /// How occurrences are kept.
    pub complete: Completion,
    /// Whether membership is at stake. In an enumeration it is not: there the pages and the
    /// sweep decide, and the listing only completes what waits.
    pub membership: bool,
    /// What pages carried of the series that is not yet shown.
    pub waiting: &'a BTreeMap<EventHash, Item>,
    /// Those that no page of this round carried, but one of an earlier round.
    pub earlier: &'a BTreeSet<EventHash>,
    /// What this round's tombstones named.
    pub tombstones: &'a BTreeSet<EventHash>,
}

impl Reconciliation<'_> {
    /// Instances that a listing of the series lacks and that would leave, or could not be shown, for
    /// no other reason.
    pub fn absent(&self, listing: &ListedInstances, rows: &[SeriesMember]) -> Vec<SeriesMember> {
        let listed: BTreeSet<EventHash> = listing.items.iter().map(|item| item.id.hash()).collect();
        let unlisted = |id: &EventHash| {
            !listed.contains(id) && !listing.unread.contains(id) && !self.tombstones.contains(id)
        };
        let carried = |id: &EventHash| self.waiting.contains_key(id) && !self.is_past(id);
        let judged = self.membership && !listing.nameless;
        let leaving = rows.iter().filter(|row| judged && !carried(&row.id)).copied();
        let hidden = self
            .waiting
            .iter()
            .filter(|(id, item)| {
                item.kind == EventKind::Exception && (!item.whole || self.is_past(id))
            })
            .map(|(id, item)| SeriesMember { id: *id, kind: item.kind, span: item.span });
        leaving.chain(hidden).filter(|row| unlisted(&row.id)).collect()
    }

    /// Compares a listing with the mirror's rows of the series.
    pub fn apply(&self, listing: ListedInstances, rows: &[SeriesMember]) -> Reconciled {
        let mirrored: BTreeSet<EventHash> = rows.iter().map(|row| row.id).collect();
        let mut listed = listing.unread;
        let mut out = Reconciled::default();
        // What comes twice, over two pages, counts as it came last (fact 58).
        for item in listing.items.into_iter().rev() {
            if matches!(item.kind, EventKind::Master | EventKind::Single) {
                continue;
            }
            let id = item.id.hash();
            if !listed.insert(id) {
                continue;
            }
            let carried = self.waiting.contains_key(&id);
            let keep = if !self.membership {
                carried
            } else if self.tombstones.contains(&id) {
                // This round said it is not in the view; the listing is wider than the view.
                false
            } else if carried && !self.earlier.contains(&id) {
                true
            } else {
                match inside(self.edges, item.span, item.all_day) {
                    Some(inside) => inside,
                    None => carried || mirrored.contains(&id),
                }
            };
            if keep {
                out.upserts.push(self.form(item));
            } else if self.membership && mirrored.contains(&id) {
                out.removals.push(id);
            }
        }
        out.upserts.reverse();
        for (id, item) in self.waiting {
            // Carried by a page, gone by the time of the listing: the next round will say so.
            // Until then it is shown, if it can be.
            if !listed.contains(id)
                && !self.is_past(id)
                && (item.whole
                    || self.complete == Completion::Master && item.kind == EventKind::Occurrence)
            {
                out.upserts.push(item.clone());
            }
        }
        if self.membership && !listing.nameless {
            for id in mirrored {
                if !listed.contains(&id) && (!self.waiting.contains_key(&id) || self.is_past(&id)) {
                    out.removals.push(id);
                }
            }
        }
        out
    }

    /// Whether only an earlier round knew it; where membership is not at stake, as long as it does.
    fn is_past(&self, id: &EventHash) -> bool {
        self.membership && self.earlier.contains(id)
    }

    /// An occurrence as the mirror keeps it: bare where its master completes it.
    fn form(&self, item: Item) -> Item {
        match (self.complete, item.kind) {
            (Completion::Master, EventKind::Occurrence) => strip_to_stub(item),
            _ => item,
        }
    }
}

/// Whether the view contains an event, where that can be told from its times alone: at the rim of
/// a day events of whole days may lie on either side (fact 80).
pub fn inside(edges: Edges, span: Span, all_day: bool) -> Option<bool> {
    let inside = edges.overlap(span.start, span.end);
    if !all_day {
        return Some(inside);
    }
    let narrow = widen(edges, -1).overlap(span.start, span.end);
    let wide = widen(edges, 1).overlap(span.start, span.end);
    (narrow == wide).then_some(inside)
}

/// Edges moved apart (or together) by so many days on both sides.
pub fn widen(edges: Edges, days: i64) -> Edges {
    let by = SignedDuration::from_hours(24 * days);
    Edges {
        start: edges.start.checked_sub(by).unwrap_or(edges.start),
        end: edges.end.checked_add(by).unwrap_or(edges.end),
    }
}

/// Strips a listed occurrence down to what delta pages carry, so that it looks the same
/// whichever request brought it.
pub fn strip_to_stub(item: Item) -> Item {
    const KEPT: [&str; 6] = ["@odata.etag", "id", "seriesMasterId", "type", "start", "end"];
    let Ok(members) = JsonMembers::parse(&item.content) else { return item };
    let mut content = Vec::with_capacity(512);
    for name in KEPT {
        if let Some(value) = members.get(name) {
            content.extend_from_slice(if content.is_empty() { b"{\"" } else { b",\"" });
            content.extend_from_slice(name.as_bytes());
            content.extend_from_slice(b"\":");
            content.extend_from_slice(value.get().as_bytes());
        }
    }
    content.push(b'}');
    Item { whole: false, content: Bytes::from(content), ..item }
}
