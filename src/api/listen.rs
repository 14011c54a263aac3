//! Binding and serving: first bound, then served, so that the daemon can say READY in between.
//!
//! A socket file that nobody answers on is replaced, one that answers is left alone. Shutdown
//! closes the listener, lets requests under way finish for [`DRAIN`], then cuts them.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
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
use tokio::net::{TcpListener, TcpSocket, UnixListener};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tower::ServiceExt as _;

use super::problem::Problem;
use super::slow_client::MinRateStream;

/// How long requests under way may go on after shutdown.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a client may take over its request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);

/// Open connections of one listener, if there are file descriptors for as many.
const MAX_CONNECTIONS: usize = 8192;

/// Connections beyond those of one listener that are told so; more are closed without a word.
const MAX_REFUSALS: usize = 64;

/// What the kernel holds for one TCP reader, bytes (it counts its own share twice). Left to
/// itself it would hold megabytes, and tell of a slow reader's progress after minutes only.
const SEND_BUFFER: u32 = 128 << 10;

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;

/// The longest head of a request, bytes; a longer one is answered 431.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// The socket file's mode: owner and group.
const MODE: u32 = 0o660;

/// Why a listener could not be bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another daemon answers there.
    #[error("{0}: another process is serving on this socket")]
    InUse(PathBuf),
    /// Something else has the name.
    #[error("{0}: exists and is not a socket")]
    NotASocket(PathBuf),
    /// Something has the name under which the socket is made.
    #[error("{0}: exists and is no socket of this user; it is in the way of making the socket")]
    Leftover(PathBuf),
    /// The configured group is not in the group file.
    #[error("{0}: no such group in /etc/group; a numeric id is taken as well")]
    UnknownGroup(String),
    /// The file could not be made.
    #[error("cannot make the socket {path}")]
    Socket {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The address could not be had.
    #[error("cannot listen on {address}")]
    Address {
        /// Which.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A bound Unix socket; its file is removed when it is dropped, if it is still this one.
#[derive(Debug)]
pub struct UnixEndpoint {
    listener: Option<UnixListener>,
    path: PathBuf,
    /// Device and inode of the file.
    file: (u64, u64),
    /// The file's group unless another is configured.
    group: u32,
}

impl UnixEndpoint {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How the group of the file can change while it is served.
    pub fn owner(&self) -> UnixOwner {
        UnixOwner { path: self.path.clone(), group: self.group }
    }
}

/// Changes the group of a socket's file while it is served.
#[derive(Clone, Debug)]
pub struct UnixOwner {
    path: PathBuf,
    group: u32,
}

impl UnixOwner {
    /// The socket's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// From now on the file is of `group` (a name or number), or of the daemon's own.
    ///
    /// # Errors
    /// See [`BindError`]; the file stays as it was.
    pub fn set_group(&self, group: Option<&str>) -> Result<(), BindError> {
        let group = group.map(find_group).transpose()?.unwrap_or(self.group);
        let change = || {
            // Where nothing is to be changed, nothing is asked for that may be forbidden.
            if fs::symlink_metadata(&self.path)?.gid() == group {
                return Ok(());
            }
            std::os::unix::fs::chown(&self.path, None, Some(group))
        };
        change().map_err(|source| BindError::Socket { path: self.path.clone(), source })
    }
}

impl Drop for UnixEndpoint {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|found| (found.dev(), found.ino()) == self.file);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "socket file not removed");
        }
    }
}

/// Binds the Unix socket at `path`, mode 0660, owned by `group` (a name or number) if given.
/// The last directory of the path is made if it does not exist.
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
    // Made under another name first: it appears complete with its rights, and takes the place
    // of a stale one in the same instant.
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
        // A hardened unit forbids it, and there it may not be needed.
        if let Some(group) = group.filter(|group| *group != own) {
            rustix::fs::chown(&new, None, Some(rustix::fs::Gid::from_raw(group)))?;
        }
        fs::set_permissions(&new, fs::Permissions::from_mode(MODE))?;
        let made = fs::symlink_metadata(&new)?;
        fs::rename(&new, path)?;
        let file = (made.dev(), made.ino());
        Ok(UnixEndpoint { listener: Some(listener), path: path.to_owned(), file, group: own })
    };
    bind().map_err(|source| {
        // Best effort: the error that matters is the first one.
        fs::remove_file(&new).ok();
        BindError::Socket { path: path.to_owned(), source }
    })
}

