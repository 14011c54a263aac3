//! One session of a sink: makes a target, finds the position, and sends batch by batch until
//! something fails.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::SinkContext;
use super::batch::{SinkBatch, SinkPosition, SinkWindow, SnapshotId};
use super::error::{SinkError, SinkErrorKind};
use super::record::SinkRecord;
use super::status::SinkState;
use super::target::{KeptPosition, NEW_SHARE, SinkTarget};
use crate::api::{AppState, ChangeFeed, FeedView, UnreadPart};
use crate::mirror::page::EventId;
use crate::store::{Change, FeedError, StoreError};

/// The most changes of a batch: with two lines for the begin and the end of a snapshot they are 1,000.
pub(super) const MAX_CHANGES: usize = 998;
/// About the most bytes of the events of a batch, so that with everything around them a request is
/// below 1 MiB; a larger event is sent alone.
const MAX_BYTES: usize = 640 << 10;

/// How old the position of a sink may become while the feed brings nothing for it: otherwise it
/// would expire with the removals after it.
const MAX_POSITION_AGE: Duration = Duration::from_secs(3600);

/// How often a snapshot looks whether its last window was enumerated.
const WINDOW_CHECK: Duration = Duration::from_secs(1);

/// How long the end of a snapshot waits for windows in trouble: longer than an outage, and than a person
/// needs who has to sign in.
const TROUBLE_LIMIT: Duration = Duration::from_secs(24 * 3600);

/// Why a session ended.
pub(super) enum SessionEnd {
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

/// What the sessions of a sink have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct Effort {
    /// Failed attempts since the last delivery.
    pub(super) failures: u32,
    /// The most changes of a batch: less after the target found one too large.
    pub(super) limit: usize,
}

/// What is read next, and what was sent.
pub(super) struct Session<'a> {
    context: &'a SinkContext,
    view: FeedView,
    target: Box<dyn SinkTarget>,
    feed: ChangeFeed,
    /// The cursor of what was sent; empty at the beginning of a snapshot.
    sent: String,
    snapshot: Option<SnapshotId>,
    /// Whether the begin of the snapshot was not sent yet.
    begins: bool,
    /// Whether the target keeps the position.
    kept_in_target: bool,
    saved_at: Instant,
    /// When the session began.
    begun_at: Instant,
    /// Whether windows were missing that may be in the target, and when that was looked at.
    missing: Option<(bool, Instant)>,
}

impl<'a> Session<'a> {
    /// Opens a target and finds the position.
    pub(super) async fn begin(
        context: &'a SinkContext,
        record: &mut SinkRecord,
    ) -> Result<Self, SessionEnd> {
        let view = context.view()?;
        let identity = context.identity(&view);
        if record.identity != identity {
            // Another target, or other contents: what it has is of no use. Kept before anything else,
            // so that a change of the configuration that is taken back is one, too.
            record.begin_again(&identity, context.new_snapshot());
            record.save(&context.app.store, &context.config.name).await?;
        }
        let mut target = context.target();
        let kept = target.open(record.mark.as_deref()).await?;
        let kept_in_target = !matches!(kept, KeptPosition::InStore);
        let position = match kept {
            _ if record.begins.is_some() => None,
            KeptPosition::InTarget(None) | KeptPosition::Lost => None,
            _ if record.replays => record.position.clone(),
            KeptPosition::InTarget(position) => position,
            KeptPosition::InStore => record.position.clone(),
        };
        let known = match position {
            Some(position) => view.after(&position.cursor)?.map(|feed| (feed, position)),
            None => None,
        };
        let (feed, sent, snapshot, begins) = match known {
            Some((feed, position)) => (feed, position.cursor, position.snapshot, false),
            None => {
                let snapshot = context.begin_snapshot(record).await?;
                (view.from_beginning(), String::new(), Some(snapshot), true)
            }
        };
        let saved_at = Instant::now();
        Ok(Self {
            context,
            view,
            target,
            feed,
            sent,
            snapshot,
            begins,
            kept_in_target,
            saved_at,
            begun_at: saved_at,
            missing: None,
        })
    }

    /// Reads and sends one batch, or waits for changes.
    pub(super) async fn step(
        &mut self,
        record: &mut SinkRecord,
        effort: &mut Effort,
    ) -> Result<(), SessionEnd> {
        let SinkContext { app, config, status, .. } = self.context;
        // Before the feed is read: what a window gets after it is not in this batch.
        let is_missing = self.snapshot.is_some() && self.is_missing();
        let changes = match self.feed.read(effort.limit, MAX_BYTES).await {
            Ok(changes) => changes,
            Err(FeedError::Store(error)) => return Err(error.into()),
            Err(FeedError::Malformed | FeedError::SnapshotRequired) => {
                // It was away for longer than removals are kept.
                record.begins = None;
                self.snapshot = Some(self.context.begin_snapshot(record).await?);
                (self.feed, self.begins) = (self.view.from_beginning(), true);
                self.sent.clear();
                return Ok(());
            }
        };
        let now = app.env.now();
        let ends =
            self.snapshot.is_some() && changes.at_end && !self.feed.is_initial() && !is_missing;
        let is_empty = changes.value.is_empty() && !self.begins && !ends;
        let moved = self.feed.cursor() != self.sent;
        // Others learn from it that this sink is alive.
        let is_due = moved || self.kept_in_target;
        if is_empty && !(is_due && self.saved_at.elapsed() >= MAX_POSITION_AGE) {
            if changes.at_end {
                status.caught_up();
                effort.failures = 0;
                self.wait().await?;
            }
            return Ok(());
        }
        let after =
            SinkPosition { cursor: self.feed.cursor(), snapshot: self.snapshot.filter(|_| !ends) };
        if !is_empty || self.kept_in_target {
            let changes = latest(changes.value);
            let until = changes.last().map(|change| change.at);
            let batch = SinkBatch {
                sink: config.name.clone(),
                shard: app.settings.shard.of,
                at: now,
                before: self.sent.clone(),
                after: after.clone(),
                snapshot: self.snapshot,
                begins: self.begins,
                ends,
                windows: windows(app, &changes),
                changes,
            };
            // Without one of its own, the target has this share from now on.
            let mark = self.deliver(&batch, effort).await?;
            let kept = record.mark.take().filter(|known| known != NEW_SHARE);
            record.mark = mark.or(kept);
            status.set_sent_until(until);
        }
        (record.position, record.replays) = (Some(after.clone()), false);
        record.begins = None;
        record.save(&app.store, &config.name).await?;
        status.set_position(&after.cursor, after.snapshot.is_some());
        if let Ok(pending) = self.feed.pending().await {
            status.set_pending(pending, now);
        }
        self.snapshot = after.snapshot;
        (self.sent, self.begins, self.saved_at) = (after.cursor, false, Instant::now());
        Ok(())
    }

