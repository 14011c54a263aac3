//! A segment's position, as the store keeps it: the link to continue from and the pending entries.

use jiff::Timestamp;

use super::fallback::Fallback;
use super::page::{EventHash, EventId, Item, Link};
use super::stall::StallDetector;
use super::status::ResyncReason;

/// The number of a window in one store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WindowId(pub u32);

/// The number of a segment in its window, 0 to 63.
pub type SegmentIndex = u8;

/// A segment's position. Written in the same commit as the items that led to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Position {
    /// The phase of the round.
    pub phase: Phase,
    /// Whether pending entries exist. If not, an idle round does not scan for them.
    pub has_pending: bool,
    /// Set if a mass removal waits for its confirmation or a stream is stuck: the enumeration that
    /// follows starts no earlier than this, also after a restart. A requested round ends only the
    /// wait of a stuck stream.
    pub held_until: Option<Timestamp>,
    /// The stall counters of the current round.
    pub stall: StallDetector,
    /// How the segment is read where that differs from the configuration. Outlives the round.
    pub fallback: Fallback,
}

impl Position {
    /// A position without a hold, stall counters or a fallback.
    pub fn new(phase: Phase, has_pending: bool) -> Self {
        let (stall, fallback) = (StallDetector::default(), Fallback::default());
        Self { phase, has_pending, held_until: None, stall, fallback }
    }

    /// Whether a mass removal waits for its confirmation.
    pub fn is_held(&self) -> bool {
        self.held_until.is_some() && self.phase.enumeration_reason() == Some(ResyncReason::Confirm)
    }

    /// An enumeration from the first page, with the segment's fallback.
    pub fn start(reason: ResyncReason, fallback: Fallback) -> Self {
        Self { fallback, ..Self::new(Phase::start(reason), false) }
    }
}

/// The phase of a segment's round.
#[derive(Clone, Debug, PartialEq)]
pub enum Phase {
    /// Enumerating. A dead link leads back to `next: None`; after a transient failure the phase
    /// stays the same.
    Enumerating {
        /// The next page; `None` is the first.
        next: Option<Link>,
        /// Why this enumeration runs.
        reason: ResyncReason,
        /// Pages committed so far. Also the number of the next seen list.
        page: u32,
    },
    /// The enumeration's last page has arrived. Pending entries are processed, then the sweep runs.
    Sweeping {
        /// The link to continue from afterwards; `None` if the segment was listed.
        delta: Option<Link>,
        /// Why the enumeration ran.
        reason: ResyncReason,
    },
    /// Nothing to do until the next round is due.
    Settled {
        /// The link the next round starts from; `None` if that round lists the segment completely.
        delta: Option<Link>,
    },
    /// Between two pages of an incremental round.
    Following {
        /// The next page.
        next: Link,
    },
    /// The incremental round's delta link has arrived. Pending entries are being processed.
    Completing {
        /// The link to continue from afterwards.
        delta: Link,
    },
}

impl Phase {
    /// The phase before the first request.
    pub fn start(reason: ResyncReason) -> Self {
        Self::Enumerating { next: None, reason, page: 0 }
    }

    /// Whether a round begins in this phase: none of its pages has arrived yet.
    pub fn starts_round(&self) -> bool {
        matches!(self, Self::Settled { .. } | Self::Enumerating { next: None, .. })
    }

    /// The reason of the enumeration that the phase belongs to, if it belongs to one.
    pub fn enumeration_reason(&self) -> Option<ResyncReason> {
        match self {
            Self::Enumerating { reason, .. } | Self::Sweeping { reason, .. } => Some(*reason),
            _ => None,
        }
    }
}

/// One entry of a segment's pending work. Its key in the store is (kind, hashes), so adding it a
/// second time has no effect.
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
    /// An item that waits until its series is complete; not yet shown to readers.
    Waiting {
        /// The item as the page carried it. If `master` is not set, it waits under its own id.
        item: Item,
        /// Whether an earlier round carried it and could not complete the series. A current
        /// listing then takes precedence.
        earlier: bool,
    },
    /// A removal, published at the end of the round.
    Removal {
        /// The event that leaves.
        id: EventHash,
    },
}

/// Identifies a [`PendingEntry`] without its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PendingKey {
    /// For [`PendingEntry::Series`]: the master.
    Series(EventHash),
    /// For [`PendingEntry::Waiting`]: the master, then the item.
    Waiting(EventHash, EventHash),
    /// For [`PendingEntry::Removal`]: the event that leaves.
    Removal(EventHash),
}

impl PendingEntry {
    /// The key of the entry in the store.
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
