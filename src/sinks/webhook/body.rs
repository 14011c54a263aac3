//! The body of a request: a JSON array of change lines, or of CloudEvents.

use jiff::Timestamp;
use serde::Serialize;

use super::WebhookFormat;
use crate::mirror::shard::Shard;
use crate::percent;
use crate::sinks::batch::SinkBatch;

/// A line that is not a change of an event: where a snapshot begins or ends, or a test.
#[derive(Serialize)]
struct MarkLine<'a> {
    change: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshot: Option<&'a str>,
    /// Whose windows the snapshot has, if several processes share them.
    #[serde(skip_serializing_if = "Option::is_none")]
    shard: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sink: Option<&'a str>,
    at: Timestamp,
}

/// The attributes of a CloudEvent (1.0), whose `data` is the line.
#[derive(Serialize)]
struct CloudEvent<'a> {
    specversion: &'static str,
    /// Together with the source, what receivers recognise it by.
    id: &'a str,
    source: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<&'a str>,
    time: Timestamp,
    datacontenttype: &'static str,
}

/// What the lines of a request have in common.
struct BodyWriter<'a> {
    format: WebhookFormat,
    sink: &'a str,
    shard: Shard,
    json: Vec<u8>,
}

/// What a line is about, for the attributes of its CloudEvent.
struct LineSubject<'a> {
    id: &'a str,
    source: &'a str,
    change: &'static str,
    subject: Option<&'a str>,
    at: Timestamp,
}

impl WebhookFormat {
    /// The type of the body.
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::Lines => "application/json",
            Self::CloudEvents => "application/cloudevents-batch+json",
        }
    }

    /// The body with the changes of a batch.
    pub(super) fn body(self, batch: &SinkBatch) -> Vec<u8> {
        let mut body = BodyWriter::new(self, &batch.sink);
        body.shard = batch.shard;
        let snapshot = batch.snapshot.map(|id| id.to_string());
        let snapshot = snapshot.as_deref();
        if batch.begins {
            body.mark("snapshot_begins", snapshot, batch.at);
        }
        for change in &batch.changes {
            let cursor = &change.cursor;
            // The same change in another snapshot is another event.
            let id = snapshot.map_or_else(|| cursor.clone(), |id| format!("{id}/{cursor}"));
            let subject = LineSubject {
                id: &id,
                source: &format!("/windows/{}", percent::encode(&change.window)),
                change: change.kind.as_str(),
                subject: Some(change.id.as_str()),
                at: change.at,
            };
            body.push(&subject, |json| change.write_line(json));
        }
        if batch.ends {
            body.mark("snapshot_ends", snapshot, batch.at);
        }
        body.finish()
    }

    /// The body of a test, which has one line.
    pub(super) fn test_body(self, sink: &str, at: Timestamp) -> Vec<u8> {
        let mut body = BodyWriter::new(self, sink);
        body.mark("test", None, at);
        body.finish()
    }
}

impl<'a> BodyWriter<'a> {
    fn new(format: WebhookFormat, sink: &'a str) -> Self {
        Self { format, sink, shard: Shard::ALONE, json: vec![b'['] }
    }

    fn mark(&mut self, change: &'static str, snapshot: Option<&str>, at: Timestamp) {
        let sink = snapshot.is_none().then_some(self.sink);
        let is_alone = self.shard == Shard::ALONE;
        let shard = (!is_alone).then(|| self.shard.to_string());
        let line = MarkLine { change, snapshot, shard, sink, at };
        let id = match snapshot {
            Some(snapshot) => format!("{snapshot}/{change}"),
            None => format!("{change}/{at}"),
        };
        let source = format!("/sinks/{}", percent::encode(self.sink));
        let subject = LineSubject { id: &id, source: &source, change, subject: None, at };
        self.push(&subject, |json| write(json, &line));
    }

