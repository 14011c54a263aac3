//! The change feed, as NDJSON slices or as a server-sent event stream.
//!
//! Delivery is at least once, in order, without gaps. A response has at most `limit` lines and ends
//! early after [`ANSWER_BYTES`]; a response without lines means that the feed has nothing more for
//! now. The end is found before the head is sent, so that the head can carry the next cursor; the
//! lines are read as the reader takes them. An event that changes meanwhile moves behind that end
//! and leaves the response.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use tokio::time::{Instant, timeout};

use super::AppState;
use super::change_feed::ChangeFeed;
use super::extract::ApiRequest;
use super::feed_reader::{BatchSummary, FeedReader, RemainingLines};
use super::limits::{RequestLimits, SLICE_BYTES, TURN_TIMEOUT};
use super::line_format::LineFormat;
use super::live_lines::LiveLines;
use super::problem::Problem;
use super::query::ANSWER_BYTES;
use super::selection::{FeedScope, SELECTION, SelectedWindows};
use super::upcoming::{MAX_WINDOWS, Upcoming};
use crate::mirror::change::Seq;
use crate::store::{FeedError, FeedFilter, Follower};

/// How long changes that the filter accepts are searched for one response.
const SEARCH_TIME: Duration = Duration::from_secs(10);

/// The cursor to continue from, known before the body.
const CURSOR: HeaderName = HeaderName::from_static("x-calmirror-cursor");

/// About how many entries the feed has after that cursor, of all windows.
const PENDING: HeaderName = HeaderName::from_static("x-calmirror-pending");

/// The parameters beside those of the selection and the filter.
pub(super) const PARAMETERS: [&str; 7] =
    ["after", "limit", "wait", "fields", "ignore", "states", "upcoming"];

/// `GET /v1/changes` of this shard. The format depends on `Accept`, so every response varies by it.
pub(super) async fn read(request: ApiRequest) -> Response {
    let mut response = negotiate(request).await.into_response();
    response.headers_mut().append(header::VARY, HeaderValue::from_static("accept"));
    response
}

