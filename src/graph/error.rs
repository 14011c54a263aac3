//! Errors of requests to Graph, and how to react to them.
//!
//! A [`GraphError`] says by its class how to react; callers do not interpret status codes.
//! Classification uses the status first and the error code second (fact 128). Codes and messages
//! match in any letter case; bodies may be empty or not JSON. Of an answer only the code, the
//! request id and a sanitized message are shown: no links, tokens, quoted values or addresses.
use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use http::header::RETRY_AFTER;
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use serde_json::Value;

use super::origin::OriginError;
use super::retry_after;
use super::transport::{TransportError, TransportErrorKind};
use super::wire::{TOO_MANY_ITEMS, WireError, without_bom};
use crate::mirror::failure::{ErrorClass, FailureCause};

/// Codes of a dead link, in any letter case, under any 4xx (facts 93-99).
const DEAD_LINK_CODES: [&str; 7] = [
    "syncstatenotfound",
    "syncstateinvalid",
    "resyncrequired",
    "resyncapplydifferences",
    "resyncuploaddifferences",
    "invaliddeltatoken",
    "errorinvalidsyncstatedata",
];

/// Why a request to Graph gave no usable answer.
#[derive(Debug, thiserror::Error)]
pub enum GraphError {
    /// Graph answered with an error.
    #[error("{0}")]
    Response(Box<ErrorResponse>),
    /// Graph was not reached, or its answer did not arrive completely.
    #[error("the request to graph failed")]
    Transport(#[source] TransportError),
    /// The answer arrived but does not have the expected form.
    #[error("graph's answer could not be read")]
    Malformed(#[source] WireError),
    /// A link or an address that must not be followed.
    #[error("a link was not followed")]
    Link(#[source] OriginError),
    /// There is no access token.
    #[error("{0}")]
    Token(TokenError),
    /// What the directory lists cannot be used.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The parameters cannot be put into a request.
    #[error("the request cannot be made: {0}")]
    InvalidRequest(&'static str),
}

/// Why a listing of the directory cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DirectoryError {
    /// No group has the address.
    #[error("no group has this address; check members_of, or use the id of the group")]
    NoGroup,
    /// Users are listed by their ids only.
    #[error(
        "the members are listed without their addresses; grant User.Read.All with an \
         administrator's consent"
    )]
    HiddenUsers,
    /// Each page has a link to another one.
    #[error("the listing does not end after 1,000 pages")]
    Endless,
}

/// An error answer of Graph, reduced to what is safe to store and show.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("graph answered {status}{}{}", code.as_deref().map(|c| format!(" {c}")).unwrap_or_default(),
    message.as_deref().map(|m| format!(": {m}")).unwrap_or_default())]
pub struct ErrorResponse {
    class: ErrorClass,
    status: u16,
    code: Option<Box<str>>,
    message: Option<Box<str>>,
    request_id: Option<Box<str>>,
    retry_after: Option<Duration>,
    token_refused: bool,
}

/// Why an account has no token. Cheap to clone: every window of the account gets a copy.
#[derive(Clone, Debug, Default, PartialEq, Eq, thiserror::Error)]
#[error("account {account}: {message}")]
pub struct TokenError {
    /// The account's name in the configuration.
    pub(super) account: Arc<str>,
    /// What happened, and what to do about it if a person is needed.
    pub(super) message: Arc<str>,
    /// Whether a person has to act.
    pub(super) needs_person: bool,
    /// The token endpoint's status, if it answered.
    pub(super) status: Option<u16>,
    /// The token endpoint's error code.
    pub(super) code: Option<Arc<str>>,
    /// How long to wait: as the token endpoint asks, or as our own back-off demands.
    pub(super) retry_after: Option<Duration>,
    /// Whether this is a remembered failure, returned without a request to the token endpoint.
    pub(super) remembered: bool,
}

