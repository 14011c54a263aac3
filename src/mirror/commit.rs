//! What a round asks the store to write: all of it together or nothing.

use std::sync::Arc;

use jiff::Timestamp;

use super::change::RemovalReason;
use super::page::{EventHash, EventId, Item};
use super::position::{PendingEntry, PendingKey, Position, SegmentIndex, WindowId};

/// One atomic step of a segment.
///
/// An id stands at most once in `upserts` and `removals` together. An upserted bare occurrence
/// (`whole == false`) must have its master in the same commit or in the store.
#[derive(Clone, Debug)]
pub struct Commit {
    /// The window.
    pub window: WindowId,
    /// The segment all of this belongs to.
    pub segment: SegmentIndex,
    /// The wall-clock time that its changes carry in the feed.
    pub at: Timestamp,
    /// Events as they now are: single instances, exceptions, occurrences (bare or whole) and masters.
    pub upserts: Vec<Item>,
    /// Events that this segment no longer holds.
    pub removals: Vec<Removal>,
    /// Masters to forget if no occurrence in the window names them any more.
    pub orphans: Vec<EventHash>,
    /// To-do entries to write.
    pub pending: Vec<PendingEntry>,
    /// To-do entries to delete.
    pub done: Vec<PendingKey>,
    /// Every to-do entry of the segment is deleted first.
    pub clear_todo: bool,
    /// The ids that page `.0` of the running enumeration carried, in any order.
    pub seen: Option<(u32, Vec<EventHash>)>,
    /// All seen lists of the segment are deleted.
    pub clear_seen: bool,
    /// Where the segment now stands.
    pub position: Option<Position>,
    /// Counted: a finished round, a begun resync.
    pub tally: WindowCounters,
    /// Nobody waits for it: it may linger up to the store's linger (never more than 30 s) so
    /// that it shares its flush with others.
    pub lazy: bool,
}

/// An event that a segment no longer holds; it leaves the mirror when no segment holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Removal {
    /// Which.
    pub id: EventHash,
    /// Why.
    pub reason: RemovalReason,
}

/// Counters that live with the window, in the store.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WindowCounters {
    /// The number of the round this commit ends, if it ends one.
    pub round: Option<u64>,
    /// When it succeeded.
    pub success: Option<Timestamp>,
    /// A resync begins: why. (The first enumeration is [`ResyncReason::New`] and is not counted.)
    ///
    /// [`ResyncReason::New`]: super::status::ResyncReason::New
    pub resync: Option<super::status::ResyncReason>,
    /// A drift audit ended: differences that it confirmed and repaired.
    pub audit: Option<u64>,
    /// Until when Graph wants the window's mailbox left alone (fact 117).
    pub paused_until: Option<Timestamp>,
}

/// What a commit did, told once it is durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CommitOutcome {
    /// Events that appeared.
    pub created: u32,
    /// Events that look different to a reader.
    pub updated: u32,
    /// Events that left.
    pub removed: u32,
    /// Events of the window that readers now see.
    pub events: u64,
}

impl Commit {
    /// A commit that changes nothing yet.
    pub fn new(window: WindowId, segment: SegmentIndex, at: Timestamp) -> Self {
        Self {
            window,
            segment,
            at,
            upserts: Vec::new(),
            removals: Vec::new(),
            orphans: Vec::new(),
            pending: Vec::new(),
            done: Vec::new(),
            clear_todo: false,
            seen: None,
            clear_seen: false,
            position: None,
            tally: WindowCounters::default(),
            lazy: false,
        }
    }
}

/// What the store knows of an id: asked for tombstones, and for masters that a listing replaces.
#[derive(Clone, Debug, PartialEq)]
pub enum StoredKind {
    /// The store has no row of it.
    Unknown,
    /// A series master; also one that has no row, where its instances have.
    Master {
        /// `@odata.etag`, where there is a row with one.
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
