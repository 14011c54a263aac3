//! Runs the rounds of a window's segments and coordinates removals across segment boundaries.
//!
//! An event that moves over a segment boundary leaves one segment and enters another, and each
//! segment sees only its half. So in a window of several segments a round with removals is parked
//! until every other segment has run a round that began after the removals were known. Everything
//! a parked round knows is in the store. A crash loses only the order; if that leaves a deadlock,
//! one segment is enumerated again. An event that may have moved into a series that another segment
//! could not complete stays until that segment can complete it.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use crate::mirror::change::RemovalReason;
use crate::mirror::commit::{Commit, Removal};
use crate::mirror::failure::FailureCause;
use crate::mirror::page::EventHash;
use crate::mirror::position::{PendingEntry, SegmentIndex};
use crate::mirror::round::{Effect, Retain, Round, RoundEnd, RoundInput, Step};
use crate::mirror::segment_set::SegmentSet;
use crate::mirror::status::ResyncReason;
use crate::mirror::window::Edges;

use super::barrier::{NextSegment, ParkedRound, SegmentBarrier};
use super::retry::RetryBudget;
use super::{Attempt, AttemptError};

/// The most barrier steps in one attempt. More are needed only while events leave faster than
/// rounds are made; the rest waits for the next attempt.
const MAX_STEPS: usize = 256;

/// A page or listing of more items takes so long to process that its step runs on another thread.
const LARGE_INPUT: usize = 2000;

/// Events removed from an empty window in one commit.
const CLEAR_SLICE: usize = 256;

/// How far a round got, and whether its knowledge of the calendar is new.
struct Drive {
    outcome: DriveOutcome,
    /// Whether Graph was asked which events exist.
    asked_members: bool,
    /// Whether an enumeration started from its first page.
    restarted: bool,
}

enum DriveOutcome {
    /// The round ended.
    Over(RoundEnd),
    /// The round waits for the other segments before its removals.
    Parked(Box<Round>),
}

