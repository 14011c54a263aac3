//! The interface to the network: a request in; a status, headers and a body in chunks out.
//!
//! [`HttpTransport`] is the real implementation. It follows no redirects, repeats nothing, connects
//! to loopback without a proxy, and shows at most the host of an address in an error. Everything
//! above it (budgets, tokens, classification, timeouts over whole requests) works the same over any
//! other [`Transport`].

use std::error::Error;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream, Stream, StreamExt};
use http::Uri;
use tokio::time::{Instant, timeout_at};

use super::page_memory::{PageMemory, Reservation};

mod route;
mod unreachable;

pub(crate) use route::client_builder;
pub use route::{Route, RouteSettings};
use unreachable::UnreachableHost;
pub(crate) use unreachable::UsedProxy;

/// The maximum time to set up a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Idle connections are closed after this time, before a middlebox forgets them (fact 126).
const POOL_IDLE: Duration = Duration::from_secs(60);
/// A ping after this time finds a dead HTTP/2 connection before a request times out.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// The size of a piece of a body while it is read.
const CHUNK_BYTES: usize = 256 * 1024;
/// Decoded bytes after which reading a body yields to other tasks.
const YIELD_EVERY: usize = 1024 * 1024;

/// HTTP/2 puts all requests to a host on one connection, which carries about a hundred at a time.
/// This many clients take turns and carry up to 256 requests, the default limit.
const REMOTE_CONNECTIONS: usize = 3;

/// Sends a request to the host in its URI and returns the answer.
pub trait Transport: Send + Sync + 'static {
    /// Sends one request, once. Status codes are not errors here. A request with the extension
    /// [`FreshConnection`] uses a new connection, one with an [`Arc`] of a [`Route`] goes that way.
    fn send(
        &self,
        request: http::Request<Bytes>,
    ) -> BoxFuture<'_, Result<http::Response<BodyStream>, TransportError>>;
}

/// Request extension: use a new connection (fact 125).
#[derive(Clone, Copy, Debug)]
pub struct FreshConnection;

/// A body that is read in decoded chunks.
pub struct BodyStream(BoxStream<'static, Result<Bytes, TransportError>>);

impl BodyStream {
    /// A body with the chunks of a stream.
    pub fn from_stream(
        chunks: impl Stream<Item = Result<Bytes, TransportError>> + Send + 'static,
    ) -> Self {
        Self(chunks.boxed())
    }

    /// A body that is already complete.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self(stream::once(async move { Ok(bytes) }).boxed())
    }

    /// Reads the whole body, at most `cap` bytes.
    ///
    /// # Errors
    /// [`TransportErrorKind::TooLarge`] as soon as the body exceeds `cap`, or a network error.
    pub async fn read(self, cap: usize) -> Result<Bytes, TransportError> {
        self.collect(cap, None).await.map(|(bytes, _)| bytes)
    }

    /// Like [`BodyStream::read`], but until a deadline, and the bytes are reserved in `memory`
    /// before they are kept. Waiting for memory extends the deadline, because it is not the server
    /// that is slow.
    ///
    /// # Errors
    /// As [`BodyStream::read`], and [`TransportErrorKind::Timeout`].
    pub(super) async fn read_within(
        self,
        cap: usize,
        memory: &PageMemory,
        deadline: Instant,
    ) -> Result<(Bytes, Reservation), TransportError> {
        self.collect(cap, Some((memory, deadline))).await
    }

    async fn collect(
        mut self,
        cap: usize,
        mut within: Option<(&PageMemory, Instant)>,
    ) -> Result<(Bytes, Reservation), TransportError> {
        let mut reservation = Reservation::default();
        let mut first = Bytes::new();
        let mut pieces = ChunkBuffer::default();
        let mut since_yield = 0;
        loop {
            let chunk = match within {
                None => self.0.next().await,
                Some((_, deadline)) => {
                    timeout_at(deadline, self.0.next()).await.unwrap_or_else(|_| {
                        Some(Err(TransportError::new(TransportErrorKind::Timeout)))
                    })
                }
            };
            let Some(chunk) = chunk.transpose()? else { break };
            let len = first.len() + pieces.len + chunk.len();
            if len > cap {
                return Err(TransportError::new(TransportErrorKind::TooLarge));
            }
            if let Some((memory, deadline)) = &mut within {
                let asked = Instant::now();
                memory.reserve(&mut reservation, len).await;
                *deadline += asked.elapsed();
            }
            // A compressed body is always ready; without this, decoding would block the thread.
            since_yield += chunk.len();
            if since_yield >= YIELD_EVERY {
                since_yield = 0;
                tokio::task::yield_now().await;
            }
            if pieces.len == 0 && first.is_empty() {
                // A body in one chunk is not copied.
                first = chunk;
                continue;
            }
            pieces.extend(&std::mem::take(&mut first));
            pieces.extend(&chunk);
        }
        Ok((if pieces.len == 0 { first } else { pieces.join() }, reservation))
    }

    /// Reads at most `cap` bytes and drops the rest of the body; an error ends reading early.
    pub(super) async fn read_start(mut self, cap: usize) -> Bytes {
        let mut start = BytesMut::new();
        while start.len() < cap
            && let Some(Ok(chunk)) = self.0.next().await
        {
            start.extend_from_slice(&chunk[..chunk.len().min(cap - start.len())]);
        }
        start.freeze()
    }
}

