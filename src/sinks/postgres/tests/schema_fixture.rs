//! A schema of a real PostgreSQL, dropped after its test.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use tokio_postgres::{NoTls, SimpleQueryMessage};

use super::*;
use crate::sinks::sql::tests::model::{ModelDatabase, ModelRows};

/// The URL of the server without parameters.
pub(super) fn server() -> String {
    let url = std::env::var("CALMIRROR_TEST_POSTGRES");
    url.unwrap_or_else(|_| "postgres://postgres@127.0.0.1:5432/test".to_owned())
}

/// The name of a schema that does not exist yet, and a connection for readers.
pub(super) struct SchemaFixture {
    pub(super) name: String,
    client: Client,
    _tasks: JoinSet<()>,
}

/// Runs a test with a schema of its own, or skips it if no server answers.
pub(super) async fn with_schema(test: impl AsyncFnOnce(&SchemaFixture)) {
    let Some(fixture) = SchemaFixture::new().await else { return };
    let ended = AssertUnwindSafe(test(&fixture)).catch_unwind().await;
    fixture.execute(&format!("DROP SCHEMA IF EXISTS {} CASCADE", fixture.name)).await;
    if let Err(panic) = ended {
        // One test has a user, too.
        let user = format!("DROP ROLE IF EXISTS {}_user", fixture.name);
        fixture.client.batch_execute(&user).await.ok();
        std::panic::resume_unwind(panic);
    }
}

impl SchemaFixture {
    async fn new() -> Option<Self> {
        let connected = tokio_postgres::connect(&server(), NoTls).await;
        let (client, connection) = match connected {
            Ok(connected) => connected,
            Err(error) => {
                let required = std::env::var("CALMIRROR_REQUIRE").unwrap_or_default();
                assert!(!required.contains("postgres"), "no PostgreSQL: {error}");
                #[expect(clippy::print_stderr, reason = "a test that did not run is seen")]
                {
                    eprintln!("skipped: no PostgreSQL answers at CALMIRROR_TEST_POSTGRES");
                }
                return None;
            }
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(async { connection.await.unwrap_or(()) });
        let name = format!("calmirror_test_{:016x}", fastrand::u64(..));
        let setup = format!("SET search_path TO {name}; SET timezone TO 'UTC'");
        client.batch_execute(&setup).await.unwrap();
        Some(Self { name, client, _tasks: tasks })
    }

    pub(super) fn target(&self) -> PostgresTarget {
        self.target_at(&format!("{}?sslmode=disable", server()))
    }

    pub(super) fn target_at(&self, url: &str) -> PostgresTarget {
        PostgresTarget::new(&PostgresSettings {
            url: SinkSecret::Inline(url.into()),
            schema: self.name.as_str().into(),
            authorities: [].into(),
        })
    }

    pub(super) async fn execute(&self, statements: &str) {
        self.client.batch_execute(statements).await.unwrap();
    }

    /// The rows of a query, their columns separated by `|`.
    pub(super) async fn query(&self, query: &str) -> Vec<String> {
        let found = self.client.simple_query(query).await.unwrap();
        let rows = found.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        let line = |row: &tokio_postgres::SimpleQueryRow| {
            let columns = (0..row.len()).map(|at| row.get(at).unwrap_or("-"));
            columns.collect::<Vec<_>>().join("|")
        };
        rows.map(line).collect()
    }
}

impl ModelDatabase for SchemaFixture {
    fn target(&self) -> Box<dyn SinkTarget> {
        Box::new(self.target())
    }

    fn rows(&self) -> BoxFuture<'_, ModelRows> {
        Box::pin(async {
            let rows = self.client.query("SELECT \"window\", id, subject FROM event", &[]).await;
            let rows = rows.unwrap();
            rows.iter().map(|row| ((row.get(0), row.get(1)), row.get(2))).collect()
        })
    }
}
