//! The stored record of a window: its settings and its edges.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{from_json, json};
use crate::mirror::segment_set::SegmentSet;
use crate::mirror::window::{
    BodyFormat, CalendarRef, Completion, Edge, Edges, EventShape, MAX_SEGMENT_DAYS, WindowIdentity,
};
use crate::store::error::TreeError;

/// The stored record of a window: its settings and its edges.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::store) struct WindowRecord {
    pub(in crate::store) name: Arc<str>,
    #[serde(with = "IdentityRecord")]
    pub(in crate::store) identity: WindowIdentity,
    #[serde(with = "ShapeRecord")]
    pub(in crate::store) shape: EventShape,
    /// As configured.
    #[serde(with = "EdgeRecord")]
    pub(in crate::store) start: Edge,
    /// As configured.
    #[serde(with = "EdgeRecord")]
    pub(in crate::store) end: Edge,
    /// In force.
    #[serde(with = "EdgesRecord")]
    pub(in crate::store) edges: Edges,
    pub(in crate::store) edges_at: Timestamp,
    /// Segments that the window no longer has. In rows they do not count.
    #[serde(with = "segment_set", default)]
    pub(in crate::store) retired: SegmentSet,
    /// The longest segment that Graph answers for, in days.
    #[serde(default = "max_segment_days")]
    pub(in crate::store) segment_days: i64,
}

fn max_segment_days() -> i64 {
    MAX_SEGMENT_DAYS
}

impl WindowRecord {
    /// The record as a sealed value.
    pub(in crate::store) fn encode(&self) -> Vec<u8> {
        json(self)
    }

    /// Reads what [`WindowRecord::encode`] wrote.
    pub(in crate::store) fn decode(value: &[u8]) -> Result<Self, TreeError> {
        from_json(value, "window")
    }
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "WindowIdentity")]
struct IdentityRecord {
    account: Arc<str>,
    tenant: Arc<str>,
    mailbox: Arc<str>,
    #[serde(with = "CalendarRecord")]
    calendar: CalendarRef,
    immutable_ids: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "CalendarRef", rename_all = "snake_case")]
pub(super) enum CalendarRecord {
    Default,
    Id(Arc<str>),
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "EventShape")]
struct ShapeRecord {
    #[serde(with = "BodyRecord")]
    body: BodyFormat,
    time_zone: Arc<str>,
    #[serde(with = "CompletionRecord")]
    complete: Completion,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "BodyFormat", rename_all = "snake_case")]
enum BodyRecord {
    Html,
    Text,
    None,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Completion", rename_all = "snake_case")]
enum CompletionRecord {
    Master,
    Exact,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Edge", rename_all = "snake_case")]
enum EdgeRecord {
    At(Timestamp),
    Relative { years: i32, months: i32, days: i32 },
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Edges")]
struct EdgesRecord {
    start: Timestamp,
    end: Timestamp,
}

/// The stored form of [`SegmentSet`].
mod segment_set {
    use serde::{Deserialize as _, Deserializer, Serializer};

    use super::SegmentSet;

    pub(super) fn serialize<S: Serializer>(set: &SegmentSet, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(set.bits())
    }

    pub(super) fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<SegmentSet, D::Error> {
        u64::deserialize(from).map(SegmentSet::from_bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::record::tests::{sealed, text};

    /// As version 0.1 wrote it.
    const FIXED: &str = r#"{"name":"alice","identity":{"account":"contoso","tenant":"t","mailbox":"alice@contoso.com","calendar":"default","immutable_ids":false},"shape":{"body":"html","time_zone":"UTC","complete":"master"},"start":{"at":"2026-10-01T00:00:00Z"},"end":{"at":"2027-02-01T00:00:00Z"},"edges":{"start":"2026-10-01T00:00:00Z","end":"2027-02-01T00:00:00Z"},"edges_at":"2026-11-02T12:00:00.5Z","retired":0,"segment_days":1825}"#;
    const RELATIVE: &str = r#"{"name":"b","identity":{"account":"a","tenant":"t","mailbox":"m","calendar":{"id":"AAMk="},"immutable_ids":true},"shape":{"body":"none","time_zone":"W. Europe Standard Time","complete":"exact"},"start":{"relative":{"years":0,"months":-1,"days":-3}},"end":{"relative":{"years":2,"months":0,"days":0}},"edges":{"start":"2026-10-01T00:00:00Z","end":"2027-02-01T00:00:00Z"},"edges_at":"2026-11-02T12:00:00Z","retired":6,"segment_days":500}"#;

    #[test]
    fn windows_of_0_1_are_read_and_written_byte_for_byte() {
        for json in [FIXED, RELATIVE] {
            let record = WindowRecord::decode(&sealed(json)).unwrap();
            assert_eq!(text(&record.encode()), json);
        }
    }

    #[test]
    fn members_may_be_missing_or_unknown() {
        let old = FIXED.replace(r#","retired":0,"segment_days":1825"#, r#","later":[1]"#);
        let expected = WindowRecord::decode(&sealed(FIXED)).unwrap();
        assert_eq!(WindowRecord::decode(&sealed(&old)).unwrap(), expected);
    }

    #[test]
    fn a_setting_of_another_version_is_not_damage() {
        let other = FIXED.replace(r#""body":"html""#, r#""body":"markdown""#);
        let fault = WindowRecord::decode(&sealed(&other)).unwrap_err();
        assert!(matches!(fault, TreeError::Unknown("window")) && !fault.is_damage(), "{fault}");
    }
}
