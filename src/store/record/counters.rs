//! The counters of a window, as they are stored.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::reason::ReasonRecord;
use super::{from_json, json};
use crate::mirror::status::{AuditRecord, LastResync};
use crate::store::error::TreeError;

/// A window's counters.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::store) struct Counters {
    pub(in crate::store) events: u64,
    pub(in crate::store) rounds: u64,
    pub(in crate::store) resyncs: u64,
    pub(in crate::store) last_resync: Option<LastResync>,
    pub(in crate::store) last_success: Option<Timestamp>,
    /// `None` before the window first settled.
    pub(in crate::store) audit: Option<AuditRecord>,
    pub(in crate::store) paused_until: Option<Timestamp>,
    /// Whether all segments were ever settled at the same time; `None` if 0.1 wrote it last.
    pub(in crate::store) settled_once: Option<bool>,
}

impl Counters {
    /// The counters as a sealed value.
    pub(in crate::store) fn encode(&self) -> Vec<u8> {
        let Self { events, rounds, resyncs, last_resync, last_success, audit, .. } = self;
        json(&CountersRecord {
            events: *events,
            rounds: *rounds,
            resyncs: *resyncs,
            last_resync: last_resync.as_ref().map(|LastResync { at, reason }| ResyncRecord {
                at: *at,
                reason: (*reason).into(),
            }),
            last_success: *last_success,
            audit: audit.map(|AuditRecord { since, at, differences }| AuditTimesRecord {
                since,
                at,
                differences,
            }),
            paused_until: self.paused_until,
            settled_once: self.settled_once,
        })
    }

    /// Reads what [`Counters::encode`] wrote.
    pub(in crate::store) fn decode(value: &[u8]) -> Result<Self, TreeError> {
        let stored: CountersRecord = from_json(value, "counters")?;
        Ok(Self {
            events: stored.events,
            rounds: stored.rounds,
            resyncs: stored.resyncs,
            last_resync: stored
                .last_resync
                .map(|ResyncRecord { at, reason }| LastResync { at, reason: reason.into() }),
            last_success: stored.last_success,
            audit: stored.audit.map(|AuditTimesRecord { since, at, differences }| AuditRecord {
                since,
                at,
                differences,
            }),
            paused_until: stored.paused_until,
            settled_once: stored.settled_once,
        })
    }
}

#[derive(Serialize, Deserialize)]
struct CountersRecord {
    events: u64,
    rounds: u64,
    resyncs: u64,
    last_resync: Option<ResyncRecord>,
    last_success: Option<Timestamp>,
    audit: Option<AuditTimesRecord>,
    #[serde(skip_serializing_if = "Option::is_none")]
    paused_until: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    settled_once: Option<bool>,
}

#[derive(Serialize, Deserialize)]
struct ResyncRecord {
    at: Timestamp,
    reason: ReasonRecord,
}

#[derive(Serialize, Deserialize)]
struct AuditTimesRecord {
    since: Timestamp,
    at: Option<Timestamp>,
    differences: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::status::ResyncReason;
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
