//! The task of a sink: reads the feed and sends it, batch by batch, until it is stopped.
//!
//! A session makes a target, finds the position and sends. Any failure ends it, and the next one
//! begins after a pause that grows: it reads the feed again from the position, so a target that is
//! away holds no memory, and gets what is newest by then.

use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::TargetMaker;
use super::batch::{SinkBatch, SinkPosition, SinkWindow, SnapshotId};
use super::error::{SinkError, SinkErrorKind};
use super::status::{SinkRequest, SinkState, StatusCell};
use super::target::{KeptPosition, SinkTarget};
use crate::api::{AppState, ChangeFeed, FeedView, ReplayFrom, SinkCommand, SinkRefusal};
use crate::config::{SinkConfig, SinkTargetConfig, WebhookConfig};
use crate::store::{Change, FeedError, StoreError};

/// The most changes of a batch.
const MAX_CHANGES: usize = 1000;
/// About the most bytes of the events of a batch; the last one may exceed it.
const MAX_BYTES: usize = 1 << 20;

/// The pause after the first failure, which doubles with each further one, and the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(15 * 60);
/// The longest pause that a target may ask for.
const MAX_ASKED_PAUSE: Duration = Duration::from_secs(24 * 3600);

/// How often a sink that rests shows how much there is to send.
const MEASURE: Duration = Duration::from_secs(30);

/// How old the position of a sink may become while the feed brings nothing for it: otherwise it
/// would expire with the removals after it.
const MAX_POSITION_AGE: Duration = Duration::from_secs(3600);

/// What the store keeps of a sink.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct SinkRecord {
    /// A hash of the target and the filter that the position belongs to.
    identity: String,
    position: Option<SinkPosition>,
    #[serde(default)]
    paused: bool,
    /// The target is gone for good.
    #[serde(default)]
    stopped: bool,
    /// The position counts more than that in the target: a person asked for it.
    #[serde(default)]
    replays: bool,
}

/// Why a session ended.
enum SessionEnd {
    /// An attempt failed, after so many milliseconds, with so many changes.
    Failed(SinkError, (u64, usize)),
    /// The store of the daemon has ended.
    StoreEnded,
}

impl From<SinkError> for SessionEnd {
    fn from(error: SinkError) -> Self {
        Self::Failed(error, (0, 0))
    }
}

impl From<StoreError> for SessionEnd {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Full => {
                let message = format!("the position cannot be kept: {error}");
                Self::Failed(SinkError::new(SinkErrorKind::Unavailable, message), (0, 0))
            }
            _ => Self::StoreEnded,
        }
    }
}

/// A sink that runs.
pub(super) struct SinkTask {
    pub(super) config: SinkConfig,
    pub(super) app: Arc<AppState>,
    pub(super) make: TargetMaker,
    pub(super) status: StatusCell,
    pub(super) commands: mpsc::Receiver<SinkRequest>,
    pub(super) stop: CancellationToken,
}

/// What is read next, and what was sent.
struct Session {
    feed: ChangeFeed,
    /// The cursor of what was sent; empty at the beginning of a snapshot.
    sent: String,
    snapshot: Option<SnapshotId>,
    /// Whether the begin of the snapshot was not sent yet.
    begins: bool,
    /// Whether the target keeps the position.
    kept_in_target: bool,
    saved_at: Instant,
}

