//! Requests to reload the configuration of the running daemon, and their results.
//!
//! `calmirror reload` and `POST /v1/reload` use [`ReloadHandle::ask`], SIGHUP uses
//! [`ReloadHandle::signal`]. Reloads are performed one after the other, and each reads the files
//! when it is its turn. The daemon receives the requests from the [`ReloadQueue`] and replies with
//! what changed, or why nothing did.

mod history;
mod summary;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use tokio::sync::{Notify, mpsc, oneshot};

use crate::config::Diagnostic;
use crate::error_chain::error_chain;
use history::ReloadHistory;
pub use history::{LastReload, ReloadCounts, ReloadOutcome};
pub use summary::{ReloadSummary, WindowChange, WindowChangeCounts, WindowEffect};

/// The most reloads that may wait; one more is refused with [`ReloadError::Busy`].
const MAX_WAITING: usize = 16;

/// Requests reloads and knows the result of the last one. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ReloadHandle {
    requests: mpsc::Sender<ReloadRequest>,
    shared: Arc<ReloadState>,
}

/// The requested reloads: a signal first, then the requests in order. Without it every request
/// fails.
#[derive(Debug)]
pub struct ReloadQueue {
    requests: mpsc::Receiver<ReloadRequest>,
    handle: ReloadHandle,
}

/// What the handles and the queue share.
#[derive(Debug, Default)]
struct ReloadState {
    /// Holds at most one request, which merges the signals that arrive while one waits.
    signalled: Notify,
    history: Mutex<ReloadHistory>,
}

/// A requested reload.
#[derive(Debug)]
pub struct ReloadRequest {
    /// Whether most of the fleet may be dropped.
    pub accept_drops: bool,
    /// The account whose person has just signed in: that its windows are those of another person
    /// now is meant, whatever their number.
    pub signed_in: Option<Arc<str>>,
    /// `None` for a signal.
    reply: Option<oneshot::Sender<Result<ReloadSummary, ReloadError>>>,
}

/// Why a reload changed nothing.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ReloadError {
    /// The new configuration has faults.
    #[error("{}", match .0.as_slice() {
        [fault] => fault.to_string(),
        faults => format!("{} faults in the configuration", faults.len()),
    })]
    Faults(Vec<Diagnostic>),
    /// It would drop most of the fleet.
    #[error(
        "the configuration would drop {dropped} of {known} windows; if that is meant, reload with --accept-drops (?accept_drops=true)"
    )]
    Drops {
        /// Windows that would be dropped.
        dropped: usize,
        /// Windows in the fleet.
        known: usize,
    },
    /// It is valid but could not be applied.
    #[error("the configuration could not be applied: {0}")]
    Failed(String),
    /// Too many reloads are waiting.
    #[error("too many reloads are waiting")]
    Busy,
    /// The daemon is stopping.
    #[error("the daemon is stopping")]
    Stopping,
}

impl ReloadHandle {
    /// Requests a reload and waits for its result.
    ///
    /// # Errors
    /// Why nothing was changed.
    pub async fn ask(&self, accept_drops: bool) -> Result<ReloadSummary, ReloadError> {
        self.send(accept_drops, None).await
    }

    /// The same after a person has signed in to an account.
    ///
    /// # Errors
    /// Why nothing was changed.
    pub async fn ask_after_sign_in(&self, account: &str) -> Result<ReloadSummary, ReloadError> {
        self.send(false, Some(account.into())).await
    }

    async fn send(
        &self,
        accept_drops: bool,
        signed_in: Option<Arc<str>>,
    ) -> Result<ReloadSummary, ReloadError> {
        let (reply, response) = oneshot::channel();
        let request = ReloadRequest { accept_drops, signed_in, reply: Some(reply) };
        match self.requests.try_send(request) {
            Ok(()) => response.await.unwrap_or(Err(ReloadError::Stopping)),
            Err(mpsc::error::TrySendError::Full(_)) => Err(ReloadError::Busy),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(ReloadError::Stopping),
        }
    }

    /// Requests a reload whose result is only logged and recorded.
    pub fn signal(&self) {
        self.shared.signalled.notify_one();
    }

    /// The last reload.
    pub fn last(&self) -> Option<LastReload> {
        self.history().last.clone()
    }

