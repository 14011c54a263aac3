//! Types of the store's requests and answers.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;

use crate::mirror::audit::EventDigest;
use crate::mirror::change::{ChangeKind, RemovalReason, Seq};
use crate::mirror::page::{EventHash, EventId};
use crate::mirror::position::WindowId;
use crate::mirror::segment_set::SegmentSet;
use crate::mirror::status::{AuditRecord, LastResync, ResyncReason};
use crate::mirror::window::{Edge, Edges, EventShape, WindowIdentity};

/// How to open a store.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// The directory. Created with mode 0700 if missing; permissions of other users are removed.
    pub path: PathBuf,
    /// Bytes of the engine's cache.
    pub cache_bytes: u64,
    /// How long a deferrable commit may be deferred to share a flush; at most 30 s.
    pub max_defer: Duration,
    /// Bytes of disk that are kept free (at least 0.5 % of the disk). Below that, commits return
    /// [`StoreError::Full`](super::StoreError::Full). 0 never refuses, and holds no space for the
    /// next opening.
    pub min_free_bytes: u64,
}

impl StoreOptions {
    /// The defaults for a directory: 256 MiB of cache, 5 s of deferral, 64 MiB kept free.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            cache_bytes: 256 << 20,
            max_defer: Duration::from_secs(5),
            min_free_bytes: 64 << 20,
        }
    }
}

/// The result of opening.
#[derive(Clone, Debug)]
pub struct OpenReport {
    /// Where a damaged store was moved, if there was one: everything is then enumerated again.
    pub moved_aside: Option<PathBuf>,
}

/// A window as configured.
#[derive(Clone, Debug)]
pub struct WindowRegistration {
    /// Its name.
    pub name: Arc<str>,
    /// What the window mirrors.
    pub identity: WindowIdentity,
    /// The settings that decide what its events look like.
    pub shape: EventShape,
    /// Its configured start.
    pub start: Edge,
    /// Its configured end.
    pub end: Edge,
    /// The edges that `start` and `end` resolve to now (a relative end `move_every` later).
    pub edges: Edges,
}

/// Finds the wanted window of a name, and its place in the configuration.
pub type WantedWindows = Arc<dyn Fn(&str) -> Option<(usize, WindowRegistration)> + Send + Sync>;

/// A window that the store knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownWindow {
    /// Its name.
    pub name: Arc<str>,
    /// Its number.
    pub id: WindowId,
    /// Whether it is being dropped; another window may have its name by now.
    pub dropping: bool,
}

/// How many windows a store knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WindowCount {
    /// All that are not being dropped.
    pub known: usize,
    /// Those that stay.
    pub staying: usize,
}

/// Live windows of the store, compared with the wanted ones.
#[derive(Debug, Default)]
pub struct ComparedWindows {
    /// How many there are. Those stay whose identity is wanted under their name.
    pub count: WindowCount,
    /// Those whose name no wanted window has.
    pub unwanted: Vec<(WindowId, Arc<str>)>,
    /// Those for which [`Store::register`](super::Store::register) would write nothing, with the
    /// place of the wanted window. What they replace is missing.
    pub unchanged: Vec<(usize, RegisteredWindow)>,
}

