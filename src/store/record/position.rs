//! The stored position of a segment: its phase, link, stall counters and fallback.

use std::borrow::Cow;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::reason::ReasonRecord;
use super::{from_json, json};
use crate::mirror::fallback::{Fallback, FoundPageSize};
use crate::mirror::page::Link;
use crate::mirror::position::{Phase, Position};
use crate::mirror::stall::StallDetector;
use crate::store::error::TreeError;

/// A position as a sealed value.
pub(in crate::store) fn position(position: &Position) -> Vec<u8> {
    let Position { phase, has_pending: todo, held_until, stall: guard, fallback: remedy } =
        position;
    json(&PositionRecord {
        phase: phase.into(),
        todo: *todo,
        held_until: *held_until,
        guard: (!guard.is_idle()).then(|| {
            let StallDetector {
                pages,
                empty,
                fingerprint,
                without_new_id_ms: fruitless_ms,
                failed_attempts: refused,
            } = *guard;
            StallRecord { pages, empty, fingerprint, fruitless_ms, refused }
        }),
        remedy: (!remedy.is_none()).then(|| {
            let Fallback {
                size,
                no_progress_seen: endless,
                too_large_seen: heavy,
                delta_retry_at: delta_at,
            } = remedy.clone();
            let size = size.map(|FoundPageSize { requested: asked, configured }| PageSizeRecord {
                asked,
                configured,
            });
            FallbackRecord { size, endless, heavy, delta_at }
        }),
    })
}

/// Reads what [`position`] wrote.
pub(in crate::store) fn from_position(value: &[u8]) -> Result<Position, TreeError> {
    let stored: PositionRecord<'_> = from_json(value, "position")?;
    let guard = stored.guard.map(|guard| {
        let StallRecord { pages, empty, fingerprint, fruitless_ms, refused } = guard;
        StallDetector {
            pages,
            empty,
            fingerprint,
            without_new_id_ms: fruitless_ms,
            failed_attempts: refused,
        }
    });
    let remedy = stored.remedy.map(|remedy| {
        let FallbackRecord { size, endless, heavy, delta_at } = remedy;
        let size = size.map(|PageSizeRecord { asked, configured }| FoundPageSize {
            requested: asked,
            configured,
        });
        Fallback {
            size,
            no_progress_seen: endless,
            too_large_seen: heavy,
            delta_retry_at: delta_at,
        }
    });
    Ok(Position {
        phase: stored.phase.into(),
        has_pending: stored.todo,
        held_until: stored.held_until,
        stall: guard.unwrap_or_default(),
        fallback: remedy.unwrap_or_default(),
    })
}

#[derive(Serialize, Deserialize)]
struct PositionRecord<'a> {
    #[serde(borrow)]
    phase: PhaseRecord<'a>,
    todo: bool,
    held_until: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    guard: Option<StallRecord>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<FallbackRecord>,
}

type LinkRecord<'a> = Cow<'a, str>;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum PhaseRecord<'a> {
    Enumerating { next: Option<LinkRecord<'a>>, reason: ReasonRecord, page: u32 },
    Sweeping { delta: Option<LinkRecord<'a>>, reason: ReasonRecord },
    Settled { delta: Option<LinkRecord<'a>> },
    Following { next: LinkRecord<'a> },
    Completing { delta: LinkRecord<'a> },
}

impl<'a> From<&'a Phase> for PhaseRecord<'a> {
    fn from(phase: &'a Phase) -> Self {
        let link = |link: &'a Link| Cow::Borrowed(link.as_str());
        match phase {
            Phase::Enumerating { next, reason, page } => Self::Enumerating {
                next: next.as_ref().map(link),
                reason: (*reason).into(),
                page: *page,
            },
            Phase::Sweeping { delta, reason } => {
                Self::Sweeping { delta: delta.as_ref().map(link), reason: (*reason).into() }
            }
            Phase::Settled { delta } => Self::Settled { delta: delta.as_ref().map(link) },
            Phase::Following { next } => Self::Following { next: link(next) },
            Phase::Completing { delta } => Self::Completing { delta: link(delta) },
        }
    }
}

impl From<PhaseRecord<'_>> for Phase {
    fn from(phase: PhaseRecord<'_>) -> Self {
        let link = |link: LinkRecord<'_>| Link::new(&*link);
        match phase {
            PhaseRecord::Enumerating { next, reason, page } => {
                Self::Enumerating { next: next.map(link), reason: reason.into(), page }
            }
            PhaseRecord::Sweeping { delta, reason } => {
                Self::Sweeping { delta: delta.map(link), reason: reason.into() }
            }
            PhaseRecord::Settled { delta } => Self::Settled { delta: delta.map(link) },
            PhaseRecord::Following { next } => Self::Following { next: link(next) },
            PhaseRecord::Completing { delta } => Self::Completing { delta: link(delta) },
        }
    }
}

#[derive(Serialize, Deserialize)]
struct StallRecord {
    pages: u32,
    empty: u32,
    fingerprint: Option<u64>,
    fruitless_ms: u64,
    refused: u32,
}

#[derive(Serialize, Deserialize)]
struct FallbackRecord {
    size: Option<PageSizeRecord>,
    #[serde(default)]
    endless: bool,
    #[serde(default)]
    heavy: bool,
    delta_at: Option<Timestamp>,
}

#[derive(Serialize, Deserialize)]
struct PageSizeRecord {
    asked: u32,
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
