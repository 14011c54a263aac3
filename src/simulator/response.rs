//! The outcome of a request, including connection faults.

use std::time::Duration;

use bytes::Bytes;

/// The response to one request. The transport that delivers it also performs its faults.
#[derive(Debug)]
pub enum SimulatedResponse {
    /// A whole response.
    Response(http::Response<Bytes>),
    /// A whole response with its body in a hundred pieces, each after a delay.
    Slow {
        /// The response.
        response: http::Response<Bytes>,
        /// The delay before each piece.
        every: Duration,
    },
    /// The head of a response, then its body repeated without end.
    Endless {
        /// The head, and the body to repeat.
        response: http::Response<Bytes>,
    },
    /// The head of a response, which announces the whole body, then only a part of the body.
    Truncated {
        /// The whole response.
        response: http::Response<Bytes>,
        /// Bytes of the body before the connection closes.
        after: usize,
    },
    /// The connection closes without a response.
    Reset,
    /// The request never gets a response.
    Stall,
}
