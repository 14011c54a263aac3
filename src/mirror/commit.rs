//! The commits that a round asks the store to write, each as a whole or not at all.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use super::change::RemovalReason;
use super::page::{EventHash, EventId, Item};
use super::position::{PendingEntry, PendingKey, Position, SegmentIndex, WindowId};

/// One atomic step of a segment.
///
/// An id is at most once in `upserts` and `removals` together. An upserted bare occurrence
/// (`full == false`) must have its master in the same commit or in the store.
#[derive(Clone, Debug, Default)]
pub struct Commit {
    /// The window.
    pub window: WindowId,
    /// The segment that all changes belong to.
    pub segment: SegmentIndex,
    /// The wall-clock time that its changes have in the feed.
    pub at: Timestamp,
    /// Events in their current state: single instances, exceptions, occurrences (bare or full) and
    /// masters.
    pub upserts: Vec<Item>,
    /// Events that this segment no longer holds.
    pub removals: Vec<Removal>,
    /// Masters to delete if no instance in the window names them any more.
    pub orphans: Vec<EventHash>,
    /// Pending entries to write.
    pub pending: Vec<PendingEntry>,
    /// Pending entries to delete.
    pub finished_pending: Vec<PendingKey>,
    /// Whether all pending entries of the segment are deleted first.
    pub clear_pending: bool,
    /// The seen list of one page of the current enumeration.
    pub seen: Option<SeenPage>,
    /// Whether all seen lists of the segment are deleted first.
    pub clear_seen: bool,
    /// The segment's new position.
    pub position: Option<Position>,
    /// Updates of the window's counters, such as a finished round or a started resync.
    pub counters: CounterUpdates,
    /// Whether the store may defer the commit, because no caller waits for it: for up to the
    /// store's `max_defer` (at most 30 s), so that it shares a flush with others.
    pub deferrable: bool,
}

/// The seen list of a page: the ids that it carried.
#[derive(Clone, Debug)]
pub struct SeenPage {
    /// The number of the page.
    pub page: u32,
    /// Its ids, in any order.
    pub ids: Vec<EventHash>,
}

/// An event that a segment no longer holds; it leaves the mirror when no segment holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Removal {
    /// The event.
    pub id: EventHash,
    /// The reason.
    pub reason: RemovalReason,
}

impl Removal {
    /// The event was deleted.
    pub fn deleted(id: EventHash) -> Self {
        Self { id, reason: RemovalReason::Deleted }
    }
}

/// Updates of the counters that the store keeps with a window.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CounterUpdates {
    /// The number of the round this commit ends, if it ends one.
    pub round: Option<u64>,
    /// When the round succeeded.
    pub success: Option<Timestamp>,
    /// Why a resync begins. (The first enumeration is [`ResyncReason::New`] and is not counted.)
    ///
    /// [`ResyncReason::New`]: super::status::ResyncReason::New
    pub resync: Option<super::status::ResyncReason>,
    /// The differences that a finished drift audit has confirmed and repaired.
    pub audit: Option<u64>,
    /// The end of the pause that Graph requested for the window's mailbox (fact 117).
    pub paused_until: Option<Timestamp>,
}

/// What a commit did, returned once it is durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CommitOutcome {
    /// Events that appeared.
    pub created: u32,
    /// Events whose visible content changed.
    pub updated: u32,
    /// Events that left.
    pub removed: u32,
    /// The number of the window's events that readers now see.
    pub events: u64,
}

impl Commit {
    /// An empty commit.
    pub fn new(window: WindowId, segment: SegmentIndex, at: Timestamp) -> Self {
        Self { window, segment, at, ..Self::default() }
    }
}

/// What the store has under the ids that a page names.
pub type StoredKinds = BTreeMap<EventHash, StoredKind>;

/// What the store has under an id that a page names.
#[derive(Clone, Debug, PartialEq)]
pub enum StoredKind {
    /// No row, and no instances that name it as their master.
    Unknown,
    /// A series master. It may have no row of its own if its instances have rows.
    Master {
        /// `@odata.etag`, if there is a row with one.
        etag: Option<Arc<str>>,
    },
    /// A single instance.
    Single,
    /// An occurrence or exception.
    Instance {
        /// The series it belongs to.
        master: EventId,
    },
}
