//! A round as a state machine: state and input in, state and effect out.
//!
//! ```text
//! Enumerating --page+next--> Enumerating     --page+delta--> Sweeping --series done--> sweep --> Settled
//! Settled --due--> page --next--> Following  --page+delta--> Completing --series done--> Settled
//! any --link dead | stuck--> Enumerating     any --transient--> the same, later
//! ```
//!
//! In snapshot mode ([`Remedy::is_snapshot`]) every round is an enumeration, by plain pages that
//! end without a link to go on from.
//!
//! What is asked of Graph and of the store is an [`Effect`]; somebody else performs it and
//! comes back with an [`Input`]. Nothing is forgotten by a crash between the two: the state is
//! what the store holds (position and to-do), plus a memory of the masters this run has seen,
//! whose loss costs a request, never an event.
//!
//! A series is applied whole. In an incremental round everything that comes of a series waits in
//! the to-do until its master and its membership are at hand, and is then committed at once, so
//! that no reader sees half of a change. In an enumeration an occurrence waits only for its master.

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

/// A removal of fewer events than this is always believed.
pub const MASS_REMOVAL_MIN: usize = 20;
/// Whether so many events are too many to leave a window of so many at once.
pub fn is_mass_removal(leaving: usize, events: usize) -> bool {
    leaving >= MASS_REMOVAL_MIN && leaving.saturating_mul(2) > events
}

/// Rows that leave in one commit of a sweep.
const SWEEP_SLICE: usize = 256;

/// A round of one segment.
#[derive(Debug)]
pub struct Round {
    context: SegmentContext,
    phase: Phase,
    /// Masters that came in this run, with their etags.
    masters_seen: BTreeMap<EventHash, Option<Arc<str>>>,
    pending: PendingWork,
    /// Rows the sweep found, not yet removed.
    sweep: Option<Vec<Removal>>,
    /// Events of the window before any of this round's removals, and how many it has removed.
    events: u64,
    removed: usize,
    /// What must not leave, once the other segments have looked; none: they have not, since this
    /// one asked Graph for the last time.
    retained: Option<Retain>,
    /// Events that other segments have removed in this attempt.
    removed_elsewhere: usize,
    /// Whether the sweep's removals have been judged.
    removal_approved: bool,
    /// Removals that a listing found and no tombstone: a later listing may take them back.
    listed_out: BTreeSet<EventHash>,
    /// What to do once the commit under way is durable.
    after_commit: AfterCommit,
    /// See [`Position::held_until`].
    held_until: Option<Timestamp>,
    /// See [`Position::guard`].
    stall: StallDetector,
    /// The ids that this run's pages named.
    ids_seen: BTreeSet<EventHash>,
    /// See [`Position::remedy`].
    fallback: Fallback,
}

/// Which segment of which window, and how it is kept.
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
    /// How long a removal too large to believe waits for its confirmation, and a stuck stream
    /// for its next remedy.
    pub confirm_after: SignedDuration,
    /// Whether the window has other segments. What leaves this one may have moved over the seam
    /// into another: then nothing leaves before [`Input::Withheld`], when everything else of the
    /// round is durable, so that whoever performs the effects can have the others look first.
    pub seams: bool,
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

/// What came of an effect.
#[derive(Debug)]
pub enum RoundInput {
    /// Nothing yet: what is first?
    Start,
    /// The page that was asked for, and what the store knows of the ids of
    /// [`Round::questions`].
    Page {
        /// The page.
        page: Page,
        /// By id.
        known: BTreeMap<EventHash, StoredKind>,
        /// How long the answer took, waits of our own not counted.
        took: Duration,
    },
    /// The page cannot be had in this attempt.
    Failed(PageFailure),
    /// A master, or that it is no more.
    Master(Option<Item>),
    /// A series' instances (all pages) and the mirror's rows of it; or that the series is not found.
    Instances(Option<(ListedInstances, Vec<SeriesMember>)>),
    /// The mirror's rows of a series whose master is not found, or is no master any more.
    SeriesGone(Vec<SeriesMember>),
    /// What a plain `calendarView` said of a series, and the mirror's rows of it.
    Viewed(ListedInstances, Vec<SeriesMember>),
    /// Whether there are any of the events that were asked for.
    Presence(bool),
    /// What was asked about a series cannot be had now.
    Unavailable,
    /// What the sweep found.
    Unseen(Vec<Removal>),
    /// The other segments have looked, as far as they could.
    Retained {
        /// What may have moved to where one could not look: it stays on the to-do.
        stay: Retain,
        /// Events that have left the window in this attempt, other segments' among them.
        gone: usize,
    },
    /// The commit is durable; events that readers now see in the window.
    Committed(u64),
    /// The link that was followed is dead.
    LinkDead,
}

/// What does not leave in this run.
#[derive(Debug)]
pub enum Retain {
    /// These.
    Named(BTreeSet<EventHash>),
    /// Nothing leaves.
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

/// Why a page cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageFailure {
    /// It is over the cap.
    TooLarge,
    /// It failed until nothing was left of the attempt's retries, while the mailbox answered a
    /// small request.
    Refused,
    /// Something else.
    Other,
}

/// What comes next: something to do, or the end of the round.
#[derive(Debug)]
pub enum Step {
    /// Perform the effect, and step again with its result.
    Do(Effect),
    /// The round is over.
    End(RoundEnd),
}

