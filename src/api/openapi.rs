//! Serves the API's description, OpenAPI 3.1, maintained by hand. A test checks that every route
//! served is described and every route described is served.

use axum::extract::RawQuery;
use axum::http::HeaderMap;
use axum::response::Response;

use super::etag::ETag;
use super::problem::Problem;
use super::query::Parameters;

/// The OpenAPI document.
pub(super) const DOCUMENT: &str = include_str!("openapi.json");

/// `GET /openapi.json`.
pub(super) async fn document(
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    Parameters::parse(query.as_deref(), &[])?;
    let tag = ETag::of_bytes(DOCUMENT.as_bytes());
    if tag.matches(&headers) {
        return Ok(tag.not_modified());
    }
    Ok(tag.json(DOCUMENT))
}
