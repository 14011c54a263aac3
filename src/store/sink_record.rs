//! What the sinks of the daemon keep in the store: each one text, which the store does not read.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Store;
use super::batch::WriteBatch;
use super::error::{StoreError, TreeError};
use super::feed;
use super::job::{TreeEdit, WriteJob};
use super::keys;
use super::record::{self, instant};
use super::tree::Tree;

/// Rough bytes of a record.
const RECORD: usize = 4096;

#[derive(Serialize, Deserialize)]
struct StoredSink {
    name: Arc<str>,
    state: String,
}

impl Store {
    /// The saved state of each sink, by name.
    ///
    /// # Errors
    /// If the store can no longer be used.
    pub async fn sinks(&self) -> Result<BTreeMap<Arc<str>, String>, StoreError> {
        self.read_tree(|tree| {
            let mut sinks = BTreeMap::new();
            for entry in tree.scan_prefix([keys::SINK]) {
                let record = decode(&entry?.1)?;
                sinks.insert(record.name, record.state);
            }
            Ok(sinks)
        })
        .await
    }

    /// Replaces the saved state of a sink, or deletes it. Returns when that is durable.
    ///
    /// # Errors
    /// After [`StoreError::Full`] the store has the old state.
    pub async fn save_sink(&self, name: &str, state: Option<String>) -> Result<(), StoreError> {
        let key = keys::sink(name);
        let value = state.map(|state| record::json(&StoredSink { name: name.into(), state }));
        let edit: TreeEdit = Box::new(move |_: &Tree, batch: &mut WriteBatch| {
            match value {
                Some(value) => batch.put(key, value),
                None => batch.delete(key),
            }
            Ok(())
        });
        self.ask(|reply| WriteJob::Edit { edit, bytes: RECORD, reply }).await
    }

    /// The cursor after the changes that were stored before a time; `None` if removals since then
    /// are not kept any more. A change moves with its event, so that earlier changes of events that
    /// changed later come after it, too.
    ///
    /// # Errors
    /// If the store can no longer be used.
    pub async fn cursor_at(&self, time: Timestamp) -> Result<Option<String>, StoreError> {
        let end = self.durable_seq();
        let seq = self
            .read_tree(move |tree| {
                let (mut low, mut high) = (0, end);
                while low < high {
                    let middle = low + (high - low) / 2;
                    match feed::first_after(tree, middle, high)? {
                        Some((seq, at)) if instant(at) < time => low = seq,
                        _ => high = middle,
                    }
                }
                Ok(low)
            })
            .await?;
        Ok((seq >= self.min_seq()).then(|| self.cursor(seq)))
    }
}

/// Reads a sealed record.
fn decode(value: &[u8]) -> Result<StoredSink, TreeError> {
    record::from_json(value, "sink")
}
