//! One attempt at a round: performs the effects of [`Round`], segment by segment.
//!
//! Work that an attempt cannot do is left to the next one, which starts from what the store holds.

pub(super) mod audit;
mod barrier;
mod retry;
mod segments;
mod series;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::graph::{ErrorClass, GraphError, PageStart, RequestOptions, Reservation, Target};
use crate::mirror::clock::ClockCheck;
use crate::mirror::commit::{Commit, CommitOutcome};
use crate::mirror::fallback::Fallback;
use crate::mirror::page::{Link, Page, PageEnd};
use crate::mirror::position::{Phase, Position, SegmentIndex, WindowId};
use crate::mirror::round::{
    Effect, PageFailure, Round, RoundEnd, RoundInput, SegmentContext, is_mass_removal,
};
use crate::mirror::segment_set::SegmentSet;
use crate::mirror::status::{LastRound, ResyncReason, WindowState};
use crate::mirror::window::{self, Edges, Window};
use crate::mirror::{page, schedule};

use super::error::AttemptError;
use super::monotonic::MonotonicTime;
use super::state::{RoundRequest, WindowHandle};
use super::{Services, record_resync};
use retry::RetryBudget;
use series::ListedIds;

/// A pause that Graph asks for is remembered across restarts if it is longer than this. A restart
/// itself takes some time.
const REMEMBERED_PAUSE_MIN: Duration = Duration::from_secs(30);

/// What an attempt did.
#[derive(Debug)]
pub(super) struct AttemptStats {
    pub(super) end: RoundEnd,
    /// The segments that settled.
    pub(super) settled: SegmentSet,
    /// Until when a held removal or a stuck stream waits.
    pub(super) held_until: Option<Timestamp>,
    pub(super) requests: u32,
    pub(super) pages: u32,
    pub(super) created: u32,
    pub(super) updated: u32,
    pub(super) removed: u32,
}

impl AttemptStats {
    /// The attempt as a published round.
    pub(super) fn round(&self, number: u64, at: Timestamp, took: std::time::Duration) -> LastRound {
        LastRound {
            number,
            at,
            took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            requests: self.requests,
            pages: self.pages,
            created: self.created,
            updated: self.updated,
            removed: self.removed,
        }
    }
}

/// How a page is requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PageSource {
    /// By the delta function.
    Delta,
    /// By a plain listing, in snapshot mode.
    Listing,
}

/// An attempt at a round of one window.
pub(super) struct Attempt<'a> {
    services: &'a Services,
    target: &'a Target,
    id: WindowId,
    window: &'a Window,
    handle: &'a WindowHandle,
    stop: &'a CancellationToken,
    /// Counts steps, so that the worker sees progress.
    steps: &'a AtomicU32,
    options: RequestOptions,
    number: u64,
    /// Whether this round was requested by a user.
    requested: bool,
    /// Requests made to the target before this attempt.
    previous_requests: u64,
    budget: RetryBudget,
    /// Why the last page could not be fetched.
    error: Option<AttemptError>,
    /// The memory that the last page occupies until it is written.
    memory: Reservation,
    /// The events between these edges that a plain view listed after the round's last page.
    listed_ids: Option<(Edges, ListedIds)>,
    stats: AttemptStats,
}

impl<'a> Attempt<'a> {
    #[expect(clippy::too_many_arguments, reason = "each is lent to the attempt by its worker")]
    pub(super) fn new(
        services: &'a Services,
        target: &'a Target,
        id: WindowId,
        window: &'a Window,
        handle: &'a WindowHandle,
        stop: &'a CancellationToken,
        steps: &'a AtomicU32,
        number: u64,
    ) -> Self {
        Self {
            services,
            target,
            id,
            window,
            handle,
            stop,
            steps,
            options: RequestOptions {
                page_size: window.settings.page_size,
                body: window.settings.body,
                time_zone: window.settings.time_zone.clone(),
                immutable_ids: window.settings.immutable_ids,
            },
            number,
            requested: false,
            previous_requests: target.requests.load(Ordering::Relaxed),
            budget: RetryBudget::default(),
            error: None,
            memory: Reservation::default(),
            listed_ids: None,
            stats: AttemptStats {
                end: RoundEnd::Settled,
                settled: SegmentSet::EMPTY,
                held_until: None,
                requests: 0,
                pages: 0,
                created: 0,
                updated: 0,
                removed: 0,
            },
        }
    }

