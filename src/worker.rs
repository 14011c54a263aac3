//! One worker per window: waits until a round is due, runs it and publishes the result.
//!
//! A worker knows nothing of other workers. What they share (requests in flight, tokens, the
//! writer) is in its [`Services`] and its target. What a round needs is boxed and dropped with the
//! round, so that a sleeping window costs almost nothing.

mod attempt;
mod audit_schedule;
mod error;
mod handle;
mod history;
mod monotonic;
mod rare_state;
mod report;
mod segment_schedule;
mod state;
mod state_feed;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::env::Env;
use crate::graph::{GraphClient, MailboxBudget, Target, Tokens};
use crate::metrics::RoundMetrics;
use crate::mirror::schedule;
use crate::mirror::segment_set::SegmentSet;
use crate::mirror::status::WindowState;
use crate::mirror::window::{Edges, Window, WindowSettings};
use crate::store::{Store, StoreError};

use attempt::{Attempt, AttemptContext};
use audit_schedule::AuditSchedule;
use error::AttemptError;
pub use handle::{WindowHandle, WindowSummary};
use monotonic::MonotonicTime;
use segment_schedule::SegmentSchedule;
pub use state::RoundRequest;
pub use state_feed::{StateChange, StateFeed, StateReader};

/// How often a worker checks whether its round makes progress.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(60);
/// The longest that a round may take between two requests without making progress, beyond the time
/// of a request. Covers a token request, pauses between retries, and commits.
const STALL_LIMIT: Duration = Duration::from_secs(600);

/// What all workers share.
#[derive(Clone)]
pub struct Services {
    /// The mirror.
    pub store: Store,
    /// Graph.
    pub client: GraphClient,
    /// The wall clock and the random numbers.
    pub env: Env,
    /// What the workers count.
    pub metrics: Arc<RoundMetrics>,
    /// Tells readers of the feed when a window's state changes.
    pub states: StateFeed,
}

/// A window's worker.
pub struct Worker {
    services: Arc<Services>,
    tokens: Arc<Tokens>,
    budget: Arc<MailboxBudget>,
    handle: Arc<WindowHandle>,
    /// Stops all workers.
    stop: CancellationToken,
    /// Most windows never need it, none needs it for long.
    audit_schedule: Option<Box<AuditSchedule>>,
    /// Only windows of several segments have one.
    segment_schedule: Option<Box<SegmentSchedule>>,
}

/// What shows whether a round makes progress.
struct RoundProgress {
    /// Counts its requests.
    target: Target,
    /// Counts its steps.
    steps: AtomicU32,
    admission: Admission,
}

impl RoundProgress {
    fn new(target: Target) -> Self {
        Self { target, steps: AtomicU32::new(0), admission: Admission::default() }
    }
}

/// The place of a round among those that may be in progress; none for a requested round.
#[derive(Debug, Default)]
struct Admission(Mutex<Option<OwnedSemaphorePermit>>);

impl Admission {
    /// Gives the place to another round if this one began long ago and its mailbox is throttled.
    fn release_when_old(&self, begun: Instant, is_paused: bool) {
        if is_paused && begun.elapsed() >= HEARTBEAT {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
    }
}

/// Why a worker ended without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerExit {
    /// It was asked to stop.
    Stopped,
    /// Its round made no progress, although everything in it has a deadline.
    Stuck,
}

/// Why a worker runs no more rounds.
#[derive(Debug)]
enum WorkerEnd {
    Exit(WorkerExit),
    /// The store has failed for good.
    Store(StoreError),
}

impl From<WorkerEnd> for Result<WorkerExit, StoreError> {
    fn from(end: WorkerEnd) -> Self {
        match end {
            WorkerEnd::Exit(exit) => Ok(exit),
            WorkerEnd::Store(error) => Err(error),
        }
    }
}

/// When a worker's first round is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstRun {
    /// At once, because there is something to enumerate or to finish.
    Now,
    /// At a random time within the interval, so that the requests of a restarted fleet are spread.
    Spread,
}

impl Worker {
    /// A worker for the window of `handle`. [`WindowHandle::stop_worker`] stops it; after `stop` is
    /// cancelled, which stops all workers, the handle must be woken.
    pub fn new(
        services: Arc<Services>,
        tokens: Arc<Tokens>,
        handle: Arc<WindowHandle>,
        stop: CancellationToken,
    ) -> Self {
        let budget = services.client.budget(&tokens, &handle.window().mailbox);
        let (audit_schedule, segment_schedule) = (None, None);
        Self { services, tokens, budget, handle, stop, audit_schedule, segment_schedule }
    }

