//! The durable mirror and its feed: the only room that knows sled.
//!
//! Signatures first: this file is the room's contract and is being filled in.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::watch;

use crate::mirror::change::{ChangeKind, RemovalReason, Seq};
use crate::mirror::commit::{Commit, Known, Outcome, Removal};
use crate::mirror::page::{EventHash, EventId, Item, Kind, Span};
use crate::mirror::position::{Position, SegmentIndex, Todo, WindowId};
use crate::mirror::status::{LastResync, ResyncReason};
use crate::mirror::window::{Edge, Edges, Identity, Shape};
use crate::world::World;

/// How to open a store.
#[derive(Clone, Debug)]
pub struct Options {
    /// The directory; made 0700 if it does not exist.
    pub path: PathBuf,
    /// Bytes of sled's page cache.
    pub cache_bytes: u64,
    /// How long a lazy commit may wait for company; at most 30 s.
    pub linger: Duration,
}

impl Options {
    /// The usual settings for a directory.
    pub fn new(path: PathBuf, cache_bytes: u64, linger: Duration) -> Self {
        Self { path, cache_bytes, linger }
    }
}

/// What opening found.
#[derive(Clone, Debug)]
pub struct Opening {
    /// Where a damaged store was moved, if it was: everything is then enumerated again.
    pub moved_aside: Option<PathBuf>,
}

/// Why a store could not be opened. Nothing was touched.
#[derive(Debug, thiserror::Error)]
#[error("store {path}: {why}")]
pub struct OpenError {
    /// The directory.
    pub path: PathBuf,
    /// What was wrong.
    pub why: OpenFault,
}

/// See [`OpenError`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenFault {
    /// Another process has it.
    #[error("is in use by another process")]
    Locked,
}

/// A store that can no longer be written or read.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The writer has failed; the process has to be restarted.
    #[error("the store has failed: {0}")]
    Failed(Arc<str>),
}

/// The store. Clones are handles to the same one.
#[derive(Clone)]
pub struct Store {}

/// A window as the configuration wants it.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Its name.
    pub name: Arc<str>,
    /// What it is.
    pub identity: Identity,
    /// What its events look like.
    pub shape: Shape,
    /// Its configured start.
    pub start: Edge,
    /// Its configured end.
    pub end: Edge,
    /// The edges these mean today (a relative end already asked `move_every` further).
    pub edges: Edges,
}

/// A window as the store has it.
#[derive(Clone, Debug)]
pub struct Attached {
    /// Its number.
    pub id: WindowId,
    /// The edges in force: the stored ones unless the window is new or its configured edges changed.
    pub edges: Edges,
    /// When they were computed.
    pub edges_at: Timestamp,
    /// Set when attaching began a resync (its segments' positions were reset).
    pub resync: Option<ResyncReason>,
    /// A window of the same name but another identity, whose events must leave first.
    pub replaces: Option<WindowId>,
    /// Events readers see.
    pub events: u64,
    /// The number of its last round.
    pub rounds: u64,
    /// Resyncs counted so far.
    pub resyncs: u64,
    /// The last of them.
    pub last_resync: Option<LastResync>,
    /// When a round last succeeded.
    pub last_success: Option<Timestamp>,
    /// Whether every segment had a delta link and an empty to-do when last written.
    pub settled: bool,
}

/// One row of a series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SeriesRow {
    /// The instance.
    pub id: EventHash,
    /// Occurrence or exception.
    pub kind: Kind,
    /// When it takes place.
    pub span: Span,
}

/// What a reader asks of a window.
#[derive(Clone, Debug)]
pub struct Query {
    /// The window.
    pub window: WindowId,
    /// Only events that overlap `[from, to)`.
    pub from: Option<Timestamp>,
    /// See `from`.
    pub to: Option<Timestamp>,
    /// At most so many.
    pub limit: usize,
    /// Go on after this (start, id).
    pub after: Option<(Timestamp, EventId)>,
}

/// What a reader gets.
#[derive(Clone, Debug)]
pub struct Events {
    /// Complete events, ordered by (start, id).
    pub value: Vec<Bytes>,
    /// Set when there may be more: the key to go on after.
    pub next: Option<(Timestamp, EventId)>,
    /// The last seq these events may reflect.
    pub seq: Seq,
}

/// One entry of the feed.
#[derive(Clone, Debug)]
pub struct Change {
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
}

/// A stretch of the feed.
#[derive(Clone, Debug)]
pub struct Changes {
    /// Oldest first.
    pub value: Vec<Change>,
    /// The seq up to which everything (of the window asked for) is contained: where to go on.
    pub seq: Seq,
    /// Whether `seq` was the durable end of the feed.
    pub at_end: bool,
}

