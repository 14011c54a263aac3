//! Parses requests (path, query, preferences), and represents responses before they are sent.

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use super::event::EventForm;
use super::ids::mix;
use super::zone::Zone;

/// A parsed request.
#[derive(Debug)]
pub(super) struct SimulatedRequest {
    pub(super) method: Method,
    /// The path as sent, for links.
    pub(super) path: String,
    /// Its segments after `/v1.0`, decoded.
    pub(super) segments: Vec<String>,
    /// Query parameters in the order sent: names in lower case, values decoded.
    pub(super) query: Vec<(String, String)>,
    /// Path and query as sent.
    pub(super) target: String,
    pub(super) bearer: Option<String>,
    /// The credentials of HTTP Basic, still encoded.
    pub(super) basic: Option<String>,
    /// All `Prefer` headers, joined.
    pub(super) prefer: String,
    pub(super) gzip: bool,
    pub(super) client_request_id: Option<String>,
    /// Scheme and authority that the client used, if the request contains them.
    pub(super) origin: Option<String>,
    /// Whether the path began with `/v1.0`.
    pub(super) versioned: bool,
    headers: HeaderMap,
}

impl SimulatedRequest {
    pub(super) fn read(request: &http::Request<Bytes>) -> Self {
        let uri = request.uri();
        let headers = request.headers();
        let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
        let origin = match (uri.scheme_str(), uri.authority()) {
            (Some(scheme), Some(authority)) => Some(format!("{scheme}://{authority}")),
            _ => seen_origin(headers),
        };
        let target = uri.path_and_query().map_or("/", |target| target.as_str()).to_owned();
        let mut segments: Vec<String> =
            uri.path().split('/').filter(|segment| !segment.is_empty()).map(segment).collect();
        let versioned = segments.first().is_some_and(|first| first.eq_ignore_ascii_case("v1.0"));
        if versioned {
            segments.remove(0);
        }
        Self {
            method: request.method().clone(),
            path: uri.path().to_owned(),
            segments,
            query: pairs(uri.query().unwrap_or_default())
                .map(|(name, value)| (name.to_lowercase(), value))
                .collect(),
            target,
            bearer: authorization(headers, "bearer"),
            basic: authorization(headers, "basic"),
            prefer: joined(headers, "prefer"),
            gzip: joined(headers, "accept-encoding").to_lowercase().contains("gzip"),
            client_request_id: text("client-request-id").map(str::to_owned).filter(|_| {
                text("return-client-request-id").is_some_and(|v| v.eq_ignore_ascii_case("true"))
            }),
            origin,
            versioned,
            headers: headers.clone(),
        }
    }

    /// The value of a header, if it is text; `name` is in lower case.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Scheme and authority that the client used; Graph's own if the request has none.
    pub(super) fn origin(&self) -> &str {
        self.origin.as_deref().unwrap_or("https://graph.microsoft.com")
    }

    /// The host of the origin, with its port.
    pub(super) fn host(&self) -> &str {
        self.origin().split_once("://").map_or("", |(_, host)| host)
    }

    /// The value of a query parameter; `name` is in lower case.
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The token of a next link or delta link.
    pub(super) fn token(&self) -> Option<&str> {
        self.parameter("$skiptoken").or_else(|| self.parameter("$deltatoken"))
    }

    /// A hash of the path and query, which identifies a link.
    pub(super) fn link_hash(&self) -> u64 {
        mix(&[u64::from(crc32fast::hash(self.target.as_bytes())), self.target.len() as u64])
    }

    /// Whether the segments from index `from` on match `pattern` in any case; `*` matches any.
    pub(super) fn is(&self, pattern: &[&str], from: usize) -> bool {
        let rest = self.segments.get(from..).unwrap_or_default();
        rest.len() == pattern.len()
            && rest
                .iter()
                .zip(pattern)
                .all(|(segment, wanted)| *wanted == "*" || segment.eq_ignore_ascii_case(wanted))
    }
}

/// Scheme and authority that the client used, from `Host` and the headers that a proxy adds:
/// `Forwarded` (RFC 7239), else `X-Forwarded-Proto` and `X-Forwarded-Host`. Of several proxies the
/// first one counts, which is the one the client connected to.
fn seen_origin(headers: &HeaderMap) -> Option<String> {
    let first = |name: &str| {
        let value = headers.get(name)?.to_str().ok()?;
        value.split(',').next().map(|value| value.trim().to_owned())
    };
    let forwarded = first("forwarded").unwrap_or_default();
    let parameter = |wanted: &str| {
        forwarded.split(';').find_map(|pair| {
            let (name, value) = pair.trim().split_once('=')?;
            name.eq_ignore_ascii_case(wanted).then(|| value.trim_matches('"').to_owned())
        })
    };
    let scheme = parameter("proto").or_else(|| first("x-forwarded-proto"));
    let scheme = match scheme.as_deref() {
        Some(scheme) if scheme.eq_ignore_ascii_case("https") => "https",
        _ => "http",
    };
    let host = parameter("host").or_else(|| first("x-forwarded-host")).or_else(|| first("host"))?;
    let authority: http::uri::Authority = host.parse().ok()?;
    (!authority.as_str().contains('@')).then(|| format!("{scheme}://{authority}"))
}

