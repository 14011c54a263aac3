//! What the targets of sinks hold, to compare it with the mirror.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use rusqlite::{Connection, OpenFlags, Row};
use serde_json::Value;

use crate::compare::EventsById;
use crate::process::DaemonFixture;

/// Events by window and id.
pub(crate) type EventsByWindow = BTreeMap<(String, String), Value>;

/// The lines of a webhook, applied as its receiver has to.
#[derive(Default)]
pub(crate) struct FoldedLines {
    /// With the number of the snapshot in which each event came last.
    events: BTreeMap<(String, String), (Value, u64)>,
    /// Counts the snapshots that began.
    pub(crate) snapshots: u64,
}

impl FoldedLines {
    /// Applies the body of a request.
    pub(crate) fn apply(&mut self, body: &[u8]) {
        for line in serde_json::from_slice::<Vec<Value>>(body).unwrap() {
            let text = |name: &str| line[name].as_str().unwrap().to_owned();
            match text("change").as_str() {
                "test" => {}
                "snapshot_begins" => self.snapshots += 1,
                "snapshot_ends" => {
                    let snapshot = self.snapshots;
                    self.events.retain(|_, (_, seen)| *seen == snapshot);
                }
                "removed" => drop(self.events.remove(&(text("window"), text("id")))),
                _ => {
                    let seen = (line["event"].clone(), self.snapshots);
                    self.events.insert((text("window"), text("id")), seen);
                }
            }
        }
    }

    /// The events that it holds, without the members of a version.
    pub(crate) fn events(&self) -> EventsByWindow {
        let events = self.events.iter();
        events.map(|(key, (event, _))| (key.clone(), without_versions(event))).collect()
    }
}

/// Without the members of a version: the sink leaves out changes of these alone.
pub(crate) fn without_versions(event: &Value) -> Value {
    let mut event = event.clone();
    for name in ["changeKey", "lastModifiedDateTime", "@odata.etag"] {
        event.as_object_mut().unwrap().remove(name);
    }
    event
}

/// Makes the file of a key that signs; returns the key of the configuration that names it.
pub(crate) fn secret_file(fixture: &DaemonFixture) -> String {
    let path = fixture.path("hook.whsec");
    fs::write(&path, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo=").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    format!("secret_file = {path:?}")
}

/// A connection to a SQLite file, `None` if there is no file.
pub(crate) fn open_copy(path: &Path) -> Option<Connection> {
    Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE).ok()
}

/// The events of a copy in SQL, each of which needs the row of its window.
pub(crate) const HELD: &str = "SELECT event.\"window\", event.id, event.event
    FROM event JOIN \"window\" ON \"window\".name = event.\"window\"";

/// The events of a SQLite copy.
pub(crate) fn copied(path: &Path) -> Option<EventsByWindow> {
    let copy = open_copy(path)?;
    let mut query = copy.prepare(HELD).ok()?;
    let row = |row: &Row<'_>| {
        let event: String = row.get(2)?;
        Ok(((row.get(0)?, row.get(1)?), serde_json::from_str(&event).unwrap()))
    };
    query.query_map([], row).ok()?.collect::<Result<_, _>>().ok()
}

fn keyed(window: &str, events: EventsById) -> impl Iterator<Item = ((String, String), Value)> {
    events.into_iter().map(move |(id, event)| ((window.to_owned(), id), event))
}

/// What the API shows of these windows.
pub(crate) async fn mirrored(fixture: &DaemonFixture, windows: &[&str]) -> EventsByWindow {
    let mut all = EventsByWindow::new();
    for window in windows {
        all.extend(keyed(window, fixture.api.events(window).await));
    }
    all
}
