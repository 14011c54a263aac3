//! The reasons for a resync, as they are stored.

use serde::{Deserialize, Serialize};

use crate::mirror::status::ResyncReason;

/// The stored form of [`ResyncReason`].
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ReasonRecord {
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

impl From<ResyncReason> for ReasonRecord {
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

impl From<ReasonRecord> for ResyncReason {
    fn from(reason: ReasonRecord) -> Self {
        match reason {
            ReasonRecord::New => Self::New,
            ReasonRecord::SyncStateNotFound => Self::SyncStateNotFound,
            ReasonRecord::WindowMoved => Self::WindowMoved,
            ReasonRecord::ShapeChanged => Self::ShapeChanged,
            ReasonRecord::Requested => Self::Requested,
            ReasonRecord::RoundStuck => Self::RoundStuck,
            ReasonRecord::PageStuck => Self::PageStuck,
            ReasonRecord::Snapshot => Self::Snapshot,
            ReasonRecord::SegmentTooLong => Self::SegmentTooLong,
            ReasonRecord::DeltaRetry => Self::DeltaRetry,
            ReasonRecord::Confirm => Self::Confirm,
            ReasonRecord::Drift => Self::Drift,
            ReasonRecord::Seam => Self::Seam,
        }
    }
}
