//! The task of a sink: session after session, with pauses that grow, and what people ask of it.
//!
//! Any failure ends a session, and the next one reads the feed again from the position: a target
//! that is away holds no memory, and gets what is newest by then.

use std::time::Duration;

use jiff::SignedDuration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::SinkContext;
use super::batch::SinkPosition;
use super::error::{SinkError, SinkErrorKind};
use super::record::SinkRecord;
use super::session::{self, Effort, MAX_CHANGES, SessionEnd, millis};
use super::status::{SinkRequest, SinkState};
use super::target::NEW_SHARE;
use crate::api::{ReplayFrom, SinkCommand, SinkRefusal};
use crate::error_chain::error_chain;
use crate::store::StoreError;

/// The pause after the first failure, which doubles with each further one, and the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(15 * 60);
/// The longest pause if the target is one that cannot be used now: another process uses it, or its
/// configuration is about to change.
const MAX_PAUSE_UNSUITABLE: Duration = Duration::from_secs(60);
/// The longest pause that a target may ask for.
const MAX_ASKED_PAUSE: Duration = Duration::from_secs(24 * 3600);

/// How often a sink that rests shows how much there is to send.
const MEASURE: Duration = Duration::from_secs(30);

/// A sink that runs.
pub(super) struct SinkTask {
    pub(super) context: SinkContext,
    pub(super) commands: mpsc::Receiver<SinkRequest>,
    pub(super) stop: CancellationToken,
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
        let Self { context, commands, .. } = self;
        let loaded = SinkRecord::load(&context.app.store, &context.config.name).await;
        let Ok(mut record) = loaded else { return };
        let mut effort = Effort { failures: 0, limit: MAX_CHANGES };
        let mut due: Option<Instant> = None;
        loop {
            let rests = record.paused || record.stopped;
            context.show_rest(&record);
            let session = async {
                let until = if rests { None } else { due };
                if rests || until.is_some() {
                    context.rest(&record, until).await;
                    return None;
                }
                context.status.set_state(SinkState::Starting);
                Some(session::run(context, &mut record, &mut effort).await)
            };
            tokio::select! {
                biased;
                request = commands.recv() => {
                    let Some(request) = request else { return };
                    let Ok(changed) = context.on_request(request, &mut record).await else {
                        return;
                    };
                    if changed {
                        (effort.failures, due) = (0, None);
                    }
                }
                end = session => match end {
                    None => due = None,
                    Some(SessionEnd::StoreEnded) => return,
                    Some(SessionEnd::Failed(error, attempt)) => {
                        effort.failures = effort.failures.saturating_add(1);
                        record.stopped = error.kind == SinkErrorKind::Gone;
                        if record.stopped {
                            // If it cannot be kept, a restart asks the target once more.
                            record.save(&context.app.store, &context.config.name).await.ok();
                        }
                        let wait = context.pause(&error, effort.failures);
                        context.report(&error, attempt, (!record.stopped).then_some(wait));
                        due = Some(Instant::now() + wait);
                    }
                },
            }
        }
    }
}

