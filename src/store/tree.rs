//! Reads the tree: every kind of value by its key, with its checksum verified.
//!
//! Does not deal with durability or half-applied batches: `shared` does. The writer thread reads
//! here directly, because only it has a stable view.

use std::collections::BTreeMap;
use std::ops::RangeBounds;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::KnownWindow;
use super::batch::{self, WriteBatch};
use super::dictionary::{Dictionaries, Dictionary};
use super::engine::{Engine, EngineBytes, EngineScan, OpenEngine};
use super::error::{PlanError, StoreError, TreeError};
use super::keys;
use super::pending;
use super::record::{
    self, Counters, DictionaryRecord, FeedChecksum, FeedEntry, FeedPack, WindowRecord,
};
use crate::mirror::change::Seq;
use crate::mirror::page::EventHash;
use crate::mirror::position::{PendingEntry, Position, SegmentIndex, WindowId};
use crate::mirror::window::WindowIdentity;

/// The one tree.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    engine: Arc<dyn Engine>,
    pub(super) dictionaries: Arc<Dictionaries>,
}

/// A value that may be split into chunks.
pub(super) struct LargeValue {
    /// The whole value.
    pub(super) value: Bytes,
    /// Number of chunks after the first.
    pub(super) chunks: u16,
}

impl Tree {
    /// Opens or creates the tree of a directory, with `cache` bytes of cache. Panics on some kinds of
    /// damage.
    pub(super) fn open(open: &OpenEngine, dir: &Path, cache: u64) -> Result<Self, TreeError> {
        let dictionaries = Arc::new(Dictionaries::shipped()?);
        Ok(Self { engine: open(dir, cache)?, dictionaries })
    }

    /// Drops a handle. The last one closes the tree, which panics if the engine cannot finish its
    /// files; returns whether it did not.
    pub(super) fn close(self) -> bool {
        catch_unwind(AssertUnwindSafe(|| drop(self))).is_ok()
    }

    /// The stored bytes of a key.
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<EngineBytes>, TreeError> {
        Ok(self.engine.get(key)?)
    }

    /// The entries in a range of keys, in order.
    pub(super) fn range<K: AsRef<[u8]>>(&self, range: impl RangeBounds<K>) -> EngineScan {
        self.engine
            .scan(range.start_bound().map(AsRef::as_ref), range.end_bound().map(AsRef::as_ref))
    }

    /// The entries whose keys have a prefix, in order.
    pub(super) fn scan_prefix(&self, prefix: impl AsRef<[u8]>) -> EngineScan {
        let prefix = prefix.as_ref();
        let mut end = prefix.to_vec();
        while let Some(last) = end.pop() {
            if last < u8::MAX {
                end.push(last + 1);
                return self.range(prefix..end.as_slice());
            }
        }
        self.range(prefix..)
    }

    /// Applies a batch atomically.
    pub(super) fn apply(&self, batch: WriteBatch) -> Result<(), TreeError> {
        Ok(self.engine.apply(&mut batch.into_writes())?)
    }

    /// Makes everything that was applied durable.
    pub(super) fn flush(&self) -> Result<(), TreeError> {
        Ok(self.engine.flush()?)
    }

    /// The engine itself.
    pub(super) fn engine(&self) -> &dyn Engine {
        &*self.engine
    }

    /// A number of the `m/` keys; 0 if it was never written.
    pub(super) fn number(&self, key: &[u8]) -> Result<u64, TreeError> {
        self.get(key)?.map_or(Ok(0), |v| record::from_number(&v))
    }

    /// The stored checksum of the feed.
    pub(super) fn sum(&self) -> Result<FeedChecksum, TreeError> {
        self.get(keys::SUM)?.map_or(Ok(FeedChecksum::default()), |v| FeedChecksum::decode(&v))
    }

    /// What is known about the dictionaries.
    pub(super) fn dictionary_record(&self) -> Result<DictionaryRecord, TreeError> {
        let value = self.get(keys::DICTIONARIES)?;
        value.map_or(Ok(DictionaryRecord::default()), |v| record::from_json(&v, "dictionaries"))
    }

    /// Reads the dictionaries that the store trained.
    pub(super) fn load_dictionaries(&self) -> Result<(), TreeError> {
        for number in self.dictionary_record()?.numbers {
            let stored = self.large(&keys::dictionary(number))?;
            let value = stored.ok_or(TreeError::Damaged("dictionary"))?.value;
            let content = record::unseal(&value, "dictionary")?;
            let dictionary = Dictionary::new(number, content);
            self.dictionaries.add(dictionary.ok_or(TreeError::Unknown("dictionary"))?);
        }
        Ok(())
    }

