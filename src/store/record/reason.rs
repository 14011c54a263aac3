//! The reasons for a resync, as they are written.

use serde::{Deserialize, Serialize};

use crate::mirror::status::ResyncReason;

/// See [`ResyncReason`].
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Reason {
    New,
    SyncStateNotFound,
    WindowMoved,
    ShapeChanged,
    Requested,
    RoundStuck,
    PageStuck,
    Snapshot,
    SegmentTooLong,
    DeltaRetry,
    Confirm,
    Drift,
    Seam,
}

impl From<ResyncReason> for Reason {
    fn from(reason: ResyncReason) -> Self {
        match reason {
            ResyncReason::New => Self::New,
            ResyncReason::SyncStateNotFound => Self::SyncStateNotFound,
            ResyncReason::WindowMoved => Self::WindowMoved,
            ResyncReason::ShapeChanged => Self::ShapeChanged,
            ResyncReason::Requested => Self::Requested,
            ResyncReason::RoundStuck => Self::RoundStuck,
            ResyncReason::PageStuck => Self::PageStuck,
            ResyncReason::Snapshot => Self::Snapshot,
            ResyncReason::SegmentTooLong => Self::SegmentTooLong,
            ResyncReason::DeltaRetry => Self::DeltaRetry,
            ResyncReason::Confirm => Self::Confirm,
            ResyncReason::Drift => Self::Drift,
            ResyncReason::Seam => Self::Seam,
        }
    }
}

impl From<Reason> for ResyncReason {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::New => Self::New,
            Reason::SyncStateNotFound => Self::SyncStateNotFound,
            Reason::WindowMoved => Self::WindowMoved,
            Reason::ShapeChanged => Self::ShapeChanged,
            Reason::Requested => Self::Requested,
            Reason::RoundStuck => Self::RoundStuck,
            Reason::PageStuck => Self::PageStuck,
            Reason::Snapshot => Self::Snapshot,
            Reason::SegmentTooLong => Self::SegmentTooLong,
            Reason::DeltaRetry => Self::DeltaRetry,
            Reason::Confirm => Self::Confirm,
            Reason::Drift => Self::Drift,
            Reason::Seam => Self::Seam,
        }
    }
}
