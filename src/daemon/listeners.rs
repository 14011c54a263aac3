//! The doors of a running daemon: what it listens on, and how that changes while it runs.
//!
//! New doors are bound before old ones close, so that a taken address or an unknown group leaves
//! everything as it was. Where the old one had to close first and cannot be opened again at once, it
//! opens as soon as its address is free. A door that stays is not touched: its connections live on, and the next
//! request on any of them meets the new tokens and the new mask. Streams and held requests that
//! began under others end, and go on from their cursors.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

use crate::api::{self, ApiSettings, AppState, BindError, UnixEndpoint, UnixOwner};
use crate::config::ApiConfig;

/// How often an address that was lost is asked for again.
const REBIND_INTERVAL: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Listeners {
    access: AppState,
    unix: Option<ActiveListener<UnixOwner>>,
    tcp: Option<ActiveListener<SocketAddr>>,
    servers: JoinSet<()>,
}

/// One door.
struct ActiveListener<T> {
    place: T,
    router: watch::Sender<Router>,
    /// Ends what streams.
    stopping: watch::Sender<bool>,
    /// Closes the door.
    stop: watch::Sender<bool>,
    /// Resolves once it is closed.
    closed: oneshot::Receiver<()>,
}

/// A TCP address that is listened on, or is as soon as it is free.
struct TcpEndpoint {
    listener: Option<TcpListener>,
    address: SocketAddr,
}

/// A listener that tells, by what it holds, when it is no more.
struct TrackedListener {
    door: TcpEndpoint,
    _closing: oneshot::Sender<()>,
}

impl Listener for TrackedListener {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        let TcpEndpoint { listener, address } = &mut self.door;
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
        Ok(self.door.address)
    }
}

/// Doors that are bound and not yet served.
#[derive(Default)]
pub(super) struct PreparedListeners {
    /// `None`: as before.
    unix: Option<Option<UnixEndpoint>>,
    /// `None`: as before.
    tcp: Option<Option<TcpEndpoint>>,
    /// The group that the socket that stays had before.
    regrouped: Option<Option<String>>,
    /// The address that was closed to bind the new one.
    yielded: Option<SocketAddr>,
}

impl PreparedListeners {
    /// Binds everything.
    ///
    /// # Errors
    /// See [`BindError`]; nothing is left behind.
    pub(super) async fn all(config: &ApiConfig) -> Result<Self, BindError> {
        let unix = match &config.socket {
            Some(path) => Some(api::bind_unix(path, config.socket_group.as_deref())?),
            None => None,
        };
        Ok(Self { unix: Some(unix), tcp: Some(tcp(config.listen).await?), ..Self::default() })
    }
}

async fn tcp(address: Option<SocketAddr>) -> Result<Option<TcpEndpoint>, BindError> {
    let Some(address) = address else { return Ok(None) };
    let listener = api::bind_tcp(address)?;
    // Port 0 asks for any port: the one that was given is the one to tell.
    let address = listener.local_addr().unwrap_or(address);
    Ok(Some(TcpEndpoint { listener: Some(listener), address }))
}

impl Listeners {
    /// Serves what was bound. `access` says what there is to be reached, and how it answers.
    pub(super) fn serve(access: AppState, bound: PreparedListeners) -> Self {
        let mut listeners = Self { access, unix: None, tcp: None, servers: JoinSet::new() };
        listeners.open(bound);
        listeners
    }

