//! The retry budget of one run through a segment (`Attempt::drive`), and requests that are repeated
//! until they succeed or it is spent.
//!
//! Requests are repeated only here, except once for a refused token (`graph/client.rs`): at most
//! [`MAX_RETRIES`] times in each run, each time on a new connection.

use std::time::Duration;

use crate::graph::{GraphClient, GraphError, RequestOptions, Target};
use crate::mirror::failure::{ErrorClass, FailureCause};
use crate::mirror::schedule::{self, MAX_RETRIES};

use super::series::SeriesError;
use super::{Attempt, AttemptError, REMEMBERED_PAUSE_MIN};

/// How many requests a run through a segment has repeated, and whether its link has died.
#[derive(Debug, Default)]
pub(super) struct RetryBudget {
    used: u32,
    link_died: bool,
}

impl RetryBudget {
    /// Whether a request was repeated already. Repeated requests use a new connection (fact 125).
    pub(super) fn is_retry(&self) -> bool {
        self.used > 0
    }

    /// Whether nothing may be repeated any more.
    pub(super) fn is_spent(&self) -> bool {
        self.used >= MAX_RETRIES
    }

    /// Spends one retry; returns how long to wait before it. `random` is in `[0, 1)`.
    fn spend(&mut self, random: f64) -> Duration {
        let wait = schedule::retry_delay(self.used, random);
        self.used += 1;
        wait
    }

    /// A link died. Returns true for the first one: the segment may then be enumerated again.
    pub(super) fn link_died(&mut self) -> bool {
        !std::mem::replace(&mut self.link_died, true)
    }
}

impl<'a> Attempt<'a> {
    /// The parts that every request needs.
    pub(super) fn request_parts(&self) -> (&'a GraphClient, &'a Target, RequestOptions) {
        (&self.context.services.client, self.context.target, self.options.clone())
    }

    /// Waits for a request or a pause, which a stop of the worker ends at once. What the store has
    /// begun to write is awaited instead.
    pub(super) async fn unless_stopped<T>(
        &self,
        wait: impl Future<Output = T>,
    ) -> Result<T, AttemptError> {
        self.context.stop.run_until_cancelled(wait).await.ok_or(AttemptError::Stopped)
    }

    /// Ends the attempt if the worker is asked to stop.
    pub(super) fn check_stopped(&self) -> Result<(), AttemptError> {
        if self.context.stop.is_cancelled() { Err(AttemptError::Stopped) } else { Ok(()) }
    }

    /// Sends a request and repeats it after transient errors. The argument of `send` says whether
    /// to use a new connection.
    pub(super) async fn fetch<T, F>(&mut self, send: impl Fn(bool) -> F) -> Result<T, AttemptError>
    where
        F: Future<Output = Result<T, GraphError>>,
    {
        loop {
            match self.unless_stopped(send(self.budget.is_retry())).await? {
                Ok(answer) => return Ok(answer),
                Err(error) => self.retry(error).await?,
            }
        }
    }

    /// Like [`Self::fetch`], for a request about one series. If an error concerns only the series,
    /// the rest of the calendar does not wait for it.
    pub(super) async fn fetch_for_series<T, F>(
        &mut self,
        send: impl Fn(bool) -> F,
    ) -> Result<T, SeriesError>
    where
        F: Future<Output = Result<T, GraphError>>,
    {
        loop {
            match self.unless_stopped(send(self.budget.is_retry())).await? {
                Ok(answer) => return Ok(answer),
                Err(error) if self.is_series_specific(&error) => {
                    tracing::debug!(
                        kind = error.class().as_str(),
                        status = error.status(),
                        "series cannot be completed now"
                    );
                    return Err(SeriesError::Unavailable);
                }
                Err(error) => self.retry(error).await?,
            }
        }
    }

    /// Whether an error concerns only the series and not the rest of the calendar.
    fn is_series_specific(&self, error: &GraphError) -> bool {
        let class = error.class();
        class.is_series_specific()
            || class == ErrorClass::Transient && !error.is_account_wide() && self.budget.is_spent()
    }

    /// Waits before the request is repeated, or returns why the attempt ends.
    async fn retry(&mut self, error: GraphError) -> Result<(), AttemptError> {
        if error.class().is_retryable() && !self.budget.is_spent() {
            let wait = self.budget.spend(self.context.services.env.random());
            tracing::debug!(
                kind = error.class().as_str(),
                status = error.status(),
                retries = self.budget.used,
                "repeating the request"
            );
            return self.unless_stopped(tokio::time::sleep(wait)).await;
        }
        if let FailureCause::Throttled(wait) = error.cause()
            && wait > REMEMBERED_PAUSE_MIN
        {
            Box::pin(self.remember_pause(wait)).await?;
        }
        Err(AttemptError::Graph(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_spent_after_four_retries_that_wait_longer_each_time() {
        let mut budget = RetryBudget::default();
        assert!(!budget.is_retry());
        let waits: Vec<u64> = (0..MAX_RETRIES).map(|_| budget.spend(1.0).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8]);
        assert!(budget.is_retry() && budget.is_spent());
    }

    #[test]
    fn one_dead_link_is_tolerated_in_a_round() {
        let mut budget = RetryBudget::default();
        assert!(budget.link_died());
        assert!(!budget.link_died());
    }
}
