//! What the world is told about a window. Shapes of the HTTP API (`docs/api.md`).

use std::fmt;

use jiff::Timestamp;

/// What a window is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WindowState {
    /// A round that started without a link is under way or due.
    Enumerating,
    /// Every segment has a delta link and an empty to-do.
    Settled,
    /// A round from a delta link is under way.
    Following,
    /// The last attempt failed; the next one is due at `next_due`.
    BackingOff,
    /// A removal too large to believe is being confirmed.
    Held,
    /// The mailbox or calendar is gone or forbidden; retried slowly, the mirror is kept.
    Quarantined,
    /// A human has to sign in or consent.
    SignInRequired,
    /// The disk is too full to write.
    StoreFull,
}

impl fmt::Display for WindowState {
    /// The word of the API: a state has one spelling.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl WindowState {
    /// Every state, in the order the counts are shown.
    pub const ALL: [Self; 8] = [
        Self::Enumerating,
        Self::Settled,
        Self::Following,
        Self::BackingOff,
        Self::Held,
        Self::Quarantined,
        Self::SignInRequired,
        Self::StoreFull,
    ];

    /// The word by which the API and the metrics name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enumerating => "enumerating",
            Self::Settled => "settled",
            Self::Following => "following",
            Self::BackingOff => "backing_off",
            Self::Held => "held",
            Self::Quarantined => "quarantined",
            Self::SignInRequired => "sign_in_required",
            Self::StoreFull => "store_full",
        }
    }

    /// Whether somebody should look: everything but the three states of normal life.
    pub fn is_trouble(self) -> bool {
        !matches!(self, Self::Enumerating | Self::Settled | Self::Following)
    }
}

/// Why a segment is enumerated again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ResyncReason {
    /// It never was: the first enumeration.
    New,
    /// Graph forgot the link (410, `syncStateNotFound` and its kin, facts 93-98).
    SyncStateNotFound,
    /// Relative edges moved, or the configured ones changed.
    WindowMoved,
    /// `body`, `time_zone` or `complete` changed.
    ShapeChanged,
    /// Somebody asked.
    Requested,
    /// A round would not end: other pages are asked for, or the segment is listed.
    RoundStuck,
    /// A page could not be had, again and again: smaller ones are asked for, or the segment is
    /// listed.
    PageStuck,
    /// The segment is listed whole, as in every round of snapshot mode; not counted.
    Snapshot,
    /// Graph does not answer for segments that long: all of the window's became half as long.
    SegmentTooLong,
    /// The segment is in snapshot mode, and delta is tried again.
    DeltaRetry,
    /// A large removal is being confirmed.
    Confirm,
    /// The drift audit found more differences than are repaired one by one.
    Drift,
    /// Interrupted rounds left several segments of the window waiting for each other.
    Seam,
}

impl ResyncReason {
    /// Every reason but [`Self::New`], which is no resync.
    pub const AGAIN: [Self; 12] = [
        Self::SyncStateNotFound,
        Self::WindowMoved,
        Self::ShapeChanged,
        Self::Requested,
        Self::RoundStuck,
        Self::PageStuck,
        Self::Snapshot,
        Self::SegmentTooLong,
        Self::DeltaRetry,
        Self::Confirm,
        Self::Drift,
        Self::Seam,
    ];

    /// The word by which the API and the metrics name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::SyncStateNotFound => "sync_state_not_found",
            Self::WindowMoved => "window_moved",
            Self::ShapeChanged => "shape_changed",
            Self::Requested => "requested",
            Self::RoundStuck => "round_stuck",
            Self::PageStuck => "page_stuck",
            Self::Snapshot => "snapshot",
            Self::SegmentTooLong => "segment_too_long",
            Self::DeltaRetry => "delta_retry",
            Self::Confirm => "confirm",
            Self::Drift => "drift",
            Self::Seam => "seam",
        }
    }
}

/// The last finished round.
#[derive(Clone, Debug, PartialEq)]
pub struct LastRound {
    /// Counts the rounds of this window.
    pub number: u64,
    /// When it ended.
    pub at: Timestamp,
    /// How long it took, milliseconds.
    pub took_ms: u64,
    /// Requests it made.
    pub requests: u32,
    /// Pages it read.
    pub pages: u32,
    /// Events that appeared.
    pub created: u32,
    /// Events that look different.
    pub updated: u32,
    /// Events that left.
    pub removed: u32,
}

