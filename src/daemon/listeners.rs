//! The listeners of a running daemon, and how a reload changes them.
//!
//! New listeners are bound before old ones are closed, so that a taken address or an unknown group
//! changes nothing. If the old listener had to be closed first and cannot be reopened at once, it
//! is reopened as soon as its address is free. A listener that stays is not touched: its
//! connections stay open, and their next requests use the new tokens and the new mask. Streams and
//! held requests that began under the old settings end; their readers continue from their cursors.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::api::{self, ApiSettings, AppState, BindError, StopSignal, UnixEndpoint, UnixOwner};
use crate::config::ApiConfig;
use crate::error_chain::error_chain;

/// A TCP listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TcpPurpose {
    /// The API, with tokens.
    Api,
    /// Probes and scrapes, without.
    Probes,
}

impl TcpPurpose {
    const ALL: [Self; 2] = [Self::Api, Self::Probes];

    /// Where it is configured to listen.
    fn address(self, config: &ApiConfig) -> Option<SocketAddr> {
        match self {
            Self::Api => config.listen,
            Self::Probes => config.probe_listen,
        }
    }

    fn router(self, app: AppState, address: SocketAddr) -> Router {
        match self {
            Self::Api => api::tcp_router(app, address),
            Self::Probes => api::probe_router(app),
        }
    }

    /// The listener of this purpose among one for each.
    fn of<T>(self, all: &mut [T; 2]) -> &mut T {
        let [api, probes] = all;
        match self {
            Self::Api => api,
            Self::Probes => probes,
        }
    }
}

/// How often binding a lost address is tried again.
const REBIND_INTERVAL: Duration = Duration::from_secs(1);

/// The open listeners and what they serve.
pub(super) struct Listeners {
    app: AppState,
    unix: Option<ActiveListener<UnixOwner>>,
    /// For each purpose.
    tcp: [Option<ActiveListener<SocketAddr>>; 2],
    servers: JoinSet<()>,
}

/// A listener that is served.
struct ActiveListener<T> {
    place: T,
    router: watch::Sender<Router>,
    /// Ends the streams and held requests.
    stopping: StopSignal,
    /// Closes the listener.
    stop: CancellationToken,
    /// Resolves once it is closed.
    closed: oneshot::Receiver<()>,
}

/// A TCP address, and its listener unless the address was lost. A lost address is bound again as
/// soon as it is free.
struct TcpEndpoint {
    listener: Option<TcpListener>,
    address: SocketAddr,
}

/// A listener whose drop is observed through `_closing`.
struct TrackedListener {
    endpoint: TcpEndpoint,
    _closing: oneshot::Sender<()>,
}

impl Listener for TrackedListener {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        let TcpEndpoint { listener, address } = &mut self.endpoint;
        loop {
            if let Some(listener) = listener {
                return Listener::accept(listener).await;
            }
            match api::bind_tcp(*address) {
                Ok(bound) => {
                    tracing::info!(%address, "listening again");
                    *listener = Some(bound);
                }
                Err(_) => tokio::time::sleep(REBIND_INTERVAL).await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.endpoint.address)
    }
}

/// What becomes of a listener.
#[derive(Default)]
enum ListenerChange<T> {
    /// It stays as it is.
    #[default]
    Keep,
    /// This one replaces it; `None` closes it.
    To(Option<T>),
}

/// The group that a socket had before; `None` if none was configured.
struct PreviousGroup(Option<String>);

/// Listeners that are bound and not yet served.
#[derive(Default)]
pub(super) struct PreparedListeners {
    unix: ListenerChange<UnixEndpoint>,
    /// For each purpose.
    tcp: [ListenerChange<TcpEndpoint>; 2],
    /// The previous group of a socket whose group was changed.
    regrouped: Option<PreviousGroup>,
    /// The addresses that were closed to bind new ones.
    released: [Option<SocketAddr>; 2],
}

impl PreparedListeners {
    /// Binds everything.
    ///
    /// # Errors
    /// See [`BindError`]; nothing stays bound.
    pub(super) async fn all(config: &ApiConfig) -> Result<Self, BindError> {
        let unix = match &config.socket {
            Some(path) => Some(api::bind_unix(path, config.socket_group.as_deref())?),
            None => None,
        };
        Ok(Self {
            unix: ListenerChange::To(unix),
            tcp: [
                ListenerChange::To(tcp(config.listen).await?),
                ListenerChange::To(tcp(config.probe_listen).await?),
            ],
            ..Self::default()
        })
    }
}