    /// Runs rounds until it is asked to stop, a round hangs or the store fails.
    ///
    /// # Errors
    /// The store has failed for good. Every other error is a state of the window.
    // By reference, because a future that owns the worker would store it twice.
    pub async fn run(&mut self, first: FirstRun) -> Result<WorkerExit, StoreError> {
        // In seconds, to keep the future of a sleeping worker small.
        let mut interval = self.handle.window().settings.interval.as_secs_f32();
        let mut due = self.first_due(first);
        loop {
            due = self.to_grid(due);
            self.publish_due(due);
            // A stop wakes the handle too, so that a sleeping worker waits for two things only.
            // `biased`: a wake-up is taken before the due time; left over, it would end the next
            // sleep for nothing.
            let woken = tokio::select! {
                biased;
                () = self.handle.wake.notified() => true,
                () = tokio::time::sleep_until(due) => false,
            };
            if self.stop.is_cancelled() || self.handle.is_stopping() {
                return Ok(WorkerExit::Stopped);
            }
            if woken && self.handle.lock().request.is_none() {
                // No round is requested: the settings changed, or the request was already served.
                let new = self.handle.window().settings.interval;
                due = self.retimed(due, interval, new);
                interval = new.as_secs_f32();
                continue;
            }
            let Some(admission) = self.admission().await else { continue };
            if !woken {
                self.services.metrics.late.observe(due.elapsed());
            }
            match Box::pin(self.turn(admission)).await {
                Ok(next) => (due, interval) = next,
                Err(end) => return end.into(),
            }
        }
    }

    /// Waits until a round may begin, without the memory of a round. A requested round begins at
    /// once, unless its account could not sign in. `None`: the worker was woken meanwhile.
    async fn admission(&self) -> Option<Admission> {
        {
            let state = self.handle.lock();
            // Thousands of windows may wait for one sign-in, and are then requested together.
            if state.request.is_some() && state.health.state != WindowState::SignInRequired {
                return Some(Admission::default());
            }
        }
        tokio::select! {
            biased;
            () = self.handle.wake.notified() => None,
            permit = self.services.client.budgets().admit_round() => {
                Some(Admission(Mutex::new(permit)))
            }
        }
    }

    /// Runs a round, and an audit if one is due. Returns when the next round is due, and the
    /// interval by which that was computed, in seconds.
    async fn turn(&mut self, admission: Admission) -> Result<(Instant, f32), WorkerEnd> {
        // Spans live as long as the round, because sleeping windows need none. Their level is the
        // highest, so that every log line of a window names it.
        let (number, request) = self.begin_round();
        let window = self.handle.window();
        let interval = window.settings.interval.as_secs_f32();
        let span = tracing::error_span!("window", window = %window.name);
        let round = tracing::error_span!(parent: &span, "round", round = number);
        let due = self.round(window, number, request, admission).instrument(round).await?;
        if !self.audit_is_due() {
            return Ok((due, interval));
        }
        self.publish_due(due);
        let next = Box::pin(self.audit(due)).instrument(span).await;
        self.handle.lock().end_round();
        Ok((due.min(next?), interval))
    }

    /// When a round that was due after the old interval is due after the new one. A window that
    /// waits for an operator or for a confirmation keeps its due time.
    fn retimed(&self, due: Instant, old: f32, new: Duration) -> Instant {
        if old == new.as_secs_f32() {
            return due;
        }
        let old = Duration::from_secs_f32(old);
        match self.handle.state() {
            WindowState::Held | WindowState::Quarantined | WindowState::SignInRequired => due,
            _ => {
                let now = Instant::now();
                now + schedule::rescale(due.saturating_duration_since(now), old, new)
            }
        }
    }

    fn first_due(&self, first: FirstRun) -> Instant {
        let spread = match first {
            FirstRun::Now => Duration::ZERO,
            FirstRun::Spread => {
                schedule::spread(self.handle.window().settings.interval, self.services.env.random())
            }
        };
        // Graph may have asked an earlier process to pause for this mailbox.
        let now = Instant::now();
        self.budget.paused_until().map_or(now, |until| until.max(now)) + spread
    }

    /// A time at which a round may begin together with others.
    fn to_grid(&self, due: Instant) -> Instant {
        let now = Instant::now();
        let wait = due.saturating_duration_since(now);
        // A time that has passed counts as the lateness of the round.
        if wait.is_zero() { due } else { now + schedule::to_grid(wait, self.services.env.now()) }
    }

    fn publish_due(&self, due: Instant) {
        let now = self.services.env.now();
        self.handle.lock().next_due = Some(MonotonicTime::at(due, now));
    }