    /// A live window's record.
    pub(super) fn window(&self, window: WindowId) -> Result<Option<WindowRecord>, TreeError> {
        self.get(&keys::window(window))?.map(|v| WindowRecord::decode(&v)).transpose()
    }

    /// The record of a window that must be live.
    pub(super) fn live_window(&self, window: WindowId) -> Result<WindowRecord, PlanError> {
        let unknown = || PlanError::Rejected(StoreError::UnknownWindow(window));
        self.window(window)?.ok_or_else(unknown)
    }

    /// The record of a window that is being dropped.
    pub(super) fn dropping(&self, window: WindowId) -> Result<Option<WindowRecord>, TreeError> {
        self.get(&keys::dropping(window))?.map(|v| WindowRecord::decode(&v)).transpose()
    }

    /// A window's counters.
    pub(super) fn counters(&self, window: WindowId) -> Result<Counters, TreeError> {
        self.get(&keys::counters(window))?.map_or(Ok(Counters::default()), |v| Counters::decode(&v))
    }

    /// A segment's position.
    pub(super) fn position(
        &self,
        window: WindowId,
        segment: SegmentIndex,
    ) -> Result<Option<Position>, TreeError> {
        self.get(&keys::position(window, segment))?.map(|v| record::from_position(&v)).transpose()
    }

    /// Every segment's position.
    pub(super) fn positions(
        &self,
        window: WindowId,
    ) -> Result<Vec<(SegmentIndex, Position)>, TreeError> {
        self.scan_prefix(keys::positions(window))
            .map(|entry| {
                let (key, value) = entry?;
                let segment = keys::position_segment(&key).ok_or(TreeError::Damaged("position"))?;
                Ok((segment, record::from_position(&value)?))
            })
            .collect()
    }

    /// A value that may be split into chunks.
    pub(super) fn large(&self, key: &[u8]) -> Result<Option<LargeValue>, TreeError> {
        self.get(key)?.map(|head| self.joined(key, head)).transpose()
    }

    /// A value of which the first part was read, with its further chunks.
    pub(super) fn joined(&self, key: &[u8], head: EngineBytes) -> Result<LargeValue, TreeError> {
        let (chunks, at) = batch::head(&head).ok_or(TreeError::Damaged("value"))?;
        if chunks == 0 {
            return Ok(LargeValue { value: Bytes::from_owner(head).slice(at..), chunks });
        }
        let mut value = head[at..].to_vec();
        for number in 1..=chunks {
            let part = self.get(&keys::chunk(key, number))?.ok_or(TreeError::Damaged("value"))?;
            value.extend_from_slice(&part);
        }
        Ok(LargeValue { value: value.into(), chunks })
    }

    /// Every window, ordered by number.
    pub(super) fn windows(&self) -> Result<Vec<KnownWindow>, TreeError> {
        let mut windows = Vec::new();
        // The names are read from their keys, because a million records take seconds to decode.
        for entry in self.scan_prefix([keys::NAME]) {
            let (key, value) = entry?;
            let name = keys::named(&key).ok_or(TreeError::Damaged("name"))?.into();
            let id = u32::try_from(record::from_number(&value)?).map(WindowId);
            let id = id.map_err(|_| TreeError::Unknown("name"))?;
            windows.push(KnownWindow { name, id, dropping: false });
        }
        for window in self.dropping_windows() {
            let (name, id) = window?;
            windows.push(KnownWindow { name, id, dropping: true });
        }
        windows.sort_by_key(|window| window.id);
        Ok(windows)
    }

    /// The name and number of every window that is being dropped.
    pub(super) fn dropping_windows(
        &self,
    ) -> impl Iterator<Item = Result<(Arc<str>, WindowId), TreeError>> {
        self.scan_prefix([keys::DROPPING]).map(|entry| {
            let (key, value) = entry?;
            let id = keys::window_of(&key).ok_or(TreeError::Damaged("window"))?;
            Ok((WindowRecord::decode(&value)?.name, id))
        })
    }

    /// The windows that are being dropped, by name.
    pub(super) fn dropping_by_name(&self) -> Result<BTreeMap<Arc<str>, Vec<WindowId>>, TreeError> {
        let mut dropping = BTreeMap::<_, Vec<WindowId>>::new();
        for window in self.dropping_windows() {
            let (name, id) = window?;
            dropping.entry(name).or_default().push(id);
        }
        Ok(dropping)
    }

    pub(super) fn identities(&self) -> Result<BTreeMap<Arc<str>, WindowIdentity>, TreeError> {
        let mut identities = BTreeMap::new();
        for entry in self.scan_prefix([keys::WINDOW]) {
            let record = WindowRecord::decode(&entry?.1)?;
            identities.insert(record.name, record.identity);
        }
        Ok(identities)
    }