    /// The number of reloads, by outcome.
    pub fn counts(&self) -> ReloadCounts {
        self.history().counts
    }

    fn history(&self) -> MutexGuard<'_, ReloadHistory> {
        self.shared.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for ReloadQueue {
    fn default() -> Self {
        let (sender, requests) = mpsc::channel(MAX_WAITING);
        Self { requests, handle: ReloadHandle { requests: sender, shared: Arc::default() } }
    }
}

impl ReloadQueue {
    /// A handle to request reloads from this queue.
    pub fn handle(&self) -> ReloadHandle {
        self.handle.clone()
    }

    /// The next request. Cancel safe.
    pub async fn next(&mut self) -> ReloadRequest {
        tokio::select! {
            biased;
            () = self.handle.shared.signalled.notified() => {}
            // Never `None`, as the queue has a sender itself.
            Some(request) = self.requests.recv() => return request,
        }
        ReloadRequest { accept_drops: false, signed_in: None, reply: None }
    }

    /// Logs and records the result of a reload and replies to its requester.
    pub fn answer(
        &self,
        request: ReloadRequest,
        result: Result<ReloadSummary, ReloadError>,
        at: Timestamp,
    ) {
        log_result(&result);
        self.handle.history().record(&result, at);
        if let Some(reply) = request.reply {
            // The requester may be gone.
            reply.send(result).ok();
        }
    }
}

impl ReloadError {
    /// The new configuration could not be applied because of `error`.
    pub fn failed(error: &dyn std::error::Error) -> Self {
        Self::Failed(error_chain(error))
    }
}

fn log_result(result: &Result<ReloadSummary, ReloadError>) {
    match result {
        Ok(applied) => {
            tracing::info!(
                added = applied.windows.added,
                removed = applied.windows.removed,
                replaced = applied.windows.replaced,
                resynced = applied.windows.resynced,
                retimed = applied.windows.retimed,
                unchanged = applied.windows.unchanged,
                settings = applied.settings.join(" "),
                sign_in_again = applied.retried.join(" "),
                took_ms = applied.took_ms,
                "configuration reloaded"
            );
            for warning in &applied.warnings {
                tracing::warn!(%warning, "configuration");
            }
        }
        Err(error) => {
            if let ReloadError::Faults(faults) = error {
                for fault in faults {
                    tracing::error!(%fault, "configuration has a fault");
                }
            }
            tracing::error!(
                reason = %error,
                "configuration not reloaded, the old one stays in force"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn signals_are_merged_while_one_waits() {
        let mut queue = ReloadQueue::default();
        let handle = queue.handle();
        for _ in 0..3 {
            handle.signal();
        }
        let first = queue.next().await;
        assert!(!first.accept_drops && first.reply.is_none());
        assert!(queue.next().now_or_never().is_none(), "signals have piled up");
        // One that arrives while a reload is performed leads to another.
        handle.signal();
        queue.answer(first, Ok(ReloadSummary::default()), Timestamp::UNIX_EPOCH);
        assert!(queue.next().now_or_never().is_some());
        assert_eq!(handle.counts().applied, 1);
    }

    #[tokio::test]
    async fn each_request_gets_its_own_result() {
        let mut queue = ReloadQueue::default();
        let handle = queue.handle();
        let mut asked = Box::pin(handle.ask(true));
        assert!(asked.as_mut().now_or_never().is_none());
        let request = queue.next().await;
        assert!(request.accept_drops);
        let refused = Err(ReloadError::Drops { dropped: 30, known: 40 });
        queue.answer(request, refused.clone(), Timestamp::UNIX_EPOCH);
        assert_eq!(asked.await, refused);

        let mut waiting: Vec<_> = (0..=MAX_WAITING).map(|_| Box::pin(handle.ask(false))).collect();
        let answers: Vec<_> = waiting.iter_mut().map(|asked| asked.now_or_never()).collect();
        let busy = answers.into_iter().flatten().collect::<Vec<_>>();
        assert_eq!(busy, [Err(ReloadError::Busy)], "the last one is too many");
        waiting.pop();
        drop(queue);
        for asked in waiting {
            assert_eq!(asked.await, Err(ReloadError::Stopping));
        }
        assert_eq!(handle.ask(false).await, Err(ReloadError::Stopping));
    }
}
