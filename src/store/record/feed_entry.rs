//! The entries of the feed, and a checksum of all of them.

use std::sync::Arc;

use super::{LAYOUT, RecordReader, seal, seal_as, text, unseal, unseal_up_to};
use crate::mirror::change::{ChangeKind, RemovalReason, Seq};
use crate::mirror::page::{EventHash, EventId};
use crate::mirror::position::WindowId;
use crate::store::error::TreeError;

/// The layout of an entry that says what changed, or what was removed.
const DETAILED: u8 = 2;
/// The layout of an entry with the start of its event; the rest is as in [`DETAILED`].
const PLACED: u8 = 3;

/// One entry of the feed. The content of the event is in its row.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::store) struct FeedEntry {
    pub(in crate::store) window: WindowId,
    pub(in crate::store) id: EventHash,
    pub(in crate::store) kind: ChangeKind,
    /// Microseconds.
    pub(in crate::store) at: i64,
    /// When the event starts, in microseconds: its row is found with one search. `None` for
    /// removals, and in older entries.
    pub(in crate::store) start: Option<i64>,
    /// What an update changed; `None` for other kinds, and for an update that 0.1 wrote.
    pub(in crate::store) update: Option<UpdateEntry>,
    /// Set for removals: the row no longer exists, and perhaps neither does the window.
    pub(in crate::store) gone: Option<TombstoneEntry>,
}

/// What the entry of an update says about it.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::store) struct UpdateEntry {
    /// The seq of the event's last change that was more than another version
    /// ([`EventDifference::Version`](crate::mirror::event::EventDifference::Version)).
    pub(in crate::store) essential: Seq,
    /// The names of the changed members, sorted.
    pub(in crate::store) changed: Vec<String>,
}

/// What a tombstone keeps of a removed event.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::store) struct TombstoneEntry {
    pub(in crate::store) reason: RemovalReason,
    pub(in crate::store) id: EventId,
    /// The window's name.
    pub(in crate::store) window: Arc<str>,
    /// A JSON object ([`event::summary`](crate::mirror::event::summary)); `None` if 0.1 wrote it.
    pub(in crate::store) summary: Option<String>,
}

impl FeedEntry {
    /// The seq of the event's last change that was more than another version. `seq` is the entry's
    /// own, which is also the answer if 0.1 wrote it.
    pub(in crate::store) fn essential(&self, seq: Seq) -> Seq {
        self.update.as_ref().map_or(seq, |update| update.essential)
    }

    /// The entry as a sealed value.
    pub(in crate::store) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        let kind = match (self.kind, self.gone.as_ref().map(|g| g.reason)) {
            (ChangeKind::Created, _) => 0,
            (ChangeKind::Updated, _) => 1,
            (ChangeKind::Removed, Some(RemovalReason::LeftWindow)) => 3,
            (ChangeKind::Removed, Some(RemovalReason::WindowDropped)) => 4,
            (ChangeKind::Removed, _) => 2,
        };
        out.push(kind);
        out.extend_from_slice(&self.window.0.to_be_bytes());
        out.extend_from_slice(&self.id.0);
        out.extend_from_slice(&self.at.to_be_bytes());
        let mut layout = LAYOUT;
        // An entry with a start has all details, and a removal has none.
        let placed =
            self.gone.is_none() && (self.kind == ChangeKind::Created || self.update.is_some());
        if let Some(start) = self.start.filter(|_| placed) {
            layout = PLACED;
            out.extend_from_slice(&start.to_be_bytes());
        }
        if let Some(gone) = &self.gone {
            text(&mut out, gone.id.as_str());
            text(&mut out, &gone.window);
            if let Some(summary) = &gone.summary {
                layout = DETAILED;
                text(&mut out, summary);
            }
        }
        if let Some(UpdateEntry { essential, changed }) = &self.update {
            layout = layout.max(DETAILED);
            out.extend_from_slice(&essential.to_be_bytes());
            for name in changed {
                text(&mut out, name);
            }
        }
        seal_as(layout, &out)
    }

    /// Reads what [`FeedEntry::encode`] wrote.
    pub(in crate::store) fn decode(value: &[u8]) -> Result<Self, TreeError> {
        let (layout, payload) = unseal_up_to(PLACED, value, "change")?;
        let mut input = RecordReader(payload);
        let entry = (|| {
            let code = input.u8()?;
            let window = WindowId(u32::from_be_bytes(input.array()?));
            let id = EventHash(input.array()?);
            let at = input.i64()?;
            let (kind, reason) = match code {
                0 => (ChangeKind::Created, None),
                1 => (ChangeKind::Updated, None),
                2 => (ChangeKind::Removed, Some(RemovalReason::Deleted)),
                3 => (ChangeKind::Removed, Some(RemovalReason::LeftWindow)),
                4 => (ChangeKind::Removed, Some(RemovalReason::WindowDropped)),
                _ => return None,
            };
            let start = if layout == PLACED { Some(input.i64()?) } else { None };
            let gone = match reason {
                Some(reason) => Some(TombstoneEntry {
                    reason,
                    id: EventId::new(input.text()?),
                    window: Arc::from(input.text()?),
                    summary: if layout == DETAILED { Some(input.text()?.to_owned()) } else { None },
                }),
                None => None,
            };
            let update = match kind {
                ChangeKind::Updated if layout >= DETAILED => {
                    let essential = input.u64()?;
                    let mut changed = Vec::new();
                    while !input.0.is_empty() {
                        changed.push(input.text()?.to_owned());
                    }
                    Some(UpdateEntry { essential, changed })
                }
                _ => None,
            };
            Some(Self { window, id, kind, at, start, update, gone })
        })();
        entry.ok_or(TreeError::Unknown("change"))
    }
}

