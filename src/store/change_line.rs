//! A change as one line of JSON, the form in which consumers outside the process get it.

use jiff::Timestamp;
use serde::Serialize;

use super::Change;
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
}

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
        };
        // Strings and numbers always serialize, and a Vec takes every byte.
        serde_json::to_writer(&mut *text, &line).ok();
        if let Some(event) = &self.event {
            // Replaces the closing brace of the line.
            text.pop();
            text.extend_from_slice(b",\"event\":");
            let flat = |byte: &u8| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte };
            text.extend(event.iter().map(flat));
            text.push(b'}');
        }
    }
}

#[cfg(test)]
mod tests {
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
        };
        let start = r#"{"cursor":"c~1","seq":7,"at":"2026-11-21T10:00:00Z","window":"room \"a\"","#;
        let mut text = b"before".to_vec();
        change.write_line(&mut text);
        let line = r#""change":"updated","id":"AA=","event":{"id":  "AA="}}"#;
        assert_eq!(String::from_utf8(text).unwrap(), format!("before{start}{line}"));

        (change.kind, change.reason) = (ChangeKind::Removed, Some(RemovalReason::LeftWindow));
        change.event = None;
        let mut text = Vec::new();
        change.write_line(&mut text);
        let line = r#""change":"removed","id":"AA=","reason":"left_window"}"#;
        assert_eq!(String::from_utf8(text).unwrap(), format!("{start}{line}"));
    }
}
