//! For any events, the rendered calendar consists of content lines that every reader accepts:
//! short, without control characters, in balanced components. Each event has its own UID.
#![no_main]

use std::collections::BTreeSet;

use calmirror::api::ics::{SeriesMode, events_of};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

fuzz_target!(|data: &[u8]| {
    // Each piece of the input, as JSON or else as text, is an event and a value of event members.
    let mut window = Vec::new();
    for (index, piece) in data.split(|byte| *byte == 0).enumerate() {
        let text = String::from_utf8_lossy(piece);
        let value = serde_json::from_slice(piece).unwrap_or(Value::String(text.into_owned()));
        window.push(value.clone());
        window.extend(events(index, &value));
    }
    // A window contains each id once.
    let mut ids = BTreeSet::new();
    window.retain(|event| ids.insert(event["id"].as_str().map(str::to_owned)));
    let window: Vec<Vec<u8>> = window.iter().map(|event| event.to_string().into()).collect();
    for series in [SeriesMode::Own, SeriesMode::Linked] {
        check(&events_of(&window, series), series);
    }
});

/// A single event and an exception that have `value` in most of their members.
fn events(index: usize, value: &Value) -> [Value; 2] {
    let moment = json!({"dateTime": "2026-11-23T08:00:00", "timeZone": "UTC"});
    let person = json!({"emailAddress": {"name": value, "address": value}, "status": value});
    let event = json!({
        "id": format!("e{index}"), "type": "singleInstance", "start": moment, "end": moment,
        "subject": value, "body": {"contentType": "html", "content": value}, "bodyPreview": value,
        "location": {"displayName": value}, "categories": [value, value], "webLink": value,
        "organizer": person, "attendees": [person, value], "showAs": value, "iCalUId": value,
        "onlineMeeting": {"joinUrl": format!("https://{value}")}, "createdDateTime": value,
    });
    let mut exception = event.clone();
    exception["id"] = json!(format!("x{index}"));
    exception["type"] = json!("exception");
    exception["seriesMasterId"] = json!("m");
    exception["originalStart"] = value.clone();
    exception["isAllDay"] = json!(index % 2 == 0);
    [event, exception]
}

fn check(calendar: &str, series: SeriesMode) {
    let mut inside = false;
    let mut uids = BTreeSet::new();
    assert!(calendar.is_empty() || calendar.ends_with("\r\n"));
    for line in calendar.split_terminator("\r\n") {
        assert!(line.len() <= 75, "{line}");
        assert!(!line.contains(|c: char| c.is_control() && c != '\t'), "{line:?}");
    }
    for line in calendar.replace("\r\n ", "").split_terminator("\r\n") {
        let (name, value) = line.split_once([':', ';']).expect("a content line");
        assert!(name.bytes().all(|b| b.is_ascii_uppercase() || b == b'-'), "{line}");
        match (name, value) {
            ("BEGIN", "VEVENT") => assert!(!std::mem::replace(&mut inside, true)),
            ("END", "VEVENT") => assert!(std::mem::replace(&mut inside, false)),
            ("BEGIN" | "END", _) => panic!("{line}"),
            ("UID", uid) if series == SeriesMode::Own => {
                assert!(uids.insert(uid.to_owned()), "twice: {line}");
            }
            _ => assert!(inside),
        }
    }
    assert!(!inside);
}
