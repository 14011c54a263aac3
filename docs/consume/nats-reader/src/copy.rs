//! The copy, and where it is in the stream.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use async_nats::Error;
use async_nats::jetstream::Message;
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};
use serde::Deserialize;
use serde_json::value::RawValue;

const TABLES: &str = "
CREATE TABLE IF NOT EXISTS event (
    window TEXT, id TEXT, event TEXT, pass INTEGER, PRIMARY KEY (window, id));
-- The last marker of each shard.
CREATE TABLE IF NOT EXISTS marker (shard INTEGER PRIMARY KEY, sequence INTEGER, line TEXT);
-- One row. pass: how often the stream was read from its beginning; whole: whether the last time was
-- completed; current_at: when this was last known to have everything, or began to read everything.
CREATE TABLE IF NOT EXISTS position (
    stream TEXT, sequence INTEGER, pass INTEGER, whole INTEGER, current_at REAL);
";

/// The line of a change.
#[derive(Deserialize)]
struct Change<'a> {
    change: String,
    window: String,
    id: String,
    #[serde(borrow)]
    event: Option<&'a RawValue>,
}

/// The line of a marker.
#[derive(Deserialize)]
struct MarkerLine {
    change: String,
    shard: String,
    snapshot: String,
    pass: String,
    began: u64,
    writer: String,
}

/// A marker, and its number in the stream.
pub struct Marker {
    sequence: u64,
    line: MarkerLine,
    text: String,
}

/// The last marker of each shard.
pub type Markers = BTreeMap<u64, Marker>;

impl Marker {
    /// `None` if it is not of calmirror.
    pub fn parse(sequence: u64, text: &[u8]) -> Option<Self> {
        let line = serde_json::from_slice(text).ok()?;
        Some(Self { sequence, line, text: String::from_utf8(text.to_vec()).ok()? })
    }

    /// Whether it comes after the known marker of its shard in the same stream, of which everything
    /// up to a position was read.
    fn follows(&self, known: Option<&Self>, position: u64) -> bool {
        let began = if self.line.began == 0 { self.sequence } else { self.line.began };
        let is_later = began > position;
        known.map_or(is_later, |known| {
            let (line, before) = (&self.line, &known.line);
            let is_same_pass = (&line.snapshot, &line.pass) == (&before.snapshot, &before.pass);
            let goes_on = is_same_pass && self.sequence >= known.sequence;
            line.writer == before.writer && (goes_on || is_later)
        })
    }
}

/// The shard whose markers have this subject; `None` if it is that of an event.
pub fn shard_of(subject: &str) -> Option<u64> {
    let (rest, last) = subject.rsplit_once('.')?;
    rest.ends_with(".snapshot").then(|| last.parse().ok())?
}

/// Whether every shard has sent everything. Those that are no more do not count.
pub fn is_whole(markers: &Markers) -> bool {
    let mut shards = Vec::new();
    for (shard, Marker { line, .. }) in markers {
        let count =
            line.shard.split_once('/').and_then(|(_, count)| count.parse().ok()).unwrap_or(0);
        if *shard < count || line.change != "divided" {
            shards.push((*shard < count, count, &*line.change));
        }
    }
    let all = shards.len() as u64;
    all > 0 && shards.iter().all(|shard| *shard == (true, all, "snapshot_ends"))
}

pub struct Copy {
    db: Connection,
    stream: String,
    pub sequence: u64,
    pass: i64,
    pub whole: bool,
    current_at: f64,
    pub markers: Markers,
}

impl Copy {
    pub fn open(path: &str) -> Result<Self, Error> {
        let db = Connection::open(path)?;
        db.execute_batch(TABLES)?;
        let position = db
            .query_row("SELECT * FROM position", [], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
            })
            .optional()?;
        let (stream, sequence, pass, whole, current_at) = position.unwrap_or_default();
        let mut copy =
            Self { db, stream, sequence, pass, whole, current_at, markers: Markers::new() };
        let mut rows = copy.db.prepare("SELECT * FROM marker")?;
        for row in rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))? {
            let (shard, sequence, text): (u64, u64, String) = row?;
            let marker =
                Marker::parse(sequence, text.as_bytes()).ok_or("a row of marker is damaged")?;
            copy.markers.insert(shard, marker);
        }
        drop(rows);
        Ok(copy)
    }

    /// Decides where to go on in the stream: after the position, or at the beginning.
    pub fn begin(&mut self, created: &str, last: u64, markers: Markers, retention: f64) {
        // A day of reserve: removals disappear after the retention, by the server's clock.
        let is_late = now() - self.current_at > (retention - 86400.0).max(retention / 2.0);
        let is_same = created == self.stream && self.sequence <= last;
        if is_same && !is_late && self.knows(&markers) {
            return;
        }
        (self.stream, self.sequence, self.markers) = (created.to_owned(), 0, markers);
        (self.pass, self.whole, self.current_at) = (self.pass + 1, false, now());
    }

    /// Whether the stream with these last markers goes on from what was read of it.
    fn knows(&self, markers: &Markers) -> bool {
        self.markers.keys().all(|shard| markers.contains_key(shard))
            && markers
                .iter()
                .all(|(shard, marker)| marker.follows(self.markers.get(shard), self.sequence))
    }

    pub fn apply(&mut self, messages: &[Message], at_end: bool) -> Result<(), Error> {
        if self.whole && messages.is_empty() && now() < self.current_at + 60.0 {
            return Ok(()); // nothing new to save
        }
        let transaction = self.db.transaction()?;
        for message in messages {
            self.sequence = message.info()?.stream_sequence;
            if let Some(shard) = shard_of(&message.subject) {
                if let Some(marker) = Marker::parse(self.sequence, &message.payload) {
                    self.markers.insert(shard, marker);
                }
            } else if let Ok(change) = serde_json::from_slice(&message.payload) {
                apply_change(&transaction, &change, self.pass)?;
            }
        }
        if at_end {
            self.current_at = now();
        }
        if at_end && !self.whole && is_whole(&self.markers) {
            // What was not in the stream.
            transaction.execute("DELETE FROM event WHERE pass <> ?", [self.pass])?;
            self.whole = true;
        }
        transaction.execute_batch("DELETE FROM position; DELETE FROM marker")?;
        transaction.execute(
            "INSERT INTO position VALUES (?, ?, ?, ?, ?)",
            params![self.stream, self.sequence, self.pass, self.whole, self.current_at],
        )?;
        for (shard, marker) in &self.markers {
            let row = params![shard, marker.sequence, marker.text];
            transaction.execute("INSERT INTO marker VALUES (?, ?, ?)", row)?;
        }
        Ok(transaction.commit()?)
    }
}

fn apply_change(db: &Transaction<'_>, change: &Change<'_>, pass: i64) -> rusqlite::Result<()> {
    let Change { change, window, id, event } = change;
    if change == "removed" {
        db.execute("DELETE FROM event WHERE window = ? AND id = ?", [window, id])?;
    } else if let Some(event) = event {
        let row = params![window, id, event.get(), pass];
        db.prepare_cached("INSERT OR REPLACE INTO event VALUES (?, ?, ?, ?)")?.execute(row)?;
    }
    Ok(())
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}
