//! Where a segment stands, as the store keeps it: the link to go on from and the to-do.

use jiff::Timestamp;

use super::fallback::Fallback;
use super::page::{EventHash, EventId, Item, Link};
use super::stall::StallDetector;
use super::status::ResyncReason;

/// Number of a window inside one store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WindowId(pub u32);

/// Number of a segment inside its window, 0 to 63.
pub type SegmentIndex = u8;

/// A segment's position: written in the same commit as the items that led to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Position {
    /// Where the round stands.
    pub phase: Phase,
    /// Whether to-do entries exist (an idle round then needs no scan for them).
    pub has_pending: bool,
    /// A removal too large to believe is being confirmed, or a stream got stuck: the enumeration
    /// that follows begins no sooner than this, whoever asks and however often the process starts.
    pub held_until: Option<Timestamp>,
    /// What the round under way has brought so far.
    pub stall: StallDetector,
    /// How the segment is asked for, where that is not as configured. Outlives the round.
    pub fallback: Fallback,
}

impl Position {
    /// A position that nothing holds.
    pub fn new(phase: Phase, todo: bool) -> Self {
        let (guard, remedy) = (StallDetector::default(), Fallback::default());
        Self { phase, has_pending: todo, held_until: None, stall: guard, fallback: remedy }
    }

    /// Whether a removal too large to believe waits for its confirmation.
    pub fn is_held(&self) -> bool {
        self.held_until.is_some() && self.phase.enumeration() == Some(ResyncReason::Confirm)
    }

    /// An enumeration from the first page; what is remembered of the segment stays.
    pub fn start(reason: ResyncReason, remedy: Fallback) -> Self {
        Self { fallback: remedy, ..Self::new(Phase::start(reason), false) }
    }
}

/// What comes next for a segment.
#[derive(Clone, Debug, PartialEq)]
pub enum Phase {
    /// Enumerating: `next` is the page to ask for, none meaning the first. A dead link leads
    /// back to `next: None`; anything transient stays here.
    Enumerating {
        /// The next page.
        next: Option<Link>,
        /// Why this enumeration runs.
        reason: ResyncReason,
        /// Pages committed so far: also the number of the next seen list.
        page: u32,
    },
    /// The enumeration's last page came; its to-do is worked off, then the sweep.
    Sweeping {
        /// The link to go on from afterwards; none where the segment is listed.
        delta: Option<Link>,
        /// Why the enumeration ran.
        reason: ResyncReason,
    },
    /// Nothing to do until the next round is due.
    Settled {
        /// Where it starts; none where it lists the segment whole.
        delta: Option<Link>,
    },
    /// Between two pages of an incremental round.
    Following {
        /// The next page.
        next: Link,
    },
    /// The incremental round's delta link came; its to-do is being worked off.
    Completing {
        /// The link to go on from afterwards.
        delta: Link,
    },
}

impl Phase {
    /// The phase before anything was asked.
    pub fn start(reason: ResyncReason) -> Self {
        Self::Enumerating { next: None, reason, page: 0 }
    }

    /// Whether a round begins here: nothing it will be told was said before.
    pub fn begins(&self) -> bool {
        matches!(self, Self::Settled { .. } | Self::Enumerating { next: None, .. })
    }

    /// Whether this belongs to an enumeration, and why that runs.
    pub fn enumeration(&self) -> Option<ResyncReason> {
        match self {
            Self::Enumerating { reason, .. } | Self::Sweeping { reason, .. } => Some(*reason),
            _ => None,
        }
    }
}

/// One thing a segment still has to do. Its key in the store is (kind, hashes), so that adding
/// twice is adding once.
#[derive(Clone, Debug, PartialEq)]
pub enum PendingEntry {
    /// A series was touched in this round.
    Series {
        /// Its master.
        master: EventId,
        /// Its master must be fetched by id.
        needs_master: bool,
        /// Its membership must be confirmed by listing its instances.
        needs_listing: bool,
    },
    /// An occurrence or exception waits for what completes it; not yet shown to anybody.
    Waiting {
        /// As the page carried it. `master` is set.
        item: Item,
        /// Whether that was in an earlier round, which could not complete the series: what is
        /// listed today knows better.
        earlier: bool,
    },
    /// A tombstone, published with the round's delta link.
    Removal {
        /// What leaves.
        id: EventHash,
    },
}

/// Names a [`Todo`] without its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PendingKey {
    /// Of [`Todo::Series`]: the master.
    Series(EventHash),
    /// Of [`Todo::Waiting`]: the master, the instance.
    Waiting(EventHash, EventHash),
    /// Of [`Todo::Removal`]: what leaves.
    Removal(EventHash),
}

impl PendingEntry {
    /// The key under which it is kept.
    pub fn key(&self) -> PendingKey {
        match self {
            Self::Series { master, .. } => PendingKey::Series(master.hash()),
            Self::Waiting { item, .. } => {
                let master = item.master.as_ref().unwrap_or(&item.id);
                PendingKey::Waiting(master.hash(), item.id.hash())
            }
            Self::Removal { id } => PendingKey::Removal(*id),
        }
    }
}
