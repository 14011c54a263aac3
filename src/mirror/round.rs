//! A round as a pure state machine: takes a state and an input, returns a state and an effect.
//!
//! ```text
//! Enumerating --page+next--> Enumerating     --page+delta--> Sweeping --series done--> sweep --> Settled
//! Settled --due--> page --next--> Following  --page+delta--> Completing --series done--> Settled
//! any --link dead | stuck--> Enumerating     any --transient--> the same, later
//! ```
//!
//! In snapshot mode ([`Fallback::is_snapshot`]) every round is an enumeration by plain pages, which
//! end without a delta link. So is, without exception, every round of a calendar without delta
//! ([`SegmentContext::has_delta`]).
//!
//! Requests to Graph and to the store are [`Effect`]s. The caller performs them and returns a
//! [`RoundInput`]. A crash between the two loses no event: the state is what the store holds
//! (position and pending entries), plus what this attempt has seen and found so far and how many
//! events it has removed. The next attempt requests what it needs again.
//!
//! A series is applied as a whole. In an incremental round all items of a series stay pending until
//! its master and its membership are known, and are then written in one commit, so that no reader
//! sees half of a change. In an enumeration an occurrence waits only for its master.

mod absence;
mod completion;
mod finish;
mod page;
mod removals;
mod step;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::clock;
use super::commit::{Commit, Removal};
use super::fallback::{Fallback, StallKind};
use super::page::{EventHash, EventId, EventKind, Item, Page};
use super::pending::PendingWork;
use super::position::{PendingEntry, Phase, Position, SegmentIndex, WindowId};
use super::stall::StallDetector;
use super::status::ResyncReason;
use super::window::{Completion, Edges};

use removals::RemovalCheck;
pub use removals::{MASS_REMOVAL_MIN, Retain, is_mass_removal};
pub use step::{Effect, PageFailure, RoundEnd, RoundInput, Step};

/// A round of one segment.
#[derive(Debug)]
pub struct Round {
    context: SegmentContext,
    /// See [`Position::fallback`].
    fallback: Fallback,
    progress: Progress,
    removal_check: RemovalCheck,
    /// What follows the commit under way.
    after_commit: AfterCommit,
    /// The wall-clock time of the current step and of its changes.
    at: Timestamp,
}

/// How far a round is. A restart replaces all of it.
#[derive(Debug)]
struct Progress {
    phase: Phase,
    pending: PendingWork,
    /// Masters that this attempt has received, with their etags.
    masters_seen: BTreeMap<EventHash, Option<Arc<str>>>,
    /// The ids on this attempt's pages.
    ids_seen: BTreeSet<EventHash>,
    /// See [`Position::stall`].
    stall: StallDetector,
    /// See [`Position::held_until`].
    held_until: Option<Timestamp>,
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
    /// a segment boundary into another. So nothing except the rows of a series that is gone is
    /// removed before [`RoundInput::SegmentsDone`], which follows when everything else of the round is
    /// durable and the other segments have run.
    pub has_other_segments: bool,
    /// The configured page size.
    pub page_size: u32,
    /// Whether Graph reports changes of the calendar; if not, the segment is always in snapshot
    /// mode.
    pub has_delta: bool,
}

#[derive(Debug)]
enum AfterCommit {
    /// The next effect of the phase.
    Continue,
    /// The next slice of an approved sweep: these rows are still to be removed.
    Sweep(Vec<Removal>),
    /// The round ends.
    End(RoundEnd),
    /// The attempt fails.
    Fail,
}

impl Progress {
    /// The beginning of an enumeration.
    fn start(reason: ResyncReason) -> Self {
        Self::resume(Position::new(Phase::start(reason), false), PendingWork::default())
    }

