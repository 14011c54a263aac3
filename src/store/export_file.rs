//! The file format of an export (`docs/design.md`, "What is in an export file?").
//!
//! A line with the name and the number of the format, then frames: a head, blocks of records, and an
//! end with totals and a checksum of everything before it. A frame is its kind (one byte), the
//! length of its payload, the payload, and the CRC-32 of all of that. Numbers are big-endian. A
//! record sets or deletes a key of the tree; a later record of the same key replaces an earlier one,
//! because the daemon goes on writing while the export is made. Values are written as they are, so
//! the format does not depend on their layouts.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::record::NEWEST;
use super::watermark::FORMAT;

/// The beginning of every export; the number of its format and a line feed follow.
pub(super) const MAGIC: &[u8] = b"calmirror export ";
/// The format of the file.
pub(super) const FILE_FORMAT: u32 = 1;
/// Most bytes in the payload of a frame, so that a damaged length takes no memory.
pub(super) const MAX_PAYLOAD: usize = 4 << 20;
/// Bytes of a frame before its payload, and after it.
pub(super) const BEFORE: usize = 5;
pub(super) const AFTER: usize = 4;
/// The length of a value that marks its key as deleted.
pub(super) const DELETED: u32 = u32::MAX;

// The kinds of frames.
pub(super) const HEAD: u8 = b'h';
pub(super) const BLOCK: u8 = b'b';
pub(super) const END: u8 = b'e';

/// What was exported, in words of JSON. Unknown members are ignored.
#[derive(Serialize, Deserialize)]
pub(super) struct ExportHead {
    /// The format of the store.
    pub(super) store_format: u32,
    /// The newest layout of values that may occur.
    pub(super) layout: u8,
    /// The version of the program.
    pub(super) version: String,
}

/// The counts in the end of an export.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ExportTotals {
    pub(super) blocks: u64,
    /// Keys that were set.
    puts: u64,
    /// Keys that were deleted.
    deletions: u64,
    /// Bytes of all keys and values.
    bytes: u64,
}

impl ExportTotals {
    /// Counts a record.
    pub(super) fn add(&mut self, key: &[u8], value: Option<&[u8]>) {
        let (puts, deletions) = if value.is_some() { (1, 0) } else { (0, 1) };
        self.puts += puts;
        self.deletions += deletions;
        self.bytes += (key.len() + value.map_or(0, <[u8]>::len)) as u64;
    }

    /// The payload of the end, with the checksum of everything before it.
    pub(super) fn encode(self, hash: &[u8]) -> Vec<u8> {
        let numbers = [self.blocks, self.puts, self.deletions, self.bytes];
        [numbers.map(u64::to_be_bytes).as_flattened(), hash].concat()
    }
}

/// Makes the bytes of an export.
pub(super) struct ExportWriter {
    hash: Sha256,
    totals: ExportTotals,
}

impl ExportWriter {
    /// Begins an export; returns its first bytes too.
    pub(super) fn begin() -> (Self, Vec<u8>) {
        let head = ExportHead {
            store_format: FORMAT,
            layout: NEWEST,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let mut bytes = [MAGIC, format!("{FILE_FORMAT}\n").as_bytes()].concat();
        // Numbers and a text always serialize.
        frame(&mut bytes, HEAD, &serde_json::to_vec(&head).unwrap_or_default());
        let mut writer = Self { hash: Sha256::new(), totals: ExportTotals::default() };
        writer.hash.update(&bytes);
        (writer, bytes)
    }

    /// The bytes of a block of records; `None` deletes the key. The records of a block should have
    /// far less than 4 MiB.
    pub(super) fn block<'a>(
        &mut self,
        records: impl IntoIterator<Item = (&'a [u8], Option<&'a [u8]>)>,
    ) -> Vec<u8> {
        let mut payload = Vec::new();
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(DELETED).to_be_bytes();
        for (key, value) in records {
            payload.extend_from_slice(&length(key));
            payload.extend_from_slice(&value.map_or(DELETED.to_be_bytes(), length));
            payload.extend_from_slice(key);
            payload.extend_from_slice(value.unwrap_or_default());
            self.totals.add(key, value);
        }
        self.totals.blocks += 1;
        let mut bytes = Vec::with_capacity(payload.len() + BEFORE + AFTER);
        frame(&mut bytes, BLOCK, &payload);
        self.hash.update(&bytes);
        bytes
    }

    /// The last bytes.
    pub(super) fn end(self) -> Vec<u8> {
        let mut bytes = Vec::new();
        frame(&mut bytes, END, &self.totals.encode(&self.hash.finalize()));
        bytes
    }
}

/// Appends a frame.
pub(super) fn frame(out: &mut Vec<u8>, kind: u8, payload: &[u8]) {
    let from = out.len();
    out.push(kind);
    out.extend_from_slice(&u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(payload);
    let check = crc32fast::hash(&out[from..]);
    out.extend_from_slice(&check.to_be_bytes());
}

/// A key with its value, or its deletion.
#[cfg(test)]
pub(super) type ExportedRecord = (Vec<u8>, Option<Vec<u8>>);
