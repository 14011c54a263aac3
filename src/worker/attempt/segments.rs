//! The segments of a window, one round each, and the seams between them.
//!
//! An event that moves over a seam leaves one segment and enters another, and each says only its
//! half. So no segment of several publishes removals before all others have made a round that
//! began after these removals were known: until then its round is parked. Everything a parked
//! round knows is in the store; a crash forgets nothing but the order, and where that decides,
//! one segment is enumerated anew. What may have moved into a series that another segment could
//! not complete stays until that one can.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use crate::mirror::change::RemovalReason;
use crate::mirror::commit::{Commit, Removal};
use crate::mirror::page::EventHash;
use crate::mirror::position::{PendingEntry, SegmentIndex};
use crate::mirror::round::{Effect, Retain, Round, RoundEnd, RoundInput, Step};
use crate::mirror::status::ResyncReason;
use crate::mirror::window::Edges;

use super::barrier::{NextSegment, ParkedRound, SegmentBarrier};
use super::retry::RetryBudget;
use super::{Attempt, AttemptError};

/// Steps over the seams in one attempt. More there are only while events leave faster than rounds
/// are made; what is left waits for the next attempt.
const MAX_STEPS: usize = 256;

/// A page or listing of more items takes long enough to be stepped on another thread.
const LARGE_INPUT: usize = 2000;

/// Events that leave an empty window in one commit.
const CLEAR_SLICE: usize = 256;

/// How far a round came, and what it learned on the way.
struct Drive {
    outcome: DriveOutcome,
    /// Whether Graph was asked for anything.
    requested: bool,
    /// Whether that was everything from the first page.
    restarted: bool,
}

enum DriveOutcome {
    /// To its end.
    Over(RoundEnd),
    /// To its removals.
    Parked(Box<Round>),
}

