//! Extracts requests. All routes read them the same way and reject them in the same order: a
//! malformed path, missing rights, a window that the reader does not see, an unknown parameter.

use std::sync::Arc;

use axum::extract::{FromRequestParts, MatchedPath, Path};
use axum::http::HeaderMap;
use axum::http::request::Parts;
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
use crate::mirror::status::WindowStatus;

/// The parameters of a path.
#[derive(Deserialize)]
struct WindowPath {
    #[serde(default)]
    name: String,
    id: Option<String>,
}

/// The beginning of every route of one window.
const OF_A_WINDOW: &str = "/v1/windows/{name}";

/// A request.
pub(super) struct ApiRequest {
    pub(super) app: Arc<AppState>,
    /// The window's name, on routes of one window; it may be unknown.
    pub(super) name: String,
    /// The event's id, on routes for one event.
    pub(super) id: Option<String>,
    query: Option<String>,
    pub(super) headers: HeaderMap,
    /// What the caller may see and do.
    pub(super) access: Access,
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
        let query = parts.uri.query().map(str::to_owned);
        let headers = parts.headers.clone();
        Ok(Self { app: app.clone(), name, id, query, headers, access })
    }
}

impl ApiRequest {
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
