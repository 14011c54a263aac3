//! A checksum of all entries of the feed.

use super::{seal, unseal};
use crate::mirror::change::Seq;
use crate::store::error::TreeError;

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