/// Whether a socket lies at `new` that a start of ours did not get to rename.
///
/// # Errors
/// [`BindError::Leftover`] where something else lies there: it is not ours to remove.
fn is_leftover(new: &Path) -> Result<bool, BindError> {
    // Where it cannot even be looked at, making the socket says why.
    let Ok(found) = fs::symlink_metadata(new) else { return Ok(false) };
    let ours = found.file_type().is_socket() && found.uid() == rustix::process::geteuid().as_raw();
    if ours { Ok(true) } else { Err(BindError::Leftover(new.to_owned())) }
}

/// The number of a group. Only numbers and the group file are known: groups of a directory
/// service have to be given by number.
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

/// Binds a TCP address; within a runtime.
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
        // Connections inherit it.
        socket.set_send_buffer_size(SEND_BUFFER)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    bind().map_err(|source| BindError::Address { address, source })
}

/// Serves on the socket until `shutdown`, then removes its file. Each request is answered by the
/// router of its moment.
pub async fn serve_unix(
    mut door: UnixEndpoint,
    router: watch::Receiver<Router>,
    shutdown: impl Future<Output = ()>,
) {
    if let Some(listener) = door.listener.take() {
        serve(listener, router, shutdown).await;
    }
}

/// Serves what should be a [`super::tcp_router`] until `shutdown`, otherwise as [`serve_unix`].
pub async fn serve_tcp(
    listener: impl Listener,
    router: watch::Receiver<Router>,
    shutdown: impl Future<Output = ()>,
) {
    serve(listener, router, shutdown).await;
}

async fn serve<L: Listener>(
    listener: L,
    router: watch::Receiver<Router>,
    shutdown: impl Future<Output = ()>,
) {
    serve_most(listener, router, shutdown, connection_limit()).await;
}

/// How many connections one of two listeners may have: of the files this process may open, the
/// store and Graph need some as well.
fn connection_limit() -> usize {
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let files = files.and_then(|files| usize::try_from(files).ok()).unwrap_or(usize::MAX);
    MAX_CONNECTIONS.min(files / 8 * 3)
}

async fn serve_most<L: Listener>(
    mut listener: L,
    router: watch::Receiver<Router>,
    shutdown: impl Future<Output = ()>,
    room: usize,
) {
    let mut shutdown = pin!(shutdown);
    let (stop, stopped) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut refused = JoinSet::new();
    let refusing = Router::new().fallback(async || {
        let headers = [(header::CONNECTION, "close"), (header::RETRY_AFTER, "5")];
        (headers, Problem::too_many_connections())
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
                    connections.spawn(serve_connection(io, router.clone(), stopped.clone()));
                } else if refused.len() < MAX_REFUSALS {
                    let refusing = refusing.clone();
                    refused.spawn(timeout(HEAD_TIMEOUT, serve_connection(io, refusing, stopped.clone())));
                }
            }
        }
    }
    drop(listener);
    stop.send_replace(true);
    let drained =
        timeout(DRAIN_TIMEOUT, async { while connections.join_next().await.is_some() {} });
    if drained.await.is_err() {
        tracing::warn!(connections = connections.len(), "requests cut off at shutdown");
        connections.shutdown().await;
    }
}

/// One connection, to its end or, once stopped, to the end of its request.
async fn serve_connection<I>(
    io: I,
    router: watch::Receiver<Router>,
    mut stopped: watch::Receiver<bool>,
) where
    I: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(MAX_HEAD_BYTES);
    let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let router = router.borrow().clone();
        async move {
            let mut response = if head_bytes(&request) > MAX_HEAD_BYTES {
                ([(header::CONNECTION, "close")], Problem::head_too_long()).into_response()
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
        () = async { stopped.wait_for(|stopped| *stopped).await.ok(); } => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended early");
    }
}

/// Bytes of a request's head. The HTTP library looks at its own limit only where a head does not
/// arrive at once.
fn head_bytes<B>(request: &hyper::Request<B>) -> usize {
    let uri = request.uri();
    let authority = uri.authority().map_or(0, |authority| authority.as_str().len());
    let path = uri.path_and_query().map_or(0, |path| path.as_str().len());
    // A space on both sides of the target, the version, and the line ends.
    let first = request.method().as_str().len() + authority + path + " HTTP/1.1\r\n\r\n".len() + 1;
    let line = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + 4;
    first + request.headers().iter().map(line).sum::<usize>()
}

#[cfg(test)]
#[path = "tests/listen.rs"]
mod tests;