/// What has to be done next.
#[derive(Debug)]
pub enum Effect {
    /// Ask for a page of a delta round: from this link, or the first of an enumeration.
    Page(Option<Link>),
    /// Ask for a page of the plain listing: from this link, or the first.
    Listing(Option<Link>),
    /// Get a master by id.
    Master(EventId),
    /// List a series' instances and read the mirror's rows of it.
    Instances(EventId),
    /// Read the mirror's rows of a series whose master is not found, or is no master any more.
    Rows(EventId),
    /// Ask a plain `calendarView` about a series, and read the mirror's rows of it.
    View(Box<ViewRequest>),
    /// Ask a plain `calendarView` whether it has any of these: in the segment, or instances of a
    /// series in the whole window. An answer that was true at some time since the round's last
    /// page will do.
    Presence(Box<PresenceRequest>),
    /// Find the rows that no seen list contains.
    Unseen,
    /// Events are to leave: have the other segments look. Nothing is lost if this comes first in
    /// another attempt.
    AwaitSegments,
    /// Write.
    Commit(Box<Commit>),
}

impl Effect {
    /// Whether Graph is asked which events exist. What it answers, the other segments may not know.
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
    /// Delta link stored (or listed whole), to-do empty.
    Settled,
    /// The same, but some series could not be completed now.
    Incomplete,
    /// It would have removed too much to be believed; an enumeration will confirm.
    Held,
    /// The stream is stuck; an enumeration by other means will follow.
    Stuck(StallKind),
    /// What failed last has failed for this attempt; where nothing did, the round would not end
    /// and every remedy was tried.
    Failed,
}

impl Round {
    /// Takes a segment up where the store left it. `events`: what readers see of the window now.
    pub fn resume(
        place: SegmentContext,
        position: Option<Position>,
        todo: Vec<PendingEntry>,
        events: u64,
    ) -> Self {
        let Position { phase, held_until, stall: guard, fallback: remedy, .. } =
            position.unwrap_or_else(|| Position::new(Phase::start(ResyncReason::New), false));
        let todo = PendingWork::load(todo);
        // Tombstones do not outlive their round.
        let listed_out = match phase {
            Phase::Settled { .. } => todo.removals().clone(),
            _ => BTreeSet::new(),
        };
        Self {
            context: place,
            phase,
            masters_seen: BTreeMap::new(),
            pending: todo,
            listed_out,
            sweep: None,
            retained: None,
            removed_elsewhere: 0,
            events,
            removed: 0,
            removal_approved: false,
            after_commit: AfterCommit::Continue,
            held_until,
            stall: guard,
            ids_seen: BTreeSet::new(),
            fallback: remedy,
        }
    }

    /// Ends the wait for the next remedy of a stuck stream: a round was requested. The
    /// confirmation of a removal is not hurried.
    pub fn skip_wait(&mut self) {
        let stuck = [Some(ResyncReason::RoundStuck), Some(ResyncReason::PageStuck)];
        if stuck.contains(&self.phase.enumeration_reason()) {
            self.held_until = None;
        }
    }

    /// How the segment is asked for, as far as that is not as configured.
    pub fn fallback(&self) -> &Fallback {
        &self.fallback
    }

    /// Whether this run asks for plain pages.
    fn is_listing(&self) -> bool {
        self.fallback.is_snapshot()
            && self.phase.enumeration_reason() != Some(ResyncReason::DeltaRetry)
    }

    /// The ids of a page that the store must be asked about before the page is stepped.
    pub fn ids_to_look_up(&self, page: &Page) -> Vec<EventHash> {
        let mut ids: Vec<EventHash> = page.removed.iter().map(EventId::hash).collect();
        // Nothing can have changed its kind before it was first seen, on an earlier page at least.
        if !matches!(self.phase, Phase::Enumerating { reason: ResyncReason::New, page: 0, .. }) {
            let may_have_changed =
                |item: &&Item| matches!(item.kind, EventKind::Single | EventKind::Master);
            ids.extend(page.present.iter().filter(may_have_changed).map(|i| i.id.hash()));
        }
        if self.is_listing() && self.context.complete == Completion::Master {
            // A listing brings no masters: whether the stored ones still hold, their etags tell.
            let masters = page.present.iter().filter_map(|item| item.master.as_ref());
            ids.extend(masters.map(EventId::hash));
            ids.sort_unstable();
            ids.dedup();
        }
        ids
    }

    /// One step. `at` is the wall-clock time that changes carry.
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
                    AfterCommit::Stall(ailment) => Step::End(RoundEnd::Stuck(ailment)),
                    AfterCommit::Fail => Step::End(RoundEnd::Failed),
                    AfterCommit::Settle if !self.pending.has_series() => {
                        Step::End(RoundEnd::Settled)
                    }
                    AfterCommit::Settle => Step::End(RoundEnd::Incomplete),
                }
            }
            // Whoever confirms a removal goes on confirming it, and a trial is still one.
            RoundInput::LinkDead => match self.phase.enumeration_reason() {
                Some(reason @ (ResyncReason::Confirm | ResyncReason::DeltaRetry)) => {
                    self.restart(reason, at)
                }
                _ => self.restart(ResyncReason::SyncStateNotFound, at),
            },
        };
        if matches!(&step, Step::Do(effect) if effect.asks_for_members()) {
            // What is learned now the others may not know.
            self.retained = None;
        }
        (self, step)
    }

    /// Whether the other segments have to look before anything leaves.
    fn waits_for_segments(&self) -> bool {
        self.context.seams && self.retained.is_none()
    }

    /// Begins the enumeration anew. Rows stay: readers go on seeing the last good mirror.
    fn restart(&mut self, reason: ResyncReason, at: Timestamp) -> Step {
        self.masters_seen.clear();
        self.listed_out.clear();
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
        // Ordinary life in snapshot mode is no resync.
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
                // What an earlier round left is worked off before Graph is asked again.
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
                // The first enumeration found an empty mirror: there is nothing to sweep, and no
                // list of what it saw.
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
