//! A copy of the events in a SQLite file.

mod error;
mod file;
mod write;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::BoxFuture;
use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags, TransactionBehavior};
use tokio::sync::OwnedMutexGuard;
use tokio::time::{Duration, Instant, sleep};

use self::file::{DatabaseFile, Locking};
use super::batch::SinkBatch;
use super::error::{SinkError, SinkErrorKind};
use super::sql::{self, LOCK_WAIT, MIGRATIONS, VERSION_COLUMN};
use super::target::{KeptPosition, Receipt, SinkTarget};

/// How long somebody else's transaction may last.
const BUSY_WAIT: Duration = Duration::from_secs(5);
/// A new attempt to lock the file.
const LOCK_RETRY: Duration = Duration::from_millis(20);

/// Where a SQLite file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqliteSettings {
    /// The file. Its directory exists.
    pub path: PathBuf,
}

impl SqliteSettings {
    /// What is wrong with the path, as far as that can be seen without making the file. What only
    /// the daemon's user may do is not judged.
    pub fn problems(&self) -> Vec<SinkError> {
        let problem = DatabaseFile::find(&self.path).err();
        problem.into_iter().filter(|error| error.kind == SinkErrorKind::Misconfigured).collect()
    }
}

/// The turns of each sink. A session that ends does not end what it does on a thread that may block:
/// its file stays open until that is done, and the next target of the sink waits for it.
#[derive(Clone, Default)]
pub struct FileTurns(Arc<Mutex<BTreeMap<Arc<str>, FileTurn>>>);

/// Whose turn it is to have the file of a sink open.
type FileTurn = Arc<tokio::sync::Mutex<()>>;

impl FileTurns {
    /// A target of a sink, which waits for its turn.
    pub fn target(&self, sink: &Arc<str>, settings: &SqliteSettings) -> SqliteTarget {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = turns.entry(sink.clone()).or_default().clone();
        SqliteTarget { turn, ..SqliteTarget::new(settings) }
    }
}

/// A SQLite file as the target of a sink.
pub struct SqliteTarget {
    path: PathBuf,
    turn: FileTurn,
    migrations: &'static [&'static str],
    database: Option<SqliteDatabase>,
}

/// An open file. The connection is closed before the lock is given back.
struct SqliteDatabase {
    connection: Connection,
    file: DatabaseFile,
}

impl SqliteTarget {
    /// A target that is not open yet.
    pub fn new(settings: &SqliteSettings) -> Self {
        let (path, turn) = (settings.path.clone(), FileTurn::default());
        Self { path, turn, migrations: MIGRATIONS, database: None }
    }

    /// Works with the open file on a thread that may block. The file stays closed after an error.
    async fn with<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut SqliteDatabase) -> Result<T, SinkError> + Send + 'static,
    ) -> Result<T, SinkError> {
        let Some(mut database) = self.database.take() else {
            return Err(SinkError::new(SinkErrorKind::Unavailable, "the file is not open"));
        };
        let (database, value) = blocking(move || {
            let value = work(&mut database)?;
            Ok((database, value))
        })
        .await?;
        self.database = Some(database);
        Ok(value)
    }
}

impl SinkTarget for SqliteTarget {
    fn open<'a>(
        &'a mut self,
        _: Option<&'a str>,
    ) -> BoxFuture<'a, Result<KeptPosition, SinkError>> {
        Box::pin(async {
            self.database = None;
            let turn = self.turn.clone().lock_owned().await;
            let file = lock(self.path.clone(), turn).await?;
            let migrations = self.migrations;
            let (database, position) = blocking(move || open(file, migrations)).await?;
            self.database = Some(database);
            Ok(position)
        })
    }

    fn deliver<'a>(
        &'a mut self,
        batch: &'a SinkBatch,
    ) -> BoxFuture<'a, Result<Receipt, SinkError>> {
        Box::pin(async {
            let batch = batch.clone();
            self.with(move |database| database.deliver(&batch)).await?;
            Ok(Receipt::default())
        })
    }

    fn test<'a>(
        &'a mut self,
        sink: &'a str,
        at: Timestamp,
    ) -> BoxFuture<'a, Result<Receipt, SinkError>> {
        Box::pin(async move {
            let batch = sql::trial_batch(sink, at);
            self.with(move |database| database.trial(&batch)).await?;
            Ok(Receipt::default())
        })
    }
}

