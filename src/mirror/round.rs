//! A round as a pure state machine: takes a state and an input, returns a state and an effect.
//!
//! ```text
//! Enumerating --page+next--> Enumerating     --page+delta--> Sweeping --series done--> sweep --> Settled
//! Settled --due--> page --next--> Following  --page+delta--> Completing --series done--> Settled
//! any --link dead | stuck--> Enumerating     any --transient--> the same, later
//! ```
//!
//! In snapshot mode ([`Fallback::is_snapshot`]) every round is an enumeration by plain pages, which
//! end without a delta link.
//!
//! Requests to Graph and to the store are [`Effect`]s. The caller performs them and returns a
//! [`RoundInput`]. A crash between the two loses nothing: the state is what the store holds
//! (position and pending entries), plus the masters seen in this run. Losing those costs a request,
//! never an event.
//!
//! A series is applied as a whole. In an incremental round all items of a series stay pending until
//! its master and its membership are known, and are then written in one commit, so that no reader
//! sees half of a change. In an enumeration an occurrence waits only for its master.

mod absence;
mod completion;
mod finish;
mod page_handler;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::change::RemovalReason;
use super::clock;
use super::commit::{Commit, Removal, StoredKind};
use super::fallback::{Fallback, StallKind};
use super::page::{EventHash, EventId, EventKind, Item, Link, Page};
use super::pending::PendingWork;
use super::position::{PendingEntry, Phase, Position, SegmentIndex, WindowId};
use super::series::{ListedInstances, PresenceRequest, SeriesMember, ViewRequest};
use super::stall::StallDetector;
use super::status::ResyncReason;
use super::window::{Completion, Edges};

/// A removal of fewer events than this needs no confirmation.
pub const MASS_REMOVAL_MIN: usize = 20;
/// Whether `leaving` of `events` events are so many that their removal needs a confirmation.
pub fn is_mass_removal(leaving: usize, events: usize) -> bool {
    leaving >= MASS_REMOVAL_MIN && leaving.saturating_mul(2) > events
}

/// Rows removed in one commit of a sweep.
const SWEEP_SLICE: usize = 256;

/// A round of one segment.
#[derive(Debug)]
pub struct Round {
    context: SegmentContext,
    phase: Phase,
    /// Masters that this run has received, with their etags.
    masters_seen: BTreeMap<EventHash, Option<Arc<str>>>,
    pending: PendingWork,
    /// Rows the sweep found, not yet removed.
    sweep: Option<Vec<Removal>>,
    /// Events of the window before any of this round's removals.
    events: u64,
    /// Events that this round has removed; a series that ended counts as one.
    removed: usize,
    /// What must not be removed, known once the other segments have run. `None`: they have not run
    /// since this segment's last request for members.
    retained: Option<Retain>,
    /// Events that other segments have removed in this attempt.
    removed_elsewhere: usize,
    /// Whether the sweep's removals have passed the check for a mass removal.
    removal_approved: bool,
    /// Removals found by a listing and not by a tombstone. A later listing may cancel them.
    removed_by_listing: BTreeSet<EventHash>,
    /// What follows the commit under way.
    after_commit: AfterCommit,
    /// See [`Position::held_until`].
    held_until: Option<Timestamp>,
    /// See [`Position::stall`].
    stall: StallDetector,
    /// The ids on this run's pages.
    ids_seen: BTreeSet<EventHash>,
    /// See [`Position::fallback`].
    fallback: Fallback,
}

