//! `GET /`: the web page and the files it consists of (`docs/page.md`).
//!
//! All files are in the binary, so the page needs no network but the daemon. It uses the same
//! routes as every other reader and no other data. Calendar content is untrusted text, so each file
//! carries a policy under which only these files run and load, only this API receives data, and no
//! script turns a string into markup. Files carry an `ETag` of their content and are revalidated
//! each time, so that an update of the daemon updates the page.

use axum::Router;
use axum::extract::{Path, RawQuery};
use axum::http::{HeaderMap, HeaderName, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, extract::rejection::PathRejection};
use serde_json::{Value, json};

use super::etag::ETag;
use super::problem::Problem;
use super::query::Parameters;
use crate::mirror::zone::iana;

/// What the page may do: run its own scripts, show its own style and icon, call this API. Strings
/// never become markup (`require-trusted-types-for`), and no page may frame it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'; require-trusted-types-for 'script'; \
                      trusted-types 'none'";

/// One file of the page.
struct Asset {
    /// Its name under `/page/`.
    name: &'static str,
    kind: &'static str,
    content: &'static [u8],
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// The file served at `/`.
const INDEX: &str = "index.html";

macro_rules! files {
    ($($name:literal $kind:ident),* $(,)?) => {
        [$(Asset { name: $name, kind: $kind, content: include_bytes!(concat!("page/", $name)) }),*]
    };
}

/// All files of the page.
const FILES: &[Asset] = &files![
    "index.html" HTML,
    "icon.svg" SVG,
    "style.css" CSS,
    "calendar.css" CSS,
    "availability.css" CSS,
    "app.js" JS,
    "api.js" JS,
    "availability.js" JS,
    "board.js" JS,
    "calendar.js" JS,
    "connection.js" JS,
    "dates.js" JS,
    "event.js" JS,
    "fleet.js" JS,
    "health.js" JS,
    "layout.js" JS,
    "markup.js" JS,
    "route.js" JS,
    "words.js" JS,
];

/// The page's routes.
pub(super) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new()
        .route("/", get(index))
        .route("/page/{file}", get(file))
        .route("/page/zone/{name}", get(zone))
}

/// `GET /`.
async fn index(headers: HeaderMap, RawQuery(query): RawQuery) -> Result<Response, Problem> {
    Parameters::parse(query.as_deref(), &[])?;
    serve(INDEX, &headers).ok_or_else(|| Problem::NotFound("/".to_owned()))
}

/// `GET /page/{file}`.
async fn file(
    headers: HeaderMap,
    path: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let Path(name) = path?;
    Parameters::parse(query.as_deref(), &[])?;
    serve(&name, &headers).ok_or_else(|| Problem::NotFound(format!("/page/{name}")))
}

/// `GET /page/zone/{name}`: the IANA name of a Windows time zone, which browsers do not know;
/// `null` if there is none.
async fn zone(
    path: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
) -> Result<Json<Value>, Problem> {
    let Path(name) = path?;
    Parameters::parse(query.as_deref(), &[])?;
    Ok(Json(json!({ "iana": iana(&name) })))
}

/// A file, or 304 if the client already has it.
fn serve(name: &str, asked: &HeaderMap) -> Option<Response> {
    let file = FILES.iter().find(|file| file.name == name)?;
    let headers = [
        (header::CONTENT_TYPE, file.kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    let tag = ETag::of_bytes(file.content);
    Some(match tag.matches(asked) {
        true => (headers, tag.not_modified()).into_response(),
        false => tag.attach_to((headers, file.content).into_response()),
    })
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::{Request, StatusCode};
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    use super::*;

    async fn ask(path: &str, known: Option<&str>) -> (StatusCode, HeaderMap, String) {
        let mut request = Request::get(path);
        if let Some(known) = known {
            request = request.header(header::IF_NONE_MATCH, known);
        }
        let answer = routes::<()>().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let (head, body) = answer.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (head.status, head.headers, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn the_page_has_a_content_security_policy_and_an_etag() {
        let (status, headers, body) = ask("/", None).await;
        assert_eq!(status, StatusCode::OK);
        assert!(body.starts_with("<!doctype html>"), "{body}");
        assert_eq!(headers[header::CONTENT_TYPE], HTML);
        let policy = headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{policy}");
        assert!(!policy.contains("unsafe") && !policy.contains("http"), "{policy}");
        let tag = headers[header::ETAG].to_str().unwrap();
        for known in [tag.to_owned(), format!("\"other\", {tag}"), "*".to_owned()] {
            let (status, headers, body) = ask("/", Some(&known)).await;
            assert_eq!((status, body.as_str()), (StatusCode::NOT_MODIFIED, ""), "{known}");
            assert_eq!(headers[header::ETAG], tag);
        }
        assert_eq!(ask("/", Some("\"other\"")).await.0, StatusCode::OK);
    }

    /// A file that no other file names is dead weight; a missing file breaks the page.
    #[tokio::test]
    async fn the_page_references_only_its_own_files() {
        let mut named = vec![INDEX.to_owned()];
        for file in FILES {
            let text = std::str::from_utf8(file.content).unwrap();
            assert!(!text.contains("https://"), "{} refers to another site", file.name);
            for (mark, end) in [("\"/page/", '"'), (" from \"./", '"')] {
                named.extend(
                    text.split(mark)
                        .skip(1)
                        .filter_map(|rest| rest.split_once(end))
                        .map(|n| n.0.to_owned()),
                );
            }
        }
        named.sort();
        named.dedup();
        let mut served: Vec<_> = FILES.iter().map(|file| file.name.to_owned()).collect();
        served.sort();
        assert_eq!(named, served);
        for name in served {
            let (status, headers, body) = ask(&format!("/page/{name}"), None).await;
            assert_eq!(status, StatusCode::OK, "{name}");
            assert!(headers.contains_key(header::CONTENT_SECURITY_POLICY), "{name}");
            assert!(!body.contains("innerHTML") && !body.contains(" style=\""), "{name}");
        }
        assert_eq!(ask("/page/nothing.js", None).await.0, StatusCode::NOT_FOUND);
    }

    #[tokio::test]
    async fn zones_of_windows_have_iana_names_for_browsers() {
        let (_, _, body) = ask("/page/zone/W.%20Europe%20Standard%20Time", None).await;
        assert_eq!(body, r#"{"iana":"Europe/Berlin"}"#);
        let (_, _, body) = ask("/page/zone/Nowhere", None).await;
        assert_eq!(body, r#"{"iana":null}"#);
        assert_eq!(ask("/?x=1", None).await.0, StatusCode::BAD_REQUEST);
    }
}
