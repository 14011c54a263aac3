//! The doors of a running daemon: what it listens on, and how that changes while it runs.
//!
//! New doors are bound before old ones close, so that a taken address or an unknown group leaves
//! everything as it was. A door that stays is not touched: its connections live on, and the next
//! request on any of them meets the new tokens and the new mask. Streams and held requests that
//! began under others end, and go on from their cursors.

use std::net::SocketAddr;
use std::path::PathBuf;

use axum::Router;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::api::{self, Access, ApiSettings, BindError, UnixDoor, UnixRights};
use crate::config::ApiConfig;

/// See the module.
pub(super) struct Listeners {
    access: Access,
    unix: Option<Open<UnixRights>>,
    tcp: Option<Open<SocketAddr>>,
    servers: JoinSet<()>,
}

/// One door.
struct Open<T> {
    place: T,
    router: watch::Sender<Router>,
    /// Ends what streams.
    stopping: watch::Sender<bool>,
    /// Closes the door.
    stop: watch::Sender<bool>,
}

/// Doors that are bound and not yet served.
#[derive(Default)]
pub(super) struct Bound {
    /// `None`: as before.
    unix: Option<Option<UnixDoor>>,
    /// `None`: as before.
    tcp: Option<Option<(TcpListener, SocketAddr)>>,
    /// The group that the socket that stays had before.
    regrouped: Option<Option<String>>,
}

impl Bound {
    /// Binds everything.
    ///
    /// # Errors
    /// See [`BindError`]; nothing is left behind.
    pub(super) async fn all(config: &ApiConfig) -> Result<Self, BindError> {
        let unix = match &config.socket {
            Some(path) => Some(api::bind_unix(path, config.socket_group.as_deref())?),
            None => None,
        };
        Ok(Self { unix: Some(unix), tcp: Some(tcp(config.listen).await?), regrouped: None })
    }
}

async fn tcp(address: Option<SocketAddr>) -> Result<Option<(TcpListener, SocketAddr)>, BindError> {
    let Some(address) = address else { return Ok(None) };
    let listener = api::bind_tcp(address).await?;
    // Port 0 asks for any port: the one that was given is the one to tell.
    let address = listener.local_addr().unwrap_or(address);
    Ok(Some((listener, address)))
}

impl Listeners {
    /// Serves what was bound. `access` says what there is to be reached, and how it answers.
    pub(super) fn serve(access: Access, bound: Bound) -> Self {
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
        &self,
        old: &ApiConfig,
        new: &ApiConfig,
    ) -> Result<Bound, BindError> {
        let mut bound = Bound::default();
        if old.listen != new.listen {
            bound.tcp = Some(tcp(new.listen).await?);
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
        Ok(bound)
    }

    /// Takes back what [`Listeners::prepare`] did.
    pub(super) fn discard(&self, bound: Bound) {
        if let (Some(group), Some(open)) = (&bound.regrouped, &self.unix)
            && let Err(error) = open.place.set_group(group.as_deref())
        {
            tracing::warn!(%error, "socket's group could not be set back");
        }
    }

    /// Serves what was bound instead of what is no longer wanted, and answers as `settings` say.
    pub(super) fn change(&mut self, bound: Bound, settings: ApiSettings) {
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

    fn open(&mut self, bound: Bound) {
        if let Some(door) = bound.unix {
            let open = door.map(|door| {
                let (access, stopping) = renewed(&self.access);
                let (open, router, stop) = Open::new(door.rights(), api::router(access), stopping);
                self.servers.spawn(api::serve_unix(door, router, stopped(stop)));
                open
            });
            close(std::mem::replace(&mut self.unix, open));
        }
        if let Some(tcp) = bound.tcp {
            let open = tcp.map(|(listener, address)| {
                let (access, stopping) = renewed(&self.access);
                let router = api::tcp_router(access, address);
                let (open, router, stop) = Open::new(address, router, stopping);
                self.servers.spawn(api::serve_tcp(listener, router, stopped(stop)));
                open
            });
            close(std::mem::replace(&mut self.tcp, open));
        }
    }

    /// Takes no more requests from here on.
    pub(super) fn stop(&mut self) {
        close(self.unix.take());
        close(self.tcp.take());
    }

    /// Waits until the last request has been answered.
    pub(super) async fn stopped(&mut self) {
        while self.servers.join_next().await.is_some() {}
    }
}

impl<T> Open<T> {
    fn new(
        place: T,
        router: Router,
        stopping: watch::Sender<bool>,
    ) -> (Self, watch::Receiver<Router>, watch::Receiver<bool>) {
        let (router, routers) = watch::channel(router);
        let (stop, stops) = watch::channel(false);
        (Self { place, router, stopping, stop }, routers, stops)
    }

    fn renew(&mut self, router: Router, stopping: watch::Sender<bool>) {
        drop(self.router.send_replace(router));
        std::mem::replace(&mut self.stopping, stopping).send_replace(true);
    }
}

/// What streams ends first, so that nothing holds the door.
fn close<T>(open: Option<Open<T>>) {
    if let Some(open) = open {
        open.stopping.send_replace(true);
        open.stop.send_replace(true);
    }
}

/// The same access, whose streams can be ended by themselves.
fn renewed(access: &Access) -> (Access, watch::Sender<bool>) {
    let (stopping, stop) = watch::channel(false);
    (Access { stopping: stop, ..access.clone() }, stopping)
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    // An error means the sender is gone, which is an end too.
    drop(stop.wait_for(|stop| *stop).await);
}
