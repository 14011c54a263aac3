//! A whole daemon in this process, over an existing store.

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
use calmirror::reload::ReloadQueue;
use calmirror::store::Store;
use calmirror::supervisor::Fleet;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub(super) struct Running {
    pub(super) fleet: Fleet,
    pub(super) store: Store,
    stop: oneshot::Sender<()>,
    running: JoinHandle<()>,
}

impl Running {
    pub(super) async fn start(
        directory: &Path,
        configuration: &str,
        transport: Arc<dyn Transport>,
        env: &Env,
    ) -> Self {
        let secret = directory.join("secret");
        fs::write(&secret, "s3cret").unwrap();
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
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
            accept_drops: false,
            open_loopback: false,
            cache_bytes: 16 << 20,
        };
        let daemon = Daemon::start(options).await.unwrap();
        let (fleet, store) = (daemon.fleet(), daemon.store());
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(async move {
            daemon.run(async { drop(stopped.await) }).await.unwrap();
        });
        Self { fleet, store, stop, running }
    }

    pub(super) async fn stop(self) {
        self.stop.send(()).unwrap();
        self.running.await.unwrap();
    }
}
