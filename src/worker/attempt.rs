//! One attempt at a round: performs the effects of [`Round`], segment by segment.
//!
//! Work that an attempt cannot do is left to the next one, which starts from what the store holds.

pub(super) mod audit;
mod barrier;
mod edges;
mod pages;
mod retry;
mod segments;
mod series;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio_util::sync::CancellationToken;

use crate::graph::{RequestOptions, Reservation, Target};
use crate::mirror::commit::{Commit, CommitOutcome};
use crate::mirror::failure::ErrorClass;
use crate::mirror::fallback::Fallback;
use crate::mirror::position::{Phase, Position, SegmentIndex, WindowId};
use crate::mirror::round::{Effect, Round, RoundEnd, RoundInput, SegmentContext};
use crate::mirror::segment_set::SegmentSet;
use crate::mirror::status::{LastResync, ResyncReason, RoundFigures, WindowState};
use crate::mirror::window::{Edges, Window};

use super::Services;
use super::error::AttemptError;
use super::handle::WindowHandle;
use super::state::RoundRequest;
use pages::{CurrentPage, PageSource};
use retry::RetryBudget;
use series::SeriesError;

/// A pause that Graph asks for is remembered across restarts if it is longer than this. A restart
/// itself takes some time.
const REMEMBERED_PAUSE_MIN: Duration = Duration::from_secs(30);

/// What a worker lends to an attempt.
pub(super) struct AttemptContext<'a> {
    pub(super) services: &'a Services,
    pub(super) target: &'a Target,
    pub(super) id: WindowId,
    pub(super) window: &'a Window,
    pub(super) handle: &'a WindowHandle,
    pub(super) stop: &'a CancellationToken,
    /// Counts steps, so that the worker sees progress.
    pub(super) steps: &'a AtomicU32,
    /// The number of the round.
    pub(super) number: u64,
}

/// How an attempt that did not fail ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AttemptEnd {
    /// Every segment settled.
    Settled,
    /// Some series could not be completed.
    Incomplete,
    /// A mass removal waits for its confirmation.
    Held { until: Option<Timestamp> },
}

/// What an attempt did.
#[derive(Debug, Default)]
pub(super) struct AttemptStats {
    /// The segments that settled.
    pub(super) settled: SegmentSet,
    /// What it did so far, as it is published.
    pub(super) round: RoundFigures,
}

/// An attempt at a round of one window.
pub(super) struct Attempt<'a> {
    context: AttemptContext<'a>,
    options: RequestOptions,
    /// Whether this round was requested by a user.
    requested: bool,
    /// Requests made to the target before this attempt.
    previous_requests: u64,
    budget: RetryBudget,
    current_page: CurrentPage,
    /// The worst end of a segment's round.
    end: RoundEnd,
    /// Until when a held removal or a stuck stream waits.
    held_until: Option<Timestamp>,
    stats: AttemptStats,
}

impl<'a> Attempt<'a> {
    pub(super) fn new(context: AttemptContext<'a>) -> Self {
        let AttemptContext { target, window, .. } = context;
        Self {
            options: RequestOptions {
                page_size: window.settings.page_size,
                body: window.settings.body,
                time_zone: window.settings.time_zone.clone(),
                immutable_ids: window.settings.immutable_ids,
            },
            requested: false,
            previous_requests: target.requests.load(Ordering::Relaxed),
            budget: RetryBudget::default(),
            current_page: CurrentPage::default(),
            end: RoundEnd::Settled,
            held_until: None,
            stats: AttemptStats::default(),
            context,
        }
    }

