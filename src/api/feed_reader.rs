//! One reader of the feed: where it is, what it sees, and the lines that it gets.

use std::sync::Arc;

use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout_at};

use super::AppState;
use super::change_feed::ChangeFeed;
use super::line_format::LineFormat;
use super::live_lines::LiveLines;
use super::problem::Problem;
use super::slice_run::SliceProducer;
use crate::mirror::change::Seq;
use crate::store::Change;

/// Changes read from the store at a time, if they are not too large together.
pub(super) const BATCH: usize = 500;

/// One reader of the feed.
pub(super) struct FeedReader {
    pub(super) app: Arc<AppState>,
    pub(super) feed: ChangeFeed,
    /// Whether the reader gets changes. Others get live lines only.
    pub(super) sees_changes: bool,
    /// The lines that are not stored, if the reader wants any. Boxed, because few readers do, and
    /// each waiting reader keeps the room.
    pub(super) live: Option<Box<LiveLines>>,
}

/// The outcome of [`FeedReader::read_batch`].
pub(super) struct BatchSummary {
    pub(super) lines: usize,
    /// Whether the end was reached.
    pub(super) at_end: bool,
}

impl FeedReader {
    /// Writes the next changes: at most `limit`, about `bytes` bytes, and none after `end`.
    pub(super) async fn read_batch(
        &mut self,
        text: &mut Vec<u8>,
        form: LineFormat,
        (limit, bytes, end): (usize, usize, Seq),
    ) -> Result<BatchSummary, Problem> {
        let changes = self.feed.read_to(end, limit.min(BATCH), bytes).await?;
        if let Some(live) = self.live.as_mut().filter(|_| changes.moved) {
            live.on_changes();
        }
        let mut summary = BatchSummary { lines: 0, at_end: changes.at_end };
        if !self.sees_changes {
            return Ok(summary);
        }
        text.reserve(changes.value.iter().map(line_size).sum());
        for change in changes.value {
            summary.lines += 1;
            form.write(text, ("change", &change.cursor), |text| change.write_line(text));
        }
        Ok(summary)
    }

    /// Looks for live lines that are due; returns whether there are any.
    pub(super) async fn look(&mut self) -> Result<bool, Problem> {
        match &mut self.live {
            Some(live) => {
                live.look(&self.feed.view).await?;
                Ok(live.is_due())
            }
            None => Ok(false),
        }
    }

    /// Writes about `bytes` bytes of the live lines that were found, with this cursor.
    pub(super) async fn write_live(
        &mut self,
        text: &mut Vec<u8>,
        (form, cursor, bytes): (LineFormat, &str, usize),
    ) -> Result<(), Problem> {
        match &mut self.live {
            Some(live) => live.write(text, (form, cursor, bytes), &self.feed.view).await,
            None => Ok(()),
        }
    }

    /// Whether there are live lines to write.
    pub(super) fn has_live_lines(&self) -> bool {
        self.live.as_ref().is_some_and(|live| live.has_lines())
    }

    /// Waits until there may be lines; `false` when the daemon stops or its store ends.
    pub(super) async fn wait_until(&mut self, until: Instant) -> Result<bool, Elapsed> {
        let Self { app, feed, live, .. } = self;
        let live = async {
            match live {
                Some(live) => live.wait().await,
                None => std::future::pending().await,
            }
        };
        let woken = async {
            tokio::select! {
                biased;
                () = app.stopping.given() => false,
                changed = feed.wait() => changed.is_ok(),
                () = live => true,
            }
        };
        timeout_at(until, woken).await
    }

    /// The cursor to continue from.
    pub(super) fn cursor(&self) -> String {
        self.feed.cursor()
    }

    /// The seq up to which the feed was read.
    pub(super) fn seq(&self) -> Seq {
        self.feed.follower.seq()
    }
}

/// Roughly how many bytes the line or frame of a change has.
fn line_size(change: &Change) -> usize {
    let event = change.event.as_ref().map_or(0, bytes::Bytes::len);
    event + change.id.as_str().len() + 2 * change.cursor.len() + change.window.len() + 200
}

/// The lines of a response that are produced as it is read.
pub(super) struct RemainingLines {
    pub(super) reader: FeedReader,
    /// The cursor before the changes, which live lines come before.
    pub(super) before: String,
    /// The first changes.
    pub(super) first: bytes::Bytes,
    /// The last seq of the response.
    pub(super) end: Seq,
}

impl SliceProducer for RemainingLines {
    async fn next(&mut self, bytes: usize) -> Result<Vec<u8>, Problem> {
        let mut lines = Vec::new();
        if self.reader.has_live_lines() {
            let how = (LineFormat::Line, &*self.before, bytes);
            self.reader.write_live(&mut lines, how).await?;
            return Ok(lines);
        }
        if !self.first.is_empty() {
            return Ok(std::mem::take(&mut self.first).into());
        }
        // A full batch: `end` already bounds the number of lines.
        self.reader.read_batch(&mut lines, LineFormat::Line, (BATCH, bytes, self.end)).await?;
        Ok(lines)
    }

    fn is_over(&self) -> bool {
        let has_lines = self.reader.has_live_lines() || !self.first.is_empty();
        !has_lines && self.reader.seq() >= self.end
    }
}
