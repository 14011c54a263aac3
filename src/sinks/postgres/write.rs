//! Writes a batch in a transaction.

use std::pin::pin;

use bytes::BytesMut;
use jiff::Timestamp;
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Client, Statement, Transaction};

use super::schema::SchemaName;
use crate::mirror::event_time::TimeReader;
use crate::sinks::batch::{SinkBatch, SinkWindow};
use crate::sinks::error::SinkError;
use crate::sinks::sql::{self, BatchRows, EVENT_COLUMNS, EventColumns, WINDOW_COLUMNS};

/// The types of [`EVENT_COLUMNS`].
const EVENT_TYPES: [Type; EVENT_COLUMNS.len()] = [
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

/// The beginning of the year 2000 in microseconds.
const YEAR_2000: i64 = 946_684_800_000_000;

/// The statements of a session, which also has a temporary table for the events of a batch.
pub(super) struct PostgresStatements {
    copy: Statement,
    upsert_events: Statement,
    delete_events: Statement,
    upsert_windows: Statement,
    delete_windows: Statement,
    begin_event_snapshot: Statement,
    begin_window_snapshot: Statement,
    end_event_snapshot: Statement,
    end_window_snapshot: Statement,
    position: Statement,
}

impl PostgresStatements {
    pub(super) async fn prepare(client: &Client) -> Result<Self, tokio_postgres::Error> {
        let columns = EVENT_COLUMNS.join(", ");
        client
            .batch_execute(&format!(
                "CREATE TEMPORARY TABLE incoming ON COMMIT DELETE ROWS AS
                 SELECT {columns} FROM event WITH NO DATA"
            ))
            .await?;
        let upsert_events = format!(
            "INSERT INTO event ({columns}, snapshot) SELECT {columns}, $1 FROM pg_temp.incoming
             ON CONFLICT (\"window\", id) DO UPDATE SET {}",
            sql::assignments(&EVENT_COLUMNS, 2)
        );
        let windows = WINDOW_COLUMNS.join(", ");
        let upsert_windows = format!(
            "INSERT INTO \"window\" AS old ({windows}, snapshot)
             SELECT {windows}, $8 FROM unnest($1::text[], $2::text[], $3::text[], $4::text[],
                 $5::text[], $6::text[], $7::bigint[]) AS new ({windows})
             ON CONFLICT (name) DO UPDATE SET {}
             WHERE old IS DISTINCT FROM excluded",
            sql::assignments(&WINDOW_COLUMNS, 1)
        );
        let copy = format!("COPY pg_temp.incoming ({columns}) FROM STDIN (FORMAT binary)");
        Ok(Self {
            copy: client.prepare(&copy).await?,
            upsert_events: client.prepare(&upsert_events).await?,
            delete_events: client
                .prepare(
                    "DELETE FROM event USING unnest($1::text[], $2::text[]) AS gone (name, id)
                     WHERE event.\"window\" = gone.name AND event.id = gone.id",
                )
                .await?,
            upsert_windows: client.prepare(&upsert_windows).await?,
            delete_windows: client.prepare("DELETE FROM \"window\" WHERE name = ANY($1)").await?,
            begin_event_snapshot: client
                .prepare("UPDATE event SET snapshot = NULL WHERE snapshot = $1")
                .await?,
            begin_window_snapshot: client
                .prepare("UPDATE \"window\" SET snapshot = NULL WHERE snapshot = $1")
                .await?,
            end_event_snapshot: client
                .prepare("DELETE FROM event WHERE snapshot IS DISTINCT FROM $1")
                .await?,
            end_window_snapshot: client
                .prepare("DELETE FROM \"window\" WHERE snapshot IS DISTINCT FROM $1")
                .await?,
            position: client
                .prepare(
                    "UPDATE position SET sink = $1, cursor = $2, snapshot = $3, updated_at = $4",
                )
                .await?,
        })
    }
}

/// Writes the changes of a batch and its position.
pub(super) async fn batch(
    transaction: &Transaction<'_>,
    statements: &PostgresStatements,
    batch: &SinkBatch,
    schema: &SchemaName,
) -> Result<(), SinkError> {
    let rows = BatchRows::new(batch);
    if batch.begins {
        // It may have begun before, with events that it does not bring any more.
        transaction.execute(&statements.begin_event_snapshot, &[&rows.snapshot]).await?;
        transaction.execute(&statements.begin_window_snapshot, &[&rows.snapshot]).await?;
    }
    windows(transaction, statements, batch, &rows).await?;
    if !rows.upserts.is_empty() {
        copy(transaction, statements, &rows).await?;
        transaction.execute(&statements.upsert_events, &[&rows.snapshot]).await?;
    }
    if !rows.removed.is_empty() {
        let (windows, ids): (Vec<&str>, Vec<&str>) =
            rows.removed.iter().map(|(window, id)| (&**window, &**id)).unzip();
        transaction.execute(&statements.delete_events, &[&windows, &ids]).await?;
    }
    if batch.ends {
        // Events that did not come in the snapshot are gone.
        transaction.execute(&statements.end_event_snapshot, &[&rows.snapshot]).await?;
        transaction.execute(&statements.end_window_snapshot, &[&rows.snapshot]).await?;
    }
    let (sink, at) = (&*batch.sink, BinaryTime(batch.at));
    let position: [&(dyn ToSql + Sync); 4] = [&sink, &batch.after.cursor, &rows.unfinished, &at];
    if transaction.execute(&statements.position, &position).await? == 1 {
        return Ok(());
    }
    Err(sql::without_position(&schema.to_string()))
}

/// Copies the events into the temporary table.
async fn copy(
    transaction: &Transaction<'_>,
    statements: &PostgresStatements,
    rows: &BatchRows<'_>,
) -> Result<(), SinkError> {
    let sink = transaction.copy_in(&statements.copy).await?;
    let mut writer = pin!(BinaryCopyInWriter::new(sink, &EVENT_TYPES));
    let mut times = TimeReader::default();
    for change in &rows.upserts {
        let row = EventColumns::read(change, &mut times);
        let [start, end] = [row.start, row.end].map(|at| at.map(BinaryTime));
        let changed_at = BinaryTime(row.changed_at);
        let event = row.event.as_deref().map(RawJsonb);
        let values: [&(dyn ToSql + Sync); EVENT_COLUMNS.len()] = [
            &row.window,
            &row.id,
            &start,
            &end,
            &row.all_day,
            &row.subject,
            &row.show_as,
            &row.organizer,
            &row.organizer_name,
            &row.location,
            &row.is_cancelled,
            &row.sensitivity,
            &row.series_master_id,
            &row.kind,
            &row.join_url,
            &event,
            &row.seq,
            &changed_at,
        ];
        writer.as_mut().write(&values).await?;
        // Reading the events of a whole batch takes long.
        tokio::task::consume_budget().await;
    }
    writer.finish().await?;
    Ok(())
}

async fn windows(
    transaction: &Transaction<'_>,
    statements: &PostgresStatements,
    batch: &SinkBatch,
    rows: &BatchRows<'_>,
) -> Result<(), SinkError> {
    if !batch.windows.is_empty() {
        let text = |of: fn(&SinkWindow) -> &str| batch.windows.iter().map(of).collect::<Vec<_>>();
        let places: Vec<_> = batch.windows.iter().map(sql::place).collect();
        let buildings: Vec<_> = places.iter().map(|place| place.0).collect();
        let floors: Vec<_> = places.iter().map(|place| place.1).collect();
        let capacities: Vec<_> = places.iter().map(|place| place.2).collect();
        let values: [&(dyn ToSql + Sync); 8] = [
            &text(|window| &window.name),
            &text(|window| &window.account),
            &text(|window| &window.mailbox),
            &text(|window| &window.calendar),
            &buildings,
            &floors,
            &capacities,
            &rows.snapshot,
        ];
        transaction.execute(&statements.upsert_windows, &values).await?;
    }
    if !rows.dropped.is_empty() {
        transaction.execute(&statements.delete_windows, &[&rows.dropped]).await?;
    }
    Ok(())
}

/// JSON as the binary form of `jsonb`: a version and the text.
#[derive(Debug)]
struct RawJsonb<'a>(&'a str);

impl ToSql for RawJsonb<'_> {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.extend_from_slice(&[1]);
        out.extend_from_slice(self.0.as_bytes());
        Ok(IsNull::No)
    }

    fn accepts(of: &Type) -> bool {
        *of == Type::JSONB
    }

    to_sql_checked!();
}

/// A time as the binary form of `timestamptz`: microseconds since the year 2000.
#[derive(Debug)]
struct BinaryTime(Timestamp);

impl ToSql for BinaryTime {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        let since_2000 = self.0.as_microsecond() - YEAR_2000;
        out.extend_from_slice(&since_2000.to_be_bytes());
        Ok(IsNull::No)
    }

    fn accepts(of: &Type) -> bool {
        *of == Type::TIMESTAMPTZ
    }

    to_sql_checked!();
}