impl Attempt<'_> {
    /// Runs a round of each segment that is not `resting`, and of resting ones that another
    /// segment's removals wait for.
    pub(super) async fn segments(&mut self, resting: SegmentSet) -> Result<(), AttemptError> {
        let segments = self.context.handle.lock().segments();
        if let [edges] = &segments[..] {
            return self.run_single(*edges).await;
        }
        Box::pin(self.run_several(segments, resting)).await
    }

    /// Runs a round of several segments.
    async fn run_several(
        &mut self,
        segments: Vec<Edges>,
        resting: SegmentSet,
    ) -> Result<(), AttemptError> {
        let mut barrier = SegmentBarrier::new(segments);
        let awake = barrier.all().filter(|segment| !resting.contains(*segment));
        // A segment in mid-round has seen only a part of the current state. It comes first, so that
        // the others begin after it has finished its round.
        let mut order = Vec::new();
        for segment in awake {
            let position = self.context.services.store.position(self.context.id, segment).await?;
            order.push((position.is_none_or(|position| position.phase.starts_round()), segment));
        }
        order.sort_unstable();
        // A segment that fails does not keep the others from running.
        let mut failed = None;
        for (_, segment) in order {
            if let Err(error) = self.start_segment(segment, &mut barrier).await {
                let error = segment_error(error)?;
                failed = failed.or(Some(error));
            }
        }
        if let Some(error) = failed {
            // Nothing is removed, because an event may have moved to the failed segment. Everything
            // else is published.
            while let Some(parked) = barrier.pop_parked() {
                self.release(parked, Retain::All, &mut barrier).await?;
            }
            return Err(error);
        }
        for _ in 0..MAX_STEPS {
            if self.end > RoundEnd::Incomplete {
                // A segment did not complete its round. The removals are pending entries.
                return Ok(());
            }
            match barrier.next() {
                NextSegment::Nothing => return Ok(()),
                NextSegment::Begin(segment) => self.start_segment(segment, &mut barrier).await?,
                NextSegment::Release(parked) => {
                    let retain =
                        Retain::Named(self.retained_events(parked.segment, &barrier).await?);
                    self.release(parked, retain, &mut barrier).await?;
                }
                NextSegment::Deadlock(segment) => {
                    self.begin_resync(segment, ResyncReason::Seam).await?;
                    self.start_segment(segment, &mut barrier).await?;
                }
            }
        }
        self.end = self.end.max(RoundEnd::Incomplete);
        Ok(())
    }

    /// Runs a round of the only segment, as most windows have one.
    async fn run_single(&mut self, edges: Edges) -> Result<(), AttemptError> {
        if edges.is_empty() {
            return Box::pin(self.clear_window()).await;
        }
        let mut end = RoundEnd::Settled;
        for _ in 0..2 {
            let pages = self.stats.round.pages;
            let (round, _) = self.open(0, edges, false).await?;
            let drive = self.drive(round, RoundInput::Start).await?;
            if let DriveOutcome::Over(ended) = drive.outcome {
                end = ended;
            }
            // A run that only finished an earlier round has not asked Graph yet.
            if end != RoundEnd::Settled || self.stats.round.pages != pages {
                break;
            }
        }
        self.record_end(0, end);
        Ok(())
    }

    /// The moving start has passed the fixed end: removes all events and makes no request.
    async fn clear_window(&mut self) -> Result<(), AttemptError> {
        let rows = self.unseen(0).await?;
        for slice in rows.chunks(CLEAR_SLICE) {
            let mut commit = Commit::new(self.context.id, 0, self.context.services.env.now());
            let leaves = |row: &Removal| Removal { reason: RemovalReason::LeftWindow, ..*row };
            commit.removals = slice.iter().map(leaves).collect();
            self.commit(commit).await?;
        }
        let now = self.context.services.env.now();
        let mut commit = Commit::new(self.context.id, 0, now);
        commit.counters.round = Some(self.context.number);
        commit.counters.success = Some(now);
        commit.deferrable = true;
        self.context.services.store.submit(commit).await?;
        self.record_end(0, RoundEnd::Settled);
        Ok(())
    }

    /// Runs a round of a segment up to its removals. A round in progress is finished first.
    async fn start_segment(
        &mut self,
        segment: SegmentIndex,
        barrier: &mut SegmentBarrier,
    ) -> Result<(), AttemptError> {
        let Some(edges) = barrier.edges(segment) else { return Ok(()) };
        for again in [false, true] {
            let epoch = barrier.next_epoch();
            let (round, begins) = self.open(segment, edges, true).await?;
            let drive = self.drive(round, RoundInput::Start).await?;
            let begins = begins || drive.restarted;
            if begins {
                barrier.began(segment, epoch);
            }
            match drive.outcome {
                DriveOutcome::Over(RoundEnd::Settled) if !begins && !again => {}
                DriveOutcome::Over(end) => {
                    self.record_end(segment, end);
                    break;
                }
                DriveOutcome::Parked(round) => {
                    let asked_members = drive.asked_members;
                    barrier.park(ParkedRound { segment, begins, asked_members, round });
                    break;
                }
            }
        }
        Ok(())
    }

    /// Continues a parked round. `retain` is what it must not remove.
    async fn release(
        &mut self,
        parked: ParkedRound,
        retain: Retain,
        barrier: &mut SegmentBarrier,
    ) -> Result<(), AttemptError> {
        let ParkedRound { segment, begins, round, .. } = parked;
        let epoch = barrier.next_epoch();
        let retain_all = matches!(retain, Retain::All);
        let removed = usize::try_from(self.stats.round.removed).unwrap_or(usize::MAX);
        let drive = self.drive(*round, RoundInput::SegmentsDone { retain, removed }).await?;
        if drive.restarted {
            barrier.began(segment, epoch);
        }
        let begins = begins || drive.restarted;
        match drive.outcome {
            // As nothing may be removed, a round parked again would only return here.
            DriveOutcome::Parked(_) if retain_all => {}
            DriveOutcome::Over(RoundEnd::Settled) if !begins && !retain_all => {
                self.start_segment(segment, barrier).await?
            }
            DriveOutcome::Over(end) => self.record_end(segment, end),
            DriveOutcome::Parked(round) => {
                let asked_members = drive.asked_members;
                barrier.park(ParkedRound { segment, begins, asked_members, round });
            }
        }
        Ok(())
    }

    /// The rows of a segment that its enumeration did not contain.
    pub(super) async fn unseen(&self, segment: SegmentIndex) -> Result<Vec<Removal>, AttemptError> {
        // An event that left the segment may still be in the window.
        let window = self.context.handle.lock().edges;
        Ok(self.context.services.store.unseen(self.context.id, segment, window).await?)
    }

    /// The segment's events of series that another segment could not complete. Each of them may
    /// have moved to that segment.
    pub(super) async fn retained_events(
        &self,
        segment: SegmentIndex,
        barrier: &SegmentBarrier,
    ) -> Result<BTreeSet<EventHash>, AttemptError> {
        let mut retained = BTreeSet::new();
        for other in barrier.all().filter(|other| *other != segment) {
            let position = self.context.services.store.position(self.context.id, other).await?;
            if !position.is_some_and(|position| position.has_pending) {
                continue;
            }
            for entry in self.context.services.store.pending(self.context.id, other).await? {
                self.check_stopped()?;
                if let PendingEntry::Series { master, .. } = entry {
                    retained.extend(self.rows(segment, &master).await?.iter().map(|row| row.id));
                }
            }
        }
        Ok(retained)
    }

    /// Performs a round's effects until it ends or has to wait for the other segments.
    async fn drive(
        &mut self,
        mut round: Round,
        mut input: RoundInput,
    ) -> Result<Drive, AttemptError> {
        let segment = round.context().segment;
        let (mut asked_members, mut restarted) = (false, false);
        // Each drive has its own retries, and its link may die once.
        self.budget = RetryBudget::default();
        self.current_page.listed_ids = None;
        let before = round.fallback().clone();
        self.options.page_size = before.page_size(self.context.window.settings.page_size);
        loop {
            self.check_stopped()?;
            self.context.steps.fetch_add(1, Ordering::Relaxed);
            let now = self.context.services.env.now();
            let large = match &input {
                RoundInput::Page { page, .. } => page.present.len() > LARGE_INPUT,
                RoundInput::Instances(Some((listed, _))) | RoundInput::Viewed(listed, _) => {
                    listed.items.len() > LARGE_INPUT
                }
                _ => false,
            };
            let (next, step) = if large {
                self.context.services.env.compute(move || round.step(input, now)).await
            } else {
                round.step(input, now)
            };
            round = next;
            let effect = match step {
                Step::AwaitSegments => {
                    self.publish_fallback(segment, &before, round.fallback());
                    let outcome = DriveOutcome::Parked(Box::new(round));
                    return Ok(Drive { outcome, asked_members, restarted });
                }
                Step::Do(effect) => effect,
                Step::End(end) => {
                    self.held_until = self.held_until.max(round.held_until());
                    self.publish_fallback(segment, &before, round.fallback());
                    return Ok(Drive {
                        outcome: DriveOutcome::Over(end),
                        asked_members,
                        restarted,
                    });
                }
                Step::Fail => {
                    self.publish_fallback(segment, &before, round.fallback());
                    return Err(self.current_page.error.take().unwrap_or(AttemptError::Endless));
                }
            };
            asked_members |= effect.asks_for_members();
            restarted |= matches!(effect, Effect::Page(None) | Effect::PlainPage(None));
            input = self.perform(&round, effect).await?;
        }
    }

    fn record_end(&mut self, segment: SegmentIndex, end: RoundEnd) {
        self.end = self.end.max(end);
        if end == RoundEnd::Settled {
            self.stats.settled.insert(segment);
        }
    }
}

