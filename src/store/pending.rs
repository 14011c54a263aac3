//! Encodes and decodes pending entries. A held-back item is packed like an event row.

use bytes::Bytes;

use super::dictionary::Dictionaries;
use super::error::TreeError;
use super::record::{seal, unseal};
use super::row::EventRow;
use crate::mirror::page::EventId;
use crate::mirror::position::{PendingEntry, PendingKey};
use crate::mirror::segment_set::SegmentSet;

/// The value of a pending entry, without what its key already contains.
pub(super) fn encode(entry: &PendingEntry) -> Vec<u8> {
    match entry {
        PendingEntry::Series { master, needs_master, needs_listing } => {
            let mut out = vec![u8::from(*needs_master) | u8::from(*needs_listing) << 1];
            out.extend_from_slice(master.as_str().as_bytes());
            seal(&out)
        }
        // No segment holds a waiting item; segment 0's bit means that an earlier round carried it.
        PendingEntry::Waiting { item, earlier } => {
            EventRow::of(item, SegmentSet::from_bits(u64::from(*earlier))).encode()
        }
        PendingEntry::Removal { .. } => seal(&[]),
    }
}

/// Reads what [`encode`] wrote.
pub(super) fn decode(
    key: PendingKey,
    value: &Bytes,
    dictionaries: &Dictionaries,
) -> Result<PendingEntry, TreeError> {
    match key {
        PendingKey::Series(_) => {
            let Some((flags, id)) = unseal(value, "pending entry")?.split_first() else {
                return Err(TreeError::Unknown("pending entry"));
            };
            Ok(PendingEntry::Series {
                master: EventId::new(
                    std::str::from_utf8(id).map_err(|_| TreeError::Unknown("pending entry"))?,
                ),
                needs_master: flags & 1 != 0,
                needs_listing: flags & 2 != 0,
            })
        }
        PendingKey::Waiting(..) => {
            let row = EventRow::decode(value, dictionaries, None)?;
            Ok(PendingEntry::Waiting { earlier: !row.segments.is_empty(), item: row.item() })
        }
        PendingKey::Removal(id) => Ok(PendingEntry::Removal { id }),
    }
}
