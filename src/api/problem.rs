//! Errors as RFC 9457 `application/problem+json`. Details name the request, never contents, tokens
//! or links.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::login::LoginRefusal;
use super::sink_status::SinkRefusal;
use crate::config::Diagnostic;
use crate::reload::ReloadError;
use crate::store::{FeedError, StoreError};
use crate::supervisor::FleetError;

/// The base of `type`; the last part names the problem and never changes.
const TYPES: &str = "https://calmirror.dev/problems/";

/// One problem, ready to be sent. Its message is the detail.
#[derive(Debug, thiserror::Error)]
pub(super) enum Problem {
    /// A query parameter is invalid.
    #[error("{detail}")]
    BadParameter { parameter: String, detail: String },
    /// The path is not percent-encoded UTF-8.
    #[error("{}", .0.body_text())]
    BadPath(#[from] PathRejection),
    /// No `Host`, several, or an invalid one (RFC 9112, 3.2).
    #[error("a request needs one Host header that is a name or an address, with or without a port")]
    BadHost,
    /// Answered with the challenge that makes browsers prompt for a password.
    #[error(
        "over TCP every request needs a token, as Authorization: Bearer or as the password of HTTP Basic"
    )]
    Unauthorized,
    /// The request needs more than the read token.
    #[error("this token is read-only: use the one in api.token_file")]
    ReadOnlyToken,
    /// The level, windows or rights of a consumer do not suffice.
    #[error("{0}: use a token with more rights, or change [consumer.NAME]")]
    NotAllowed(&'static str),
    /// A page of another site sent the request.
    #[error("pages of other sites may not send this request")]
    ForeignOrigin,
    /// The path matches no route.
    #[error("nothing is served at {0}")]
    NotFound(String),
    /// No group has that name.
    #[error(
        "there is no group {0:?}: a group is a fleet, or is named in groups of a window or a fleet"
    )]
    UnknownGroup(String),
    /// The window has no event with that id.
    #[error("window {window:?} holds no event of that id")]
    UnknownEvent { window: String },
    /// The router adds `Allow`.
    #[error("{path} does not take {method}")]
    MethodNotAllowed { method: Method, path: String },
    /// The feed no longer has all changes after the cursor.
    #[error(
        "the cursor is older than the kept removals or belongs to another store: read the events again and continue from the cursor in that response"
    )]
    SnapshotRequired,
    /// What the reader sees was changed since the cursor was given.
    #[error(
        "the windows, groups or level of this reader were changed since this cursor was given: read the events again and continue from the cursor in that response"
    )]
    ViewChanged,
    /// `Host` does not name this listener (a defence against DNS rebinding).
    #[error(
        "the Host header names neither a loopback address nor the listen address: add this machine's names to api.hosts"
    )]
    WrongHost,
    /// Wrong tokens arrive faster than they are answered.
    #[error("too many requests with wrong tokens are pending")]
    TooManyAttempts,
    /// The request head exceeds the limit.
    #[error("a request head may have at most 64 KiB")]
    HeadTooLong,
    /// A bug prevented the response.
    #[error("the response could not be computed: see the daemon's log")]
    Internal,
    /// The daemon is stopping.
    #[error("the daemon is stopping")]
    Stopping,
    /// A readiness condition is not met yet.
    #[error("{0}")]
    NotReady(String),
    /// Other requests occupy the daemon.
    #[error("other requests keep the daemon busy: try again later")]
    Busy,
    /// Another export is being sent.
    #[error("another export is being sent: try again when it is complete")]
    ExportBusy,
    /// Computing the response exceeded its time limit.
    #[error("computing the response took too long: request less at a time")]
    TooSlow,
    /// The connection limit is reached.
    #[error("the connection limit is reached: close some connections, or try again later")]
    TooManyConnections,
    /// The store can no longer be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Another shard has the window.
    #[error("shard {shard} has window {window:?}{}", where_to(location.as_deref()))]
    OtherShard { window: String, shard: u32, location: Option<String> },
    /// The shard that has the window could not be asked.
    #[error("shard {shard}, which has the window, could not be asked: {reason}")]
    ShardUnreachable { shard: u32, reason: String },
    /// The configuration was not reloaded.
    #[error(transparent)]
    Reload(#[from] ReloadError),
    /// The sign-in of a person failed.
    #[error(transparent)]
    Login(#[from] LoginRefusal),
    /// A sink did not do what it was asked.
    #[error(transparent)]
    Sink(#[from] SinkRefusal),
    /// A command to a window could not be carried out.
    #[error(transparent)]
    Fleet(#[from] FleetError),
}

/// The status, the last part of the type, and the title.
type ProblemKind = (StatusCode, &'static str, &'static str);

const STOPPING: ProblemKind = (StatusCode::SERVICE_UNAVAILABLE, "stopping", "Stopping");

#[derive(Serialize)]
struct ProblemJson<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameter: Option<&'a str>,
    #[serde(skip_serializing_if = "<[Diagnostic]>::is_empty")]
    faults: &'a [Diagnostic],
}

impl Problem {
    /// An invalid query parameter.
    pub(super) fn bad_parameter(parameter: &str, detail: impl Into<String>) -> Self {
        Self::BadParameter { parameter: parameter.to_owned(), detail: detail.into() }
    }

    /// No window has that name.
    pub(super) fn unknown_window(name: &str) -> Self {
        FleetError::UnknownWindow(name.to_owned()).into()
    }

    /// Where the request has to be sent instead.
    fn location(&self) -> Option<HeaderValue> {
        let Self::OtherShard { location: Some(location), .. } = self else { return None };
        HeaderValue::from_str(location).ok()
    }

    fn kind(&self) -> ProblemKind {
        match self {
            Self::BadParameter { .. } => {
                (StatusCode::BAD_REQUEST, "bad-parameter", "Bad parameter")
            }
            Self::BadPath(_) => (StatusCode::BAD_REQUEST, "bad-path", "Bad path"),
            Self::BadHost => (StatusCode::BAD_REQUEST, "bad-host", "Bad host"),
            Self::Unauthorized => (StatusCode::UNAUTHORIZED, "unauthorized", "Unauthorized"),
            Self::ReadOnlyToken => (StatusCode::FORBIDDEN, "read-only-token", "Read-only token"),
            Self::NotAllowed(_) => (StatusCode::FORBIDDEN, "not-allowed", "Not allowed"),
            Self::ForeignOrigin => (StatusCode::FORBIDDEN, "foreign-origin", "Foreign origin"),
            Self::NotFound(_) => (StatusCode::NOT_FOUND, "not-found", "Not found"),
            Self::Fleet(FleetError::UnknownWindow(_)) => {
                (StatusCode::NOT_FOUND, "unknown-window", "Unknown window")
            }
            Self::Login(LoginRefusal::UnknownAccount(_)) => {
                (StatusCode::NOT_FOUND, "unknown-account", "Unknown account")
            }
            Self::Login(LoginRefusal::Refused(_)) => {
                (StatusCode::UNPROCESSABLE_ENTITY, "login-failed", "Sign-in failed")
            }
            Self::Login(LoginRefusal::NotReloaded { .. }) => {
                (StatusCode::UNPROCESSABLE_ENTITY, "login-not-used", "Sign-in not used yet")
            }
            Self::Sink(SinkRefusal::Unknown(_)) => {
                (StatusCode::NOT_FOUND, "unknown-sink", "Unknown sink")
            }
            Self::Sink(SinkRefusal::BadPlace(_) | SinkRefusal::Failed(_)) => {
                (StatusCode::UNPROCESSABLE_ENTITY, "sink-failed", "Sink failed")
            }
            Self::UnknownGroup(_) => (StatusCode::NOT_FOUND, "unknown-group", "Unknown group"),
            Self::UnknownEvent { .. } => (StatusCode::NOT_FOUND, "unknown-event", "Unknown event"),
            Self::MethodNotAllowed { .. } => {
                (StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "Method not allowed")
            }
            Self::SnapshotRequired | Self::ViewChanged => {
                (StatusCode::GONE, "snapshot-required", "Snapshot required")
            }
            Self::WrongHost => (StatusCode::MISDIRECTED_REQUEST, "wrong-host", "Wrong host"),
            Self::OtherShard { location: Some(_), .. } => {
                (StatusCode::TEMPORARY_REDIRECT, "other-shard", "Another shard")
            }
            Self::OtherShard { location: None, .. } => {
                (StatusCode::MISDIRECTED_REQUEST, "other-shard", "Another shard")
            }
            Self::ShardUnreachable { .. } => {
                (StatusCode::BAD_GATEWAY, "shard-unreachable", "Shard unreachable")
            }
            Self::TooManyAttempts => {
                (StatusCode::TOO_MANY_REQUESTS, "too-many-attempts", "Too many attempts")
            }
            Self::HeadTooLong => (
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "head-too-long",
                "Request head too long",
            ),
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal", "Internal error"),
            Self::Store(_) => (StatusCode::SERVICE_UNAVAILABLE, "store-failed", "Store failed"),
            Self::Reload(error) => kind_of_reload(error),
            Self::Stopping | Self::Fleet(FleetError::Stopping) => STOPPING,
            Self::NotReady(_) => (StatusCode::SERVICE_UNAVAILABLE, "not-ready", "Not ready"),
            Self::Busy => (StatusCode::SERVICE_UNAVAILABLE, "busy", "Busy"),
            Self::ExportBusy => {
                (StatusCode::SERVICE_UNAVAILABLE, "export-busy", "Another export is being sent")
            }
            Self::TooSlow => (StatusCode::SERVICE_UNAVAILABLE, "too-slow", "Too slow"),
            Self::TooManyConnections => {
                (StatusCode::SERVICE_UNAVAILABLE, "too-many-connections", "Too many connections")
            }
        }
    }
}

impl Problem {
    /// The body of the response.
    pub(super) fn json(&self) -> impl Serialize {
        let (status, slug, title) = self.kind();
        ProblemJson {
            r#type: format!("{TYPES}{slug}"),
            title,
            status: status.as_u16(),
            detail: self.to_string(),
            parameter: match &self {
                Self::BadParameter { parameter, .. } => Some(parameter),
                _ => None,
            },
            faults: match &self {
                Self::Reload(ReloadError::Faults(faults))
                | Self::Login(LoginRefusal::NotReloaded {
                    error: ReloadError::Faults(faults),
                    ..
                }) => faults,
                _ => &[],
            },
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.kind().0;
        let location = self.location();
        let mut response = (status, Json(self.json())).into_response();
        let kind = (header::CONTENT_TYPE, "application/problem+json");
        let more = match self {
            Self::Unauthorized => {
                Some((header::WWW_AUTHENTICATE, r#"Basic realm="calmirror", charset="UTF-8""#))
            }
            Self::TooManyAttempts => Some((header::RETRY_AFTER, "1")),
            Self::Busy => Some((header::RETRY_AFTER, "5")),
            Self::ExportBusy => Some((header::RETRY_AFTER, "60")),
            Self::OtherShard { .. } => Some((header::CACHE_CONTROL, "no-store")),
            _ => None,
        };
        if let Some(location) = location {
            response.headers_mut().insert(header::LOCATION, location);
        }
        for (name, value) in [Some(kind), more].into_iter().flatten() {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        response
    }
}

/// The kind of a reload that was not performed.
fn kind_of_reload(error: &ReloadError) -> ProblemKind {
    match error {
        ReloadError::Faults(_) => {
            (StatusCode::UNPROCESSABLE_ENTITY, "configuration-faults", "Invalid configuration")
        }
        ReloadError::Drops { .. } => {
            (StatusCode::UNPROCESSABLE_ENTITY, "too-many-drops", "Too many drops")
        }
        ReloadError::Failed(_) => {
            (StatusCode::SERVICE_UNAVAILABLE, "reload-failed", "Reload failed")
        }
        ReloadError::Busy => (StatusCode::SERVICE_UNAVAILABLE, "reload-busy", "Too many reloads"),
        ReloadError::Stopping => STOPPING,
    }
}

/// What the reader of a problem does next.
fn where_to(location: Option<&str>) -> String {
    match location {
        Some(location) => format!(": send the request to {location}"),
        None => ": send the request to that shard".to_owned(),
    }
}

impl From<FeedError> for Problem {
    fn from(error: FeedError) -> Self {
        match error {
            FeedError::SnapshotRequired => Self::SnapshotRequired,
            FeedError::Malformed => {
                Self::bad_parameter("after", "neither a cursor of this API nor \"now\"")
            }
            FeedError::Store(error) => error.into(),
        }
    }
}
