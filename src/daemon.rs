//! Assembles a running calmirror from a configuration, for the binary, the demo and the tests.
//!
//! Startup: store, listening addresses, fleet, then serving. Shutdown: stop accepting requests,
//! drain the workers, finish the writes, close the store.

mod fleets;
mod listeners;
mod login;
mod membership;
mod online;
mod reload;
mod settings;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use crate::api::{
    AppState, BindError, BuildInfo, ConsumerLog, FleetBoard, OwnerBoard, RequestLimits, StopSignal,
};
use crate::config::{Config, Sections};
use crate::env::Env;
use crate::error_chain::error_chain;
use crate::graph::{Budgets, GraphClient, Transport};
use crate::metrics::{Metrics, ReaderMetrics};
use crate::mirror::position::WindowId;
use crate::platform::notify::Notify;
use crate::platform::start_progress::StartProgress;
use crate::platform::telemetry::Telemetry;
use crate::reload::{ReloadHandle, ReloadQueue, ReloadRequest};
use crate::sinks::{SinkBoard, Sinks};
use crate::store::{self, OpenError, Store, StoreError, WindowCount};
use crate::supervisor::{Fleet, STOP_TIMEOUT, Supervisor, TaskExit};
use crate::worker::{Services, StateFeed};
use fleets::{FinishedListing, Fleets, Listings, extended};
use listeners::{Listeners, PreparedListeners};
use login::AccountRegistry;
use membership::{PendingListing, StoredListing};
pub use online::{AccountCheck, FleetCheck, OnlineChecks, OnlineFault, check_online};
pub use reload::Loader;
use reload::{LoadResult, PendingReload};
use settings::{api_settings, sign_ins, tokens, window_specs};

/// How long a stop may take; less than `platform::signals::MAX_STOP`.
const STOP: Duration = Duration::from_millis(9500);
/// The part of [`STOP`] that is kept for closing the store and for reporting a timeout.
const CLOSE: Duration = Duration::from_millis(2000);

/// Everything a daemon is made from.
pub struct DaemonOptions {
    /// The configuration.
    pub config: Config,
    /// Reads the configuration again, for a reload.
    pub load: Loader,
    /// The requested reloads.
    pub reloads: ReloadQueue,
    /// The logs whose level a reload may change; `None` if the command line sets the level.
    pub telemetry: Option<Telemetry>,
    /// The wall clock and the random numbers.
    pub env: Env,
    /// How Graph is reached.
    pub transport: Arc<dyn Transport>,
    /// The running program, for `/v1/status`.
    pub about: BuildInfo,
    /// Where the start says how far it is.
    pub progress: StartProgress,
    /// Whether most of the fleet may be dropped.
    pub accept_drops: bool,
    /// Whether TCP on loopback needs no token (the demo).
    pub open_loopback: bool,
}

/// Why a daemon could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store could not be opened; nothing was touched.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The store failed while the windows were registered.
    #[error("while starting the fleet")]
    Store(#[from] StoreError),
    /// A listener could not be bound.
    #[error("while binding the API")]
    Bind(#[from] BindError),
    /// The configuration would drop most of the fleet.
    #[error(
        "the configuration would drop {dropped} of {known} windows; if that is meant, start with --accept-drops"
    )]
    Drops {
        /// Windows that would be dropped.
        dropped: usize,
        /// Windows the store knows.
        known: usize,
    },
    /// A token file could not be read, or holds no token.
    #[error("cannot read the token in {path}")]
    Token {
        /// The token file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The client for the other shards could not be created.
    #[error("cannot use the addresses of [shard] url: {0}")]
    Shards(String),
    /// The Graph client could not be created.
    #[error("cannot use the configured Graph address: {0}")]
    Graph(String),
}

/// A running calmirror.
pub struct Daemon {
    /// As it was read, without the windows of fleets.
    base: Arc<Config>,
    /// What is in force.
    config: Arc<Config>,
    load: Loader,
    reloads: ReloadQueue,
    pending: Option<PendingReload>,
    storing: Option<PendingListing>,
    telemetry: Option<Telemetry>,
    env: Env,
    transport: Arc<dyn Transport>,
    open_loopback: bool,
    store: Store,
    client: GraphClient,
    accounts: AccountRegistry,
    fleets: Fleets,
    elsewhere: OwnerBoard,
    supervisor: Supervisor,
    sinks: Sinks,
    listeners: Listeners,
}