    /// Runs a round of every segment. Segments in `resting` are skipped unless the round was
    /// requested or the edges moved. The round ends as the worst of its segments.
    pub(super) async fn run(
        &mut self,
        request: Option<RoundRequest>,
        resting: SegmentSet,
    ) -> Result<AttemptEnd, AttemptError> {
        self.requested = request.is_some();
        let moved = self.move_edges(request == Some(RoundRequest::AcceptRemovals)).await?;
        let mut resting = if moved || request.is_some() { SegmentSet::EMPTY } else { resting };
        let reason = match request {
            Some(RoundRequest::Resync) => Some(ResyncReason::Requested),
            Some(RoundRequest::AcceptRemovals) => Some(ResyncReason::Confirm),
            Some(RoundRequest::Sync) | None => None,
        };
        if let Some(reason) = reason {
            // Before the first request, so that no segment is missed if it fails.
            Box::pin(self.begin_resyncs(reason)).await.inspect_err(|_| {
                // The window's next round serves the request.
                self.context.handle.lock().keep_request(request);
            })?;
        }
        while let Err(error) = self.segments(resting).await {
            match error {
                AttemptError::Graph(error) if error.class() == ErrorClass::SegmentTooLong => {
                    Box::pin(self.halve_segments(error)).await?;
                    resting = SegmentSet::EMPTY;
                }
                error => return Err(error),
            }
        }
        match self.end {
            RoundEnd::Settled => Ok(AttemptEnd::Settled),
            RoundEnd::Incomplete => Ok(AttemptEnd::Incomplete),
            RoundEnd::Held => Ok(AttemptEnd::Held { until: self.held_until }),
            RoundEnd::Stuck(kind) => {
                let cause = match self.current_page.error.take() {
                    Some(AttemptError::Graph(error)) => Some(error),
                    _ => None,
                };
                Err(AttemptError::Stuck { kind, cause, until: self.held_until })
            }
        }
    }

    /// What the attempt did; the worker adds the number and the times.
    pub(super) fn into_stats(mut self) -> AttemptStats {
        let requests =
            self.context.target.requests.load(Ordering::Relaxed) - self.previous_requests;
        self.stats.round.requests = u32::try_from(requests).unwrap_or(u32::MAX);
        self.stats
    }

    /// Resumes a segment's round where the store left it. Also returns whether the round is at its
    /// start.
    async fn open(
        &self,
        segment: SegmentIndex,
        edges: Edges,
        has_other_segments: bool,
    ) -> Result<(Round, bool), AttemptError> {
        let store = &self.context.services.store;
        let position = store.position(self.context.id, segment).await?;
        let pending = match &position {
            Some(position) if position.has_pending => {
                store.pending(self.context.id, segment).await?
            }
            _ => Vec::new(),
        };
        if position.as_ref().is_none_or(|p| p.phase.enumeration_reason().is_some()) {
            self.publish_enumerating();
        }
        let begins = position.as_ref().is_none_or(|position| position.phase.starts_round());
        let context = SegmentContext {
            window: self.context.id,
            segment,
            edges,
            complete: self.context.window.settings.complete,
            confirm_after: SignedDuration::try_from(self.context.window.settings.confirm_after)
                .unwrap_or(SignedDuration::MAX),
            has_other_segments,
            page_size: self.context.window.settings.page_size,
            has_delta: self.context.window.has_delta(),
        };
        let events = self.context.handle.lock().events;
        let mut round = Round::resume(context, position, pending, events);
        if self.requested {
            round.skip_wait();
        }
        Ok((round, begins))
    }

    /// Performs an effect of a round. The rare ones are boxed, because every round in progress takes
    /// the memory of the largest one that is not.
    async fn perform(&mut self, round: &Round, effect: Effect) -> Result<RoundInput, AttemptError> {
        let &SegmentContext { segment, edges, .. } = round.context();
        let input = match effect {
            Effect::Page(link) => Ok(self.page(round, PageSource::Delta, link.as_ref()).await?),
            Effect::PlainPage(link) => {
                Ok(self.page(round, PageSource::Plain, link.as_ref()).await?)
            }
            Effect::Unseen => Ok(RoundInput::Unseen(self.unseen(segment).await?)),
            Effect::Commit(commit) => Ok(self.commit(*commit).await?),
            Effect::Rows(id) => Ok(RoundInput::SeriesRows(self.rows(segment, &id).await?)),
            Effect::Master(id) => Box::pin(self.master(&id, edges)).await,
            Effect::Instances(id) => Box::pin(self.instances(segment, &id, edges)).await,
            Effect::View(request) => Box::pin(self.view(segment, &request)).await,
            Effect::Presence(request) => Box::pin(self.presence(&request, edges)).await,
        };
        match input {
            Err(SeriesError::NotFound | SeriesError::Unavailable) => Ok(RoundInput::Unavailable),
            Err(SeriesError::Attempt(error)) => Err(error),
            Ok(input) => Ok(input),
        }
    }