/// Why the feed cannot be read from a cursor.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FeedError {
    /// Older than the kept tombstones, or of no incarnation of this store: start from a snapshot.
    #[error("the cursor is older than the kept removals or belongs to another store")]
    SnapshotRequired,
    /// Not a cursor at all.
    #[error("malformed cursor")]
    Malformed,
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[expect(
    clippy::unimplemented,
    clippy::missing_errors_doc,
    unused_variables,
    reason = "signatures only, for now"
)]
impl Store {
    /// Opens or creates a store. Blocking.
    pub fn open(options: &Options, world: &World) -> Result<(Self, Opening), OpenError> {
        unimplemented!()
    }
    /// Writes what waits, stops the writer and closes the store.
    pub async fn close(&self) -> Result<(), StoreError> {
        unimplemented!()
    }
    /// Resolves when the writer has failed for good.
    pub async fn failed(&self) -> StoreError {
        unimplemented!()
    }
    /// Writes a commit; answers when it is durable.
    pub async fn commit(&self, commit: Commit) -> Result<Outcome, StoreError> {
        unimplemented!()
    }
    /// Makes every wanted window known, in one commit, and tells how each stands (same order).
    pub async fn attach(
        &self,
        wanted: Vec<Wanted>,
        at: Timestamp,
    ) -> Result<Vec<Attached>, StoreError> {
        unimplemented!()
    }
    /// Names and numbers of all windows the store knows, those being dropped included.
    pub async fn windows(&self) -> Result<Vec<(Arc<str>, WindowId, bool)>, StoreError> {
        unimplemented!()
    }
    /// Edges moved: writes them and resets every segment to enumerate for that reason.
    pub async fn move_edges(
        &self,
        window: WindowId,
        edges: Edges,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        unimplemented!()
    }
    /// Every event of a window leaves the feed with `window_dropped`, then its rows are deleted; in slices, resumable.
    pub async fn drop_window(&self, window: WindowId, at: Timestamp) -> Result<(), StoreError> {
        unimplemented!()
    }
    /// Tombstones written before `before` leave, and the feed's floor rises with them.
    pub async fn trim(&self, before: Timestamp) -> Result<u64, StoreError> {
        unimplemented!()
    }
    /// Where a segment stands. Waits for a lazy commit of that window to be durable first.
    pub async fn position(
        &self,
        window: WindowId,
        segment: SegmentIndex,
    ) -> Result<Option<Position>, StoreError> {
        unimplemented!()
    }
    /// A segment's to-do.
    pub async fn todo(
        &self,
        window: WindowId,
        segment: SegmentIndex,
    ) -> Result<Vec<Todo>, StoreError> {
        unimplemented!()
    }
    /// What is known of ids, in the same order.
    pub async fn known(
        &self,
        window: WindowId,
        ids: Vec<EventHash>,
    ) -> Result<Vec<Known>, StoreError> {
        unimplemented!()
    }
    /// A stored row as an item (masters too).
    pub async fn item(&self, window: WindowId, id: EventHash) -> Result<Option<Item>, StoreError> {
        unimplemented!()
    }
    /// The rows of a series that a segment holds.
    pub async fn series(
        &self,
        window: WindowId,
        segment: SegmentIndex,
        master: EventHash,
    ) -> Result<Vec<SeriesRow>, StoreError> {
        unimplemented!()
    }
    /// Rows of the segment (masters not) that stand in none of its seen lists: `left_window` where they lie outside `edges`, else `deleted`.
    pub async fn unseen(
        &self,
        window: WindowId,
        segment: SegmentIndex,
        edges: Edges,
    ) -> Result<Vec<Removal>, StoreError> {
        unimplemented!()
    }
    /// Events of a window.
    pub async fn events(&self, query: Query) -> Result<Events, StoreError> {
        unimplemented!()
    }
    /// One event.
    pub async fn event(&self, window: WindowId, id: &EventId) -> Result<Option<Bytes>, StoreError> {
        unimplemented!()
    }
    /// At most `limit` changes after `after`, of one window or all.
    pub async fn changes(
        &self,
        after: Seq,
        window: Option<WindowId>,
        limit: usize,
    ) -> Result<Changes, StoreError> {
        unimplemented!()
    }
    /// The newest durable seq; moves when there is something new to read.
    pub fn durable(&self) -> watch::Receiver<Seq> {
        unimplemented!()
    }
    /// The cursor that stands for `seq`.
    pub fn cursor(&self, seq: Seq) -> String {
        unimplemented!()
    }
    /// The seq a cursor stands for.
    pub fn seq(&self, cursor: &str) -> Result<Seq, FeedError> {
        unimplemented!()
    }
    /// This opening's random name, for `/v1/status`.
    pub fn incarnation(&self) -> String {
        unimplemented!()
    }
}