    /// Runs one attempt. Returns when the next is due.
    async fn round(
        &mut self,
        window: Arc<Window>,
        number: u64,
        request: Option<RoundRequest>,
        admission: Admission,
    ) -> Result<Instant, WorkerEnd> {
        let begun = Instant::now();
        let progress = RoundProgress { admission, ..RoundProgress::new(self.target(&window)) };
        let stop = self.handle.arm_stop(&self.stop);
        let running = self.services.metrics.running.increment();
        let mut attempt = self.attempt(&window, &progress, &stop, number);
        if request.is_some() && self.handle.state() == WindowState::SignInRequired {
            // The cause of the refusal may have been fixed before the request.
            self.tokens.retry_refused();
        }
        let result = tokio::select! {
            biased;
            result = Box::pin(attempt.run(request, self.resting_segments())) => result,
            () = self.stalled(&progress) => return Err(WorkerEnd::Exit(WorkerExit::Stuck)),
        };
        let result = match result {
            Ok(end) => Ok(end),
            Err(error) => Err(error.or_end()?),
        };
        drop(running);
        let stats = attempt.into_stats();
        self.services.metrics.took.observe(begun.elapsed());
        let due = match result {
            Ok(end) => {
                let segments = self.handle.lock().segments();
                let now = self.services.env.now();
                let settings = &window.settings;
                self.record_segments(settings, &segments, begun, stats.settled, now);
                self.publish_end(&window, number, begun, end, &stats)
            }
            Err(error) => {
                if matches!(error, AttemptError::Store(_)) {
                    // The disk was full, so the request is not served: it stays.
                    self.handle.lock().keep_request(request);
                }
                self.publish_failure(&window, number, begun, &stats, &error)
            }
        };
        self.handle.notify_finished();
        Ok(due.max(Instant::now()))
    }

    /// An attempt at the round with this number.
    fn attempt<'a>(
        &'a self,
        window: &'a Window,
        progress: &'a RoundProgress,
        stop: &'a CancellationToken,
        number: u64,
    ) -> Attempt<'a> {
        Attempt::new(AttemptContext {
            services: &self.services,
            target: &progress.target,
            id: self.handle.id(),
            window,
            handle: &self.handle,
            stop,
            steps: &progress.steps,
            number,
        })
    }

    /// What the requests of a round are sent to.
    fn target(&self, window: &Window) -> Target {
        let Window { mailbox, calendar, .. } = window;
        Target::new(mailbox.clone(), calendar.clone(), self.tokens.clone(), self.budget.clone())
    }

    /// Segments that need no round yet.
    fn resting_segments(&self) -> SegmentSet {
        if self.suspects_drift() {
            // A suspicion needs a round of all segments before it can be confirmed.
            return SegmentSet::EMPTY;
        }
        self.segment_schedule.as_deref().map_or(SegmentSet::EMPTY, SegmentSchedule::resting)
    }

    /// Records when the segments that settled in a round are due again.
    fn record_segments(
        &mut self,
        settings: &WindowSettings,
        segments: &[Edges],
        begun: Instant,
        settled: SegmentSet,
        now: Timestamp,
    ) {
        if segments.len() < 2 {
            self.segment_schedule = None;
            return;
        }
        let schedule = self.segment_schedule.get_or_insert_default();
        schedule.record(settings, segments, begun, settled, now);
    }

    /// Resolves once the round has made no progress for longer than any of its steps may take.
    async fn stalled(&self, round: &RoundProgress) {
        // A request counts when it is sent, so the next count is at least its response later: twice
        // the timeout, as a margin.
        let begun = Instant::now();
        let longest_request = self.services.client.request_timeout().saturating_mul(2);
        let progress = || {
            self.handle.lock().beat();
            round.admission.release_when_old(begun, self.budget.paused_until().is_some());
            let queued = round.target.queued.load(Ordering::Relaxed);
            let requests = round.target.requests.load(Ordering::Relaxed);
            (!queued).then(|| (requests, round.steps.load(Ordering::Relaxed)))
        };
        unchanged_for(longest_request.saturating_add(STALL_LIMIT), progress).await;
    }

    /// Begins a round; returns its number and the request that it serves. Both are read under one
    /// lock, because [`WindowHandle::request_round`] promises a round number.
    fn begin_round(&self) -> (u64, Option<RoundRequest>) {
        let mut state = self.handle.lock();
        state.running = true;
        state.beat();
        state.health.state = match state.health.state {
            WindowState::Settled | WindowState::Following => WindowState::Following,
            other => other,
        };
        (state.rounds + 1, state.request.take())
    }
}

/// Resolves once `progress` has returned the same value for `limit`. `None` marks a wait that may
/// take any time: the round is queued behind others.
async fn unchanged_for<T: PartialEq>(limit: Duration, progress: impl Fn() -> Option<T>) {
    let mut last = (progress(), Instant::now());
    loop {
        tokio::time::sleep(HEARTBEAT).await;
        let seen = progress();
        if seen.is_none() || seen != last.0 {
            last = (seen, Instant::now());
        } else if last.1.elapsed() >= limit {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