/// A segment of a window, and the settings of its rounds.
#[derive(Clone, Debug)]
pub struct SegmentContext {
    /// The window.
    pub window: WindowId,
    /// The segment.
    pub segment: SegmentIndex,
    /// The segment's edges.
    pub edges: Edges,
    /// How occurrences are completed.
    pub complete: Completion,
    /// How long a mass removal waits for its confirmation, and a stuck stream for its next
    /// fallback.
    pub confirm_after: SignedDuration,
    /// Whether the window has other segments. An event that leaves this segment may have moved over
    /// a segment boundary into another. So nothing is removed before [`RoundInput::Retained`],
    /// which follows when everything else of the round is durable and the other segments have run.
    pub has_other_segments: bool,
    /// The configured page size.
    pub page_size: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AfterCommit {
    Continue,
    Settle,
    Hold,
    Stall(StallKind),
    Fail,
}

/// The result of an effect.
#[derive(Debug)]
pub enum RoundInput {
    /// No effect yet: returns the first one.
    Start,
    /// The requested page, and what the store knows of the ids from [`Round::ids_to_look_up`].
    Page {
        /// The page.
        page: Page,
        /// The stored kinds, by id.
        known: BTreeMap<EventHash, StoredKind>,
        /// How long the response took, without our own waits.
        took: Duration,
    },
    /// The page cannot be fetched in this attempt.
    Failed(PageFailure),
    /// The requested master; `None` if it does not exist.
    Master(Option<Item>),
    /// A series' instances (all pages) and the mirror's rows of it; `None` if the series is not
    /// found.
    Instances(Option<(ListedInstances, Vec<SeriesMember>)>),
    /// The mirror's rows of a series whose master is not found, or is no longer a master.
    SeriesGone(Vec<SeriesMember>),
    /// A series' instances in a plain `calendarView`, and the mirror's rows of it.
    Viewed(ListedInstances, Vec<SeriesMember>),
    /// Whether any of the requested events exist.
    Presence(bool),
    /// A request about a series failed for now.
    Unavailable,
    /// The rows that the sweep found.
    Unseen(Vec<Removal>),
    /// The other segments have run, as far as they could.
    Retained {
        /// What may have moved to a segment that did not complete: its removal stays pending.
        stay: Retain,
        /// Events removed from the window in this attempt, in all segments.
        gone: usize,
    },
    /// The commit is durable. The number of events that readers now see in the window.
    Committed(u64),
    /// The followed link is dead.
    LinkDead,
}

/// What this run must not remove.
#[derive(Debug)]
pub enum Retain {
    /// These events.
    Named(BTreeSet<EventHash>),
    /// All events.
    All,
}

impl Retain {
    fn has(&self, id: &EventHash) -> bool {
        match self {
            Self::Named(ids) => ids.contains(id),
            Self::All => true,
        }
    }
}

/// Why a page cannot be fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageFailure {
    /// It is over the size limit.
    TooLarge,
    /// It failed until the attempt's retries were spent, while the mailbox answered a small
    /// request.
    Refused,
    /// Something else.
    Other,
}

/// The next step: an effect to perform, or the end of the round.
#[derive(Debug)]
pub enum Step {
    /// Perform the effect, and step again with its result.
    Do(Effect),
    /// The round is over.
    End(RoundEnd),
}

/// What the caller has to perform.
#[derive(Debug)]
pub enum Effect {
    /// Fetch a page of a delta round: by this link, or the first of an enumeration.
    Page(Option<Link>),
    /// Fetch a page of the plain listing: by this link, or the first.
    Listing(Option<Link>),
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
    /// Events are about to be removed: run the other segments first. This may be done in a later
    /// attempt.
    AwaitSegments,
    /// Write the commit.
    Commit(Box<Commit>),
}

impl Effect {
    /// Whether the effect asks Graph which events exist. The other segments may not know the
    /// answer.
    pub fn asks_for_members(&self) -> bool {
        match self {
            Self::Page(_)
            | Self::Listing(_)
            | Self::Instances(_)
            | Self::View(_)
            | Self::Presence(_) => true,
            Self::Master(_)
            | Self::Rows(_)
            | Self::Unseen
            | Self::AwaitSegments
            | Self::Commit(_) => false,
        }
    }
}

/// How a round ended, best first.
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
    /// The last effect has failed for this attempt. If none did, the round does not end and every
    /// fallback was tried.
    Failed,
}

impl Round {
    /// Resumes a segment where the store left it. `events` is the number of events that readers see
    /// in the window now.
    pub fn resume(
        context: SegmentContext,
        position: Option<Position>,
        pending: Vec<PendingEntry>,
        events: u64,
    ) -> Self {
        let Position { phase, held_until, stall, fallback, .. } =
            position.unwrap_or_else(|| Position::new(Phase::start(ResyncReason::New), false));
        let pending = PendingWork::load(pending);
        // Tombstones do not outlive their round, so these removals are all from listings.
        let listed_out = match phase {
            Phase::Settled { .. } => pending.removals().clone(),
            _ => BTreeSet::new(),
        };
        Self {
            context,
            phase,
            masters_seen: BTreeMap::new(),
            pending,
            removed_by_listing: listed_out,
            sweep: None,
            retained: None,
            removed_elsewhere: 0,
            events,
            removed: 0,
            removal_approved: false,
            after_commit: AfterCommit::Continue,
            held_until,
            stall,
            ids_seen: BTreeSet::new(),
            fallback,
        }
    }

