//! The consumers: readers with a token or a user of their own, which see a part of the mirror.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::access::{Access, Rights};
use super::token_hash::TokenHash;
use crate::config::AccessLevel;
use crate::mirror::name_pattern::NamePattern;

/// A consumer, as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consumer {
    /// Its name.
    pub name: Arc<str>,
    /// How it is recognised.
    pub key: ConsumerIdentity,
    /// The windows that it may see; `None` for all.
    pub windows: Option<Arc<[NamePattern]>>,
    /// What it may see of their events.
    pub level: AccessLevel,
    /// Whether it may start rounds of its windows.
    pub write: bool,
    /// The origins whose pages may read with its token.
    pub origins: Vec<String>,
}

/// How a consumer is recognised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConsumerIdentity {
    /// By its token, over TCP.
    Token(TokenHash),
    /// By its user, on the Unix socket.
    Uid(u32),
}

impl Consumer {
    /// What it may see and do.
    pub(super) fn access(&self) -> Access {
        Access {
            consumer: Some(self.name.clone()),
            level: self.level,
            windows: self.windows.clone(),
            rights: if self.write { Rights::Write } else { Rights::Read },
        }
    }
}

/// When each consumer was last admitted, since the daemon started. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct ConsumerLog(Arc<Mutex<BTreeMap<Arc<str>, Timestamp>>>);

impl ConsumerLog {
    /// Records that a consumer was admitted.
    pub(super) fn record(&self, consumer: &Arc<str>, now: Timestamp) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.insert(consumer.clone(), now);
    }

    /// The status of these consumers.
    pub(super) fn status(&self, consumers: &[Consumer]) -> Vec<ConsumerJson> {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let status = |consumer: &Consumer| ConsumerJson {
            name: consumer.name.to_string(),
            level: consumer.level.as_str().to_owned(),
            windows: consumer.windows.as_ref().map(|patterns| {
                patterns.iter().map(|pattern| pattern.as_str().to_owned()).collect()
            }),
            write: consumer.write,
            last_used: last.get(&consumer.name).copied(),
        };
        consumers.iter().map(status).collect()
    }
}

/// A consumer in `/v1/status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsumerJson {
    /// Its name.
    pub name: String,
    /// What it may see of events.
    pub level: String,
    /// The windows that it may see; all without.
    pub windows: Option<Vec<String>>,
    /// Whether it may start rounds.
    pub write: bool,
    /// When it was last admitted since the daemon started.
    pub last_used: Option<Timestamp>,
}

/// How long browsers may remember what a page may send.
const PREFLIGHT_AGE: HeaderValue = HeaderValue::from_static("600");

/// Response headers that pages may read, beside those that they always may.
const EXPOSED: HeaderValue =
    HeaderValue::from_static("ETag, X-Calmirror-Cursor, X-Calmirror-Pending");

/// The answer to a browser that asks whether a page may send a request (Fetch standard, CORS
/// preflight); `None` if it is another request. The browser does not send the token yet, so this
/// says only that some consumer allows reading from that origin.
pub(super) fn preflight(
    consumers: &[Consumer],
    method: &Method,
    headers: &HeaderMap,
) -> Option<Response> {
    let origin = headers.get(header::ORIGIN)?;
    if *method != Method::OPTIONS || !headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD) {
        return None;
    }
    if !consumers.iter().any(|consumer| allows(consumer, origin)) {
        return None;
    }
    const NETWORK: HeaderName = HeaderName::from_static("access-control-allow-private-network");
    let mut response = StatusCode::NO_CONTENT.into_response();
    let answers = response.headers_mut();
    let text = HeaderValue::from_static;
    answers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    answers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, text("GET, HEAD"));
    answers.insert(
        header::ACCESS_CONTROL_ALLOW_HEADERS,
        text("Authorization, If-None-Match, Last-Event-ID, Calmirror-Relay"),
    );
    answers.insert(header::ACCESS_CONTROL_MAX_AGE, PREFLIGHT_AGE);
    answers.insert(NETWORK, text("true"));
    answers.insert(header::VARY, text("origin"));
    Some(response)
}

/// Whether pages of that origin may read with the token of a consumer.
pub(super) fn allows(consumer: &Consumer, origin: &HeaderValue) -> bool {
    consumer.origins.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes())
}

/// Lets pages of this origin read a response.
pub(super) fn share_with(origin: HeaderValue, response: &mut Response) {
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    headers.append(header::VARY, HeaderValue::from_static("origin"));
}