/// A window as the store has it.
#[derive(Clone, Debug)]
pub struct RegisteredWindow {
    /// Its number.
    pub id: WindowId,
    /// In force: the stored edges, unless the window is new or its configured edges changed.
    pub edges: Edges,
    /// When they were computed.
    pub edges_at: Timestamp,
    /// Set if registering started a resync (its segments' positions were reset).
    pub resync: Option<ResyncReason>,
    /// Windows that had the same name before and still exist: their events must be removed first,
    /// because their ids may occur again.
    pub replaces: Vec<WindowId>,
    /// Events that readers see.
    pub events: u64,
    /// The number of its last round.
    pub rounds: u64,
    /// Resyncs counted so far.
    pub resyncs: u64,
    /// The last resync.
    pub last_resync: Option<LastResync>,
    /// When a round last succeeded.
    pub last_success: Option<Timestamp>,
    /// The state of its drift audits; `None` before it first settled.
    pub audit: Option<AuditRecord>,
    /// The end of the last pause that Graph requested for its mailbox; usually in the past.
    pub paused_until: Option<Timestamp>,
    /// Whether every segment had a delta link and no pending entries when last written.
    pub settled: bool,
    /// Whether that was ever the case since the window was created: readers have had all of it.
    pub settled_once: bool,
    /// Whether an implausibly large removal waits for confirmation.
    pub held: bool,
    /// The segments in snapshot mode.
    pub snapshots: SegmentSet,
    /// The longest segment that Graph answers for, in days ([`Edges::cut`]).
    pub segment_days: i64,
}

/// The part of a row that an audit checks.
#[derive(Clone, Debug)]
pub struct AuditRow {
    /// The event.
    pub id: EventHash,
    /// The compared digest.
    pub digest: EventDigest,
    /// The series it belongs to.
    pub master: Option<EventId>,
}

/// How many events of a window lie outside a range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutsideCount {
    /// Those outside.
    pub outside: usize,
    /// All events of the window.
    pub all: usize,
}

/// A reader's query for events of a window.
#[derive(Clone, Debug)]
pub struct EventQuery {
    /// The window.
    pub window: WindowId,
    /// Only events that overlap `[from, to)`.
    pub from: Option<Timestamp>,
    /// See `from`.
    pub to: Option<Timestamp>,
    /// The most events to return.
    pub limit: usize,
    /// Stop once the events have this many bytes, but return at least one.
    pub bytes: usize,
    /// Continue after this (start, id).
    pub after: Option<(Timestamp, EventId)>,
}

/// A page of events.
#[derive(Clone, Debug)]
pub struct Events {
    /// Complete events, ordered by (start, id).
    pub value: Vec<Bytes>,
    /// The start and id of each of them.
    pub keys: Vec<(Timestamp, EventId)>,
    /// Set if there may be more: the key to continue after.
    pub next: Option<(Timestamp, EventId)>,
    /// Everything up to this seq is included, and perhaps later changes: read changes from here on.
    pub seq: Seq,
}

/// One entry of the feed.
#[derive(Clone, Debug)]
pub struct Change {
    /// The follower's cursor after this change.
    pub cursor: String,
    /// Its number.
    pub seq: Seq,
    /// When it was written.
    pub at: Timestamp,
    /// The window's name.
    pub window: Arc<str>,
    /// What happened.
    pub kind: ChangeKind,
    /// Why, for removals.
    pub reason: Option<RemovalReason>,
    /// The event's id.
    pub id: EventId,
    /// The complete event, unless removed.
    pub event: Option<Bytes>,
    /// For an update, the names of the members that changed, sorted; empty if only `changeKey`,
    /// `lastModifiedDateTime` or `@odata.etag` did. `None` if the reader also missed an earlier
    /// change of the event, or if that is not known because 0.1 wrote the change.
    pub changed: Option<Vec<String>>,
    /// Whether the reader already had the event as it is now, except for `changeKey`,
    /// `lastModifiedDateTime` and `@odata.etag`.
    pub is_new_version: bool,
    /// For a removal, a JSON object with the event's subject, start, end, `isAllDay` and
    /// sensitivity, as far as it had them. `None` if the change was written by 0.1.
    pub summary: Option<Bytes>,
}

/// A batch of the feed.
#[derive(Clone, Debug)]
pub struct Changes {
    /// Oldest first.
    pub value: Vec<Change>,
    /// The seq up to which all changes that the filter accepts are included.
    pub seq: Seq,
    /// The reader has seen every event as it was after the change with this seq, or later; at most
    /// `seq`.
    pub caught_up: Seq,
    /// Whether `seq` was the end: the durable end of the feed, or the end that the reader gave.
    pub at_end: bool,
}
