//! The protocol between a round and its caller: a [`Step`] asks for something, a [`RoundInput`]
//! brings its result.

use std::time::Duration;

use super::removals::Retain;
use crate::mirror::commit::{Commit, Removal, StoredKinds};
use crate::mirror::fallback::StallKind;
use crate::mirror::page::{EventId, Item, Link, Page};
use crate::mirror::series::{
    ListedInstances, ListedSeries, PresenceRequest, SeriesMember, ViewRequest,
};

/// The result of an effect.
#[derive(Debug)]
pub enum RoundInput {
    /// No effect yet: returns the first one.
    Start,
    /// The requested page, and what the store knows of the ids from
    /// [`Round::ids_to_look_up`](super::Round::ids_to_look_up).
    Page {
        /// The page.
        page: Page,
        /// The stored kinds, by id.
        known: StoredKinds,
        /// How long the response took, without our own waits.
        took: Duration,
    },
    /// The page cannot be fetched in this attempt.
    Failed(PageFailure),
    /// The requested master; `None` if it does not exist.
    Master(Option<Item>),
    /// A series' instances (all pages) and the mirror's rows of it; `None` if the series is not
    /// found.
    Instances(Option<ListedSeries>),
    /// The mirror's rows of a series whose master is not found, or is no longer a master.
    SeriesRows(Vec<SeriesMember>),
    /// A series' instances in a plain `calendarView`, and the mirror's rows of it.
    Viewed(ListedInstances, Vec<SeriesMember>),
    /// Whether any of the requested events exist.
    Presence(bool),
    /// A request about a series failed for now.
    Unavailable,
    /// The rows that the sweep found.
    Unseen(Vec<Removal>),
    /// The other segments have run, as far as they could.
    SegmentsDone {
        /// What may have moved to a segment that did not complete: its removal stays pending.
        retain: Retain,
        /// Events removed from the window in this attempt, in all segments.
        removed: usize,
    },
    /// The commit is durable. The number of events that readers now see in the window.
    Committed(u64),
    /// The followed link is dead.
    LinkDead,
}

/// Why a page cannot be fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageFailure {
    /// It is over the size limit.
    TooLarge,
    /// It failed until the attempt's retries were spent, while the mailbox answered a small
    /// request.
    PageSpecific,
    /// Graph forbids the link, but not the calendar (fact 14): shared calendars cannot be followed.
    LinkForbidden,
    /// Something else.
    Other,
}

/// What a round does next.
#[derive(Debug)]
pub enum Step {
    /// Perform the effect, and step again with its result.
    Do(Effect),
    /// Events are about to be removed: run the other segments, then step with
    /// [`RoundInput::SegmentsDone`]. This may be done in a later attempt.
    AwaitSegments,
    /// The round has ended.
    End(RoundEnd),
    /// The last effect has failed for this attempt. If none did, the round does not end and every
    /// fallback was tried.
    Fail,
}

/// What the caller has to perform.
#[derive(Debug)]
pub enum Effect {
    /// Fetch a page of a delta round: by this link, or the first of an enumeration.
    Page(Option<Link>),
    /// Fetch a plain page, in snapshot mode: by this link, or the first.
    PlainPage(Option<Link>),
    /// Fetch a master by id.
    Master(EventId),
    /// List a series' instances and read the mirror's rows of it.
    Instances(EventId),
    /// Read the mirror's rows of a series whose master is not found, or is no longer a master.
    Rows(EventId),
    /// Find a series' instances in a plain `calendarView`, and read the mirror's rows of it.
    View(Box<ViewRequest>),
    /// Find out from a plain `calendarView` whether any of these exist: events in the segment, or
    /// instances of a series in the whole window. The answer must have been true at some time since
    /// the round's last page.
    Presence(Box<PresenceRequest>),
    /// Find the rows that are in no seen list.
    Unseen,
    /// Write the commit.
    Commit(Box<Commit>),
}

impl Effect {
    /// Whether the effect asks Graph which events exist. The other segments may not know the
    /// answer.
    pub fn asks_for_members(&self) -> bool {
        match self {
            Self::Page(_)
            | Self::PlainPage(_)
            | Self::Instances(_)
            | Self::View(_)
            | Self::Presence(_) => true,
            Self::Master(_) | Self::Rows(_) | Self::Unseen | Self::Commit(_) => false,
        }
    }
}

/// How a round that did not fail ended, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RoundEnd {
    /// The delta link is stored (or the segment is listed completely), and nothing is pending.
    Settled,
    /// The same, but some series could not be completed now.
    Incomplete,
    /// It would have been a mass removal; an enumeration will confirm it.
    Held,
    /// The stream is stuck; an enumeration with the next fallback will follow.
    Stuck(StallKind),
}
