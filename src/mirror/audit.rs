//! The drift audit as arithmetic: what a plain listing says against what the mirror holds.
//!
//! Delta rounds are trusted to say what changed. An audit asks, now and then, whether they did: it
//! lists a segment with a few members only and compares. A difference is suspected at first, since
//! the listing may be newer than the last round; it counts when the next round has not explained
//! it, that is, when a second listing still differs from a mirror that stands as it stood.
//!
//! Of occurrences only membership, kind and times are compared: their content is their master's,
//! and which `changeKey` a listing gives them is not known (fact 84).

use std::collections::BTreeMap;

use super::page::{EventHash, EventKind, Item, Span};
use super::position::SegmentIndex;
use super::series;
use super::window::Edges;

/// What is asked of each event: what is compared, and what tells to which series it belongs and
/// whether it may lie a day off at the edges (fact 80).
pub const SELECT: &str = "id,type,start,end,changeKey,seriesMasterId,isAllDay";
/// So many differing events and series are no longer repaired one by one.
pub const BULK_REPAIR_MIN: usize = 20;
/// Suspicions that are remembered of a look; beyond, it is many anyway.
const MAX_SUSPECTS: usize = 10_000;

/// The little of an event that an audit compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventDigest {
    /// What it is.
    pub kind: EventKind,
    /// When it takes place.
    pub span: Span,
    /// Whether it takes whole days.
    pub all_day: bool,
    /// Its `changeKey`, hashed, where its content is its own.
    pub key: Option<EventHash>,
}

impl EventDigest {
    /// Of an item that a listing or a row holds; `content` has a `changeKey`, or none is compared.
    pub fn of(item: &Item) -> Self {
        let key = match item.kind {
            EventKind::Single | EventKind::Exception => item.change_key(),
            EventKind::Occurrence | EventKind::Master => None,
        };
        Self { kind: item.kind, span: item.span, all_day: item.all_day, key }
    }

    fn same(&self, other: &Self) -> bool {
        let keys = self.key.is_none() || other.key.is_none() || self.key == other.key;
        self.kind == other.kind && self.span == other.span && keys
    }
}

/// Whether the mirror and a listing of a segment disagree about an event.
pub fn differ(edges: Edges, mirrored: Option<&EventDigest>, listed: Option<&EventDigest>) -> bool {
    let inside = |sketch: &EventDigest| series::inside(edges, sketch.span, sketch.all_day);
    match (mirrored, listed) {
        (Some(mirrored), Some(listed)) => !mirrored.same(listed),
        // At the rim delta alone decides, as in a round.
        (Some(mirrored), None) => inside(mirrored).is_some(),
        (None, Some(listed)) => inside(listed) == Some(true),
        (None, None) => false,
    }
}

/// Events about which the mirror and a first listing disagreed, and how the mirror stood then.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SuspectedDrift(BTreeMap<(SegmentIndex, EventHash), Option<EventDigest>>);

impl SuspectedDrift {
    /// Nobody.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Remembers a disagreement.
    pub fn add(&mut self, segment: SegmentIndex, id: EventHash, mirrored: Option<EventDigest>) {
        if self.0.len() < MAX_SUSPECTS {
            self.0.insert((segment, id), mirrored);
        }
    }

    /// Whether the event was suspected before.
    pub fn has(&self, segment: SegmentIndex, id: EventHash) -> bool {
        self.0.contains_key(&(segment, id))
    }

    /// Whether a second disagreement is the same one: the mirror has not moved meanwhile.
    pub fn confirm(
        &self,
        segment: SegmentIndex,
        id: EventHash,
        mirrored: Option<EventDigest>,
    ) -> bool {
        self.0.get(&(segment, id)) == Some(&mirrored)
    }
}