impl SqliteDatabase {
    fn deliver(&mut self, batch: &SinkBatch) -> Result<(), SinkError> {
        self.file.check()?;
        let transaction =
            self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        write::batch(&transaction, self.file.path(), batch)?;
        Ok(transaction.commit()?)
    }

    /// Writes a batch and rolls it back.
    fn trial(&mut self, batch: &SinkBatch) -> Result<(), SinkError> {
        self.file.check()?;
        let transaction =
            self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        write::batch(&transaction, self.file.path(), batch)?;
        Ok(transaction.rollback()?)
    }
}

/// Locks the file, waiting a little for a lock that was just lost.
async fn lock(path: PathBuf, turn: OwnedMutexGuard<()>) -> Result<DatabaseFile, SinkError> {
    let mut turn = turn;
    let until = Instant::now() + LOCK_WAIT;
    loop {
        let tried = path.clone();
        match blocking(move || DatabaseFile::lock(&tried, turn)).await? {
            Locking::Locked(file) => return Ok(file),
            Locking::InUse(ours) if Instant::now() < until => {
                turn = ours;
                sleep(LOCK_RETRY).await;
            }
            Locking::InUse(_) => {
                return Err(sql::unsuitable(format!(
                    "another sink or another calmirror writes to {}; give each a file of its own",
                    path.display()
                )));
            }
        }
    }
}

/// Runs work on a thread that may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SinkError> + Send + 'static,
) -> Result<T, SinkError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(SinkError::new(SinkErrorKind::Unavailable, "the daemon stops")),
        },
    }
}

/// Opens the file and creates or migrates its tables.
fn open(
    mut file: DatabaseFile,
    migrations: &[&str],
) -> Result<(SqliteDatabase, KeptPosition), SinkError> {
    file.create()?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(file.path(), flags)?;
    connection.busy_timeout(BUSY_WAIT)?;
    let version = version(&connection, file.path())?;
    let place = file.path().display().to_string();
    let missing = sql::missing_steps(version, migrations, &place)?;
    // Readers go on during a transaction. A power cut can take the last transactions back, but
    // whole: the position goes back with its events, and they are sent again. So no transaction has
    // to wait for the disk.
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "normal")?;
    // What a long read made it grow to is given back.
    connection.pragma_update(None, "journal_size_limit", 64 << 20)?;
    connection.set_prepared_statement_cache_capacity(16);
    if !missing.is_empty() {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for statements in missing {
            transaction.execute_batch(&sql::in_sqlite(statements))?;
        }
        let version = i64::try_from(migrations.len()).unwrap_or(i64::MAX);
        transaction.execute("UPDATE position SET schema_version = ?1", [version])?;
        transaction.commit()?;
    }
    let mut found = connection.prepare("SELECT cursor, snapshot FROM position")?;
    let position = found.query_map([], |row| Ok(sql::kept(row.get(0)?, row.get(1)?)))?.next();
    let position = position.ok_or_else(|| sql::without_position(&place))??;
    drop(found);
    Ok((SqliteDatabase { connection, file }, KeptPosition::InTarget(position)))
}

/// The version of the tables; 0 in an empty file.
fn version(connection: &Connection, path: &Path) -> Result<i64, SinkError> {
    let place = path.display().to_string();
    let columns = "SELECT count(*) FROM pragma_table_info('position') WHERE name = ?1";
    if connection.query_row(columns, [VERSION_COLUMN], |row| row.get::<_, i64>(0))? == 0 {
        // A file of somebody else, whatever its tables are called.
        let mut names = connection.prepare("SELECT name FROM sqlite_master ORDER BY rowid")?;
        let first = names.query_map([], |row| row.get::<_, String>(0))?.next();
        return first.transpose()?.map_or(Ok(0), |name| Err(sql::foreign(&place, &name)));
    }
    let mut found = connection.prepare("SELECT schema_version FROM position")?;
    let version = found.query_map([], |row| row.get(0))?.next().transpose()?;
    version.ok_or_else(|| sql::without_position(&place))
}

#[cfg(test)]
mod tests;