/// A body being read, in pieces of equal size. A single buffer would be copied at each doubling and
/// would leave its smaller versions behind in the allocator.
#[derive(Default)]
struct ChunkBuffer {
    pieces: Vec<Vec<u8>>,
    len: usize,
}

impl ChunkBuffer {
    fn extend(&mut self, mut bytes: &[u8]) {
        self.len += bytes.len();
        while !bytes.is_empty() {
            match self.pieces.last_mut() {
                Some(piece) if piece.len() < CHUNK_BYTES => {
                    let (fits, rest) = bytes.split_at(bytes.len().min(CHUNK_BYTES - piece.len()));
                    piece.extend_from_slice(fits);
                    bytes = rest;
                }
                None => self.pieces.push(Vec::new()),
                Some(_) => self.pieces.push(Vec::with_capacity(CHUNK_BYTES)),
            }
        }
    }

    fn join(mut self) -> Bytes {
        if self.pieces.len() <= 1 {
            return self.pieces.pop().unwrap_or_default().into();
        }
        let mut whole = BytesMut::with_capacity(self.len);
        for piece in self.pieces {
            whole.extend_from_slice(&piece);
        }
        whole.freeze()
    }
}

impl Stream for BodyStream {
    type Item = Result<Bytes, TransportError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(cx)
    }
}

impl fmt::Debug for BodyStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BodyStream")
    }
}

/// The kind of a transport error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransportErrorKind {
    /// TLS cannot be set up on this machine.
    #[error("tls cannot be set up; are root certificates (ca-certificates) installed?")]
    Tls,
    /// The proxy's address is none.
    #[error("the proxy's address cannot be used")]
    Proxy,
    /// No connection could be made.
    #[error("no connection could be made")]
    Connect,
    /// The answer did not arrive in time.
    #[error("the answer did not arrive in time")]
    Timeout,
    /// The connection ended before the answer did.
    #[error("the connection ended before the answer did")]
    Reset,
    /// The body could not be read or decoded.
    #[error("the answer's body could not be read")]
    Body,
    /// The body is larger than the cap.
    #[error("the answer is larger than the cap")]
    TooLarge,
}

