//! The feed: NDJSON slice by slice, or a server-sent event stream.
//!
//! At least once, in order, no gap. An answer holds at most `limit` lines and stops early once
//! it has grown to [`ANSWER_BYTES`], so what a request can make the daemon hold is that and one
//! [`SLICE`] of changes; an answer without lines means that there is nothing more now.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::StreamExt as _;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use super::Access;
use super::cursor::Place;
use super::mask::shown;
use super::problem::Problem;
use super::query::{ANSWER_BYTES, Parameters};
use crate::mirror::change::{RemovalReason, Seq};
use crate::store::Change;

/// Changes read from the store at a time.
const SLICE: usize = 500;

/// Changes put into a stream at a time.
const STRETCH: usize = 100;

/// A stream that has nothing to say says where it is this often, so that it is not taken for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Where to go on from, known before the body.
const CURSOR: HeaderName = HeaderName::from_static("x-calmirror-cursor");

/// One line of the feed, but for the event at its end.
#[derive(Serialize)]
struct Line<'a> {
    cursor: &'a str,
    seq: Seq,
    at: jiff::Timestamp,
    window: &'a str,
    change: &'static str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

/// `GET /v1/changes`.
pub(super) async fn read(
    State(access): State<Arc<Access>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let parameters = Parameters::parse(query.as_deref(), &["after", "window", "limit", "wait"])?;
    let limit = parameters.limit()?;
    let wait = parameters.wait()?;
    let streams = accepts_events(&headers);
    let resumed = headers.get("last-event-id").and_then(|id| id.to_str().ok());
    let after = resumed.filter(|_| streams).or(parameters.text("after"));
    let place = Place::parse(&access.store, after)?;
    let window = parameters.text("window").map(str::to_owned);
    let known = match &window {
        Some(name) => is_known(&access, name).await?,
        None => true,
    };
    let reader = Reader {
        durable: access.store.durable(),
        stopping: access.stopping.clone(),
        access,
        window,
        place,
    };
    match (streams, known) {
        (false, _) => reader.answer(limit, wait, known).await,
        (true, true) => Ok(reader.stream()),
        (true, false) => Err(Problem::unknown_window(&reader.window.unwrap_or_default())),
    }
}

/// Whether the client names streams, and not only to say that it takes none (`q=0`).
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

/// Whether there is a window of that name, running or on its way out.
async fn is_known(access: &Access, name: &str) -> Result<bool, Problem> {
    if access.fleet.id(name).is_some() {
        return Ok(true);
    }
    let stored = access.store.windows().await?;
    Ok(stored.iter().any(|(stored, ..)| **stored == *name))
}

/// One reader of the feed.
struct Reader {
    access: Arc<Access>,
    /// Only changes of windows of this name. By name and not by number: a window that became
    /// another one under its old name still has the removals of the old one in the feed.
    window: Option<String>,
    place: Place,
    durable: watch::Receiver<Seq>,
    stopping: watch::Receiver<bool>,
}

/// What [`Reader::slice`] read.
struct Slice {
    /// Each change with its cursor.
    changes: Vec<(String, Change)>,
    /// Where to go on from.
    cursor: String,
    /// Whether that is the end.
    at_end: bool,
}

