//! The change feed, as NDJSON slices or as a server-sent event stream.
//!
//! Delivery is at least once, in order, without gaps. A response has at most `limit` lines and ends
//! early after [`ANSWER_BYTES`]; a response without lines means that the feed has nothing more for
//! now. The end is found before the head is sent, so that the head can carry the next cursor; the
//! lines are read as the reader takes them. An event that changes meanwhile moves behind that end
//! and leaves the response.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout, timeout_at};

use super::AppState;
use super::extract::ApiRequest;
use super::limits::{RequestLimits, SLICE_BYTES, SliceProducer, TURN_TIMEOUT};
use super::problem::Problem;
use super::query::ANSWER_BYTES;
use super::selection::{FeedScope, SELECTION, SelectedWindows};
use super::view::EventView;
use crate::mirror::change::Seq;
use crate::store::{Change, FeedError, FeedFilter, Follower};

/// Changes read from the store at a time, if they are not too large together.
const BATCH: usize = 500;

/// How often an idle stream sends its position, so that clients do not take it for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// How long changes that the filter accepts are searched for one response.
const SEARCH_TIME: Duration = Duration::from_secs(10);

/// The cursor to continue from, known before the body.
const CURSOR: HeaderName = HeaderName::from_static("x-calmirror-cursor");

/// About how many entries the feed has after that cursor, of all windows.
const PENDING: HeaderName = HeaderName::from_static("x-calmirror-pending");

/// `GET /v1/changes`. The format depends on `Accept`, so every response varies by it.
pub(super) async fn read(request: ApiRequest) -> Response {
    let mut response = negotiate(request).await.into_response();
    response.headers_mut().append(header::VARY, HeaderValue::from_static("accept"));
    response
}

async fn negotiate(request: ApiRequest) -> Result<Response, Problem> {
    let known = [&["after", "limit", "wait", "fields", "ignore"][..], &SELECTION].concat();
    let (parameters, view) = request.viewed(&known)?;
    let ApiRequest { app, access, headers, .. } = request;
    let selection = SelectedWindows::parse(&parameters, None, &app, &access)?;
    let scope = FeedScope::new(&selection, &view);
    let limit = parameters.limit()?;
    let wait = parameters.wait()?;
    let streams = accepts_events(&headers);
    let resumed = headers.get("last-event-id").and_then(|id| id.to_str().ok());
    let after = resumed.filter(|_| streams).or(parameters.text("after"));
    // Not by id: when a window is replaced by another one of the same name, the feed still holds
    // the removals of the old one.
    let filter = selection.feed_filter().map_or(FeedFilter::All, FeedFilter::Names);
    let follower = match after {
        None => Follower::from_beginning(&app.store, filter),
        Some("now") => Follower::from_now(&app.store, filter),
        Some(cursor) => Follower::after(&app.store, scope.remove_from(cursor, "after")?, filter)?,
    };
    let unknown = unknown_window(&app, &selection).await?;
    // Others would see how much happens in windows that they do not see.
    let shows_pending = access.windows.is_none();
    let reader = FeedReader { app, view, scope, shows_pending, follower };
    match (streams, unknown) {
        (false, unknown) => reader.answer(limit, wait, unknown).await,
        (true, None) => Ok(reader.stream()),
        (true, Some(name)) => Err(Problem::unknown_window(&name)),
    }
}

/// Whether the client accepts event streams; `q=0` refuses them.
fn accepts_events(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|accept| accept.to_str().ok());
    accepted.flat_map(|accept| accept.split(',')).any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default();
        let refused = |part: &str| {
            let weight = part.strip_prefix("q=").or(part.strip_prefix("Q="));
            weight.is_some_and(|weight| weight.bytes().all(|b| matches!(b, b'0' | b'.')))
        };
        kind.eq_ignore_ascii_case("text/event-stream") && !parts.any(refused)
    })
}

/// The first selected name, if only names are selected and none is that of a window which is running
/// or still in the store, and which the reader may see.
async fn unknown_window(
    app: &AppState,
    selection: &SelectedWindows,
) -> Result<Option<String>, Problem> {
    let Some(names) = selection.only_names() else { return Ok(None) };
    if names.iter().any(|name| selection.contains(name) && app.fleet.id(name).is_some()) {
        return Ok(None);
    }
    let store = app.store.clone();
    let stored = app.limits.run(async move { store.windows().await }).await??;
    let is_stored = |name: &String| {
        selection.contains(name) && stored.iter().any(|stored| *stored.name == **name)
    };
    Ok(if names.iter().any(is_stored) { None } else { names.into_iter().next() })
}

