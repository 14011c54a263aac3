//! What the databases have in common: tables, their versions, and the row of a change.
//!
//! The statements that create the tables are written for PostgreSQL; [`in_sqlite`] gives those for
//! SQLite.

mod json;

use std::borrow::Cow;

use jiff::Timestamp;
use tokio::time::Duration;

use super::batch::{SinkBatch, SinkPosition, SinkWindow, SnapshotId};
use super::error::{SinkError, SinkErrorKind};
use crate::json::JsonMembers;
use crate::mirror::change::{ChangeKind, RemovalReason};
use crate::mirror::event_time::TimeReader;
use crate::mirror::join_link::join_url;
use crate::mirror::page::EventId;
use crate::mirror::shard::Shard;
use crate::store::Change;

/// The statements that make each version of the tables of the one before, beginning with none.
pub(super) const MIGRATIONS: &[&str] = &[include_str!("sql/version_1.sql")];

/// What the migrations create. None of it may exist before.
pub(super) const NAMES: [&str; 6] =
    ["event", "window", "position", "agenda", "busy", "event_start"];

/// The column of `position` that tells calmirror's own tables from others.
pub(super) const VERSION_COLUMN: &str = "schema_version";

/// How long another session may keep its lock on the tables: one that was just lost ends soon.
pub(super) const LOCK_WAIT: Duration = Duration::from_secs(2);

/// The columns of `event` before `snapshot`, in the order of [`EventColumns`].
pub(super) const EVENT_COLUMNS: [&str; 18] = [
    "\"window\"",
    "id",
    "start",
    "\"end\"",
    "all_day",
    "subject",
    "show_as",
    "organizer",
    "organizer_name",
    "location",
    "is_cancelled",
    "sensitivity",
    "series_master_id",
    "type",
    "join_url",
    "event",
    "seq",
    "changed_at",
];

/// The columns of `window` before `snapshot`, in the order of [`SinkWindow`].
pub(super) const WINDOW_COLUMNS: [&str; 7] =
    ["name", "account", "mailbox", "calendar", "building", "floor", "capacity"];

/// `a = excluded.a, …` of all columns but those of the key, and of `snapshot`.
pub(super) fn assignments(columns: &[&str], key: usize) -> String {
    let columns = columns.iter().skip(key).chain(&["snapshot"]);
    columns.map(|name| format!("{name} = excluded.{name}")).collect::<Vec<_>>().join(", ")
}

/// The same statements with the types of SQLite.
pub(super) fn in_sqlite(statements: &str) -> String {
    let types = [("timestamptz", "text"), ("jsonb", "text"), ("boolean", "integer")];
    types.iter().fold(statements.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// The statements that are missing in a database whose tables have this version; 0 without tables.
/// `place` names the database.
pub(super) fn missing_steps<'a>(
    version: i64,
    migrations: &'a [&'a str],
    place: &str,
) -> Result<&'a [&'a str], SinkError> {
    usize::try_from(version).ok().and_then(|done| migrations.get(done..)).ok_or_else(|| {
        unsuitable(format!(
            "the tables in {place} are of version {version} and this calmirror writes version {}; \
             use a newer calmirror, or another place for its tables",
            migrations.len()
        ))
    })
}

pub(super) fn unsuitable(message: String) -> SinkError {
    SinkError::new(SinkErrorKind::Unsuitable, message)
}

/// The error for tables of somebody else.
pub(super) fn foreign(place: &str, name: &str) -> SinkError {
    unsuitable(format!(
        "{place} already has \"{name}\", which calmirror did not create; give calmirror a place of \
         its own"
    ))
}

/// The error for tables without the row of `position`.
pub(super) fn without_position(place: &str) -> SinkError {
    unsuitable(format!(
        "the table position in {place} does not have its one row; drop calmirror's tables, and it \
         writes them again"
    ))
}

/// The position that the columns `cursor` and `snapshot` say; `None`, and so a new snapshot, if
/// somebody wrote something else there.
pub(super) fn kept(cursor: Option<String>, snapshot: Option<String>) -> Option<SinkPosition> {
    let snapshot = snapshot.map(|digits| u64::from_str_radix(&digits, 16));
    Some(SinkPosition { cursor: cursor?, snapshot: snapshot.transpose().ok()?.map(SnapshotId) })
}

/// A batch as rows.
pub(super) struct BatchRows<'a> {
    /// The events to write; reading one takes time.
    pub(super) upserts: Vec<&'a Change>,
    /// Window and id of the events to delete.
    pub(super) removed: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    /// The windows to delete: they were dropped.
    pub(super) dropped: Vec<&'a str>,
    /// The snapshot that brings the rows.
    pub(super) snapshot: Option<String>,
    /// The snapshot that is unfinished afterwards.
    pub(super) unfinished: Option<String>,
}