impl SinkTask {
    /// Runs until it is stopped or the store ends.
    pub(super) async fn run(mut self) {
        let stop = self.stop.clone();
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.work() => {}
        }
    }

    async fn work(&mut self) {
        let Ok(mut record) = self.load().await else { return };
        let mut failures = 0_u32;
        let mut due: Option<Instant> = None;
        loop {
            let rests = record.paused || record.stopped;
            match (record.paused, record.stopped, due) {
                (true, ..) => self.status.set_state(SinkState::Paused),
                (_, true, _) => self.status.set_state(SinkState::Stopped),
                (.., None) => self.status.set_state(SinkState::Starting),
                _ => {}
            }
            let resting = rests || due.is_some();
            let (app, config, make, status) = (&self.app, &self.config, &self.make, &self.status);
            let session = async {
                let until = if rests { None } else { due };
                if rests || until.is_some() {
                    rest(app, config, status, &record, until).await;
                    return None;
                }
                Some(session(app, config, make, status, &mut record, &mut failures).await)
            };
            tokio::select! {
                biased;
                request = self.commands.recv() => {
                    let Some(request) = request else { return };
                    let waits = matches!(request.command, SinkCommand::Test) && resting;
                    if self.on_request(request, &mut record).await.is_err() {
                        return;
                    }
                    if !waits {
                        (failures, due) = (0, None);
                    }
                }
                end = session => match end {
                    None => due = None,
                    Some(SessionEnd::StoreEnded) => return,
                    Some(SessionEnd::Failed(error, attempt)) => {
                        failures = failures.saturating_add(1);
                        let wait = self.pause(&error, failures);
                        if error.kind == SinkErrorKind::Gone {
                            record.stopped = true;
                            if self.save(&record).await.is_err() {
                                return;
                            }
                        }
                        let next = (!record.stopped).then_some(wait);
                        self.report(&error, attempt, next);
                        due = Some(Instant::now() + wait);
                    }
                },
            }
        }
    }

    /// The pause before the next attempt: growing, jittered, and no shorter than the target asks.
    fn pause(&self, error: &SinkError, failures: u32) -> Duration {
        let doubled = FIRST_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(16));
        let jittered = doubled.min(MAX_PAUSE).mul_f64(0.5 + self.app.env.random());
        jittered.max(error.retry_after.unwrap_or_default().min(MAX_ASKED_PAUSE))
    }

    fn report(&self, error: &SinkError, attempt: (u64, usize), wait: Option<Duration>) {
        let now = self.app.env.now();
        let wait = wait.and_then(|wait| SignedDuration::try_from(wait).ok());
        let next = wait.and_then(|wait| now.checked_add(wait).ok());
        self.status.set_state(if wait.is_some() { SinkState::Waiting } else { SinkState::Stopped });
        self.status.failed(now, attempt, error, next);
        tracing::warn!(
            sink = %self.config.name,
            kind = error.kind.as_str(),
            status = error.status,
            reason = error.message,
            retry_in_s = wait.map(|wait| wait.as_secs()),
            "a sink could not deliver"
        );
    }

    async fn on_request(
        &self,
        request: SinkRequest,
        record: &mut SinkRecord,
    ) -> Result<(), StoreError> {
        let SinkRequest { command, reply } = request;
        let done = match command {
            SinkCommand::Test => self.test().await.map_err(SinkRefusal::Failed),
            SinkCommand::Pause => {
                record.paused = true;
                self.save(record).await?;
                Ok(())
            }
            SinkCommand::Resume => {
                (record.paused, record.stopped) = (false, false);
                self.save(record).await?;
                Ok(())
            }
            SinkCommand::Replay(from) => self.replay(from, record).await?,
        };
        match (record.paused, record.stopped) {
            (true, _) => self.status.set_state(SinkState::Paused),
            (_, true) => self.status.set_state(SinkState::Stopped),
            _ => {}
        }
        // The caller may be gone.
        reply.send(done).ok();
        Ok(())
    }

    async fn test(&self) -> Result<(), String> {
        let mut target = (self.make)(&self.config);
        let now = self.app.env.now();
        let begun = Instant::now();
        let testing = async {
            target.open().await?;
            target.test(&self.config.name, now).await
        };
        match testing.await {
            Ok(receipt) => {
                self.status.delivered(now, millis(begun), 0, receipt);
                Ok(())
            }
            Err(error) => {
                self.status.failed(now, (millis(begun), 0), &error, None);
                Err(error.message)
            }
        }
    }

    /// Makes the sink send again from an earlier position.
    async fn replay(
        &self,
        from: ReplayFrom,
        record: &mut SinkRecord,
    ) -> Result<Result<(), SinkRefusal>, StoreError> {
        let is_in_snapshot = record.position.as_ref().is_some_and(|at| at.snapshot.is_some());
        if is_in_snapshot && from != ReplayFrom::Start {
            let why = "a snapshot is being sent, which would never end: wait, or start another one";
            return Ok(Err(SinkRefusal::BadPlace(why.to_owned())));
        }
        let view = match view(&self.app, &self.config) {
            Ok(view) => view,
            Err(error) => return Ok(Err(SinkRefusal::Failed(error.message))),
        };
        let cursor = match from {
            ReplayFrom::Start => None,
            ReplayFrom::Time(time) => Some(view.cursor(self.app.store.cursor_at(time).await?)),
            ReplayFrom::Cursor(cursor) => match view.after(&cursor)? {
                Some(_) => Some(cursor),
                // A cursor of the plain feed is one of the store.
                None => match view.after(&view.cursor(cursor))? {
                    Some(feed) => Some(feed.cursor()),
                    None => {
                        let why = "neither a time nor a cursor of this feed, or older than the \
                                   removals that are kept: start sends everything again";
                        return Ok(Err(SinkRefusal::BadPlace(why.to_owned())));
                    }
                },
            },
        };
        let position = cursor.map(|cursor| SinkPosition { cursor, snapshot: None });
        *record = SinkRecord {
            identity: identity(&self.config),
            position,
            replays: true,
            paused: record.paused,
            stopped: false,
        };
        self.save(record).await?;
        Ok(Ok(()))
    }

    async fn load(&self) -> Result<SinkRecord, StoreError> {
        let mut records = self.app.store.sinks().await?;
        let state = records.remove(&self.config.name);
        // What a later version wrote in another form is no position: the sink begins again.
        Ok(state.and_then(|state| serde_json::from_str(&state).ok()).unwrap_or_default())
    }

    async fn save(&self, record: &SinkRecord) -> Result<(), StoreError> {
        save(&self.app, &self.config, record).await
    }
}