    /// The keys with a prefix.
    pub(super) fn keys(
        &self,
        prefix: &[u8],
    ) -> impl DoubleEndedIterator<Item = Result<EngineBytes, TreeError>> {
        self.scan_prefix(prefix).map(|entry| Ok(entry?.0))
    }

    /// Deletes the keys with a prefix.
    pub(super) fn delete_all(
        &self,
        prefix: &[u8],
        batch: &mut WriteBatch,
    ) -> Result<(), TreeError> {
        for key in self.keys(prefix) {
            batch.delete(key?.to_vec());
        }
        Ok(())
    }

    /// The pending entries of a segment.
    pub(super) fn pending(
        &self,
        window: WindowId,
        segment: SegmentIndex,
    ) -> Result<Vec<PendingEntry>, TreeError> {
        let mut entries = Vec::new();
        for entry in self.scan_prefix(keys::all_pending(window, segment)) {
            let (key, value) = entry?;
            // Chunks are read with their value.
            if let Some(entry) = keys::pending_of(&key) {
                let value = self.joined(&key, value)?.value;
                entries.push(pending::decode(entry, &value, &self.dictionaries)?);
            }
        }
        Ok(entries)
    }

    /// Every id in a segment's seen lists, sorted.
    pub(super) fn seen(
        &self,
        window: WindowId,
        segment: SegmentIndex,
    ) -> Result<Vec<EventHash>, TreeError> {
        let mut seen = Vec::new();
        for entry in self.scan_prefix(keys::seen_all(window, segment)) {
            seen.extend(record::from_seen(&entry?.1)?);
        }
        seen.sort_unstable();
        Ok(seen)
    }

    /// The pack of the feed that has an entry, if it exists.
    pub(super) fn feed_pack(&self, seq: Seq) -> Result<Option<FeedPack>, TreeError> {
        let pack = self.feed_packs(seq).next().transpose()?;
        Ok(pack.filter(|pack| pack.entry(seq).is_some()))
    }

    /// The packs that may have entries from a seq on, in order.
    pub(super) fn feed_packs(
        &self,
        from: Seq,
    ) -> impl Iterator<Item = Result<FeedPack, TreeError>> {
        self.range(keys::feed(from)..=keys::feed(Seq::MAX)).map(|item| {
            let (key, value) = item?;
            let key = keys::seq_of(&key).ok_or(TreeError::Damaged("change"))?;
            FeedPack::decode(key, &value)
        })
    }

    /// The seq of the newest entry of the feed.
    pub(super) fn newest_change(&self) -> Result<Option<Seq>, TreeError> {
        let last = self.keys(&[keys::FEED]).next_back().transpose()?;
        let Some(key) = last.and_then(|key| keys::seq_of(&key)) else { return Ok(None) };
        let pack = self.feed_packs(key).next().transpose()?;
        Ok(pack.and_then(|pack| pack.entries.last().map(|(seq, _)| *seq)))
    }

    /// An entry of the feed.
    pub(super) fn entry(&self, seq: Seq) -> Result<Option<FeedEntry>, TreeError> {
        Ok(self.feed_pack(seq)?.and_then(|pack| pack.into_entry(seq)))
    }

    /// The seq of the tombstone of an id.
    pub(super) fn tombstone(
        &self,
        window: WindowId,
        id: EventHash,
    ) -> Result<Option<Seq>, TreeError> {
        self.get(&keys::tombstone(window, id))?.map(|v| record::from_number(&v)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemoryDisk;

    #[test]
    fn a_prefix_ends_before_the_next_one() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::open(&*MemoryDisk::default().opener(), dir.path(), 0).unwrap();
        let mut batch = WriteBatch::default();
        let all = [&[7][..], &[8], &[8, 0], &[8, 255], &[8, 255, 255], &[9], &[255], &[255, 255]];
        all.iter().for_each(|key| batch.put(key.to_vec(), Vec::new()));
        tree.apply(batch).unwrap();
        let keys =
            |prefix: &[u8]| -> Vec<_> { tree.keys(prefix).map(|key| key.unwrap()).collect() };
        assert_eq!(keys(&[]), all);
        assert_eq!(keys(&[8]), all[1..5]);
        assert_eq!(keys(&[8, 255]), all[3..5]);
        assert_eq!(keys(&[255]), all[6..]);
        assert_eq!(keys(&[255, 255]), all[7..]);
        let last = tree.keys(&[8]).next_back().unwrap().unwrap();
        assert_eq!(last, all[4]);
    }
}
