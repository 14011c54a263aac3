//! Works on an event's JSON: completes an occurrence from its master and compares what readers see.
//!
//! It handles raw bytes: members are cut out and reassembled, never re-encoded, so that readers get
//! what Graph sent.

use jiff::Timestamp;
use serde_json::Value;

use super::page::EventId;
use crate::json::{JsonMembers, JsonObject};
use crate::percent;

/// Members that an occurrence has itself; all others come from its master.
const OCCURRENCE_MEMBERS: [&str; 6] =
    ["id", "type", "seriesMasterId", "start", "end", "@odata.etag"];

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
