//! Rows of changes, and a model that every database has to agree with.

pub(in crate::sinks) mod model;

use bytes::Bytes;

use super::*;

/// A change of an event whose subject is its content.
pub(in crate::sinks) fn change(window: &str, id: &str, event: Option<&str>) -> Change {
    Change {
        cursor: String::new(),
        seq: 7,
        at: "2026-11-21T10:00:00Z".parse().unwrap(),
        window: window.into(),
        kind: if event.is_some() { ChangeKind::Updated } else { ChangeKind::Removed },
        reason: event.is_none().then_some(RemovalReason::Deleted),
        id: EventId::new(id),
        event: event.map(|json| Bytes::copy_from_slice(json.as_bytes())),
        changed: None,
        is_new_version: false,
        summary: None,
    }
}

/// A batch between snapshots.
pub(in crate::sinks) fn live(changes: Vec<Change>, windows: &[&str]) -> SinkBatch {
    let window = |name: &&str| SinkWindow {
        name: (*name).into(),
        account: "contoso".to_owned(),
        mailbox: format!("{name}@contoso.com"),
        calendar: "default".to_owned(),
        place: None,
    };
    SinkBatch {
        sink: "copy".into(),
        shard: crate::mirror::shard::Shard::ALONE,
        at: "2026-11-21T10:00:05Z".parse().unwrap(),
        before: "1".to_owned(),
        after: SinkPosition { cursor: "2".to_owned(), snapshot: None },
        snapshot: None,
        begins: false,
        ends: false,
        changes,
        windows: windows.iter().map(window).collect(),
    }
}

/// An event with every column.
pub(in crate::sinks) const FULL: &str = r#"{
    "id":"AA=","subject":"Review \"Q4\"","start":{"dateTime":"2026-11-23T10:00:00.0000000",
    "timeZone":"Europe/Berlin"},"end":{"dateTime":"2026-11-23T11:30:00.0000000",
    "timeZone":"Europe/Berlin"},"isAllDay":false,"showAs":"tentative","isCancelled":true,
    "organizer":{"emailAddress":{"name":"Bob","address":"bob@contoso.com"}},
    "location":{"displayName":"Room 1"},"sensitivity":"private","seriesMasterId":"MM=",
    "type":"occurrence","onlineMeeting":{"joinUrl":"https://teams.microsoft.com/l/1"}}"#;

/// An event of the kind that would stop a sink.
pub(in crate::sinks) const HOSTILE: &str = r#"{"subject":"nul \u0000 half \ud83d end","n":1e999999,
    "start":{"dateTime":"soon","timeZone":"UTC"},"end":7,"organizer":[],"location":"x",
    "isAllDay":"yes","showAs":null}"#;

#[test]
fn a_row_has_what_the_event_has() {
    let read = |json: &str| {
        let change = change("alice", "AA=", Some(json));
        let row = EventColumns::read(&change, &mut TimeReader::default());
        format!("{:?}", EventColumns { event: None, ..row })
    };
    let text = |value: &str| Some(value.to_owned());
    let empty = EventColumns {
        window: "alice".into(),
        id: "AA=".into(),
        start: None,
        end: None,
        all_day: false,
        subject: None,
        show_as: None,
        organizer: None,
        organizer_name: None,
        location: None,
        is_cancelled: false,
        sensitivity: None,
        series_master_id: None,
        kind: None,
        join_url: None,
        event: None,
        seq: 7,
        changed_at: "2026-11-21T10:00:00Z".parse().unwrap(),
    };
    for json in ["{}", "[]", "not JSON", "{\"subject\":{},\"start\":null}"] {
        assert_eq!(read(json), format!("{empty:?}"), "{json}");
    }
    let hostile =
        EventColumns { subject: text("nul \u{fffd} half \u{fffd} end"), show_as: None, ..empty };
    assert_eq!(read(HOSTILE), format!("{hostile:?}"));
    let full = EventColumns {
        start: "2026-11-23T09:00:00Z".parse().ok(),
        end: "2026-11-23T10:30:00Z".parse().ok(),
        subject: text("Review \"Q4\""),
        show_as: text("tentative"),
        organizer: text("bob@contoso.com"),
        organizer_name: text("Bob"),
        location: text("Room 1"),
        is_cancelled: true,
        sensitivity: text("private"),
        series_master_id: text("MM="),
        kind: text("occurrence"),
        join_url: text("https://teams.microsoft.com/l/1"),
        ..hostile
    };
    assert_eq!(read(FULL), format!("{full:?}"));
}

#[test]
fn a_newer_version_is_refused_by_number() {
    let steps = ["one", "two"];
    let missing = |version| missing_steps(version, &steps, "schema copy").map_err(|e| e.message);
    assert_eq!(missing(0), Ok(&["one", "two"][..]));
    assert_eq!(missing(1), Ok(&["two"][..]));
    assert_eq!(missing(2), Ok(&[][..]));
    for version in [3, -1] {
        let refused = missing(version).unwrap_err();
        let shown = format!("version {version} and this calmirror writes version 2");
        assert!(refused.contains(&shown) && refused.contains("schema copy"), "{refused}");
    }
}

#[test]
fn a_position_is_read_back_or_is_none() {
    let read = |cursor: Option<&str>, snapshot: Option<&str>| {
        kept(cursor.map(str::to_owned), snapshot.map(str::to_owned))
    };
    for snapshot in [None, Some(SnapshotId(0)), Some(SnapshotId(u64::MAX))] {
        let position = SinkPosition { cursor: "c".to_owned(), snapshot };
        let shown = snapshot.map(|id| id.to_string());
        assert_eq!(read(Some("c"), shown.as_deref()), Some(position));
    }
    assert_eq!(read(None, Some("00")), None);
    // An unfinished snapshot whose id is lost cannot end.
    assert_eq!(read(Some("c"), Some("x")), None);
}