async fn negotiate(request: ApiRequest) -> Result<Response, Problem> {
    let (parameters, view) = request.viewed(&[&PARAMETERS[..], &SELECTION].concat())?;
    let ApiRequest { app, access, headers, .. } = request;
    let states = parameters.flag("states")?;
    let sees_changes = access.check_feed(states, parameters.text("upcoming").is_some())?;
    let selection = SelectedWindows::parse(&parameters, None, &app, &access)?;
    let upcoming = Upcoming::parse(&parameters, access.level)?;
    if upcoming.is_some() {
        check_size(&app, &selection).await?;
    }
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
        // Without changes there is nothing to catch up with.
        _ if !sees_changes => Follower::from_now(&app.store, filter),
        None => Follower::from_beginning(&app.store, filter),
        Some("now") => Follower::from_now(&app.store, filter),
        Some(cursor) => Follower::after(&app.store, scope.remove_from(cursor, "after")?, filter)?,
    };
    let unknown = unknown_window(&app, &selection).await?;
    // Others would see how much happens in windows that they do not see.
    let shows_pending = sees_changes && access.windows.is_none();
    let live = (states || upcoming.is_some())
        .then(|| Box::new(LiveLines::new(&app, selection.clone(), states, upcoming)));
    let feed = ChangeFeed { selection, view, scope, follower };
    let reader = FeedReader { app, feed, sees_changes, live };
    match (streams, unknown) {
        (false, unknown) => {
            let request = FeedRequest { limit, wait, unknown, shows_pending };
            reader.answer(request).await
        }
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

/// Checks that events of so many windows may be announced.
async fn check_size(app: &AppState, selection: &SelectedWindows) -> Result<(), Problem> {
    let selection = selection.clone();
    let count = app.limits.run(async move { selection.members().len() }).await?;
    if count <= MAX_WINDOWS {
        return Ok(());
    }
    let detail =
        format!("{count} windows are selected: with upcoming at most {MAX_WINDOWS} can be");
    Err(Problem::bad_parameter("upcoming", detail))
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

/// What a request for a response that ends asks for.
struct FeedRequest {
    /// The most changes.
    limit: usize,
    /// How long to wait for a line.
    wait: Option<Duration>,
    /// A selected window that is not known.
    unknown: Option<String>,
    /// Whether to say how much of the feed is left.
    shows_pending: bool,
}

/// The first lines of a response.
enum FirstLines {
    Found {
        /// The cursor before the changes.
        before: String,
        changes: Bytes,
        /// How many more changes the response may have, if the feed has more.
        left: usize,
        at_end: bool,
    },
    /// The daemon stops. The reader goes on from the cursor.
    Stopped(String),
}

/// Where a response ends.
struct FeedEnd {
    seq: Seq,
    cursor: String,
    pending: Option<u64>,
}

impl FeedReader {
    /// An NDJSON response; held for up to `wait` until there is at least one line.
    async fn answer(self, request: FeedRequest) -> Result<Response, Problem> {
        let (work, stopping) = (self.app.limits.clone(), self.app.stopping.clone());
        let shows_pending = request.shows_pending;
        // Boxed, because a waiting request keeps the room of everything that it awaits.
        let (lines, reader) = Box::pin(self.hold(&work, request)).await?;
        let (before, changes, left, at_end) = match lines {
            // Settings may have changed: later changes are reported under the new ones.
            FirstLines::Stopped(cursor) => return Ok(respond(Body::empty(), &cursor, None)),
            FirstLines::Found { before, changes, left, at_end } => (before, changes, left, at_end),
        };
        let (reader, end) = match at_end {
            true => {
                let (seq, cursor) = (reader.seq(), reader.cursor());
                (reader, FeedEnd { seq, cursor, pending: shows_pending.then_some(0) })
            }
            false => {
                let bytes = ANSWER_BYTES.saturating_sub(changes.len());
                Box::pin(reader.measure(&work, left, bytes, shows_pending)).await?
            }
        };
        let body = match reader.has_live_lines() {
            true => {
                let rest = RemainingLines { reader, before, first: changes, end: end.seq };
                work.body(rest, stopping).await?
            }
            false => {
                let rest = RemainingLines { reader, before, first: Bytes::new(), end: end.seq };
                work.body_after(changes, rest, stopping)
            }
        };
        Ok(respond(body, &end.cursor, end.pending))
    }

    /// Reads the first lines, and waits for them if there are none.
    async fn hold(
        mut self,
        work: &RequestLimits,
        request: FeedRequest,
    ) -> Result<(FirstLines, Self), Problem> {
        let until = request.wait.map(|wait| Instant::now() + wait);
        let _waiting = until.map(|_| self.app.metrics.readers.waiting.increment());
        let mut held = false;
        loop {
            let before = self.cursor();
            let (changes, reader, batch) = Box::pin(self.first(work, request.limit)).await?;
            self = reader;
            if held && self.app.stopping.is_given() {
                return Ok((FirstLines::Stopped(before), self));
            }
            held = true;
            let is_due = self.live.as_ref().is_some_and(|live| live.is_due());
            let mut is_over = is_due || !changes.is_empty() || !batch.at_end;
            if !is_over {
                if let Some(name) = &request.unknown {
                    // The feed may still hold removals of a dropped window, but gets no new ones.
                    return Err(Problem::unknown_window(name));
                }
                is_over = match until {
                    Some(until) => self.wait_until(until).await != Ok(true),
                    None => true,
                };
            }
            if is_over {
                // Without changes the search took too long; the reader goes on from the cursor.
                let left = if changes.is_empty() { 0 } else { request.limit - batch.lines };
                let at_end = batch.at_end;
                return Ok((FirstLines::Found { before, changes, left, at_end }, self));
            }
        }
    }

    /// Looks for live lines and reads the first changes; none if the feed has none, or none that the
    /// filter accepts within [`SEARCH_TIME`], or live lines are due.
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
                let reading = async {
                    let is_due = self.look().await?;
                    let batch = self.read_batch(&mut lines, LineFormat::Line, bounds).await?;
                    Ok::<_, Problem>((batch, is_due))
                };
                let batch = reading.await;
                (lines, (self, batch))
            };
            let made = timeout(TURN_TIMEOUT, work.slice(SLICE_BYTES, reading))
                .await
                .map_err(|_| Problem::Busy)?;
            let (changes, (reader, batch)) = made?;
            let (batch, is_due) = batch?;
            if batch.lines > 0 || is_due || batch.at_end || Instant::now() >= until {
                return Ok((changes, reader, batch));
            }
            self = reader;
        }
    }

    /// Finds the end of a response that has at most `limit` more changes of about `bytes` bytes.
    async fn measure(
        self,
        work: &RequestLimits,
        limit: usize,
        bytes: usize,
        shows_pending: bool,
    ) -> Result<(Self, FeedEnd), Problem> {
        let measuring = async move {
            let measured = async {
                let follower = &self.feed.follower;
                let (seq, cursor) = match limit {
                    0 => (follower.seq(), follower.cursor()),
                    limit => follower.reach(limit, bytes).await?,
                };
                let pending = match shows_pending {
                    true => Some(follower.pending(seq).await?),
                    false => None,
                };
                Ok::<_, FeedError>(FeedEnd { seq, cursor: self.feed.scope.add_to(cursor), pending })
            };
            (measured.await, self)
        };
        let (end, reader) = work.run(measuring).await?;
        Ok((reader, end?))
    }
}

/// An NDJSON response.
fn respond(body: Body, cursor: &str, pending: Option<u64>) -> Response {
    let mut response = body.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    if let Ok(cursor) = HeaderValue::from_str(cursor) {
        headers.insert(CURSOR, cursor);
    }
    if let Some(pending) = pending {
        headers.insert(PENDING, pending.into());
    }
    response
}