impl GraphError {
    /// The class of the error, which says how to react.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Response(response) => response.class,
            Self::Transport(error) if error.kind() == TransportErrorKind::TooLarge => {
                ErrorClass::TooLarge
            }
            Self::Transport(_) => ErrorClass::Transient,
            Self::Malformed(error) if *error == TOO_MANY_ITEMS => ErrorClass::TooLarge,
            Self::Malformed(_) => ErrorClass::MalformedPage,
            Self::Link(_) => ErrorClass::ForeignLink,
            Self::Token(fault) if fault.needs_person => ErrorClass::SignIn,
            Self::Token(_) => ErrorClass::Transient,
            Self::Directory(DirectoryError::NoGroup) => ErrorClass::Gone,
            Self::Directory(DirectoryError::HiddenUsers) => ErrorClass::Forbidden,
            Self::Directory(DirectoryError::Endless) => ErrorClass::MalformedPage,
            Self::InvalidRequest(_) => ErrorClass::Refused,
        }
    }

    /// The cause of the failure if the error ends a round.
    pub fn cause(&self) -> FailureCause {
        self.class().cause(self.retry_after())
    }

    /// Whether it concerns every window of the account; the account's [`super::Tokens`] logs it.
    pub fn is_account_wide(&self) -> bool {
        matches!(self, Self::Token(_))
    }

    /// Whether it is a remembered failure, returned without a request.
    pub fn is_remembered(&self) -> bool {
        matches!(self, Self::Token(fault) if fault.remembered)
    }

    /// How long Graph or the sign-in asks to wait; never more than an hour.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Response(response) => response.retry_after,
            Self::Token(fault) => fault.retry_after,
            _ => None,
        }
    }

    /// The HTTP status of an error answer.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Response(response) => Some(response.status),
            Self::Token(fault) => fault.status,
            _ => None,
        }
    }

    /// Graph's or the token endpoint's error code.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Response(response) => response.code.as_deref(),
            Self::Token(fault) => fault.code.as_deref(),
            _ => None,
        }
    }

    /// Graph's `request-id`, for a support case.
    pub fn request_id(&self) -> Option<&str> {
        match self {
            Self::Response(response) => response.request_id.as_deref(),
            _ => None,
        }
    }

    /// One sentence for people, with the nearest cause; no secrets, links or contents.
    pub fn message(&self) -> String {
        match self.source() {
            Some(cause) => format!("{self}: {cause}"),
            None => self.to_string(),
        }
    }

    /// Whether the access token itself was refused, so that a new one may help (fact 150).
    pub(super) fn token_refused(&self) -> bool {
        matches!(self, Self::Response(response) if response.token_refused)
    }
}

/// What was requested, as far as it changes the meaning of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestKind {
    /// The first URL of a view.
    Start,
    /// A link from Graph.
    Link,
    /// An event or the instances of a series, by id.
    Event,
}

impl ErrorResponse {
    /// Classifies an error answer. `body` may be truncated. A text of the answer that echoes one of
    /// `secrets` is dropped.
    pub(super) fn read(
        kind: RequestKind,
        status: StatusCode,
        headers: &HeaderMap,
        body: &[u8],
        now: Timestamp,
        secrets: &[&str],
    ) -> Self {
        let said = ErrorBody::read(body);
        let header = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
        let challenge = headers
            .get_all(http::header::WWW_AUTHENTICATE)
            .iter()
            .filter_map(|v| v.to_str().ok())
            .any(|v| v.to_ascii_lowercase().contains("insufficient_claims"));
        let class = said.class(kind, status.as_u16(), challenge, headers.contains_key(RETRY_AFTER));
        let request_id = header("request-id").map(str::to_owned).or(said.request_id);
        let code = said.codes.into_iter().next();
        Self {
            class,
            status: status.as_u16(),
            token_refused: status == StatusCode::UNAUTHORIZED
                && !challenge
                && !said.insufficient_claims,
            code: code.and_then(|c| sanitize_id(&c, secrets)),
            message: said.message.and_then(|m| sanitize(&m, secrets)),
            request_id: request_id.and_then(|id| sanitize_id(&id, secrets)),
            retry_after: retry_after::of(headers, now),
        }
    }
}

/// The contents of an error body.
#[derive(Default)]
struct ErrorBody {
    /// The code, then those of the inner errors.
    codes: Vec<String>,
    message: Option<String>,
    request_id: Option<String>,
    insufficient_claims: bool,
}

