//! `ETag` and `If-None-Match` (RFC 9110, 8.8.3 and 13.1.2): a response that the reader already has
//! is not sent again, and in most cases not even computed.
//!
//! Tags are weak: two responses with the same tag have the same calendar content, though cursor and
//! staleness may differ; the cursor of the cached one remains valid. Tags hold for one run of the
//! daemon.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

/// The tag of one response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ETag(String);

impl ETag {
    /// The tag of everything that determines the content of a response.
    pub(super) fn of(what: &impl Serialize) -> Self {
        // Numbers, strings and types of this crate, which always serialize.
        Self::of_bytes(&serde_json::to_vec(what).unwrap_or_default())
    }

    /// The tag of a body.
    pub(super) fn of_bytes(body: &[u8]) -> Self {
        Self::of_digest(Sha256::digest(body).as_slice())
    }

    fn of_digest(digest: &[u8]) -> Self {
        let hex: String = digest.iter().take(12).map(|byte| format!("{byte:02x}")).collect();
        Self(format!("W/\"{hex}\""))
    }

    /// Whether the reader already has this version.
    pub(super) fn matches(&self, headers: &HeaderMap) -> bool {
        let own = self.0.trim_start_matches("W/");
        headers
            .get_all(header::IF_NONE_MATCH)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .map(str::trim)
            .any(|held| held == "*" || held.trim_start_matches("W/") == own)
    }

    /// 304: the reader's version is current.
    pub(super) fn not_modified(&self) -> Response {
        self.attach_to(StatusCode::NOT_MODIFIED.into_response())
    }

    /// A JSON response with this tag.
    pub(super) fn json(&self, body: impl Into<Body>) -> Response {
        let kind = [(header::CONTENT_TYPE, "application/json")];
        self.attach_to((kind, body.into()).into_response())
    }

    /// Adds the tag to a response. Caches must revalidate it for each request.
    pub(super) fn attach_to(&self, mut response: Response) -> Response {
        let headers = response.headers_mut();
        if let Ok(tag) = HeaderValue::from_str(&self.0) {
            headers.insert(header::ETAG, tag);
        }
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
        response
    }
}

/// Builds a tag from many parts without storing them.
pub(super) struct ETagBuilder(Sha256);

impl ETagBuilder {
    /// Starts the tag of a response of this kind.
    pub(super) fn new(kind: &str) -> Self {
        Self(Sha256::new_with_prefix(kind))
    }

    /// Adds the next part.
    pub(super) fn add(&mut self, part: &impl Serialize) {
        // Serializes as in `ETag::of`. Parts cannot run together: each is a complete JSON value.
        self.0.update(serde_json::to_vec(part).unwrap_or_default());
    }

    /// The tag of all parts added.
    pub(super) fn done(self) -> ETag {
        ETag::of_digest(self.0.finalize().as_slice())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_etag_is_recognised_in_every_form() {
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
            assert_eq!(tag.matches(&headers), expected, "{held}");
        }
        assert!(!tag.matches(&HeaderMap::new()));
    }
}
