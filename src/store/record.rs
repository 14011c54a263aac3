//! Encodes and decodes the values of the store. Each value begins with the number of the format
//! that introduced its layout and a CRC-32 of the rest.
//!
//! Events, pending entries and changes are packed by hand because there are many of them. Records
//! that exist once per window or segment are JSON. Both have types of their own here, so that types
//! of `mirror` and of the API can be renamed without changing what is on disk. What is on disk must
//! stay readable forever. A type marked `remote` is never instantiated: it defines how serde writes
//! and reads the type of `mirror` that it names, and compiles only while both have the same members.
//!
//! A value with a wrong checksum is damaged. A value with a correct checksum that cannot be read
//! was written by another version of this program: it is not damage, and nothing may be rebuilt
//! because of it. Later formats may change everything but these two leading fields.
//!
//! JSON is read tolerantly (unknown members are ignored, missing optional ones have a default), so
//! a new optional member needs no new format. A new variant of an enumeration does need one.

mod counters;
mod feed_checksum;
mod feed_entry;
mod feed_pack;
mod fleet;
mod position;
mod window;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub(super) use self::counters::Counters;
pub(super) use self::feed_checksum::FeedChecksum;
pub(super) use self::feed_entry::{EventSize, FeedEntry, TombstoneEntry, UpdateEntry};
pub(super) use self::feed_pack::FeedPack;
pub(super) use self::fleet::{FleetRecord, MEMBERS_IN_PART, from_members, members};
pub(super) use self::position::{from_position, position};
pub(super) use self::window::WindowRecord;
use super::cursor::Incarnation;
use super::dictionary::{DictionaryNumber, FIRST_TRAINED};
use super::error::TreeError;
use crate::mirror::change::Seq;
use crate::mirror::page::EventHash;

/// The newest layout of values that this version writes and reads. Each value carries the number of
/// its layout, so a store may hold values of several layouts.
const LAYOUT: u8 = 1;
/// The layout of an event row with a compressed body.
pub(super) const COMPRESSED_ROW: u8 = 2;
/// The newest layout of any value.
pub(super) const NEWEST: u8 = 5;
/// Bytes before the payload of a sealed value.
pub(super) const SEAL: usize = 5;

/// Seals a payload: layout, CRC-32, payload.
pub(super) fn seal(payload: &[u8]) -> Vec<u8> {
    seal_as(LAYOUT, payload)
}

/// Seals a payload with another layout.
pub(super) fn seal_as(layout: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(SEAL + payload.len());
    out.push(layout);
    out.extend_from_slice(&crc32fast::hash(payload).to_be_bytes());
    out.extend_from_slice(payload);
    out
}

/// Checks a sealed value and returns its payload; `what` names the value in errors.
pub(super) fn unseal<'a>(value: &'a [u8], what: &'static str) -> Result<&'a [u8], TreeError> {
    unseal_up_to(LAYOUT, value, what).map(|(_, payload)| payload)
}

/// The same for a value that may have a layout up to `newest`, which is returned.
pub(super) fn unseal_up_to<'a>(
    newest: u8,
    value: &'a [u8],
    what: &'static str,
) -> Result<(u8, &'a [u8]), TreeError> {
    match value.split_at_checked(SEAL) {
        Some(([layout, crc @ ..], payload)) if *crc == crc32fast::hash(payload).to_be_bytes() => {
            match *layout {
                0 => Err(TreeError::Damaged(what)),
                known if known <= newest => Ok((known, payload)),
                newer => Err(TreeError::Newer(what, newer)),
            }
        }
        _ => Err(TreeError::Damaged(what)),
    }
}

/// A sealed JSON value.
pub(super) fn json<T: Serialize>(value: &T) -> Vec<u8> {
    // Our records have string keys and finite numbers, so they always serialize.
    seal(&serde_json::to_vec(value).unwrap_or_default())
}

/// Reads what [`json`] wrote.
pub(super) fn from_json<'a, T: Deserialize<'a>>(
    value: &'a [u8],
    what: &'static str,
) -> Result<T, TreeError> {
    serde_json::from_slice(unseal(value, what)?).map_err(|_| TreeError::Unknown(what))
}

/// A number of the `m/` keys, sealed.
pub(super) fn number(value: u64) -> Vec<u8> {
    seal(&value.to_be_bytes())
}

/// Reads what [`number`] wrote.
pub(super) fn from_number(value: &[u8]) -> Result<u64, TreeError> {
    let bytes = unseal(value, "number")?;
    bytes.try_into().map(u64::from_be_bytes).map_err(|_| TreeError::Unknown("number"))
}

/// An opening of the store as a sealed value.
pub(super) fn incarnation(value: Incarnation) -> Vec<u8> {
    seal(&[value.id.to_be_bytes(), value.first.to_be_bytes()].concat())
}