async fn save(app: &AppState, config: &SinkConfig, record: &SinkRecord) -> Result<(), StoreError> {
    // Texts and flags always serialize.
    let state = serde_json::to_string(record).unwrap_or_default();
    app.store.save_sink(&config.name, Some(state)).await
}

/// What a position belongs to, besides the view.
fn identity(config: &SinkConfig) -> String {
    let SinkConfig { target, filter, .. } = config;
    let mut sum = Sha256::new();
    match target {
        SinkTargetConfig::Webhook(WebhookConfig { url, .. })
        | SinkTargetConfig::Postgres { url, .. } => {
            // Without an address nothing is sent.
            sum.update(super::secret_of(url).read().map_or_else(
                |_| String::new(),
                |text| secrecy::ExposeSecret::expose_secret(&text).to_owned(),
            ));
        }
        SinkTargetConfig::Sqlite { path } => sum.update(path.as_os_str().as_encoded_bytes()),
    }
    sum.update([0]);
    sum.update(filter);
    sum.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

fn view(app: &Arc<AppState>, config: &SinkConfig) -> Result<FeedView, SinkError> {
    let SinkConfig { windows, groups, level, target, .. } = config;
    let mut filter = config.filter.clone();
    if matches!(target, SinkTargetConfig::Webhook(_)) && !filter.contains("ignore=") {
        // Most changes of a calendar change nothing that a receiver acts upon.
        let all = "ignore=changeKey,lastModifiedDateTime,@odata.etag";
        filter = if filter.is_empty() { all.to_owned() } else { format!("{filter}&{all}") };
    }
    let view = FeedView::new(app, windows, groups, &filter, *level);
    view.map_err(|why| SinkError::new(SinkErrorKind::Misconfigured, why))
}

/// Waits until the next attempt is due, forever if none is, and shows how much there is to send.
async fn rest(
    app: &Arc<AppState>,
    config: &SinkConfig,
    status: &StatusCell,
    record: &SinkRecord,
    until: Option<Instant>,
) {
    loop {
        let known = record.position.as_ref().zip(view(app, config).ok());
        let feed = known.and_then(|(position, view)| view.after(&position.cursor).ok().flatten());
        if let Some(feed) = feed
            && let Ok(pending) = feed.pending().await
        {
            status.set_pending(pending, app.env.now());
        }
        let again = Instant::now() + MEASURE;
        let due = until.filter(|due| *due <= again);
        tokio::time::sleep_until(due.unwrap_or(again)).await;
        if due.is_some() {
            return;
        }
    }
}

/// Sends until something fails.
async fn session(
    app: &Arc<AppState>,
    config: &SinkConfig,
    make: &TargetMaker,
    status: &StatusCell,
    record: &mut SinkRecord,
    failures: &mut u32,
) -> SessionEnd {
    let sending = async {
        let mut target = make(config);
        let view = view(app, config)?;
        let mut session = begin(app, config, &view, &mut *target, record).await?;
        status.set_state(SinkState::Running);
        loop {
            step(app, config, &view, status, &mut *target, &mut session, record).await?;
            *failures = 0;
        }
    };
    let ended: Result<std::convert::Infallible, SessionEnd> = sending.await;
    match ended {
        Err(end) => end,
        Ok(never) => match never {},
    }
}

/// Opens the target and finds the position.
async fn begin(
    app: &Arc<AppState>,
    config: &SinkConfig,
    view: &FeedView,
    target: &mut dyn SinkTarget,
    record: &mut SinkRecord,
) -> Result<Session, SessionEnd> {
    let kept = target.open().await?;
    let identity = identity(config);
    let kept_in_target = matches!(kept, KeptPosition::InTarget(_));
    let position = match kept {
        _ if record.replays => record.position.clone(),
        KeptPosition::InTarget(position) => position,
        KeptPosition::InStore => record.position.clone().filter(|_| record.identity == identity),
    };
    record.identity = identity;
    let known = match position {
        Some(position) => view.after(&position.cursor)?.map(|feed| (feed, position)),
        None => None,
    };
    let saved_at = Instant::now();
    Ok(match known {
        Some((feed, position)) => Session {
            feed,
            sent: position.cursor,
            snapshot: position.snapshot,
            begins: false,
            kept_in_target,
            saved_at,
        },
        None => snapshot(app, view, kept_in_target),
    })
}

/// Begins a snapshot.
fn snapshot(app: &AppState, view: &FeedView, kept_in_target: bool) -> Session {
    Session {
        feed: view.from_beginning(),
        sent: String::new(),
        snapshot: Some(SnapshotId(app.env.random_u64())),
        begins: true,
        kept_in_target,
        saved_at: Instant::now(),
    }
}

/// Reads and sends one batch, or waits for changes.
async fn step(
    app: &Arc<AppState>,
    config: &SinkConfig,
    view: &FeedView,
    status: &StatusCell,
    target: &mut dyn SinkTarget,
    session: &mut Session,
    record: &mut SinkRecord,
) -> Result<(), SessionEnd> {
    let changes = match session.feed.read(MAX_CHANGES, MAX_BYTES).await {
        Ok(changes) => changes,
        Err(FeedError::Store(error)) => return Err(error.into()),
        Err(FeedError::Malformed | FeedError::SnapshotRequired) => {
            *session = snapshot(app, view, session.kept_in_target);
            return Ok(());
        }
    };
    let now = app.env.now();
    let ends = session.snapshot.is_some() && changes.at_end && !session.feed.is_initial();
    let is_old =
        session.saved_at.elapsed() >= MAX_POSITION_AGE && session.feed.cursor() != session.sent;
    let is_empty = changes.value.is_empty() && !session.begins && !ends;
    if is_empty && !is_old {
        if changes.at_end {
            status.set_pending(0, now);
            wait(&mut session.feed, config.batch).await?;
        }
        return Ok(());
    }
    let after = SinkPosition {
        cursor: session.feed.cursor(),
        snapshot: session.snapshot.filter(|_| !ends),
    };
    if !is_empty || session.kept_in_target {
        let batch = SinkBatch {
            sink: config.name.clone(),
            at: now,
            before: session.sent.clone(),
            after: after.clone(),
            snapshot: session.snapshot,
            begins: session.begins,
            ends,
            windows: windows(app, &changes.value),
            changes: changes.value,
        };
        let begun = Instant::now();
        let count = batch.changes.len();
        let receipt = target
            .deliver(&batch)
            .await
            .map_err(|error| SessionEnd::Failed(error, (millis(begun), count)))?;
        status.delivered(now, millis(begun), count, receipt);
    }
    (record.position, record.replays) = (Some(after.clone()), false);
    save(app, config, record).await?;
    status.set_position(&after.cursor, after.snapshot.is_some());
    let pending = session.feed.pending().await.unwrap_or_default();
    status.set_pending(pending, now);
    session.snapshot = after.snapshot;
    (session.sent, session.begins, session.saved_at) = (after.cursor, false, Instant::now());
    Ok(())
}

/// Waits for changes, and then for more of them.
async fn wait(feed: &mut ChangeFeed, batch: Duration) -> Result<(), SessionEnd> {
    // The position moves from time to time, even if nothing comes.
    match tokio::time::timeout(MAX_POSITION_AGE, feed.wait()).await {
        Ok(Ok(())) => tokio::time::sleep(batch).await,
        Ok(Err(_)) => return Err(SessionEnd::StoreEnded),
        Err(_) => {}
    }
    Ok(())
}

/// The windows of changes, as far as they are configured.
fn windows(app: &AppState, changes: &[Change]) -> Vec<SinkWindow> {
    let names: std::collections::BTreeSet<&Arc<str>> =
        changes.iter().map(|change| &change.window).collect();
    let known = names.into_iter().filter_map(|name| {
        let window = app.window(name)?;
        Some(SinkWindow {
            name: name.clone(),
            account: window.account,
            mailbox: window.mailbox,
            calendar: window.calendar,
            place: window.place,
        })
    });
    known.collect()
}

fn millis(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX)
}