impl LastRound {
    /// A round of which only its number and end are known.
    pub fn without_counts(number: u64, at: Timestamp) -> Self {
        let (took_ms, requests, pages, created, updated, removed) = Default::default();
        Self { number, at, took_ms, requests, pages, created, updated, removed }
    }
}

/// A finished round of which there is something to tell.
#[derive(Clone, Debug, PartialEq)]
pub struct PastRound {
    /// Its counts.
    pub round: LastRound,
    /// `settled`, `incomplete`, `held`, a kind of failure as in [`LastError`], or `other` where
    /// its worker failed.
    pub outcome: String,
    /// The resync that began in it.
    pub resync: Option<ResyncReason>,
}

/// What is remembered of a window's rounds since the daemon started.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PastRounds {
    /// The newest in which something happened, newest first: changes, a failure, a resync, or
    /// more requests than one a segment.
    pub value: Vec<PastRound>,
    /// Rounds since then in which nothing did.
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
    /// What sort of failure: `throttled`, `transient`, `forbidden`, `gone`, `sign_in`, `malformed_page`, …
    pub kind: String,
    /// The HTTP status, where there was one.
    pub status: Option<u16>,
    /// Graph's or the token endpoint's error code.
    pub code: Option<String>,
    /// One sentence for a person.
    pub message: String,
    /// Graph's `request-id`, for a support case.
    pub request_id: Option<String>,
    /// When the next attempt is due.
    pub retry_at: Option<Timestamp>,
}

/// How a window stands with its drift audits. Lives with the window, in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuditRecord {
    /// When the window first settled: the first audit is counted from here.
    pub since: Timestamp,
    /// When the last audit ended.
    pub at: Option<Timestamp>,
    /// Differences that audits have found, confirmed and repaired since the window began.
    pub differences: u64,
}

/// Drift audits as the API shows them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AuditStatus {
    /// When the last one ended; none before the first.
    pub at: Option<Timestamp>,
    /// Differences found, confirmed and repaired since the window began.
    pub differences: u64,
    /// When the next is due; none where audits are off or the window has not settled yet.
    pub next_due: Option<Timestamp>,
}

/// A segment's edges and how it is followed.
#[derive(Clone, Debug, PartialEq)]
pub struct SegmentStatus {
    /// Inclusive.
    pub start: Timestamp,
    /// Exclusive.
    pub end: Timestamp,
    /// `delta` or `snapshot`.
    pub mode: String,
    /// Seconds between its rounds, before jitter: the further from the present the more.
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
    /// Start in force, inclusive.
    pub start: Timestamp,
    /// End in force, exclusive.
    pub end: Timestamp,
    /// What it is doing.
    pub state: WindowState,
    /// Events readers see.
    pub events: u64,
    /// Its segments.
    pub segments: Vec<SegmentStatus>,
    /// The last finished round.
    pub last_round: Option<LastRound>,
    /// When a round last succeeded.
    pub last_success: Option<Timestamp>,
    /// Seconds since `last_success`.
    pub stale_s: Option<f64>,
    /// When the next attempt is due.
    pub next_due: Option<Timestamp>,
    /// While `held`: nothing leaves before.
    pub held_until: Option<Timestamp>,
    /// Failures since the last success.
    pub failures: u32,
    /// Resyncs since the window began (the first enumeration not counted).
    pub resyncs: u64,
    /// The last of them.
    pub last_resync: Option<LastResync>,
    /// The last failure, until a round succeeds.
    pub last_error: Option<LastError>,
    /// Its drift audits.
    pub audit: AuditStatus,
    /// Items that could not be read since the window was last enumerated, or the process began:
    /// under their ids the mirror shows what it had before, or nothing.
    pub unreadable: u32,
    /// Whether it has settled once since it began.
    pub settled_once: bool,
    /// Configured interval, seconds; stale beyond three of them is unhealthy.
    pub interval_s: f64,
}

impl WindowStatus {
    /// Healthy: in a state of normal life and not stale beyond 3 × interval.
    pub fn is_healthy(&self) -> bool {
        !self.state.is_trouble() && self.stale_s.is_none_or(|s| s <= 3.0 * self.interval_s)
    }
}
