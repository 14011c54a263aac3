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
use crate::mirror::round::RoundOutcome;
use crate::mirror::schedule;
use crate::mirror::status::{LastError, LastResync, ResyncReason, WindowState};
use crate::mirror::window::Window;
use crate::store::{Store, StoreError};

use attempt::{Attempt, AttemptStats};
use audit_schedule::AuditSchedule;
use error::AttemptError;
use monotonic::MonotonicTime;
pub use state::{RoundRequest, WindowHandle, WindowSummary};

/// Longest wait of a quarantined window.
const MAX_QUARANTINE: Duration = Duration::from_secs(6 * 3600);
/// First wait of a quarantined window.
const FIRST_QUARANTINE: Duration = Duration::from_secs(15 * 60);
/// First wait of a window whose account needs a human.
const FIRST_SIGN_IN_RETRY: Duration = Duration::from_secs(5 * 60);

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
            // Whoever asks for a round may have mended what was refused.
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
                begun + self.on_success(&window, number, begun, done)
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
                // From now on, not from the beginning: the attempt itself may have taken long.
                Instant::now() + self.on_error(&window, number, begun, &done, &error)
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
        worker_state.state = match worker_state.state {
            WindowState::Settled | WindowState::Following => WindowState::Following,
            other => other,
        };
        (worker_state.rounds + 1, worker_state.asked.take())
    }

    fn on_success(
        &self,
        window: &Window,
        number: u64,
        begun: Instant,
        done: AttemptStats,
    ) -> Duration {
        let env = &self.services.env;
        let now = env.now();
        let took = begun.elapsed();
        let mut worker_state = self.handle.lock();
        worker_state.running = false;
        worker_state.rounds = number;
        if done.over == RoundOutcome::Held {
            let wait = self.until(window, done.held_until, Duration::ZERO);
            worker_state.held = Some(Box::new(MonotonicTime::at(Instant::now() + wait, now)));
        } else {
            worker_state.held = None;
        }
        if done.over == RoundOutcome::Held && done.requests == 0 {
            worker_state.state = WindowState::Held;
            worker_state.past.record_idle();
            // The confirmation is not due yet: nothing was asked, so nothing succeeded.
            return self.until(window, done.held_until, took);
        }
        worker_state.failures = 0;
        worker_state.last_error = None;
        worker_state.last_success = Some(MonotonicTime::now(now));
        worker_state.record_round(done.round(number, now, took), outcome(done.over));
        let delay = match done.over {
            RoundOutcome::Settled => {
                worker_state.state = WindowState::Settled;
                worker_state.settled_once = true;
                worker_state.audits.begin(now);
                schedule::delay(window.interval, window.jitter, env.random())
            }
            RoundOutcome::Incomplete => {
                let delay = schedule::delay(window.interval, window.jitter, env.random());
                worker_state.state = WindowState::BackingOff;
                worker_state.last_error = Some(Box::new(LastError {
                    at: now,
                    kind: "incomplete".to_owned(),
                    status: None,
                    code: None,
                    message:
                        "some series could not be completed; the rest of the calendar is up to date"
                            .to_owned(),
                    request_id: None,
                    retry_at: later(now, delay),
                }));
                delay
            }
            RoundOutcome::Held => {
                worker_state.state = WindowState::Held;
                self.until(window, done.held_until, took)
            }
            // These are troubles, told by `ill`.
            RoundOutcome::Stuck(_) | RoundOutcome::Failed => Duration::ZERO,
        };
        // Rounds go on between the old edges.
        let held_move = worker_state.held_move.as_deref().map(|until| took + until.remaining());
        if held_move.is_some() {
            worker_state.state = WindowState::Held;
        }
        let delay = held_move.map_or(delay, |until| until.min(delay));
        let told = worker_state.logged_state;
        worker_state.logged_state = Some(worker_state.state).filter(|state| state.is_trouble());
        let news = worker_state.logged_state != told;
        drop(worker_state);
        self.services.metrics.rounds.add(outcome(done.over), 1);
        tracing::debug!(
            outcome = outcome(done.over),
            took_ms = took.as_millis(),
            requests = done.requests,
            pages = done.pages,
            created = done.created,
            updated = done.updated,
            removed = done.removed,
            "round over"
        );
        match done.over {
            RoundOutcome::Settled | RoundOutcome::Incomplete if held_move.is_some() && news => {
                tracing::warn!(
                    "move of the edges that drops most of the window is held until it is confirmed"
                )
            }
            RoundOutcome::Settled if held_move.is_none() && told.is_some() => {
                tracing::info!("window recovered");
            }
            RoundOutcome::Incomplete if held_move.is_none() && news => {
                tracing::warn!("some series could not be completed, the rest is up to date");
            }
            RoundOutcome::Held if news => {
                tracing::warn!(
                    "removal too large to believe is held until an enumeration confirms it"
                );
            }
            _ => {}
        }
        delay
    }

    /// The delay until a time, counted as all delays from the beginning of the round.
    fn until(&self, window: &Window, at: Option<Timestamp>, took: Duration) -> Duration {
        let now = self.services.env.now();
        let wait = Duration::try_from(at.unwrap_or(now).duration_since(now)).unwrap_or_default();
        // The wall clock may have been set since the time was computed.
        took + wait.min(window.confirm_after)
    }

    fn on_error(
        &self,
        window: &Window,
        number: u64,
        begun: Instant,
        done: &AttemptStats,
        error: &AttemptError,
    ) -> Duration {
        let env = &self.services.env;
        let chance = env.random();
        let now = env.now();
        let mut worker_state = self.handle.lock();
        worker_state.running = false;
        worker_state.rounds = number;
        let state = error.state();
        // A resync under way shows as such, and is no end of the trouble that it is part of.
        let first = worker_state.state.is_trouble() && worker_state.state != state;
        // Another sort of trouble begins the count anew, and so do committed pages: the next attempt
        // goes on behind them. Not so where it begins with the same pages again.
        // Nobody was asked, so nothing failed anew, and what is waited for comes no later.
        let idle = done.requests == 0 && error.is_remembered();
        let progress = done.pages > 0
            && matches!(error, AttemptError::Transient(_) | AttemptError::Throttled { .. });
        worker_state.failures = match worker_state.failures {
            failures if idle => failures.max(1),
            _ if first || progress => 1,
            failures => failures.saturating_add(1),
        };
        let failures = worker_state.failures;
        let longest = schedule::MAX_BACKOFF.max(window.interval);
        let delay = match error {
            AttemptError::Throttled { wait, .. } => {
                let own = schedule::backoff(schedule::FIRST_RETRY, longest, failures, chance);
                own.max(*wait)
            }
            AttemptError::SignIn(_) => {
                schedule::backoff(FIRST_SIGN_IN_RETRY, schedule::MAX_BACKOFF, failures, chance)
            }
            AttemptError::Stuck { until, .. } => self.until(window, *until, Duration::ZERO),
            AttemptError::Quarantine(_) | AttemptError::Endless => {
                schedule::backoff(FIRST_QUARANTINE, MAX_QUARANTINE, failures, chance)
            }
            AttemptError::Store(_) | AttemptError::Transient(_) | AttemptError::LinksDie => {
                schedule::backoff(window.interval, longest, failures, chance)
            }
        };
        let left = worker_state
            .next_due
            .map(MonotonicTime::remaining)
            .filter(|left| idle && !left.is_zero());
        let delay = left.map_or(delay, |left| left.min(delay));
        worker_state.state = state;
        let retry_at = later(now, delay);
        let last_error = error.describe(now, retry_at);
        worker_state.record_round(done.round(number, now, begun.elapsed()), &last_error.kind);
        self.services.metrics.rounds.add(&last_error.kind, 1);
        tracing::debug!(
            outcome = last_error.kind,
            status = last_error.status,
            failures,
            retry_in_s = delay.as_secs(),
            "round over"
        );
        // Once, not at each attempt; and not here where it was told for all windows at once.
        if worker_state.logged_state != Some(state) && !error.is_shared() {
            worker_state.logged_state = Some(state);
            tracing::warn!(
                %state,
                kind = last_error.kind,
                status = last_error.status,
                code = last_error.code,
                request_id = last_error.request_id,
                reason = last_error.message,
                retry_in_s = delay.as_secs(),
                "window in trouble"
            );
        }
        worker_state.last_error = Some(Box::new(last_error));
        delay
    }
}

/// The word under which a round that was no failure is counted.
fn outcome(over: RoundOutcome) -> &'static str {
    match over {
        RoundOutcome::Settled => "settled",
        RoundOutcome::Incomplete => "incomplete",
        RoundOutcome::Held => "held",
        // Counted by their kind, as troubles are.
        RoundOutcome::Stuck(_) | RoundOutcome::Failed => crate::metrics::OTHER,
    }
}

/// The wall-clock time after a delay; none where a calendar cannot express it.
fn later(now: Timestamp, delay: Duration) -> Option<Timestamp> {
    now.checked_add(SignedDuration::try_from(delay).unwrap_or(SignedDuration::MAX)).ok()
}

/// Notes a resync in what is published; the store counts it in the same commit.
fn record_resync(handle: &WindowHandle, at: Timestamp, reason: ResyncReason) {
    let mut worker_state = handle.lock();
    worker_state.state = WindowState::Enumerating;
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
