//! The events of a window. Bodies are assembled from the store's bytes, never re-encoded.
//!
//! A page is sent slice by slice as its reader takes it, and still shows the window at one moment:
//! if the window changes between two slices, the page ends before the second one and `next`
//! continues from there. Every page carries the cursor taken before the first page was read.
//! Changes made while a reader pages are in the feed after that cursor, so the pages plus the
//! changes after it are the mirror.

use std::sync::Arc;

use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use jiff::Timestamp;
use serde_json::json;

use super::AppState;
use super::etag::ETag;
use super::extract::ApiRequest;
use super::limits::{SLICE_BYTES, end_list};
use super::problem::Problem;
use super::query::ANSWER_BYTES;
use super::selection::FeedScope;
use super::slice_run::SliceProducer;
use super::view::EventView;
use crate::mirror::page::EventId;
use crate::mirror::status::WindowStatus;
use crate::store::EventQuery;

/// Reads of the store for a slice, as long as its filter refuses all events.
const MAX_READS: usize = 64;

/// `GET /v1/windows/{name}/events`.
pub(super) async fn list(request: ApiRequest) -> Result<Response, Problem> {
    let (parameters, view) = request.viewed(&["from", "to", "limit", "page", "fields"])?;
    let (from, to) = request.range(&parameters)?;
    let limit = parameters.limit()?;
    let page = parameters.text("page").map(PageToken::parse).transpose()?;
    let scope = FeedScope::new(&request.selection_of_one(), &view);

    let (window, status) = request.window()?;
    let store = &request.app.store;
    let asked = (from, to, limit, parameters.text("page"));
    // A cached response keeps its cursor. Trimming removals can invalidate that cursor, so the
    // feed's lowest valid seq is part of the tag.
    let version = store.version(window);
    let state = (&version, store.min_seq(), status.settled_once);
    let tag = ETag::of(&("events", state, view.tag(), &scope.add_to(String::new()), asked));
    if let Some(answer) = request.not_modified(&tag) {
        return Ok(answer);
    }
    let (cursor, after) = match page {
        Some(key) => {
            // Pages of two different stores must not be combined into one mirror.
            store.seq(scope.remove_from(&key.cursor, "page")?)?;
            (key.cursor, Some((key.start, key.id)))
        }
        None => (scope.add_to(store.cursor(store.durable_seq())), None),
    };
    let app = request.app.clone();
    let (work, stopping) = (app.limits.clone(), app.stopping.clone());
    let query = EventQuery { window, from, to, limit, bytes: SLICE_BYTES, after };
    let step = EventPageStep::First;
    let wrote = false;
    let page = EventPageWriter { app, query, view, wrote, bytes: 0, version, cursor, status, step };
    Ok(tag.json(work.body(page, stopping).await?))
}

/// `GET /v1/windows/{name}/events/{id}`.
pub(super) async fn one(request: ApiRequest) -> Result<Response, Problem> {
    let (_, view) = request.viewed(&["fields"])?;
    let (window, _) = request.window()?;
    let id = EventId::new(request.id.as_deref().unwrap_or_default());
    let app = request.app.clone();
    let name = request.name.clone();
    let reading = async move {
        let event = app.store.event(window, &id).await?.and_then(|event| view.show(event));
        let Some(event) = event else { return Err(Problem::UnknownEvent { window: name }) };
        let tag = ETag::of_bytes(&event);
        Ok((event.to_vec(), tag))
    };
    let (event, tag) = request.app.limits.unsliced(reading).await?;
    Ok(request.not_modified(&tag).unwrap_or_else(|| tag.json(event)))
}

/// Writes one page.
struct EventPageWriter {
    app: Arc<AppState>,
    /// The events that may still be written: those after the last one written.
    query: EventQuery,
    view: EventView,
    /// Whether an event was written.
    wrote: bool,
    /// Bytes of events written so far.
    bytes: usize,
    /// The window's version before the first slice was read.
    version: String,
    cursor: String,
    status: WindowStatus,
    step: EventPageStep,
}

enum EventPageStep {
    First,
    Further,
    Over,
}