impl Reader {
    /// An NDJSON answer; held up to `wait` until there is at least one line.
    async fn answer(
        mut self,
        limit: usize,
        wait: Option<Duration>,
        known: bool,
    ) -> Result<Response, Problem> {
        let until = wait.map(|wait| Instant::now() + wait);
        let _waiting = wait.map(|_| self.access.meters.readers.waiting.enter());
        let mut body = Vec::new();
        let mut held = false;
        let cursor = loop {
            // Marked as seen before reading, so that what comes meanwhile wakes the wait below.
            self.durable.borrow_and_update();
            let before = self.place.cursor(&self.access.store, self.place.seq);
            let cursor = self.fill(&mut body, limit).await?;
            if held && *self.stopping.borrow() {
                // Other rules are in force by now: what came since is told by those.
                body.clear();
                break before;
            }
            held = true;
            match until {
                // The removals of a window that is gone may still be told; more will not come.
                _ if body.is_empty() && !known => {
                    return Err(Problem::unknown_window(&self.window.unwrap_or_default()));
                }
                Some(until) if body.is_empty() && self.moved_before(until).await => {}
                _ => break cursor,
            }
        };
        let mut response = Body::from(body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
        if let Ok(cursor) = HeaderValue::from_str(&cursor) {
            headers.insert(CURSOR, cursor);
        }
        Ok(response)
    }

    /// Reads on until `limit` lines, [`ANSWER_BYTES`] or the end; tells where to go on from.
    async fn fill(&mut self, body: &mut Vec<u8>, limit: usize) -> Result<String, Problem> {
        let mut lines = 0;
        loop {
            let slice = self.slice(SLICE.min(limit - lines)).await?;
            for (cursor, change) in &slice.changes {
                self.line(body, cursor, change);
                body.push(b'\n');
            }
            lines += slice.changes.len();
            if slice.at_end || lines >= limit || body.len() >= ANSWER_BYTES {
                return Ok(slice.cursor);
            }
        }
    }

    /// The next changes.
    async fn slice(&mut self, limit: usize) -> Result<Slice, Problem> {
        let store = &self.access.store;
        let mut read = store.changes(self.place.seq, None, limit).await?;
        if let Some(name) = &self.window {
            read.value.retain(|change| *change.window == **name);
        }
        let with_cursor = |change: Change| (self.place.cursor(store, change.seq), change);
        let changes = read.value.into_iter().map(with_cursor).collect();
        let cursor = self.place.cursor(store, read.seq);
        self.place.check(store)?;
        self.place.advance(read.seq, &cursor);
        Ok(Slice { changes, cursor, at_end: read.at_end })
    }

    /// Writes a change without a line's end. The event is put in as it is stored, but on one
    /// line: an end of line in JSON can only be white space between its parts.
    fn line(&self, body: &mut Vec<u8>, cursor: &str, change: &Change) {
        let line = Line {
            cursor,
            seq: change.seq,
            at: change.at,
            window: &change.window,
            change: change.kind.word(),
            id: change.id.as_str(),
            reason: change.reason.map(RemovalReason::word),
        };
        // Strings and numbers always serialize, and a Vec takes every byte.
        serde_json::to_writer(&mut *body, &line).ok();
        if let Some(event) = &change.event {
            // In the place of the brace that closes the line.
            body.pop();
            body.extend_from_slice(b",\"event\":");
            let event = shown(event.clone(), self.access.settings.mask_private);
            let flat = |byte: &u8| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte };
            body.extend(event.iter().map(flat));
            body.push(b'}');
        }
    }

    /// Waits for something new to read; `false` when the time is up or the daemon stops.
    async fn moved_before(&mut self, until: Instant) -> bool {
        let moved = timeout_at(until, self.moved()).await;
        moved.unwrap_or(false)
    }

    async fn moved(&mut self) -> bool {
        tokio::select! {
            biased;
            () = async { self.stopping.wait_for(|stopping| *stopping).await.ok(); } => false,
            moved = self.durable.changed() => moved.is_ok(),
        }
    }

    /// A stream of server-sent events from here on, until either side ends it.
    fn stream(self) -> Response {
        let open = self.access.meters.readers.streams.enter();
        let stream = futures_util::stream::unfold((self, open), |(mut reader, open)| async {
            let frame = reader.frame().await?;
            Some((Ok::<_, Infallible>(frame), (reader, open)))
        });
        let stream = stream.fuse();
        let kind = HeaderValue::from_static("text/event-stream");
        let cache = HeaderValue::from_static("no-cache");
        let headers = [(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, cache)];
        (headers, Body::from_stream(stream)).into_response()
    }

    /// The next stretch of the stream; `None` ends it. An id without data moves the reader's
    /// `Last-Event-ID` and is not an event, so a quiet window's reader does not grow old.
    async fn frame(&mut self) -> Option<Bytes> {
        let mut frame = Vec::new();
        loop {
            self.durable.borrow_and_update();
            // An error ends the stream; the client comes again and gets it as a problem.
            let slice = self.slice(STRETCH).await.ok()?;
            if *self.stopping.borrow() {
                // After reading: other rules may be in force by now, and what came since is told
                // by those.
                return None;
            }
            for (cursor, change) in &slice.changes {
                frame.extend_from_slice(format!("id: {cursor}\nevent: change\ndata: ").as_bytes());
                self.line(&mut frame, cursor, change);
                frame.extend_from_slice(b"\n\n");
            }
            if !frame.is_empty() {
                return Some(frame.into());
            }
            if slice.at_end {
                match timeout(KEEP_ALIVE, self.moved()).await {
                    Ok(true) => {}
                    Ok(false) => return None,
                    Err(_) => return Some(format!("id: {}\n\n", slice.cursor).into()),
                }
            }
        }
    }
}