/// `Ok` with an error that concerns only one segment, `Err` with one of the whole window.
fn segment_error(error: AttemptError) -> Result<AttemptError, AttemptError> {
    match &error {
        AttemptError::LinkDiedAgain | AttemptError::Endless => Ok(error),
        AttemptError::Graph(cause)
            if cause.cause() == FailureCause::Transient && !cause.is_account_wide() =>
        {
            Ok(error)
        }
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::GraphError;
    use crate::graph::transport::{TransportError, TransportErrorKind};
    use crate::mirror::page::Span;
    use crate::store::StoreError;
    use crate::tests::{NOON, single, window};
    use crate::worker::attempt::AttemptEnd;
    use crate::worker::tests::WorkerFixture;

    #[test]
    fn only_an_error_of_one_segment_lets_the_others_run() {
        let request = |kind| GraphError::Transport(TransportError::new(kind));
        for (error, of_one_segment) in [
            (AttemptError::LinkDiedAgain, true),
            (AttemptError::Endless, true),
            (AttemptError::Graph(request(TransportErrorKind::Timeout)), true),
            (AttemptError::Graph(request(TransportErrorKind::TooLarge)), false),
            (AttemptError::Store(StoreError::Full), false),
            (AttemptError::Stopped, false),
        ] {
            let name = format!("{error:?}");
            assert_eq!(segment_error(error).is_ok(), of_one_segment, "{name}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_window_whose_start_has_passed_its_end_is_cleared_without_a_request() {
        let mut window = window("alice");
        window.settings_mut().start = window.settings.end;
        let fixture = WorkerFixture::new(window, []).await;
        let mut commit = Commit::new(fixture.id, 0, NOON);
        let span = Span { start: NOON, end: NOON };
        commit.upserts = ["a", "b"].map(|id| single(id, span, "{}")).into();
        fixture.services.store.commit(commit).await.unwrap();
        let (end, stats) = fixture.run().await;
        assert_eq!((end, stats.settled.contains(0)), (AttemptEnd::Settled, true));
        assert_eq!((stats.round.requests, stats.round.removed, fixture.events()), (0, 2, 0));
    }
}