impl SliceProducer for EventPageWriter {
    async fn next(&mut self, bytes: usize) -> Result<Vec<u8>, Problem> {
        let store = &self.app.store;
        self.query.bytes = bytes.min(ANSWER_BYTES.saturating_sub(self.bytes));
        let mut events = store.events(self.query.clone()).await?;
        let first = matches!(self.step, EventPageStep::First);
        let mut shown = self.shown(events.value);
        // A filter may refuse long runs of events, and each slice takes a turn.
        for _ in 0..MAX_READS {
            let same = store.version(self.query.window) == self.version;
            let Some(next) = events.next.take_if(|_| shown.is_empty() && same) else { break };
            self.query.after = Some(next);
            events = store.events(self.query.clone()).await?;
            shown = self.shown(std::mem::take(&mut events.value));
        }
        let size: usize = shown.iter().map(|event| event.len() + 1).sum();
        let mut slice = Vec::with_capacity(size + 1024);
        if first {
            slice.extend_from_slice(b"{\"value\":[");
        }
        // The store returns only durable events, and the version changes before they are durable.
        let same = store.version(self.query.window) == self.version;
        if !first && !same {
            self.end(&mut slice, true);
            return Ok(slice);
        }
        self.query.limit = self.query.limit.saturating_sub(shown.len());
        for event in shown {
            if std::mem::replace(&mut self.wrote, true) {
                slice.push(b',');
            }
            self.bytes += event.len();
            slice.extend_from_slice(&event);
        }
        let more = events.next.is_some();
        self.query.after = events.next;
        if more && same && self.query.limit > 0 && self.bytes < ANSWER_BYTES {
            self.step = EventPageStep::Further;
        } else {
            self.end(&mut slice, more);
        }
        Ok(slice)
    }

    fn is_over(&self) -> bool {
        matches!(self.step, EventPageStep::Over)
    }
}

impl EventPageWriter {
    fn shown(&self, events: Vec<Bytes>) -> Vec<Bytes> {
        events.into_iter().filter_map(|event| self.view.show(event)).collect()
    }

    /// Writes the members after the events.
    fn end(&mut self, slice: &mut Vec<u8>, more: bool) {
        let last = self.query.after.take().filter(|_| more);
        let next = last.map(|(start, id)| PageToken { start, id, cursor: self.cursor.clone() });
        let tail = json!({
            "cursor": self.cursor,
            "complete": self.status.settled_once,
            "as_of": self.status.last_success,
            "next": next.map(|key| key.encode()),
        });
        end_list(slice, &tail);
        self.step = EventPageStep::Over;
    }
}

/// The position after which the next page starts, `(start, id)`, with the first page's cursor.
#[derive(Debug, PartialEq)]
struct PageToken {
    start: Timestamp,
    id: EventId,
    cursor: String,
}

impl PageToken {
    /// `start` in nanoseconds (16 bytes), the length of the cursor (2), the cursor, the id.
    fn encode(&self) -> String {
        let length = u16::try_from(self.cursor.len()).unwrap_or(u16::MAX);
        let mut bytes = self.start.as_nanosecond().to_be_bytes().to_vec();
        bytes.extend(length.to_be_bytes());
        bytes.extend(self.cursor.as_bytes());
        bytes.extend(self.id.as_str().as_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    fn parse(text: &str) -> Result<Self, Problem> {
        let key = || {
            let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
            let (start, rest) = bytes.split_first_chunk::<16>()?;
            let (length, rest) = rest.split_first_chunk::<2>()?;
            let (cursor, id) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
            Some(Self {
                start: Timestamp::from_nanosecond(i128::from_be_bytes(*start)).ok()?,
                id: EventId::new(std::str::from_utf8(id).ok()?),
                cursor: String::from_utf8(cursor.to_vec()).ok()?,
            })
        };
        key().ok_or_else(|| Problem::bad_parameter("page", "must be the next of a previous page"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_keys_round_trip_and_anything_else_is_refused() {
        let key = PageToken {
            start: "2026-11-21T10:00:00.123456Z".parse().unwrap(),
            id: EventId::new("AAMk+/=_-"),
            cursor: "abc.17".into(),
        };
        assert_eq!(PageToken::parse(&key.encode()).unwrap(), key);
        for text in ["", "!", "AAAA", &"_".repeat(40), &key.encode()[..20]] {
            assert!(PageToken::parse(text).is_err(), "{text}");
        }
    }
}