impl<'a> BatchRows<'a> {
    pub(super) fn new(batch: &'a SinkBatch) -> Self {
        let (gone, upserts): (Vec<_>, Vec<_>) =
            batch.changes.iter().partition(|change| change.kind == ChangeKind::Removed);
        let is_configured = |name: &str| batch.windows.iter().any(|window| &*window.name == name);
        let mut dropped: Vec<&str> = gone
            .iter()
            .filter(|change| change.reason == Some(RemovalReason::WindowDropped))
            .map(|change| &*change.window)
            .filter(|name| !is_configured(name))
            .collect();
        dropped.sort_unstable();
        dropped.dedup();
        Self {
            upserts,
            removed: gone.into_iter().map(key).collect(),
            dropped,
            snapshot: batch.snapshot.map(|id| id.to_string()),
            unfinished: batch.after.snapshot.map(|id| id.to_string()),
        }
    }
}

/// Window and id of a change, as the databases can hold them.
fn key(change: &Change) -> (Cow<'_, str>, Cow<'_, str>) {
    (json::without_nul(&change.window), json::without_nul(change.id.as_str()))
}

/// A row of `event` without `snapshot`.
#[derive(Debug, PartialEq)]
pub(super) struct EventColumns<'a> {
    pub(super) window: Cow<'a, str>,
    pub(super) id: Cow<'a, str>,
    pub(super) start: Option<Timestamp>,
    pub(super) end: Option<Timestamp>,
    pub(super) all_day: bool,
    pub(super) subject: Option<String>,
    pub(super) show_as: Option<String>,
    pub(super) organizer: Option<String>,
    pub(super) organizer_name: Option<String>,
    pub(super) location: Option<String>,
    pub(super) is_cancelled: bool,
    pub(super) sensitivity: Option<String>,
    pub(super) series_master_id: Option<String>,
    pub(super) kind: Option<String>,
    pub(super) join_url: Option<String>,
    pub(super) event: Option<Cow<'a, str>>,
    pub(super) seq: i64,
    pub(super) changed_at: Timestamp,
}

impl<'a> EventColumns<'a> {
    /// Reads the row of a change. What the event does not have, or has in a form that cannot be
    /// read, is null.
    pub(super) fn read(change: &'a Change, times: &mut TimeReader) -> Self {
        let event = change.event.as_deref().and_then(json::storable);
        let members = event.as_ref().and_then(|event| JsonMembers::parse(event.as_bytes()).ok());
        let members = members.unwrap_or(JsonMembers(Vec::new()));
        let text = |name| members.text(name).map(Cow::into_owned);
        let is = |name| members.get(name).is_some_and(|value| value.get() == "true");
        let organizer = inner(&members, "organizer");
        let address = organizer.as_ref().and_then(|organizer| inner(organizer, "emailAddress"));
        let of_address =
            |name| address.as_ref().and_then(|address| address.text(name).map(Cow::into_owned));
        let location = inner(&members, "location");
        let span = times.event(&members);
        let (window, id) = key(change);
        Self {
            window,
            id,
            start: span.map(|span| span.start.at),
            end: span.map(|span| span.end.at),
            all_day: is("isAllDay"),
            subject: text("subject"),
            show_as: text("showAs"),
            organizer: of_address("address"),
            organizer_name: of_address("name"),
            location: location.and_then(|place| place.text("displayName").map(Cow::into_owned)),
            is_cancelled: is("isCancelled"),
            sensitivity: text("sensitivity"),
            series_master_id: text("seriesMasterId"),
            kind: text("type"),
            join_url: join_url(&members),
            seq: i64::try_from(change.seq).unwrap_or(i64::MAX),
            changed_at: change.at,
            event,
        }
    }
}

/// A member that is an object.
fn inner<'a>(members: &JsonMembers<'a>, name: &str) -> Option<JsonMembers<'a>> {
    JsonMembers::parse(members.get(name)?.get().as_bytes()).ok()
}

/// Building, floor and capacity of a window.
pub(super) fn place(window: &SinkWindow) -> (Option<&str>, Option<&str>, Option<i64>) {
    let place = window.place.as_ref();
    (
        place.and_then(|place| place.building.as_deref()),
        place.and_then(|place| place.floor.as_deref()),
        place.and_then(|place| place.capacity.map(i64::from)),
    )
}

/// A batch that is never committed, to show that one could be: a window and an event.
pub(super) fn trial_batch(sink: &str, at: Timestamp) -> SinkBatch {
    let event = r#"{"subject":"A test of calmirror","start":{"dateTime":"2026-01-01T10:00:00",
        "timeZone":"UTC"},"end":{"dateTime":"2026-01-01T11:00:00","timeZone":"UTC"}}"#;
    let name = "calmirror test";
    SinkBatch {
        sink: sink.into(),
        shard: Shard::ALONE,
        at,
        before: String::new(),
        after: SinkPosition { cursor: String::new(), snapshot: None },
        snapshot: None,
        begins: false,
        ends: false,
        changes: vec![Change {
            cursor: String::new(),
            seq: 0,
            at,
            window: name.into(),
            kind: ChangeKind::Created,
            reason: None,
            id: EventId::new("test"),
            event: Some(event.into()),
            changed: None,
            is_new_version: false,
            summary: None,
        }],
        windows: vec![SinkWindow {
            name: name.into(),
            account: String::new(),
            mailbox: String::new(),
            calendar: String::new(),
            place: None,
        }],
    }
}

#[cfg(test)]
pub(super) mod tests;
