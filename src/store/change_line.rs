//! A change as one line of JSON, the form in which consumers outside the process get it.

use jiff::Timestamp;
use serde::Serialize;

use super::Change;
use crate::json::{JsonMembers, extend_flat};
use crate::mirror::change::{RemovalReason, Seq};

/// A change without the event at its end.
#[derive(Serialize)]
struct ChangeLine<'a> {
    cursor: &'a str,
    seq: Seq,
    at: Timestamp,
    window: &'a str,
    change: &'static str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    changed: Option<&'a [String]>,
}

/// The members of a removed event that its line shows.
const REMOVED_MEMBERS: [&str; 4] = ["subject", "start", "end", "isAllDay"];

impl Change {
    /// Writes the change without a line end. The event is copied as stored, with line ends replaced
    /// by spaces: in JSON, a line end can only be white space between tokens.
    pub fn write_line(&self, text: &mut Vec<u8>) {
        let line = ChangeLine {
            cursor: &self.cursor,
            seq: self.seq,
            at: self.at,
            window: &self.window,
            change: self.kind.as_str(),
            id: self.id.as_str(),
            reason: self.reason.map(RemovalReason::as_str),
            changed: self.changed.as_deref(),
        };
        // Strings and numbers always serialize, and a Vec takes every byte.
        serde_json::to_writer(&mut *text, &line).ok();
        // What follows replaces the closing brace of the line.
        if let Some(event) = &self.event {
            text.pop();
            text.extend_from_slice(b",\"event\":");
            extend_flat(text, event);
            text.push(b'}');
        }
        let summary = self.summary.as_ref().and_then(|json| JsonMembers::parse(json).ok());
        if let Some(summary) = summary.map(|members| members.only(&REMOVED_MEMBERS))
            && summary != b"{}"
        {
            text.pop();
            text.push(b',');
            extend_flat(text, &summary[1..]);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::mirror::change::ChangeKind;
    use crate::mirror::page::EventId;

    #[test]
    fn a_change_is_one_line() {
        let mut change = Change {
            cursor: "c~1".to_owned(),
            seq: 7,
            at: "2026-11-21T10:00:00Z".parse().unwrap(),
            window: "room \"a\"".into(),
            kind: ChangeKind::Updated,
            reason: None,
            id: EventId::new("AA="),
            event: Some("{\"id\":\r\n\"AA=\"}".into()),
            changed: Some(vec!["start".to_owned()]),
            is_new_version: false,
            summary: None,
        };
        let start = r#"{"cursor":"c~1","seq":7,"at":"2026-11-21T10:00:00Z","window":"room \"a\"","#;
        let mut text = b"before".to_vec();
        change.write_line(&mut text);
        let line = r#""change":"updated","id":"AA=","changed":["start"],"event":{"id":  "AA="}}"#;
        assert_eq!(String::from_utf8(text).unwrap(), format!("before{start}{line}"));

        (change.kind, change.reason) = (ChangeKind::Removed, Some(RemovalReason::LeftWindow));
        (change.event, change.changed) = (None, None);
        let removed = r#""change":"removed","id":"AA=","reason":"left_window""#;
        let summary = r#"{"subject":"a","isAllDay":false,"sensitivity":"normal"}"#;
        for (summary, end) in
            [(None, "}"), (Some("{}"), "}"), (Some(summary), r#","subject":"a","isAllDay":false}"#)]
        {
            change.summary = summary.map(Bytes::from);
            let mut text = Vec::new();
            change.write_line(&mut text);
            assert_eq!(String::from_utf8(text).unwrap(), format!("{start}{removed}{end}"));
        }
    }
}
