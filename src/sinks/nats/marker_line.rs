//! What a marker says.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::sinks::batch::{SinkPosition, SnapshotId};

/// The line of a marker.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct MarkerLine {
    /// [`BEGINS`] while a snapshot is sent, [`ENDS`] once everything is there, [`DIVIDED`] when
    /// another shard ended it.
    pub(super) change: String,
    /// Whose it is: number and count of shards.
    pub(super) shard: String,
    /// The last snapshot.
    pub(super) snapshot: String,
    /// The attempt at it. Random.
    pub(super) pass: String,
    /// The number of the marker that began it; 0 in that marker.
    pub(super) began: u64,
    pub(super) sink: String,
    /// The cursor of what was sent; empty in the marker that begins a snapshot.
    pub(super) cursor: String,
    pub(super) at: Timestamp,
    /// Which sink of all calmirrors wrote it.
    pub(super) writer: String,
}

impl MarkerLine {
    /// How many shards there are.
    pub(super) fn count(&self) -> Option<u32> {
        self.shard.split_once('/')?.1.parse().ok()
    }

    /// How far the stream is, `None` if nothing of a snapshot came yet.
    pub(super) fn position(&self) -> Option<SinkPosition> {
        let snapshot = match &*self.change {
            ENDS => None,
            _ => Some(SnapshotId(u64::from_str_radix(&self.snapshot, 16).ok()?)),
        };
        let cursor = self.cursor.clone();
        (!cursor.is_empty()).then_some(SinkPosition { cursor, snapshot })
    }
}

pub(super) const BEGINS: &str = "snapshot_begins";
pub(super) const ENDS: &str = "snapshot_ends";
/// The count of shards changed, and this one has to begin again.
pub(super) const DIVIDED: &str = "divided";
