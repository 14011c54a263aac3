//! Binds and serves the listeners, in two steps so that the daemon can report READY in between.
//!
//! A stale socket file is replaced; a socket in use is left alone. Shutdown closes the listener,
//! lets running requests finish for [`DRAIN_TIMEOUT`], then aborts them.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::IntoResponse as _;
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::auth::PeerUid;
use super::problem::Problem;
use super::slow_client::MinRateStream;

/// How long running requests may continue after shutdown.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a client may take to send a request head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);

/// Open connections per listener, if the file descriptor limit allows that many.
const MAX_CONNECTIONS: usize = 8192;

/// Connections beyond that limit that get a 503 response; further ones are just closed.
const MAX_REFUSALS: usize = 64;

/// Kernel send buffer per TCP reader, bytes (the kernel doubles it for its own overhead). The
/// default would buffer megabytes, and show a slow reader's progress only after minutes.
const SEND_BUFFER: u32 = 128 << 10;

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;

/// The longest request head, bytes; a longer one is answered with 431.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// The mode of the socket file: read and write for owner and group.
const MODE: u32 = 0o660;

/// Why a listener could not be bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another daemon answers on the socket.
    #[error("{0}: another process is serving on this socket")]
    InUse(PathBuf),
    /// The path exists and is not a socket.
    #[error("{0}: exists and is not a socket")]
    NotASocket(PathBuf),
    /// The temporary name of the new socket is taken.
    #[error("{0}: exists and is not a socket of this user; remove it to let the socket be created")]
    Leftover(PathBuf),
    /// The configured group is not in the group file.
    #[error("{0}: no such group in /etc/group; a numeric id is accepted too")]
    UnknownGroup(String),
    /// The socket file could not be created or changed.
    #[error("cannot create the socket {path}")]
    Socket {
        /// Path of the socket.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The TCP address could not be bound.
    #[error("cannot listen on {address}")]
    Address {
        /// The address.
        address: SocketAddr,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

impl BindError {
    /// What to do about it.
    pub fn remedy(&self) -> String {
        match self {
            Self::InUse(_) => {
                "another calmirror serves there: stop it, or set another api.socket (and store.path)"
                    .to_owned()
            }
            Self::NotASocket(path) | Self::Leftover(path) => {
                format!("remove it (rm {}), or set another api.socket", path.display())
            }
            Self::UnknownGroup(_) => {
                "create the group (groupadd --system NAME), or set another api.socket_group".to_owned()
            }
            Self::Socket { path, source } => {
                let directory = path.parent().unwrap_or(path).display();
                match source.kind() {
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => format!(
                        "create its directory (mkdir -p {directory}) with the daemon's user as owner, or set another api.socket"
                    ),
                    io::ErrorKind::PermissionDenied => format!(
                        "allow the daemon's user to write to {directory} and make that user a member of api.socket_group, or set another api.socket"
                    ),
                    _ => format!("check {directory}, or set another api.socket"),
                }
            }
            Self::Address { address, source } => match source.kind() {
                io::ErrorKind::AddrInUse => {
                    let port = address.port();
                    format!(
                        "another program uses it (ss -ltnp 'sport = :{port}'): stop that program, or set another api.listen or api.probe_listen"
                    )
                }
                io::ErrorKind::AddrNotAvailable => {
                    "this machine does not have the address (ip address): set another api.listen or api.probe_listen"
                        .to_owned()
                }
                io::ErrorKind::PermissionDenied => {
                    "set a port above 1023, or give the daemon CAP_NET_BIND_SERVICE"
                        .to_owned()
                }
                _ => "set another api.listen or api.probe_listen".to_owned(),
            },
        }
    }
}

/// A bound Unix socket. Dropping it removes its file, if the file is still this socket's.
#[derive(Debug)]
pub struct UnixEndpoint {
    listener: Option<UnixListener>,
    owner: UnixOwner,
    /// Device and inode of the file.
    file: (u64, u64),
}

impl UnixEndpoint {
    /// A handle that can change the file's group while the socket is served.
    pub fn owner(&self) -> UnixOwner {
        self.owner.clone()
    }
}

/// Changes the group of a socket file while the socket is served.
#[derive(Clone, Debug)]
pub struct UnixOwner {
    path: PathBuf,
    /// The file's group if none is configured.
    group: u32,
}

impl UnixOwner {
    /// The socket's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the file to `group` (a name or number), or back to the daemon's own group.
    ///
    /// # Errors
    /// See [`BindError`]; the file is unchanged.
    pub fn set_group(&self, group: Option<&str>) -> Result<(), BindError> {
        let group = group.map(find_group).transpose()?.unwrap_or(self.group);
        change_group(&self.path, group)
            .map_err(|source| BindError::Socket { path: self.path.clone(), source })
    }
}

/// Gives a file to `group`. A hardened unit forbids chown, so it is called only if the group
/// differs.
fn change_group(file: &Path, group: u32) -> io::Result<()> {
    if fs::symlink_metadata(file)?.gid() == group {
        return Ok(());
    }
    chown(file, None, Some(group))
}

impl Drop for UnixEndpoint {
    fn drop(&mut self) {
        let path = self.owner.path();
        let ours =
            fs::symlink_metadata(path).is_ok_and(|found| (found.dev(), found.ino()) == self.file);
        if ours && let Err(error) = fs::remove_file(path) {
            tracing::warn!(%error, path = %path.display(), "cannot remove the socket file");
        }
    }
}

/// Binds the Unix socket at `path`, mode 0660, owned by `group` (a name or number) if given.
/// Creates the last directory of the path if it does not exist.
///
/// # Errors
/// See [`BindError`]; nothing is left behind.
pub fn bind_unix(path: &Path, group: Option<&str>) -> Result<UnixEndpoint, BindError> {
    let group = group.map(find_group).transpose()?;
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(BindError::NotASocket(path.to_owned()));
        }
        Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
            return Err(BindError::InUse(path.to_owned()));
        }
        _ => {}
    }
    // Created under a temporary name: the rename publishes it with its final permissions, and
    // replaces a stale socket atomically.
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    let leftover = is_leftover(&new)?;
    let bind = || {
        if let Some(directory) = path.parent().filter(|d| !d.as_os_str().is_empty() && !d.exists())
        {
            fs::create_dir(directory)?;
        }
        if leftover {
            fs::remove_file(&new)?;
        }
        let listener = UnixListener::bind(&new)?;
        let own = fs::symlink_metadata(&new)?.gid();
        change_group(&new, group.unwrap_or(own))?;
        fs::set_permissions(&new, fs::Permissions::from_mode(MODE))?;
        let made = fs::symlink_metadata(&new)?;
        fs::rename(&new, path)?;
        let file = (made.dev(), made.ino());
        let owner = UnixOwner { path: path.to_owned(), group: own };
        Ok(UnixEndpoint { listener: Some(listener), owner, file })
    };
    bind().map_err(|source| {
        // Best effort: the first error is the one to report.
        fs::remove_file(&new).ok();
        BindError::Socket { path: path.to_owned(), source }
    })
}

