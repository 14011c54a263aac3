//! Requests to reload the configuration of the running daemon, and their results.
//!
//! SIGHUP, `calmirror reload` and `POST /v1/reload` all use [`ReloadHandle::ask`]. Reloads are
//! performed one after the other, and each reads the files when it is its turn. The daemon receives
//! the requests from the [`ReloadQueue`] and replies with what changed, or why nothing did.

use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use crate::config::{Diagnostic, ReloadEffect};

/// The most reloads that may wait; one more is refused with [`ReloadError::Busy`].
const MAX_WAITING: usize = 16;
/// The most changed windows that a summary names; more are only counted.
pub const MAX_NAMED: usize = 1000;
/// The most faults that the status keeps; the reply to the request has all of them.
const MAX_KEPT: usize = 20;

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

#[derive(Debug, Default)]
struct ReloadHistory {
    last: Option<LastReload>,
    counts: ReloadCounts,
}

/// Reloads since the start, by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReloadCounts {
    /// The new configuration is in force.
    pub applied: u64,
    /// The new configuration was refused, the old one stays.
    pub refused: u64,
    /// The new configuration could not be applied, the old one stays.
    pub failed: u64,
}

/// How a reload ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReloadOutcome {
    /// The new configuration is in force.
    Applied,
    /// It was refused, the old one stays.
    Refused,
    /// It could not be applied, the old one stays.
    Failed,
}

/// The last reload, for `/v1/status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LastReload {
    /// When it ended.
    pub at: Timestamp,
    /// Its outcome.
    pub outcome: ReloadOutcome,
    /// One sentence for a person.
    pub message: String,
    /// The first of the faults for which it was refused.
    pub faults: Vec<Diagnostic>,
}

/// What a reload changed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ReloadSummary {
    /// How long it took in milliseconds, including reading the files.
    pub took_ms: u64,
    /// Windows, counted by effect.
    pub windows: WindowChangeCounts,
    /// The changed windows by name, at most [`MAX_NAMED`].
    pub changes: Vec<WindowChange>,
    /// Accounts whose sign-in changed, or that are new or gone.
    pub accounts: Vec<Arc<str>>,
    /// Accounts that could not sign in before and try again now, changed or not.
    #[serde(default)]
    pub retried: Vec<Arc<str>>,
    /// Other keys that changed.
    pub settings: Vec<String>,
    /// Settings that are valid but probably not intended.
    pub warnings: Vec<Diagnostic>,
}

/// Windows, counted by the effect of a reload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowChangeCounts {
    /// New.
    pub added: usize,
    /// Gone: their events are removed from the feed.
    pub removed: usize,
    /// New under an old name: the old events are removed first.
    pub replaced: usize,
    /// Enumerated again.
    pub resynced: usize,
    /// Only the times or the requests of their rounds changed.
    pub retimed: usize,
    /// Not changed.
    pub unchanged: usize,
}

/// The effect of a reload on one window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WindowChange {
    /// Its name.
    pub window: Arc<str>,
    /// The effect.
    pub change: WindowEffect,
    /// The keys that changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<String>,
}

/// An effect, as described at [`WindowChangeCounts`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "described at WindowChangeCounts")]
pub enum WindowEffect {
    Added,
    Removed,
    Replaced,
    Resynced,
    Retimed,
}

impl From<ReloadEffect> for WindowEffect {
    fn from(effect: ReloadEffect) -> Self {
        match effect {
            ReloadEffect::Retimed => Self::Retimed,
            ReloadEffect::Resynced => Self::Resynced,
            ReloadEffect::Replaced => Self::Replaced,
        }
    }
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

    /// Logs and records the outcome of a reload and replies to its requester.
    pub fn answer(
        &self,
        request: ReloadRequest,
        outcome: Result<ReloadSummary, ReloadError>,
        at: Timestamp,
    ) {
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        let (outcome_word, message, faults) = match &outcome {
            Ok(applied) => {
                history.counts.applied += 1;
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
                (ReloadOutcome::Applied, applied.summary(), Vec::new())
            }
            Err(error) => {
                let mut faults = Vec::new();
                if let ReloadError::Faults(all) = error {
                    for fault in all {
                        tracing::error!(%fault, "configuration has a fault");
                    }
                    faults = all.iter().take(MAX_KEPT).cloned().collect();
                }
                let word = match error {
                    ReloadError::Faults(_) | ReloadError::Drops { .. } => {
                        history.counts.refused += 1;
                        ReloadOutcome::Refused
                    }
                    _ => {
                        history.counts.failed += 1;
                        ReloadOutcome::Failed
                    }
                };
                tracing::error!(
                    reason = %error,
                    "configuration not reloaded, the old one stays in force"
                );
                (word, error.to_string(), faults)
            }
        };
        history.last = Some(LastReload { at, outcome: outcome_word, message, faults });
        drop(history);
        // The requester may be gone.
        request.reply.send(outcome).ok();
    }
}

impl ReloadSummary {
    /// What changed, in one sentence.
    pub fn summary(&self) -> String {
        let WindowChangeCounts { added, removed, replaced, resynced, retimed, unchanged } =
            self.windows;
        let mut parts: Vec<String> = [
            (added, "added"),
            (removed, "removed"),
            (replaced, "replaced"),
            (resynced, "resynced"),
            (retimed, "retimed"),
            (unchanged, "unchanged"),
        ]
        .into_iter()
        .filter(|(count, word)| *count > 0 || *word == "unchanged")
        .map(|(count, word)| format!("{count} {word}"))
        .collect();
        if !self.settings.is_empty() {
            parts.push(format!("also {}", self.settings.join(", ")));
        }
        if !self.accounts.is_empty() {
            parts.push(format!("accounts {}", self.accounts.join(", ")));
        }
        if !self.retried.is_empty() {
            parts.push(format!("signing in again: {}", self.retried.join(", ")));
        }
        format!("windows: {}", parts.join(", "))
    }
}