/// One reader of the feed.
struct FeedReader {
    app: Arc<AppState>,
    view: EventView,
    scope: FeedScope,
    shows_pending: bool,
    follower: Follower,
}

/// The format of a change.
#[derive(Clone, Copy)]
enum LineFormat {
    /// An NDJSON line.
    Line,
    /// A server-sent event.
    Frame,
}

/// The outcome of [`FeedReader::read_batch`].
struct BatchSummary {
    lines: usize,
    /// Whether the end was reached.
    at_end: bool,
    /// About how many entries follow.
    pending: u64,
}

impl FeedReader {
    /// An NDJSON response; held for up to `wait` until there is at least one line.
    async fn answer(
        mut self,
        limit: usize,
        wait: Option<Duration>,
        unknown: Option<String>,
    ) -> Result<Response, Problem> {
        let until = wait.map(|wait| Instant::now() + wait);
        let _waiting = wait.map(|_| self.app.metrics.readers.waiting.increment());
        let work = self.app.limits.clone();
        let shows_pending = self.shows_pending;
        let mut held = false;
        let (body, cursor, pending) = loop {
            let before = self.cursor();
            // Boxed, because a waiting request keeps the room of everything that it awaits.
            let (bytes, reader, batch) = Box::pin(self.first(&work, limit)).await?;
            self = reader;
            if held && self.app.stopping.is_cancelled() {
                // Settings may have changed: later changes are reported under the new ones.
                break (Body::empty(), before, 0);
            }
            held = true;
            if bytes.is_empty() && !batch.at_end {
                // The reader goes on from the cursor, and sees how much is left.
                break (Body::empty(), self.cursor(), batch.pending);
            }
            if bytes.is_empty() {
                match until {
                    // The feed may still hold removals of a dropped window, but gets no new ones.
                    _ if unknown.is_some() => {
                        return Err(Problem::unknown_window(&unknown.unwrap_or_default()));
                    }
                    Some(until) if self.wait_for_change_until(until).await == Ok(true) => continue,
                    _ => break (Body::empty(), self.cursor(), 0),
                }
            }
            let left = limit - batch.lines;
            if batch.at_end || left == 0 {
                break (Body::from(bytes), self.cursor(), batch.pending);
            }
            break Box::pin(self.rest(&work, bytes, left)).await?;
        };
        let mut response = body.into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
        if let Ok(cursor) = HeaderValue::from_str(&cursor) {
            headers.insert(CURSOR, cursor);
        }
        if shows_pending {
            headers.insert(PENDING, pending.into());
        }
        Ok(response)
    }

    /// Reads the first lines of a response; none if the feed has nothing to read, or nothing that the
    /// filter accepts within [`SEARCH_TIME`].
    async fn first(
        mut self,
        work: &RequestLimits,
        limit: usize,
    ) -> Result<(Bytes, Self, BatchSummary), Problem> {
        let until = Instant::now() + SEARCH_TIME;
        loop {
            // A turn for each batch: a filter may refuse millions of changes.
            let reading = async move {
                let mut lines = Vec::new();
                let bounds = (limit, SLICE_BYTES, Seq::MAX);
                let mut batch = self.read_batch(&mut lines, LineFormat::Line, bounds).await;
                if let Ok(batch) = &mut batch {
                    let pending = self.follower.pending(self.follower.seq()).await;
                    batch.pending = pending.unwrap_or_default();
                }
                (lines, (self, batch))
            };
            let made = timeout(TURN_TIMEOUT, work.slice(SLICE_BYTES, reading))
                .await
                .map_err(|_| Problem::Busy)?;
            let (bytes, (reader, batch)) = made?;
            let batch = batch?;
            if batch.lines > 0 || batch.at_end || Instant::now() >= until {
                return Ok((bytes, reader, batch));
            }
            self = reader;
        }
    }

    /// The body that starts with `first`, and the cursor after its end.
    async fn rest(
        self,
        work: &RequestLimits,
        first: Bytes,
        limit: usize,
    ) -> Result<(Body, String, u64), Problem> {
        let bytes = ANSWER_BYTES.saturating_sub(first.len());
        let looking = async move {
            let reached = async {
                let (end, cursor) = self.follower.reach(limit, bytes).await?;
                Ok::<_, FeedError>((end, cursor, self.follower.pending(end).await?))
            };
            (reached.await, self)
        };
        let (reached, reader) = work.run(looking).await?;
        let (end, cursor, pending) = reached?;
        let cursor = reader.scope.add_to(cursor);
        let stopping = reader.app.stopping.clone();
        let rest = RemainingLines { reader, end };
        Ok((work.body_after(first, rest, stopping), cursor, pending))
    }