/// An event that the daemon's loop handles.
enum DaemonEvent {
    /// A stop was requested.
    Stop,
    /// The files of the pending reload have been read.
    ConfigLoaded(LoadResult),
    /// A reload was requested, and none is pending.
    Reload(ReloadRequest),
    /// A fleet was listed, or could not be.
    FleetListed(FinishedListing),
    /// The listing of a fleet is stored, or could not be.
    ListingStored(StoredListing),
    /// The store has failed.
    StoreFailed(StoreError),
    /// The workers are checked and the watchdog is fed.
    Tick,
    /// A worker or a maintenance task has ended.
    TaskExited(TaskExit),
}

impl Daemon {
    /// Opens the store, binds the API and starts a worker per window. Once this returns, the daemon
    /// serves.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(options: DaemonOptions) -> Result<Self, StartError> {
        let DaemonOptions { config, reloads, env, transport, .. } = options;
        let settings = api_settings(&config, options.open_loopback)?;
        let store = open(&config, &env).await?;
        let (base, listings) = (Arc::new(config), stored_listings(&store).await?);
        let (config, windows) = extended(&base, &listings);
        // Bound before the first request to Graph, so that a taken address fails early.
        let bound = PreparedListeners::all(&config.sections.api).await?;

        let client = graph_client(&config, &transport, &env)?;
        let metrics = Metrics {
            graph: client.metrics(),
            store: store.metrics(),
            rounds: Arc::default(),
            readers: ReaderMetrics::default(),
            access: Arc::default(),
        };
        let services = Services {
            store: store.clone(),
            client: client.clone(),
            env: env.clone(),
            metrics: metrics.rounds.clone(),
            states: StateFeed::default(),
        };
        let sign_ins = sign_ins(&config, &BTreeMap::new())
            .map_err(|error| StartError::Graph(error.to_string()))?;
        let accounts = tokens(&sign_ins, &BTreeMap::new(), &transport, &env);
        let registry = AccountRegistry::new(accounts.clone(), reloads.handle(), env.clone());
        let board = FleetBoard::default();
        let elsewhere = OwnerBoard::new(config.elsewhere.clone());
        let mut fleets = Fleets::new(client.clone(), env.clone(), board.clone());
        fleets.configure(&config, &accounts, &listings, windows);
        let mut supervisor = Supervisor::new(services, config.sections.feed.retention);
        let specs = window_specs(&config, &config.windows, &accounts);
        let accept = options.accept_drops;
        let permit = |count, unwanted: &[_]| check_drops(&config, accept, count, unwanted);
        supervisor.start(specs, &options.progress, permit).await?;
        forget_fleets(&store, &config, &listings).await?;

