//! `sql`: events written to PostgreSQL and SQLite by their sinks, compared with a plain copy and
//! upsert of rows that were read before. The server is `CALMIRROR_TEST_POSTGRES`, or the local one.

use std::pin::pin;
use std::time::{Duration, Instant, SystemTime};

use calmirror::mirror::change::ChangeKind;
use calmirror::mirror::page::EventId;
use calmirror::sinks::batch::{SinkBatch, SinkPosition, SinkWindow};
use calmirror::sinks::postgres::{PostgresSettings, PostgresTarget};
use calmirror::sinks::secret::SinkSecret;
use calmirror::sinks::sqlite::{SqliteSettings, SqliteTarget};
use calmirror::sinks::target::SinkTarget;
use calmirror::store::Change;
use serde_json::value::RawValue;
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::types::{Json, ToSql, Type};
use tokio_postgres::{Client, NoTls};

use crate::daemon::directory;
use crate::table::{Row, Table, note};

/// The name to select this figure by.
pub(crate) const NAME: &str = "sql";
/// Batches of changes, each written twice: as new events, then over them.
const BATCHES: usize = 20;
/// Changes of a batch.
const CHANGES: usize = 1000;
/// The sink and the baseline take turns, so that the server's own work falls on both.
const TURNS: usize = 3;
/// The columns of `event` without `snapshot`.
const COLUMNS: &str = "\"window\", id, start, \"end\", all_day, subject, show_as, organizer, \
    organizer_name, location, is_cancelled, sensitivity, series_master_id, type, join_url, event, \
    seq, changed_at";

pub(crate) async fn run(table: &mut Table) {
    let batches: Vec<SinkBatch> = (0..BATCHES).map(batch).collect();
    let url = std::env::var("CALMIRROR_TEST_POSTGRES")
        .unwrap_or_else(|_| "postgres://postgres@127.0.0.1:5432/test".to_owned());
    match tokio_postgres::connect(&url, NoTls).await {
        Ok((client, connection)) => {
            tokio::spawn(connection);
            postgres(table, &batches, &url, client).await;
        }
        Err(_) => note("no PostgreSQL answers: the sink for it is not measured"),
    }
    sqlite(table, &batches).await;
}

/// A batch of events of 1.5 KB.
fn batch(number: usize) -> SinkBatch {
    let at = "2026-11-21T10:00:00Z".parse().unwrap();
    let change = |at_batch: usize| {
        let n = number * CHANGES + at_batch;
        let text = format!("Agenda of meeting {n}: &lt;b&gt;figures&lt;/b&gt;, plans, questions. ");
        let event = format!(
            r#"{{"@odata.etag":"W/\"{n}\"","id":"{id}","changeKey":"{n}","subject":"Meeting {n}",
            "start":{{"dateTime":"2026-11-23T10:00:00.0000000","timeZone":"UTC"}},
            "end":{{"dateTime":"2026-11-23T10:30:00.0000000","timeZone":"UTC"}},
            "isAllDay":false,"isCancelled":false,"showAs":"busy","sensitivity":"normal",
            "type":"singleInstance","location":{{"displayName":"Room {n}"}},
            "organizer":{{"emailAddress":{{"name":"Bob {n}","address":"bob@contoso.com"}}}},
            "body":{{"contentType":"html","content":"{text}"}}}}"#,
            id = id(n),
            text = text.repeat(14),
        );
        Change {
            cursor: n.to_string(),
            seq: n as u64,
            at,
            window: "alice".into(),
            kind: ChangeKind::Updated,
            reason: None,
            id: EventId::new(id(n)),
            event: Some(event.into()),
            changed: None,
            is_new_version: false,
            summary: None,
        }
    };
    SinkBatch {
        shard: calmirror::mirror::shard::Shard::ALONE,
        sink: "copy".into(),
        at,
        before: String::new(),
        after: SinkPosition { cursor: number.to_string(), snapshot: None },
        snapshot: None,
        begins: false,
        ends: false,
        changes: (0..CHANGES).map(change).collect(),
        windows: vec![SinkWindow {
            name: "alice".into(),
            account: "contoso".into(),
            mailbox: "alice@contoso.com".into(),
            calendar: "default".into(),
            place: None,
        }],
    }
}

