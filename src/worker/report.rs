//! Publishes the result of a round: the window's health and history, the metrics, and the log.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use super::Worker;
use super::attempt::{AttemptEnd, AttemptStats};
use super::error::AttemptError;
use super::monotonic::MonotonicTime;
use crate::mirror::failure::ErrorKind;
use crate::mirror::health::{Notice, Pacing, RoundFailure, RoundResult};
use crate::mirror::outcome::RoundOutcome;
use crate::mirror::status::{LastError, RoundFigures};
use crate::mirror::window::Window;

impl Worker {
    /// Publishes a round that did not fail; returns when the next one is due.
    pub(super) fn publish_end(
        &self,
        window: &Window,
        number: u64,
        begun: Instant,
        end: AttemptEnd,
        stats: &AttemptStats,
    ) -> Instant {
        let now = self.services.env.now();
        let took = begun.elapsed();
        let (result, outcome, held) = match end {
            AttemptEnd::Settled => (RoundResult::Settled, RoundOutcome::Settled, None),
            AttemptEnd::Incomplete => {
                (RoundResult::Incomplete, RoundOutcome::Failed(ErrorKind::Incomplete), None)
            }
            AttemptEnd::Held { until } => {
                let (wait, asked) = (self.remaining_wait(window, until), stats.round.requests > 0);
                let until = Box::new(MonotonicTime::at(Instant::now() + wait, now));
                (RoundResult::Held { wait, asked }, RoundOutcome::Held, Some(until))
            }
        };
        let mut state = self.handle.lock();
        state.running = false;
        state.rounds = number;
        state.held = held;
        let pacing = Pacing {
            interval: window.settings.interval,
            jitter: window.settings.jitter,
            took,
            held_move: state.held_move.as_deref().map(|until| until.remaining()),
        };
        let (health, delay, notice) =
            state.health.on_result(result, &pacing, || self.services.env.random());
        state.health = health;
        let due = Instant::now() + delay;
        if let RoundResult::Held { asked: false, .. } = result {
            // The confirmation is not due yet. No request was made, so this is no success.
            state.history.record_without_request();
            return due;
        }
        state.last_success = Some(MonotonicTime::now(now));
        state.record_round(finished(stats, number, now, took), outcome);
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
            requests = stats.round.requests,
            pages = stats.round.pages,
            created = stats.round.created,
            updated = stats.round.updated,
            removed = stats.round.removed,
            "round over"
        );
        log_notice(notice);
        due
    }

    /// The wait until a stored time, at most `confirm_after`: the wall clock may have been set
    /// since the time was computed.
    pub(super) fn remaining_wait(&self, window: &Window, at: Option<Timestamp>) -> Duration {
        let now = self.services.env.now();
        let wait = Duration::try_from(at.unwrap_or(now).duration_since(now)).unwrap_or_default();
        wait.min(window.settings.confirm_after)
    }

    /// Publishes a failed attempt; returns when the next one is due.
    pub(super) fn publish_failure(
        &self,
        window: &Window,
        number: u64,
        begun: Instant,
        stats: &AttemptStats,
        error: &AttemptError,
    ) -> Instant {
        let chance = self.services.env.random();
        let now = self.services.env.now();
        let cause = error.cause(|until| self.remaining_wait(window, until));
        let mut state = self.handle.lock();
        state.running = false;
        state.rounds = number;
        let failure = RoundFailure {
            cause,
            remembered: stats.round.requests == 0 && error.may_be_remembered(),
            progress: stats.round.pages > 0 && error.keeps_progress(),
            shared: error.is_shared(),
            left: state.next_due.map(MonotonicTime::remaining),
        };
        let (health, delay, notice) =
            state.health.on_failure(failure, window.settings.interval, chance);
        state.health = health;
        let last_error = error.describe(now, wall_time_after(now, delay));
        let kind = last_error.kind;
        let round = finished(stats, number, now, begun.elapsed());
        state.record_round(round, RoundOutcome::Failed(kind));
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

/// A finished attempt as a published round.
fn finished(stats: &AttemptStats, number: u64, at: Timestamp, took: Duration) -> RoundFigures {
    let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    RoundFigures { number, at, took_ms, ..stats.round }
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
        retry_at: wall_time_after(now, delay),
    }
}

