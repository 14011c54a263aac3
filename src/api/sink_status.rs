//! The status of sinks, and how the API asks something of them: the daemon implements it.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The sinks: the daemon's, or test doubles.
pub trait SinkApi: Send + Sync {
    /// Every sink, ordered by name.
    fn list(&self) -> Vec<SinkStatusJson>;
    /// Asks something of a sink.
    fn ask(
        &self,
        sink: String,
        command: SinkCommand,
    ) -> BoxFuture<'_, Result<SinkStatusJson, SinkRefusal>>;
}

/// What people ask of a sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SinkCommand {
    /// Send a test delivery.
    Test,
    /// Send nothing until [`SinkCommand::Resume`], also after a restart.
    Pause,
    /// Send again, and at once.
    Resume,
    /// Send again what came after a cursor or a time, or everything.
    Replay(ReplayFrom),
}

/// From where a sink sends again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplayFrom {
    /// The beginning: a new snapshot.
    Start,
    /// A cursor of the feed or of the sink.
    Cursor(String),
    /// The changes that were stored since.
    Time(Timestamp),
}

/// Why a sink did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SinkRefusal {
    /// No sink has that name.
    #[error("no sink is named {0:?}")]
    Unknown(String),
    /// It cannot send again from there; one sentence.
    #[error("{0}")]
    BadPlace(String),
    /// It failed; one sentence.
    #[error("{0}")]
    Failed(String),
}

/// A sink, as `/v1/status` and `sink list` show it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "documented in docs/sinks.md")]
pub struct SinkStatusJson {
    pub name: Arc<str>,
    pub r#type: String,
    pub to: String,
    pub state: String,
    /// Whether a snapshot is being sent.
    pub snapshot: bool,
    /// About how many entries of the feed come after what was sent.
    pub pending: u64,
    /// Seconds since everything was sent; 0 if everything is.
    pub behind_s: f64,
    /// Changes sent since the start of the daemon.
    pub sent: u64,
    /// The cursor of what was sent.
    pub cursor: Option<String>,
    pub last_error: Option<SinkErrorJson>,
    pub next_attempt: Option<Timestamp>,
    /// The last attempts, newest first.
    pub attempts: Vec<SinkAttemptJson>,
}

/// The last failure of a sink.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "documented in docs/sinks.md")]
pub struct SinkErrorJson {
    pub at: Timestamp,
    pub kind: String,
    pub status: Option<u16>,
    pub message: String,
}

/// An attempt to deliver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "documented in docs/sinks.md")]
pub struct SinkAttemptJson {
    pub at: Timestamp,
    pub took_ms: u64,
    pub changes: usize,
    pub outcome: String,
    pub status: Option<u16>,
    pub id: Option<String>,
}