    /// Whether windows have not been enumerated once, so that their events in the target are not
    /// ghosts.
    fn is_missing(&mut self) -> bool {
        match self.missing {
            Some((is_missing, at)) if at.elapsed() < WINDOW_CHECK => is_missing,
            _ => {
                let is_missing = match self.view.unread() {
                    UnreadPart::Nothing => false,
                    UnreadPart::InTrouble => self.begun_at.elapsed() < TROUBLE_LIMIT,
                    UnreadPart::Soon => true,
                };
                self.missing = Some((is_missing, Instant::now()));
                is_missing
            }
        }
    }

    /// Delivers a batch; returns the new mark of the target, if it has one.
    async fn deliver(
        &mut self,
        batch: &SinkBatch,
        effort: &mut Effort,
    ) -> Result<Option<String>, SessionEnd> {
        let (begun, count) = (Instant::now(), batch.changes.len());
        match self.target.deliver(batch).await {
            Ok(mut receipt) => {
                let mark = receipt.mark.take();
                *effort = Effort { failures: 0, limit: MAX_CHANGES };
                self.context.status.delivered(batch.at, millis(begun), count, receipt);
                Ok(mark)
            }
            Err(error) => {
                if error.status == Some(413) {
                    effort.limit = (count / 2).max(1);
                }
                Err(SessionEnd::Failed(error, (millis(begun), count)))
            }
        }
    }

    /// Waits for changes, and then for more of them.
    async fn wait(&mut self) -> Result<(), SessionEnd> {
        // The position moves from time to time, even if nothing comes.
        let most = match self.snapshot {
            Some(_) => WINDOW_CHECK,
            None => MAX_POSITION_AGE,
        };
        match tokio::time::timeout(most, self.feed.wait()).await {
            // Even a sleep of no time lasts until the next tick of the timer.
            Ok(Ok(())) if self.context.config.batch.is_zero() => {}
            Ok(Ok(())) => tokio::time::sleep(self.context.config.batch).await,
            Ok(Err(_)) => return Err(SessionEnd::StoreEnded),
            Err(_) => {}
        }
        Ok(())
    }
}

/// The latest change of each event. A window that replaces another one of its name may bring an
/// event whose removal from the old one comes in the same batch.
fn latest(changes: Vec<Change>) -> Vec<Change> {
    let mut last: HashMap<(Arc<str>, EventId), usize> = HashMap::with_capacity(changes.len());
    for (at, change) in changes.iter().enumerate() {
        last.insert((change.window.clone(), change.id.clone()), at);
    }
    if last.len() == changes.len() {
        return changes;
    }
    let is_last = |at: usize, change: &Change| {
        last.get(&(change.window.clone(), change.id.clone())) == Some(&at)
    };
    let kept = changes.into_iter().enumerate().filter(|(at, change)| is_last(*at, change));
    kept.map(|(_, change)| change).collect()
}

/// The windows of changes, as far as they are configured.
fn windows(app: &AppState, changes: &[Change]) -> Vec<SinkWindow> {
    let names: BTreeSet<&Arc<str>> = changes.iter().map(|change| &change.window).collect();
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

/// Sends until something fails.
pub(super) async fn run(
    context: &SinkContext,
    record: &mut SinkRecord,
    effort: &mut Effort,
) -> SessionEnd {
    let sending = async {
        let mut session = Session::begin(context, record).await?;
        context.status.set_state(SinkState::Running);
        loop {
            session.step(record, effort).await?;
        }
    };
    let ended: Result<std::convert::Infallible, SessionEnd> = sending.await;
    match ended {
        Err(end) => end,
        Ok(never) => match never {},
    }
}

pub(super) fn millis(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::change::ChangeKind;

    /// A window is replaced by another one of its name, with the same events.
    #[test]
    fn the_latest_change_of_an_event_counts() {
        let change = |seq, window: &str, id: &str, kind| Change {
            cursor: String::new(),
            seq,
            at: crate::tests::NOON,
            window: window.into(),
            kind,
            reason: None,
            id: EventId::new(id),
            event: None,
            changed: None,
            is_new_version: false,
            summary: None,
        };
        let changes = vec![
            change(1, "alice", "a", ChangeKind::Removed),
            change(2, "alice", "b", ChangeKind::Removed),
            change(3, "bob", "a", ChangeKind::Updated),
            change(4, "alice", "a", ChangeKind::Created),
        ];
        let seqs: Vec<u64> = latest(changes).iter().map(|change| change.seq).collect();
        assert_eq!(seqs, [2, 3, 4]);
    }
}
