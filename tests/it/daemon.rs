//! A whole daemon in this process, over any Graph.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use calmirror::api::BuildInfo;
use calmirror::config::{Config, Sources};
use calmirror::daemon::{Daemon, DaemonOptions};
use calmirror::env::Env;
use calmirror::graph::Transport;
use calmirror::platform::start_progress::StartProgress;
use calmirror::reload::{ReloadHandle, ReloadQueue};
use calmirror::store::Store;
use calmirror::supervisor::Fleet;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// The daemon, and what tests see of it.
pub(crate) struct Running {
    pub(crate) fleet: Fleet,
    pub(crate) store: Store,
    pub(crate) reloads: ReloadHandle,
    stop: oneshot::Sender<()>,
    running: JoinHandle<()>,
}

impl Running {
    /// Starts with a configuration. The account's file `secret` holds `secret`.
    pub(crate) async fn start(
        directory: &Path,
        secret: &str,
        configuration: &str,
        transport: Arc<dyn Transport>,
        env: &Env,
    ) -> Self {
        let path = directory.join("secret");
        fs::write(&path, secret).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let file = directory.join("calmirror.toml");
        fs::write(&file, configuration).unwrap();
        let sources = Sources::find(Some(&file), BTreeMap::new());
        let clock = env.clone();
        let load = Arc::new(move || Config::load(&sources, clock.now()));
        let options = DaemonOptions {
            config: load().unwrap(),
            load,
            reloads: ReloadQueue::default(),
            telemetry: None,
            env: env.clone(),
            transport,
            about: BuildInfo {
                version: String::new(),
                commit: String::new(),
                target: String::new(),
                started: env.now(),
                since: tokio::time::Instant::now(),
            },
            progress: StartProgress::default(),
            accept_drops: false,
            open_loopback: false,
        };
        let daemon = Daemon::start(options).await.unwrap();
        let (fleet, store, reloads) = (daemon.fleet(), daemon.store(), daemon.reloads());
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(async move {
            daemon.run(async { drop(stopped.await) }).await.unwrap();
        });
        Self { fleet, store, reloads, stop, running }
    }

    pub(crate) async fn stop(self) {
        self.stop.send(()).unwrap();
        self.running.await.unwrap();
    }
}
