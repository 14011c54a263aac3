//! A stream of a real NATS server.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Mutex;

use async_nats::jetstream::consumer::AckPolicy;
use async_nats::jetstream::consumer::pull::Config;
use async_nats::jetstream::context::Context;
use futures_util::StreamExt as _;
use serde_json::Value;
use tempfile::TempDir;

use super::*;
use crate::mirror::shard::Shard;
use crate::sinks::sql::tests::model::{ModelDatabase, ModelRows};

/// A server of its own, and a connection for readers.
pub(super) struct StreamFixture {
    directory: TempDir,
    server: Mutex<NatsServer>,
    port: u16,
    pub(super) context: Context,
}

/// Runs a test with a server of its own, or skips it if there is none.
pub(super) async fn with_stream(test: impl AsyncFnOnce(&StreamFixture)) {
    let directory = TempDir::new().unwrap();
    let Some(server) = NatsServer::start(directory.path(), "").await else { return };
    let client = async_nats::connect(server.url()).await.unwrap();
    let context = async_nats::jetstream::new(client);
    let port = server.port();
    test(&StreamFixture { directory, server: Mutex::new(server), port, context }).await;
}

impl StreamFixture {
    pub(super) fn target(&self) -> NatsTarget {
        self.target_with(|_| {})
    }

    pub(super) fn target_with(&self, change: impl FnOnce(&mut NatsSettings)) -> NatsTarget {
        let mut settings = settings_of(self);
        change(&mut settings);
        target(&settings)
    }

    /// Ends the server as a crash does, and starts it at the same port.
    pub(super) async fn restart_server(&self) {
        self.server.lock().unwrap().kill();
        let again = NatsServer::start_at(self.directory.path(), "", self.port).await;
        *self.server.lock().unwrap() = again.unwrap();
    }

    pub(super) async fn stream(&self) -> Stream {
        self.context.get_stream("CALMIRROR").await.unwrap()
    }

    /// Deletes the stream, and waits until its files are gone: the server removes them after it has
    /// answered, and cannot make the stream again meanwhile.
    pub(super) async fn delete(&self) {
        self.context.delete_stream("CALMIRROR").await.unwrap();
        while has_directory(self.directory.path(), "CALMIRROR") {
            tokio::task::yield_now().await;
        }
    }

    /// Makes a stream. The server still removes what was deleted for a moment, and then has no place
    /// for another one.
    pub(super) async fn create(&self, config: &async_nats::jetstream::stream::Config) {
        let mut tries = 0;
        while let Err(error) = self.context.create_stream(config.clone()).await {
            tries += 1;
            let is_busy = error.to_string().contains("error creating store for stream");
            assert!(is_busy && tries < 1000, "after {tries} tries: {error}");
            tokio::task::yield_now().await;
        }
    }

    pub(super) async fn publish(&self, subject: &str, payload: &str) {
        let payload = payload.to_owned().into();
        self.context.publish(subject.to_owned(), payload).await.unwrap().await.unwrap();
    }

    pub(super) async fn message_count(&self) -> u64 {
        self.stream().await.cached_info().state.messages
    }

    /// The lines in the stream, in its order.
    pub(super) async fn lines(&self) -> Vec<Value> {
        let Ok(stream) = self.context.get_stream("CALMIRROR").await else { return Vec::new() };
        let config = Config { ack_policy: AckPolicy::None, ..Config::default() };
        let consumer = stream.create_consumer(config).await.unwrap();
        let mut lines = Vec::new();
        loop {
            let fetched = consumer.fetch().max_messages(500).messages().await.unwrap();
            let read: Vec<_> = fetched.collect().await;
            if read.is_empty() {
                return lines;
            }
            let parsed = read.into_iter().map(|message| {
                serde_json::from_slice(&message.unwrap().payload).unwrap_or_default()
            });
            lines.extend(parsed);
        }
    }

    /// The stream folded: subjects of events by window and id.
    async fn folded(&self) -> BTreeMap<(String, String), Value> {
        let mut events = BTreeMap::new();
        for mut line in self.lines().await {
            let text = |name: &str| line[name].as_str().map(str::to_owned);
            let (Some(window), Some(id)) = (text("window"), text("id")) else { continue };
            match line["change"] == "removed" {
                true => drop(events.remove(&(window, id))),
                false => drop(events.insert((window, id), line["event"].take())),
            }
        }
        events
    }

    pub(super) async fn ids(&self) -> Vec<String> {
        self.folded().await.into_keys().map(|(_, id)| id).collect()
    }

    /// Waits for what happens soon.
    pub(super) async fn eventually(&self, what: &str, done: impl AsyncFn() -> bool) {
        for _ in 0..600 {
            if done().await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("not in time: {what}");
    }
}

impl ModelDatabase for StreamFixture {
    fn target(&self) -> Box<dyn SinkTarget> {
        Box::new(self.target())
    }

    fn rows(&self) -> BoxFuture<'_, ModelRows> {
        Box::pin(async {
            let subject = |event: Value| event["subject"].as_str().unwrap().to_owned();
            self.folded().await.into_iter().map(|(key, event)| (key, subject(event))).collect()
        })
    }
}

/// The settings of a sink of this server.
pub(super) fn settings_of(fixture: &StreamFixture) -> NatsSettings {
    settings(&format!("nats://127.0.0.1:{}", fixture.port))
}

/// A target that is not connected yet.
pub(super) fn target(settings: &NatsSettings) -> NatsTarget {
    NatsTarget::new(settings, &"copy".into(), alone(), &Env::real())
}

/// A process that has every window.
pub(super) fn alone() -> StreamShare {
    StreamShare { shard: Shard::ALONE, elsewhere: Arc::new(|_| None), windows: Arc::new(Vec::new) }
}

/// The settings of a sink of a server.
pub(super) fn settings(url: &str) -> NatsSettings {
    NatsSettings {
        url: SinkSecret::Inline(url.to_owned().into()),
        credentials_file: None,
        authorities: Arc::default(),
        stream: "CALMIRROR".into(),
        subject: "copy".into(),
        retention: Duration::from_secs(3600),
    }
}

/// Whether there is a directory with this name below another one.
fn has_directory(below: &Path, name: &str) -> bool {
    let entries = fs::read_dir(below).into_iter().flatten().flatten();
    let mut directories = entries.map(|entry| entry.path()).filter(|path| path.is_dir());
    directories.any(|path| path.ends_with(name) || has_directory(&path, name))
}
