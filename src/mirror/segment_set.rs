//! A set of segments of one window.

use super::position::SegmentIndex;

/// A set of segments. A window has at most 64, so it is one number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SegmentSet(u64);

impl SegmentSet {
    /// No segment.
    pub const EMPTY: Self = Self(0);

    /// One segment.
    pub const fn of(segment: SegmentIndex) -> Self {
        Self(1 << (segment & 63))
    }

    /// The set of which bit `n` stands for segment `n`, as the store keeps it.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Bit `n` stands for segment `n`.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Whether no segment is in the set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether the segment is in the set.
    pub const fn contains(self, segment: SegmentIndex) -> bool {
        self.0 & Self::of(segment).0 != 0
    }

    /// Adds a segment.
    pub const fn insert(&mut self, segment: SegmentIndex) {
        self.0 |= Self::of(segment).0;
    }

    /// Takes a segment out.
    pub const fn remove(&mut self, segment: SegmentIndex) {
        self.0 &= !Self::of(segment).0;
    }

    /// The segments of both sets.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The segments that are not in `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl FromIterator<SegmentIndex> for SegmentSet {
    fn from_iter<I: IntoIterator<Item = SegmentIndex>>(segments: I) -> Self {
        segments.into_iter().fold(Self::EMPTY, |mut set, segment| {
            set.insert(segment);
            set
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_inserted_and_removed() {
        let mut set: SegmentSet = [0, 5, 63].into_iter().collect();
        assert!(set.contains(0) && set.contains(63) && !set.contains(1));
        set.remove(5);
        assert_eq!(set, SegmentSet::from_bits(1 | 1 << 63));
        assert_eq!(set.without(SegmentSet::of(63)), SegmentSet::of(0));
        assert!(set.without(set).is_empty());
    }
}
