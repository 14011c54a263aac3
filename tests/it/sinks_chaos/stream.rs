//! A stream of a real NATS server that is killed, stopped and emptied.

use std::path::PathBuf;
use std::time::Duration;

use async_nats::jetstream::consumer::AckPolicy;
use async_nats::jetstream::consumer::pull::Config;
use async_nats::jetstream::{self, Context};
use fastrand::Rng;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use serde_json::Value;

use super::target::ChaosTarget;
use crate::copies::EventsByWindow;
use crate::nats_server::NatsServer;
use crate::process::DaemonFixture;
use crate::proxy::ChaosProxy;

pub(super) struct StreamCopy {
    directory: PathBuf,
    port: u16,
    /// `None` while it is killed.
    server: Option<NatsServer>,
    is_stopped: bool,
    proxy: ChaosProxy,
}

impl StreamCopy {
    /// A server of its own, `None` if there is none that is new enough.
    pub(super) async fn new(fixture: &DaemonFixture) -> Option<Self> {
        let directory = fixture.path("nats");
        std::fs::create_dir(&directory).unwrap();
        let server = NatsServer::start(&directory, "").await?;
        let port = server.port();
        let proxy = ChaosProxy::new(("127.0.0.1".to_owned(), port), true).await;
        Some(Self { directory, port, server: Some(server), is_stopped: false, proxy })
    }

    async fn context(&self) -> Option<Context> {
        let address = format!("nats://127.0.0.1:{}", self.port);
        let client = async_nats::connect(address).await.ok()?;
        Some(jetstream::new(client))
    }

    /// The lines of the stream, in its order.
    async fn lines(&self) -> Option<Vec<Value>> {
        let stream = self.context().await?.get_stream("CALMIRROR").await.ok()?;
        let config = Config { ack_policy: AckPolicy::None, ..Config::default() };
        let consumer = stream.create_consumer(config).await.ok()?;
        let mut lines = Vec::new();
        loop {
            let fetched = consumer.fetch().max_messages(500).messages().await.ok()?;
            let read: Vec<_> = fetched.collect().await;
            if read.is_empty() {
                return Some(lines);
            }
            for message in read {
                lines.push(serde_json::from_slice(&message.ok()?.payload).ok()?);
            }
        }
    }
}

impl ChaosTarget for StreamCopy {
    fn name(&self) -> &'static str {
        "stream"
    }

    fn keys(&self) -> String {
        format!("type = \"nats\"\nurl = \"nats://127.0.0.1:{}\"\n", self.proxy.port)
    }

    fn harm<'a>(&'a mut self, chance: &'a mut Rng) -> BoxFuture<'a, String> {
        Box::pin(async {
            match chance.u8(..8) {
                0..2 => {
                    self.server = None;
                    "killed".to_owned()
                }
                2 => {
                    self.server.as_ref().unwrap().signal("STOP");
                    self.is_stopped = true;
                    "stopped".to_owned()
                }
                3 => match self.context().await {
                    Some(context) if context.delete_stream("CALMIRROR").await.is_ok() => {
                        "deleted".to_owned()
                    }
                    _ => "not deleted".to_owned(),
                },
                _ => self.proxy.harm(chance),
            }
        })
    }

    fn heal(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            if std::mem::take(&mut self.is_stopped) {
                self.server.as_ref().unwrap().signal("CONT");
            }
            if self.server.is_none() {
                self.server = NatsServer::start_at(&self.directory, "", self.port).await;
            }
            self.proxy.heal();
        })
    }

    fn held(&self) -> BoxFuture<'_, Option<EventsByWindow>> {
        Box::pin(async {
            let read = tokio::time::timeout(Duration::from_secs(10), self.lines());
            let mut events = EventsByWindow::new();
            for mut line in read.await.ok()?? {
                let text = |name: &str| line[name].as_str().map(str::to_owned);
                let (Some(window), Some(id)) = (text("window"), text("id")) else { continue };
                if line["change"] != "removed" {
                    events.insert((window, id), line["event"].take());
                }
            }
            Some(events)
        })
    }
}
