//! One worker per window: waits until a round is due, runs it, tells how it went.
//!
//! A worker knows nothing of other workers; what they share (requests in flight, tokens, the
//! writer) is inside what it is handed. What a round needs is boxed and dropped with the round,
//! so that a sleeping window costs almost nothing.

mod attempt;
mod audit_schedule;
mod error;
mod history;
mod monotonic;
mod state;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::Instrument as _;

use crate::env::Env;
use crate::graph::{GraphClient, Target};
use crate::metrics::RoundMetrics;
use crate::mirror::health::{Notice, Pacing, RoundFailure, RoundResult};
use crate::mirror::outcome::{ErrorKind, RoundOutcome};
use crate::mirror::round::RoundEnd;
use crate::mirror::schedule;
use crate::mirror::status::{LastError, LastResync, ResyncReason, WindowState};
use crate::mirror::window::Window;
use crate::store::{Store, StoreError};

use attempt::{Attempt, AttemptStats};
use audit_schedule::AuditSchedule;
use error::AttemptError;
use monotonic::MonotonicTime;
pub use state::{RoundRequest, WindowHandle, WindowSummary};

/// How often a worker looks whether its round gets on.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(60);
/// What a round does besides requests never takes longer at a time.
const STALL_LIMIT: Duration = Duration::from_secs(600);

/// What every worker is handed.
#[derive(Clone)]
pub struct Services {
    /// The mirror.
    pub store: Store,
    /// Graph.
    pub client: GraphClient,
    /// Wall clock and chance.
    pub env: Env,
    /// What workers do.
    pub metrics: Arc<RoundMetrics>,
}

/// A window's worker.
pub struct Worker {
    services: Arc<Services>,
    target: Target,
    id: crate::mirror::position::WindowId,
    handle: Arc<WindowHandle>,
    stop: watch::Receiver<bool>,
    /// What most windows need never, and none needs long.
    audit_schedule: Option<Box<AuditSchedule>>,
}

/// How a worker ended that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerExit {
    /// It was told to.
    Stopped,
    /// Its round got on no more, although everything in it has a deadline.
    Stuck,
}

/// When the first round of a worker is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstRun {
    /// At once: there is something to enumerate or to finish.
    Now,
    /// Somewhere within the interval, so that a fleet that restarts does not ask all at once.
    Spread,
}

impl Worker {
    /// A worker for the window that `cell` describes.
    pub fn new(
        services: Arc<Services>,
        target: Target,
        id: crate::mirror::position::WindowId,
        handle: Arc<WindowHandle>,
        stop: watch::Receiver<bool>,
    ) -> Self {
        Self { services, target, id, handle: handle, stop, audit_schedule: None }
    }

    /// Works until told to stop, or until the store fails.
    ///
    /// # Errors
    /// Where the store has failed for good; everything else is a state of the window.
    // By reference: a future that owns the worker keeps a second place for it.
    pub async fn run(&mut self, first: FirstRun) -> Result<WorkerExit, StoreError> {
        // Seconds; a future that sleeps is kept small.
        let mut interval = self.handle.window().interval.as_secs_f32();
        let mut due = self.first_due(first);
        loop {
            self.show_due(due);
            // A stop wakes the cell too, so that a sleeping worker waits for two things only.
            // First whoever asked: a question left over would be one more round.
            let woken = tokio::select! {
                biased;
                () = self.handle.wake.notified() => true,
                () = tokio::time::sleep_until(due) => false,
            };
            if *self.stop.borrow() {
                return Ok(WorkerExit::Stopped);
            }
            if woken && self.handle.lock().asked.is_none() {
                // Nobody wants a round: the window was set otherwise, or a wish came true meanwhile.
                let now = self.handle.window().interval;
                due = self.retimed(due, interval, now);
                interval = now.as_secs_f32();
                continue;
            }
            if !woken {
                self.services.metrics.late.observe(due.elapsed());
            }
            // Spans live as long as the round: sleeping windows need none. They are of the highest
            // level, so that whatever is told of a window tells which one it is.
            let (number, asked) = self.begin_round();
            let span = tracing::error_span!("window", window = %self.handle.window().name);
            let round = tracing::error_span!(parent: &span, "round", round = number);
            match Box::pin(self.round(number, asked).instrument(round)).await? {
                Ok(next) => (due, interval) = next,
                Err(ended) => return Ok(ended),
            }
            if self.audit_is_due() {
                self.show_due(due);
                match Box::pin(self.audit(due).instrument(span)).await? {
                    Ok(next) => due = due.min(next),
                    Err(ended) => return Ok(ended),
                }
            }
        }
    }