    /// Ends the wait for a stuck stream's next fallback, because a round was requested. The wait
    /// for the confirmation of a removal stays.
    pub fn skip_wait(&mut self) {
        let stuck = [Some(ResyncReason::RoundStuck), Some(ResyncReason::PageStuck)];
        if stuck.contains(&self.phase.enumeration_reason()) {
            self.held_until = None;
        }
    }

    /// How the requests for the segment differ from the configured ones.
    pub fn fallback(&self) -> &Fallback {
        &self.fallback
    }

    /// Whether this run fetches plain pages.
    fn is_listing(&self) -> bool {
        self.fallback.is_snapshot()
            && self.phase.enumeration_reason() != Some(ResyncReason::DeltaRetry)
    }

    /// The ids of a page that the caller must look up in the store before it steps with the page.
    pub fn ids_to_look_up(&self, page: &Page) -> Vec<EventHash> {
        let mut ids: Vec<EventHash> = page.removed.iter().map(EventId::hash).collect();
        // On the first page of the first enumeration no event can have changed its kind.
        if !matches!(self.phase, Phase::Enumerating { reason: ResyncReason::New, page: 0, .. }) {
            let may_have_changed =
                |item: &&Item| matches!(item.kind, EventKind::Single | EventKind::Master);
            ids.extend(page.present.iter().filter(may_have_changed).map(|i| i.id.hash()));
        }
        if self.is_listing() && self.context.complete == Completion::Master {
            // A listing has no masters. Their etags show whether the stored ones are current.
            let masters = page.present.iter().filter_map(|item| item.master.as_ref());
            ids.extend(masters.map(EventId::hash));
            ids.sort_unstable();
            ids.dedup();
        }
        ids
    }

    /// Takes one step. `at` is the wall-clock time of its changes.
    pub fn step(mut self, input: RoundInput, at: Timestamp) -> (Self, Step) {
        let step = match input {
            RoundInput::Start => self.next_effect(at),
            RoundInput::Page { page, known, took } => {
                if self.stall.observe(&page, took, &mut self.ids_seen) {
                    self.next_fallback(StallKind::NoProgress, at)
                } else {
                    self.page(page, &known, at)
                }
            }
            RoundInput::Failed(failure) => self.on_page_failure(failure, at),
            RoundInput::Master(found) => self.master(found, at),
            RoundInput::Instances(found) => self.instances(found, at),
            RoundInput::SeriesGone(rows) => self.gone(rows, at),
            RoundInput::Viewed(listed, rows) => self.viewed(listed, rows, at),
            RoundInput::Presence(present) => self.present(present, at),
            RoundInput::Unavailable => self.unavailable(at),
            RoundInput::Unseen(rows) => {
                self.sweep = Some(rows);
                self.next_effect(at)
            }
            RoundInput::Retained { stay, gone } => {
                self.retained = Some(stay);
                self.removed_elsewhere = gone.saturating_sub(self.removed);
                self.next_effect(at)
            }
            RoundInput::Committed(events) => {
                if self.removed == 0 {
                    self.events = events;
                }
                match self.after_commit {
                    AfterCommit::Continue => self.next_effect(at),
                    AfterCommit::Hold => Step::End(RoundEnd::Held),
                    AfterCommit::Stall(kind) => Step::End(RoundEnd::Stuck(kind)),
                    AfterCommit::Fail => Step::End(RoundEnd::Failed),
                    AfterCommit::Settle if !self.pending.has_series() => {
                        Step::End(RoundEnd::Settled)
                    }
                    AfterCommit::Settle => Step::End(RoundEnd::Incomplete),
                }
            }
            // A dead link does not change the reason of a confirmation or of a delta retry.
            RoundInput::LinkDead => match self.phase.enumeration_reason() {
                Some(reason @ (ResyncReason::Confirm | ResyncReason::DeltaRetry)) => {
                    self.restart(reason, at)
                }
                _ => self.restart(ResyncReason::SyncStateNotFound, at),
            },
        };
        if matches!(&step, Step::Do(effect) if effect.asks_for_members()) {
            // The other segments may not know what this request returns.
            self.retained = None;
        }
        (self, step)
    }

