//! The schema: whose it is, its version, and the lock that keeps others from writing to it.

use std::fmt;

use sha2::{Digest, Sha256};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::sinks::batch::SinkPosition;
use crate::sinks::error::{SinkError, SinkErrorKind};
use crate::sinks::sql::{self, LOCK_WAIT, NAMES, VERSION_COLUMN};

/// The most characters of a name in PostgreSQL.
const MAX_NAME: usize = 63;

/// The name of a schema, which needs no quotes and no escapes.
#[derive(Clone, Debug)]
pub(super) struct SchemaName(String);

impl SchemaName {
    pub(super) fn new(name: &str) -> Result<Self, SinkError> {
        let is_letter = |c: char| c.is_ascii_lowercase() || c == '_';
        let is_valid = name.len() <= MAX_NAME
            && name.starts_with(is_letter)
            && name.chars().all(|c| is_letter(c) || c.is_ascii_digit())
            && !name.starts_with("pg_");
        if is_valid {
            return Ok(Self(name.to_owned()));
        }
        let message = "the name of the schema has to be of small letters, digits and _, not begin \
                       with a digit or pg_, and have at most 63 characters";
        Err(SinkError::new(SinkErrorKind::Misconfigured, message))
    }

    /// The number of its lock.
    pub(super) fn lock_key(&self) -> i64 {
        let digest = Sha256::digest(format!("calmirror sink {}", self.0));
        i64::from_be_bytes(std::array::from_fn(|at| digest[at]))
    }
}

impl fmt::Display for SchemaName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "schema {}", self.0)
    }
}

/// Locks the schema for this session, creates or migrates its tables, and reads the position.
pub(super) async fn prepare(
    client: &mut Client,
    schema: &SchemaName,
    migrations: &[&str],
) -> Result<Option<SinkPosition>, SinkError> {
    // Names in the statements are those of the schema. A server notices a lost client early, and
    // gives its lock back. Nothing waits forever for a lock of a reader.
    client
        .batch_execute(&format!(
            "SET search_path TO \"{}\"; SET client_min_messages TO warning;
             SET tcp_keepalives_idle TO 30; SET tcp_keepalives_interval TO 10;
             SET tcp_keepalives_count TO 3; SET lock_timeout TO {}",
            schema.0,
            LOCK_WAIT.as_millis()
        ))
        .await?;
    let encoding: String = client.query_one("SHOW server_encoding", &[]).await?.try_get(0)?;
    if encoding != "UTF8" {
        let message = "the encoding of the database is not UTF8, so it cannot hold every event";
        return Err(sql::unsuitable(message.to_owned()));
    }
    lock(client, schema).await?;
    client.batch_execute("SET lock_timeout TO '60s'; SET statement_timeout TO '240s'").await?;
    let version = version(client, schema).await?;
    let missing = sql::missing_steps(version.unwrap_or(0), migrations, &schema.to_string())?;
    if !missing.is_empty() {
        let transaction = client.transaction().await?;
        if version.is_none() {
            transaction.batch_execute(&format!("CREATE SCHEMA \"{}\"", schema.0)).await?;
        }
        for statements in missing {
            transaction.batch_execute(statements).await?;
        }
        let version = i64::try_from(migrations.len()).unwrap_or(i64::MAX);
        transaction.execute("UPDATE position SET schema_version = $1", &[&version]).await?;
        transaction.commit().await?;
    }
    let row = client.query_opt("SELECT cursor, snapshot FROM position LIMIT 1", &[]).await?;
    let row = row.ok_or_else(|| sql::without_position(&schema.to_string()))?;
    Ok(sql::kept(row.try_get(0)?, row.try_get(1)?))
}

/// Takes the lock, waiting a little for one of a session that was just lost.
async fn lock(client: &Client, schema: &SchemaName) -> Result<(), SinkError> {
    match client.execute("SELECT pg_advisory_lock($1)", &[&schema.lock_key()]).await {
        Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
            Err(sql::unsuitable(format!(
                "another sink or another calmirror writes to {schema}; give each a schema of its \
                 own"
            )))
        }
        taken => Ok(taken.map(|_| ())?),
    }
}

/// The version of the tables: 0 in a schema without them, `None` if there is no schema.
async fn version(client: &Client, schema: &SchemaName) -> Result<Option<i64>, SinkError> {
    let found = "SELECT c.relname::text, EXISTS (
            SELECT FROM pg_attribute a
            WHERE a.attrelid = c.oid AND a.attname = $3 AND c.relname = 'position'
        )
        FROM pg_namespace n LEFT JOIN pg_class c
            ON c.relnamespace = n.oid AND c.relname::text = ANY($2)
        WHERE n.nspname::text = $1
        ORDER BY c.oid";
    let rows = client.query(found, &[&schema.0, &&NAMES[..], &VERSION_COLUMN]).await?;
    if rows.is_empty() {
        return Ok(None);
    }
    let mut foreign = None;
    for row in &rows {
        let (name, is_ours): (Option<String>, bool) = (row.try_get(0)?, row.try_get(1)?);
        if is_ours {
            let row = client.query_opt("SELECT schema_version FROM position LIMIT 1", &[]).await?;
            let row = row.ok_or_else(|| sql::without_position(&schema.to_string()))?;
            return Ok(Some(row.try_get(0)?));
        }
        foreign = foreign.or(name);
    }
    foreign.map_or(Ok(Some(0)), |name| Err(sql::foreign(&schema.to_string(), &name)))
}
