//! Computes a window's health after a round, and when its next round is due.
//!
//! Pure functions: they take the result of the round, the settings and a random number, and return
//! the new health, the delay and a notice to log. The worker applies them.

use std::time::Duration;

use super::failure::FailureCause;
use super::schedule;
use super::state::WindowState;

/// The health of a window between two rounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowHealth {
    /// The state of the window.
    pub state: WindowState,
    /// Failed attempts in a row, counted as in [`super::status::WindowStatus::failures`].
    pub failures: u32,
    /// Whether the window has settled once since it was created.
    pub settled_once: bool,
    /// The last logged trouble that has not ended.
    pub logged: Option<WindowState>,
}

/// An attempt that did not fail, as its window's health sees it: with the wait of a hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoundResult {
    /// Every segment has a delta link and nothing pending.
    Settled,
    /// Some series could not be completed; everything else is up to date.
    Incomplete,
    /// A mass removal waits for its confirmation.
    Held {
        /// How long it still waits.
        wait: Duration,
        /// Whether any request was made. If not, the confirmation is not due yet.
        asked: bool,
    },
}

/// The properties of a failed attempt that the health depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoundFailure {
    /// What failed.
    pub cause: FailureCause,
    /// No request was made: the failure is known from an earlier attempt.
    pub remembered: bool,
    /// Pages were committed before the failure, so the next attempt continues behind them.
    pub progress: bool,
    /// The account or the store has logged the failure for all its windows.
    pub shared: bool,
    /// The rest of the wait that was running when the attempt began.
    pub left: Option<Duration>,
}

/// What decides the wait for the next round, besides the result.
#[derive(Clone, Copy, Debug)]
pub struct Pacing {
    /// The window's interval.
    pub interval: Duration,
    /// The window's jitter, 0 to 1.
    pub jitter: f64,
    /// How long the round took. The interval counts from its beginning.
    pub took: Duration,
    /// How long a held move of the edges still waits, if one is held.
    pub held_move: Option<Duration>,
}

/// What a transition logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The window works again.
    Recovered,
    /// Some series could not be completed.
    Incomplete,
    /// A mass removal is held until an enumeration confirms it.
    RemovalHeld,
    /// A move of the edges that would drop most of the window is held.
    MoveHeld,
    /// The window is in trouble.
    Trouble,
}

impl WindowHealth {
    /// Returns the health after a round that did not fail, the wait until the next one (from the end
    /// of the round), and what to log. `random` returns a number in `[0, 1)`.
    pub fn on_result(
        mut self,
        result: RoundResult,
        pacing: &Pacing,
        random: impl FnOnce() -> f64,
    ) -> (Self, Duration, Option<Notice>) {
        let interval = |chance| {
            schedule::delay(pacing.interval, pacing.jitter, chance).saturating_sub(pacing.took)
        };
        let (state, delay) = match result {
            RoundResult::Held { wait, asked: false } => {
                self.state = WindowState::Held;
                return (self, wait, None);
            }
            RoundResult::Held { wait, asked: true } => (WindowState::Held, wait),
            RoundResult::Settled => (WindowState::Settled, interval(random())),
            RoundResult::Incomplete => (WindowState::BackingOff, interval(random())),
        };
        self.failures = 0;
        self.settled_once |= result == RoundResult::Settled;
        // Rounds continue between the old edges while a move is held.
        self.state = if pacing.held_move.is_some() { WindowState::Held } else { state };
        let delay = pacing.held_move.map_or(delay, |wait| wait.min(delay));
        let before = self.logged;
        self.logged = Some(self.state).filter(|state| state.is_trouble());
        let changed = self.logged != before;
        let notice = match (result, pacing.held_move) {
            (RoundResult::Held { .. }, _) => changed.then_some(Notice::RemovalHeld),
            (_, Some(_)) => changed.then_some(Notice::MoveHeld),
            (RoundResult::Incomplete, None) => changed.then_some(Notice::Incomplete),
            (_, None) => before.map(|_| Notice::Recovered),
        };
        (self, delay, notice)
    }

    /// Like [`Self::on_result`], after a failed attempt. `interval` is the window's; `chance` is in
    /// `[0, 1)`.
    pub fn on_failure(
        mut self,
        failure: RoundFailure,
        interval: Duration,
        chance: f64,
    ) -> (Self, Duration, Option<Notice>) {
        let RoundFailure { cause, remembered, progress, shared, left } = failure;
        let state = cause.state();
        // A resync under way has its own state and does not end the trouble that it is part of.
        let other_trouble = self.state.is_trouble() && self.state != state;
        self.failures = match self.failures {
            // No request was made, so nothing failed again.
            failures if remembered => failures.max(1),
            _ if other_trouble || progress => 1,
            failures => failures.saturating_add(1),
        };
        let delay = cause.delay(interval, self.failures, chance);
        // Without a request a running wait does not become longer either.
        let left = left.filter(|left| remembered && !left.is_zero());
        let delay = left.map_or(delay, |left| left.min(delay));
        self.state = state;
        // Logged once for each trouble, not at each attempt.
        let notice = (self.logged != Some(state) && !shared).then_some(Notice::Trouble);
        if notice.is_some() {
            self.logged = Some(state);
        }
        (self, delay, notice)
    }

    /// The health after a worker panicked or hung; another worker takes over the window.
    #[must_use]
    pub fn on_crash(self) -> Self {
        let failures = self.failures.saturating_add(1);
        Self { state: WindowState::BackingOff, failures, ..self }
    }
}

#[cfg(test)]
mod tests;
