//! What a client meets when it asks.

use std::time::Duration;

use bytes::Bytes;

/// The answer to one request. Whoever carries it to the client also carries its faults.
#[derive(Debug)]
pub enum SimulatedResponse {
    /// A whole response.
    Response(http::Response<Bytes>),
    /// A whole response, its body in a hundred pieces, each after a wait.
    Slow {
        /// What comes in the end.
        response: http::Response<Bytes>,
        /// The wait before each piece.
        every: Duration,
    },
    /// The head of a response, then its body again and again without an end.
    Endless {
        /// Head, and what to repeat.
        response: http::Response<Bytes>,
    },
    /// The head of a response, which promises the whole body, then only so much of it.
    Truncated {
        /// What would have come.
        response: http::Response<Bytes>,
        /// Bytes of the body before the connection ends.
        after: usize,
    },
    /// The connection ends without an answer.
    Reset,
    /// Nothing, ever.
    Stall,
}