    /// When a round that was due after one interval is due after another. A window in trouble
    /// that waits for people, or for a confirmation, goes on waiting.
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
                schedule::spread(self.handle.window().interval, self.services.env.random())
            }
        };
        // An earlier process may have been asked to leave the mailbox alone.
        let now = Instant::now();
        self.target.budget.paused_until().map_or(now, |until| until.max(now)) + spread
    }

    fn show_due(&self, due: Instant) {
        let now = self.services.env.now();
        self.handle.lock().next_due = Some(MonotonicTime::at(due, now));
    }

    /// One attempt, and when the next is due, after which interval; or why there is none.
    async fn round(
        &mut self,
        number: u64,
        asked: Option<RoundRequest>,
    ) -> Result<Result<(Instant, f32), WorkerExit>, StoreError> {
        let window = self.handle.window();
        let begun = Instant::now();
        let steps = AtomicU32::new(0);
        let mut attempt = Attempt::new(
            &self.services,
            &self.target,
            self.id,
            &window,
            &self.handle,
            &self.stop,
            &steps,
            number,
        );
        if asked.is_some() && self.handle.state() == WindowState::SignInRequired {
            // A requested round may mean that the cause of the refusal was mended.
            self.target.tokens.retry_refused();
        }
        let mut stop = self.stop.clone();
        let result = tokio::select! {
            biased;
            // First: who is told to stop asks nothing more. A commit under way is finished by the
            // writer whether or not anybody waits.
            _ = stop.wait_for(|stop| *stop) => return Ok(Err(WorkerExit::Stopped)),
            result = Box::pin(attempt.run(asked, self.resting())) => result,
            () = self.stalled(&steps) => return Ok(Err(WorkerExit::Stuck)),
        };
        let done = attempt.done();
        self.services.metrics.took.observe(begun.elapsed());
        let due = match result {
            Ok(()) => {
                self.rest(&window, begun, done.settled);
                self.on_success(&window, number, begun, &done)
            }
            Err(AttemptError::Store(error @ (StoreError::Failed(_) | StoreError::Closed))) => {
                return Err(error);
            }
            Err(error) => {
                if matches!(error, AttemptError::Store(_)) {
                    // What was asked for has not begun: it is still asked for.
                    let mut worker_state = self.handle.lock();
                    worker_state.asked = worker_state.asked.max(asked);
                }
                self.on_error(&window, number, begun, &done, &error)
            }
        };
        self.handle.announce();
        Ok(Ok((due.max(Instant::now()), window.interval.as_secs_f32())))
    }

    /// Resolves once the round has not got on for longer than anything in it may take.
    async fn stalled(&self, steps: &AtomicU32) {
        let longest = self.services.client.request_timeout().saturating_mul(2);
        let look = || {
            self.handle.lock().last_heartbeat = Instant::now();
            let queued = self.target.queued.load(Ordering::Relaxed);
            let requests = self.target.requests.load(Ordering::Relaxed);
            (!queued).then(|| (requests, steps.load(Ordering::Relaxed)))
        };
        unchanged_for(longest.saturating_add(STALL_LIMIT), look).await;
    }

    /// The round's number, and what was asked of it: both at once, as [`Cell::ask`] promises numbers.
    fn begin_round(&self) -> (u64, Option<RoundRequest>) {
        let mut worker_state = self.handle.lock();
        worker_state.running = true;
        worker_state.last_heartbeat = Instant::now();
        worker_state.health.state = match worker_state.health.state {
            WindowState::Settled | WindowState::Following => WindowState::Following,
            other => other,
        };
        (worker_state.rounds + 1, worker_state.asked.take())
    }

    /// Publishes a round that did not fail; answers when the next one is due.
    fn on_success(
        &self,
        window: &Window,
        number: u64,
        begun: Instant,
        stats: &AttemptStats,
    ) -> Instant {
        let now = self.services.env.now();
        let took = begun.elapsed();
        let wait = self.wait_until(window, stats.held_until);
        let asked = stats.end != RoundEnd::Held || stats.requests > 0;
        let (result, outcome) = match stats.end {
            RoundEnd::Settled => (RoundResult::Settled, RoundOutcome::Settled),
            RoundEnd::Held => (RoundResult::Held { wait, asked }, RoundOutcome::Held),
            // A stuck or failed round is an error of the attempt and does not come here.
            RoundEnd::Incomplete | RoundEnd::Stuck(_) | RoundEnd::Failed => {
                (RoundResult::Incomplete, RoundOutcome::Failed(ErrorKind::Incomplete))
            }
        };
        let mut state = self.handle.lock();
        state.running = false;
        state.rounds = number;
        state.held = (outcome == RoundOutcome::Held)
            .then(|| Box::new(MonotonicTime::at(Instant::now() + wait, now)));
        let pacing = Pacing {
            interval: window.interval,
            jitter: window.jitter,
            took,
            left: None,
            held_move: state.held_move.as_deref().map(|until| until.remaining()),
        };
        let (health, delay, notice) =
            state.health.on_result(result, &pacing, || self.services.env.random());
        state.health = health;
        let due = Instant::now() + delay;
        if !asked {
            // The confirmation is not due yet: nothing was asked, so nothing succeeded.
            state.past.record_idle();
            return due;
        }
        state.last_success = Some(MonotonicTime::now(now));
        state.record_round(stats.round(number, now, took), outcome);
        state.last_error =
            (result == RoundResult::Incomplete).then(|| Box::new(incomplete(now, delay)));
        if result == RoundResult::Settled {
            state.audits.begin(now);
        }
        drop(state);
        self.services.metrics.rounds.add(outcome.as_str(), 1);
        tracing::debug!(
            outcome = outcome.as_str(),
            took_ms = took.as_millis(),
            requests = stats.requests,
            pages = stats.pages,
            created = stats.created,
            updated = stats.updated,
            removed = stats.removed,
            "round over"
        );
        log_notice(notice);
        due
    }

    /// How long until a stored time. The wall clock may have been set since it was computed.
    fn wait_until(&self, window: &Window, at: Option<Timestamp>) -> Duration {
        let now = self.services.env.now();
        let wait = Duration::try_from(at.unwrap_or(now).duration_since(now)).unwrap_or_default();
        wait.min(window.confirm_after)
    }

    /// Publishes a failed attempt; answers when the next one is due.
    fn on_error(
        &self,
        window: &Window,
        number: u64,
        begun: Instant,
        stats: &AttemptStats,
        error: &AttemptError,
    ) -> Instant {
        let chance = self.services.env.random();
        let now = self.services.env.now();
        let failure = RoundFailure {
            cause: error.cause(|until| self.wait_until(window, until)),
            remembered: stats.requests == 0 && error.is_remembered(),
            progress: stats.pages > 0 && error.keeps_progress(),
            shared: error.is_shared(),
        };
        let mut state = self.handle.lock();
        state.running = false;
        state.rounds = number;
        let pacing = Pacing {
            interval: window.interval,
            jitter: window.jitter,
            took: begun.elapsed(),
            left: state.next_due.map(MonotonicTime::remaining),
            held_move: None,
        };
        let (health, delay, notice) =
            state.health.on_result(RoundResult::Failed(failure), &pacing, || chance);
        state.health = health;
        let last_error = error.describe(now, later(now, delay));
        let kind = last_error.kind;
        state.record_round(stats.round(number, now, begun.elapsed()), RoundOutcome::Failed(kind));
        self.services.metrics.rounds.add(kind.as_str(), 1);
        tracing::debug!(
            outcome = kind.as_str(),
            status = last_error.status,
            failures = health.failures,
            retry_in_s = delay.as_secs(),
            "round over"
        );
        if notice.is_some() {
            tracing::warn!(
                state = %health.state,
                kind = kind.as_str(),
                status = last_error.status,
                code = last_error.code,
                request_id = last_error.request_id,
                reason = last_error.message,
                retry_in_s = delay.as_secs(),
                "window in trouble"
            );
        }
        state.last_error = Some(Box::new(last_error));
        Instant::now() + delay
    }
}