    /// Begins a full enumeration of every segment.
    async fn begin_resyncs(&self, reason: ResyncReason) -> Result<(), AttemptError> {
        let segments = self.context.handle.lock().segments().len();
        for segment in (0..).take(segments) {
            self.begin_resync(segment, reason).await?;
        }
        Ok(())
    }

    /// Begins a full enumeration: the position goes back to the first page, rows stay. A stop of
    /// the worker ends the attempt before the commit.
    async fn begin_resync(
        &self,
        segment: SegmentIndex,
        reason: ResyncReason,
    ) -> Result<(), AttemptError> {
        self.check_stopped()?;
        let now = self.context.services.env.now();
        let position = self.context.services.store.position(self.context.id, segment).await?;
        let fallback = position.map(|position| position.fallback).unwrap_or_default();
        let mut commit = Commit::new(self.context.id, segment, now);
        commit.clear_pending = true;
        commit.clear_seen = true;
        commit.position = Some(Position::start(reason, fallback));
        commit.counters.resync = Some(reason);
        self.context.services.store.commit(commit).await?;
        self.record_resync(now, reason);
        Ok(())
    }

    /// Publishes that a resync began; the store counts it in the commit that begins it.
    fn record_resync(&self, at: Timestamp, reason: ResyncReason) {
        let mut state = self.context.handle.lock();
        state.health.state = WindowState::Enumerating;
        state.resync = Some(reason);
        if reason != ResyncReason::New {
            state.edit_rare(|rare| {
                rare.resyncs += 1;
                rare.last_resync = Some(LastResync { at, reason });
            });
        }
        self.context.services.states.tell(&mut state, at);
    }

    fn publish_enumerating(&self) {
        let mut state = self.context.handle.lock();
        if !state.health.state.is_trouble() {
            state.health.state = WindowState::Enumerating;
        }
    }

    /// Publishes the mode of a segment, and logs changes of its mode or page size.
    fn publish_fallback(&self, segment: SegmentIndex, before: &Fallback, now: &Fallback) {
        self.context.handle.lock().set_snapshot_mode(segment, now.is_snapshot());
        if before == now {
            return;
        }
        let page_size = now.page_size(self.context.window.settings.page_size);
        if before.is_snapshot() != now.is_snapshot() {
            let mode = if now.is_snapshot() { "snapshot" } else { "delta" };
            tracing::info!(segment, mode, page_size, "segment changed its mode");
        } else if before.page_size(self.context.window.settings.page_size) != page_size {
            tracing::info!(segment, page_size, "segment changed its page size");
        }
    }

    /// Writes a commit. A stop of the worker ends the attempt before it.
    async fn commit(&mut self, mut commit: Commit) -> Result<RoundInput, AttemptError> {
        self.check_stopped()?;
        let settled =
            matches!(&commit.position, Some(Position { phase: Phase::Settled { .. }, .. }));
        if settled {
            commit.counters.round = Some(self.context.number);
            commit.counters.success = Some(self.context.services.env.now());
        }
        if let Some(reason) = commit.counters.resync {
            self.record_resync(commit.at, reason);
        }
        if commit.deferrable {
            // Only the next round of this window waits for this commit.
            self.context.services.store.submit(commit).await?;
            self.current_page.memory = Reservation::default();
            return Ok(RoundInput::Committed(self.context.handle.lock().events));
        }
        let CommitOutcome { created, updated, removed, events } =
            self.context.services.store.commit(commit).await?;
        self.current_page.memory = Reservation::default();
        self.stats.round.created += created;
        self.stats.round.updated += updated;
        self.stats.round.removed += removed;
        self.context.handle.lock().events = events;
        Ok(RoundInput::Committed(events))
    }

    /// Stores the pause, so that the next process observes it too.
    async fn remember_pause(&self, wait: Duration) -> Result<(), AttemptError> {
        let now = self.context.services.env.now();
        let mut commit = Commit::new(self.context.id, 0, now);
        commit.counters.paused_until = now.checked_add(wait).ok();
        self.context.services.store.commit(commit).await?;
        Ok(())
    }
}
