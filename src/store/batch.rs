//! The writes of a batch: an ordered set of keys, each put or deleted once.
//!
//! A `WriteBatch` becomes one atomic batch of the engine. Values above 64 KiB are split over several
//! keys, because sled keeps items above about 128 KiB in separate files and never syncs those.

use std::collections::BTreeMap;

use super::engine::{EngineBytes, EngineWrite};
use super::keys;
use super::record::FeedChecksum;
use crate::mirror::change::Seq;

/// The largest value under one key.
pub(super) const CHUNK: usize = 64 * 1024;
const INLINE: u8 = 0;
const SPLIT: u8 = 1;

/// Writes that are applied together.
#[derive(Debug, Default)]
pub(super) struct WriteBatch {
    writes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    bytes: usize,
    rows: u64,
    sum: FeedChecksum,
    reads_alike: bool,
}

impl WriteBatch {
    /// Puts a value.
    pub(super) fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.bytes += key.len() + value.len();
        self.writes.insert(key, Some(value));
    }

    /// Deletes a key.
    pub(super) fn delete(&mut self, key: Vec<u8>) {
        self.bytes += key.len();
        self.writes.insert(key, None);
    }

    /// Counts a change that is added to the feed.
    pub(super) fn count_added_change(&mut self, seq: Seq) {
        self.sum.add(seq);
    }

    /// Counts an existing change that is removed from the feed.
    pub(super) fn count_removed_change(&mut self, seq: Seq) {
        self.sum.remove(seq);
    }

    /// The effect of the added and deleted changes on the feed's checksum.
    pub(super) fn checksum(&self) -> FeedChecksum {
        self.sum
    }

    /// Puts a value that may be large in place of one with `old` further chunks.
    pub(super) fn put_large(&mut self, key: Vec<u8>, value: &[u8], old: u16) {
        self.put_chunks(key, value, old, CHUNK);
    }

    /// The same with chunks of another size, which all readers accept. The neighbours of a value are
    /// written again with it, so a value that never changes should be small.
    pub(super) fn put_chunks(&mut self, key: Vec<u8>, value: &[u8], old: u16, chunk: usize) {
        let (first, rest) = value.split_at(value.len().min(chunk));
        let rest: Vec<&[u8]> = rest.chunks(chunk).collect();
        // 65,535 chunks are 4 GiB, far beyond the largest page.
        let count = u16::try_from(rest.len()).unwrap_or(u16::MAX);
        let mut head = Vec::with_capacity(3 + first.len());
        if count == 0 {
            head.push(INLINE);
        } else {
            head.push(SPLIT);
            head.extend_from_slice(&count.to_be_bytes());
        }
        head.extend_from_slice(first);
        for (number, part) in (1..=count).zip(&rest) {
            self.put(keys::chunk(&key, number), part.to_vec());
        }
        for number in count + 1..=old {
            self.delete(keys::chunk(&key, number));
        }
        self.put(key, head);
    }

    /// Deletes a value with `chunks` further chunks.
    pub(super) fn delete_large(&mut self, key: Vec<u8>, chunks: u16) {
        for number in 1..=chunks {
            self.delete(keys::chunk(&key, number));
        }
        self.delete(key);
    }

    /// The keys that are put or deleted.
    pub(super) fn keys(&self) -> impl Iterator<Item = &[u8]> {
        self.writes.keys().map(Vec::as_slice)
    }

    /// Number of keys that are deleted.
    pub(super) fn deleted(&self) -> usize {
        self.writes.values().filter(|value| value.is_none()).count()
    }

    /// Rough size of the batch in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether there is nothing to write.
    pub(super) fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// Marks a batch after which events read exactly as before it. Nothing else may be in it.
    pub(super) fn mark_reads_alike(&mut self) {
        self.reads_alike = true;
    }

    /// Whether events read exactly as before it.
    pub(super) fn reads_alike(&self) -> bool {
        self.reads_alike
    }

    /// Counts an event row that is put or deleted.
    pub(super) fn count_row(&mut self) {
        self.rows += 1;
    }

    /// Number of event rows that are put or deleted.
    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    /// The writes for the engine.
    pub(super) fn into_writes(self) -> impl Iterator<Item = EngineWrite> {
        self.writes.into_iter().map(|(key, value)| (key.into(), value.map(EngineBytes::from)))
    }
}

/// The number of further chunks of a large value, and the offset of its first part in the head.
pub(super) fn head(value: &[u8]) -> Option<(u16, usize)> {
    match value {
        [INLINE, ..] => Some((0, 1)),
        [SPLIT, a, b, ..] => Some((u16::from_be_bytes([*a, *b]), 3)),
        _ => None,
    }
}
