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
                let until = MonotonicTime::at(Instant::now() + wait, now);
                (RoundResult::Held { wait, asked }, RoundOutcome::Held, Some(until))
            }
        };
        let mut state = self.handle.lock();
        state.end_round();
        state.rounds = number;
        if held.is_some() || state.rare().held.is_some() {
            state.edit_rare(|rare| rare.held = held);
        }
        let pacing = Pacing {
            interval: window.settings.interval,
            jitter: window.settings.jitter,
            took,
            held_move: state.rare().held_move.map(MonotonicTime::remaining),
        };
        let (health, delay, notice) =
            state.health.on_result(result, &pacing, || self.services.env.random());
        state.health = health;
        let due = Instant::now() + delay;
        if let RoundResult::Held { asked: false, .. } = result {
            // The confirmation is not due yet. No request was made, so this is no success.
            self.services.states.tell(&mut state, now);
            state.history.record_without_request();
            return due;
        }
        state.last_success = Some(MonotonicTime::now(now));
        state.record_round(finished(stats, number, now, took), outcome);
        let error = (result == RoundResult::Incomplete).then(|| incomplete(now, delay));
        if error.is_some() || state.rare().last_error.is_some() {
            state.edit_rare(|rare| rare.last_error = error);
        }
        if result == RoundResult::Settled {
            state.audits.begin(now);
        }
        self.services.states.tell(&mut state, now);
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
        state.end_round();
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
        state.edit_rare(|rare| rare.last_error = Some(last_error));
        self.services.states.tell(&mut state, now);
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
mod tests;
