//! Errors as RFC 9457 `application/problem+json`, with one constructor for each kind of error.
//! Details name the request, never contents, tokens or links.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::config::Diagnostic;
use crate::reload::ReloadError;
use crate::store::{FeedError, StoreError};
use crate::supervisor::FleetError;

/// The base of `type`; the last part names the problem and never changes.
const TYPES: &str = "https://calmirror.dev/problems/";

/// One problem, ready to be sent.
#[derive(Debug)]
pub(super) struct Problem {
    slug: &'static str,
    title: &'static str,
    status: StatusCode,
    detail: String,
    parameter: Option<String>,
    /// Faults of a refused configuration.
    faults: Vec<Diagnostic>,
    /// Whether the response challenges the client to send a token.
    challenge: bool,
    /// Seconds after which the client should retry.
    retry_after: Option<u16>,
}

#[derive(Serialize)]
struct ProblemJson<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameter: Option<&'a str>,
    #[serde(skip_serializing_if = "<[Diagnostic]>::is_empty")]
    faults: &'a [Diagnostic],
}

impl Problem {
    fn new(
        status: StatusCode,
        slug: &'static str,
        title: &'static str,
        detail: impl Into<String>,
    ) -> Self {
        Self {
            slug,
            title,
            status,
            detail: detail.into(),
            parameter: None,
            faults: Vec::new(),
            challenge: false,
            retry_after: None,
        }
    }

    /// The detail text, for logs.
    pub(super) fn detail(&self) -> &str {
        &self.detail
    }

    /// 400, naming the invalid query parameter.
    pub(super) fn bad_parameter(parameter: &str, detail: impl Into<String>) -> Self {
        let mut problem =
            Self::new(StatusCode::BAD_REQUEST, "bad-parameter", "Bad parameter", detail);
        problem.parameter = Some(parameter.to_owned());
        problem
    }

    /// 404: the path matches no route.
    pub(super) fn not_found(path: &str) -> Self {
        let detail = format!("nothing is served at {path}");
        Self::new(StatusCode::NOT_FOUND, "not-found", "Not found", detail)
    }

    /// 404: no window has that name.
    pub(super) fn unknown_window(name: &str) -> Self {
        let detail = format!("no window is named {name:?}");
        Self::new(StatusCode::NOT_FOUND, "unknown-window", "Unknown window", detail)
    }

    /// 404: the window has no event with that id.
    pub(super) fn unknown_event(window: &str) -> Self {
        let detail = format!("window {window:?} holds no event of that id");
        Self::new(StatusCode::NOT_FOUND, "unknown-event", "Unknown event", detail)
    }

    /// 405. The router adds `Allow`.
    pub(super) fn method_not_allowed(method: &Method, path: &str) -> Self {
        let detail = format!("{path} does not take {method}");
        let status = StatusCode::METHOD_NOT_ALLOWED;
        Self::new(status, "method-not-allowed", "Method not allowed", detail)
    }

    /// 401, with the challenge that makes browsers prompt for a password.
    pub(super) fn unauthorized() -> Self {
        let detail = "over TCP every request needs a token, as Authorization: Bearer or as the \
                      password of HTTP Basic";
        let mut problem =
            Self::new(StatusCode::UNAUTHORIZED, "unauthorized", "Unauthorized", detail);
        problem.challenge = true;
        problem
    }

    /// 403: the request needs more than the read token.
    pub(super) fn read_only_token() -> Self {
        let detail = "this token is read-only: use the one in api.token_file";
        Self::new(StatusCode::FORBIDDEN, "read-only-token", "Read-only token", detail)
    }

    /// 403: a page of another site sent the request.
    pub(super) fn foreign_origin() -> Self {
        let detail = "pages of other sites may not send this request";
        Self::new(StatusCode::FORBIDDEN, "foreign-origin", "Foreign origin", detail)
    }

    /// 421: `Host` does not name this listener (a defence against DNS rebinding).
    pub(super) fn wrong_host() -> Self {
        let detail = "the Host header names neither a loopback address nor the listen address: \
                      add this machine's names to api.hosts";
        Self::new(StatusCode::MISDIRECTED_REQUEST, "wrong-host", "Wrong host", detail)
    }

    /// 410: the feed no longer has all changes after the cursor.
    pub(super) fn snapshot_required() -> Self {
        let detail = "the cursor is older than the kept removals or belongs to another store: \
                      read the events again and continue from the cursor in that response";
        Self::new(StatusCode::GONE, "snapshot-required", "Snapshot required", detail)
    }

    /// 503: the store can no longer be read or written.
    pub(super) fn store_failed(detail: impl Into<String>) -> Self {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Self::new(status, "store-failed", "Store failed", detail)
    }

