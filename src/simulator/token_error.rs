//! The errors of Microsoft Entra's endpoints (facts 147 to 149).

use http::StatusCode;
use jiff::Timestamp;
use serde_json::json;

use super::request::RenderedResponse;

/// Why an endpoint refuses a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TokenEndpointError {
    pub(super) status: StatusCode,
    /// The OAuth error code.
    pub(super) error: &'static str,
    /// The number after `AADSTS`.
    pub(super) number: u32,
    pub(super) message: &'static str,
}

impl TokenEndpointError {
    pub(super) fn bad_request(error: &'static str, number: u32, message: &'static str) -> Self {
        Self { status: StatusCode::BAD_REQUEST, error, number, message }
    }

    pub(super) fn invalid_client(number: u32, message: &'static str) -> Self {
        Self { status: StatusCode::UNAUTHORIZED, error: "invalid_client", number, message }
    }

    pub(super) fn invalid_grant(number: u32, message: &'static str) -> Self {
        Self::bad_request("invalid_grant", number, message)
    }

    pub(super) fn unknown_application() -> Self {
        let message = "Application was not found in the directory.";
        Self::bad_request("unauthorized_client", 700_016, message)
    }

    /// A missing member of the form.
    pub(super) fn missing(message: &'static str) -> Self {
        Self::bad_request("invalid_request", 900_144, message)
    }

    /// The response; `trace` is its trace id.
    pub(super) fn response(self, trace: &str, now: Timestamp) -> RenderedResponse {
        let Self { status, error, number, message } = self;
        RenderedResponse::json(
            status,
            &json!({
                "error": error,
                "error_description": format!("AADSTS{number}: {message} Trace ID: {trace}"),
                "error_codes": [number],
                "timestamp": now.strftime("%Y-%m-%d %H:%M:%SZ").to_string(),
                "trace_id": trace,
                "correlation_id": trace,
                "error_uri": format!("https://login.microsoftonline.com/error?code={number}"),
            }),
        )
    }
}