/// The error shown for a round that could not complete some series.
fn incomplete(now: Timestamp, delay: Duration) -> LastError {
    LastError {
        at: now,
        kind: ErrorKind::Incomplete,
        status: None,
        code: None,
        message: "some series could not be completed; the rest of the calendar is up to date"
            .to_owned(),
        request_id: None,
        retry_at: later(now, delay),
    }
}

/// Logs what a round that did not fail has to tell.
fn log_notice(notice: Option<Notice>) {
    match notice {
        Some(Notice::Recovered) => tracing::info!("window recovered"),
        Some(Notice::Incomplete) => {
            tracing::warn!("some series could not be completed, the rest is up to date");
        }
        Some(Notice::RemovalHeld) => {
            tracing::warn!("removal too large to believe is held until an enumeration confirms it");
        }
        Some(Notice::MoveHeld) => tracing::warn!(
            "move of the edges that drops most of the window is held until it is confirmed"
        ),
        // Logged with the error.
        Some(Notice::Trouble) | None => {}
    }
}

/// The wall-clock time after a delay; none where a calendar cannot express it.
fn later(now: Timestamp, delay: Duration) -> Option<Timestamp> {
    now.checked_add(SignedDuration::try_from(delay).unwrap_or(SignedDuration::MAX)).ok()
}