/// As long as an id of Graph, in no order.
fn id(n: usize) -> String {
    format!("{:016x}{}", (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15), "A".repeat(136))
}

fn row(table: &mut Table, name: &str, baseline: &str, mine: Duration, plain: Duration) {
    let events = (BATCHES * CHANGES * 2 * TURNS) as f64;
    let (mine, plain) = (events / mine.as_secs_f64(), events / plain.as_secs_f64());
    table.row(Row {
        figure: format!("{NAME}: {name}, {CHANGES} of 1.5 KB a batch"),
        measured: format!("{mine:.0}/s"),
        baseline: format!("{baseline} {plain:.0}/s"),
        ratio: Some(mine / plain),
        limit: "≥ 0.5".to_owned(),
        kept: Some(mine >= 0.5 * plain),
    });
}

async fn postgres(table: &mut Table, batches: &[SinkBatch], url: &str, mut client: Client) {
    let schema = format!("calmirror_bench_{}", std::process::id());
    let settings = PostgresSettings {
        url: SinkSecret::Inline(url.into()),
        schema: schema.as_str().into(),
        authorities: [].into(),
    };
    let mut target = PostgresTarget::new(&settings);
    target.open(None).await.unwrap();
    client
        .batch_execute(&format!(
            "SET search_path TO {schema};
             CREATE TABLE plain (LIKE event INCLUDING ALL);
             CREATE TEMPORARY TABLE rows ON COMMIT DELETE ROWS AS
             SELECT {COLUMNS} FROM event WITH NO DATA"
        ))
        .await
        .unwrap();
    let events = raw(batches);
    let (mut mine, mut plain) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..TURNS {
        client.batch_execute("TRUNCATE event, plain; CHECKPOINT").await.unwrap();
        let began = Instant::now();
        for batch in batches.iter().chain(batches) {
            target.deliver(batch).await.unwrap();
        }
        mine += began.elapsed();
        client.batch_execute("CHECKPOINT").await.unwrap();
        let began = Instant::now();
        for (batch, events) in batches.iter().zip(&events).chain(batches.iter().zip(&events)) {
            copy_and_upsert(&mut client, batch, events).await;
        }
        plain += began.elapsed();
    }
    drop(target);
    client.batch_execute(&format!("DROP SCHEMA {schema} CASCADE")).await.unwrap();
    row(table, "PostgreSQL", "COPY and upsert", mine, plain);
}

/// The JSON of each batch, read before.
fn raw(batches: &[SinkBatch]) -> Vec<Vec<Json<Box<RawValue>>>> {
    let raw =
        |change: &Change| Json(serde_json::from_slice(change.event.as_deref().unwrap()).unwrap());
    batches.iter().map(|batch| batch.changes.iter().map(raw).collect()).collect()
}

