//! A shard: a daemon with a directory of its own, which goes to the stream over its own network.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Stdio;

use serde_json::Value;

use crate::process::{DaemonFixture, DaemonProcess, command, eventually};
use crate::proxy::ChaosProxy;
use crate::socket::Api;

pub(super) struct ShardProcess {
    ordinal: usize,
    directory: PathBuf,
    pub(super) api: Api,
    pub(super) proxy: ChaosProxy,
    pub(super) is_harmed: bool,
    /// The running process, and the count that it was started with.
    pub(super) daemon: Option<(DaemonProcess, usize)>,
}

impl ShardProcess {
    /// A shard that does not run yet, whose network leads to a server at this port.
    pub(super) async fn new(fixture: &DaemonFixture, ordinal: usize, port: u16) -> Self {
        let directory = fixture.path(&format!("shard-{ordinal}"));
        fs::create_dir(&directory).unwrap();
        // With its mode.
        fs::copy(fixture.path("secret"), directory.join("secret")).unwrap();
        let api = Api::at(&directory.join("api.sock"));
        let proxy = ChaosProxy::new(("127.0.0.1".to_owned(), port), true).await;
        Self { ordinal, directory, api, proxy, is_harmed: false, daemon: None }
    }

    /// Starts it as one of so many, without waiting until it serves. `windows` are all windows.
    pub(super) fn spawn(&mut self, fixture: &DaemonFixture, count: usize, windows: &str) {
        let Self { ordinal, directory, proxy, .. } = self;
        let text = format!(
            "{}[shard]\nof = \"{ordinal}/{count}\"\n[sink.log]\ntype = \"nats\"\n\
             url = \"nats://127.0.0.1:{}\"\nbatch = \"0s\"\n{windows}",
            fixture.preamble_in(directory),
            proxy.port
        );
        let (config, log) = (directory.join("calmirror.toml"), directory.join("log"));
        fs::write(&config, text).unwrap();
        let file = File::options().create(true).append(true).open(&log).unwrap();
        let child = command(&config).arg("run").stdout(Stdio::null()).stderr(file).spawn();
        self.daemon = Some((DaemonProcess::of(child.unwrap(), log), count));
    }

    pub(super) async fn serves(&mut self) {
        let Some((daemon, _)) = &mut self.daemon else { return };
        eventually("the shard serves", async || {
            assert!(daemon.exit_status().is_none(), "the shard ended: {}", daemon.log());
            let answer = self.api.try_get("/readyz").await?;
            answer.status.is_success().then_some(())
        })
        .await;
    }

    /// The count that it was started with, if it runs.
    pub(super) fn count(&self) -> Option<usize> {
        self.daemon.as_ref().map(|(_, count)| *count)
    }

    pub(super) async fn kill(&mut self) {
        if let Some((daemon, _)) = self.daemon.take() {
            daemon.kill().await;
        }
    }

    pub(super) async fn stop(&mut self) {
        // Before, a signal ends it as it ends any process.
        self.serves().await;
        if let Some((daemon, _)) = self.daemon.take() {
            daemon.stop().await;
        }
    }

    /// Its volume is lost.
    pub(super) fn lose_store(&self) {
        assert!(self.daemon.is_none());
        fs::remove_dir_all(self.directory.join("store")).ok();
    }

    pub(super) fn heal(&mut self) {
        self.proxy.heal();
        self.is_harmed = false;
    }

    /// Asks for the state of its sink, and lets one that waits for long try again.
    pub(super) async fn hurry(&self) {
        let Some(answer) = self.api.try_get("/v1/sinks").await else { return };
        if answer.status.is_success() && answer.json()["value"][0]["next_attempt"] != Value::Null {
            self.api.ask(http::Method::POST, "/v1/sinks/log/resume").await;
        }
    }

    pub(super) fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }
}