    /// Runs a round of every segment. Segments in `resting` are skipped unless the round was
    /// requested or the edges moved. The round ends as the worst of its segments.
    pub(super) async fn run(
        &mut self,
        request: Option<RoundRequest>,
        resting: SegmentSet,
    ) -> Result<(), AttemptError> {
        self.requested = request.is_some();
        let moved = self.move_edges(request == Some(RoundRequest::AcceptRemovals)).await?;
        let mut resting = if moved || request.is_some() { SegmentSet::EMPTY } else { resting };
        let reason = match request {
            Some(RoundRequest::Resync) => Some(ResyncReason::Requested),
            Some(RoundRequest::AcceptRemovals) => Some(ResyncReason::Confirm),
            Some(RoundRequest::Sync) | None => None,
        };
        if let Some(reason) = reason {
            let segments = self.handle.lock().segments();
            // All segments before the first request, so that none is missed if one fails.
            for (index, _) in (0..).zip(&segments) {
                self.begin_resync(index, reason).await?;
            }
        }
        while let Err(error) = self.segments(resting).await {
            match error {
                AttemptError::Quarantine(error) if error.class() == ErrorClass::SegmentTooLong => {
                    self.halve_segments(error).await?;
                    resting = SegmentSet::EMPTY;
                }
                error => return Err(error),
            }
        }
        if let RoundEnd::Stuck(kind) = self.stats.end {
            let cause = match self.error.take() {
                Some(AttemptError::Transient(error) | AttemptError::Quarantine(error)) => {
                    Some(error)
                }
                _ => None,
            };
            return Err(AttemptError::Stuck { kind, cause, until: self.stats.held_until });
        }
        Ok(())
    }

    /// Halves the segments, because Graph does not answer for segments of this length.
    async fn halve_segments(&mut self, error: GraphError) -> Result<(), AttemptError> {
        let (edges, days) = {
            let state = self.handle.lock();
            (state.edges, state.segment_days())
        };
        let Some(days) = window::halved_segment_days(edges, days) else {
            return Err(AttemptError::Quarantine(error));
        };
        let now = self.services.env.now();
        self.services.store.shorten_segments(self.id, days, now).await?;
        self.handle.lock().set_segment_days(days);
        record_resync(self.handle, now, ResyncReason::SegmentTooLong);
        tracing::warn!(days, "segments are too long for graph, halving them");
        (self.stats.end, self.budget) = (RoundEnd::Settled, RetryBudget::default());
        Ok(())
    }

    /// What the attempt has done.
    pub(super) fn into_stats(mut self) -> AttemptStats {
        let requests = self.target.requests.load(Ordering::Relaxed) - self.previous_requests;
        self.stats.requests = u32::try_from(requests).unwrap_or(u32::MAX);
        self.stats
    }

    /// Moves relative edges, which follow the date, each window at its own hour. Returns whether
    /// they moved. `accept`: move them however many events leave the window.
    async fn move_edges(&mut self, accept: bool) -> Result<bool, AttemptError> {
        let (edges, computed) = {
            let state = self.handle.lock();
            (state.edges, state.edges_at)
        };
        let due = |now| schedule::due_move(self.window, edges, computed, now);
        let mut now = self.services.env.now();
        let mut moved = due(now);
        if moved.is_some() && self.services.client.clock(now) == ClockCheck::Unknown {
            self.read_clock(edges).await?;
            now = self.services.env.now();
            moved = due(now);
        }
        let Some(moved) = moved.filter(|_| self.services.client.clock(now).is_usable()) else {
            self.handle.lock().held_move = None;
            return Ok(false);
        };
        if !accept && self.is_move_held(moved, now).await? {
            return Ok(false);
        }
        self.services.store.move_edges(self.id, moved, now).await?;
        let mut state = self.handle.lock();
        state.edges = moved;
        state.edges_at = now;
        state.held_move = None;
        drop(state);
        record_resync(self.handle, now, ResyncReason::WindowMoved);
        tracing::info!(start = %moved.start, end = %moved.end, "window moved");
        Ok(true)
    }

