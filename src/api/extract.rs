//! Extracts requests. All routes read them the same way and reject them in the same order: a
//! malformed path, an unknown parameter, an unknown window.

use std::sync::Arc;

use axum::extract::{FromRequestParts, Path};
use axum::http::HeaderMap;
use axum::http::request::Parts;
use axum::response::Response;
use serde::Deserialize;

use super::AppState;
use super::auth::ReadOnlyAccess;
use super::etag::ETag;
use super::problem::Problem;
use super::query::{Parameters, Range};
use crate::mirror::position::WindowId;
use crate::mirror::status::WindowStatus;

/// The parameters of a path.
#[derive(Deserialize)]
struct WindowPath {
    #[serde(default)]
    name: String,
    id: Option<String>,
}

/// A request.
pub(super) struct ApiRequest {
    pub(super) app: Arc<AppState>,
    /// The window's name, on routes of one window; it may be unknown.
    pub(super) name: String,
    /// The event's id, on routes for one event.
    pub(super) id: Option<String>,
    query: Option<String>,
    pub(super) headers: HeaderMap,
    /// Whether the caller may only read what readers see.
    read_only: bool,
}

impl FromRequestParts<Arc<AppState>> for ApiRequest {
    type Rejection = Problem;

    async fn from_request_parts(
        parts: &mut Parts,
        app: &Arc<AppState>,
    ) -> Result<Self, Self::Rejection> {
        let Path(WindowPath { name, id }) = Path::from_request_parts(parts, app).await?;
        let query = parts.uri.query().map(str::to_owned);
        let read_only = parts.extensions.get::<ReadOnlyAccess>().is_some();
        let headers = parts.headers.clone();
        Ok(Self { app: app.clone(), name, id, query, headers, read_only })
    }
}

impl ApiRequest {
    /// Parses the query; only `known` parameters are accepted.
    pub(super) fn parameters(&self, known: &[&'static str]) -> Result<Parameters, Problem> {
        Parameters::parse(self.query.as_deref(), known)
    }

    /// Refuses callers with the read token, on routes that show more than readers see.
    pub(super) fn require_full_rights(&self) -> Result<(), Problem> {
        if self.read_only { Err(Problem::ReadOnlyToken) } else { Ok(()) }
    }

    /// `from` and `to` of the parameters.
    pub(super) fn range(&self, parameters: &Parameters) -> Result<Range, Problem> {
        parameters.range(self.app.env.now())
    }

    /// The window's id in the store, and its status.
    pub(super) fn window(&self) -> Result<(WindowId, WindowStatus), Problem> {
        let fleet = &self.app.fleet;
        let both = || Some((fleet.id(&self.name)?, self.app.window(&self.name)?));
        both().ok_or_else(|| Problem::unknown_window(&self.name))
    }

    /// 304 if the client already has the response with this tag.
    pub(super) fn not_modified(&self, tag: &ETag) -> Option<Response> {
        tag.matches(&self.headers).then(|| tag.not_modified())
    }
}
