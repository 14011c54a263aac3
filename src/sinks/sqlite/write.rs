//! Writes a batch in a transaction.

use std::path::Path;
use std::sync::LazyLock;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use rusqlite::{Transaction, params};

use crate::mirror::event_time::TimeReader;
use crate::sinks::batch::SinkBatch;
use crate::sinks::error::SinkError;
use crate::sinks::sql::{self, BatchRows, EVENT_COLUMNS, EventColumns, WINDOW_COLUMNS};

static UPSERT_EVENT: LazyLock<String> =
    LazyLock::new(|| upsert("event", &EVENT_COLUMNS, &EVENT_COLUMNS[..2]));
static UPSERT_WINDOW: LazyLock<String> =
    LazyLock::new(|| upsert("\"window\"", &WINDOW_COLUMNS, &WINDOW_COLUMNS[..1]));

/// `INSERT … ON CONFLICT` of the columns and `snapshot`.
fn upsert(table: &str, columns: &[&str], key: &[&str]) -> String {
    format!(
        "INSERT INTO {table} ({}, snapshot) VALUES ({}?) ON CONFLICT ({}) DO UPDATE SET {}",
        columns.join(", "),
        "?, ".repeat(columns.len()),
        key.join(", "),
        sql::assignments(columns, key.len())
    )
}

/// Writes the changes of a batch and its position.
pub(super) fn batch(
    transaction: &Transaction<'_>,
    path: &Path,
    batch: &SinkBatch,
) -> Result<(), SinkError> {
    let rows = BatchRows::new(batch);
    if batch.begins {
        // It may have begun before, with events that it does not bring any more.
        for table in ["event", "\"window\""] {
            let unmark = format!("UPDATE {table} SET snapshot = NULL WHERE snapshot = ?1");
            transaction.prepare_cached(&unmark)?.execute([&rows.snapshot])?;
        }
    }
    windows(transaction, batch, &rows)?;
    events(transaction, &rows)?;
    if batch.ends {
        // Events that did not come in the snapshot are gone.
        for table in ["event", "\"window\""] {
            let delete = format!("DELETE FROM {table} WHERE snapshot IS NOT ?1");
            transaction.prepare_cached(&delete)?.execute([&rows.snapshot])?;
        }
    }
    let position = "UPDATE position SET sink = ?1, cursor = ?2, snapshot = ?3, updated_at = ?4";
    let updated = transaction.prepare_cached(position)?.execute(params![
        &*batch.sink,
        batch.after.cursor,
        rows.unfinished,
        utc(batch.at)
    ])?;
    if updated == 1 { Ok(()) } else { Err(sql::without_position(&path.display().to_string())) }
}

fn windows(
    transaction: &Transaction<'_>,
    batch: &SinkBatch,
    rows: &BatchRows<'_>,
) -> Result<(), SinkError> {
    let mut upsert = transaction.prepare_cached(&UPSERT_WINDOW)?;
    for window in &batch.windows {
        let (building, floor, capacity) = sql::place(window);
        upsert.execute(params![
            &*window.name,
            window.account,
            window.mailbox,
            window.calendar,
            building,
            floor,
            capacity,
            rows.snapshot
        ])?;
    }
    let mut delete = transaction.prepare_cached("DELETE FROM \"window\" WHERE name = ?1")?;
    for name in &rows.dropped {
        delete.execute([name])?;
    }
    Ok(())
}

fn events(transaction: &Transaction<'_>, rows: &BatchRows<'_>) -> Result<(), SinkError> {
    let mut upsert = transaction.prepare_cached(&UPSERT_EVENT)?;
    let mut times = TimeReader::default();
    for change in &rows.upserts {
        let row = EventColumns::read(change, &mut times);
        upsert.execute(params![
            row.window,
            row.id,
            row.start.map(utc),
            row.end.map(utc),
            row.all_day,
            row.subject,
            row.show_as,
            row.organizer,
            row.organizer_name,
            row.location,
            row.is_cancelled,
            row.sensitivity,
            row.series_master_id,
            row.kind,
            row.join_url,
            row.event,
            row.seq,
            utc(row.changed_at),
            rows.snapshot
        ])?;
    }
    let mut delete =
        transaction.prepare_cached("DELETE FROM event WHERE \"window\" = ?1 AND id = ?2")?;
    for (window, id) in &rows.removed {
        delete.execute([window, id])?;
    }
    Ok(())
}

/// Whole seconds, so that the order of the texts is that of the times.
fn utc(at: Timestamp) -> String {
    let at = TimeZone::UTC.to_datetime(at);
    let (date, time) = (at.date(), at.time());
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
        date.year(),
        date.month(),
        date.day(),
        time.hour(),
        time.minute(),
        time.second()
    )
}
