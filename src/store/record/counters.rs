//! The counters of a window and the reasons for a resync, as they are stored.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{from_json, json};
use crate::mirror::status::{AuditRecord, LastResync, ResyncReason};
use crate::store::error::TreeError;

/// A window's counters.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(in crate::store) struct Counters {
    pub(in crate::store) events: u64,
    pub(in crate::store) rounds: u64,
    pub(in crate::store) resyncs: u64,
    #[serde(with = "optional_resync", default)]
    pub(in crate::store) last_resync: Option<LastResync>,
    pub(in crate::store) last_success: Option<Timestamp>,
    /// `None` before the window first settled.
    #[serde(with = "optional_audit", default)]
    pub(in crate::store) audit: Option<AuditRecord>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::store) paused_until: Option<Timestamp>,
    /// Whether all segments were ever settled at the same time; `None` if 0.1 wrote it last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::store) settled_once: Option<bool>,
}

impl Counters {
    /// The counters as a sealed value.
    pub(in crate::store) fn encode(&self) -> Vec<u8> {
        json(self)
    }

    /// Reads what [`Counters::encode`] wrote.
    pub(in crate::store) fn decode(value: &[u8]) -> Result<Self, TreeError> {
        from_json(value, "counters")
    }
}

#[derive(Serialize, Deserialize)]
struct StoredResync(#[serde(with = "ResyncRecord")] LastResync);

/// The stored form of an optional [`LastResync`].
mod optional_resync {
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    use super::{LastResync, StoredResync};

    pub(super) fn serialize<S: Serializer>(
        resync: &Option<LastResync>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        resync.clone().map(StoredResync).serialize(to)
    }

    pub(super) fn deserialize<'a, D: Deserializer<'a>>(
        from: D,
    ) -> Result<Option<LastResync>, D::Error> {
        Ok(Option::<StoredResync>::deserialize(from)?.map(|StoredResync(resync)| resync))
    }
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "LastResync")]
struct ResyncRecord {
    at: Timestamp,
    #[serde(with = "ReasonRecord")]
    reason: ResyncReason,
}

/// The stored form of [`ResyncReason`].
#[derive(Serialize, Deserialize)]
#[serde(remote = "ResyncReason", rename_all = "snake_case")]
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

#[derive(Serialize, Deserialize)]
struct StoredAudit(#[serde(with = "AuditTimesRecord")] AuditRecord);

/// The stored form of an optional [`AuditRecord`].
mod optional_audit {
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    use super::{AuditRecord, StoredAudit};

    pub(super) fn serialize<S: Serializer>(
        audit: &Option<AuditRecord>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        (*audit).map(StoredAudit).serialize(to)
    }

    pub(super) fn deserialize<'a, D: Deserializer<'a>>(
        from: D,
    ) -> Result<Option<AuditRecord>, D::Error> {
        Ok(Option::<StoredAudit>::deserialize(from)?.map(|StoredAudit(audit)| audit))
    }
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "AuditRecord")]
struct AuditTimesRecord {
    since: Timestamp,
    at: Option<Timestamp>,
    differences: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::record::tests::{sealed, text};

    #[test]
    fn counters_of_0_1_are_read_and_written_byte_for_byte() {
        for json in [
            r#"{"events":0,"rounds":0,"resyncs":0,"last_resync":null,"last_success":null,"audit":null}"#,
            r#"{"events":5,"rounds":7,"resyncs":2,"last_resync":{"at":"2026-11-02T11:30:00Z","reason":"confirm"},"last_success":"2026-11-02T12:00:00.25Z","audit":{"since":"2026-10-02T12:00:00Z","at":"2026-11-01T12:00:00Z","differences":3},"paused_until":"2026-11-02T13:00:00Z"}"#,
            r#"{"events":5,"rounds":7,"resyncs":0,"last_resync":null,"last_success":null,"audit":{"since":"2026-10-02T12:00:00Z","at":null,"differences":0}}"#,
        ] {
            assert_eq!(text(&Counters::decode(&sealed(json)).unwrap().encode()), json);
        }
    }

    #[test]
    fn every_reason_of_0_1_is_read_and_written() {
        let reasons = [
            "new",
            "sync_state_not_found",
            "window_moved",
            "shape_changed",
            "requested",
            "round_stuck",
            "page_stuck",
            "snapshot",
            "segment_too_long",
            "delta_retry",
            "confirm",
            "drift",
            "seam",
        ];
        for (word, reason) in reasons.into_iter().zip(ResyncReason::ALL) {
            let json = format!(
                r#"{{"events":5,"rounds":7,"resyncs":2,"last_resync":{{"at":"2026-11-02T11:30:00Z","reason":"{word}"}},"last_success":null,"audit":null}}"#
            );
            let counters = Counters::decode(&sealed(&json)).unwrap();
            assert_eq!(counters.last_resync.as_ref().unwrap().reason, reason);
            assert_eq!(text(&counters.encode()), json);
        }
    }
}