    fn push(&mut self, of: &LineSubject<'_>, line: impl FnOnce(&mut Vec<u8>)) {
        if self.json.len() > 1 {
            self.json.push(b',');
        }
        if self.format == WebhookFormat::Lines {
            return line(&mut self.json);
        }
        let event = CloudEvent {
            specversion: "1.0",
            id: of.id,
            source: of.source,
            kind: &format!("dev.calmirror.{}", of.change),
            subject: of.subject,
            time: of.at,
            datacontenttype: "application/json",
        };
        write(&mut self.json, &event);
        // What follows replaces the closing brace of the event.
        self.json.pop();
        self.json.extend_from_slice(b",\"data\":");
        line(&mut self.json);
        self.json.push(b'}');
    }

    fn finish(mut self) -> Vec<u8> {
        self.json.push(b']');
        self.json
    }
}

/// Strings and times always serialize, and a `Vec` takes every byte.
fn write(json: &mut Vec<u8>, value: &impl Serialize) {
    serde_json::to_writer(json, value).ok();
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::sinks::batch::SnapshotId;
    use crate::sinks::webhook::tests::batch;

    fn parsed(format: WebhookFormat, batch: &SinkBatch) -> Value {
        serde_json::from_slice(&format.body(batch)).unwrap()
    }

    #[test]
    fn lines_are_those_of_the_feed_and_a_snapshot_has_two_more() {
        let mut batch = batch();
        let lines = parsed(WebhookFormat::Lines, &batch);
        let mut line = Vec::new();
        batch.changes[0].write_line(&mut line);
        assert_eq!(lines[0], serde_json::from_slice::<Value>(&line).unwrap());
        assert_eq!((&lines[1]["change"], lines.as_array().unwrap().len()), (&json!("removed"), 2));

        (batch.snapshot, batch.begins, batch.ends) = (Some(SnapshotId(255)), true, true);
        let snapshot = parsed(WebhookFormat::Lines, &batch);
        let mark = |change: &str| json!({"change": change, "snapshot": "00000000000000ff", "at": "2026-11-21T10:00:00Z"});
        assert_eq!(
            (&snapshot[0], &snapshot[3]),
            (&mark("snapshot_begins"), &mark("snapshot_ends"))
        );
        assert_eq!((&snapshot[1], &snapshot[2]), (&lines[0], &lines[1]));
        batch.changes.clear();
        assert_eq!(
            parsed(WebhookFormat::Lines, &batch),
            json!([mark("snapshot_begins"), mark("snapshot_ends")])
        );
        batch.shard = Shard::new(1, 3).unwrap();
        assert_eq!(parsed(WebhookFormat::Lines, &batch)[1]["shard"], "1/3");
        let test = WebhookFormat::Lines.test_body("crm", batch.at);
        let expected = r#"[{"change":"test","sink":"crm","at":"2026-11-21T10:00:00Z"}]"#;
        assert_eq!(String::from_utf8(test).unwrap(), expected);
    }

    #[test]
    fn a_cloud_event_has_its_attributes_and_the_line_as_data() {
        let mut batch = batch();
        let lines = parsed(WebhookFormat::Lines, &batch);
        let events = parsed(WebhookFormat::CloudEvents, &batch);
        assert_eq!(
            events[0],
            json!({
                "specversion": "1.0", "id": "c~1", "source": "/windows/room%20a",
                "type": "dev.calmirror.created", "subject": "AA=", "time": "2026-11-21T09:59:58Z",
                "datacontenttype": "application/json", "data": lines[0],
            })
        );
        assert_eq!(events[1]["type"], "dev.calmirror.removed");
        // Receivers drop what they know by source and id, and a snapshot has to come through.
        (batch.snapshot, batch.begins) = (Some(SnapshotId(255)), true);
        let snapshot = parsed(WebhookFormat::CloudEvents, &batch);
        assert_eq!(snapshot[0]["id"], "00000000000000ff/snapshot_begins");
        assert_eq!(snapshot[0]["source"], "/sinks/crm");
        assert_eq!(snapshot[0]["type"], "dev.calmirror.snapshot_begins");
        assert_eq!(snapshot[1]["id"], "00000000000000ff/c~1");
        let test = WebhookFormat::CloudEvents.test_body("crm", batch.at);
        let test: Value = serde_json::from_slice(&test).unwrap();
        assert_eq!(test[0]["data"]["change"], "test");
        assert_eq!(test[0]["id"], "test/2026-11-21T10:00:00Z");
    }
}
