//! Serves the API's description, OpenAPI 3.1, maintained by hand. A test checks that every route
//! served is described and every route described is served.

use axum::response::Response;

use super::etag::ETag;
use super::extract::ApiRequest;
use super::problem::Problem;

/// The OpenAPI document.
pub(super) const DOCUMENT: &str = include_str!("openapi.json");

/// `GET /openapi.json`.
pub(super) async fn document(request: ApiRequest) -> Result<Response, Problem> {
    request.parameters(&[])?;
    let tag = ETag::of_bytes(DOCUMENT.as_bytes());
    Ok(request.not_modified(&tag).unwrap_or_else(|| tag.json(DOCUMENT)))
}
