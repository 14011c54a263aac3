//! Content codings: selects the coding of each response (RFC 9110, 12.5.3) and bounds the cost of
//! compression.
//!
//! The coding is chosen before the request is handled, so that a request without an acceptable
//! coding has no effect. A compressor uses up to about a megabyte until its reader has taken the
//! response, so there are at most [`MAX_COMPRESSORS`]; further responses are sent uncompressed, or
//! wait if the client refuses that. A compressor gets its input in small pieces with pauses, so
//! that it never blocks a runtime thread.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, HttpBody};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Frame, SizeHint};
use tokio::sync::Semaphore;

/// Responses compressed at the same time.
const MAX_COMPRESSORS: usize = 8;

/// Bytes passed to a compressor at a time.
const PIECE_BYTES: usize = 16 << 10;

/// Bytes after which a compressor's task yields.
pub(super) const YIELD_BYTES: usize = 128 << 10;

/// Permits for compressors.
#[derive(Clone, Debug)]
pub(super) struct CompressorPool(Arc<Semaphore>);

impl Default for CompressorPool {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_COMPRESSORS)))
    }
}

/// The weights in `Accept-Encoding` of the supported codings, in thousandths.
#[derive(Debug, PartialEq, Eq)]
struct AcceptedCodings {
    zstd: u16,
    gzip: u16,
    identity: u16,
}

impl AcceptedCodings {
    fn of(headers: &HeaderMap) -> Self {
        let fields = headers.get_all(header::ACCEPT_ENCODING).iter();
        let listed: Vec<(String, u16)> = fields
            .filter_map(|field| field.to_str().ok())
            .flat_map(|field| field.split(','))
            .map(|entry| {
                let mut parts = entry.split(';').map(str::trim);
                let name = parts.next().unwrap_or_default().to_ascii_lowercase();
                (name, parts.find_map(weight).unwrap_or(1000))
            })
            .filter(|(name, _)| !name.is_empty())
            .collect();
        let find = |names: &[&str]| {
            listed.iter().find(|(name, _)| names.contains(&&**name)).map(|(_, weight)| *weight)
        };
        let any = find(&["*"]);
        Self {
            zstd: find(&["zstd"]).or(any).unwrap_or(0),
            gzip: find(&["gzip", "x-gzip"]).or(any).unwrap_or(0),
            // Acceptable unless refused; the last choice if not listed.
            identity: find(&["identity"]).or(any.filter(|any| *any == 0)).unwrap_or(1),
        }
    }

    /// The coding of the response; `None` if none is acceptable.
    fn best(&self) -> Option<&'static str> {
        let codings = [("identity", self.identity), ("gzip", self.gzip), ("zstd", self.zstd)];
        let best = codings.into_iter().filter(|(_, weight)| *weight > 0);
        best.max_by_key(|(_, weight)| *weight).map(|(name, _)| name)
    }
}

/// Parses `q=0.5`, in thousandths. An invalid weight counts as 1.
fn weight(parameter: &str) -> Option<u16> {
    let text = parameter.strip_prefix("q=").or_else(|| parameter.strip_prefix("Q="))?;
    let weight: f64 = text.trim().parse().ok()?;
    // Clamped to 0..=1000, so the conversion is exact enough.
    Some((weight.clamp(0.0, 1.0) * 1000.0) as u16)
}

/// Chooses the coding of a response. Runs outside the compressor, which then sees one choice.
pub(super) async fn choose(
    State(CompressorPool(coders)): State<CompressorPool>,
    mut request: Request,
    next: Next,
) -> Response {
    let accepted = AcceptedCodings::of(request.headers());
    let Some(mut coding) = accepted.best() else { return refused() };
    let mut coder = None;
    if coding != "identity" {
        coder = match accepted.identity {
            0 => coders.acquire_owned().await.ok(),
            _ => coders.try_acquire_owned().ok(),
        };
        if coder.is_none() {
            coding = "identity";
        }
    }
    request.headers_mut().insert(header::ACCEPT_ENCODING, HeaderValue::from_static(coding));
    let response = next.run(request).await;
    let (mut head, body) = response.into_parts();
    let coded = head.headers.contains_key(header::CONTENT_ENCODING);
    // Server-sent events are never compressed: a compressor would delay them.
    if accepted.identity == 0 && !coded && !body.is_end_stream() {
        return refused();
    }
    if !head.headers.get_all(header::VARY).iter().any(|vary| *vary == "accept-encoding") {
        head.headers.append(header::VARY, HeaderValue::from_static("accept-encoding"));
    }
    match coder.filter(|_| coded) {
        // The body keeps the permit.
        Some(coder) => {
            let body = body.map_frame(move |frame| {
                let _permit = &coder;
                frame
            });
            Response::from_parts(head, Body::new(body))
        }
        None => Response::from_parts(head, body),
    }
}

