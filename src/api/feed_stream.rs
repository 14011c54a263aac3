//! The feed as a stream of server-sent events.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::time::Instant;

use super::feed_reader::{BATCH, BatchSummary, FeedReader};
use super::limits::{RequestLimits, SLICE_BYTES};
use super::line_format::LineFormat;
use super::problem::Problem;
use crate::mirror::change::Seq;

/// How often an idle stream sends its position, so that clients do not take it for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

impl FeedReader {
    /// A stream of server-sent events from this position, until either side ends it.
    pub(super) fn stream(self) -> Response {
        let open = self.app.metrics.readers.streams.increment();
        let stream = futures_util::stream::unfold((self, open), |(reader, open)| async {
            let (frame, reader) = reader.frame().await?;
            Some((Ok::<_, Infallible>(frame), (reader, open)))
        });
        let stream = stream.fuse();
        let kind = HeaderValue::from_static("text/event-stream");
        let cache = HeaderValue::from_static("no-cache");
        let headers = [(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, cache)];
        (headers, Body::from_stream(stream)).into_response()
    }

    /// Reads the next frames, if there are any: live lines, then changes.
    async fn frames(
        mut self,
        work: &RequestLimits,
    ) -> Result<(Bytes, Self, BatchSummary), Problem> {
        let reading = async move {
            let mut frames = Vec::new();
            let batch = self.write_frames(&mut frames).await;
            (frames, (self, batch))
        };
        let (frames, (reader, batch)) = work.slice(SLICE_BYTES, reading).await?;
        Ok((frames, reader, batch?))
    }

    async fn write_frames(&mut self, frames: &mut Vec<u8>) -> Result<BatchSummary, Problem> {
        let cursor = self.cursor();
        self.look().await?;
        self.write_live(frames, (LineFormat::Frame, &cursor, SLICE_BYTES)).await?;
        let mut batch =
            self.read_batch(frames, LineFormat::Frame, (BATCH, SLICE_BYTES, Seq::MAX)).await?;
        batch.at_end &= !self.has_live_lines();
        Ok(batch)
    }

    /// The next frames of the stream; `None` ends it. An id without data moves the reader's
    /// `Last-Event-ID` without an event, so the cursor of a quiet window's reader does not expire.
    async fn frame(mut self) -> Option<(Bytes, Self)> {
        let work = self.app.limits.clone();
        // Not postponed by changes of other windows.
        let due = Instant::now() + KEEP_ALIVE;
        loop {
            let turn = tokio::select! {
                biased;
                turn = work.stream_turn() => turn.ok()?,
                () = self.app.stopping.given() => return None,
            };
            // Boxed, because a waiting stream keeps the room of everything that it awaits. An error
            // ends the stream. The client reconnects and gets it as a problem.
            let (frames, reader, batch) = Box::pin(self.frames(&work)).await.ok()?;
            drop(turn);
            self = reader;
            if self.app.stopping.is_given() {
                // Checked after reading: settings may have changed, and later changes are reported
                // under the new ones.
                return None;
            }
            if !frames.is_empty() {
                return Some((frames, self));
            }
            if batch.at_end && self.wait_until(due).await == Ok(false) {
                return None;
            }
            if Instant::now() >= due {
                return Some((format!("id: {}\n\n", self.cursor()).into(), self));
            }
        }
    }
}