/// The credentials of the `Authorization` header, if it has the scheme `wanted`.
fn authorization(headers: &HeaderMap, wanted: &str) -> Option<String> {
    let (scheme, rest) = headers.get("authorization")?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case(wanted).then(|| rest.trim().to_owned())
}

/// All values of a header, joined as one list.
fn joined(headers: &HeaderMap, name: &str) -> String {
    let values: Vec<_> = headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).collect();
    values.join(", ")
}

/// The decoded pairs of a query or form.
pub(super) fn pairs(text: &str) -> impl Iterator<Item = (String, String)> + '_ {
    text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode_form(name), decode_form(value))
    })
}

fn decode(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// A decoded segment of a path. Types have their whole name: Microsoft's SDKs write the alias of
/// the namespace, as in `graph.room` for `microsoft.graph.room`.
fn segment(text: &str) -> String {
    let text = decode(text);
    match text.split_once('.') {
        Some((alias, name))
            if alias.eq_ignore_ascii_case("graph")
                && name.bytes().all(|byte| byte.is_ascii_alphabetic()) =>
        {
            format!("microsoft.{text}")
        }
        _ => text,
    }
}

/// Decodes a name or value of a query or form, where a plus is a space (fact 28).
pub(super) fn decode_form(text: &str) -> String {
    decode(&text.replace('+', " "))
}

/// The parsed `Prefer` header (facts 40 to 50).
#[derive(Clone, Debug)]
pub(super) struct PreferHeader {
    pub(super) page_size: Option<usize>,
    pub(super) form: EventForm,
    /// The preferences that the response confirms as applied.
    pub(super) applied: Vec<String>,
}

impl PreferHeader {
    /// Parses the header. An unknown time zone makes the request invalid.
    pub(super) fn read(header: &str) -> Result<Self, RenderedResponse> {
        let mut prefer = Self { page_size: None, form: EventForm::plain(), applied: Vec::new() };
        for preference in header.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let (name, value) = preference.split_once('=').unwrap_or((preference, ""));
            let value = value.trim().trim_matches('"');
            match name.trim().to_lowercase().as_str() {
                "odata.maxpagesize" => {
                    prefer.page_size = value.parse().ok().filter(|size| *size > 0);
                    if prefer.page_size.is_none() {
                        continue;
                    }
                }
                "outlook.timezone" => match Zone::named(value) {
                    Some(zone) => prefer.form.zone = zone,
                    None => {
                        return Err(RenderedResponse::bad_request(
                            "TimeZoneNotSupportedException",
                            &format!(
                                "A valid TimeZone value must be specified. The following \
                                 TimeZone value is not supported: '{value}'."
                            ),
                        ));
                    }
                },
                "outlook.body-content-type" => {
                    prefer.form.text_body = value.eq_ignore_ascii_case("text");
                }
                "idtype" => prefer.form.immutable = value.eq_ignore_ascii_case("ImmutableId"),
                _ => continue,
            }
            prefer.applied.push(preference.to_owned());
        }
        Ok(prefer)
    }
}

/// A response, not yet compressed and without the headers common to all responses.
#[derive(Clone, Debug)]
pub(super) struct RenderedResponse {
    pub(super) status: StatusCode,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: ResponsePayload,
}

/// The body of a response.
#[derive(Clone, Debug)]
pub(super) enum ResponsePayload {
    Plain(Bytes),
    /// A body that is already compressed if the client accepts gzip.
    Ready {
        encoded: Bytes,
        gzip: bool,
        raw: u64,
    },
}

impl RenderedResponse {
    pub(super) fn json(status: StatusCode, value: &Value) -> Self {
        Self::text(status, "application/json;odata.metadata=minimal", value.to_string())
    }

    pub(super) fn text(status: StatusCode, kind: &str, body: impl Into<Bytes>) -> Self {
        Self {
            status,
            headers: vec![("content-type", kind.to_owned())],
            body: ResponsePayload::Plain(body.into()),
        }
    }

    pub(super) fn empty(status: StatusCode) -> Self {
        Self { status, headers: Vec::new(), body: ResponsePayload::Plain(Bytes::new()) }
    }

    /// An error in Graph's format. Its request id is filled in when it is sent.
    pub(super) fn error(status: StatusCode, code: &str, message: &str) -> Self {
        let error = json!({"error": {
            "code": code,
            "message": message,
            "innerError": {"request-id": "", "date": ""},
        }});
        Self::json(status, &error)
    }

    pub(super) fn bad_request(code: &str, message: &str) -> Self {
        Self::error(StatusCode::BAD_REQUEST, code, message)
    }

    pub(super) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}