impl Attempt<'_> {
    /// A round of each segment that is not `resting` (as bits), and of those too where another one
    /// has something to remove.
    pub(super) async fn segments(&mut self, resting: u64) -> Result<(), AttemptError> {
        let segments = self.handle.lock().segments();
        if let [edges] = &segments[..] {
            return self.run_single(*edges).await;
        }
        let mut looks = SegmentBarrier::at(segments);
        let awake = looks.all().filter(|segment| resting & 1 << segment == 0);
        // Who is in mid-round knows only half of what is now: it comes first, so that the others
        // begin after what it brings to its end.
        let mut order = Vec::new();
        for segment in awake {
            let position = self.services.store.position(self.id, segment).await?;
            order.push((position.is_none_or(|position| position.phase.starts_round()), segment));
        }
        order.sort_unstable();
        // One that fails keeps none of the others from looking.
        let mut failed = None;
        for (_, segment) in order {
            if let Err(error) = self.start_segment(segment, &mut looks).await {
                let error = of_segment(error)?;
                failed = failed.or(Some(error));
            }
        }
        if let Some(error) = failed {
            // Nothing leaves, as it may have moved to where nobody could look; the rest goes on.
            while let Some(parked) = looks.parked() {
                self.release(parked, Retain::All, &mut looks).await?;
            }
            return Err(error);
        }
        for _ in 0..MAX_STEPS {
            if self.stats.end > RoundEnd::Incomplete {
                // Somebody could not look. The removals are in the to-do.
                return Ok(());
            }
            match looks.next() {
                NextSegment::Nothing => return Ok(()),
                NextSegment::Begin(segment) => self.start_segment(segment, &mut looks).await?,
                NextSegment::Release(parked) => {
                    let stay = Retain::Named(self.retained_events(parked.segment, &looks).await?);
                    self.release(parked, stay, &mut looks).await?;
                }
                NextSegment::Deadlock(segment) => {
                    self.begin_resync(segment, ResyncReason::Seam).await?;
                    self.start_segment(segment, &mut looks).await?;
                }
            }
        }
        self.stats.end = self.stats.end.max(RoundEnd::Incomplete);
        Ok(())
    }

    /// The one segment that most windows have.
    async fn run_single(&mut self, edges: Edges) -> Result<(), AttemptError> {
        if edges.is_empty() {
            return self.clear_window().await;
        }
        let mut over = RoundEnd::Settled;
        for _ in 0..2 {
            let pages = self.stats.pages;
            let (round, _) = self.open(0, edges, false).await?;
            let course = self.drive(0, edges, round, RoundInput::Start).await?;
            if let DriveOutcome::Over(end) = course.outcome {
                over = end;
            }
            // A run that only ended what an earlier one had begun has not asked Graph yet.
            if over != RoundEnd::Settled || self.stats.pages != pages {
                break;
            }
        }
        self.end(0, over);
        Ok(())
    }

    /// The moving start has passed the fixed end: what is left of the window leaves it, and there
    /// is nothing to ask.
    async fn clear_window(&mut self) -> Result<(), AttemptError> {
        let rows = self.unseen(0).await?;
        for slice in rows.chunks(CLEAR_SLICE) {
            let mut commit = Commit::new(self.id, 0, self.services.env.now());
            let leaves = |row: &Removal| Removal { reason: RemovalReason::LeftWindow, ..*row };
            commit.removals = slice.iter().map(leaves).collect();
            self.commit(commit).await?;
        }
        let now = self.services.env.now();
        let mut commit = Commit::new(self.id, 0, now);
        commit.counters.round = Some(self.number);
        commit.counters.success = Some(now);
        commit.deferrable = true;
        self.services.store.submit(commit).await?;
        self.end(0, RoundEnd::Settled);
        Ok(())
    }

    /// A round of a segment, up to its removals; one in the middle is brought to its end before.
    async fn start_segment(
        &mut self,
        segment: SegmentIndex,
        looks: &mut SegmentBarrier,
    ) -> Result<(), AttemptError> {
        let Some(edges) = looks.edges(segment) else { return Ok(()) };
        for again in [false, true] {
            let turn = looks.next_epoch();
            let (round, begins) = self.open(segment, edges, true).await?;
            let course = self.drive(segment, edges, round, RoundInput::Start).await?;
            let begins = begins || course.restarted;
            if begins {
                looks.began(segment, turn);
            }
            match course.outcome {
                DriveOutcome::Over(RoundEnd::Settled) if !begins && !again => {}
                DriveOutcome::Over(over) => {
                    self.end(segment, over);
                    break;
                }
                DriveOutcome::Parked(round) => {
                    looks.park(segment, begins, course.requested, round);
                    break;
                }
            }
        }
        Ok(())
    }

    /// All others have looked: a parked round goes on.
    async fn release(
        &mut self,
        parked: ParkedRound,
        stay: Retain,
        looks: &mut SegmentBarrier,
    ) -> Result<(), AttemptError> {
        let ParkedRound { segment, begins, round, .. } = parked;
        let Some(edges) = looks.edges(segment) else { return Ok(()) };
        let turn = looks.next_epoch();
        let all = matches!(stay, Retain::All);
        let gone = usize::try_from(self.stats.removed).unwrap_or(usize::MAX);
        let course =
            self.drive(segment, edges, *round, RoundInput::Retained { stay, gone }).await?;
        if course.restarted {
            looks.began(segment, turn);
        }
        let begins = begins || course.restarted;
        match course.outcome {
            // Where nothing may leave it would only come back here.
            DriveOutcome::Parked(_) if all => {}
            DriveOutcome::Over(RoundEnd::Settled) if !begins && !all => {
                self.start_segment(segment, looks).await?
            }
            DriveOutcome::Over(over) => self.end(segment, over),
            DriveOutcome::Parked(round) => looks.park(segment, begins, course.requested, round),
        }
        Ok(())
    }

    /// The rows of a segment that its enumeration did not meet.
    pub(super) async fn unseen(&self, segment: SegmentIndex) -> Result<Vec<Removal>, AttemptError> {
        // What left the segment need not have left the window.
        let window = self.handle.lock().edges;
        Ok(self.services.store.unseen(self.id, segment, window).await?)
    }

    /// The segment's events of series that another one could not complete: one of them may have
    /// moved there.
    async fn retained_events(
        &self,
        segment: SegmentIndex,
        looks: &SegmentBarrier,
    ) -> Result<BTreeSet<EventHash>, AttemptError> {
        let mut withheld = BTreeSet::new();
        for other in looks.all().filter(|other| *other != segment) {
            let position = self.services.store.position(self.id, other).await?;
            if !position.is_some_and(|position| position.has_pending) {
                continue;
            }
            for todo in self.services.store.todo(self.id, other).await? {
                if let PendingEntry::Series { master, .. } = todo {
                    withheld.extend(self.rows(segment, &master).await?.iter().map(|row| row.id));
                }
            }
        }
        Ok(withheld)
    }

    /// Performs what a round asks for, until it is over or the others have to look.
    async fn drive(
        &mut self,
        segment: SegmentIndex,
        edges: Edges,
        mut round: Round,
        mut input: RoundInput,
    ) -> Result<Drive, AttemptError> {
        let (mut requested, mut restarted) = (false, false);
        // Each segment's link may die once, and its requests be made again.
        self.budget = RetryBudget::default();
        self.listed_ids = None;
        let before = round.fallback().clone();
        self.options.page_size = before.page_size(self.window.page_size);
        loop {
            self.steps.fetch_add(1, Ordering::Relaxed);
            let now = self.services.env.now();
            let large = match &input {
                RoundInput::Page { page, .. } => page.present.len() > LARGE_INPUT,
                RoundInput::Instances(Some((listed, _))) | RoundInput::Viewed(listed, _) => {
                    listed.items.len() > LARGE_INPUT
                }
                _ => false,
            };
            let (next, step) = if large {
                self.services.env.compute(move || round.step(input, now)).await
            } else {
                round.step(input, now)
            };
            round = next;
            let effect = match step {
                Step::Do(Effect::AwaitSegments) => {
                    self.publish_fallback(segment, &before, round.fallback());
                    let outcome = DriveOutcome::Parked(Box::new(round));
                    return Ok(Drive { outcome, requested, restarted });
                }
                Step::Do(effect) => effect,
                Step::End(end) => {
                    self.stats.held_until = self.stats.held_until.max(round.held_until());
                    self.publish_fallback(segment, &before, round.fallback());
                    if end == RoundEnd::Failed {
                        return Err(self.error.take().unwrap_or(AttemptError::Endless));
                    }
                    return Ok(Drive { outcome: DriveOutcome::Over(end), requested, restarted });
                }
            };
            requested |= effect.asks_for_members();
            restarted |= matches!(effect, Effect::Page(None) | Effect::Listing(None));
            input = self.perform(&round, segment, edges, effect).await?;
        }
    }

    fn end(&mut self, segment: SegmentIndex, over: RoundEnd) {
        self.stats.end = self.stats.end.max(over);
        if over == RoundEnd::Settled {
            self.stats.settled |= 1 << segment;
        }
    }
}

/// A trouble that says nothing about the other segments; the others are of the whole window.
fn of_segment(error: AttemptError) -> Result<AttemptError, AttemptError> {
    match &error {
        AttemptError::LinksDie | AttemptError::Endless => Ok(error),
        AttemptError::Transient(cause) if !cause.is_account_wide() => Ok(error),
        _ => Err(error),
    }
}
