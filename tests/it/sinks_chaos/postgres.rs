//! A schema of a real PostgreSQL that others lock, and whose sessions end.

use fastrand::Rng;
use futures_util::future::BoxFuture;
use tokio::task::JoinSet;
use tokio_postgres::config::Host;
use tokio_postgres::{Client, Config, NoTls};

use super::target::{ChaosTarget, CopyReader, LOOK};
use crate::copies::{EventsByWindow, HELD};
use crate::proxy::ChaosProxy;

pub(super) struct SchemaCopy {
    schema: String,
    config: Config,
    proxy: ChaosProxy,
    client: Client,
    /// Another program in a transaction.
    locking: Option<Client>,
    reader: CopyReader,
    tasks: JoinSet<()>,
}

async fn connect(config: &Config, tasks: &mut JoinSet<()>) -> Result<Client, String> {
    let connected = config.connect(NoTls).await;
    let (client, connection) = connected.map_err(|error| error.to_string())?;
    tasks.spawn(async { connection.await.unwrap_or(()) });
    Ok(client)
}

impl SchemaCopy {
    /// A schema that does not exist yet, `None` if no server answers.
    pub(super) async fn new() -> Option<Self> {
        let url = std::env::var("CALMIRROR_TEST_POSTGRES")
            .unwrap_or_else(|_| "postgres://postgres@127.0.0.1:5432/test".to_owned());
        let config: Config = url.parse().unwrap();
        let mut tasks = JoinSet::new();
        let client = match connect(&config, &mut tasks).await {
            Ok(client) => client,
            Err(error) => {
                let required = std::env::var("CALMIRROR_REQUIRE").unwrap_or_default();
                assert!(!required.contains("postgres"), "no PostgreSQL: {error}");
                #[expect(clippy::print_stderr, reason = "a test that did not run is seen")]
                {
                    eprintln!("without PostgreSQL: none answers at CALMIRROR_TEST_POSTGRES");
                }
                return None;
            }
        };
        let schema = format!("calmirror_chaos_{:016x}", fastrand::u64(..));
        client.batch_execute(&format!("SET search_path TO {schema}")).await.unwrap();
        let Host::Tcp(host) = config.get_hosts()[0].clone() else { panic!("a TCP server") };
        let port = config.get_ports().first().copied().unwrap_or(5432);
        let proxy = ChaosProxy::new((host, port), true).await;
        let reader = CopyReader::default();
        Some(Self { schema, config, proxy, client, locking: None, reader, tasks })
    }

    /// Another program locks a table against writers; false if there is none, or it is in use.
    async fn lock(&mut self) -> bool {
        let locking = connect(&self.config, &mut self.tasks).await.unwrap();
        let lock = format!(
            "SET lock_timeout TO '200ms'; BEGIN; LOCK TABLE {}.event IN EXCLUSIVE MODE",
            self.schema
        );
        if locking.batch_execute(&lock).await.is_ok() {
            self.locking = Some(locking);
        }
        self.locking.is_some()
    }

    /// Ends the sessions of the sink; returns how many there were.
    async fn end_sessions(&self) -> u64 {
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE application_name = $1";
        self.client.execute(end, &[&self.schema]).await.unwrap()
    }
}

impl ChaosTarget for SchemaCopy {
    fn name(&self) -> &'static str {
        "tables"
    }

    fn keys(&self) -> String {
        let user = self.config.get_user().unwrap_or("postgres");
        let database = self.config.get_dbname().unwrap_or("test");
        format!(
            "type = \"postgres\"\nschema = \"{0}\"\n\
             url = \"postgres://{user}@127.0.0.1:{1}/{database}?application_name={0}\"\n",
            self.schema, self.proxy.port
        )
    }

    fn harm<'a>(&'a mut self, chance: &'a mut Rng) -> BoxFuture<'a, String> {
        Box::pin(async {
            match chance.u8(..8) {
                0..2 => format!("{} sessions ended", self.end_sessions().await),
                2..4 if self.lock().await => "locked".to_owned(),
                _ => self.proxy.harm(chance),
            }
        })
    }

    fn heal(&mut self) -> BoxFuture<'_, ()> {
        // The end of its session is the end of its transaction.
        self.locking = None;
        self.proxy.heal();
        Box::pin(std::future::ready(()))
    }

    fn held(&self) -> BoxFuture<'_, Option<EventsByWindow>> {
        Box::pin(async {
            let rows = self.client.query(HELD, &[]).await.ok()?;
            Some(rows.iter().map(|row| ((row.get(0), row.get(1)), row.get(2))).collect())
        })
    }

    fn end(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            self.end_sessions().await;
            let drop = format!("DROP SCHEMA IF EXISTS {} CASCADE", self.schema);
            self.client.batch_execute(&drop).await.unwrap();
        })
    }

    fn look(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let found = self.client.query_one(LOOK, &[]).await.ok();
            self.reader.see(found.map(|row| (row.get(0), row.get(1))));
        })
    }

    fn change_view(&mut self) {
        self.reader.change_view();
    }
}
