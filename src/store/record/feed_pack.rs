//! Entries of the feed that one commit adds lie together, because a key costs as much as an entry.

use super::feed_entry::FeedEntry;
use super::{NEWEST, RecordReader, seal_as, unseal_up_to};
use crate::mirror::change::Seq;
use crate::mirror::position::WindowId;
use crate::store::error::TreeError;

/// The first layout of a pack.
const PACKED: u8 = 4;
/// The newest layout: its entries may have sizes.
const SIZED: u8 = 5;
const _: () = assert!(SIZED <= NEWEST, "the format of the store announces every layout");

/// Most entries of a pack: one that changes later is written again with its neighbours.
const MAX_ENTRIES: usize = 16;
/// A pack with so many bytes gets no further entry.
const FULL: usize = 2048;

/// Entries under one key, in the order of their seqs. They are of one window and one time.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::store) struct FeedPack {
    /// The seq in the key: that of the last entry when the pack was made. It stays when that entry
    /// leaves.
    pub(in crate::store) key: Seq,
    /// Not empty.
    pub(in crate::store) entries: Vec<(Seq, FeedEntry)>,
}

impl FeedPack {
    /// Divides entries in the order of their seqs into packs.
    pub(in crate::store) fn divide(entries: Vec<(Seq, FeedEntry)>) -> Vec<Self> {
        let mut packs = Vec::<Self>::new();
        let mut bytes = 0;
        for (seq, entry) in entries {
            let size = entry.rough_size();
            match packs.last_mut() {
                Some(pack) if bytes < FULL && pack.takes(seq, &entry) => {
                    pack.key = seq;
                    pack.entries.push((seq, entry));
                    bytes += size;
                }
                _ => {
                    packs.push(Self { key: seq, entries: vec![(seq, entry)] });
                    bytes = size;
                }
            }
        }
        packs
    }

    /// One of the entries.
    pub(in crate::store) fn entry(&self, seq: Seq) -> Option<&FeedEntry> {
        self.entries.iter().find(|(found, _)| *found == seq).map(|(_, entry)| entry)
    }

    /// One of the entries, without the others.
    pub(in crate::store) fn into_entry(self, seq: Seq) -> Option<FeedEntry> {
        self.entries.into_iter().find(|(found, _)| *found == seq).map(|(_, entry)| entry)
    }

    fn takes(&self, seq: Seq, entry: &FeedEntry) -> bool {
        self.entries.len() < MAX_ENTRIES
            && self.entries.first().is_some_and(|(first, pack)| {
                (pack.window, pack.at) == (entry.window, entry.at) && seq - first < 256
            })
    }

