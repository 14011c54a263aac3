//! The status of a window, as readers see it. `api::model` has its JSON form (`docs/api.md`).

use jiff::Timestamp;

use super::failure::ErrorKind;
use super::fleet::Place;
use super::outcome::{RoundOutcome, SegmentMode};
pub use super::schedule::AuditRecord;
pub use super::state::WindowState;
use super::str_enum::str_enum;

str_enum! {
    /// Why a segment is enumerated.
    #[derive(Hash)]
    pub enum ResyncReason {
        /// It is the first enumeration, which is not a resync.
        New = "new",
        /// Graph forgot the link (410, `syncStateNotFound` and similar errors, facts 93-98).
        SyncStateNotFound = "sync_state_not_found",
        /// Relative edges moved, or the configured ones changed.
        WindowMoved = "window_moved",
        /// `body`, `time_zone` or `complete` changed.
        ShapeChanged = "shape_changed",
        /// It was requested.
        Requested = "requested",
        /// A round did not end: larger pages are requested, or the segment is listed.
        RoundStuck = "round_stuck",
        /// A page could not be fetched, repeatedly: smaller pages are requested, or the segment is
        /// listed.
        PageStuck = "page_stuck",
        /// The segment is listed completely, as in every round of snapshot mode; not counted.
        Snapshot = "snapshot",
        /// Graph does not answer for segments that long: all segments of the window were halved.
        SegmentTooLong = "segment_too_long",
        /// The segment is in snapshot mode, and delta is tried again.
        DeltaRetry = "delta_retry",
        /// A mass removal is being confirmed.
        Confirm = "confirm",
        /// The drift audit found too many differences to repair them one by one.
        Drift = "drift",
        /// Interrupted rounds left several segments of the window waiting for each other.
        Seam = "seam",
    }
}

impl ResyncReason {
    /// Every reason except [`Self::New`].
    pub fn resyncs() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|reason| *reason != Self::New)
    }
}

/// The number, times and counts of one round.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RoundFigures {
    /// The number of the round, counted per window.
    pub number: u64,
    /// When it ended.
    pub at: Timestamp,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// Requests it made.
    pub requests: u32,
    /// Pages it read.
    pub pages: u32,
    /// Events that appeared.
    pub created: u32,
    /// Events whose visible content changed.
    pub updated: u32,
    /// Events that left.
    pub removed: u32,
}

/// A finished round in which something happened.
#[derive(Clone, Debug, PartialEq)]
pub struct PastRound {
    /// Its counts.
    pub round: RoundFigures,
    /// How it ended.
    pub outcome: RoundOutcome,
    /// The reason of the resync that began in it.
    pub resync: Option<ResyncReason>,
}

/// The recorded rounds of a window since the daemon started.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PastRounds {
    /// The latest rounds in which something happened, newest first: changes, a failure, a resync,
    /// or more than one request per segment.
    pub value: Vec<PastRound>,
    /// The number of rounds since then, in which nothing happened.
    pub quiet: u64,
}

/// When and why the last resync began.
#[derive(Clone, Debug, PartialEq)]
pub struct LastResync {
    /// When it began.
    pub at: Timestamp,
    /// Why.
    pub reason: ResyncReason,
}

/// The last failure, without secrets, links or contents.
#[derive(Clone, Debug, PartialEq)]
pub struct LastError {
    /// When it happened.
    pub at: Timestamp,
    /// The kind of failure.
    pub kind: ErrorKind,
    /// The HTTP status, if there was one.
    pub status: Option<u16>,
    /// Graph's or the token endpoint's error code.
    pub code: Option<String>,
    /// One sentence for people.
    pub message: String,
    /// Graph's `request-id`, for support cases.
    pub request_id: Option<String>,
    /// When the next attempt is due.
    pub retry_at: Option<Timestamp>,
}

/// Drift audits as the API shows them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AuditStatus {
    /// When the last one ended; `None` before the first.
    pub at: Option<Timestamp>,
    /// Differences confirmed and repaired since the window was created.
    pub differences: u64,
    /// When the next is due; `None` if audits are off or the window has not settled yet.
    pub next_due: Option<Timestamp>,
}

/// A segment's edges and how it is followed.
#[derive(Clone, Debug, PartialEq)]
pub struct SegmentStatus {
    /// Inclusive.
    pub start: Timestamp,
    /// Exclusive.
    pub end: Timestamp,
    /// How it is followed.
    pub mode: SegmentMode,
    /// Seconds between its rounds, before jitter; longer the further it is from the present.
    pub interval_s: f64,
}

/// A window as the API and `status --json` show it.
#[derive(Clone, Debug, PartialEq)]
pub struct WindowStatus {
    /// The window's name.
    pub name: String,
    /// Its account.
    pub account: String,
    /// Its mailbox.
    pub mailbox: String,
    /// `default` or a calendar id.
    pub calendar: String,
    /// Current start, inclusive.
    pub start: Timestamp,
    /// Current end, exclusive.
    pub end: Timestamp,
    /// What the window is doing.
    pub state: WindowState,
    /// The number of events that readers see.
    pub events: u64,
    /// Its segments.
    pub segments: Vec<SegmentStatus>,
    /// The last successful round since the daemon started.
    pub last_round: Option<RoundFigures>,
    /// When a round last succeeded.
    pub last_success: Option<Timestamp>,
    /// Seconds since `last_success`.
    pub stale_s: Option<f64>,
    /// When the next attempt is due.
    pub next_due: Option<Timestamp>,
    /// While `held`: no event leaves before this time.
    pub held_until: Option<Timestamp>,
    /// Failed attempts in a row. Counts from 1 again if the trouble is of another kind than before,
    /// or if the failed attempt committed pages.
    pub failures: u32,
    /// Resyncs since the window was created (the first enumeration is not counted).
    pub resyncs: u64,
    /// The last resync.
    pub last_resync: Option<LastResync>,
    /// The last failure; cleared when a round succeeds.
    pub last_error: Option<LastError>,
    /// Its drift audits.
    pub audit: AuditStatus,
    /// Items that could not be read since the window was last enumerated, or since the process
    /// started. Under their ids the mirror shows what it had before, or nothing.
    pub unreadable: u32,
    /// Whether it has settled once since it was created.
    pub settled_once: bool,
    /// Configured interval in seconds; a window stale for more than three intervals is unhealthy.
    pub interval_s: f64,
    /// The fleet that it belongs to.
    pub fleet: Option<String>,
    /// Where the room is, if it is that of one.
    pub place: Option<Place>,
}

impl WindowStatus {
    /// Whether the window is in a normal state and not stale for more than 3 × interval.
    pub fn is_healthy(&self) -> bool {
        !self.state.is_trouble() && self.stale_s.is_none_or(|s| s <= 3.0 * self.interval_s)
    }

    /// Whether the edges have moved and no round has succeeded since: the mirror does not yet have
    /// the time between the old and the new edges.
    pub fn is_moving(&self) -> bool {
        self.last_resync.as_ref().is_some_and(|resync| {
            resync.reason == ResyncReason::WindowMoved
                && self.last_success.is_none_or(|success| success < resync.at)
        })
    }
}
