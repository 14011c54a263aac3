//! Decides which removals a round may publish.
//!
//! Two rules delay a removal. An event that leaves a segment may have moved over a segment boundary,
//! so the window's other segments run first, and what may have moved to one that did not complete
//! stays. And a mass removal needs a confirmation.

use std::collections::BTreeSet;

use crate::mirror::page::EventHash;

/// A removal of fewer events than this needs no confirmation.
pub const MASS_REMOVAL_MIN: usize = 20;

/// Whether `leaving` of `events` events are so many that their removal needs a confirmation.
pub fn is_mass_removal(leaving: usize, events: usize) -> bool {
    leaving >= MASS_REMOVAL_MIN && leaving.saturating_mul(2) > events
}

/// What this attempt must not remove.
#[derive(Debug)]
pub enum Retain {
    /// These events.
    Named(BTreeSet<EventHash>),
    /// All events.
    All,
}

/// Whether the window's other segments have run since this one's last request for members.
#[derive(Debug)]
enum OtherSegments {
    /// The window has no other segments.
    None,
    /// They have not run.
    Awaited,
    /// They have run, as far as they could.
    Done(Retain),
}

/// What a round has removed, and what it may remove. It outlives every restart of the round.
#[derive(Debug)]
pub(super) struct RemovalCheck {
    /// Events of the window before any of this round's removals.
    events: u64,
    /// Events that this round has removed; a series that ended counts as one.
    removed: usize,
    /// Events that other segments have removed in this attempt.
    removed_elsewhere: usize,
    others: OtherSegments,
}

impl RemovalCheck {
    /// The check of a round that begins while readers see `events` events in the window.
    pub(super) fn new(events: u64, has_other_segments: bool) -> Self {
        let others = if has_other_segments { OtherSegments::Awaited } else { OtherSegments::None };
        Self { events, removed: 0, removed_elsewhere: 0, others }
    }

    /// A commit is durable, and readers now see `events` events in the window.
    pub(super) fn committed(&mut self, events: u64) {
        if self.removed == 0 {
            self.events = events;
        }
    }

    /// Counts events that are removed before the end of the round.
    pub(super) fn count(&mut self, removed: usize) {
        self.removed += removed;
    }

    /// The other segments have run; `removed` events were removed in this attempt, in all segments.
    pub(super) fn others_done(&mut self, retain: Retain, removed: usize) {
        self.others = OtherSegments::Done(retain);
        self.removed_elsewhere = removed.saturating_sub(self.removed);
    }

    /// The segment asks which events exist. The other segments may not know the answer, so they
    /// have to run again.
    pub(super) fn members_requested(&mut self) {
        if let OtherSegments::Done(_) = self.others {
            self.others = OtherSegments::Awaited;
        }
    }

    /// Whether the other segments have to run before anything is removed.
    pub(super) fn awaits_segments(&self) -> bool {
        matches!(self.others, OtherSegments::Awaited)
    }

    /// Whether the removal of this event stays pending.
    pub(super) fn retains(&self, id: &EventHash) -> bool {
        match &self.others {
            OtherSegments::Done(Retain::All) => true,
            OtherSegments::Done(Retain::Named(ids)) => ids.contains(id),
            OtherSegments::None | OtherSegments::Awaited => false,
        }
    }

    /// Whether `more` removals need a confirmation. Judged for the whole window, by its size before
    /// this attempt removed anything in any segment.
    pub(super) fn is_mass(&self, more: usize) -> bool {
        let events = usize::try_from(self.events).unwrap_or(usize::MAX) + self.removed_elsewhere;
        more > 0 && is_mass_removal(self.removed + self.removed_elsewhere + more, events)
    }
}
