//! Asking the running daemon to take its configuration anew, and what came of it.
//!
//! SIGHUP, `calmirror reload` and `POST /v1/reload` all come through [`Reloads::ask`]. Reloads
//! are performed one after the other, each with the files as they are when its turn comes. What
//! performs them is at the other end of the channel ([`Asks`]) and answers with what changed, or
//! with why nothing did.

use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use crate::config::{Diagnostic, ReloadEffect};

/// Reloads that may wait for their turn; whoever brings one more is told to come again.
const MAX_WAITING: usize = 16;
/// Changed windows that are named one by one; of more there is the count.
pub const MAX_NAMED: usize = 1000;
/// Faults that the status keeps; whoever asked for the reload was told all of them.
const MAX_KEPT: usize = 20;

/// Asks for reloads and knows how the last one went. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ReloadHandle {
    asks: mpsc::Sender<ReloadRequest>,
    history: Arc<Mutex<ReloadHistory>>,
}

/// The reloads that were asked for, in their order.
#[derive(Debug)]
pub struct ReloadQueue {
    asks: mpsc::Receiver<ReloadRequest>,
    history: Arc<Mutex<ReloadHistory>>,
}

/// One reload that was asked for.
#[derive(Debug)]
pub struct ReloadRequest {
    /// Whether most of a fleet may be dropped.
    pub accept_drops: bool,
    reply: oneshot::Sender<Result<ReloadSummary, ReloadError>>,
}

#[derive(Debug, Default)]
struct ReloadHistory {
    last: Option<LastReload>,
    counts: ReloadCounts,
}

/// How many reloads there were since the start, by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReloadCounts {
    /// The new configuration is in force.
    pub applied: u64,
    /// The new configuration was refused, the old one stays.
    pub refused: u64,
    /// The new configuration could not be put in force, the old one stays.
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
    /// It could not be put in force, the old one stays.
    Failed,
}

/// The last reload, for `/v1/status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LastReload {
    /// When it ended.
    pub at: Timestamp,
    /// How.
    pub outcome: ReloadOutcome,
    /// One sentence for a person.
    pub message: String,
    /// The faults that it was refused for, the first of them.
    pub faults: Vec<Diagnostic>,
}

/// What a reload changed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ReloadSummary {
    /// How long it took, milliseconds, reading the files included.
    pub took_ms: u64,
    /// Windows by what became of them.
    pub windows: WindowChangeCounts,
    /// Each of them by name, but for the unchanged; at most [`MOST_NAMED`].
    pub changes: Vec<WindowChange>,
    /// Accounts that sign in otherwise, or are new or gone.
    pub accounts: Vec<Arc<str>>,
    /// Accounts that could not sign in before, changed or not: they try again now.
    #[serde(default)]
    pub retried: Vec<Arc<str>>,
    /// Other keys that changed.
    pub settings: Vec<String>,
    /// What is valid but hardly meant.
    pub warnings: Vec<Diagnostic>,
}

/// Windows by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowChangeCounts {
    /// New.
    pub added: usize,
    /// Gone: their events leave the feed.
    pub removed: usize,
    /// New under an old name: the old events leave first.
    pub replaced: usize,
    /// Enumerated again.
    pub resynced: usize,
    /// Only their rounds' times or manner changed.
    pub retimed: usize,
    /// Not concerned.
    pub unchanged: usize,
}

/// What became of one window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WindowChange {
    /// Its name.
    pub window: Arc<str>,
    /// What became of it.
    pub change: WindowEffect,
    /// The keys that changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<String>,
}

/// See [`Counts`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "said at Counts")]
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

/// Why nothing was changed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ReloadError {
    /// The new configuration is at fault.
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
        /// Windows that would leave.
        dropped: usize,
        /// Windows there are.
        known: usize,
    },
    /// It is valid and could not be put in force.
    #[error("the configuration could not be put in force: {0}")]
    Failed(String),
    /// Too many reloads wait already.
    #[error("too many reloads wait for their turn")]
    Busy,
    /// The daemon is stopping.
    #[error("the daemon is stopping")]
    Stopping,
}

/// A way to ask, and the other end of it.
pub fn channel() -> (ReloadHandle, ReloadQueue) {
    let (sender, receiver) = mpsc::channel(MAX_WAITING);
    let history = Arc::default();
    (
        ReloadHandle { asks: sender, history: Arc::clone(&history) },
        ReloadQueue { asks: receiver, history },
    )
}

impl ReloadHandle {
    /// Asks for a reload and waits for what came of it.
    ///
    /// # Errors
    /// Why nothing was changed.
    pub async fn ask(&self, accept_drops: bool) -> Result<ReloadSummary, ReloadError> {
        let (reply, answer) = oneshot::channel();
        match self.asks.try_send(ReloadRequest { accept_drops, reply }) {
            Ok(()) => answer.await.unwrap_or(Err(ReloadError::Stopping)),
            Err(mpsc::error::TrySendError::Full(_)) => Err(ReloadError::Busy),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(ReloadError::Stopping),
        }
    }

    /// How the last one went.
    pub fn last(&self) -> Option<LastReload> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner).last.clone()
    }

    /// How many there were.
    pub fn counts(&self) -> ReloadCounts {
        self.history.lock().unwrap_or_else(PoisonError::into_inner).counts
    }
}

impl ReloadQueue {
    /// The next one. May be dropped at any moment.
    pub async fn next(&mut self) -> Option<ReloadRequest> {
        self.asks.recv().await
    }

    /// Logs and remembers how one went, and answers who asked.
    pub fn answer(
        &self,
        ask: ReloadRequest,
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
            Err(refusal) => {
                let mut faults = Vec::new();
                if let ReloadError::Faults(all) = refusal {
                    for fault in all {
                        tracing::error!(%fault, "configuration is at fault");
                    }
                    faults = all.iter().take(MAX_KEPT).cloned().collect();
                }
                let ending = match refusal {
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
                    reason = %refusal,
                    "configuration not reloaded, the old one stays in force"
                );
                (ending, refusal.to_string(), faults)
            }
        };
        history.last = Some(LastReload { at, outcome: outcome_word, message, faults });
        drop(history);
        // Whoever asked may have left.
        ask.reply.send(outcome).ok();
    }
}

impl ReloadSummary {
    /// What changed, in a sentence.
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