/// Whether `new` is a socket that an earlier start created but did not rename.
///
/// # Errors
/// [`BindError::Leftover`] if `new` is anything else, which must not be removed.
fn is_leftover(new: &Path) -> Result<bool, BindError> {
    // If it cannot be examined, creating the socket reports the reason.
    let Ok(found) = fs::symlink_metadata(new) else { return Ok(false) };
    let ours = found.file_type().is_socket() && found.uid() == rustix::process::geteuid().as_raw();
    if ours { Ok(true) } else { Err(BindError::Leftover(new.to_owned())) }
}

/// The id of a group. Only numbers and the group file are supported: groups of a directory service
/// have to be given by number.
fn find_group(group: &str) -> Result<u32, BindError> {
    if let Ok(number) = group.parse() {
        return Ok(number);
    }
    let file = fs::read_to_string("/etc/group").unwrap_or_default();
    let found = file.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let number = fields.nth(1)?;
        (name == group).then(|| number.parse().ok()).flatten()
    });
    found.ok_or_else(|| BindError::UnknownGroup(group.to_owned()))
}

/// Binds a TCP address; must be called within a runtime.
///
/// # Errors
/// [`BindError::Address`].
pub fn bind_tcp(address: SocketAddr) -> Result<TcpListener, BindError> {
    let bind = || {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        }?;
        socket.set_reuseaddr(true)?;
        // Accepted connections inherit the buffer size.
        socket.set_send_buffer_size(SEND_BUFFER)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    bind().map_err(|source| BindError::Address { address, source })
}

/// Serves the socket until `shutdown`, then removes its file. Each request uses the router that is
/// current when it arrives.
pub async fn serve_unix(
    mut endpoint: UnixEndpoint,
    router: watch::Receiver<Router>,
    shutdown: impl Future<Output = ()>,
) {
    if let Some(listener) = endpoint.listener.take() {
        serve_limited(listener, router, shutdown, connection_limit()).await;
    }
}