/// Notes a resync in what is published; the store counts it in the same commit.
fn record_resync(handle: &WindowHandle, at: Timestamp, reason: ResyncReason) {
    let mut worker_state = handle.lock();
    worker_state.health.state = WindowState::Enumerating;
    worker_state.resync = Some(reason);
    if reason != ResyncReason::New {
        worker_state.resyncs += 1;
        worker_state.last_resync = Some(Box::new(LastResync { at, reason }));
    }
}

/// Resolves once `look` has seen the same for so long. `None` is a wait that may take any time:
/// for one's turn among many.
async fn unchanged_for<T: PartialEq>(patience: Duration, look: impl Fn() -> Option<T>) {
    let mut last = (look(), Instant::now());
    loop {
        tokio::time::sleep(HEARTBEAT).await;
        let seen = look();
        if seen.is_none() || seen != last.0 {
            last = (seen, Instant::now());
        } else if last.1.elapsed() >= patience {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_what_neither_moves_nor_queues_is_stuck() {
        let begun = Instant::now();
        let minutes = || begun.elapsed().as_secs() / 60;
        unchanged_for(STALL_LIMIT, || Some(1)).await;
        assert_eq!(minutes(), 10, "nothing moves");

        // Moves for an hour, queues for an hour, then hangs.
        let moved = Cell::new(0);
        let look = || match minutes() - 10 {
            ..60 => {
                moved.set(moved.get() + 1);
                Some(moved.get())
            }
            60..120 => None,
            _ => Some(0),
        };
        unchanged_for(STALL_LIMIT, look).await;
        assert_eq!(minutes(), 10 + 120 + 10);
    }
}
