//! The events of a window. Bodies are put together from the store's bytes, never re-encoded.
//!
//! Every page carries the cursor taken before the first page was read: what changes while a
//! reader pages stands in the feed after it, so pages + changes after it = the mirror.

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use jiff::Timestamp;
use serde_json::json;

use super::ask::Ask;
use super::mask::shown;
use super::problem::Problem;
use super::query::ANSWER_BYTES;
use super::tag::Tag;
use crate::mirror::page::EventId;
use crate::store::Query;

/// `GET /v1/windows/{name}/events`.
pub(super) async fn list(ask: Ask) -> Result<Response, Problem> {
    let parameters = ask.parameters(&["from", "to", "limit", "page"])?;
    let (from, to) = ask.range(&parameters)?;
    let limit = parameters.limit()?;
    let page = parameters.text("page").map(PageKey::parse).transpose()?;

    let (window, status) = ask.window()?;
    let store = &ask.access.store;
    let mask = ask.access.settings.mask_private;
    let asked = (from, to, limit, parameters.text("page"));
    // Of an answer that is kept the cursor is kept as well: once removals were trimmed it may hold
    // no longer, and who was told that nothing has changed would come again with it for ever.
    let seen = (store.version(window), store.floor());
    let tag = Tag::of(&("events", seen, mask, status.settled_once, asked));
    if let Some(answer) = ask.held(&tag) {
        return Ok(answer);
    }
    let (cursor, after) = match page {
        Some(key) => {
            // Pages of two different stores do not make one mirror.
            store.seq(&key.cursor)?;
            (key.cursor, Some((key.start, key.id)))
        }
        None => (store.cursor(*store.durable().borrow()), None),
    };
    let events =
        store.events(Query { window, from, to, limit, bytes: ANSWER_BYTES, after }).await?;
    let next = events.next.map(|(start, id)| PageKey { start, id, cursor: cursor.clone() });
    let tail = json!({
        "cursor": cursor,
        "complete": status.settled_once,
        "as_of": status.last_success,
        "next": next.map(|key| key.encode()),
    });

    let length: usize = events.value.iter().map(|event| event.len() + 1).sum();
    let mut body = Vec::with_capacity(length + 1024);
    body.extend_from_slice(b"{\"value\":[");
    for (index, event) in events.value.into_iter().enumerate() {
        if index > 0 {
            body.push(b',');
        }
        body.extend_from_slice(&shown(event, mask));
    }
    body.extend_from_slice(b"],");
    // The tail is an object; without its brace it goes on where the array ended.
    body.extend_from_slice(tail.to_string().trim_start_matches('{').as_bytes());
    Ok(tag.put_on(raw_json(body.into())))
}

/// `GET /v1/windows/{name}/events/{id}`.
pub(super) async fn one(ask: Ask) -> Result<Response, Problem> {
    ask.parameters(&[])?;
    let (window, _) = ask.window()?;
    let id = EventId::new(ask.id.as_deref().unwrap_or_default());
    let Some(event) = ask.access.store.event(window, &id).await? else {
        return Err(Problem::unknown_event(&ask.name));
    };
    let event = shown(event, ask.access.settings.mask_private);
    let tag = Tag::of_bytes(&event);
    Ok(ask.held(&tag).unwrap_or_else(|| tag.put_on(raw_json(event))))
}

fn raw_json(body: Bytes) -> Response {
    let kind = HeaderValue::from_static("application/json");
    ([(header::CONTENT_TYPE, kind)], body).into_response()
}

/// Where the next page goes on: after `(start, id)`, with the first page's cursor.
#[derive(Debug, PartialEq)]
struct PageKey {
    start: Timestamp,
    id: EventId,
    cursor: String,
}

impl PageKey {
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
        key().ok_or_else(|| Problem::bad_parameter("page", "not a key that an answer's next gave"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]
    use super::*;

    #[test]
    fn page_keys_survive_the_way_and_nothing_else_is_one() {
        let key = PageKey {
            start: "2026-11-21T10:00:00.123456Z".parse().unwrap(),
            id: EventId::new("AAMk+/=_-"),
            cursor: "abc.17".into(),
        };
        assert_eq!(PageKey::parse(&key.encode()).unwrap(), key);
        for text in ["", "!", "AAAA", &"_".repeat(40), &key.encode()[..20]] {
            assert!(PageKey::parse(text).is_err(), "{text}");
        }
    }
}
