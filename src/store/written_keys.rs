//! The keys written while a copy of the tree is made.
//!
//! A copy reads the tree in the order of its keys while the writer goes on. What is written behind
//! the place that it has reached is recorded here, and copied again afterwards.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::batch::WriteBatch;

/// The most bytes of recorded keys, so that a slow copy does not fill the memory.
const MAX_BYTES: usize = 32 << 20;
/// Rough memory of a recorded key beyond its own bytes.
const OVERHEAD: usize = 48;

/// The keys written behind one copy, and how far it is.
#[derive(Debug)]
pub(super) struct WrittenKeys {
    /// The last key that was copied in order; `None` once all were.
    pub(super) copied: Option<Vec<u8>>,
    keys: BTreeSet<Vec<u8>>,
    bytes: usize,
    limit: usize,
    /// Whether more was written than may be recorded. The copy is then worthless.
    overrun: bool,
}

impl WrittenKeys {
    /// Nothing was copied yet.
    pub(super) fn new() -> Self {
        Self::with_limit(MAX_BYTES)
    }

    fn with_limit(limit: usize) -> Self {
        let (copied, keys) = (Some(Vec::new()), BTreeSet::new());
        Self { copied, keys, bytes: 0, limit, overrun: false }
    }

    fn add(&mut self, batch: &WriteBatch) {
        for key in batch.keys() {
            let behind = self.copied.as_deref().is_none_or(|last| key <= last);
            if !behind || self.overrun || self.keys.contains(key) {
                continue;
            }
            self.bytes += key.len() + OVERHEAD;
            self.keys.insert(key.to_vec());
            if self.bytes > self.limit {
                self.overrun = true;
                self.keys = BTreeSet::new();
            }
        }
    }

    /// Removes the first recorded key, to copy it again.
    pub(super) fn pop(&mut self) -> Option<Vec<u8>> {
        let key = self.keys.pop_first()?;
        self.bytes -= key.len() + OVERHEAD;
        Some(key)
    }

    /// Whether everything recorded was copied again.
    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whether more was written than may be recorded.
    pub(super) fn is_overrun(&self) -> bool {
        self.overrun
    }
}

/// The records of all copies under way. A record ends when its copy drops it.
#[derive(Debug, Default)]
pub(super) struct CopyRecords(Mutex<Vec<Weak<Mutex<WrittenKeys>>>>);

impl CopyRecords {
    /// Begins a record.
    pub(super) fn begin(&self) -> Arc<Mutex<WrittenKeys>> {
        let record = Arc::new(Mutex::new(WrittenKeys::new()));
        self.records().push(Arc::downgrade(&record));
        record
    }

    /// Whether a copy is under way.
    pub(super) fn any(&self) -> bool {
        self.records().iter().any(|record| record.strong_count() > 0)
    }

    /// Records the keys of a batch. Called while no copy reads the tree.
    pub(super) fn add(&self, batch: &WriteBatch) {
        self.records().retain(|record| {
            let record = record.upgrade();
            record.is_some_and(|record| {
                lock(&record).add(batch);
                true
            })
        });
    }

    fn records(&self) -> MutexGuard<'_, Vec<Weak<Mutex<WrittenKeys>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Locks a record. No update leaves it inconsistent, so a poisoned lock is still usable.
pub(super) fn lock(record: &Mutex<WrittenKeys>) -> MutexGuard<'_, WrittenKeys> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(keys: &[&str]) -> WriteBatch {
        let mut batch = WriteBatch::default();
        for key in keys {
            batch.put(key.as_bytes().to_vec(), Vec::new());
        }
        batch
    }

    #[test]
    fn only_what_was_copied_already_is_recorded_once() {
        let mut written = WrittenKeys::new();
        written.add(&batch(&["a", "b"]));
        assert!(written.is_empty());
        written.copied = Some(b"b".to_vec());
        written.add(&batch(&["a", "b", "c"]));
        written.add(&batch(&["b"]));
        written.copied = None;
        written.add(&batch(&["c"]));
        assert_eq!(std::iter::from_fn(|| written.pop()).collect::<Vec<_>>(), [b"a", b"b", b"c"]);
        assert_eq!(written.bytes, 0);
    }

    #[test]
    fn a_record_is_bounded_and_ends_with_its_copy() {
        let mut written = WrittenKeys::with_limit(3 * OVERHEAD);
        written.copied = None;
        written.add(&batch(&["a", "b"]));
        written.add(&batch(&["a", "b"]));
        assert!(!written.is_overrun());
        written.add(&batch(&["c"]));
        assert!(written.is_overrun() && written.is_empty());

        let records = CopyRecords::default();
        assert!(!records.any());
        let record = records.begin();
        records.add(&batch(&["a"]));
        assert_eq!(records.records().len(), 1);
        assert!(records.any());
        drop(record);
        assert!(!records.any());
        records.add(&batch(&["a"]));
        assert!(records.records().is_empty());
    }
}