    /// The pack as a sealed value.
    pub(in crate::store) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16 + 32 * self.entries.len());
        if let Some((_, first)) = self.entries.first() {
            out.extend_from_slice(&first.window.0.to_be_bytes());
            out.extend_from_slice(&first.at.to_be_bytes());
        }
        for (seq, entry) in &self.entries {
            // `takes` limits the distance.
            out.push(u8::try_from(self.key - seq).unwrap_or(u8::MAX));
            entry.write(&mut out);
        }
        seal_as(SIZED, &out)
    }

    /// Reads what [`FeedPack::encode`] wrote, or a single entry, whose seq is that of the key.
    pub(in crate::store) fn decode(key: Seq, value: &[u8]) -> Result<Self, TreeError> {
        let (layout, payload) = unseal_up_to(SIZED, value, "change")?;
        let entries = match layout {
            PACKED | SIZED => Self::read(key, payload),
            single => FeedEntry::read_single(single, payload).map(|entry| vec![(key, entry)]),
        };
        let entries = entries.ok_or(TreeError::Unknown("change"))?;
        Ok(Self { key, entries })
    }

    fn read(key: Seq, payload: &[u8]) -> Option<Vec<(Seq, FeedEntry)>> {
        let mut input = RecordReader(payload);
        let window = WindowId(input.u32()?);
        let at = input.i64()?;
        let mut entries = Vec::<(Seq, FeedEntry)>::with_capacity(payload.len() / 26 + 1);
        while !input.0.is_empty() {
            let seq = key.checked_sub(input.u8()?.into())?;
            if entries.last().is_some_and(|(before, _)| *before >= seq) {
                return None;
            }
            entries.push((seq, FeedEntry::read(&mut input, window, at)?));
        }
        (!entries.is_empty()).then_some(entries)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::mirror::change::{ChangeKind, RemovalReason};
    use crate::mirror::page::{EventHash, EventId};
    use crate::store::record::{EventSize, TombstoneEntry, UpdateEntry};

    fn entry() -> impl Strategy<Value = FeedEntry> {
        let names = prop::collection::vec("[a-z]{1,9}", 0..4);
        let update = (any::<u64>(), prop::option::of(any::<u64>()), names).prop_map(
            |(essential, previous, changed)| UpdateEntry { essential, previous, changed },
        );
        let reason = prop::sample::select(vec![
            RemovalReason::Deleted,
            RemovalReason::LeftWindow,
            RemovalReason::WindowDropped,
        ]);
        let gone = (reason, ".{0,9}", ".{0,9}", prop::option::of(".{0,9}")).prop_map(
            |(reason, id, window, summary)| {
                let (id, window) = (EventId::new(id), Arc::from(window));
                TombstoneEntry { reason, id, window, summary }
            },
        );
        let details = prop_oneof![
            (Just(ChangeKind::Created), Just(None), Just(None)),
            (Just(ChangeKind::Updated), prop::option::of(update), Just(None)),
            (Just(ChangeKind::Removed), Just(None), gone.prop_map(Some)),
        ];
        let place = (prop::option::of(any::<i64>()), prop::option::of(any::<u16>()));
        (any::<[u8; 16]>(), place, details).prop_map(|(id, (start, size), (kind, update, gone))| {
            let (window, id) = (WindowId(7), EventHash(id));
            let size = size.map(|size| EventSize::of(size.into()));
            FeedEntry { window, id, kind, at: 8, start, size, update, gone }
        })
    }

    fn entries() -> impl Strategy<Value = Vec<(Seq, FeedEntry)>> {
        let all = prop::collection::vec(entry(), 1..50);
        (1..Seq::MAX / 2, all).prop_map(|(first, all)| (first..).zip(all).collect())
    }

    proptest! {
        #[test]
        fn packs_read_back_without_what_left(
            entries in entries(), leaves in any::<prop::sample::Index>(),
        ) {
            let packs = FeedPack::divide(entries.clone());
            let divided: Vec<_> = packs.iter().flat_map(|pack| pack.entries.clone()).collect();
            prop_assert_eq!(divided, entries);
            for mut pack in packs {
                prop_assert!(pack.entries.len() <= MAX_ENTRIES);
                prop_assert_eq!(FeedPack::decode(pack.key, &pack.encode()).unwrap(), pack.clone());
                if pack.entries.len() > 1 {
                    pack.entries.remove(leaves.index(pack.entries.len()));
                    let read = FeedPack::decode(pack.key, &pack.encode()).unwrap();
                    prop_assert_eq!(read, pack);
                }
            }
        }

        #[test]
        fn a_cut_pack_is_damage(entries in entries(), at in any::<prop::sample::Index>()) {
            let pack = FeedPack::divide(entries).remove(0);
            let mut value = pack.encode();
            value.truncate(at.index(value.len()));
            let read = FeedPack::decode(pack.key, &value);
            prop_assert!(matches!(read, Err(TreeError::Damaged("change"))));
        }
    }

    #[test]
    fn a_pack_has_one_window_and_one_time_and_is_small() {
        let entry = FeedEntry {
            window: WindowId(7),
            id: EventHash([9; 16]),
            kind: ChangeKind::Created,
            at: 8,
            start: Some(9),
            size: None,
            update: None,
            gone: None,
        };
        let lengths = |entries: Vec<FeedEntry>| -> Vec<usize> {
            let packs = FeedPack::divide((1..).zip(entries).collect());
            packs.iter().map(|pack| pack.entries.len()).collect()
        };
        assert_eq!(lengths(vec![entry.clone(); 40]), [16, 16, 8]);
        let other = FeedEntry { window: WindowId(8), ..entry.clone() };
        assert_eq!(lengths(vec![entry.clone(), other]), [1, 1]);
        let later = FeedEntry { at: 9, ..entry.clone() };
        assert_eq!(lengths(vec![entry.clone(), later]), [1, 1]);
        let distant = [(1, entry.clone()), (256, entry.clone()), (257, entry.clone())];
        let distant = FeedPack::divide(distant.into());
        assert_eq!(distant.iter().map(|pack| pack.key).collect::<Vec<_>>(), [256, 257]);
        let changed = vec!["x".repeat(FULL)];
        let update = UpdateEntry { essential: 1, previous: Some(1), changed };
        let long = FeedEntry { update: Some(update), ..entry.clone() };
        assert_eq!(lengths(vec![entry.clone(), long, entry.clone(), entry]), [2, 2]);
    }

    #[test]
    fn a_pack_without_sizes_is_read() {
        let head = [&[0, 0, 0, 7][..], &8i64.to_be_bytes()].concat();
        let placed = [&[1, 0x80][..], &[9; 16], &3i64.to_be_bytes()].concat();
        let plain = [&[0, 0][..], &[7; 16]].concat();
        let value = seal_as(PACKED, &[head, placed, plain].concat());
        let entry = |id, start| FeedEntry {
            window: WindowId(7),
            id: EventHash([id; 16]),
            kind: ChangeKind::Created,
            at: 8,
            start,
            size: None,
            update: None,
            gone: None,
        };
        let pack = FeedPack::decode(5, &value).unwrap();
        assert_eq!(pack.entries, [(4, entry(9, Some(3))), (5, entry(7, None))]);
    }

    #[test]
    fn an_entry_of_0_1_is_a_pack_of_one() {
        let payload = [&[0, 0, 0, 0, 7][..], &[9; 16], &[0, 0, 0, 0, 0, 0, 0, 1]].concat();
        let pack = FeedPack::decode(5, &seal_as(1, &payload)).unwrap();
        let FeedEntry { window, id, kind, at, .. } = pack.entries[0].1;
        assert_eq!((window, id), (WindowId(7), EventHash([9; 16])));
        assert_eq!((kind, at, pack.entries[0].0), (ChangeKind::Created, 1, 5));
    }
}