/// What a program does that has the same rows at hand.
async fn copy_and_upsert(client: &mut Client, batch: &SinkBatch, events: &[Json<Box<RawValue>>]) {
    let types = [
        Type::TEXT,
        Type::TEXT,
        Type::TIMESTAMPTZ,
        Type::TIMESTAMPTZ,
        Type::BOOL,
        Type::TEXT,
        Type::TEXT,
        Type::TEXT,
        Type::TEXT,
        Type::TEXT,
        Type::BOOL,
        Type::TEXT,
        Type::TEXT,
        Type::TEXT,
        Type::TEXT,
        Type::JSONB,
        Type::INT8,
        Type::TIMESTAMPTZ,
    ];
    let sets: Vec<String> =
        COLUMNS.split(", ").skip(2).map(|name| format!("{name} = excluded.{name}")).collect();
    let transaction = client.transaction().await.unwrap();
    let sink = transaction.copy_in("COPY rows FROM STDIN (FORMAT binary)").await.unwrap();
    let mut writer = pin!(BinaryCopyInWriter::new(sink, &types));
    let (none, time): (Option<&str>, _) = (None, SystemTime::UNIX_EPOCH);
    for (change, event) in batch.changes.iter().zip(events) {
        let (id, seq) = (change.id.as_str(), change.seq as i64);
        let values: [&(dyn ToSql + Sync); 18] = [
            &&*change.window,
            &id,
            &time,
            &time,
            &false,
            &"Meeting",
            &"busy",
            &"bob@contoso.com",
            &"Bob",
            &"Room",
            &false,
            &"normal",
            &none,
            &"singleInstance",
            &none,
            event,
            &seq,
            &time,
        ];
        writer.as_mut().write(&values).await.unwrap();
    }
    writer.finish().await.unwrap();
    let upsert = format!(
        "INSERT INTO plain ({COLUMNS}) SELECT {COLUMNS} FROM rows
         ON CONFLICT (\"window\", id) DO UPDATE SET {}",
        sets.join(", ")
    );
    transaction.execute(&upsert, &[]).await.unwrap();
    transaction.commit().await.unwrap();
}

async fn sqlite(table: &mut Table, batches: &[SinkBatch]) {
    let (mut mine, mut plain) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..TURNS {
        let directory = directory();
        let path = directory.path().join("copy.sqlite");
        let mut target = SqliteTarget::new(&SqliteSettings { path: path.clone() });
        target.open(None).await.unwrap();
        let began = Instant::now();
        for batch in batches.iter().chain(batches) {
            target.deliver(batch).await.unwrap();
        }
        mine += began.elapsed();
        drop(target);
        plain += tokio::task::block_in_place(|| insert(&path, batches));
    }
    row(table, "SQLite", "upsert", mine, plain);
}

/// The same rows into a table of the same file.
fn insert(path: &std::path::Path, batches: &[SinkBatch]) -> Duration {
    let mut connection = rusqlite::Connection::open(path).unwrap();
    connection.pragma_update(None, "synchronous", "normal").unwrap();
    connection
        .execute_batch(&format!(
            "DELETE FROM event; CREATE TABLE plain AS SELECT {COLUMNS} FROM event;
             CREATE UNIQUE INDEX plain_key ON plain (\"window\", id);
             CREATE INDEX plain_start ON plain (start)"
        ))
        .unwrap();
    let sets: Vec<String> =
        COLUMNS.split(", ").skip(2).map(|name| format!("{name} = excluded.{name}")).collect();
    let upsert = format!(
        "INSERT INTO plain ({COLUMNS}) VALUES (?, ?, ?, ?, 0, ?, ?, ?, ?, ?, 0, ?, ?, ?, ?, ?, ?, ?)
         ON CONFLICT (\"window\", id) DO UPDATE SET {}",
        sets.join(", ")
    );
    let time = "2026-11-23T10:00:00Z";
    let began = Instant::now();
    for batch in batches.iter().chain(batches) {
        let transaction = connection.transaction().unwrap();
        let mut statement = transaction.prepare_cached(&upsert).unwrap();
        for change in &batch.changes {
            let event = std::str::from_utf8(change.event.as_deref().unwrap()).unwrap();
            statement
                .execute(rusqlite::params![
                    &*change.window,
                    change.id.as_str(),
                    time,
                    time,
                    "Meeting",
                    "busy",
                    "bob@contoso.com",
                    "Bob",
                    "Room",
                    "normal",
                    None::<&str>,
                    "singleInstance",
                    None::<&str>,
                    event,
                    change.seq as i64,
                    time,
                ])
                .unwrap();
        }
        drop(statement);
        transaction.commit().unwrap();
    }
    began.elapsed()
}