    /// Whether a move must wait: it would drop most of the window, and it has not waited for
    /// `confirm_after` yet.
    async fn is_move_held(&self, moved: Edges, now: Timestamp) -> Result<bool, AttemptError> {
        let (leaving, events) = self.services.store.outside(self.id, moved).await?;
        if !is_mass_removal(leaving, events) {
            return Ok(false);
        }
        let mut state = self.handle.lock();
        let until = Instant::now() + self.window.settings.confirm_after;
        let until = state.held_move.get_or_insert_with(|| Box::new(MonotonicTime::at(until, now)));
        Ok(!until.is_over())
    }

    /// Makes a small request only for the `Date` of its response. The round itself finds out about
    /// any error.
    async fn read_clock(&self, edges: Edges) -> Result<(), AttemptError> {
        let options = RequestOptions { page_size: 1, ..self.options.clone() };
        let (client, day) = (&self.services.client, first_day(edges));
        let response = client.calendar_view(self.target, &options, day, Some("id"), None, false);
        if let Err(error) = self.unless_stopped(response).await? {
            tracing::debug!(kind = error.kind().as_str(), "request for graph's clock failed");
        }
        Ok(())
    }

    /// Resumes a segment's round where the store left it. Also returns whether the round is at its
    /// start.
    async fn open(
        &self,
        segment: SegmentIndex,
        edges: Edges,
        seams: bool,
    ) -> Result<(Round, bool), AttemptError> {
        let store = &self.services.store;
        let position = store.position(self.id, segment).await?;
        let pending = match &position {
            Some(position) if position.has_pending => store.todo(self.id, segment).await?,
            _ => Vec::new(),
        };
        if position.as_ref().is_none_or(|p| p.phase.enumeration_reason().is_some()) {
            self.publish_enumerating();
        }
        let begins = position.as_ref().is_none_or(|position| position.phase.starts_round());
        let context = SegmentContext {
            window: self.id,
            segment,
            edges,
            complete: self.window.settings.complete,
            confirm_after: SignedDuration::try_from(self.window.settings.confirm_after)
                .unwrap_or(SignedDuration::MAX),
            has_other_segments: seams,
            page_size: self.window.settings.page_size,
        };
        let events = self.handle.lock().events;
        let mut round = Round::resume(context, position, pending, events);
        if self.requested {
            round.skip_wait();
        }
        Ok((round, begins))
    }

    /// Performs an effect of a round.
    async fn perform(
        &mut self,
        round: &Round,
        segment: SegmentIndex,
        edges: Edges,
        effect: Effect,
    ) -> Result<RoundInput, AttemptError> {
        Ok(match effect {
            Effect::Page(link) => self.page(round, PageSource::Delta, link.as_ref(), edges).await?,
            Effect::Listing(link) => {
                self.page(round, PageSource::Listing, link.as_ref(), edges).await?
            }
            Effect::Master(id) => self.master(&id, edges).await?,
            Effect::Instances(id) => self.instances(segment, &id, edges).await?,
            Effect::Rows(id) => RoundInput::SeriesGone(self.rows(segment, &id).await?),
            Effect::View(request) => self.view(segment, &request).await?,
            Effect::Presence(request) => self.presence(&request, edges).await?,
            Effect::Unseen => RoundInput::Unseen(self.unseen(segment).await?),
            Effect::Commit(commit) => self.commit(*commit).await?,
        })
    }

