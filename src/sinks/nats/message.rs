//! The message of a change.

use std::fmt::Write as _;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE;
use async_nats::jetstream::message::{OutboundMessage, PublishMessage};
use bytes::Bytes;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::json::{JsonMembers, JsonObject};
use crate::mirror::change::{ChangeKind, RemovalReason};
use crate::mirror::page::EventId;
use crate::sinks::batch::SinkBatch;
use crate::store::Change;

/// The header with the pass of a snapshot that a message came in.
pub(super) const SNAPSHOT: &str = "Calmirror-Snapshot";
/// The header with the number of the shard that a message comes from; without it, it is 0.
pub(super) const SHARD: &str = "Calmirror-Shard";
/// The header that ends a message's time.
pub(super) const TTL: &str = "Nats-TTL";

/// What the headers of a message take at most, of what the server accepts.
const HEADERS: usize = 1 << 10;
/// A member of an event that is larger than this is left out if the event is too large.
const LARGE_MEMBER: usize = 2 << 10;
/// Members that are named as left out.
const MAX_NAMED: usize = 20;

/// Makes messages for a stream.
#[derive(Clone, Debug)]
pub(super) struct MessageWriter {
    /// What subjects begin with.
    pub(super) subject: String,
    /// How long removals stay.
    pub(super) retention: Duration,
    /// The largest message that is accepted, in bytes.
    pub(super) limit: usize,
    /// The number of this shard.
    pub(super) ordinal: u32,
}

/// A message that is not sent yet.
pub(super) struct NatsMessage {
    pub(super) message: OutboundMessage,
    /// The members of the event that were left out, because it is too large.
    pub(super) left_out: Vec<String>,
}

/// What a message says of its event.
#[derive(Deserialize)]
pub(super) struct SentLine {
    pub(super) window: String,
    pub(super) id: String,
}

impl MessageWriter {
    /// The message of a change.
    pub(super) fn change(&self, change: &Change, pass: Option<&str>) -> NatsMessage {
        let mut line = Vec::new();
        change.write_line(&mut line);
        let limit = self.limit.saturating_sub(HEADERS);
        let mut left_out = Vec::new();
        if line.len() > limit
            && let Some(event) = &change.event
        {
            left_out = shortened(change, event, &is_small, &mut line);
            if line.len() > limit {
                left_out = shortened(change, event, &is_essential, &mut line);
            }
        }
        let mut message = PublishMessage::build().payload(line.into());
        if let Some(pass) = pass {
            message = message.header(SNAPSHOT, pass);
        }
        if self.ordinal != 0 {
            message = message.header(SHARD, self.ordinal.to_string().as_str());
        }
        if change.kind == ChangeKind::Removed {
            message = message.ttl(self.retention);
        }
        let subject = self.subject_of(&change.window, change.id.as_str());
        NatsMessage { message: message.outbound_message(subject), left_out }
    }

    /// The removal of an event that the pass of a snapshot did not bring, although the stream has it.
    /// Refused if its message is no longer the one with this number.
    pub(super) fn ghost(
        &self,
        (batch, pass): (&SinkBatch, &str),
        sent: SentLine,
        sequence: u64,
    ) -> OutboundMessage {
        let change = Change {
            cursor: batch.after.cursor.clone(),
            seq: batch.changes.last().map_or(0, |change| change.seq),
            at: batch.at,
            window: sent.window.into(),
            kind: ChangeKind::Removed,
            reason: Some(RemovalReason::Deleted),
            id: EventId::new(sent.id),
            event: None,
            changed: None,
            is_new_version: false,
            summary: None,
        };
        let mut message = self.change(&change, Some(pass)).message;
        let headers = message.headers.get_or_insert_default();
        headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, sequence.to_string());
        message
    }

    /// The subject of an event.
    pub(super) fn subject_of(&self, window: &str, id: &str) -> String {
        format!("{}.{}.{}", self.subject, window_hash(window), hash(id, 16))
    }
}

/// A subject of a sink that no event has.
pub(super) fn trial_subject(subject: &str, sink: &str) -> String {
    format!("{subject}.test.{}", hash(sink, 8))
}

/// What stands for a window in subjects.
pub(super) fn window_hash(name: &str) -> String {
    hash(name, 8)
}

/// So many bytes of a hash, in hexadecimal: names and ids may have dots and blanks, which subjects
/// cannot.
fn hash(text: &str, bytes: usize) -> String {
    let mut hash = String::with_capacity(2 * bytes);
    for byte in Sha256::digest(text).iter().take(bytes) {
        // Writing to a String cannot fail.
        write!(hash, "{byte:02x}").ok();
    }
    hash
}

/// Whether a message came in the pass, or is a removal: it is no ghost after the snapshot.
pub(super) fn is_current(headers: Option<&HeaderMap>, pass: &str) -> bool {
    let Some(headers) = headers else { return false };
    headers.get(TTL).is_some()
        || headers.get(SNAPSHOT).is_some_and(|came_in| came_in.as_str() == pass)
}