    /// Writes the next changes: at most `limit`, about `bytes` bytes, and none after `end`.
    async fn read_batch(
        &mut self,
        text: &mut Vec<u8>,
        form: LineFormat,
        (limit, bytes, end): (usize, usize, Seq),
    ) -> Result<BatchSummary, Problem> {
        let first = self.follower.initial_end().unwrap_or_default();
        let changes = self.follower.read_to(end, limit.min(BATCH), bytes).await?;
        let mut summary = BatchSummary { lines: 0, at_end: changes.at_end, pending: 0 };
        text.reserve(changes.value.iter().map(line_size).sum());
        for change in changes.value {
            let is_first = change.seq <= first;
            let Some(mut change) = self.view.show_change(change, is_first) else { continue };
            change.cursor = self.scope.add_to(change.cursor);
            summary.lines += 1;
            match form {
                LineFormat::Line => {
                    change.write_line(text);
                    text.push(b'\n');
                }
                LineFormat::Frame => {
                    let head = format!("id: {}\nevent: change\ndata: ", change.cursor);
                    text.extend_from_slice(head.as_bytes());
                    change.write_line(text);
                    text.extend_from_slice(b"\n\n");
                }
            }
        }
        Ok(summary)
    }

    /// Waits for new changes; `false` when the daemon stops or its store ends.
    async fn wait_for_change_until(&mut self, until: Instant) -> Result<bool, Elapsed> {
        let changed = async {
            tokio::select! {
                biased;
                () = self.app.stopping.cancelled() => false,
                changed = self.follower.wait() => changed.is_ok(),
            }
        };
        timeout_at(until, changed).await
    }

    /// A stream of server-sent events from this position, until either side ends it.
    fn stream(self) -> Response {
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

    /// Reads the next frames, if there are any.
    async fn frames(
        mut self,
        work: &RequestLimits,
    ) -> Result<(Bytes, Self, BatchSummary), Problem> {
        let reading = async move {
            let mut frames = Vec::new();
            let bounds = (BATCH, SLICE_BYTES, Seq::MAX);
            let batch = self.read_batch(&mut frames, LineFormat::Frame, bounds).await;
            (frames, (self, batch))
        };
        let (frames, (reader, batch)) = work.slice(SLICE_BYTES, reading).await?;
        Ok((frames, reader, batch?))
    }

    /// The next frames of the stream; `None` ends it. An id without data moves the reader's
    /// `Last-Event-ID` without an event, so the cursor of a quiet window's reader does not expire.
    async fn frame(mut self) -> Option<(Bytes, Self)> {
        let work = self.app.limits.clone();
        // Not postponed by changes of other windows.
        let due = Instant::now() + KEEP_ALIVE;
        loop {
            // Boxed, because a waiting stream keeps the room of everything that it awaits. An error
            // ends the stream. The client reconnects and gets it as a problem.
            let (frames, reader, batch) = Box::pin(self.frames(&work)).await.ok()?;
            self = reader;
            if self.app.stopping.is_cancelled() {
                // Checked after reading: settings may have changed, and later changes are reported
                // under the new ones.
                return None;
            }
            if !frames.is_empty() {
                return Some((frames, self));
            }
            if batch.at_end && self.wait_for_change_until(due).await == Ok(false) {
                return None;
            }
            if Instant::now() >= due {
                return Some((format!("id: {}\n\n", self.cursor()).into(), self));
            }
        }
    }

    /// The cursor to continue from.
    fn cursor(&self) -> String {
        self.scope.add_to(self.follower.cursor())
    }
}

/// Roughly how many bytes the line or frame of a change has.
fn line_size(change: &Change) -> usize {
    let event = change.event.as_ref().map_or(0, Bytes::len);
    event + change.id.as_str().len() + 2 * change.cursor.len() + change.window.len() + 200
}

/// The lines of a response after its first slice.
struct RemainingLines {
    reader: FeedReader,
    /// The last seq of the response.
    end: Seq,
}

impl SliceProducer for RemainingLines {
    async fn next(&mut self, bytes: usize) -> Result<Vec<u8>, Problem> {
        let mut lines = Vec::new();
        // A full batch: `end` already bounds the number of lines.
        self.reader.read_batch(&mut lines, LineFormat::Line, (BATCH, bytes, self.end)).await?;
        Ok(lines)
    }

    fn is_over(&self) -> bool {
        self.reader.follower.seq() >= self.end
    }
}
