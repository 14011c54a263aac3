//! Why an attempt at a round ended early, and how that is reported.

use std::time::Duration;

use jiff::Timestamp;

use crate::graph::GraphError;
use crate::mirror::failure::{ErrorClass, ErrorKind, FailureCause};
use crate::mirror::fallback::StallKind;
use crate::mirror::status::LastError;
use crate::store::StoreError;

/// Why an attempt ended early.
#[derive(Debug)]
pub(super) enum AttemptError {
    /// A request failed.
    Graph(GraphError),
    LinkDiedAgain,
    /// A stream is stuck and waits until `until` for its next fallback. `cause` is the error of
    /// this attempt, if there was one.
    Stuck {
        kind: StallKind,
        cause: Option<GraphError>,
        until: Option<Timestamp>,
    },
    /// A round does not end, and every fallback was tried.
    Endless,
    Store(StoreError),
    /// The worker was asked to stop. Not an outcome of the round: it is never published.
    Stopped,
}

impl From<StoreError> for AttemptError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl AttemptError {
    /// The cause that decides the window's health. `wait` returns the wait until a stored time.
    pub(super) fn cause(&self, wait: impl FnOnce(Option<Timestamp>) -> Duration) -> FailureCause {
        match self {
            Self::Store(StoreError::Full) => FailureCause::StoreFull,
            Self::Graph(error) => error.cause(),
            Self::Stuck { until, .. } => FailureCause::Stalled(wait(*until)),
            Self::LinkDiedAgain | Self::Store(_) | Self::Stopped => FailureCause::Transient,
            Self::Endless => FailureCause::Quarantined,
        }
    }

    /// Whether the next attempt continues behind the pages that this one committed, instead of
    /// starting with the same pages again.
    pub(super) fn keeps_progress(&self) -> bool {
        let Self::Graph(error) = self else { return false };
        matches!(error.cause(), FailureCause::Transient | FailureCause::Throttled(_))
    }

    /// Whether the error may be known from an earlier attempt. It is if this one made no request.
    pub(super) fn is_remembered(&self) -> bool {
        match self {
            Self::Graph(error) => error.is_remembered(),
            Self::Stuck { .. } => true,
            _ => false,
        }
    }

    /// Whether the account or the store has already logged the error for all its windows.
    pub(super) fn is_shared(&self) -> bool {
        match self {
            Self::Graph(error) => error.is_account_wide(),
            Self::Store(error) => matches!(error, StoreError::Full),
            Self::Stuck { .. } | Self::Endless | Self::LinkDiedAgain | Self::Stopped => false,
        }
    }

    pub(super) fn describe(&self, at: Timestamp, retry_at: Option<Timestamp>) -> LastError {
        let plain = |kind: ErrorKind, message: String| LastError {
            at,
            kind,
            status: None,
            code: None,
            message,
            request_id: None,
            retry_at,
        };
        match self {
            Self::Graph(error) => LastError {
                at,
                kind: ErrorKind::Graph(error.class()),
                status: error.status(),
                code: error.code().map(str::to_owned),
                message: error.message(),
                request_id: error.request_id().map(str::to_owned),
                retry_at,
            },
            Self::LinkDiedAgain => plain(
                ErrorKind::Graph(ErrorClass::LinkDead),
                "the link died again within the same round; waiting before enumerating".to_owned(),
            ),
            Self::Stuck { kind: StallKind::NoProgress, .. } => {
                plain(ErrorKind::RoundStuck, "a round does not end; a fallback follows".to_owned())
            }
            Self::Stuck { kind: StallKind::PageTooLarge, cause: fault, .. } => {
                let message = "a page failed repeatedly; smaller pages follow";
                let detail = fault.as_ref().map(|error| error.message());
                let message =
                    detail.map_or(message.to_owned(), |detail| format!("{message}: {detail}"));
                LastError {
                    status: fault.as_ref().and_then(GraphError::status),
                    code: fault.as_ref().and_then(|e| e.code()).map(str::to_owned),
                    request_id: fault.as_ref().and_then(|e| e.request_id()).map(str::to_owned),
                    ..plain(ErrorKind::PageStuck, message)
                }
            }
            Self::Endless => {
                plain(ErrorKind::RoundStuck, "neither a round nor a plain listing ends".to_owned())
            }
            Self::Store(error) => plain(ErrorKind::Store, error.to_string()),
            Self::Stopped => plain(ErrorKind::Incomplete, "the worker was stopped".to_owned()),
        }
    }
}
