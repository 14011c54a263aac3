//! Where the sinks of the figures send to: a receiver of webhooks in this process, files, and the
//! servers that there are.

use std::fmt::Display;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::http::StatusCode;
use axum::routing::post;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, NoTls};

use super::nats_server::NatsServer;
use crate::daemon::directory;
use crate::table::note;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// A type of sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SinkType {
    Webhook,
    Sqlite,
    Postgres,
    Nats,
}

impl SinkType {
    /// As in `type`.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Webhook => "webhook",
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
            Self::Nats => "nats",
        }
    }
}

/// Where sinks send to. What is in the databases is deleted by [`SinkPlaces::forget`].
pub(super) struct SinkPlaces {
    directory: tempfile::TempDir,
    receiver: SocketAddr,
    serving: JoinHandle<()>,
    postgres: Option<(String, Client)>,
    nats: Option<NatsServer>,
}

impl SinkPlaces {
    /// Starts what can be started. `take` gets each request of a webhook.
    pub(super) async fn start(
        take: impl Fn(Instant, &[u8]) + Clone + Send + Sync + 'static,
    ) -> Self {
        let directory = directory();
        let secret = directory.path().join("hook.secret");
        fs::write(&secret, "a key that signs what is sent\n").unwrap();
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let receiver = listener.local_addr().unwrap();
        let accept = move |body: Bytes| {
            take(Instant::now(), &body);
            std::future::ready(StatusCode::NO_CONTENT)
        };
        let router = Router::new().route("/", post(accept));
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let url = std::env::var("CALMIRROR_TEST_POSTGRES")
            .unwrap_or_else(|_| "postgres://postgres@127.0.0.1:5432/test".to_owned());
        let postgres = match connect(&url).await {
            Some(client) => Some((url, client)),
            None => {
                note("no PostgreSQL answers: the sink for it is not measured");
                None
            }
        };
        // A later block counts: one that syncs as a server does by default. The tests' server syncs
        // every message, which would measure the disk.
        let store = directory.path().join("jetstream");
        let as_installed = format!("jetstream {{ store_dir: {store:?} }}");
        // It says so if there is none.
        let nats = NatsServer::start(directory.path(), &as_installed).await;
        Self { directory, receiver, serving, postgres, nats }
    }

    /// The types that can be measured.
    pub(super) fn types(&self) -> Vec<SinkType> {
        let postgres = self.postgres.as_ref().map(|_| SinkType::Postgres);
        let nats = self.nats.as_ref().map(|_| SinkType::Nats);
        [SinkType::Webhook, SinkType::Sqlite].into_iter().chain(postgres).chain(nats).collect()
    }

    /// The configuration of a sink that sends everything to a place of its own.
    pub(super) fn section(&self, to: SinkType, name: &str, batch: &str) -> String {
        let target = match to {
            SinkType::Webhook => format!(
                "url = \"http://{}/\"\nsecret_file = {:?}\nallow_private = true",
                self.receiver,
                self.directory.path().join("hook.secret")
            ),
            SinkType::Sqlite => format!("path = {:?}", self.file(name)),
            SinkType::Postgres => {
                format!(
                    "url = {:?}\nschema = \"{}\"",
                    self.postgres.as_ref().unwrap().0,
                    schema(name)
                )
            }
            SinkType::Nats => {
                format!("url = {:?}\nstream = \"{name}\"\nsubject = \"{name}\"", self.nats_url())
            }
        };
        let kind = to.as_str();
        format!("[sink.{name}]\ntype = \"{kind}\"\nbatch = \"{batch}\"\n{target}\n")
    }

    /// The file of a sink for SQLite.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(format!("{name}.sqlite"))
    }

    pub(super) fn nats_url(&self) -> String {
        self.nats.as_ref().unwrap().url()
    }

    /// A further connection to PostgreSQL, which finds the tables of a sink.
    pub(super) async fn postgres(&self, name: &str) -> Client {
        let client = connect(&self.postgres.as_ref().unwrap().0).await.unwrap();
        let path = format!("SET search_path TO {}", schema(name));
        client.batch_execute(&path).await.unwrap();
        client
    }

    /// The number of events at the place of a sink; `None` for a webhook.
    pub(super) async fn events(&self, to: SinkType, name: &str) -> Option<u64> {
        const COUNT: &str = "SELECT count(*) FROM event";
        let events = match to {
            SinkType::Webhook => return None,
            SinkType::Sqlite => {
                let connection = rusqlite::Connection::open(self.file(name)).unwrap();
                connection.query_row(COUNT, [], |row| row.get::<_, i64>(0)).unwrap()
            }
            SinkType::Postgres => {
                self.postgres(name).await.query_one(COUNT, &[]).await.unwrap().get::<_, i64>(0)
            }
            SinkType::Nats => {
                let context = jetstream(&self.nats_url()).await;
                let stream = context.get_stream(name).await.unwrap();
                // One is the marker.
                return Some(stream.cached_info().state.messages - 1);
            }
        };
        Some(u64::try_from(events).unwrap())
    }

    /// Deletes what a sink has written; the sink has stopped.
    pub(super) async fn forget(&self, to: SinkType, name: &str) {
        match to {
            SinkType::Webhook => {}
            SinkType::Sqlite => fs::remove_file(self.file(name)).unwrap(),
            SinkType::Postgres => {
                let drop = format!("DROP SCHEMA {} CASCADE", schema(name));
                self.postgres.as_ref().unwrap().1.batch_execute(&drop).await.unwrap();
            }
            SinkType::Nats => {
                jetstream(&self.nats_url()).await.delete_stream(name).await.unwrap();
            }
        }
    }
}

impl Drop for SinkPlaces {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn connect(url: &str) -> Option<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.ok()?;
    // This task ends with the client.
    tokio::spawn(connection);
    Some(client)
}

pub(super) async fn jetstream(url: &str) -> async_nats::jetstream::Context {
    async_nats::jetstream::new(async_nats::connect(url).await.unwrap())
}

/// The schema of a sink, which another run of the figures does not use.
fn schema(name: &str) -> String {
    format!("calmirror_bench_{}_{name}", std::process::id())
}

/// Whether every sink of an answer of `/v1/sinks` has ended its snapshot and sent so many changes.
pub(super) fn have_sent(sinks: &Value, changes: u64) -> bool {
    let done = |sink: &Value| {
        assert!(sink["last_error"].is_null(), "{sink}");
        let ended = sink["cursor"].is_string() && sink["snapshot"] == false;
        ended && sink["sent"].as_u64().unwrap() >= changes
    };
    sinks["value"].as_array().unwrap().iter().all(done)
}

/// Panics if what began then lasts for too long.
pub(super) fn patience(began: Instant, what: impl Display) {
    assert!(began.elapsed() < PATIENCE, "{what}");
}
