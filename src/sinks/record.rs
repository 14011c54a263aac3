//! What the store keeps of a sink.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::batch::{SinkPosition, SnapshotId};
use super::target::NEW_SHARE;
use crate::store::{Store, StoreError};

/// What the store keeps of a sink. Without a position the next batch begins a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SinkRecord {
    /// What the position belongs to: the target, and what is sent to it.
    pub(super) identity: String,
    pub(super) position: Option<SinkPosition>,
    /// What the target recognises itself by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) mark: Option<String>,
    /// A snapshot that the target has to get before anything else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) begins: Option<SnapshotId>,
    #[serde(default)]
    pub(super) paused: bool,
    /// The target is gone for good.
    #[serde(default)]
    pub(super) stopped: bool,
    /// The position counts more than that in the target: a person asked for it.
    #[serde(default)]
    pub(super) replays: bool,
}

impl SinkRecord {
    /// Reads what is kept of a sink. What a later version wrote in another form is nothing: the
    /// sink begins again.
    pub(super) async fn load(store: &Store, sink: &str) -> Result<Self, StoreError> {
        let state = store.sinks().await?.remove(sink);
        Ok(state.and_then(|state| serde_json::from_str(&state).ok()).unwrap_or_default())
    }

    /// Keeps it.
    ///
    /// # Errors
    /// After [`StoreError::Full`] the store has what it had.
    pub(super) async fn save(&self, store: &Store, sink: &Arc<str>) -> Result<(), StoreError> {
        // Texts and flags always serialize.
        let state = serde_json::to_string(self).unwrap_or_default();
        store.save_sink(sink, Some(state)).await
    }

    /// Makes the next batch begin a snapshot of what this identity stands for.
    pub(super) fn begin_again(&mut self, identity: &str, snapshot: SnapshotId) {
        let shard = |identity: &str| identity.split_once(' ').map(|(_, shard)| shard.to_owned());
        if !self.identity.is_empty() && shard(&self.identity) != shard(identity) {
            self.mark = Some(NEW_SHARE.to_owned());
        }
        self.identity = identity.to_owned();
        (self.position, self.begins, self.replays) = (None, Some(snapshot), false);
    }

    /// Whether the target has a whole snapshot.
    pub(super) fn is_complete(&self) -> bool {
        let whole = |position: &SinkPosition| position.snapshot.is_none();
        self.begins.is_none() && self.position.as_ref().is_some_and(whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_the_shard_is_kept_until_something_was_sent() {
        for (old, new, changes) in [
            ("", "1f", false),
            // A store that was lost knows nothing of a change.
            ("", "1f 0/3", false),
            ("1f", "2f", false),
            ("1f", "1f 0/3", true),
            ("1f 0/3", "2f 0/3", false),
            ("1f 0/3", "1f 0/4", true),
            ("1f 0/3", "1f 1/3", true),
            ("1f 0/3", "1f", true),
        ] {
            let (identity, mark) = (old.to_owned(), Some("mark".to_owned()));
            let mut record = SinkRecord { identity, mark, ..SinkRecord::default() };
            record.begin_again(new, SnapshotId(1));
            let is_new = record.mark.as_deref() == Some(NEW_SHARE);
            assert_eq!(is_new, changes, "{old} to {new}");
        }
    }
}
