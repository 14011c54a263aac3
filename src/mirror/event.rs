//! Works on an event's JSON: completes an occurrence from its master and compares what readers see.
//!
//! It handles raw bytes: members are cut out and reassembled, never re-encoded, so that readers get
//! what Graph sent.

use std::borrow::Cow;

use serde::de::{MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::page::EventId;
use jiff::Timestamp;

/// The members of a JSON object, in order and with raw values.
#[derive(Clone, Debug)]
pub struct JsonMembers<'a>(pub Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> JsonMembers<'a> {
    /// Splits an object into its members.
    ///
    /// # Errors
    /// If `json` is not one JSON object.
    pub fn parse(json: &'a [u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(json)
    }

    /// The raw value of a member; the last one if its name is repeated.
    pub fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0.iter().rev().find(|(n, _)| n == name).map(|(_, v)| *v)
    }
}

impl<'de: 'a, 'a> serde::Deserialize<'de> for JsonMembers<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor;
        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = Vec<(Cow<'de, str>, &'de RawValue)>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a JSON object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::with_capacity(48);
                while let Some(name) = map.next_key::<JsonText<'de>>()? {
                    members.push((name.0, map.next_value()?));
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(MembersVisitor).map(JsonMembers)
    }
}

/// A string, borrowed unless it contains escapes.
pub(crate) struct JsonText<'a>(pub(crate) Cow<'a, str>);

impl<'de: 'a, 'a> serde::Deserialize<'de> for JsonText<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Cow<'de, str>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E>(self, v: &'de str) -> Result<Self::Value, E> {
                Ok(Cow::Borrowed(v))
            }
            fn visit_str<E>(self, v: &str) -> Result<Self::Value, E> {
                Ok(Cow::Owned(v.to_owned()))
            }
            fn visit_string<E>(self, v: String) -> Result<Self::Value, E> {
                Ok(Cow::Owned(v))
            }
        }
        deserializer.deserialize_str(TextVisitor).map(JsonText)
    }
}

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
    let mut out = ObjectBuilder::with_capacity(master_len(master) + occurrence.len());
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
            "webLink" => match serde_json::from_str::<Cow<'_, str>>(value.get()) {
                Ok(link) => {
                    let link = link
                        .replace(&percent_encode(master_id.as_str()), &percent_encode(id.as_str()));
                    out.value(name, &Value::String(link));
                }
                Err(_) => out.raw(name, value.get()),
            },
            _ => out.raw(name, value.get()),
        }
    }
    out.value("originalStart", &Value::String(start.to_string()));
    Ok(out.finish())
}

/// Whether two JSON texts are the same value. Byte-equal texts are not parsed.
pub fn same_json(a: &[u8], b: &[u8]) -> bool {
    a == b
        || match (serde_json::from_slice::<Value>(a), serde_json::from_slice::<Value>(b)) {
            (Ok(a), Ok(b)) => a == b,
            _ => false,
        }
}

/// Whether both texts have a `lastModifiedDateTime`, and that of `a` is earlier.
pub fn is_older(a: &[u8], b: &[u8]) -> bool {
    let modified = |json| {
        let value = JsonMembers::parse(json).ok()?.get("lastModifiedDateTime")?.get();
        serde_json::from_str::<Timestamp>(value).ok()
    };
    matches!((modified(a), modified(b)), (Some(a), Some(b)) if a < b)
}

/// Whether two masters give their occurrences the same content.
pub fn same_for_occurrences(a: &[u8], b: &[u8]) -> bool {
    fn inherited(json: &[u8]) -> Option<serde_json::Map<String, Value>> {
        let mut map: serde_json::Map<String, Value> = serde_json::from_slice(json).ok()?;
        for name in OCCURRENCE_MEMBERS.iter().chain(&["recurrence", "originalStart"]) {
            map.remove(*name);
        }
        Some(map)
    }
    a == b
        || match (inherited(a), inherited(b)) {
            (Some(a), Some(b)) => a == b,
            _ => false,
        }
}

fn master_len(master: &JsonMembers<'_>) -> usize {
    master.0.iter().map(|(n, v)| n.len() + v.get().len() + 4).sum()
}

/// Percent-encodes everything but unreserved characters, as Graph does with ids in `webLink`.
fn percent_encode(id: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(id.len() + 8);
    for byte in id.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            write!(out, "%{byte:02X}").ok();
        }
    }
    out
}

/// Builds a JSON object member by member.
struct ObjectBuilder(Vec<u8>);

impl ObjectBuilder {
    fn with_capacity(bytes: usize) -> Self {
        let mut out = Vec::with_capacity(bytes + 64);
        out.push(b'{');
        Self(out)
    }

    fn raw(&mut self, name: &str, value: &str) {
        if self.0.len() > 1 {
            self.0.push(b',');
        }
        // A string always serializes.
        self.0.extend(serde_json::to_vec(name).unwrap_or_default());
        self.0.push(b':');
        self.0.extend_from_slice(value.as_bytes());
    }

    fn value(&mut self, name: &str, value: &Value) {
        self.raw(name, &value.to_string());
    }

    fn finish(mut self) -> Vec<u8> {
        self.0.push(b'}');
        self.0
    }
}
