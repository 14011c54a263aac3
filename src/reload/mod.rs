//! Requests to reload the configuration of the running daemon, and their results.
//!
//! SIGHUP, `calmirror reload` and `POST /v1/reload` all use [`ReloadHandle::ask`]. Reloads are
//! performed one after the other, and each reads the files when it is its turn. The daemon receives
//! the requests from the [`ReloadQueue`] and replies with what changed, or why nothing did.

mod history;
mod summary;

use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};

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
    asks: mpsc::Sender<ReloadRequest>,
    history: Arc<Mutex<ReloadHistory>>,
}

/// The requested reloads, in order.
#[derive(Debug)]
pub struct ReloadQueue {
    asks: mpsc::Receiver<ReloadRequest>,
    history: Arc<Mutex<ReloadHistory>>,
}

/// A requested reload.
#[derive(Debug)]
pub struct ReloadRequest {
    /// Whether most of the fleet may be dropped.
    pub accept_drops: bool,
    reply: oneshot::Sender<Result<ReloadSummary, ReloadError>>,
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

/// A handle to request reloads, and the queue that receives them.
pub fn channel() -> (ReloadHandle, ReloadQueue) {
    let (sender, receiver) = mpsc::channel(MAX_WAITING);
    let history = Arc::default();
    (
        ReloadHandle { asks: sender, history: Arc::clone(&history) },
        ReloadQueue { asks: receiver, history },
    )
}

impl ReloadHandle {
    /// Requests a reload and waits for its result.
    ///
    /// # Errors
    /// Why nothing was changed.
    pub async fn ask(&self, accept_drops: bool) -> Result<ReloadSummary, ReloadError> {
        let (reply, response) = oneshot::channel();
        match self.asks.try_send(ReloadRequest { accept_drops, reply }) {
            Ok(()) => response.await.unwrap_or(Err(ReloadError::Stopping)),
            Err(mpsc::error::TrySendError::Full(_)) => Err(ReloadError::Busy),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(ReloadError::Stopping),
        }
    }

    /// The last reload.
    pub fn last(&self) -> Option<LastReload> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner).last.clone()
    }

    /// The number of reloads, by outcome.
    pub fn counts(&self) -> ReloadCounts {
        self.history.lock().unwrap_or_else(PoisonError::into_inner).counts
    }
}

impl ReloadQueue {
    /// The next request. Cancel safe.
    pub async fn next(&mut self) -> Option<ReloadRequest> {
        self.asks.recv().await
    }

    /// Logs and records the result of a reload and replies to its requester.
    pub fn answer(
        &self,
        request: ReloadRequest,
        result: Result<ReloadSummary, ReloadError>,
        at: Timestamp,
    ) {
        log_result(&result);
        self.history.lock().unwrap_or_else(PoisonError::into_inner).record(&result, at);
        // The requester may be gone.
        request.reply.send(result).ok();
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