/// A request without a complete answer. `Display` and `Debug` show at most the host of an address.
#[derive(Debug, thiserror::Error)]
#[error("{}", unreached.as_ref().map_or_else(|| fault.to_string(), |at| at.to_string()))]
pub struct TransportError {
    fault: TransportErrorKind,
    /// For [`TransportErrorKind::Connect`]: which host, and why.
    unreached: Option<Box<UnreachableHost>>,
    #[source]
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl TransportError {
    /// An error without a further cause.
    pub fn new(fault: TransportErrorKind) -> Self {
        Self { fault, unreached: None, source: None }
    }

    /// The kind of error.
    pub fn kind(&self) -> TransportErrorKind {
        self.fault
    }

    /// The error of clients that could not be set up.
    pub(crate) fn of_setup(error: reqwest::Error) -> Self {
        let source: Option<Box<dyn Error + Send + Sync>> = Some(Box::new(error.without_url()));
        Self { source, ..Self::new(TransportErrorKind::Tls) }
    }

    /// The error of a request that was sent to `uri` by `route`.
    fn of_request(error: reqwest::Error, uri: &Uri, route: &Route) -> Self {
        let unreached = unreached(&error, uri, route.proxy(uri)).map(Box::new);
        Self { unreached, ..Self::from_reqwest(error) }
    }

    /// The error of a request that no account sent, to `uri` and through `proxy`.
    pub(crate) fn without_account(
        error: reqwest::Error,
        uri: &Uri,
        proxy: Option<UsedProxy>,
    ) -> Self {
        let unreached = unreached(&error, uri, proxy).map(UnreachableHost::without_account);
        Self { unreached: unreached.map(Box::new), ..Self::from_reqwest(error) }
    }

    fn from_reqwest(error: reqwest::Error) -> Self {
        let error = error.without_url();
        let fault = if error.is_connect() {
            TransportErrorKind::Connect
        } else if error.is_timeout() {
            TransportErrorKind::Timeout
        } else if is_disconnect(&error) {
            TransportErrorKind::Reset
        } else if error.is_body() || error.is_decode() {
            TransportErrorKind::Body
        } else {
            TransportErrorKind::Reset
        };
        Self { fault, unreached: None, source: Some(Box::new(error)) }
    }
}

/// The host that was not reached, and why, if that is the error.
fn unreached(
    error: &reqwest::Error,
    uri: &Uri,
    proxy: Option<UsedProxy>,
) -> Option<UnreachableHost> {
    error.is_connect().then(|| {
        let found = UnreachableHost::read(error, error.is_timeout(), uri, proxy);
        if error.is_dns() { found.without_name() } else { found }
    })
}

/// Whether the peer ended the connection, at any depth of the error chain.
fn is_disconnect(error: &reqwest::Error) -> bool {
    use io::ErrorKind::{
        BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, UnexpectedEof,
    };
    let gone = [ConnectionReset, ConnectionAborted, BrokenPipe, NotConnected];
    let io_kind = |error: &(dyn Error + 'static)| error.downcast_ref().map(io::Error::kind);
    let mut cause: Option<&(dyn Error + 'static)> = error.source();
    while let Some(error) = cause {
        if io_kind(error).is_some_and(|kind| gone.contains(&kind)) {
            return true;
        }
        if let Some(hyper) = error.downcast_ref::<hyper::Error>()
            && (hyper.is_incomplete_message()
                || hyper.is_closed()
                || hyper.is_canceled()
                // A truncated body; from the decompressor the same kind means corrupt data.
                || hyper.source().and_then(io_kind) == Some(UnexpectedEof))
        {
            return true;
        }
        cause = error.source();
    }
    false
}

/// The network, by reqwest: rustls with the system's roots, HTTP/1.1 or HTTP/2 over TLS, gzip.
///
/// A request with an [`Arc`] of a [`Route`] as extension goes that way. The others use the proxy of
/// the environment for everything except loopback.
#[derive(Debug)]
pub struct HttpTransport {
    route: Arc<Route>,
}

impl HttpTransport {
    /// Sets up the clients without connecting. On a machine without root certificates only loopback
    /// works; requests to other hosts fail with [`TransportErrorKind::Tls`].
    ///
    /// # Errors
    /// [`TransportErrorKind::Tls`] if not even plain connections can be set up.
    pub fn new() -> Result<Self, TransportError> {
        Route::new(RouteSettings::default()).map(|route| Self { route: Arc::new(route) })
    }
}

impl Transport for HttpTransport {
    fn send(
        &self,
        mut request: http::Request<Bytes>,
    ) -> BoxFuture<'_, Result<http::Response<BodyStream>, TransportError>> {
        Box::pin(async move {
            let route = request.extensions_mut().remove::<Arc<Route>>();
            let route = route.as_ref().unwrap_or(&self.route);
            let fresh = request.extensions().get::<FreshConnection>().is_some();
            let uri = request.uri().clone();
            let client = route
                .client(&uri, fresh)
                .ok_or_else(|| TransportError::new(TransportErrorKind::Tls))?;
            let request =
                reqwest::Request::try_from(request).map_err(TransportError::from_reqwest)?;
            let answer = client
                .execute(request)
                .await
                .map_err(|error| TransportError::of_request(error, &uri, route))?;
            let mut response = http::Response::new(());
            *response.status_mut() = answer.status();
            *response.headers_mut() = answer.headers().clone();
            let chunks = answer.bytes_stream().map(|c| c.map_err(TransportError::from_reqwest));
            Ok(response.map(|()| BodyStream::from_stream(chunks)))
        })
    }
}

#[cfg(test)]
pub(crate) mod tests;
