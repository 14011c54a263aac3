//! The API's own description, OpenAPI 3.1, kept by hand beside the routes. A test holds the two
//! together: what is served is described, what is described is served.

use axum::extract::RawQuery;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};

use super::etag::ETag;
use super::problem::Problem;
use super::query::Parameters;

/// The document.
pub(super) const DOCUMENT: &str = include_str!("openapi.json");

/// `GET /openapi.json`.
pub(super) async fn document(
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    Parameters::parse(query.as_deref(), &[])?;
    let tag = ETag::of_bytes(DOCUMENT.as_bytes());
    if tag.is_held(&headers) {
        return Ok(tag.not_modified());
    }
    let kind = HeaderValue::from_static("application/json");
    Ok(tag.put_on(([(header::CONTENT_TYPE, kind)], DOCUMENT).into_response()))
}