/// 406 without content: any content would be in a refused coding.
fn refused() -> Response {
    let headers = [
        (header::ACCEPT_ENCODING, HeaderValue::from_static("zstd, gzip, identity")),
        (header::VARY, HeaderValue::from_static("accept-encoding")),
    ];
    (StatusCode::NOT_ACCEPTABLE, headers).into_response()
}

/// Passes a body to the compressor in pieces.
pub(super) async fn pace(response: Response) -> Response {
    response.map(|body| Body::new(PacedBody { body, rest: Bytes::new(), since_yield: 0 }))
}

/// A body in pieces of at most [`PIECE_BYTES`] that is pending once after each [`YIELD_BYTES`].
struct PacedBody {
    body: Body,
    rest: Bytes,
    /// Bytes since the body was last pending.
    since_yield: usize,
}

impl HttpBody for PacedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        if this.since_yield >= YIELD_BYTES {
            this.since_yield = 0;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        while this.rest.is_empty() {
            match Pin::new(&mut this.body).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => this.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                Poll::Pending => {
                    this.since_yield = 0;
                    return Poll::Pending;
                }
                end => return end,
            }
        }
        let piece = this.rest.split_to(this.rest.len().min(PIECE_BYTES));
        this.since_yield += piece.len();
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.rest.len() as u64;
        let inner = self.body.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower() + rest);
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper + rest);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use futures_util::task::noop_waker_ref;

    use super::*;

    #[test]
    fn the_coding_with_the_highest_weight_is_selected() {
        for (accept, best) in [
            (None, Some("identity")),
            (Some(""), Some("identity")),
            (Some("gzip"), Some("gzip")),
            (Some("gzip, zstd"), Some("zstd")),
            (Some("gzip, zstd;q=0.5"), Some("gzip")),
            (Some("br"), Some("identity")),
            (Some("GZIP;Q=0.1"), Some("gzip")),
            (Some("identity, gzip;q=0.5"), Some("identity")),
            (Some("*"), Some("zstd")),
            (Some("*;q=0"), None),
            (Some("*;q=0, identity"), Some("identity")),
            (Some("identity;q=0"), None),
            (Some("identity;q=0, br"), None),
            (Some("identity;q=0.000, gzip"), Some("gzip")),
            (Some("gzip;q=0, *;q=0.1"), Some("zstd")),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(accept) = accept {
                headers.insert(header::ACCEPT_ENCODING, accept.parse().unwrap());
            }
            assert_eq!(AcceptedCodings::of(&headers).best(), best, "{accept:?}");
        }
    }

    #[test]
    fn a_body_yields_after_each_slice() {
        let length = 10 * YIELD_BYTES + 5;
        let mut body =
            PacedBody { body: Body::from(vec![7; length]), rest: Bytes::new(), since_yield: 0 };
        assert_eq!(body.size_hint().exact(), Some(length as u64));
        let (mut read, mut run, mut pauses) = (0, 0, 0);
        let mut context = Context::from_waker(noop_waker_ref());
        loop {
            match Pin::new(&mut body).poll_frame(&mut context) {
                Poll::Pending => {
                    (run, pauses) = (0, pauses + 1);
                }
                Poll::Ready(Some(frame)) => {
                    let piece = frame.unwrap().into_data().unwrap().len();
                    assert!(piece <= PIECE_BYTES);
                    (read, run) = (read + piece, run + piece);
                    assert!(run <= YIELD_BYTES, "{run} bytes at once");
                }
                Poll::Ready(None) => break,
            }
        }
        assert_eq!((read, pauses), (length, 10));
    }
}
