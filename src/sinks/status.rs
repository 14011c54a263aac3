//! What people see of the sinks, and how they reach their tasks.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::BoxFuture;
use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};

use super::error::{SinkError, SinkErrorKind};
use super::target::Receipt;
use crate::api::{
    SinkApi, SinkAttemptJson, SinkCommand, SinkErrorJson, SinkRefusal, SinkStatusJson,
};
use crate::env::Env;

/// Attempts that are remembered.
const ATTEMPTS: usize = 10;

/// What a sink does, in the words of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SinkState {
    /// It connects.
    Starting,
    /// It sends, or has sent everything.
    Running,
    /// An attempt failed, and the next is due.
    Waiting,
    /// A person paused it.
    Paused,
    /// The target is gone for good.
    Stopped,
}

impl SinkState {
    fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

/// The status of one sink, shared by its task and its readers.
#[derive(Clone, Debug)]
pub(super) struct StatusCell(Arc<Mutex<StatusParts>>);

#[derive(Debug)]
struct StatusParts {
    json: SinkStatusJson,
    /// Until when the changes are that were sent; `None` if all are.
    behind_since: Option<Timestamp>,
    /// Whether the last attempt failed.
    is_failing: bool,
}

impl StatusCell {
    pub(super) fn new(name: &Arc<str>, kind: &str, to: String) -> Self {
        let json = SinkStatusJson {
            name: name.clone(),
            r#type: kind.to_owned(),
            to,
            state: SinkState::Starting.as_str().to_owned(),
            snapshot: false,
            pending: 0,
            behind_s: 0.0,
            sent: 0,
            cursor: None,
            last_error: None,
            next_attempt: None,
            attempts: Vec::new(),
        };
        Self(Arc::new(Mutex::new(StatusParts { json, behind_since: None, is_failing: false })))
    }

    fn lock(&self) -> MutexGuard<'_, StatusParts> {
        // Every change assigns whole fields.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows what the sink does. One that could not deliver is waiting until it has delivered.
    pub(super) fn set_state(&self, state: SinkState) {
        let mut parts = self.lock();
        let is_trying = matches!(state, SinkState::Starting | SinkState::Running);
        let state = if is_trying && parts.is_failing { SinkState::Waiting } else { state };
        parts.json.state = state.as_str().to_owned();
    }

    /// Everything is sent.
    pub(super) fn caught_up(&self) {
        let mut parts = self.lock();
        (parts.json.pending, parts.behind_since) = (0, None);
        parts.recover();
    }

    /// About how much is left to send.
    pub(super) fn set_pending(&self, pending: u64, now: Timestamp) {
        let mut parts = self.lock();
        parts.json.pending = pending;
        match pending {
            0 => parts.behind_since = None,
            _ => drop(parts.behind_since.get_or_insert(now)),
        }
    }

    /// Until when the changes are that were sent.
    pub(super) fn set_sent_until(&self, at: Option<Timestamp>) {
        if let Some(at) = at {
            self.lock().behind_since = Some(at);
        }
    }

    /// What was sent so far.
    pub(super) fn set_position(&self, cursor: &str, snapshot: bool) {
        let mut parts = self.lock();
        parts.json.cursor = Some(cursor.to_owned());
        parts.json.snapshot = snapshot;
    }

    pub(super) fn delivered(&self, at: Timestamp, took_ms: u64, changes: usize, receipt: Receipt) {
        let mut parts = self.lock();
        parts.json.sent += u64::try_from(changes).unwrap_or(u64::MAX);
        parts.json.last_error = None;
        parts.recover();
        parts.log(at, took_ms, changes, Ok(receipt));
    }

    /// A test was delivered, or not: it says nothing about the changes.
    pub(super) fn tested(&self, at: Timestamp, took_ms: u64, result: &Result<Receipt, SinkError>) {
        self.lock().log(at, took_ms, 0, result.clone());
    }

    pub(super) fn failed(
        &self,
        at: Timestamp,
        (took_ms, changes): (u64, usize),
        error: &SinkError,
        next_attempt: Option<Timestamp>,
    ) {
        let mut parts = self.lock();
        let state = if next_attempt.is_some() { SinkState::Waiting } else { SinkState::Stopped };
        parts.json.state = state.as_str().to_owned();
        parts.is_failing = true;
        let SinkError { kind, message, status, .. } = error.clone();
        let kind = kind.as_str().to_owned();
        parts.json.last_error = Some(SinkErrorJson { at, kind, status, message });
        parts.json.next_attempt = next_attempt;
        parts.behind_since.get_or_insert(at);
        parts.log(at, took_ms, changes, Err(error.clone()));
    }

    /// The task of the sink has failed.
    pub(super) fn broke(&self, now: Timestamp) {
        let message = "its task failed, which is a bug: the log says where; restart the daemon";
        let error = SinkError::new(SinkErrorKind::Unavailable, message);
        self.failed(now, (0, 0), &error, None);
    }

    pub(super) fn json(&self, now: Timestamp) -> SinkStatusJson {
        let parts = self.lock();
        let behind =
            parts.behind_since.map_or(0.0, |since| now.duration_since(since).as_secs_f64());
        SinkStatusJson { behind_s: behind.max(0.0), ..parts.json.clone() }
    }
}

impl StatusParts {
    fn recover(&mut self) {
        if std::mem::take(&mut self.is_failing) {
            self.json.state = SinkState::Running.as_str().to_owned();
        }
        self.json.next_attempt = None;
    }

    fn log(
        &mut self,
        at: Timestamp,
        took_ms: u64,
        changes: usize,
        result: Result<Receipt, SinkError>,
    ) {
        let (outcome, status, id) = match result {
            Ok(Receipt { status, id, .. }) => ("delivered", status, id),
            Err(error) => (error.kind.as_str(), error.status, None),
        };
        let outcome = outcome.to_owned();
        let attempt = SinkAttemptJson { at, took_ms, changes, outcome, status, id };
        self.json.attempts.insert(0, attempt);
        self.json.attempts.truncate(ATTEMPTS);
    }
}

/// A command for the task of a sink.
pub(super) struct SinkRequest {
    pub(super) command: SinkCommand,
    pub(super) reply: oneshot::Sender<Result<(), SinkRefusal>>,
}

/// The sinks for the API. Clones share them.
#[derive(Clone)]
pub struct SinkBoard {
    env: Env,
    sinks: Arc<Mutex<SinkCells>>,
}

type SinkCells = BTreeMap<Arc<str>, (StatusCell, mpsc::Sender<SinkRequest>)>;

impl SinkBoard {
    /// A board without sinks.
    pub fn new(env: Env) -> Self {
        Self { env, sinks: Arc::default() }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, SinkCells> {
        self.sinks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SinkApi for SinkBoard {
    fn list(&self) -> Vec<SinkStatusJson> {
        let now = self.env.now();
        self.lock().values().map(|(cell, _)| cell.json(now)).collect()
    }

    fn ask(
        &self,
        sink: String,
        command: SinkCommand,
    ) -> BoxFuture<'_, Result<SinkStatusJson, SinkRefusal>> {
        Box::pin(async move {
            let found = self.lock().get(&*sink).cloned();
            let Some((cell, commands)) = found else { return Err(SinkRefusal::Unknown(sink)) };
            let (reply, answer) = oneshot::channel();
            let ending = || SinkRefusal::Failed("the sink is being stopped".to_owned());
            commands.send(SinkRequest { command, reply }).await.map_err(|_| ending())?;
            answer.await.map_err(|_| ending())??;
            Ok(cell.json(self.env.now()))
        })
    }
}
