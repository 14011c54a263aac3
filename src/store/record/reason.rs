//! The reasons for a resync, as they are written.

use serde::{Deserialize, Serialize};

use crate::mirror::status::ResyncReason;

/// See [`ResyncReason`].
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ReasonJson {
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

impl From<ResyncReason> for ReasonJson {
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

impl From<ReasonJson> for ResyncReason {
    fn from(reason: ReasonJson) -> Self {
        match reason {
            ReasonJson::New => Self::New,
            ReasonJson::SyncStateNotFound => Self::SyncStateNotFound,
            ReasonJson::WindowMoved => Self::WindowMoved,
            ReasonJson::ShapeChanged => Self::ShapeChanged,
            ReasonJson::Requested => Self::Requested,
            ReasonJson::RoundStuck => Self::RoundStuck,
            ReasonJson::PageStuck => Self::PageStuck,
            ReasonJson::Snapshot => Self::Snapshot,
            ReasonJson::SegmentTooLong => Self::SegmentTooLong,
            ReasonJson::DeltaRetry => Self::DeltaRetry,
            ReasonJson::Confirm => Self::Confirm,
            ReasonJson::Drift => Self::Drift,
            ReasonJson::Seam => Self::Seam,
        }
    }
}
