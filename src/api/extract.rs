//! Extracts requests. All routes read them the same way and reject them in the same order: a
//! malformed path, missing rights, a window that the reader does not see, an unknown parameter.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::extract::{FromRequestParts, MatchedPath, Path};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, Method, header};
use axum::response::Response;
use serde::Deserialize;

use super::AppState;
use super::access::Access;
use super::etag::ETag;
use super::problem::Problem;
use super::query::{Parameters, Range};
use super::selection::SelectedWindows;
use super::view::{EventView, FILTER};
use crate::mirror::position::WindowId;
use crate::mirror::shard::Shard;
use crate::mirror::status::WindowStatus;

/// The parameters of a path.
#[derive(Deserialize)]
struct WindowPath {
    #[serde(default)]
    name: String,
    id: Option<String>,
}

/// The beginning of every route of one window.
pub(super) const OF_A_WINDOW: &str = "/v1/windows/{name}";

/// With `1`: this shard answers for itself alone. It gives no rights.
pub(super) const SHARD_ONLY: HeaderName = HeaderName::from_static("calmirror-shard-only");

/// A request.
#[derive(Clone)]
pub(super) struct ApiRequest {
    pub(super) app: Arc<AppState>,
    /// The window's name, on routes of one window; it may be unknown.
    pub(super) name: String,
    /// The event's id, on routes for one event.
    pub(super) id: Option<String>,
    pub(super) method: Method,
    /// The path as it was sent.
    pub(super) path: String,
    query: Option<String>,
    pub(super) headers: HeaderMap,
    /// What the caller may see and do.
    pub(super) access: Access,
    /// Whether the other shards are not asked.
    is_shard_only: bool,
}

impl FromRequestParts<Arc<AppState>> for ApiRequest {
    type Rejection = Problem;

    async fn from_request_parts(
        parts: &mut Parts,
        app: &Arc<AppState>,
    ) -> Result<Self, Self::Rejection> {
        let Path(WindowPath { name, id }) = Path::from_request_parts(parts, app).await?;
        // Each router decides it before any route is reached.
        let access = parts.extensions.get::<Access>().cloned().ok_or(Problem::Internal)?;
        let route = parts.extensions.get::<MatchedPath>().map_or("", MatchedPath::as_str);
        access.check(route)?;
        if route.starts_with(OF_A_WINDOW) && !access.sees(&name) {
            return Err(Problem::unknown_window(&name));
        }
        let (path, query) = (parts.uri.path().to_owned(), parts.uri.query().map(str::to_owned));
        let (method, headers) = (parts.method.clone(), parts.headers.clone());
        let is_shard_only = headers.get(SHARD_ONLY).is_some_and(|value| value == "1");
        let app = app.clone();
        Ok(Self { app, name, id, method, path, query, headers, access, is_shard_only })
    }
}

impl ApiRequest {
    /// Whether the answer is one of all shards.
    pub(super) fn is_merged(&self) -> bool {
        self.is_sharded() && !self.is_shard_only
    }

    /// Whether the answer is that of one of several shards. It then has what merging needs.
    pub(super) fn is_part(&self) -> bool {
        self.is_sharded() && self.is_shard_only
    }

    /// The numbers of all shards.
    pub(super) fn all_shards(&self) -> BTreeSet<u32> {
        (0..self.app.settings.shard.of.count()).collect()
    }

    fn is_sharded(&self) -> bool {
        self.app.settings.shard.of != Shard::ALONE
    }

    /// The same request to this shard alone, with another query, for the whole answer.
    pub(super) fn of_this_shard(&self, query: String) -> Self {
        let mut headers = self.headers.clone();
        headers.remove(header::IF_NONE_MATCH);
        Self { query: Some(query), headers, is_shard_only: true, ..self.clone() }
    }

    /// The query as it was sent.
    pub(super) fn query(&self) -> &str {
        self.query.as_deref().unwrap_or_default()
    }

    /// Parses the query; only `known` parameters are accepted.
    pub(super) fn parameters(&self, known: &[&'static str]) -> Result<Parameters, Problem> {
        Parameters::parse(self.query.as_deref(), known)
    }

    /// Parses the query of a route that shows events: `known` parameters and those of a filter.
    pub(super) fn viewed(
        &self,
        known: &[&'static str],
    ) -> Result<(Parameters, EventView), Problem> {
        let parameters = self.parameters(&[known, &FILTER].concat())?;
        let mask = self.app.settings.mask_private;
        let view = EventView::parse(&parameters, self.access.level, mask)?;
        Ok((parameters, view))
    }

    /// The selection of the route's window.
    pub(super) fn selection_of_one(&self) -> SelectedWindows {
        SelectedWindows::of(&self.name, &self.app, &self.access)
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
