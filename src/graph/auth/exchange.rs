//! One request to what grants tokens, and its answer.

use std::time::Duration;

use bytes::Bytes;
use http::response::Parts;
use tokio::time::timeout;

use crate::graph::transport::{Transport, TransportError};

/// The largest answer that is read.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// Why there is no complete answer. Continues a sentence that begins with what was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoAnswer {
    #[error("was not reached: {0}")]
    Transport(TransportError),
    #[error("did not answer in time")]
    Timeout,
}

/// Sends one request and reads the whole answer.
pub(super) async fn exchange(
    transport: &dyn Transport,
    request: http::Request<Bytes>,
    within: Duration,
) -> Result<(Parts, Bytes), NoAnswer> {
    let answer = async {
        let (head, body) = transport.send(request).await?.into_parts();
        Ok((head, body.read(MAX_ANSWER_BYTES).await?))
    };
    let answer = timeout(within, answer).await.map_err(|_| NoAnswer::Timeout)?;
    answer.map_err(NoAnswer::Transport)
}