/// Reads what [`incarnation`] wrote.
pub(super) fn from_incarnation(value: &[u8]) -> Result<Incarnation, TreeError> {
    match unseal(value, "incarnation")?.as_chunks::<8>() {
        ([id, first], []) => {
            Ok(Incarnation { id: u64::from_be_bytes(*id), first: u64::from_be_bytes(*first) })
        }
        _ => Err(TreeError::Unknown("incarnation")),
    }
}

/// The instant of a number of microseconds since 1970, the store's form of an instant.
pub(super) fn instant(micros: i64) -> Timestamp {
    Timestamp::from_microsecond(micros).unwrap_or(if micros < 0 {
        Timestamp::MIN
    } else {
        Timestamp::MAX
    })
}

/// What the store knows about its dictionaries.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct DictionaryRecord {
    /// The dictionaries that it has trained; none is ever deleted.
    #[serde(default)]
    pub(super) numbers: Vec<DictionaryNumber>,
    /// The dictionary that all rows had at the end of the last recompression; 0 before the first.
    #[serde(default)]
    pub(super) converted: DictionaryNumber,
    /// The last seq when it was last considered to train a dictionary.
    #[serde(default)]
    pub(super) trained_at: Seq,
}

impl DictionaryRecord {
    /// The number of the next dictionary.
    pub(super) fn next_number(&self) -> DictionaryNumber {
        self.numbers.iter().max().map_or(FIRST_TRAINED, |last| last.saturating_add(1))
    }
}

/// The ids of a page of an enumeration, as values of bounded size.
pub(super) fn seen_parts(ids: &[EventHash]) -> impl Iterator<Item = Vec<u8>> {
    ids.chunks(4096).map(|part| seal(&part.iter().flat_map(|id| id.0).collect::<Vec<u8>>()))
}

/// Reads a part that [`seen_parts`] wrote.
pub(super) fn from_seen(value: &[u8]) -> Result<impl Iterator<Item = EventHash>, TreeError> {
    let (ids, []) = unseal(value, "seen list")?.as_chunks::<16>() else {
        return Err(TreeError::Unknown("seen list"));
    };
    Ok(ids.iter().copied().map(EventHash))
}

/// Appends a text, preceded by its length.
pub(super) fn text(out: &mut Vec<u8>, text: &str) {
    // Texts come from pages of at most 64 MiB, so the length fits.
    out.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// The unread rest of a packed value.
pub(super) struct RecordReader<'a>(pub(super) &'a [u8]);

impl<'a> RecordReader<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(n)?;
        self.0 = tail;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[b]| b)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    pub(super) fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_be_bytes)
    }

    pub(super) fn text(&mut self) -> Option<&'a str> {
        let len = u32::from_be_bytes(self.array()?);
        std::str::from_utf8(self.take(usize::try_from(len).ok()?)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A JSON value as 0.1 sealed it.
    pub(super) fn sealed(json: &str) -> Vec<u8> {
        let crc = crc32fast::hash(json.as_bytes()).to_be_bytes();
        [&[1], &crc[..], json.as_bytes()].concat()
    }

    /// The JSON in a sealed value.
    pub(super) fn text(value: &[u8]) -> String {
        String::from_utf8(unseal(value, "test").unwrap().to_vec()).unwrap()
    }

    #[test]
    fn a_newer_layout_is_not_damage() {
        let good = number(7);
        assert_eq!(from_number(&good).unwrap(), 7);
        let mut newer = good.clone();
        newer[0] = 2;
        assert!(matches!(from_number(&newer), Err(TreeError::Newer("number", 2))));
        for at in 0..good.len() {
            let mut flipped = good.clone();
            flipped[at] ^= if at == 0 { 1 } else { 0x10 };
            assert!(matches!(from_number(&flipped), Err(TreeError::Damaged("number"))), "{at}");
        }
        // With a wrong checksum the layout number means nothing.
        newer[7] ^= 1;
        assert!(matches!(from_number(&newer), Err(TreeError::Damaged("number"))));
        assert!(matches!(from_number(&seal(b"short")), Err(TreeError::Unknown("number"))));
    }

    #[test]
    fn no_type_in_mirror_derives_a_serialization() {
        let mut rooms =
            vec![std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/mirror")];
        while let Some(room) = rooms.pop() {
            for entry in std::fs::read_dir(room).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    rooms.push(path);
                    continue;
                }
                let source = std::fs::read_to_string(&path).unwrap();
                let derives = |line: &&str| {
                    line.contains("derive(") && line.contains("erialize")
                        || line.contains("#[serde")
                };
                let found = source.lines().find(derives);
                assert_eq!(found, None, "{}", path.display());
            }
        }
    }
}
