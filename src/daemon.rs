//! Assembles a running calmirror from a configuration: the same door for the binary, the demo
//! and the tests.
//!
//! Order of birth: store, fleet, listeners. Order of death: listeners stop taking requests and
//! workers stop asking, what is being written is written, the store is closed last.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::api::{self, About, Access, ApiSettings, BindError, Secret, UnixDoor};
use crate::config::{self, Config};
use crate::graph::{self, Budgets, Client, Tokens, Transport};
use crate::platform::notify::Notify;
use crate::store::{self, OpenError, Store, StoreError};
use crate::supervisor::{Fleet, Post, Supervisor};
use crate::worker::Services;
use crate::world::World;

/// How long workers may take to finish what they write.
const DRAIN: Duration = Duration::from_secs(20);
/// Bytes of sled's page cache: a large tenant's positions and indexes, not its bodies.
const CACHE_BYTES: u64 = 512 << 20;
/// A change of configuration that drops at least so many windows, and more than half, is asked
/// about first: a truncated file must not wipe a fleet.
const DROPS_BELIEVED: usize = 20;

/// Everything a daemon is made from.
pub struct Options {
    /// What to mirror and where.
    pub config: Config,
    /// Wall clock and chance.
    pub world: World,
    /// How Graph is reached.
    pub transport: Arc<dyn Transport>,
    /// What is running, for `/v1/status`.
    pub about: About,
    /// Whether most of a fleet may be dropped.
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
    /// The store failed while the fleet was being made known to it.
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
        /// Windows that would leave.
        dropped: usize,
        /// Windows the store knows.
        known: usize,
    },
    /// A token file could not be read.
    #[error("cannot read the token in {path}")]
    Token {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The transport refused its settings.
    #[error("cannot use the configured Graph address: {0}")]
    Graph(String),
}

/// A running calmirror.
pub struct Daemon {
    store: Store,
    supervisor: Supervisor,
    servers: JoinSet<()>,
    stopping: watch::Sender<bool>,
    address: Option<SocketAddr>,
    socket: Option<PathBuf>,
}

impl Daemon {
    /// Opens the store, starts a worker per window, binds the API. Once this returns, the
    /// daemon serves.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(options: Options) -> Result<Self, StartError> {
        let Options { config, world, transport, about, accept_drops, open_loopback } = options;
        let settings = api_settings(&config, open_loopback)?;
        let store = open(&config, &world).await?;
        check_drops(&store, &config, accept_drops).await?;

        // Bound before the first request to Graph, so that a taken address costs nothing.
        let door = match &config.api.socket {
            Some(path) => Some(api::bind_unix(path, config.api.socket_group.as_deref())?),
            None => None,
        };
        let tcp = match config.api.listen {
            Some(address) => {
                let listener = api::bind_tcp(address).await?;
                // Port 0 asks for any port: the one that was given is the one to tell.
                let address = listener.local_addr().unwrap_or(address);
                Some((listener, address))
            }
            None => None,
        };

        let budgets =
            Budgets::new(config.graph.max_concurrent, config.graph.max_concurrent_per_mailbox);
        let client = Client::new(
            transport.clone(),
            &config.graph.base_url,
            budgets,
            world.clone(),
            config.graph.request_timeout,
        )
        .map_err(|error| StartError::Graph(error.to_string()))?;
        let services = Services { store: store.clone(), client, world: world.clone() };
        let mut supervisor = Supervisor::new(services.clone(), config.feed.retention);
        supervisor.start(posts(&config, &transport, &world)).await?;

        let (stopping, stop) = watch::channel(false);
        let access = Access {
            store: store.clone(),
            fleet: Arc::new(supervisor.fleet()),
            world,
            about: Arc::new(about),
            settings,
            stopping: stop.clone(),
        };
        let (address, socket) = (tcp.as_ref().map(|(_, address)| *address), config.api.socket);
        let servers = serve(&access, door, tcp, &stop);
        Ok(Self { store, supervisor, servers, stopping, address, socket })
    }

    /// Tells the service manager that the daemon serves, and from now on how it goes.
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

    /// Where TCP listens, if it does.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Where the Unix socket is, if there is one.
    pub fn socket(&self) -> Option<&PathBuf> {
        self.socket.as_ref()
    }

    /// Runs until `until` resolves or the store fails, then drains.
    ///
    /// # Errors
    /// Where the store failed. Everything it had said was durable still is.
    pub async fn run(mut self, until: impl Future<Output = ()>) -> Result<(), StoreError> {
        let result = self.supervisor.watch(until).await;
        tracing::info!("stopping");
        self.stopping.send_replace(true);
        if !self.supervisor.drain(DRAIN).await {
            tracing::warn!(
                deadline_s = DRAIN.as_secs(),
                "workers did not stop in time and were cut off"
            );
        }
        while self.servers.join_next().await.is_some() {}
        let closed = self.store.close().await;
        result?;
        closed?;
        tracing::info!("stopped");
        Ok(())
    }
}