/// A checksum of the changes in the feed: their number and the XOR of their mixed seqs.
///
/// Stored beside the last seq, away from the changes themselves, so that a hole in the feed shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::store) struct FeedChecksum {
    count: u64,
    mixed: u64,
}

impl FeedChecksum {
    /// Adds a change.
    pub(in crate::store) fn add(&mut self, seq: Seq) {
        self.count = self.count.wrapping_add(1);
        self.mixed ^= mix(seq);
    }

    /// Removes a change.
    pub(in crate::store) fn remove(&mut self, seq: Seq) {
        self.count = self.count.wrapping_sub(1);
        self.mixed ^= mix(seq);
    }

    /// Adds the additions and removals of another checksum.
    pub(in crate::store) fn merge(&mut self, other: Self) {
        self.count = self.count.wrapping_add(other.count);
        self.mixed ^= other.mixed;
    }

    /// The checksum as a sealed value.
    pub(in crate::store) fn encode(self) -> Vec<u8> {
        seal(&[self.count.to_be_bytes(), self.mixed.to_be_bytes()].concat())
    }

    /// Reads what [`FeedChecksum::encode`] wrote.
    pub(in crate::store) fn decode(value: &[u8]) -> Result<Self, TreeError> {
        match unseal(value, "sum")?.as_chunks::<8>() {
            ([count, mixed], []) => {
                Ok(Self { count: u64::from_be_bytes(*count), mixed: u64::from_be_bytes(*mixed) })
            }
            _ => Err(TreeError::Unknown("sum")),
        }
    }
}

/// Spreads a seq over all 64 bits (the finalizer of SplitMix64), so that sets that differ in a few
/// neighbouring seqs get different checksums.
fn mix(seq: Seq) -> u64 {
    let mut z = seq.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry() -> impl Strategy<Value = FeedEntry> {
        let names = prop::collection::vec("[a-z]{1,9}", 0..4);
        let update = (any::<u64>(), names)
            .prop_map(|(essential, changed)| UpdateEntry { essential, changed });
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
        (any::<(u32, [u8; 16], i64)>(), prop::option::of(any::<i64>()), details).prop_map(
            |((window, id, at), start, (kind, update, gone))| {
                // An update of this version has details, and a removal no start.
                let start = start.filter(|_| match kind {
                    ChangeKind::Created => true,
                    ChangeKind::Updated => update.is_some(),
                    ChangeKind::Removed => false,
                });
                let (window, id) = (WindowId(window), EventHash(id));
                FeedEntry { window, id, kind, at, start, update, gone }
            },
        )
    }

    proptest! {
        #[test]
        fn an_entry_reads_back(entry in entry()) {
            prop_assert_eq!(FeedEntry::decode(&entry.encode()).unwrap(), entry);
        }

        #[test]
        fn a_cut_entry_is_damage(entry in entry(), at in any::<prop::sample::Index>()) {
            let mut value = entry.encode();
            value.truncate(at.index(value.len()));
            prop_assert!(matches!(FeedEntry::decode(&value), Err(TreeError::Damaged("change"))));
        }
    }

    #[test]
    fn an_entry_of_0_1_is_written_byte_for_byte() {
        let (window, id) = (WindowId(7), EventHash([9; 16]));
        let kind = ChangeKind::Created;
        let entry = FeedEntry { window, id, kind, at: 1, start: None, update: None, gone: None };
        let payload = [&[0, 0, 0, 0, 7][..], &[9; 16], &[0, 0, 0, 0, 0, 0, 0, 1]].concat();
        assert_eq!(entry.encode(), seal(&payload));
    }
}
