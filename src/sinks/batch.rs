//! What a sink sends at a time.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::mirror::fleet::Place;
use crate::mirror::shard::Shard;
use crate::store::Change;

/// How far a sink has sent the feed: what comes after it was not sent yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkPosition {
    /// A cursor of the sink's feed.
    pub cursor: String,
    /// The snapshot that is being sent; `None` between snapshots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotId>,
}

/// A snapshot: every event of the sink's windows, sent between its begin and its end. When it ends,
/// the target deletes the events that did not come in it. Until then it shows what it had, so that
/// its readers never see a gap. Random.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SnapshotId(pub u64);

impl fmt::Display for SnapshotId {
    /// Sixteen digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A window of changes in a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkWindow {
    /// Its name, as in [`Change::window`].
    pub name: Arc<str>,
    /// The account that reads it.
    pub account: String,
    /// The address or id of the mailbox.
    pub mailbox: String,
    /// The calendar: `default` or an id.
    pub calendar: String,
    /// The room, if it is one.
    pub place: Option<Place>,
}

/// Changes that a target takes together: all of them, or none.
#[derive(Clone, Debug)]
pub struct SinkBatch {
    /// The name of the sink.
    pub sink: Arc<str>,
    /// Which of several processes sends it.
    pub shard: Shard,
    /// When the batch was made.
    pub at: Timestamp,
    /// The cursor before the changes; empty at the beginning of a snapshot.
    pub before: String,
    /// The position once they are sent.
    pub after: SinkPosition,
    /// The snapshot that the changes belong to.
    pub snapshot: Option<SnapshotId>,
    /// Whether the snapshot begins before the changes.
    pub begins: bool,
    /// Whether the snapshot ends after the changes.
    pub ends: bool,
    /// In the order of the feed; at most one of each event.
    pub changes: Vec<Change>,
    /// The windows of the changes that are configured, each once.
    pub windows: Vec<SinkWindow>,
}