    /// Where TCP listens, if it does.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.tcp.as_ref().map(|open| open.place)
    }

    /// Where the Unix socket is, if there is one.
    pub(super) fn socket(&self) -> Option<PathBuf> {
        self.unix.as_ref().map(|open| open.place.path().to_owned())
    }

    /// Binds what `new` asks for beyond `old`.
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
        if old.listen != new.listen {
            bound.tcp = Some(match tcp(new.listen).await {
                Err(BindError::Address { address, source })
                    if source.kind() == io::ErrorKind::AddrInUse =>
                {
                    let own = self.tcp.take_if(|open| open.place.port() == address.port());
                    let Some(own) = own else {
                        return Err(BindError::Address { address, source });
                    };
                    // Of one port, all addresses and one of them exclude each other: only here
                    // the old door closes first.
                    bound.yielded = Some(own.place);
                    let closed = close(own);
                    // An error is the news too: that its other end is gone.
                    closed.await.ok();
                    tcp(Some(address)).await?
                }
                tcp => tcp?,
            });
        }
        let group = new.socket_group.as_deref();
        if old.socket != new.socket {
            bound.unix = Some(match &new.socket {
                Some(path) => Some(api::bind_unix(path, group)?),
                None => None,
            });
        } else if old.socket_group != new.socket_group
            && let Some(open) = &self.unix
        {
            open.place.set_group(group)?;
            bound.regrouped = Some(old.socket_group.clone());
        }
        Ok(())
    }

    /// Takes back what [`Listeners::prepare`] did.
    pub(super) async fn discard(&mut self, bound: PreparedListeners) {
        let PreparedListeners { unix, tcp: new, regrouped, yielded } = bound;
        drop((unix, new));
        if let (Some(group), Some(open)) = (&regrouped, &self.unix)
            && let Err(error) = open.place.set_group(group.as_deref())
        {
            tracing::warn!(%error, "socket's group could not be set back");
        }
        if let Some(address) = yielded {
            let listener = api::bind_tcp(address);
            let listener = listener.inspect_err(|error| {
                let reason = super::chain(error);
                tracing::error!(
                    reason,
                    "listener could not be opened again, it is tried each second"
                );
            });
            let door = TcpEndpoint { listener: listener.ok(), address };
            self.open(PreparedListeners { tcp: Some(Some(door)), ..PreparedListeners::default() });
        }
    }

    /// Serves what was bound instead of what is no longer wanted, and answers as `settings` say.
    pub(super) fn change(&mut self, bound: PreparedListeners, settings: ApiSettings) {
        if self.access.settings != settings {
            self.access.settings = settings;
            if let Some(open) = &mut self.unix {
                let (access, stopping) = renewed(&self.access);
                open.renew(api::router(access), stopping);
            }
            if let Some(open) = &mut self.tcp {
                let (access, stopping) = renewed(&self.access);
                open.renew(api::tcp_router(access, open.place), stopping);
            }
        }
        self.open(bound);
        // Those that closed are done with once their last request is.
        while self.servers.try_join_next().is_some() {}
    }

    fn open(&mut self, bound: PreparedListeners) {
        if let Some(door) = bound.unix {
            let open = door.map(|door| {
                let (access, stopping) = renewed(&self.access);
                let (open, doing) =
                    ActiveListener::new(door.owner(), api::router(access), stopping);
                self.servers.spawn(async move {
                    // A socket is never waited for: nobody has to know when it closes.
                    let ServeContext { router, stop, .. } = doing;
                    api::serve_unix(door, router, stopped(stop)).await;
                });
                open
            });
            std::mem::replace(&mut self.unix, open).map(close);
        }
        if let Some(tcp) = bound.tcp {
            let open = tcp.map(|door| {
                let (access, stopping) = renewed(&self.access);
                let address = door.address;
                let router = api::tcp_router(access, address);
                let (open, ServeContext { router, stop, closing }) =
                    ActiveListener::new(address, router, stopping);
                let listener = TrackedListener { door, _closing: closing };
                self.servers.spawn(api::serve_tcp(listener, router, stopped(stop)));
                open
            });
            std::mem::replace(&mut self.tcp, open).map(close);
        }
    }

    /// Takes no more requests from here on.
    pub(super) fn stop(&mut self) {
        self.unix.take().map(close);
        self.tcp.take().map(close);
    }

    /// Waits until the last request has been answered.
    pub(super) async fn stopped(&mut self) {
        while self.servers.join_next().await.is_some() {}
    }
}

/// What serving a door takes.
struct ServeContext {
    router: watch::Receiver<Router>,
    stop: watch::Receiver<bool>,
    closing: oneshot::Sender<()>,
}

impl<T> ActiveListener<T> {
    fn new(place: T, router: Router, stopping: watch::Sender<bool>) -> (Self, ServeContext) {
        let (router, routers) = watch::channel(router);
        let (stop, stops) = watch::channel(false);
        let (closing, closed) = oneshot::channel();
        let open = Self { place, router, stopping, stop, closed };
        (open, ServeContext { router: routers, stop: stops, closing })
    }

    fn renew(&mut self, router: Router, stopping: watch::Sender<bool>) {
        drop(self.router.send_replace(router));
        std::mem::replace(&mut self.stopping, stopping).send_replace(true);
    }
}

/// What streams ends first, so that nothing holds the door. Answers what resolves once it is shut.
fn close<T>(open: ActiveListener<T>) -> oneshot::Receiver<()> {
    open.stopping.send_replace(true);
    open.stop.send_replace(true);
    open.closed
}

/// The same access, whose streams can be ended by themselves.
fn renewed(access: &AppState) -> (AppState, watch::Sender<bool>) {
    let (stopping, stop) = watch::channel(false);
    (AppState { stopping: stop, ..access.clone() }, stopping)
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    // An error means the sender is gone, which is an end too.
    drop(stop.wait_for(|stop| *stop).await);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_lost_address_is_listened_on_as_soon_as_it_is_free() {
        let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = other.local_addr().unwrap();
        let (closing, closed) = oneshot::channel();
        let mut told =
            TrackedListener { door: TcpEndpoint { listener: None, address }, _closing: closing };
        // One and the same wait: nobody calls again.
        let mut accepting = Box::pin(told.accept());
        assert!(
            timeout(10 * REBIND_INTERVAL, &mut accepting).await.is_err(),
            "somebody else has it"
        );
        drop(other);
        assert!(timeout(2 * REBIND_INTERVAL, &mut accepting).await.is_err(), "nobody has come yet");
        let client = std::net::TcpStream::connect(address).unwrap();
        let (_, from) = accepting.await;
        assert_eq!(from, client.local_addr().unwrap());
        // Closed like any other.
        drop(told);
        assert!(closed.await.is_err());
        assert!(std::net::TcpStream::connect(address).is_err());
    }
}
