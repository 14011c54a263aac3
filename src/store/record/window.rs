//! The stored record of a window: its settings and its edges.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{from_json, json};
use crate::mirror::segment_set::SegmentSet;
use crate::mirror::window::{self, EventShape, MAX_SEGMENT_DAYS, WindowIdentity};
use crate::store::error::TreeError;

/// The stored record of a window: its settings and its edges.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::store) struct WindowRecord {
    pub(in crate::store) name: Arc<str>,
    pub(in crate::store) identity: WindowIdentity,
    pub(in crate::store) shape: EventShape,
    /// As configured.
    pub(in crate::store) start: window::Edge,
    /// As configured.
    pub(in crate::store) end: window::Edge,
    /// In force.
    pub(in crate::store) edges: window::Edges,
    pub(in crate::store) edges_at: Timestamp,
    /// Segments that the window no longer has. In rows they do not count.
    pub(in crate::store) retired: SegmentSet,
    /// The longest segment that Graph answers for, in days.
    pub(in crate::store) segment_days: i64,
}

impl WindowRecord {
    /// The record as a sealed value.
    pub(in crate::store) fn encode(&self) -> Vec<u8> {
        let Self { name, identity, shape, start, end, edges, edges_at, retired, segment_days } =
            self;
        json(&WindowRecordJson {
            name: name.clone(),
            identity: IdentityRecord {
                account: identity.account.clone(),
                tenant: identity.tenant.clone(),
                mailbox: identity.mailbox.clone(),
                calendar: match &identity.calendar {
                    window::CalendarRef::Default => CalendarRecord::Default,
                    window::CalendarRef::Id(id) => CalendarRecord::Id(id.clone()),
                },
                immutable_ids: identity.immutable_ids,
            },
            shape: ShapeRecord {
                body: match shape.body {
                    window::BodyFormat::Html => BodyRecord::Html,
                    window::BodyFormat::Text => BodyRecord::Text,
                    window::BodyFormat::None => BodyRecord::None,
                },
                time_zone: shape.time_zone.clone(),
                complete: match shape.complete {
                    window::Completion::Master => CompletionRecord::Master,
                    window::Completion::Exact => CompletionRecord::Exact,
                },
            },
            start: (*start).into(),
            end: (*end).into(),
            edges: EdgesRecord { start: edges.start, end: edges.end },
            edges_at: *edges_at,
            retired: retired.bits(),
            segment_days: *segment_days,
        })
    }

    /// Reads what [`WindowRecord::encode`] wrote.
    pub(in crate::store) fn decode(value: &[u8]) -> Result<Self, TreeError> {
        let stored: WindowRecordJson = from_json(value, "window")?;
        let WindowRecordJson { identity, shape, edges, .. } = stored;
        Ok(Self {
            name: stored.name,
            identity: WindowIdentity {
                account: identity.account,
                tenant: identity.tenant,
                mailbox: identity.mailbox,
                calendar: match identity.calendar {
                    CalendarRecord::Default => window::CalendarRef::Default,
                    CalendarRecord::Id(id) => window::CalendarRef::Id(id),
                },
                immutable_ids: identity.immutable_ids,
            },
            shape: EventShape {
                body: match shape.body {
                    BodyRecord::Html => window::BodyFormat::Html,
                    BodyRecord::Text => window::BodyFormat::Text,
                    BodyRecord::None => window::BodyFormat::None,
                },
                time_zone: shape.time_zone,
                complete: match shape.complete {
                    CompletionRecord::Master => window::Completion::Master,
                    CompletionRecord::Exact => window::Completion::Exact,
                },
            },
            start: stored.start.into(),
            end: stored.end.into(),
            edges: window::Edges { start: edges.start, end: edges.end },
            edges_at: stored.edges_at,
            retired: SegmentSet::from_bits(stored.retired),
            segment_days: stored.segment_days,
        })
    }
}

#[derive(Serialize, Deserialize)]
struct WindowRecordJson {
    name: Arc<str>,
    identity: IdentityRecord,
    shape: ShapeRecord,
    start: EdgeRecord,
    end: EdgeRecord,
    edges: EdgesRecord,
    edges_at: Timestamp,
    #[serde(default)]
    retired: u64,
    #[serde(default = "max_segment_days")]
    segment_days: i64,
}

fn max_segment_days() -> i64 {
    MAX_SEGMENT_DAYS
}

#[derive(Serialize, Deserialize)]
struct IdentityRecord {
    account: Arc<str>,
    tenant: Arc<str>,
    mailbox: Arc<str>,
    calendar: CalendarRecord,
    immutable_ids: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum CalendarRecord {
    Default,
    Id(Arc<str>),
}

#[derive(Serialize, Deserialize)]
struct ShapeRecord {
    body: BodyRecord,
    time_zone: Arc<str>,
    complete: CompletionRecord,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum BodyRecord {
    Html,
    Text,
    None,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum CompletionRecord {
    Master,
    Exact,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum EdgeRecord {
    At(Timestamp),
    Relative { years: i32, months: i32, days: i32 },
}

impl From<window::Edge> for EdgeRecord {
    fn from(edge: window::Edge) -> Self {
        match edge {
            window::Edge::At(at) => Self::At(at),
            window::Edge::Relative { years, months, days } => {
                Self::Relative { years, months, days }
            }
        }
    }
}

impl From<EdgeRecord> for window::Edge {
    fn from(edge: EdgeRecord) -> Self {
        match edge {
            EdgeRecord::At(at) => Self::At(at),
            EdgeRecord::Relative { years, months, days } => Self::Relative { years, months, days },
        }
    }
}

#[derive(Serialize, Deserialize)]
struct EdgesRecord {
    start: Timestamp,
    end: Timestamp,
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