/// Writes the line of a change with only some members of its event, and the names of the others,
/// which are returned.
fn shortened(
    change: &Change,
    event: &Bytes,
    keeps: &dyn Fn(&str, &str) -> bool,
    line: &mut Vec<u8>,
) -> Vec<String> {
    let members = JsonMembers::parse(event).unwrap_or(JsonMembers(Vec::new()));
    let mut kept = JsonObject::with_capacity(event.len().min(64 << 10));
    let mut left_out = Vec::new();
    for (name, value) in &members.0 {
        match keeps(name, value.get()) {
            true => kept.raw(name, value.get()),
            false => left_out.push(name.chars().take(64).collect()),
        }
    }
    // So that the names cannot make the line too long again.
    left_out.truncate(MAX_NAMED);
    line.clear();
    Change { event: Some(kept.finish().into()), ..change.clone() }.write_line(line);
    // What follows replaces the closing brace of the line.
    line.pop();
    line.extend_from_slice(b",\"incomplete\":");
    // Strings always serialize, and a Vec takes every byte.
    serde_json::to_writer(&mut *line, &left_out).ok();
    line.push(b'}');
    left_out
}

fn is_small(name: &str, value: &str) -> bool {
    name.len() + value.len() <= LARGE_MEMBER
}

/// Whether a member is one that every reader needs.
fn is_essential(name: &str, value: &str) -> bool {
    const ESSENTIAL: [&str; 7] =
        ["id", "subject", "start", "end", "isAllDay", "showAs", "isCancelled"];
    ESSENTIAL.contains(&name) && is_small(name, value)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::sinks::sql::tests::{change, live};

    fn writer(limit: usize) -> MessageWriter {
        MessageWriter {
            subject: "cal.prod".to_owned(),
            retention: Duration::from_secs(7200),
            limit,
            ordinal: 0,
        }
    }

    fn parts(sent: OutboundMessage) -> (String, Value, HeaderMap) {
        let line = serde_json::from_slice(&sent.payload).unwrap();
        (sent.subject.to_string(), line, sent.headers.unwrap_or_default())
    }

    #[test]
    fn a_message_is_the_line_of_the_feed_under_the_subject_of_its_event() {
        let mut sent = change("room a.b > *", "AA=", Some(r#"{"id":"AA="}"#));
        sent.cursor = "c~7".to_owned();
        let (subject, line, headers) = parts(writer(1 << 20).change(&sent, None).message);
        let mut written = Vec::new();
        sent.write_line(&mut written);
        assert_eq!(line, serde_json::from_slice::<Value>(&written).unwrap());
        assert_eq!(subject, "cal.prod.0d622dcd94cd0517.5bcbd9e149b04ee215400e28e5f9dbce");
        assert!(headers.get(TTL).is_none() && headers.get(SNAPSHOT).is_none());
        let (again, _, headers) = parts(writer(1 << 20).change(&sent, Some("ff-7")).message);
        assert_eq!(again, subject);
        assert!(is_current(Some(&headers), "ff-7"));
        assert!(!is_current(Some(&headers), "ff-8") && !is_current(None, "ff-7"));
        let (_, _, headers) = parts(writer(1 << 20).change(&change("a", "b", None), None).message);
        assert_eq!(headers.get(TTL).unwrap().as_str(), "7200");
        assert!(is_current(Some(&headers), "ff-7"));
    }

    #[test]
    fn a_ghost_is_removed_under_its_subject() {
        let batch = live(vec![change("a", "b", None)], &["a"]);
        let sent = SentLine { window: "room a".to_owned(), id: "AA=".to_owned() };
        let (subject, line, headers) = parts(writer(1 << 20).ghost((&batch, "ff-7"), sent, 9));
        assert_eq!(subject, writer(0).subject_of("room a", "AA="));
        assert_eq!(
            line,
            serde_json::json!({
                "cursor": "2", "seq": 7, "at": "2026-11-21T10:00:05Z", "window": "room a",
                "change": "removed", "id": "AA=", "reason": "deleted",
            })
        );
        assert_eq!(headers.get(TTL).unwrap().as_str(), "7200");
    }

    #[test]
    fn a_large_event_loses_its_large_members_and_says_which() {
        let body = "x".repeat(LARGE_MEMBER);
        let event = format!(r#"{{"id":"AA=","body":"{body}","subject":"a"}}"#);
        let sent = change("a", "AA=", Some(&event));
        let large = writer(HEADERS + event.len() + 200).change(&sent, None);
        assert!(large.left_out.is_empty());
        let message = writer(HEADERS + event.len() - 100).change(&sent, None);
        assert_eq!(message.left_out, ["body"]);
        let (_, line, _) = parts(message.message);
        assert_eq!(line["event"], serde_json::json!({"id": "AA=", "subject": "a"}));
        assert_eq!(line["incomplete"], serde_json::json!(["body"]));
        // Many members that are not large.
        let members: Vec<String> = (0..50).map(|n| format!("\"m{n}\":\"{body:.1000}\"")).collect();
        let event = format!("{{\"id\":\"AA=\",{},\"subject\":\"a\"}}", members.join(","));
        let message = writer(8 << 10).change(&change("a", "AA=", Some(&event)), None);
        assert_eq!(message.left_out.len(), MAX_NAMED);
        let (_, line, _) = parts(message.message);
        assert_eq!(line["event"], serde_json::json!({"id": "AA=", "subject": "a"}));
    }
}