async fn tcp(address: Option<SocketAddr>) -> Result<Option<TcpEndpoint>, BindError> {
    let Some(address) = address else { return Ok(None) };
    let listener = api::bind_tcp(address)?;
    // Port 0 requests any port: the assigned one is published.
    let address = listener.local_addr().unwrap_or(address);
    Ok(Some(TcpEndpoint { listener: Some(listener), address }))
}

impl Listeners {
    /// Serves the bound listeners with `app`.
    pub(super) fn serve(app: AppState, bound: PreparedListeners) -> Self {
        let mut listeners = Self { app, unix: None, tcp: [None, None], servers: JoinSet::new() };
        listeners.open(bound);
        listeners
    }

    /// The state that the listeners serve.
    pub(super) fn app(&self) -> &AppState {
        &self.app
    }

    /// The TCP address of the API, if there is one.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        let [api, _] = &self.tcp;
        api.as_ref().map(|active| active.place)
    }

    /// The path of the Unix socket, if there is one.
    pub(super) fn socket(&self) -> Option<PathBuf> {
        self.unix.as_ref().map(|active| active.place.path().to_owned())
    }

    /// Binds the listeners of `new` that differ from `old`.
    ///
    /// # Errors
    /// See [`BindError`]; everything is as before.
    pub(super) async fn prepare(
        &mut self,
        old: &ApiConfig,
        new: &ApiConfig,
    ) -> Result<PreparedListeners, BindError> {
        let mut bound = PreparedListeners::default();
        match self.bind(old, new, &mut bound).await {
            Ok(()) => Ok(bound),
            Err(error) => {
                self.discard(bound).await;
                Err(error)
            }
        }
    }

    async fn bind(
        &mut self,
        old: &ApiConfig,
        new: &ApiConfig,
        bound: &mut PreparedListeners,
    ) -> Result<(), BindError> {
        let (old_config, new_config) = (old, new);
        for purpose in TcpPurpose::ALL {
            let (old, new) = (purpose.address(old), purpose.address(new));
            if old == new {
                continue;
            }
            let bound_now = loop {
                match tcp(new).await {
                    Err(BindError::Address { address, source })
                        if source.kind() == io::ErrorKind::AddrInUse =>
                    {
                        // A wildcard and a specific address cannot share a port, and an address may
                        // go from one purpose to another. Only then is an old listener closed first.
                        let own = TcpPurpose::ALL.into_iter().find_map(|other| {
                            let changes = other.address(old_config) != other.address(new_config);
                            let own = other.of(&mut self.tcp);
                            let is_own = |own: &ActiveListener<SocketAddr>| {
                                changes && own.place.port() == address.port()
                            };
                            Some((other, own.take_if(|own| is_own(own))?))
                        });
                        let Some((other, own)) = own else {
                            return Err(BindError::Address { address, source });
                        };
                        *other.of(&mut bound.released) = Some(own.place);
                        // An error also means that the listener is gone.
                        close(own).await.ok();
                    }
                    bound_now => break bound_now?,
                }
            };
            *purpose.of(&mut bound.tcp) = ListenerChange::To(bound_now);
        }
        let group = new.socket_group.as_deref();
        if old.socket != new.socket {
            bound.unix = ListenerChange::To(match &new.socket {
                Some(path) => Some(api::bind_unix(path, group)?),
                None => None,
            });
        } else if old.socket_group != new.socket_group
            && let Some(active) = &self.unix
        {
            active.place.set_group(group)?;
            bound.regrouped = Some(PreviousGroup(old.socket_group.clone()));
        }
        Ok(())
    }

    /// Undoes [`Listeners::prepare`].
    pub(super) async fn discard(&mut self, bound: PreparedListeners) {
        let PreparedListeners { unix, tcp, regrouped, mut released } = bound;
        drop((unix, tcp));
        if let (Some(PreviousGroup(group)), Some(active)) = (&regrouped, &self.unix)
            && let Err(error) = active.place.set_group(group.as_deref())
        {
            tracing::warn!(%error, "socket's group could not be restored");
        }
        for purpose in TcpPurpose::ALL {
            let Some(address) = purpose.of(&mut released).take() else { continue };
            let listener = api::bind_tcp(address);
            let listener = listener.inspect_err(|error| {
                let (reason, retry_in_s) = (error_chain(error), REBIND_INTERVAL.as_secs());
                tracing::error!(%address, reason, retry_in_s, "listener could not be reopened");
            });
            let endpoint = TcpEndpoint { listener: listener.ok(), address };
            let mut again = PreparedListeners::default();
            *purpose.of(&mut again.tcp) = ListenerChange::To(Some(endpoint));
            self.open(again);
        }
    }

    /// Replaces listeners by newly bound ones, and applies the settings to all.
    pub(super) fn change(&mut self, bound: PreparedListeners, settings: ApiSettings) {
        if self.app.settings != settings {
            self.app.settings = settings;
            if let Some(active) = &mut self.unix {
                active.renew(&self.app, api::router);
            }
            for purpose in TcpPurpose::ALL {
                if let Some(active) = purpose.of(&mut self.tcp) {
                    let address = active.place;
                    active.renew(&self.app, |app| purpose.router(app, address));
                }
            }
        }
        self.open(bound);
        // Servers of closed listeners end with their last request; those that have are reaped.
        while self.servers.try_join_next().is_some() {}
    }

    fn open(&mut self, mut bound: PreparedListeners) {
        if let ListenerChange::To(endpoint) = bound.unix {
            let active = endpoint.map(|endpoint| {
                // The closing of a Unix socket is never awaited, so it is not tracked.
                let (active, router, _) =
                    ActiveListener::new(endpoint.owner(), &self.app, api::router);
                let stop = active.stop.clone().cancelled_owned();
                self.servers.spawn(api::serve_unix(endpoint, router, stop));
                active
            });
            std::mem::replace(&mut self.unix, active).map(close);
        }
        for purpose in TcpPurpose::ALL {
            let change = std::mem::take(purpose.of(&mut bound.tcp));
            let ListenerChange::To(tcp) = change else { continue };
            let active = tcp.map(|endpoint| {
                let address = endpoint.address;
                let (active, router, closing) =
                    ActiveListener::new(address, &self.app, |app| purpose.router(app, address));
                let listener = TrackedListener { endpoint, _closing: closing };
                let stop = active.stop.clone().cancelled_owned();
                self.servers.spawn(api::serve_tcp(listener, router, stop));
                active
            });
            std::mem::replace(purpose.of(&mut self.tcp), active).map(close);
        }
    }

    /// Stops accepting requests.
    pub(super) fn stop(&mut self) {
        self.unix.take().map(close);
        for listener in &mut self.tcp {
            listener.take().map(close);
        }
    }

    /// Waits until the last request has been answered.
    pub(super) async fn stopped(&mut self) {
        while self.servers.join_next().await.is_some() {}
    }
}