/// Serves TCP until `shutdown`, as [`serve_unix`]; `router` should be a [`super::tcp_router`].
pub async fn serve_tcp(
    listener: impl Listener<Io = TcpStream>,
    router: watch::Receiver<Router>,
    shutdown: impl Future<Output = ()>,
) {
    serve_limited(listener, router, shutdown, connection_limit()).await;
}

/// A connection whose other end may be a user of this machine.
trait PeerStream {
    /// Prepares the connection; returns the user, `None` if it is not a Unix socket.
    fn prepare(&self) -> io::Result<Option<PeerUid>>;
}

impl PeerStream for TcpStream {
    fn prepare(&self) -> io::Result<Option<PeerUid>> {
        // The last part of an answer would wait 40 ms for the acknowledgement of the others.
        self.set_nodelay(true)?;
        Ok(None)
    }
}

impl PeerStream for UnixStream {
    fn prepare(&self) -> io::Result<Option<PeerUid>> {
        Ok(Some(PeerUid(self.peer_cred()?.uid())))
    }
}

/// The connection limit of each of the two listeners. The store and the Graph client need some of
/// the process's file descriptors too.
fn connection_limit() -> usize {
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let files = files.and_then(|files| usize::try_from(files).ok()).unwrap_or(usize::MAX);
    MAX_CONNECTIONS.min(files / 8 * 3)
}

async fn serve_limited<L: Listener<Io: PeerStream>>(
    mut listener: L,
    router: watch::Receiver<Router>,
    shutdown: impl Future<Output = ()>,
    room: usize,
) {
    let mut shutdown = pin!(shutdown);
    let stop = CancellationToken::new();
    let mut connections = JoinSet::new();
    let mut refused = JoinSet::new();
    let refusing = Router::new().fallback(async || {
        let headers = [(header::CONNECTION, "close"), (header::RETRY_AFTER, "5")];
        (headers, Problem::TooManyConnections)
    });
    let (_refusing, refusing) = watch::channel(refusing);
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => {}
            Some(_) = refused.join_next() => {}
            (io, _) = listener.accept() => {
                if connections.len() < room {
                    let Ok(peer) = io.prepare() else { continue };
                    connections.spawn(serve_connection(io, peer, router.clone(), stop.clone()));
                } else if refused.len() < MAX_REFUSALS {
                    let refusing = refusing.clone();
                    refused.spawn(timeout(HEAD_TIMEOUT, serve_connection(io, None, refusing, stop.clone())));
                }
            }
        }
    }
    drop(listener);
    stop.cancel();
    let drained =
        timeout(DRAIN_TIMEOUT, async { while connections.join_next().await.is_some() {} });
    if drained.await.is_err() {
        tracing::warn!(connections = connections.len(), "requests cut off at shutdown");
        connections.shutdown().await;
    }
}

/// Serves one connection to its end or, after a stop, to the end of the current request.
async fn serve_connection<I>(
    io: I,
    peer: Option<PeerUid>,
    router: watch::Receiver<Router>,
    stop: CancellationToken,
) where
    I: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(MAX_HEAD_BYTES);
    let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        let router = router.borrow().clone();
        if let Some(peer) = peer {
            request.extensions_mut().insert(peer);
        }
        async move {
            let mut response = if head_bytes(&request) > MAX_HEAD_BYTES {
                ([(header::CONNECTION, "close")], Problem::HeadTooLong).into_response()
            } else {
                router.oneshot(request).await?
            };
            let nosniff = HeaderValue::from_static("nosniff");
            response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
            Ok::<_, Infallible>(response)
        }
    });
    let connection = builder.serve_connection(TokioIo::new(MinRateStream::new(io)), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended early");
    }
}

/// Bytes of a request's head. The HTTP library checks its own limit only if the head arrives in
/// several parts.
fn head_bytes<B>(request: &hyper::Request<B>) -> usize {
    let uri = request.uri();
    let authority = uri.authority().map_or(0, |authority| authority.as_str().len());
    let path = uri.path_and_query().map_or(0, |path| path.as_str().len());
    // Both spaces around the target, the version, and the line ends.
    let first = request.method().as_str().len() + authority + path + " HTTP/1.1\r\n\r\n".len() + 1;
    let line = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + 4;
    first + request.headers().iter().map(line).sum::<usize>()
}

#[cfg(test)]
mod tests;