impl ErrorBody {
    fn read(body: &[u8]) -> Self {
        let mut said = Self::default();
        let Ok(Value::Object(root)) = serde_json::from_slice::<Value>(without_bom(body)) else {
            return said;
        };
        // `{"error": {…}}` as documented, or the error without that wrapper.
        let mut error = match root.get("error") {
            Some(Value::Object(error)) => Some(error),
            _ => Some(&root),
        };
        while let Some(object) = error {
            let text = |name: &str| object.get(name).and_then(Value::as_str).map(str::to_owned);
            said.codes.extend(text("code"));
            said.message = said.message.take().or_else(|| text("message"));
            said.request_id =
                said.request_id.take().or_else(|| text("request-id")).or_else(|| text("requestId"));
            let inner = object.get("innerError").or_else(|| object.get("innererror"));
            error = inner.and_then(Value::as_object);
        }
        let claims = |text: &String| text.to_ascii_lowercase().contains("insufficient_claims");
        said.insufficient_claims = said.codes.iter().chain(&said.message).any(claims);
        said
    }

    fn class(
        &self,
        kind: RequestKind,
        status: u16,
        challenge: bool,
        retry_after: bool,
    ) -> ErrorClass {
        let message = self.message.as_deref().unwrap_or_default().to_ascii_lowercase();
        let code_is = |code: &str| self.codes.iter().any(|c| c.eq_ignore_ascii_case(code));
        match status {
            401 => ErrorClass::SignIn,
            403 if challenge || self.insufficient_claims => ErrorClass::SignIn,
            408 => ErrorClass::Transient,
            429 => ErrorClass::Throttled,
            410 => ErrorClass::LinkDead,
            400..=499 if DEAD_LINK_CODES.iter().any(|code| code_is(code)) => ErrorClass::LinkDead,
            400 if kind == RequestKind::Link
                && (message.contains("badly formed token") || code_is("badly formed token")) =>
            {
                ErrorClass::LinkDead
            }
            400 if code_is("ErrorInvalidRequest") && message.contains("maximum number of days") => {
                ErrorClass::SegmentTooLong
            }
            403 => ErrorClass::Forbidden,
            404 if kind == RequestKind::Event && code_is("ErrorItemNotFound") => {
                ErrorClass::NotFound
            }
            404 => ErrorClass::Gone,
            400..=499 | 501 => ErrorClass::Refused,
            503 if retry_after => ErrorClass::Throttled,
            // The rest of 5xx, and redirects, which are not followed.
            _ => ErrorClass::Transient,
        }
    }
}

/// Accepts a code or an id that is short and has only harmless characters.
pub(super) fn sanitize_id(text: &str, secrets: &[&str]) -> Option<Box<str>> {
    let harmless = !text.is_empty()
        && text.len() <= 64
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && !leaks(text, secrets);
    harmless.then(|| text.into())
}

/// Makes a message safe for people and logs: one line, at most 200 characters, without quoted
/// values, links, addresses and anything long enough to be a token.
pub(super) fn sanitize(message: &str, secrets: &[&str]) -> Option<Box<str>> {
    const LONGEST: usize = 200;
    if leaks(message, secrets) {
        return None;
    }
    let mut tamed = String::new();
    let mut quoted = false;
    for word in message.split_whitespace() {
        // A quote opens at the start of a word; an apostrophe inside one ("can't") does not.
        let opens = word.starts_with(['\'', '"', '(', '[']) && !quoted;
        let bare = word.trim_end_matches(['.', ',', ';', ':']);
        quoted = (quoted || opens) && !bare.ends_with(['\'', '"', ')', ']']);
        let hide = opens
            || quoted
            || bare.ends_with(['\'', '"', ')', ']'])
            || word.contains("://")
            || word.contains(['@', '=', '\\'])
            || bare.len() > 40
            || word.chars().any(char::is_control);
        let word = if hide { "…" } else { word };
        if hide && tamed.ends_with('…') {
            continue;
        }
        if tamed.len() + word.len() >= LONGEST {
            break;
        }
        if !tamed.is_empty() {
            tamed.push(' ');
        }
        tamed.push_str(word);
    }
    (!tamed.is_empty()).then(|| tamed.into())
}

/// Whether the text contains a secret, or a characteristic part of one.
fn leaks(text: &str, secrets: &[&str]) -> bool {
    let long = |part: &&str| part.len() >= 8;
    secrets.iter().any(|secret| {
        text.contains(secret)
            || secret.split(['?', '&', '=', '\'', '/']).filter(long).any(|part| {
                // Hosts and path words of a link are not secret.
                part.bytes().any(|b| b.is_ascii_digit()) && text.contains(part)
            })
    })
}

#[cfg(test)]
mod tests;