    /// Begins a full enumeration: the position goes back to the first page, rows stay.
    async fn begin_resync(
        &self,
        segment: SegmentIndex,
        reason: ResyncReason,
    ) -> Result<(), AttemptError> {
        let now = self.services.env.now();
        let position = self.services.store.position(self.id, segment).await?;
        let fallback = position.map(|position| position.fallback).unwrap_or_default();
        let mut commit = Commit::new(self.id, segment, now);
        commit.clear_pending = true;
        commit.clear_seen = true;
        commit.position = Some(Position::start(reason, fallback));
        commit.counters.resync = Some(reason);
        self.services.store.commit(commit).await?;
        record_resync(self.handle, now, reason);
        Ok(())
    }

    fn publish_enumerating(&self) {
        let mut state = self.handle.lock();
        if !state.health.state.is_trouble() {
            state.health.state = WindowState::Enumerating;
        }
    }

    /// Publishes the mode of a segment, and logs changes of its mode or page size.
    fn publish_fallback(&self, segment: SegmentIndex, before: &Fallback, now: &Fallback) {
        self.handle.lock().set_snapshot_mode(segment, now.is_snapshot());
        if before == now {
            return;
        }
        let page_size = now.page_size(self.window.settings.page_size);
        if before.is_snapshot() != now.is_snapshot() {
            let mode = if now.is_snapshot() { "snapshot" } else { "delta" };
            tracing::info!(segment, mode, page_size, "segment changed its mode");
        } else if before.page_size(self.window.settings.page_size) != page_size {
            tracing::info!(segment, page_size, "segment changed its page size");
        }
    }

    async fn page(
        &mut self,
        round: &Round,
        source: PageSource,
        link: Option<&Link>,
        edges: Edges,
    ) -> Result<RoundInput, AttemptError> {
        let before = self.target.response_micros.load(Ordering::Relaxed);
        self.memory = Reservation::default();
        self.listed_ids = None;
        let page = match self.fetch_page(source, link, edges).await {
            Ok((page, memory)) => {
                self.memory = memory;
                page
            }
            Err(AttemptError::Transient(error)) if error.class() == ErrorClass::LinkDead => {
                if !self.budget.link_died() {
                    return self.on_page_failure(AttemptError::LinkDiedAgain, false);
                }
                tracing::info!(
                    status = error.status(),
                    code = error.code(),
                    "link is dead, enumerating again"
                );
                return Ok(RoundInput::LinkDead);
            }
            Err(error) => {
                let refused = self.is_page_specific(&error, edges).await;
                return self.on_page_failure(error, refused);
            }
        };
        let took = self.target.response_micros.load(Ordering::Relaxed).saturating_sub(before);
        self.stats.pages += 1;
        self.record_unreadable(link.is_none(), page.unreadable.len());
        self.error = None;
        for unreadable in &page.unreadable {
            tracing::warn!(
                event_id = unreadable.id.as_ref().map(page::EventId::as_str),
                reason = unreadable.reason,
                "item could not be read"
            );
        }
        let ids = round.ids_to_look_up(&page);
        let known = if ids.is_empty() {
            BTreeMap::new()
        } else {
            let kinds = self.services.store.known(self.id, ids.clone()).await?;
            ids.into_iter().zip(kinds).collect()
        };
        Ok(RoundInput::Page { page, known, took: std::time::Duration::from_micros(took) })
    }

    /// Fetches one page.
    async fn fetch_page(
        &mut self,
        source: PageSource,
        link: Option<&Link>,
        edges: Edges,
    ) -> Result<(Page, Reservation), AttemptError> {
        let (client, target, options) = self.request_parts();
        if source == PageSource::Delta {
            let start = || link.map_or(PageStart::Window(edges), PageStart::Link);
            return self.fetch(|fresh| client.page(target, &options, start(), fresh)).await;
        }
        let listing = self
            .fetch(|fresh| client.calendar_view(target, &options, edges, None, link, fresh))
            .await?;
        let page = Page {
            present: listing.items,
            removed: Vec::new(),
            unreadable: listing.unreadable,
            end: listing.next.map_or(PageEnd::Last, PageEnd::Next),
            bytes: 0,
        };
        Ok((page, listing.memory))
    }

