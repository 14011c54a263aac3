//! The outcomes of rounds as status, history, metrics and logs name them.

/// How a round of a window ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RoundOutcome {
    /// Every segment has a delta link and nothing pending.
    #[default]
    Settled,
    /// A mass removal waits for its confirmation; everything else is up to date.
    Held,
    /// It failed, or some series could not be completed.
    Failed(ErrorKind),
    /// The worker panicked or hung.
    Crashed,
}

/// Why a round failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Some series could not be completed; everything else is up to date.
    Incomplete,
    /// Graph asked for a pause.
    Throttled,
    /// A transient error of Graph or the network.
    Transient,
    /// A response could not be read.
    MalformedPage,
    /// The link died again in the same round.
    LinkDead,
    /// A round does not end.
    RoundStuck,
    /// A page could not be fetched.
    PageStuck,
    /// A link leads to another origin.
    ForeignLink,
    /// The account cannot sign in.
    SignIn,
    /// The account may not read the calendar.
    Forbidden,
    /// The mailbox or the calendar is gone.
    Gone,
    /// Graph refuses the request.
    Refused,
    /// The requested item does not exist.
    NotFound,
    /// Graph does not answer for segments this long.
    SegmentTooLong,
    /// The response is over the size limit.
    TooLarge,
    /// The store could not be read or written.
    Store,
}

/// How a segment is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentMode {
    /// By delta links.
    Delta,
    /// Listed completely in every round.
    Snapshot,
}

impl RoundOutcome {
    /// Every outcome that the metrics count under its own name, in their order.
    pub const COUNTED: [Self; 18] = [
        Self::Settled,
        Self::Failed(ErrorKind::Incomplete),
        Self::Held,
        Self::Failed(ErrorKind::Throttled),
        Self::Failed(ErrorKind::Transient),
        Self::Failed(ErrorKind::MalformedPage),
        Self::Failed(ErrorKind::LinkDead),
        Self::Failed(ErrorKind::RoundStuck),
        Self::Failed(ErrorKind::PageStuck),
        Self::Failed(ErrorKind::ForeignLink),
        Self::Failed(ErrorKind::SignIn),
        Self::Failed(ErrorKind::Forbidden),
        Self::Failed(ErrorKind::Gone),
        Self::Failed(ErrorKind::Refused),
        Self::Failed(ErrorKind::NotFound),
        Self::Failed(ErrorKind::SegmentTooLong),
        Self::Failed(ErrorKind::TooLarge),
        Self::Failed(ErrorKind::Store),
    ];

    /// The word of the API and the metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Settled => "settled",
            Self::Held => "held",
            Self::Failed(kind) => kind.as_str(),
            Self::Crashed => "other",
        }
    }

    /// Whether the mirror is up to date afterwards, apart from what is held or incomplete.
    pub fn succeeded(self) -> bool {
        match self {
            Self::Settled | Self::Held | Self::Failed(ErrorKind::Incomplete) => true,
            Self::Failed(_) | Self::Crashed => false,
        }
    }
}

impl ErrorKind {
    /// The word of the API, the metrics and the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Incomplete => "incomplete",
            Self::Throttled => "throttled",
            Self::Transient => "transient",
            Self::MalformedPage => "malformed_page",
            Self::LinkDead => "link_dead",
            Self::RoundStuck => "round_stuck",
            Self::PageStuck => "page_stuck",
            Self::ForeignLink => "foreign_link",
            Self::SignIn => "sign_in",
            Self::Forbidden => "forbidden",
            Self::Gone => "gone",
            Self::Refused => "refused",
            Self::NotFound => "not_found",
            Self::SegmentTooLong => "segment_too_long",
            Self::TooLarge => "too_large",
            Self::Store => "store",
        }
    }
}

impl SegmentMode {
    /// The word of the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Delta => "delta",
            Self::Snapshot => "snapshot",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_outcome_has_a_word_of_its_own() {
        let words: BTreeSet<&str> =
            RoundOutcome::COUNTED.into_iter().map(RoundOutcome::as_str).collect();
        assert_eq!(words.len(), RoundOutcome::COUNTED.len());
        assert!(!words.contains(RoundOutcome::Crashed.as_str()));
    }
}
