//! The seam between asking and the network: a request goes in, a status, headers and a body that
//! is read in chunks come out.
//!
//! [`HttpTransport`] is the real one. It follows no redirect, repeats nothing, talks to loopback
//! without a proxy, and never shows an address in an error. Everything above it (budgets,
//! tokens, classification, timeouts over whole requests) works the same over any other
//! [`Transport`].

use std::error::Error;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream, Stream, StreamExt};

use super::origin;

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections idle for longer are closed on our side, before a middlebox forgets them (fact 126).
const POOL_IDLE: Duration = Duration::from_secs(60);
/// A dead HTTP/2 connection is found out by a ping after this long, not by a request's timeout.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// Something that carries a request to where its URI points and brings the answer back.
pub trait Transport: Send + Sync + 'static {
    /// Sends one request, once. Status codes are not errors here. A request whose extensions
    /// hold [`FreshConnection`] travels on a new connection.
    fn send(
        &self,
        request: http::Request<Bytes>,
    ) -> BoxFuture<'_, Result<http::Response<Body>, TransportError>>;
}

/// Request extension: use a new connection (fact 125).
#[derive(Clone, Copy, Debug)]
pub struct FreshConnection;

/// A body, read in chunks, already decoded.
pub struct Body(BoxStream<'static, Result<Bytes, TransportError>>);

impl Body {
    /// A body that yields what the stream yields.
    pub fn from_stream(
        chunks: impl Stream<Item = Result<Bytes, TransportError>> + Send + 'static,
    ) -> Self {
        Self(chunks.boxed())
    }

    /// A body known as a whole.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self(stream::once(async move { Ok(bytes) }).boxed())
    }

    /// Reads the body to its end, but no more than `cap` bytes.
    ///
    /// # Errors
    /// [`Fault::TooLarge`] as soon as the body is known to be larger, or what the network says.
    pub async fn read(mut self, cap: usize) -> Result<Bytes, TransportError> {
        let mut first = Bytes::new();
        let mut whole = BytesMut::new();
        while let Some(chunk) = self.0.next().await {
            let chunk = chunk?;
            if first.len() + whole.len() + chunk.len() > cap {
                return Err(TransportError::new(Fault::TooLarge));
            }
            if whole.is_empty() && first.is_empty() {
                // A body in one piece is not copied.
                first = chunk;
                continue;
            }
            if whole.is_empty() {
                whole.reserve((first.len() + chunk.len()) * 2);
                whole.extend_from_slice(&first);
                first = Bytes::new();
            }
            whole.extend_from_slice(&chunk);
        }
        Ok(if whole.is_empty() { first } else { whole.freeze() })
    }

    /// Reads at most `cap` bytes of a body whose rest nobody needs; a fault ends it early.
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

impl Stream for Body {
    type Item = Result<Bytes, TransportError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(cx)
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Body")
    }
}

/// What went wrong on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No connection could be made.
    Connect,
    /// The answer did not come in time.
    Timeout,
    /// The connection ended before the answer did.
    Reset,
    /// The body could not be read or decoded.
    Body,
    /// The body is larger than the cap.
    TooLarge,
}

/// A request that got no whole answer. Neither `Display` nor `Debug` shows an address.
#[derive(Debug, thiserror::Error)]
#[error("{}", fault.sentence())]
pub struct TransportError {
    fault: Fault,
    #[source]
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl TransportError {
    /// An error without further cause.
    pub fn new(fault: Fault) -> Self {
        Self { fault, source: None }
    }

    /// What went wrong.
    pub fn fault(&self) -> Fault {
        self.fault
    }

    fn from_reqwest(error: reqwest::Error) -> Self {
        let error = error.without_url();
        let fault = if error.is_connect() {
            Fault::Connect
        } else if error.is_timeout() {
            Fault::Timeout
        } else if broke_off(&error) {
            Fault::Reset
        } else if error.is_body() || error.is_decode() {
            Fault::Body
        } else {
            Fault::Reset
        };
        Self { fault, source: Some(Box::new(error)) }
    }
}

impl Fault {
    /// What went wrong, as a sentence's end.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::Connect => "no connection could be made",
            Self::Timeout => "the answer did not come in time",
            Self::Reset => "the connection ended before the answer did",
            Self::Body => "the answer's body could not be read",
            Self::TooLarge => "the answer is larger than the cap",
        }
    }
}

