//! Splits a JSON object into its members, and writes one of members, without decoding their values.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;

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

    /// A member that is a string.
    pub fn text(&self, name: &str) -> Option<Cow<'a, str>> {
        serde_json::from_str(self.get(name)?.get()).ok().map(|JsonText(text)| text)
    }

    /// An object of the members with these names, in their order.
    pub fn only(&self, names: &[&str]) -> Vec<u8> {
        self.pick(names).finish()
    }

    /// The same, to add members to.
    pub(crate) fn pick(&self, names: &[&str]) -> JsonObject {
        let mut object = JsonObject::with_capacity(512);
        for name in names {
            if let Some(value) = self.get(name) {
                object.raw(name, value.get());
            }
        }
        object
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for JsonMembers<'a> {
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

/// Appends JSON with its line ends replaced by spaces.
pub(crate) fn extend_flat(text: &mut Vec<u8>, json: &[u8]) {
    let start = text.len();
    text.extend_from_slice(json);
    // Graph sends none, and a search writes nothing.
    if memchr::memchr2(b'\n', b'\r', json).is_none() {
        return;
    }
    for byte in text.iter_mut().skip(start) {
        *byte = if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte };
    }
}

/// A string, borrowed unless it contains escapes.
#[derive(Deserialize)]
#[serde(transparent)]
pub(crate) struct JsonText<'a>(#[serde(borrow)] pub(crate) Cow<'a, str>);

/// An object that is written member by member.
pub(crate) struct JsonObject(Vec<u8>);

impl JsonObject {
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        let mut out = Vec::with_capacity(bytes + 64);
        out.push(b'{');
        Self(out)
    }

    /// Adds a member whose value is JSON.
    pub(crate) fn raw(&mut self, name: &str, value: &str) {
        if self.0.len() > 1 {
            self.0.push(b',');
        }
        // A string always serializes, and a Vec takes every byte.
        serde_json::to_writer(&mut self.0, name).ok();
        self.0.push(b':');
        self.0.extend_from_slice(value.as_bytes());
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.0.push(b'}');
        self.0
    }
}