        let sink_board = SinkBoard::new(env.clone());
        let app = AppState {
            store: store.clone(),
            fleet: Arc::new(supervisor.fleet()),
            fleets: board,
            elsewhere: elsewhere.clone(),
            logins: Arc::new(registry.clone()),
            sinks: Arc::new(sink_board.clone()),
            reloads: reloads.handle(),
            env: env.clone(),
            build: Arc::new(options.about),
            settings,
            consumers: ConsumerLog::default(),
            metrics,
            limits: RequestLimits::new(env.clone()),
            stopping: StopSignal::default(),
        };
        let mut sinks = Sinks::new(sink_board, &env);
        sinks.configure(&config.sinks, &app).await?;
        let listeners = Listeners::serve(app, bound);
        Ok(Self {
            base,
            config: Arc::new(config),
            load: options.load,
            reloads,
            pending: None,
            storing: None,
            telemetry: options.telemetry,
            env,
            transport,
            open_loopback: options.open_loopback,
            store,
            client,
            accounts: registry,
            fleets,
            elsewhere,
            supervisor,
            sinks,
            listeners,
        })
    }

    /// Tells the service manager that the daemon serves, and reports the status from now on.
    pub fn announce(&mut self, notify: Notify) {
        self.supervisor.announce(notify);
    }

    /// The running fleet.
    pub fn fleet(&self) -> Fleet {
        self.supervisor.fleet()
    }

    /// The mirror.
    pub fn store(&self) -> Store {
        self.store.clone()
    }

    /// Requests reloads of the running daemon and knows their results.
    pub fn reloads(&self) -> ReloadHandle {
        self.reloads.handle()
    }

    /// The TCP address, if there is one.
    pub fn address(&self) -> Option<SocketAddr> {
        self.listeners.address()
    }

    /// The path of the Unix socket, if there is one.
    pub fn socket(&self) -> Option<PathBuf> {
        self.listeners.socket()
    }

    /// Runs until `until` resolves or the store fails, then drains.
    ///
    /// # Errors
    /// The store failed. Everything it has acknowledged as durable is kept.
    pub async fn run(mut self, until: impl Future<Output = ()>) -> Result<(), StoreError> {
        let mut until = std::pin::pin!(until);
        let store = self.store.clone();
        let mut failed = std::pin::pin!(store.failed());
        let mut ticks = self.supervisor.ticks();
        // The watchdog is fed only from this loop, so it fires when the loop stops.
        let result = loop {
            // One change at a time.
            let is_idle = self.pending.is_none() && self.storing.is_none();
            let event = tokio::select! {
                biased;
                () = &mut until => DaemonEvent::Stop,
                loaded = reload::loaded(&mut self.pending) => DaemonEvent::ConfigLoaded(loaded),
                stored = membership::stored(&mut self.storing) => DaemonEvent::ListingStored(stored),
                request = self.reloads.next(), if is_idle => DaemonEvent::Reload(request),
                listed = self.fleets.next(), if is_idle => DaemonEvent::FleetListed(listed),
                error = &mut failed => DaemonEvent::StoreFailed(error),
                _ = ticks.tick() => DaemonEvent::Tick,
                exit = self.supervisor.next_exit() => DaemonEvent::TaskExited(exit),
            };
            match event {
                DaemonEvent::Stop => break Ok(()),
                DaemonEvent::ConfigLoaded(loaded) => {
                    self.on_config_loaded(loaded).await;
                    ticks.reset_immediately();
                }
                DaemonEvent::Reload(request) => self.on_reload_request(request),
                DaemonEvent::FleetListed(listed) => self.on_fleet_listed(listed),
                DaemonEvent::ListingStored(stored) => self.on_listing_stored(stored).await,
                DaemonEvent::StoreFailed(error) => break Err(error),
                DaemonEvent::Tick => self.supervisor.on_tick(),
                DaemonEvent::TaskExited(exit) => {
                    if let Err(error) = self.supervisor.on_task_exit(exit) {
                        break Err(error);
                    }
                }
            }
        };
        tracing::info!("stopping");
        // Waiting reload requests fail with `ReloadError::Stopping`.
        drop(self.reloads);
        let reading = self.pending.map(PendingReload::cancel);
        if let Some(storing) = self.storing {
            storing.cancel();
        }
        self.listeners.stop();
        let notify = self.supervisor.notify();
        let stopping = stop(self.supervisor, self.sinks, self.listeners, reading, self.store);
        // The watchdog is fed from this task, so that it fires only if the task does not run.
        let feeding = async {
            let mut ticks = tokio::time::interval(notify.interval());
            loop {
                ticks.tick().await;
                notify.alive("stopping");
            }
        };
        let closed = tokio::select! {
            closed = stopping => closed,
            never = feeding => never,
        };
        result?;
        closed?;
        tracing::info!("stopped");
        Ok(())
    }

    /// Applies the settings that everything that runs takes at once. Nothing of it can fail.
    fn change_settings(&self, new: &Config) {
        let Sections { graph, feed, log, .. } = &new.sections;
        self.client.budgets().resize(new.max_concurrent(), graph.max_concurrent_per_mailbox);
        self.client.set_request_timeout(graph.request_timeout);
        self.supervisor.set_retention(feed.retention);
        if let Some(telemetry) = &self.telemetry
            && log.level != self.config.sections.log.level
            && let Err(error) = telemetry.set_level(&log.level)
        {
            tracing::error!(reason = %error_chain(&error), "log level could not be changed");
        }
    }
}

