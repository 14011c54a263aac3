//! A copy of the events in a schema of PostgreSQL.

mod connect;
mod error;
mod schema;
mod write;

use std::sync::Arc;

use futures_util::future::BoxFuture;
use jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use secrecy::ExposeSecret;
use tokio::task::JoinSet;
use tokio::time::{Duration, timeout};
use tokio_postgres::Client;

use self::schema::SchemaName;
use self::write::PostgresStatements;
use super::batch::SinkBatch;
use super::error::{SinkError, SinkErrorKind};
use super::secret::SinkSecret;
use super::sql::{self, MIGRATIONS};
use super::target::{KeptPosition, Receipt, SinkTarget};

/// The longest wait for the tables, or for a batch to be written. The server gives up earlier
/// if it can.
const WRITE_LIMIT: Duration = Duration::from_secs(300);

/// Where a schema of PostgreSQL is.
#[derive(Clone, Debug)]
pub struct PostgresSettings {
    /// `postgres://user:password@host/database?sslmode=…`.
    pub url: SinkSecret,
    /// The schema: an identifier that needs no quotes.
    pub schema: Arc<str>,
    /// Authorities of certificates, beside those of the system.
    pub authorities: Arc<[CertificateDer<'static>]>,
}

impl PostgresSettings {
    /// What is wrong with the URL.
    pub fn problems(&self) -> Vec<SinkError> {
        let parsed = self.url.read().and_then(|url| connect::parse(url.expose_secret()));
        parsed.err().into_iter().collect()
    }
}

/// A schema of PostgreSQL as the target of a sink.
pub struct PostgresTarget {
    settings: PostgresSettings,
    migrations: &'static [&'static str],
    session: Option<PostgresSession>,
}

/// An open connection, which holds the lock on the schema.
struct PostgresSession {
    client: Client,
    statements: PostgresStatements,
    schema: SchemaName,
    /// The connection.
    _tasks: JoinSet<()>,
}

impl PostgresTarget {
    /// A target that is not connected yet.
    pub fn new(settings: &PostgresSettings) -> Self {
        Self { settings: settings.clone(), migrations: MIGRATIONS, session: None }
    }

    async fn connect(&mut self) -> Result<KeptPosition, SinkError> {
        let schema = SchemaName::new(&self.settings.schema)?;
        let secret = self.settings.url.clone();
        let url = tokio::task::spawn_blocking(move || secret.read()).await.map_err(|_| {
            SinkError::new(SinkErrorKind::Unavailable, "the URL of the database was not read")
        })??;
        let connected = connect::connect(url.expose_secret(), &self.settings.authorities).await?;
        let (mut client, tasks) = connected;
        let kept = schema::prepare(&mut client, &schema, self.migrations).await?;
        let statements = PostgresStatements::prepare(&client).await?;
        self.session = Some(PostgresSession { client, statements, schema, _tasks: tasks });
        Ok(KeptPosition::InTarget(kept))
    }

    /// Writes a batch, or only tries to. The session ends after an error.
    async fn write(&mut self, batch: &SinkBatch, is_trial: bool) -> Result<Receipt, SinkError> {
        let Some(mut session) = self.session.take() else {
            return Err(SinkError::new(
                SinkErrorKind::Unavailable,
                "the database is not connected",
            ));
        };
        let PostgresSession { client, statements, schema, .. } = &mut session;
        let written = async {
            let transaction = client.transaction().await?;
            write::batch(&transaction, statements, batch, schema).await?;
            if is_trial {
                transaction.rollback().await?;
            } else {
                transaction.commit().await?;
            }
            Ok(())
        };
        within_limit(written).await?;
        self.session = Some(session);
        Ok(Receipt::default())
    }
}

impl SinkTarget for PostgresTarget {
    fn open<'a>(
        &'a mut self,
        _: Option<&'a str>,
    ) -> BoxFuture<'a, Result<KeptPosition, SinkError>> {
        Box::pin(within_limit(self.connect()))
    }

    fn deliver<'a>(
        &'a mut self,
        batch: &'a SinkBatch,
    ) -> BoxFuture<'a, Result<Receipt, SinkError>> {
        Box::pin(self.write(batch, false))
    }

    fn test<'a>(
        &'a mut self,
        sink: &'a str,
        at: Timestamp,
    ) -> BoxFuture<'a, Result<Receipt, SinkError>> {
        Box::pin(async move { self.write(&sql::trial_batch(sink, at), true).await })
    }
}

async fn within_limit<T>(work: impl Future<Output = Result<T, SinkError>>) -> Result<T, SinkError> {
    let late = "the database did not answer in time";
    let ended = timeout(WRITE_LIMIT, work).await;
    ended.unwrap_or_else(|_| Err(SinkError::new(SinkErrorKind::Unavailable, late)))
}

#[cfg(test)]
mod tests;
