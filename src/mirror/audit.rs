//! The comparison of a drift audit: a plain listing against the mirror's rows.
//!
//! Delta rounds are trusted to report every change. An audit checks this from time to time: it
//! lists a segment with only a few members and compares. A difference is only suspected at first,
//! because the listing may be newer than the last round. It is confirmed if the next round does not
//! explain it, that is, if a second listing still differs and the mirror has not changed since.
//!
//! For occurrences only membership, kind and times are compared: their content is their master's,
//! and it is not known which `changeKey` a listing gives them (fact 84).

use std::collections::BTreeMap;

use super::page::{EventHash, EventKind, Item, Span};
use super::position::SegmentIndex;
use super::series;
use super::window::Edges;

/// The members requested of each event: those that are compared, and those that show which series
/// it belongs to and whether it may be a day off at the edges (fact 80).
pub const SELECT: &str = "id,type,start,end,changeKey,seriesMasterId,isAllDay";
/// From this many differing events and series on, they are not repaired one by one.
pub const BULK_REPAIR_MIN: usize = 20;
/// The most suspected events that are remembered; beyond that the exact number does not matter.
const MAX_SUSPECTS: usize = 10_000;

/// The few properties of an event that an audit compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventDigest {
    /// Its kind.
    pub kind: EventKind,
    /// When it takes place.
    pub span: Span,
    /// Whether it is an all-day event.
    pub all_day: bool,
    /// Its `changeKey`, hashed, if its content is its own.
    pub key: Option<EventHash>,
}

impl EventDigest {
    /// The digest of a listed or stored item. If `content` has no `changeKey`, none is compared.
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
    let inside = |digest: &EventDigest| series::inside(edges, digest.span, digest.all_day);
    match (mirrored, listed) {
        (Some(mirrored), Some(listed)) => !mirrored.same(listed),
        // Near the edges delta alone decides, as in a round.
        (Some(mirrored), None) => inside(mirrored).is_some(),
        (None, Some(listed)) => inside(listed) == Some(true),
        (None, None) => false,
    }
}

/// Events about which the mirror and a first listing disagreed, with the mirror's digests then.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SuspectedDrift(BTreeMap<(SegmentIndex, EventHash), Option<EventDigest>>);

impl SuspectedDrift {
    /// Whether no event is suspected.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The number of suspected events.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Records a disagreement.
    pub fn add(&mut self, segment: SegmentIndex, id: EventHash, mirrored: Option<EventDigest>) {
        if self.0.len() < MAX_SUSPECTS {
            self.0.insert((segment, id), mirrored);
        }
    }

    /// Whether the event is suspected.
    pub fn has(&self, segment: SegmentIndex, id: EventHash) -> bool {
        self.0.contains_key(&(segment, id))
    }

    /// Whether a second disagreement is the same as the first: the mirror has not changed since.
    pub fn confirm(
        &self,
        segment: SegmentIndex,
        id: EventHash,
        mirrored: Option<EventDigest>,
    ) -> bool {
        self.0.get(&(segment, id)) == Some(&mirrored)
    }
}