impl SinkContext {
    /// The pause before the next attempt: growing, jittered, and no shorter than the target asks.
    fn pause(&self, error: &SinkError, failures: u32) -> Duration {
        let doubled = FIRST_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(16));
        // What another process or a person ends soon.
        let most = match error.kind {
            SinkErrorKind::Unsuitable => MAX_PAUSE_UNSUITABLE,
            _ => MAX_PAUSE,
        };
        let jittered = doubled.min(most).mul_f64(0.5 + self.app.env.random());
        jittered.max(error.retry_after.unwrap_or_default().min(MAX_ASKED_PAUSE))
    }

    fn report(&self, error: &SinkError, attempt: (u64, usize), wait: Option<Duration>) {
        let now = self.app.env.now();
        let wait = wait.and_then(|wait| SignedDuration::try_from(wait).ok());
        let next = wait.and_then(|wait| now.checked_add(wait).ok());
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

    fn show_rest(&self, record: &SinkRecord) {
        match (record.paused, record.stopped) {
            (true, _) => self.status.set_state(SinkState::Paused),
            (_, true) => self.status.set_state(SinkState::Stopped),
            _ => {}
        }
    }

    /// Waits until the next attempt is due, forever if none is, and shows how much there is to
    /// send.
    async fn rest(&self, record: &SinkRecord, until: Option<Instant>) {
        loop {
            if let Ok(view) = self.view() {
                let known = record.position.as_ref().filter(|_| record.begins.is_none());
                let feed = known.and_then(|known| view.after(&known.cursor).ok().flatten());
                // Without a position that can be used it begins again.
                let feed = feed.unwrap_or_else(|| view.from_beginning());
                if let Ok(pending) = feed.pending().await {
                    self.status.set_pending(pending, self.app.env.now());
                }
            }
            let again = Instant::now() + MEASURE;
            let due = until.filter(|due| *due <= again);
            tokio::time::sleep_until(due.unwrap_or(again)).await;
            if due.is_some() {
                return;
            }
        }
    }

    /// Does what a person asks; returns whether the sink has to begin anew now.
    ///
    /// # Errors
    /// If the store has ended.
    async fn on_request(
        &self,
        request: SinkRequest,
        record: &mut SinkRecord,
    ) -> Result<bool, StoreError> {
        let SinkRequest { command, reply } = request;
        let tries = command != SinkCommand::Test;
        let mut changed = record.clone();
        let mut done = match command {
            SinkCommand::Test => self.test().await,
            SinkCommand::Pause => {
                changed.paused = true;
                Ok(())
            }
            SinkCommand::Resume => {
                (changed.paused, changed.stopped) = (false, false);
                Ok(())
            }
            SinkCommand::Replay(from) => self.replay(from, &mut changed).await?,
        };
        if done.is_ok() && changed != *record {
            match changed.save(&self.app.store, &self.config.name).await {
                Ok(()) => *record = changed,
                Err(error @ StoreError::Full) => {
                    done = Err(SinkRefusal::Failed(error_chain(&error)));
                }
                Err(error) => return Err(error),
            }
        }
        self.show_rest(record);
        let begins = tries && done.is_ok();
        // The caller may be gone.
        reply.send(done).ok();
        Ok(begins)
    }

    async fn test(&self) -> Result<(), SinkRefusal> {
        let mut target = self.target();
        let now = self.app.env.now();
        let begun = Instant::now();
        let testing = async {
            target.open(None).await?;
            target.test(&self.config.name, now).await
        };
        let result = testing.await;
        self.status.tested(now, millis(begun), &result);
        result.map(drop).map_err(|error| SinkRefusal::Failed(error.message))
    }

    /// Makes the sink send again from an earlier position.
    async fn replay(
        &self,
        from: ReplayFrom,
        record: &mut SinkRecord,
    ) -> Result<Result<(), SinkRefusal>, StoreError> {
        let refused = |why: &str| Ok(Err(SinkRefusal::BadPlace(why.to_owned())));
        let view = match self.view() {
            Ok(view) => view,
            Err(error) => return Ok(Err(SinkRefusal::Failed(error.message))),
        };
        record.stopped = false;
        if from == ReplayFrom::Start {
            let identity = self.identity(&view);
            // Of several shards whose counts differ, this one's counts.
            record.mark = Some(NEW_SHARE.to_owned());
            record.begin_again(&identity, self.new_snapshot());
            return Ok(Ok(()));
        }
        if !record.is_complete() || record.identity != self.identity(&view) {
            return refused("a snapshot is being sent: wait for its end, or start another one");
        }
        let sent = match &record.position {
            Some(position) => view.after(&position.cursor)?,
            None => None,
        };
        let Some(sent) = sent else {
            return refused("the sink was away for too long and begins again by itself");
        };
        let asked = match from {
            ReplayFrom::Cursor(cursor) => match view.after(&cursor)? {
                Some(feed) => Some(feed),
                // A cursor of the plain feed is one of the store.
                None => view.after(&view.cursor(cursor))?,
            },
            ReplayFrom::Time(time) => match self.app.store.cursor_at(time).await? {
                Some(cursor) => view.after(&view.cursor(cursor))?,
                None => None,
            },
            ReplayFrom::Start => None,
        };
        let Some(asked) = asked else {
            return refused(
                "neither a time nor a cursor of this feed, or older than the removals that are \
                 kept: start sends everything again",
            );
        };
        if asked.seq() > sent.seq() {
            return refused("nothing after it was sent yet");
        }
        record.position = Some(SinkPosition { cursor: asked.cursor(), snapshot: None });
        record.replays = true;
        Ok(Ok(()))
    }
}
