//! calmirror as a library: mirrors the calendars of a simulated Graph and prints the first changes.
//!
//! ```text
//! cargo run --release --example embedded
//! ```
//!
//! With a real tenant only the configuration differs, see `docs/getting-started.md`.
#![allow(clippy::print_stdout, reason = "an example prints")]

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use calmirror::api::BuildInfo;
use calmirror::config::{Config, Sources};
use calmirror::daemon::{Daemon, DaemonOptions};
use calmirror::env::Env;
use calmirror::graph::transport::HttpTransport;
use calmirror::platform::start_progress::StartProgress;
use calmirror::reload::ReloadQueue;
use calmirror::simulator::{Behaviour, SimulateArgs, Simulation};
use calmirror::store::{BATCH_BYTES, FeedFilter, Follower};
use tokio::sync::oneshot;

/// Changes that are printed before the program ends.
const CHANGES: usize = 20;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let env = Env::real();
    let directory = tempfile::tempdir()?;

    // A Graph with two people and a room, in which something changes every second.
    let graph = SimulateArgs {
        listen: ([127, 0, 0, 1], 0).into(),
        seed: 7,
        people: 2,
        rooms: 1,
        mutate_every: Duration::from_secs(1),
        faults: 0.0,
        behaviour: Behaviour::calm(),
        latency: Duration::ZERO,
    };
    let graph = Simulation::start(graph, env.clone()).await?;
    let (address, mailboxes) = (graph.address(), graph.simulator().mailboxes());
    tokio::spawn(graph.run(std::future::pending()));

    // An ordinary configuration file. Only the addresses show that Graph is simulated.
    let secret = directory.path().join("secret");
    let options = fs::OpenOptions::new().write(true).create(true).mode(0o600).clone();
    std::io::Write::write_all(&mut options.open(&secret)?, b"any secret is accepted")?;
    let windows: String = mailboxes
        .iter()
        .map(|mailbox| format!("[[window]]\naccount = \"demo\"\nmailbox = \"{mailbox}\"\n"))
        .collect();
    let file = directory.path().join("calmirror.toml");
    let text = format!(
        r#"
[store]
path = "store"
[graph]
base_url = "http://{address}/v1.0"
login_url = "http://{address}"
[api]
socket = "api.sock"
[defaults]
interval = "2s"
[account.demo]
tenant = "contoso.example"
client_id = "00000000-0000-0000-0000-000000000000"
client_secret_file = "secret"
{windows}"#
    );
    fs::write(&file, text)?;
    let sources = Sources::find(Some(&file), BTreeMap::new());
    let config = Config::load(&sources, env.now())?;

    // The daemon: a store, a worker for each window, the HTTP API on a Unix socket.
    let reload_env = env.clone();
    let daemon = Daemon::start(DaemonOptions {
        config,
        load: Arc::new(move || Config::load(&sources, reload_env.now())),
        reloads: ReloadQueue::default(),
        telemetry: None,
        about: BuildInfo {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: "unknown".to_owned(),
            target: "unknown".to_owned(),
            started: env.now(),
            since: tokio::time::Instant::now(),
        },
        env,
        transport: Arc::new(HttpTransport::new()?),
        progress: StartProgress::default(),
        accept_drops: false,
        open_loopback: false,
    })
    .await?;
    let store = daemon.store();
    let (stop, stopped) = oneshot::channel();
    let running = tokio::spawn(daemon.run(async { drop(stopped.await) }));

    // The feed, from its beginning: each event once, then each change.
    let mut follower = Follower::from_beginning(&store, FeedFilter::All);
    let mut printed = 0;
    while printed < CHANGES {
        let changes = follower.next_batch(100, BATCH_BYTES).await?;
        for change in changes.value.iter().take(CHANGES - printed) {
            println!("{:>4} {:8} {}", change.seq, change.kind.as_str(), change.window);
            printed += 1;
        }
    }

    stop.send(()).ok();
    running.await??;
    Ok(())
}
