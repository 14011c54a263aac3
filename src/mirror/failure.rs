//! Why rounds fail: the classes of Graph's errors and how each is handled, the causes of failures
//! and how long a window waits after each, and the words for them.

use std::time::Duration;

use super::schedule;
use super::state::WindowState;
use super::str_enum::str_enum;

/// The first wait of a quarantined window; doubles up to [`MAX_QUARANTINE`].
const FIRST_QUARANTINE: Duration = Duration::from_secs(15 * 60);
/// The longest wait of a quarantined window.
const MAX_QUARANTINE: Duration = Duration::from_secs(6 * 3600);
/// The first wait of a window whose account needs an administrator.
const FIRST_SIGN_IN_RETRY: Duration = Duration::from_secs(5 * 60);

str_enum! {
    /// A class of errors of requests to Graph.
    pub enum ErrorClass {
        /// Too many requests: the mailbox pauses.
        Throttled = "throttled",
        /// A temporary error of Graph or the network: repeat the same request.
        Transient = "transient",
        /// The response is not a page: as [`ErrorClass::Transient`].
        MalformedPage = "malformed_page",
        /// The link is dead: enumerate the segment again.
        LinkDead = "link_dead",
        /// A link outside the configured origin; it was not followed.
        ForeignLink = "foreign_link",
        /// A person has to fix the account.
        SignIn = "sign_in",
        /// 403: access is denied.
        Forbidden = "forbidden",
        /// 404: the mailbox or calendar is gone, or appears gone.
        Gone = "gone",
        /// Graph does not understand or support the request.
        Refused = "refused",
        /// The event requested by its id does not exist.
        NotFound = "not_found",
        /// The segment is longer than Graph accepts: halve it.
        SegmentTooLong = "segment_too_long",
        /// The body is over the cap, or has too many items: request smaller pages.
        TooLarge = "too_large",
    }
}

/// Why a round failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Some series could not be completed; everything else is up to date.
    Incomplete,
    /// A request to Graph failed.
    Graph(ErrorClass),
    /// A round does not end.
    RoundStuck,
    /// A page could not be fetched.
    PageStuck,
    /// The store could not be read or written.
    Store,
}

/// The cause of a failure, which decides the state and the wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureCause {
    /// The mailbox pauses for at least this long.
    Throttled(Duration),
    /// The account cannot sign in.
    SignIn,
    /// The stream is stuck; its next fallback is due after this wait.
    Stalled(Duration),
    /// The mailbox or calendar is gone or forbidden, or no round ends.
    Quarantined,
    /// The disk is too full to write.
    StoreFull,
    /// Anything else: a transient error.
    Transient,
}

/// What an error of a class leads to.
struct Handling {
    retryable: bool,
    series_specific: bool,
    cause: FailureCause,
}

impl ErrorClass {
    /// Whether the same request may succeed when it is repeated.
    pub fn is_retryable(self) -> bool {
        self.handling(None).retryable
    }

    /// Whether such an error of a request about one series concerns only that series.
    pub fn is_series_specific(self) -> bool {
        self.handling(None).series_specific
    }

    /// The cause of the failure if such an error ends the round. `retry_after` is the wait that
    /// Graph asks for.
    pub fn cause(self, retry_after: Option<Duration>) -> FailureCause {
        self.handling(retry_after).cause
    }

    fn handling(self, retry_after: Option<Duration>) -> Handling {
        let (retryable, series_specific, cause) = match self {
            Self::Throttled => {
                (false, false, FailureCause::Throttled(retry_after.unwrap_or_default()))
            }
            Self::Transient => (true, false, FailureCause::Transient),
            Self::MalformedPage => (true, true, FailureCause::Transient),
            Self::LinkDead => (false, true, FailureCause::Transient),
            Self::ForeignLink => (false, false, FailureCause::Transient),
            Self::SignIn => (false, false, FailureCause::SignIn),
            // The mirror is kept.
            Self::Forbidden
            | Self::Gone
            | Self::Refused
            | Self::NotFound
            | Self::SegmentTooLong
            | Self::TooLarge => (false, true, FailureCause::Quarantined),
        };
        Handling { retryable, series_specific, cause }
    }
}

impl ErrorKind {
    /// Every kind.
    pub fn all() -> impl Iterator<Item = Self> {
        [Self::Incomplete, Self::RoundStuck, Self::PageStuck, Self::Store]
            .into_iter()
            .chain(ErrorClass::ALL.map(Self::Graph))
    }

    /// The word of the API, the metrics and the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Incomplete => "incomplete",
            Self::Graph(class) => class.as_str(),
            Self::RoundStuck => "round_stuck",
            Self::PageStuck => "page_stuck",
            Self::Store => "store",
        }
    }
}

impl FailureCause {
    /// The state of a window that failed for this cause.
    pub fn state(self) -> WindowState {
        match self {
            Self::Throttled(_) | Self::Stalled(_) | Self::Transient => WindowState::BackingOff,
            Self::SignIn => WindowState::SignInRequired,
            Self::Quarantined => WindowState::Quarantined,
            Self::StoreFull => WindowState::StoreFull,
        }
    }

    /// How long to wait after this many failures in a row.
    pub(super) fn delay(self, interval: Duration, failures: u32, chance: f64) -> Duration {
        let longest = schedule::MAX_BACKOFF.max(interval);
        match self {
            Self::Throttled(wait) => {
                schedule::backoff(schedule::FIRST_RETRY, longest, failures, chance).max(wait)
            }
            Self::SignIn => {
                schedule::backoff(FIRST_SIGN_IN_RETRY, schedule::MAX_BACKOFF, failures, chance)
            }
            Self::Stalled(wait) => wait,
            Self::Quarantined => {
                schedule::backoff(FIRST_QUARANTINE, MAX_QUARANTINE, failures, chance)
            }
            Self::StoreFull | Self::Transient => {
                schedule::backoff(interval, longest, failures, chance)
            }
        }
    }
}