    /// 503: the daemon is stopping.
    pub(super) fn stopping() -> Self {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Self::new(status, "stopping", "Stopping", "the daemon is stopping")
    }

    /// 400: no `Host`, several, or an invalid one (RFC 9112, 3.2).
    pub(super) fn bad_host() -> Self {
        let detail = "a request needs one Host header that is a name or an address, with or \
                      without a port";
        Self::new(StatusCode::BAD_REQUEST, "bad-host", "Bad host", detail)
    }

    /// 429: wrong tokens arrive faster than they are answered.
    pub(super) fn too_many_attempts() -> Self {
        let detail = "too many requests with wrong tokens are pending";
        let status = StatusCode::TOO_MANY_REQUESTS;
        let problem = Self::new(status, "too-many-attempts", "Too many attempts", detail);
        Self { retry_after: Some(1), ..problem }
    }

    /// 431: the request head exceeds the limit.
    pub(super) fn head_too_long() -> Self {
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        let detail = "a request head may have at most 64 KiB";
        Self::new(status, "head-too-long", "Request head too long", detail)
    }

    /// 500: a bug prevented the response.
    pub(super) fn internal() -> Self {
        let detail = "the response could not be computed: see the daemon's log";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "Internal error", detail)
    }

    /// 503: other requests occupy the daemon.
    pub(super) fn busy() -> Self {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        let detail = "other requests keep the daemon busy: try again later";
        Self { retry_after: Some(5), ..Self::new(status, "busy", "Busy", detail) }
    }

    /// 503: computing the response exceeded its time limit.
    pub(super) fn too_slow() -> Self {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        let detail = "computing the response took too long: request less at a time";
        Self::new(status, "too-slow", "Too slow", detail)
    }

    /// 503: the connection limit is reached.
    pub(super) fn too_many_connections() -> Self {
        let detail = "the connection limit is reached: close some connections, or try again later";
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Self::new(status, "too-many-connections", "Too many connections", detail)
    }

    /// The configuration was not reloaded: 422 if the configuration is the cause, else 503.
    pub(super) fn not_reloaded(refusal: ReloadError) -> Self {
        let detail = refusal.to_string();
        let (unprocessable, unavailable) =
            (StatusCode::UNPROCESSABLE_ENTITY, StatusCode::SERVICE_UNAVAILABLE);
        match refusal {
            ReloadError::Faults(faults) => {
                let title = "Invalid configuration";
                let slug = "configuration-faults";
                Self { faults, ..Self::new(unprocessable, slug, title, detail) }
            }
            ReloadError::Drops { .. } => {
                Self::new(unprocessable, "too-many-drops", "Too many drops", detail)
            }
            ReloadError::Failed(_) => {
                Self::new(unavailable, "reload-failed", "Reload failed", detail)
            }
            ReloadError::Busy => Self::new(unavailable, "reload-busy", "Too many reloads", detail),
            ReloadError::Stopping => Self::stopping(),
        }
    }

    /// 503: a readiness condition is not met yet.
    pub(super) fn not_ready(detail: impl Into<String>) -> Self {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Self::new(status, "not-ready", "Not ready", detail)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = ProblemJson {
            r#type: format!("{TYPES}{}", self.slug),
            title: self.title,
            status: self.status.as_u16(),
            detail: &self.detail,
            parameter: self.parameter.as_deref(),
            faults: &self.faults,
        };
        let mut response = (self.status, Json(body)).into_response();
        let headers = response.headers_mut();
        let kind = HeaderValue::from_static("application/problem+json");
        headers.insert(header::CONTENT_TYPE, kind);
        if self.challenge {
            let challenge = HeaderValue::from_static(r#"Basic realm="calmirror", charset="UTF-8""#);
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

/// 400: a path that is not percent-encoded UTF-8.
impl From<PathRejection> for Problem {
    fn from(rejection: PathRejection) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-path", "Bad path", rejection.body_text())
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        Self::store_failed(error.to_string())
    }
}

impl From<FeedError> for Problem {
    fn from(error: FeedError) -> Self {
        match error {
            FeedError::SnapshotRequired => Self::snapshot_required(),
            FeedError::Malformed => {
                Self::bad_parameter("after", "neither a cursor of this API nor \"now\"")
            }
            FeedError::Store(error) => error.into(),
        }
    }
}

impl From<FleetError> for Problem {
    fn from(error: FleetError) -> Self {
        match error {
            FleetError::UnknownWindow(name) => Self::unknown_window(&name),
            FleetError::Stopping => Self::stopping(),
        }
    }
}
