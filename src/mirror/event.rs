//! Works on an event's JSON: completes an occurrence from its master and compares what readers see.
//!
//! It handles raw bytes: members are cut out and reassembled, never re-encoded, so that readers get
//! what Graph sent.

use std::borrow::Cow;
use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;

use super::page::EventId;
use crate::json::{JsonMembers, JsonObject};
use crate::percent;

/// Members that an occurrence has itself; all others come from its master.
const OCCURRENCE_MEMBERS: [&str; 6] =
    ["id", "type", "seriesMasterId", "start", "end", "@odata.etag"];

/// Members that Graph changes although nothing that an event says has changed.
pub const VERSION_MEMBERS: [&str; 3] = ["changeKey", "lastModifiedDateTime", "@odata.etag"];

/// Members that tell people which event was removed. `sensitivity` decides who may see them.
const SUMMARY_MEMBERS: [&str; 5] = ["subject", "start", "end", "isAllDay", "sensitivity"];

/// How an event differs from its former state, as readers see both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventDifference {
    /// Both are the same JSON value.
    None,
    /// Only members differ that say nothing about the event: `changeKey`, `lastModifiedDateTime`
    /// and `@odata.etag`.
    Version,
    /// Others differ too. Their names are sorted; a text that is not a JSON object has none.
    Members(Vec<String>),
}

/// Compares two events member by member, as JSON values.
pub fn difference(old: &[u8], new: &[u8]) -> EventDifference {
    if old == new {
        return EventDifference::None;
    }
    let Some((old, new)) = read_members(old).zip(read_members(new)) else {
        return EventDifference::Members(Vec::new());
    };
    let names = old.keys().chain(new.keys().filter(|name| !old.contains_key(*name)));
    let mut changed: Vec<&str> =
        names.filter(|&name| old.get(name) != new.get(name)).map(AsRef::as_ref).collect();
    if changed.is_empty() {
        return EventDifference::None;
    }
    changed.retain(|name| !VERSION_MEMBERS.contains(name));
    if changed.is_empty() {
        return EventDifference::Version;
    }
    changed.sort_unstable();
    EventDifference::Members(changed.into_iter().map(str::to_owned).collect())
}

fn read_members(json: &[u8]) -> Option<BTreeMap<Cow<'_, str>, Value>> {
    let members = JsonMembers::parse(json).ok()?.0;
    members.into_iter().map(|(n, v)| Some((n, serde_json::from_str(v.get()).ok()?))).collect()
}

/// What a removal keeps of an event, as a JSON object: its subject, start, end, `isAllDay` and
/// sensitivity, as far as it has them. `{}` if the event is not a JSON object.
pub fn summary(event: &[u8]) -> Vec<u8> {
    JsonMembers::parse(event).map_or_else(|_| b"{}".to_vec(), |all| all.only(&SUMMARY_MEMBERS))
}

/// Completes a bare occurrence from its master, as readers see it: the master's members
/// overlaid with the occurrence's own id, type, seriesMasterId, start, end and etag.
/// `recurrence` becomes null, `originalStart` the occurrence's start, and in `webLink` its encoded
/// id replaces the master's.
///
/// # Errors
/// If the occurrence is not a JSON object.
pub fn complete(
    master: &JsonMembers<'_>,
    master_id: &EventId,
    occurrence: &[u8],
    id: &EventId,
    start: Timestamp,
) -> Result<Vec<u8>, serde_json::Error> {
    let own = JsonMembers::parse(occurrence)?;
    let mut out = JsonObject::with_capacity(master_len(master) + occurrence.len());
    for name in OCCURRENCE_MEMBERS {
        if let Some(value) = own.get(name) {
            out.raw(name, value.get());
        }
    }
    for (name, value) in &master.0 {
        match &**name {
            name if OCCURRENCE_MEMBERS.contains(&name) => {}
            "originalStart" => {}
            "recurrence" => out.raw(name, "null"),
            "webLink" => match master.text(name) {
                Some(link) => {
                    // Graph encodes ids in `webLink` in this way.
                    let link = link.replace(
                        &percent::encode(master_id.as_str()),
                        &percent::encode(id.as_str()),
                    );
                    out.raw(name, &Value::String(link).to_string());
                }
                None => out.raw(name, value.get()),
            },
            _ => out.raw(name, value.get()),
        }
    }
    out.raw("originalStart", &Value::String(start.to_string()).to_string());
    Ok(out.finish())
}

/// Whether two JSON texts are the same value. Byte-equal texts are not parsed.
pub fn same_json(a: &[u8], b: &[u8]) -> bool {
    same_by(a, b, |json| serde_json::from_slice::<Value>(json).ok())
}

/// Whether both texts have a `lastModifiedDateTime`, and that of `a` is earlier.
pub fn is_older(a: &[u8], b: &[u8]) -> bool {
    let modified = |json| {
        JsonMembers::parse(json).ok()?.text("lastModifiedDateTime")?.parse::<Timestamp>().ok()
    };
    matches!((modified(a), modified(b)), (Some(a), Some(b)) if a < b)
}

/// Whether two masters give their occurrences the same content.
pub fn same_for_occurrences(a: &[u8], b: &[u8]) -> bool {
    same_by(a, b, |json| {
        let mut map: serde_json::Map<String, Value> = serde_json::from_slice(json).ok()?;
        for name in OCCURRENCE_MEMBERS.iter().chain(&["recurrence", "originalStart"]) {
            map.remove(*name);
        }
        Some(map)
    })
}

/// Whether two texts are equal, or both can be read and are then equal.
fn same_by<T: PartialEq>(a: &[u8], b: &[u8], read: impl Fn(&[u8]) -> Option<T>) -> bool {
    a == b || read(a).is_some_and(|a| read(b).is_some_and(|b| a == b))
}

fn master_len(master: &JsonMembers<'_>) -> usize {
    master.0.iter().map(|(n, v)| n.len() + v.get().len() + 4).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_names_the_members_that_changed() {
        let members = |names: &[&str]| {
            EventDifference::Members(names.iter().map(|name| (*name).to_owned()).collect())
        };
        let old = r#"{"subject":"a","changeKey":"1","start":{"dateTime":"x"}}"#;
        for (new, expected) in [
            (
                r#"{"changeKey":"1","start":{ "dateTime":"\u0078"},"subject":"a"}"#,
                EventDifference::None,
            ),
            (
                r#"{"subject":"a","changeKey":"2","start":{"dateTime":"x"}}"#,
                EventDifference::Version,
            ),
            (
                r#"{"subject":"a","start":{"dateTime":"x"},"@odata.etag":"w"}"#,
                EventDifference::Version,
            ),
            (r#"{"subject":"b","changeKey":"2","start":{"dateTime":"x"}}"#, members(&["subject"])),
            (
                r#"{"z":0,"changeKey":"2","start":{"dateTime":"y"}}"#,
                members(&["start", "subject", "z"]),
            ),
            ("[]", members(&[])),
        ] {
            assert_eq!(difference(old.as_bytes(), new.as_bytes()), expected, "{new}");
        }
    }

    #[test]
    fn a_summary_has_what_identifies_a_removed_event() {
        let event = br#"{"id":"1","end":{"b":2},"subject":"a","body":{},"sensitivity":"private","start":{}}"#;
        let expected = r#"{"subject":"a","start":{},"end":{"b":2},"sensitivity":"private"}"#;
        assert_eq!(String::from_utf8(summary(event)).unwrap(), expected);
        assert_eq!(summary(b"no object"), b"{}");
    }
}
