//! The simulated Graph as a transport: no sockets, tokio's clock.

use bytes::Bytes;
use calmirror::graph::transport::{BodyStream, Transport, TransportError, TransportErrorKind};
use calmirror::simulator::{SimulatedResponse, Simulator};
use futures_util::future::BoxFuture;
use futures_util::stream;

pub(crate) struct Memory(pub(crate) Simulator);

impl Transport for Memory {
    fn send(
        &self,
        request: http::Request<Bytes>,
    ) -> BoxFuture<'_, Result<http::Response<BodyStream>, TransportError>> {
        Box::pin(async move {
            let reset = || TransportError::new(TransportErrorKind::Reset);
            match self.0.answer(request).await {
                SimulatedResponse::Response(response) => Ok(response.map(BodyStream::full)),
                SimulatedResponse::Slow { response, every } => {
                    let (parts, body) = response.into_parts();
                    tokio::time::sleep(every * 100).await;
                    Ok(http::Response::from_parts(parts, BodyStream::full(body)))
                }
                SimulatedResponse::Endless { response } => {
                    let (parts, body) = response.into_parts();
                    let chunks = stream::repeat_with(move || Ok(body.clone()));
                    Ok(http::Response::from_parts(parts, BodyStream::from_stream(chunks)))
                }
                SimulatedResponse::Truncated { response, after } => {
                    let (parts, body) = response.into_parts();
                    let part = body.slice(..after.min(body.len()));
                    let chunks = stream::iter([
                        Ok(part),
                        Err(TransportError::new(TransportErrorKind::Body)),
                    ]);
                    Ok(http::Response::from_parts(parts, BodyStream::from_stream(chunks)))
                }
                SimulatedResponse::Reset => Err(reset()),
                SimulatedResponse::Stall => std::future::pending().await,
            }
        })
    }
}