async fn open(config: &Config, world: &World) -> Result<Store, StartError> {
    let options =
        store::Options { cache_bytes: CACHE_BYTES, ..store::Options::new(&config.store.path) };
    let held = world.clone();
    let opened = tokio::task::spawn_blocking(move || Store::open(&options, &held)).await;
    let (store, opening) = match opened {
        Ok(opened) => opened?,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    };
    if let Some(path) = opening.moved_aside {
        tracing::error!(
            moved_to = %path.display(),
            "store was damaged: it was moved aside, everything is enumerated again"
        );
    }
    Ok(store)
}

async fn check_drops(store: &Store, config: &Config, accept: bool) -> Result<(), StartError> {
    let wanted: BTreeSet<&str> = config.windows.iter().map(|window| &*window.name).collect();
    let mut known = store.windows().await?;
    known.retain(|(_, _, dropping)| !dropping);
    let dropped = known.iter().filter(|(name, _, _)| !wanted.contains(&**name)).count();
    if !accept && dropped >= DROPS_BELIEVED && dropped * 2 > known.len() {
        return Err(StartError::Drops { dropped, known: known.len() });
    }
    Ok(())
}

/// Every window with its account's tokens; accounts are shared, so that each is refreshed once.
fn posts(config: &Config, transport: &Arc<dyn Transport>, world: &World) -> Vec<Post> {
    let tokens: std::collections::BTreeMap<_, Arc<Tokens>> = config
        .accounts
        .iter()
        .map(|(name, account)| {
            let account = graph::Account {
                name: account.name.clone(),
                tenant: account.tenant.to_string(),
                client_id: account.client_id.clone(),
                credential: credential(&account.credential),
                login_url: config.graph.login_url.clone(),
                scope: config.graph.scope.clone(),
            };
            (name.clone(), Tokens::new(account, transport.clone(), world.clone()))
        })
        .collect();
    config
        .windows
        .iter()
        .filter_map(|window| {
            let tokens = tokens.get(&window.account)?.clone();
            Some(Post { window: window.clone(), identity: config.identity(window), tokens })
        })
        .collect()
}

fn credential(credential: &config::Credential) -> graph::Credential {
    match credential {
        config::Credential::SecretFile(path) => graph::Credential::SecretFile(path.clone()),
        config::Credential::SecretEnv(name) => graph::Credential::SecretEnv(name.clone()),
        config::Credential::CertificateFile(path) => {
            graph::Credential::CertificateFile(path.clone())
        }
        config::Credential::AccessTokenFile(path) => {
            graph::Credential::AccessTokenFile(path.clone())
        }
    }
}

fn api_settings(config: &Config, open_loopback: bool) -> Result<ApiSettings, StartError> {
    let read = |path: &Option<PathBuf>| match path {
        None => Ok(None),
        Some(path) => match std::fs::read_to_string(path) {
            Ok(token) => Ok(Some(Secret::new(token.trim()))),
            Err(source) => Err(StartError::Token { path: path.clone(), source }),
        },
    };
    Ok(ApiSettings {
        token: read(&config.api.token_file)?,
        read_token: read(&config.api.read_token_file)?,
        mask_private: config.api.mask_private,
        open_loopback,
    })
}

fn serve(
    access: &Access,
    door: Option<UnixDoor>,
    tcp: Option<(TcpListener, SocketAddr)>,
    stop: &watch::Receiver<bool>,
) -> JoinSet<()> {
    let mut servers = JoinSet::new();
    let stopped = |mut stop: watch::Receiver<bool>| async move {
        // An error means the sender is gone, which is an end too.
        drop(stop.wait_for(|stop| *stop).await);
    };
    if let Some(door) = door {
        servers.spawn(api::serve_unix(door, api::router(access.clone()), stopped(stop.clone())));
    }
    if let Some((listener, address)) = tcp {
        let router = api::tcp_router(access.clone(), address);
        servers.spawn(api::serve_tcp(listener, router, stopped(stop.clone())));
    }
    servers
}
