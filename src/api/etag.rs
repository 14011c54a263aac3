//! `ETag` and `If-None-Match` (RFC 9110, 8.8.3 and 13.1.2): a reader that has the same already
//! need not be sent it again, and mostly it need not even be read.
//!
//! Tags are weak: an answer of the same tag says the same of the calendar, though its cursor, or
//! how stale it is, may have moved; the cursor of the one that is kept still holds. They are of
//! one running of the daemon.

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

/// The tag of one answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ETag(String);

impl ETag {
    /// The tag of everything that decides what an answer says.
    pub(super) fn of(what: &impl Serialize) -> Self {
        // What is hashed are numbers, strings and shapes of ours, which always serialize.
        Self::of_bytes(&serde_json::to_vec(what).unwrap_or_default())
    }

    /// The tag of a body.
    pub(super) fn of_bytes(body: &[u8]) -> Self {
        Self::of_digest(Sha256::digest(body).as_slice())
    }

    fn of_digest(digest: &[u8]) -> Self {
        let mut text = "W/\"".to_owned();
        for byte in digest.iter().take(12) {
            text.push(char::from_digit(u32::from(byte >> 4), 16).unwrap_or('0'));
            text.push(char::from_digit(u32::from(byte & 15), 16).unwrap_or('0'));
        }
        text.push('"');
        Self(text)
    }

    /// Whether the reader has it already.
    pub(super) fn is_held(&self, headers: &HeaderMap) -> bool {
        let own = self.0.trim_start_matches("W/");
        headers
            .get_all(header::IF_NONE_MATCH)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .map(str::trim)
            .any(|held| held == "*" || held.trim_start_matches("W/") == own)
    }

    /// 304: what the reader has is still so.
    pub(super) fn not_modified(&self) -> Response {
        self.put_on(StatusCode::NOT_MODIFIED.into_response())
    }

    /// The answer with its tag. Whoever keeps it asks each time whether it is still so.
    pub(super) fn put_on(&self, mut response: Response) -> Response {
        let headers = response.headers_mut();
        if let Ok(tag) = HeaderValue::from_str(&self.0) {
            headers.insert(header::ETAG, tag);
        }
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
        response
    }
}

/// A tag of many parts, none of which is kept.
pub(super) struct ETagBuilder(Sha256);

impl ETagBuilder {
    /// The tag of an answer of this kind, still without parts.
    pub(super) fn new(kind: &str) -> Self {
        Self(Sha256::new_with_prefix(kind))
    }

    /// Adds the next part.
    pub(super) fn add(&mut self, part: &impl Serialize) {
        // As of `Tag::of`. No text of one part goes on in the next: each is a whole JSON value.
        self.0.update(serde_json::to_vec(part).unwrap_or_default());
    }

    /// The tag of what was added.
    pub(super) fn done(self) -> ETag {
        ETag::of_digest(self.0.finalize().as_slice())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]
    use super::*;

    #[test]
    fn a_tag_is_recognised_in_every_form() {
        let tag = ETag::of(&("a", 1));
        assert_ne!(tag, ETag::of(&("a", 2)));
        let strong = tag.0.trim_start_matches("W/").to_owned();
        for (held, expected) in [
            (tag.0.clone(), true),
            (strong.clone(), true),
            (format!("\"x\", {strong}"), true),
            ("*".to_owned(), true),
            ("\"x\"".to_owned(), false),
            (strong.trim_matches('"').to_owned(), false),
            (String::new(), false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::IF_NONE_MATCH, held.parse().unwrap());
            assert_eq!(tag.is_held(&headers), expected, "{held}");
        }
        assert!(!tag.is_held(&HeaderMap::new()));
    }
}