/// Whether the peer went away, whatever wraps that news.
fn broke_off(error: &reqwest::Error) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = error.source();
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<io::Error>()
            && matches!(
                io.kind(),
                io::ErrorKind::ConnectionReset
                    | io::ErrorKind::ConnectionAborted
                    | io::ErrorKind::BrokenPipe
                    | io::ErrorKind::NotConnected
            )
        {
            return true;
        }
        if let Some(hyper) = error.downcast_ref::<hyper::Error>()
            && (hyper.is_incomplete_message() || hyper.is_closed() || hyper.is_canceled())
        {
            return true;
        }
        cause = error.source();
    }
    false
}

/// The network, by reqwest: rustls with the system's roots, HTTP/1.1 or HTTP/2 over TLS, gzip.
///
/// The proxy of the environment is honoured for everything but loopback.
#[derive(Clone, Debug)]
pub struct HttpTransport {
    far: Pair,
    near: Pair,
}

/// One client that keeps its connections and one that makes a new one for every request.
#[derive(Clone, Debug)]
struct Pair {
    kept: reqwest::Client,
    fresh: reqwest::Client,
}

impl HttpTransport {
    /// Sets up the clients; connects to nothing.
    ///
    /// # Errors
    /// [`Fault::Connect`] when TLS cannot be set up, such as for want of any root certificate.
    pub fn new() -> Result<Self, TransportError> {
        Ok(Self { far: Pair::new(false)?, near: Pair::new(true)? })
    }
}

impl Pair {
    fn new(loopback: bool) -> Result<Self, TransportError> {
        let build = |idle: usize| {
            let mut builder = reqwest::Client::builder()
                .user_agent(concat!("calmirror/", env!("CARGO_PKG_VERSION")))
                .redirect(reqwest::redirect::Policy::none())
                .referer(false)
                .connect_timeout(CONNECT_TIMEOUT)
                .pool_idle_timeout(POOL_IDLE)
                .pool_max_idle_per_host(idle)
                .tcp_keepalive(KEEP_ALIVE)
                .http2_keep_alive_interval(KEEP_ALIVE)
                .http2_keep_alive_timeout(CONNECT_TIMEOUT);
            if loopback {
                builder = builder.no_proxy();
            }
            builder.build().map_err(|error| TransportError {
                fault: Fault::Connect,
                source: Some(Box::new(error.without_url())),
            })
        };
        // Without room for an idle connection the pool is off: nothing is shared either.
        Ok(Self { kept: build(usize::MAX)?, fresh: build(0)? })
    }
}

impl Transport for HttpTransport {
    fn send(
        &self,
        request: http::Request<Bytes>,
    ) -> BoxFuture<'_, Result<http::Response<Body>, TransportError>> {
        Box::pin(async move {
            let loopback = request.uri().host().is_some_and(origin::is_loopback);
            let pair = if loopback { &self.near } else { &self.far };
            let fresh = request.extensions().get::<FreshConnection>().is_some();
            let client = if fresh { &pair.fresh } else { &pair.kept };
            let request =
                reqwest::Request::try_from(request).map_err(TransportError::from_reqwest)?;
            let answer = client.execute(request).await.map_err(TransportError::from_reqwest)?;
            let mut response = http::Response::new(());
            *response.status_mut() = answer.status();
            *response.headers_mut() = answer.headers().clone();
            let chunks = answer.bytes_stream().map(|c| c.map_err(TransportError::from_reqwest));
            Ok(response.map(|()| Body::from_stream(chunks)))
        })
    }
}