    fn resume(position: Position, pending: PendingWork) -> Self {
        let Position { phase, held_until, stall, .. } = position;
        let (masters_seen, ids_seen) = (BTreeMap::new(), BTreeSet::new());
        Self { phase, pending, masters_seen, ids_seen, stall, held_until }
    }
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
        let mut position =
            position.unwrap_or_else(|| Position::new(Phase::start(ResyncReason::New), false));
        let mut pending = PendingWork::load(pending);
        if let Phase::Settled { .. } = position.phase {
            // A tombstone counts only in its own round: what is still pending counts as found by a
            // listing.
            pending.forget_tombstones();
        }
        let mut fallback = std::mem::take(&mut position.fallback);
        if !context.has_delta {
            fallback.list_always();
        }
        Self {
            removal_check: RemovalCheck::new(events, context.has_other_segments),
            context,
            fallback,
            progress: Progress::resume(position, pending),
            after_commit: AfterCommit::Continue,
            at: Timestamp::UNIX_EPOCH,
        }
    }

    /// The segment, and the settings of its rounds.
    pub fn context(&self) -> &SegmentContext {
        &self.context
    }

    /// Ends the wait for a stuck stream's next fallback, because a round was requested. The wait
    /// for the confirmation of a removal stays.
    pub fn skip_wait(&mut self) {
        let stuck = [Some(ResyncReason::RoundStuck), Some(ResyncReason::PageStuck)];
        if stuck.contains(&self.reason()) {
            self.progress.held_until = None;
        }
    }

    /// Until when a held removal or a stuck stream waits.
    pub fn held_until(&self) -> Option<Timestamp> {
        self.progress.held_until
    }

    /// The reason of the enumeration under way, if there is one.
    fn reason(&self) -> Option<ResyncReason> {
        self.progress.phase.enumeration_reason()
    }

    /// How the requests for the segment differ from the configured ones.
    pub fn fallback(&self) -> &Fallback {
        &self.fallback
    }

    /// Whether this attempt fetches plain pages.
    fn uses_plain_pages(&self) -> bool {
        self.fallback.is_snapshot() && self.reason() != Some(ResyncReason::DeltaRetry)
    }

    /// The ids of a page that the caller must look up in the store before it steps with the page.
    pub fn ids_to_look_up(&self, page: &Page) -> Vec<EventHash> {
        let mut ids: Vec<EventHash> = page.removed.iter().map(EventId::hash).collect();
        // On the first page of the first enumeration no event can have changed its kind.
        if !matches!(
            self.progress.phase,
            Phase::Enumerating { reason: ResyncReason::New, page: 0, .. }
        ) {
            let may_have_changed =
                |item: &&Item| matches!(item.kind, EventKind::Single | EventKind::Master);
            ids.extend(page.present.iter().filter(may_have_changed).map(|i| i.id.hash()));
        }
        if self.uses_plain_pages() && self.context.complete == Completion::Master {
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
        self.at = at;
        let step = match input {
            RoundInput::Start => self.next_effect(),
            RoundInput::Page { page, known, took } => {
                if self.progress.stall.observe(&page, took, &mut self.progress.ids_seen) {
                    self.next_fallback(StallKind::NoProgress)
                } else {
                    self.on_page(page, &known)
                }
            }
            RoundInput::Failed(failure) => self.on_page_failure(failure),
            RoundInput::Master(found) => self.on_master(found),
            RoundInput::Instances(found) => self.on_instances(found),
            RoundInput::SeriesRows(rows) => self.on_series_rows(rows),
            RoundInput::Viewed(listed, rows) => self.on_view(listed, rows),
            RoundInput::Presence(present) => self.on_presence(present),
            RoundInput::Unavailable => self.unavailable(),
            RoundInput::Unseen(rows) => self.on_unseen(rows),
            RoundInput::SegmentsDone { retain, removed } => {
                self.removal_check.others_done(retain, removed);
                self.next_effect()
            }
            RoundInput::Committed(events) => {
                self.removal_check.committed(events);
                match std::mem::replace(&mut self.after_commit, AfterCommit::Continue) {
                    AfterCommit::Continue => self.next_effect(),
                    AfterCommit::Sweep(rows) => self.sweep_slice(rows),
                    AfterCommit::End(end) => Step::End(end),
                    AfterCommit::Fail => Step::Fail,
                }
            }
            // A dead link does not change the reason of a confirmation or of a delta retry.
            RoundInput::LinkDead => match self.reason() {
                Some(reason @ (ResyncReason::Confirm | ResyncReason::DeltaRetry)) => {
                    self.restart(reason)
                }
                _ => self.restart(ResyncReason::SyncStateNotFound),
            },
        };
        if matches!(&step, Step::Do(effect) if effect.asks_for_members()) {
            self.removal_check.members_requested();
        }
        (self, step)
    }

    /// Starts an enumeration from its first page. Rows stay, so readers keep seeing the last good
    /// state.
    fn restart(&mut self, reason: ResyncReason) -> Step {
        let commit = self.restart_commit(reason);
        self.write(commit)
    }

    /// [`Self::restart`], as its commit.
    fn restart_commit(&mut self, reason: ResyncReason) -> Commit {
        self.progress = Progress::start(reason);
        let mut commit = self.commit();
        commit.clear_pending = true;
        commit.clear_seen = true;
        // A normal round in snapshot mode is not a resync.
        commit.counters.resync = Some(reason).filter(|r| *r != ResyncReason::Snapshot);
        commit
    }

    fn next_effect(&mut self) -> Step {
        let waits = |until| clock::wait_continues(until, self.context.confirm_after, self.at);
        if self.progress.held_until.is_some_and(waits) {
            return Step::End(match self.reason() {
                Some(ResyncReason::RoundStuck) => RoundEnd::Stuck(StallKind::NoProgress),
                Some(ResyncReason::PageStuck) => RoundEnd::Stuck(StallKind::PageTooLarge),
                _ => RoundEnd::Held,
            });
        }
        self.progress.held_until = None;
        let under_way =
            matches!(self.progress.phase, Phase::Enumerating { .. } | Phase::Following { .. });
        // The series of an earlier round are completed before the next page is requested.
        if !under_way && let Some(step) = self.next_series_step() {
            return step;
        }
        match &self.progress.phase {
            Phase::Enumerating { next, .. } if self.uses_plain_pages() => {
                Step::Do(Effect::PlainPage(next.clone()))
            }
            Phase::Enumerating { next, .. } => Step::Do(Effect::Page(next.clone())),
            Phase::Following { next: link } | Phase::Settled { delta: Some(link) } => {
                Step::Do(Effect::Page(Some(link.clone())))
            }
            Phase::Settled { delta: None }
                if self.context.has_delta && self.fallback.is_delta_due(self.at) =>
            {
                self.restart(ResyncReason::DeltaRetry)
            }
            // Nothing is written before the first page.
            Phase::Settled { delta: None } => {
                self.progress.phase = Phase::start(ResyncReason::Snapshot);
                Step::Do(Effect::PlainPage(None))
            }
            // The first enumeration found an empty mirror: there is nothing to sweep, and it kept
            // no seen list.
            Phase::Completing { .. } | Phase::Sweeping { reason: ResyncReason::New, .. } => {
                self.publish_removals_and_settle()
            }
            Phase::Sweeping { .. } => Step::Do(Effect::Unseen),
        }
    }

    /// Writes a commit, with the position to continue from.
    fn write(&self, mut commit: Commit) -> Step {
        commit.position = Some(Position {
            phase: self.progress.phase.clone(),
            has_pending: !self.progress.pending.is_empty(),
            held_until: self.progress.held_until,
            stall: self.progress.stall.clone(),
            fallback: self.fallback.clone(),
        });
        Step::Do(Effect::Commit(Box::new(commit)))
    }

    fn commit(&self) -> Commit {
        Commit::new(self.context.window, self.context.segment, self.at)
    }
}

#[cfg(test)]
mod tests;
