//! The outcomes of rounds as status, history, metrics and logs name them.

use super::failure::ErrorKind;
use super::str_enum::str_enum;

/// How a round of a window ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoundOutcome {
    /// Every segment has a delta link and nothing pending.
    Settled,
    /// A mass removal waits for its confirmation; everything else is up to date.
    Held,
    /// It failed, or some series could not be completed.
    Failed(ErrorKind),
    /// The worker panicked or hung.
    Crashed,
}

str_enum! {
    /// How a segment is followed.
    pub enum SegmentMode {
        /// By delta links.
        Delta = "delta",
        /// Listed completely in every round.
        Snapshot = "snapshot",
    }
}

impl RoundOutcome {
    /// Every outcome that the metrics count under its own name.
    pub fn counted() -> impl Iterator<Item = Self> {
        [Self::Settled, Self::Held].into_iter().chain(ErrorKind::all().map(Self::Failed))
    }

    /// The word of the API and the metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Settled => "settled",
            Self::Held => "held",
            Self::Failed(kind) => kind.as_str(),
            Self::Crashed => "other",
        }
    }

    /// Whether the mirror is up to date afterwards, apart from what is held or incomplete.
    pub fn succeeded(self) -> bool {
        match self {
            Self::Settled | Self::Held | Self::Failed(ErrorKind::Incomplete) => true,
            Self::Failed(_) | Self::Crashed => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_outcome_has_a_unique_word() {
        let words: BTreeSet<&str> = RoundOutcome::counted().map(RoundOutcome::as_str).collect();
        assert_eq!(words.len(), RoundOutcome::counted().count());
        assert!(!words.contains(RoundOutcome::Crashed.as_str()));
    }
}
