//! What is asked of the store and what it answers.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;

use crate::mirror::audit::EventDigest;
use crate::mirror::change::{ChangeKind, RemovalReason, Seq};
use crate::mirror::page::{EventHash, EventId, EventKind, Span};
use crate::mirror::position::WindowId;
use crate::mirror::status::{AuditRecord, LastResync, ResyncReason};
use crate::mirror::window::{Edge, Edges, EventShape, WindowIdentity};

/// How to open a store.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// The directory; made 0700 if it does not exist, and closed to others if they may enter it.
    pub path: PathBuf,
    /// Bytes of sled's page cache.
    pub cache_bytes: u64,
    /// How long a lazy commit may wait for company; at most 30 s.
    pub linger: Duration,
    /// Bytes of disk that are kept free (and 0.5 % of the disk): below, commits answer
    /// [`StoreError::Full`](super::StoreError::Full). 0 never refuses, and holds no space for the
    /// next opening.
    pub min_free_bytes: u64,
}

impl StoreOptions {
    /// The usual ones for a directory: 256 MiB of cache, 5 s of linger, 64 MiB kept free.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            cache_bytes: 256 << 20,
            linger: Duration::from_secs(5),
            min_free_bytes: 64 << 20,
        }
    }
}

/// What opening found.
#[derive(Clone, Debug)]
pub struct OpenReport {
    /// Where a damaged store was moved, if it was: everything is then enumerated again.
    pub moved_aside: Option<PathBuf>,
}

/// A window as the configuration wants it.
#[derive(Clone, Debug)]
pub struct WindowRegistration {
    /// Its name.
    pub name: Arc<str>,
    /// What it is.
    pub identity: WindowIdentity,
    /// What its events look like.
    pub shape: EventShape,
    /// Its configured start.
    pub start: Edge,
    /// Its configured end.
    pub end: Edge,
    /// The edges these mean today (a relative end already asked `move_every` further).
    pub edges: Edges,
}

/// A window as the store has it.
#[derive(Clone, Debug)]
pub struct RegisteredWindow {
    /// Its number.
    pub id: WindowId,
    /// The edges in force: the stored ones unless the window is new or its configured edges changed.
    pub edges: Edges,
    /// When they were computed.
    pub edges_at: Timestamp,
    /// Set when attaching began a resync (its segments' positions were reset).
    pub resync: Option<ResyncReason>,
    /// Windows that had the same name before and are not gone yet: their events must leave first,
    /// as ids of theirs may come again.
    pub replaces: Vec<WindowId>,
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
    /// How it stands with its drift audits; none before it first settled.
    pub audit: Option<AuditRecord>,
    /// Until when Graph last wanted its mailbox left alone; usually long over.
    pub paused_until: Option<Timestamp>,
    /// Whether every segment had a delta link and an empty to-do when last written.
    pub settled: bool,
    /// Whether that was so at any time since the window began: readers have had all of it.
    pub settled_once: bool,
    /// Whether a removal too large to believe waits for its confirmation.
    pub held: bool,
    /// The segments in snapshot mode, as bits.
    pub snapshots: u64,
    /// The longest segment that Graph answers for, in days ([`Edges::cut`]).
    pub segment_days: i64,
}

/// One row of a series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SeriesRow {
    /// The instance.
    pub id: EventHash,
    /// Occurrence or exception.
    pub kind: EventKind,
    /// When it takes place.
    pub span: Span,
}

/// What an audit looks at of a row.
#[derive(Clone, Debug)]
pub struct AuditRow {
    /// The event.
    pub id: EventHash,
    /// What is compared.
    pub sketch: EventDigest,
    /// The series it belongs to.
    pub master: Option<EventId>,
}

/// What a reader asks of a window.
#[derive(Clone, Debug)]
pub struct EventQuery {
    /// The window.
    pub window: WindowId,
    /// Only events that overlap `[from, to)`.
    pub from: Option<Timestamp>,
    /// See `from`.
    pub to: Option<Timestamp>,
    /// At most so many.
    pub limit: usize,
    /// No more once they have so many bytes, but at least one.
    pub bytes: usize,
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
    /// Everything up to this seq is reflected, and perhaps something later: changes are to be
    /// read from here on.
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