    /// The page cannot be fetched in this attempt. The round decides whether a fallback may help.
    /// `refused`: the page failed until the retries were spent, while the mailbox answered.
    fn on_page_failure(
        &mut self,
        error: AttemptError,
        refused: bool,
    ) -> Result<RoundInput, AttemptError> {
        let failure = match &error {
            AttemptError::Quarantine(error) if error.class() == ErrorClass::TooLarge => {
                PageFailure::TooLarge
            }
            AttemptError::Transient(_) if refused => PageFailure::Refused,
            AttemptError::Transient(_)
            | AttemptError::Quarantine(_)
            | AttemptError::LinkDiedAgain => PageFailure::Other,
            _ => return Err(error),
        };
        self.error = Some(error);
        // A fallback is another round with its own retries.
        self.budget = RetryBudget::default();
        Ok(RoundInput::Failed(failure))
    }

    /// Whether the mailbox answers a small request while this one keeps failing. If it answers
    /// neither, the outage is general and no fallback would help (facts 123, 124). The kind of
    /// error does not matter: 500, 503 and 504 have all been seen to stick to a page (facts 121,
    /// 197).
    async fn is_page_specific(&mut self, error: &AttemptError, edges: Edges) -> bool {
        let AttemptError::Transient(error) = error else { return false };
        let of_a_page = matches!(error.class(), ErrorClass::Transient | ErrorClass::MalformedPage)
            && !error.is_account_wide();
        if !of_a_page || !self.budget.is_spent() {
            return false;
        }
        self.probe(edges).await.is_ok()
    }

    /// Publishes the number of unreadable items, which the mirror may lack. The first page of an
    /// enumeration resets the count.
    fn record_unreadable(&self, reset: bool, count: usize) {
        let mut state = self.handle.lock();
        let before = if reset { 0 } else { state.unreadable };
        state.unreadable = before.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
    }

    /// Makes a small request to the calendar. "Not found" may be the answer for the whole calendar
    /// (fact 103) and then says nothing about one series. It is believed only if the calendar
    /// answers afterwards.
    async fn probe(&mut self, edges: Edges) -> Result<(), AttemptError> {
        let (client, target, options) = self.request_parts();
        let (day, options) = (first_day(edges), RequestOptions { page_size: 1, ..options });
        self.fetch(|fresh| client.calendar_view(target, &options, day, Some("id"), None, fresh))
            .await
            .map(drop)
    }

    async fn commit(&mut self, mut commit: Commit) -> Result<RoundInput, AttemptError> {
        let settled =
            matches!(&commit.position, Some(Position { phase: Phase::Settled { .. }, .. }));
        if settled {
            commit.counters.round = Some(self.number);
            commit.counters.success = Some(self.services.env.now());
        }
        if let Some(reason) = commit.counters.resync {
            record_resync(self.handle, commit.at, reason);
        }
        if commit.deferrable {
            // Only the next round of this window waits for this commit.
            self.services.store.submit(commit).await?;
            self.memory = Reservation::default();
            return Ok(RoundInput::Committed(self.handle.lock().events));
        }
        let CommitOutcome { created, updated, removed, events } =
            self.services.store.commit(commit).await?;
        self.memory = Reservation::default();
        self.stats.created += created;
        self.stats.updated += updated;
        self.stats.removed += removed;
        self.handle.lock().events = events;
        Ok(RoundInput::Committed(events))
    }

    /// Stores the pause, so that the next process observes it too.
    async fn remember_pause(&self, wait: Duration) -> Result<(), AttemptError> {
        let now = self.services.env.now();
        let mut commit = Commit::new(self.id, 0, now);
        commit.counters.paused_until = now.checked_add(wait).ok();
        self.services.store.commit(commit).await?;
        Ok(())
    }
}

/// The first day between two edges.
fn first_day(edges: Edges) -> Edges {
    let end = edges.start.checked_add(SignedDuration::from_hours(24)).unwrap_or(edges.end);
    Edges { start: edges.start, end }
}