    /// Whether the other segments have to run before anything is removed.
    fn waits_for_segments(&self) -> bool {
        self.context.has_other_segments && self.retained.is_none()
    }

    /// Starts an enumeration from its first page. Rows stay, so readers keep seeing the last good
    /// state.
    fn restart(&mut self, reason: ResyncReason, at: Timestamp) -> Step {
        self.masters_seen.clear();
        self.removed_by_listing.clear();
        self.pending = PendingWork::default();
        self.sweep = None;
        self.removal_approved = false;
        self.held_until = None;
        self.phase = Phase::start(reason);
        self.stall = StallDetector::default();
        self.ids_seen.clear();
        let mut commit = self.commit(at);
        commit.clear_pending = true;
        commit.clear_seen = true;
        // A normal round in snapshot mode is not a resync.
        commit.counters.resync = Some(reason).filter(|r| *r != ResyncReason::Snapshot);
        Step::Do(Effect::Commit(Box::new(commit)))
    }

    fn next_effect(&mut self, at: Timestamp) -> Step {
        let longest = self.context.confirm_after;
        if self.held_until.is_some_and(|until| clock::wait_continues(until, longest, at)) {
            return Step::End(match self.phase.enumeration_reason() {
                Some(ResyncReason::RoundStuck) => RoundEnd::Stuck(StallKind::NoProgress),
                Some(ResyncReason::PageStuck) => RoundEnd::Stuck(StallKind::PageTooLarge),
                _ => RoundEnd::Held,
            });
        }
        self.held_until = None;
        match &self.phase {
            Phase::Enumerating { next, .. } if self.is_listing() => {
                Step::Do(Effect::Listing(next.clone()))
            }
            Phase::Enumerating { next, .. } => Step::Do(Effect::Page(next.clone())),
            Phase::Following { next } => Step::Do(Effect::Page(Some(next.clone()))),
            Phase::Settled { delta } => {
                let delta = delta.clone();
                // Work left by an earlier round is done before the next page is requested.
                match self.pending() {
                    Some(effect) => effect,
                    None if delta.is_some() => Step::Do(Effect::Page(delta)),
                    None if self.fallback.is_delta_due(at) => {
                        self.restart(ResyncReason::DeltaRetry, at)
                    }
                    // Nothing is written before the first page.
                    None => {
                        self.phase = Phase::start(ResyncReason::Snapshot);
                        Step::Do(Effect::Listing(None))
                    }
                }
            }
            Phase::Completing { .. } => match self.pending() {
                Some(effect) => effect,
                None => self.leave_and_settle(at),
            },
            Phase::Sweeping { reason, .. } => match (*reason, self.pending(), self.sweep.take()) {
                (_, Some(effect), sweep) => {
                    self.sweep = sweep;
                    effect
                }
                // The first enumeration found an empty mirror: there is nothing to sweep, and it
                // kept no seen list.
                (ResyncReason::New, None, _) => self.leave_and_settle(at),
                (_, None, None) => Step::Do(Effect::Unseen),
                (_, None, Some(rows)) => self.sweep_slice(rows, at),
            },
        }
    }

    fn finish(&mut self, mut commit: Commit) -> Step {
        commit.position = Some(self.position());
        Step::Do(Effect::Commit(Box::new(commit)))
    }

    fn position(&self) -> Position {
        Position {
            phase: self.phase.clone(),
            has_pending: !self.pending.is_empty(),
            held_until: self.held_until,
            stall: self.stall.clone(),
            fallback: self.fallback.clone(),
        }
    }

    fn commit(&self, at: Timestamp) -> Commit {
        let mut commit = Commit::new(self.context.window, self.context.segment, at);
        commit.position = Some(self.position());
        commit
    }
}

fn deleted(ids: impl IntoIterator<Item = EventHash>) -> Vec<Removal> {
    ids.into_iter().map(|id| Removal { id, reason: RemovalReason::Deleted }).collect()
}

#[cfg(test)]
mod tests;
