//! The stream that all shards publish to, read as its readers do and by nobody's code but this.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_nats::jetstream::consumer::AckPolicy;
use async_nats::jetstream::consumer::pull::Config;
use async_nats::jetstream::{self, Context};
use futures_util::StreamExt as _;
use serde_json::Value;

use crate::copies::EventsByWindow;
use crate::nats_server::NatsServer;

/// A server that can be killed, stopped and restored.
pub(super) struct StreamServer {
    directory: PathBuf,
    pub(super) port: u16,
    /// `None` while it is killed.
    server: Option<NatsServer>,
    is_stopped: bool,
    has_backup: bool,
}

/// What a stream holds.
pub(super) struct FoldedStream {
    pub(super) events: EventsByWindow,
    /// The last marker of each shard: `0/3 snapshot_ends`.
    pub(super) markers: Vec<String>,
    /// Where the line of each event came from.
    pub(super) origins: BTreeMap<(String, String), String>,
}

impl StreamServer {
    /// `None` if there is no server that is new enough.
    pub(super) async fn start(directory: PathBuf) -> Option<Self> {
        std::fs::create_dir(&directory).unwrap();
        let server = NatsServer::start(&directory, "").await?;
        let (port, server) = (server.port(), Some(server));
        Some(Self { directory, port, server, is_stopped: false, has_backup: false })
    }

    pub(super) fn kill(&mut self) {
        self.server = None;
        self.is_stopped = false;
    }

    pub(super) fn pause(&mut self) {
        if let Some(server) = &self.server {
            server.signal("STOP");
            self.is_stopped = true;
        }
    }

    /// Lets it run again.
    pub(super) async fn heal(&mut self) {
        if let Some(server) = self.server.as_ref().filter(|_| self.is_stopped) {
            server.signal("CONT");
        }
        self.is_stopped = false;
        if self.server.is_none() {
            self.server = NatsServer::start_at(&self.directory, "", self.port).await;
        }
    }

    /// Makes a backup of its files, or restores the last one.
    pub(super) async fn restore(&mut self) -> &'static str {
        self.heal().await;
        self.kill();
        let [store, backup] = ["store", "backup"].map(|name| self.directory.join(name));
        if self.has_backup {
            std::fs::remove_dir_all(&store).unwrap();
            std::fs::rename(&backup, &store).unwrap();
        } else {
            copy(&store, &backup);
        }
        self.has_backup = !self.has_backup;
        self.heal().await;
        if self.has_backup { "backed up" } else { "restored" }
    }

    pub(super) async fn delete(&self) -> bool {
        let deleting = async { self.context().await?.delete_stream("CALMIRROR").await.ok() };
        let limit = Duration::from_secs(2);
        tokio::time::timeout(limit, deleting).await.ok().flatten().is_some()
    }

    async fn context(&self) -> Option<Context> {
        let address = format!("nats://127.0.0.1:{}", self.port);
        Some(jetstream::new(async_nats::connect(address).await.ok()?))
    }

    /// `None` if it cannot be read to its end.
    pub(super) async fn folded(&self) -> Option<FoldedStream> {
        tokio::time::timeout(Duration::from_secs(10), self.fold()).await.ok()?
    }

    async fn fold(&self) -> Option<FoldedStream> {
        let mut stream = self.context().await?.get_stream("CALMIRROR").await.ok()?;
        let config = Config { ack_policy: AckPolicy::None, ..Config::default() };
        let consumer = stream.create_consumer(config).await.ok()?;
        let (mut markers, mut origins) = (BTreeMap::new(), BTreeMap::new());
        let (mut events, mut read) = (EventsByWindow::new(), 0);
        let last = stream.info().await.ok()?.state.last_sequence;
        while read < last {
            let mut fetched = consumer.fetch().max_messages(500).messages().await.ok()?;
            let before = read;
            while let Some(message) = fetched.next().await {
                let message = message.ok()?;
                read = message.info().ok()?.stream_sequence;
                let mut line: Value = serde_json::from_slice(&message.payload).ok()?;
                let text = |name: &str| line[name].as_str().map(str::to_owned);
                match (text("window"), text("id"), text("shard"), text("change")?) {
                    (Some(window), Some(id), _, change) if change == "removed" => {
                        events.remove(&(window, id));
                    }
                    (Some(window), Some(id), _, _) => {
                        let origin = format!(
                            "{read} {:?} {} {}",
                            message.headers, line["at"], line["cursor"]
                        );
                        origins.insert((window.clone(), id.clone()), origin);
                        events.insert((window, id), line["event"].take());
                    }
                    (_, _, Some(shard), change) => {
                        origins.insert((String::new(), shard.clone()), format!("{read} {line}"));
                        markers.insert(message.subject.to_string(), format!("{shard} {change}"));
                    }
                    _ => return None,
                }
            }
            // The last messages of the stream may have been removed.
            if read == before {
                break;
            }
        }
        Some(FoldedStream { events, markers: markers.into_values().collect(), origins })
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (entry, to) = (entry.unwrap(), to);
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(std::fs::copy(entry.path(), to).unwrap()),
        }
    }
}