impl<T> ActiveListener<T> {
    /// Also returns the routers to serve, and what has to be dropped once the listener is closed.
    fn new(
        place: T,
        app: &AppState,
        router: impl FnOnce(AppState) -> Router,
    ) -> (Self, watch::Receiver<Router>, oneshot::Sender<()>) {
        let (app, stopping) = renewed(app);
        let (router, routers) = watch::channel(router(app));
        let (closing, closed) = oneshot::channel();
        let stop = CancellationToken::new();
        (Self { place, router, stopping, stop, closed }, routers, closing)
    }

    /// Serves the next requests with a new router, and ends the streams of the old one.
    fn renew(&mut self, app: &AppState, router: impl FnOnce(AppState) -> Router) {
        let (app, stopping) = renewed(app);
        drop(self.router.send_replace(router(app)));
        std::mem::replace(&mut self.stopping, stopping).give();
    }
}

/// Ends the streams first, so that they do not hold the listener open, then closes it. The result
/// resolves once it is closed.
fn close<T>(active: ActiveListener<T>) -> oneshot::Receiver<()> {
    active.stopping.give();
    active.stop.cancel();
    active.closed
}

/// A copy of the state with its own stop signal for streams.
fn renewed(app: &AppState) -> (AppState, StopSignal) {
    let stopping = StopSignal::default();
    (AppState { stopping: stopping.clone(), ..app.clone() }, stopping)
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_lost_address_is_bound_again_once_it_is_free() {
        let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = other.local_addr().unwrap();
        let (closing, closed) = oneshot::channel();
        let mut tracked = TrackedListener {
            endpoint: TcpEndpoint { listener: None, address },
            _closing: closing,
        };
        // One wait for all of the test: `accept` is not called again.
        let mut accepting = Box::pin(tracked.accept());
        assert!(
            timeout(10 * REBIND_INTERVAL, &mut accepting).await.is_err(),
            "accepted on an address that another listener has"
        );
        drop(other);
        assert!(
            timeout(2 * REBIND_INTERVAL, &mut accepting).await.is_err(),
            "accepted without a client"
        );
        let client = std::net::TcpStream::connect(address).unwrap();
        let (_, from) = accepting.await;
        assert_eq!(from, client.local_addr().unwrap());
        // It closes like any other listener.
        drop(tracked);
        assert!(closed.await.is_err());
        assert!(std::net::TcpStream::connect(address).is_err());
    }
}