/// The client of Graph, with this process's part of the requests.
fn graph_client(
    config: &Config,
    transport: &Arc<dyn Transport>,
    env: &Env,
) -> Result<GraphClient, StartError> {
    let graph = &config.sections.graph;
    let budgets = Budgets::new(config.max_concurrent(), graph.max_concurrent_per_mailbox);
    let (url, timeout) = (&graph.base_url, graph.request_timeout);
    GraphClient::new(transport.clone(), url, budgets, env.clone(), timeout)
        .map_err(|error| StartError::Graph(error.to_string()))
}

/// Waits for workers, requests and the reading of files, and closes the store, within [`STOP`].
async fn stop(
    supervisor: Supervisor,
    sinks: Sinks,
    mut listeners: Listeners,
    reading: Option<JoinHandle<LoadResult>>,
    store: Store,
) -> Result<(), StoreError> {
    let until = Instant::now() + STOP;
    // What a target is still being sent is sent again after the next start.
    let sinks = timeout_at(until - CLOSE, sinks.stop());
    let (stopped, _) = tokio::join!(sinks, supervisor.drain(STOP_TIMEOUT));
    if stopped.is_err() {
        tracing::warn!("sinks not stopped in time, cut off");
    }
    if timeout_at(until - CLOSE, listeners.stopped()).await.is_err() {
        tracing::warn!("requests not ended in time, cut off");
    }
    if let Some(reading) = reading
        && timeout_at(until - CLOSE, reading).await.is_err()
    {
        tracing::warn!("reading of the configuration not ended in time, cut off");
    }
    match timeout_at(until, store.close()).await {
        Ok(closed) => closed,
        Err(_) => {
            tracing::warn!("store not closed in time, the next start reads its log");
            Ok(())
        }
    }
}

/// Forgets the fleets that left the configuration while no daemon ran.
async fn forget_fleets(
    store: &Store,
    config: &Config,
    listings: &Listings,
) -> Result<(), StoreError> {
    for name in listings.keys() {
        if config.fleets.iter().all(|fleet| fleet.name != *name) {
            store.save_fleet_listing(name, None).await?;
        }
    }
    Ok(())
}

/// The last listing of each fleet.
async fn stored_listings(store: &Store) -> Result<Listings, StartError> {
    let stored = store.fleet_listings().await?;
    Ok(stored.into_iter().map(|(name, listing)| (name, Arc::new(listing))).collect())
}

async fn open(config: &Config, env: &Env) -> Result<Store, StartError> {
    let options = store::StoreOptions {
        cache_bytes: config.sections.store.cache,
        ..store::StoreOptions::new(&config.sections.store.path)
    };
    let store_env = env.clone();
    let opened = tokio::task::spawn_blocking(move || Store::open(&options, &store_env)).await;
    let (store, opening) = match opened {
        Ok(opened) => opened?,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    };
    if let Some(path) = opening.moved_aside {
        tracing::error!(
            moved_to = %path.display(),
            "damaged store moved aside, everything is enumerated again"
        );
    }
    Ok(store)
}

/// Whether only this many of the store's windows may stay without permission to drop the others.
/// Windows that another shard has now are not dropped. The windows of a store are a fair sample of
/// those of all shards, which nobody knows at a start.
fn check_drops(
    config: &Config,
    accept: bool,
    count: WindowCount,
    unwanted: &[(WindowId, Arc<str>)],
) -> Result<(), StartError> {
    let WindowCount { known, staying } = count;
    let moved = unwanted.iter().filter(|(_, name)| config.elsewhere.contains_key(name)).count();
    let dropped = known - staying - moved;
    let shards = config.sections.shard.of.count() as usize;
    if !accept && reload::is_mass_drop(dropped * shards, known * shards) {
        return Err(StartError::Drops { dropped, known });
    }
    Ok(())
}
