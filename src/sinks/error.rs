//! Why a delivery failed.

use std::time::Duration;

use crate::mirror::str_enum::str_enum;

str_enum! {
    /// What kind of failure it is, for metrics and for what happens next.
    pub enum SinkErrorKind {
        /// No connection: unknown name, refused, timed out, TLS.
        Unreachable = "unreachable",
        /// The target answered that it does not take it now: 5xx, 429, locked, full, read-only.
        Unavailable = "unavailable",
        /// The target refuses what is sent or who sends it: other statuses, permissions.
        Refused = "refused",
        /// The target is not one that can be used: another schema, too old, in use by another.
        Unsuitable = "unsuitable",
        /// The target is gone for good (410): the sink stops.
        Gone = "gone",
        /// A file of the configuration cannot be used: no secret, no address.
        Misconfigured = "misconfigured",
    }
}

/// Why a delivery failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SinkError {
    /// The kind.
    pub kind: SinkErrorKind,
    /// One sentence for people: what, why, and what to do. Never a secret, an address with one,
    /// the content of an event, or what the target answered.
    pub message: String,
    /// How long the target asks to wait.
    pub retry_after: Option<Duration>,
    /// The HTTP status.
    pub status: Option<u16>,
}

impl SinkError {
    /// An error without a wish of the target.
    pub fn new(kind: SinkErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), retry_after: None, status: None }
    }
}
