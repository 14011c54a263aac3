//! The stored position of a segment: its phase, link, stall counters and fallback.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::counters::ReasonRecord;
use super::{from_json, json};
use crate::mirror::fallback::{Fallback, FoundPageSize};
use crate::mirror::page::Link;
use crate::mirror::position::{Phase, Position};
use crate::mirror::stall::StallDetector;
use crate::mirror::status::ResyncReason;
use crate::store::error::TreeError;

/// A position as a sealed value.
pub(in crate::store) fn position(position: &Position) -> Vec<u8> {
    json(&StoredPosition(position.clone()))
}

/// Reads what [`position`] wrote.
pub(in crate::store) fn from_position(value: &[u8]) -> Result<Position, TreeError> {
    from_json(value, "position").map(|StoredPosition(position)| position)
}

#[derive(Serialize, Deserialize)]
struct StoredPosition(#[serde(with = "PositionRecord")] Position);

#[derive(Serialize, Deserialize)]
#[serde(remote = "Position")]
struct PositionRecord {
    #[serde(with = "PhaseRecord")]
    phase: Phase,
    #[serde(rename = "todo")]
    has_pending: bool,
    held_until: Option<Timestamp>,
    #[serde(rename = "guard", with = "StallRecord")]
    #[serde(default, skip_serializing_if = "StallDetector::is_idle")]
    stall: StallDetector,
    #[serde(rename = "remedy", with = "FallbackRecord")]
    #[serde(default, skip_serializing_if = "Fallback::is_none")]
    fallback: Fallback,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Phase", rename_all = "snake_case")]
enum PhaseRecord {
    Enumerating {
        #[serde(with = "optional_link", default)]
        next: Option<Link>,
        #[serde(with = "ReasonRecord")]
        reason: ResyncReason,
        page: u32,
    },
    Sweeping {
        #[serde(with = "optional_link", default)]
        delta: Option<Link>,
        #[serde(with = "ReasonRecord")]
        reason: ResyncReason,
    },
    Settled {
        #[serde(with = "optional_link", default)]
        delta: Option<Link>,
    },
    Following {
        #[serde(with = "link")]
        next: Link,
    },
    Completing {
        #[serde(with = "link")]
        delta: Link,
    },
}

/// The stored form of an optional [`Link`]: every round reads one.
mod optional_link {
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    use super::Link;

    pub(super) fn serialize<S: Serializer>(link: &Option<Link>, to: S) -> Result<S::Ok, S::Error> {
        link.as_ref().map(Link::as_str).serialize(to)
    }

    pub(super) fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Option<Link>, D::Error> {
        Option::<String>::deserialize(from).map(|link| link.map(Link::new))
    }
}

/// The stored form of [`Link`].
mod link {
    use serde::{Deserialize as _, Deserializer, Serializer};

    use super::Link;

    pub(super) fn serialize<S: Serializer>(link: &Link, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(link.as_str())
    }

    pub(super) fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Link, D::Error> {
        String::deserialize(from).map(Link::new)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "StallDetector")]
struct StallRecord {
    pages: u32,
    empty: u32,
    fingerprint: Option<u64>,
    #[serde(rename = "fruitless_ms")]
    without_new_id_ms: u64,
    #[serde(rename = "refused")]
    failed_attempts: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Fallback")]
struct FallbackRecord {
    #[serde(with = "OptionalPageSize", default)]
    size: Option<FoundPageSize>,
    #[serde(rename = "endless", default)]
    no_progress_seen: bool,
    #[serde(rename = "heavy", default)]
    too_large_seen: bool,
    #[serde(rename = "delta_at")]
    delta_retry_at: Option<Timestamp>,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Option<FoundPageSize>", untagged)]
enum OptionalPageSize {
    None,
    Some(#[serde(with = "PageSizeRecord")] FoundPageSize),
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "FoundPageSize")]
struct PageSizeRecord {
    #[serde(rename = "asked")]
    requested: u32,
    configured: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::record::tests::{sealed, text};

    #[test]
    fn positions_of_0_1_are_read_and_written_byte_for_byte() {
        for json in [
            r#"{"phase":{"settled":{"delta":"https://g/?$deltatoken=a"}},"todo":false,"held_until":null}"#,
            r#"{"phase":{"settled":{"delta":null}},"todo":true,"held_until":null,"remedy":{"size":{"asked":100,"configured":200},"endless":false,"heavy":true,"delta_at":"2026-11-03T12:00:00Z"}}"#,
            r#"{"phase":{"following":{"next":"https://g/\"ä"}},"todo":true,"held_until":null,"guard":{"pages":4,"empty":2,"fingerprint":18446744073709551615,"fruitless_ms":1500,"refused":1}}"#,
            r#"{"phase":{"completing":{"delta":"x"}},"todo":true,"held_until":null}"#,
            r#"{"phase":{"enumerating":{"next":null,"reason":"confirm","page":0}},"todo":false,"held_until":"2026-11-02T12:10:00Z"}"#,
            r#"{"phase":{"enumerating":{"next":"n","reason":"new","page":3}},"todo":false,"held_until":null,"guard":{"pages":3,"empty":0,"fingerprint":null,"fruitless_ms":0,"refused":0},"remedy":{"size":null,"endless":true,"heavy":false,"delta_at":null}}"#,
            r#"{"phase":{"sweeping":{"delta":null,"reason":"snapshot"}},"todo":false,"held_until":null}"#,
            r#"{"phase":{"sweeping":{"delta":"d","reason":"drift"}},"todo":false,"held_until":null}"#,
        ] {
            assert_eq!(text(&position(&from_position(&sealed(json)).unwrap())), json);
        }
    }

    #[test]
    fn members_may_be_missing_or_unknown() {
        let old = r#"{"phase":{"following":{"next":"n","later":1}},"todo":true,"remedy":{"x":2}}"#;
        let read = from_position(&sealed(old)).unwrap();
        assert_eq!(read, Position::new(Phase::Following { next: Link::new("n") }, true));
    }

    #[test]
    fn a_phase_of_another_version_is_not_damage() {
        let other = r#"{"phase":{"resting":{}},"todo":true}"#;
        let fault = from_position(&sealed(other)).unwrap_err();
        assert!(matches!(fault, TreeError::Unknown("position")) && !fault.is_damage(), "{fault}");
    }
}
