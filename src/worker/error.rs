//! Why an attempt at a round ended early, and how that is reported.

use std::time::Duration;

use jiff::Timestamp;

use super::{WorkerEnd, WorkerExit};
use crate::graph::GraphError;
use crate::mirror::failure::{ErrorClass, ErrorKind, FailureCause};
use crate::mirror::fallback::StallKind;
use crate::mirror::status::{LastError, WindowState};
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
    /// `Err` if the worker ends with this error, `Ok` if it is a state of the window.
    pub(super) fn or_end(self) -> Result<Self, WorkerEnd> {
        match self {
            Self::Stopped => Err(WorkerEnd::Exit(WorkerExit::Stopped)),
            Self::Store(error @ (StoreError::Failed(_) | StoreError::Closed)) => {
                Err(WorkerEnd::Store(error))
            }
            error => Ok(error),
        }
    }

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
        matches!(self, Self::Graph(error) if error.cause().state() == WindowState::BackingOff)
    }

    /// Whether the error may be known from an earlier attempt. It is if this one made no request.
    pub(super) fn may_be_remembered(&self) -> bool {
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
        let text = str::to_owned;
        let (kind, message, error) = match self {
            Self::Graph(error) => (ErrorKind::Graph(error.class()), error.message(), Some(error)),
            Self::LinkDiedAgain => {
                let message =
                    "the link died again within the same round; waiting before enumerating";
                (ErrorKind::Graph(ErrorClass::LinkDead), text(message), None)
            }
            Self::Stuck { kind: StallKind::NoProgress, .. } => {
                (ErrorKind::RoundStuck, text("a round does not end; a fallback follows"), None)
            }
            Self::Stuck { kind: StallKind::PageTooLarge, cause, .. } => {
                let detail = cause.as_ref().map(|error| format!(": {}", error.message()));
                let message = "a page failed repeatedly; smaller pages follow";
                (ErrorKind::PageStuck, text(message) + &detail.unwrap_or_default(), cause.as_ref())
            }
            Self::Endless => {
                (ErrorKind::RoundStuck, text("neither a round nor a plain listing ends"), None)
            }
            Self::Store(error) => (ErrorKind::Store, error.to_string(), None),
            Self::Stopped => (ErrorKind::Incomplete, text("the worker was stopped"), None),
        };
        LastError {
            at,
            kind,
            status: error.and_then(GraphError::status),
            code: error.and_then(GraphError::code).map(text),
            message,
            request_id: error.and_then(GraphError::request_id).map(text),
            retry_at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::transport::{TransportError, TransportErrorKind};
    use crate::tests::NOON;

    /// An error without a particular class.
    fn graph() -> GraphError {
        GraphError::Transport(TransportError::new(TransportErrorKind::Timeout))
    }

    fn too_large() -> GraphError {
        GraphError::Transport(TransportError::new(TransportErrorKind::TooLarge))
    }

    #[test]
    fn every_error_has_its_cause_and_its_kind() {
        let stuck = |kind| AttemptError::Stuck { kind, cause: None, until: Some(NOON) };
        let stalled = FailureCause::Stalled(Duration::from_secs(7));
        let (transient, kind) = (FailureCause::Transient, ErrorKind::Graph(graph().class()));
        // Besides: whether the next attempt continues behind the pages of this one, whether the error
        // may be known from an earlier one, and whether it has been logged for all windows.
        for (error, cause, expected, [progress, remembered, shared]) in [
            (AttemptError::Graph(graph()), transient, kind, [true, false, false]),
            (
                AttemptError::Graph(too_large()),
                FailureCause::Quarantined,
                ErrorKind::Graph(ErrorClass::TooLarge),
                [false; 3],
            ),
            (AttemptError::Endless, FailureCause::Quarantined, ErrorKind::RoundStuck, [false; 3]),
            (
                AttemptError::LinkDiedAgain,
                transient,
                ErrorKind::Graph(ErrorClass::LinkDead),
                [false; 3],
            ),
            (stuck(StallKind::NoProgress), stalled, ErrorKind::RoundStuck, [false, true, false]),
            (stuck(StallKind::PageTooLarge), stalled, ErrorKind::PageStuck, [false, true, false]),
            (
                AttemptError::Store(StoreError::Full),
                FailureCause::StoreFull,
                ErrorKind::Store,
                [false, false, true],
            ),
            (AttemptError::Store(StoreError::Closed), transient, ErrorKind::Store, [false; 3]),
        ] {
            let seen = error.cause(|until| {
                assert_eq!(until, Some(NOON));
                Duration::from_secs(7)
            });
            assert_eq!(seen, cause, "{error:?}");
            let seen = [error.keeps_progress(), error.may_be_remembered(), error.is_shared()];
            assert_eq!(seen, [progress, remembered, shared], "{error:?}");
            let shown = error.describe(NOON, Some(NOON));
            assert_eq!((shown.kind, shown.at), (expected, NOON), "{error:?}");
        }
    }

    #[test]
    fn a_stuck_page_names_its_cause() {
        let stuck = AttemptError::Stuck {
            kind: StallKind::PageTooLarge,
            cause: Some(graph()),
            until: None,
        };
        let shown = stuck.describe(NOON, None);
        assert!(shown.message.ends_with(&graph().message()), "{}", shown.message);
    }
}
