//! Serves the simulator on a socket over HTTP/1.1, including connection faults.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::{SimulatedResponse, Simulator};

/// Maximum size of a request body, in bytes.
const LONGEST_REQUEST: usize = 4 << 20;

impl Simulator {
    /// Serves HTTP/1.1 on `listener` until `shutdown` resolves; connections still open then are
    /// cut off. A failed accept is logged and repeated.
    pub async fn serve(self, listener: TcpListener, shutdown: impl Future<Output = ()>) {
        let mut shutdown = pin!(shutdown);
        // Dropped on return, which closes every connection.
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = &mut shutdown => return,
                accepted = listener.accept() => match accepted {
                    Ok((socket, _)) => {
                        let nodelay = socket.set_nodelay(true);
                        tracing::trace!(?nodelay, "connection accepted");
                        connections.spawn(self.clone().serve_connection(socket));
                    }
                    // Out of descriptors, or a client that left the queue: both are temporary.
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                },
                Some(ended) = connections.join_next() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "connection task failed");
                    }
                }
            }
        }
    }

    async fn serve_connection(self, socket: TcpStream) {
        let service = service_fn(move |request| {
            let simulator = self.clone();
            async move { simulator.handle(request).await }
        });
        let ended = http1::Builder::new()
            .timer(TokioTimer::new())
            .serve_connection(TokioIo::new(socket), service)
            .await;
        // Client disconnects and connection faults also end here.
        tracing::trace!(?ended, "connection ended");
    }

    /// Answers one request from the socket. An error closes the connection.
    async fn handle(&self, request: http::Request<Incoming>) -> io::Result<http::Response<Body>> {
        let (parts, body) = request.into_parts();
        let body = to_bytes(Body::new(body), LONGEST_REQUEST).await.map_err(io::Error::other)?;
        let answer = self.answer(http::Request::from_parts(parts, body)).await;
        Ok(match answer {
            SimulatedResponse::Response(response) => response.map(Body::from),
            SimulatedResponse::Slow { response, every } => response.map(|body| slow(body, every)),
            SimulatedResponse::Endless { response } => response.map(|body| {
                let piece = if body.is_empty() { Bytes::from_static(b" ") } else { body };
                Body::from_stream(stream::repeat_with(move || Ok::<_, io::Error>(piece.clone())))
            }),
            SimulatedResponse::Truncated { response, after } => {
                let length = response.body().len();
                let mut response = response.map(|body| {
                    let cut = stream::once(async {
                        // Yield first: hyper sends the previous piece only while no more is ready.
                        tokio::task::yield_now().await;
                        Err(io::Error::new(io::ErrorKind::ConnectionAborted, "cut short"))
                    });
                    let piece = body.slice(..after.min(length));
                    Body::from_stream(stream::iter([Ok(piece)]).chain(cut))
                });
                response.headers_mut().insert(http::header::CONTENT_LENGTH, length.into());
                response
            }
            SimulatedResponse::Reset => {
                return Err(io::Error::new(io::ErrorKind::ConnectionReset, "reset on purpose"));
            }
            SimulatedResponse::Stall => std::future::pending().await,
        })
    }
}

fn slow(body: Bytes, every: Duration) -> Body {
    let piece = body.len().div_ceil(100).max(1);
    Body::from_stream(stream::unfold(body, move |mut rest| async move {
        if rest.is_empty() {
            return None;
        }
        tokio::time::sleep(every).await;
        let next = rest.split_to(piece.min(rest.len()));
        Some((Ok::<_, io::Error>(next), rest))
    }))
}