/// Logs the notice of a round that did not fail.
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
        // Trouble is logged with the error.
        Some(Notice::Trouble) | None => {}
    }
}

/// The wall-clock time after a delay; `None` if it is out of range.
fn wall_time_after(now: Timestamp, delay: Duration) -> Option<Timestamp> {
    now.checked_add(SignedDuration::try_from(delay).unwrap_or(SignedDuration::MAX)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::GraphError;
    use crate::graph::transport::{TransportError, TransportErrorKind};
    use crate::mirror::fallback::StallKind;
    use crate::mirror::status::{WindowState, WindowStatus};
    use crate::tests::{NOON, window};
    use crate::worker::tests::WorkerFixture;

    const HOUR: Duration = Duration::from_secs(3600);

    /// A window with hourly rounds, whose first round runs.
    async fn running() -> WorkerFixture {
        let mut window = window("alice");
        window.settings.interval = HOUR;
        window.settings.jitter = 0.0;
        window.settings.confirm_after = HOUR * 10;
        let fixture = WorkerFixture::new(window, []).await;
        fixture.handle.lock().running = true;
        fixture
    }

    /// What an attempt with this number of requests did.
    fn stats(requests: u32) -> AttemptStats {
        let round =
            RoundFigures { requests, pages: requests, created: 2, ..RoundFigures::default() };
        AttemptStats { round, ..AttemptStats::default() }
    }

    /// Publishes the end of a round; returns the wait until the next one.
    fn publish(fixture: &WorkerFixture, end: AttemptEnd, stats: &AttemptStats) -> Duration {
        let window = fixture.handle.window();
        let due = fixture.worker().publish_end(&window, 1, Instant::now(), end, stats);
        due.duration_since(Instant::now())
    }

    /// Publishes a failure; returns the wait until the next round.
    fn publish_failure(
        fixture: &WorkerFixture,
        stats: &AttemptStats,
        error: &AttemptError,
    ) -> Duration {
        let window = fixture.handle.window();
        let due = fixture.worker().publish_failure(&window, 1, Instant::now(), stats, error);
        due.duration_since(Instant::now())
    }

    /// The outcomes that the metrics have counted.
    fn counted(fixture: &WorkerFixture) -> Vec<(&'static str, u64)> {
        fixture.services.metrics.rounds.counts().filter(|(_, count)| *count > 0).collect()
    }

    fn status(fixture: &WorkerFixture) -> WindowStatus {
        fixture.handle.status(NOON)
    }

    #[tokio::test(start_paused = true)]
    async fn each_end_of_a_round_is_published() {
        let until = NOON + SignedDuration::from_hours(5);
        let incomplete = ErrorKind::Incomplete;
        for (end, state, outcome, error, wait) in [
            (AttemptEnd::Settled, WindowState::Settled, RoundOutcome::Settled, None, HOUR),
            (
                AttemptEnd::Incomplete,
                WindowState::BackingOff,
                RoundOutcome::Failed(incomplete),
                Some(incomplete),
                HOUR,
            ),
            (
                AttemptEnd::Held { until: Some(until) },
                WindowState::Held,
                RoundOutcome::Held,
                None,
                HOUR * 5,
            ),
        ] {
            let fixture = running().await;
            assert_eq!(publish(&fixture, end, &stats(3)), wait, "{end:?}");
            let WindowStatus { last_round, last_success, last_error, held_until, .. } =
                status(&fixture);
            assert_eq!(fixture.handle.state(), state, "{end:?}");
            assert_eq!(held_until, (state == WindowState::Held).then_some(until), "{end:?}");
            assert_eq!(last_success, Some(NOON), "{end:?}");
            assert_eq!(last_error.as_ref().map(|error| error.kind), error, "{end:?}");
            let retry_at = last_error.and_then(|error| error.retry_at);
            assert_eq!(retry_at, error.map(|_| NOON + SignedDuration::from_hours(1)), "{end:?}");
            let round = RoundFigures { number: 1, at: NOON, took_ms: 0, ..stats(3).round };
            assert_eq!(last_round.as_ref(), Some(&round), "{end:?}");
            let past = fixture.handle.rounds();
            assert_eq!((&past.value[0].round, past.value[0].outcome), (&round, outcome), "{end:?}");
            assert_eq!(counted(&fixture), [(outcome.as_str(), 1)], "{end:?}");
            let worker = fixture.handle.lock();
            assert_eq!((worker.rounds, worker.running), (1, false), "{end:?}");
            let settled = end == AttemptEnd::Settled;
            assert_eq!(worker.audits.record().is_some(), settled, "{end:?}: audits begin");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_round_that_waits_for_a_confirmation_is_not_a_success() {
        let fixture = running().await;
        let held = AttemptEnd::Held { until: Some(NOON + SignedDuration::from_hours(5)) };
        assert_eq!(publish(&fixture, held, &stats(0)), HOUR * 5);
        let WindowStatus { last_round, last_success, state, .. } = status(&fixture);
        assert_eq!((last_round, last_success, state), (None, None, WindowState::Held));
        assert_eq!((fixture.handle.rounds().quiet, counted(&fixture)), (1, vec![]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_held_move_is_retried_before_the_next_round_is_due() {
        let fixture = running().await;
        let until = MonotonicTime::at(Instant::now() + HOUR / 2, NOON);
        fixture.handle.lock().held_move = Some(Box::new(until));
        assert_eq!(publish(&fixture, AttemptEnd::Settled, &stats(1)), HOUR / 2);
        let held_until = Some(NOON + SignedDuration::from_mins(30));
        assert_eq!(
            (fixture.handle.state(), status(&fixture).held_until),
            (WindowState::Held, held_until)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_published_and_cleared_by_the_next_success() {
        let transport = TransportError::new(TransportErrorKind::Timeout);
        let error = AttemptError::Graph(GraphError::Transport(transport));
        let fixture = running().await;
        let wait = publish_failure(&fixture, &stats(2), &error);
        let WindowStatus { last_round, last_success, last_error, failures, .. } = status(&fixture);
        assert_eq!((last_round, last_success, failures), (None, None, 1));
        let last_error = last_error.unwrap();
        let retry_at = NOON + SignedDuration::try_from(wait).unwrap();
        assert_eq!((last_error.at, last_error.retry_at), (NOON, Some(retry_at)));
        assert_eq!(fixture.handle.state(), WindowState::BackingOff);
        let past = &fixture.handle.rounds().value[0];
        assert_eq!((past.outcome, past.round.requests), (RoundOutcome::Failed(last_error.kind), 2));
        assert_eq!(counted(&fixture), [(last_error.kind.as_str(), 1)]);
        let rounds = {
            let state = fixture.handle.lock();
            (state.rounds, state.running)
        };
        assert_eq!(rounds, (1, false));

        publish(&fixture, AttemptEnd::Settled, &stats(1));
        let WindowStatus { last_error, failures, state, .. } = status(&fixture);
        assert_eq!((last_error, failures, state), (None, 0, WindowState::Settled));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_without_a_request_does_not_extend_the_wait() {
        for (requests, wait) in [(0, HOUR), (1, HOUR * 5)] {
            let fixture = running().await;
            fixture.handle.lock().next_due = Some(MonotonicTime::at(Instant::now() + HOUR, NOON));
            let until = Some(NOON + SignedDuration::from_hours(5));
            let stuck = AttemptError::Stuck { kind: StallKind::NoProgress, cause: None, until };
            let waits = publish_failure(&fixture, &stats(requests), &stuck);
            assert_eq!(waits, wait, "{requests} requests");
        }
    }
}
