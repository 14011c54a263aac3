//! Binding and serving: first bound, then served, so that the daemon can say READY in between.
//!
//! A socket file that nobody answers on is replaced, one that answers is left alone. Shutdown
//! closes the listener, lets requests under way finish for [`DRAIN`], then cuts them.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tower::ServiceExt as _;

/// How long requests under way may go on after shutdown.
const DRAIN: Duration = Duration::from_secs(5);

/// How long a client may take over its request's head.
const HEAD: Duration = Duration::from_secs(15);

/// Open connections of one listener; more wait.
const CONNECTIONS: usize = 1024;

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
pub struct UnixDoor {
    listener: Option<UnixListener>,
    path: PathBuf,
    /// Device and inode of the file.
    file: (u64, u64),
    /// The file's group unless another is configured.
    group: u32,
}

impl UnixDoor {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How the group of the file can change while it is served.
    pub fn rights(&self) -> UnixRights {
        UnixRights { path: self.path.clone(), group: self.group }
    }
}

/// Changes the group of a socket's file while it is served.
#[derive(Clone, Debug)]
pub struct UnixRights {
    path: PathBuf,
    group: u32,
}

impl UnixRights {
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
        std::os::unix::fs::chown(&self.path, None, Some(group))
            .map_err(|source| BindError::Socket { path: self.path.clone(), source })
    }
}

impl Drop for UnixDoor {
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
pub fn bind_unix(path: &Path, group: Option<&str>) -> Result<UnixDoor, BindError> {
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
    let bind = || {
        if let Some(directory) = path.parent().filter(|d| !d.as_os_str().is_empty() && !d.exists())
        {
            fs::create_dir(directory)?;
        }
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&new)?;
        let own = fs::symlink_metadata(&new)?.gid();
        if let Some(group) = group {
            rustix::fs::chown(&new, None, Some(rustix::fs::Gid::from_raw(group)))?;
        }
        fs::set_permissions(&new, fs::Permissions::from_mode(MODE))?;
        let made = fs::symlink_metadata(&new)?;
        fs::rename(&new, path)?;
        let file = (made.dev(), made.ino());
        Ok(UnixDoor { listener: Some(listener), path: path.to_owned(), file, group: own })
    };
    bind().map_err(|source| {
        // Best effort: the error that matters is the first one.
        fs::remove_file(&new).ok();
        BindError::Socket { path: path.to_owned(), source }
    })
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

/// Binds a TCP address.
///
/// # Errors
/// [`BindError::Address`].
pub async fn bind_tcp(address: SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(address).await.map_err(|source| BindError::Address { address, source })
}

/// Serves on the socket until `shutdown`, then removes its file. Each request is answered by the
/// router of its moment.
pub async fn serve_unix(
    mut door: UnixDoor,
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
    mut listener: L,
    router: watch::Receiver<Router>,
    shutdown: impl Future<Output = ()>,
) {
    let mut shutdown = pin!(shutdown);
    let (stop, stopped) = watch::channel(false);
    let mut connections = JoinSet::new();
    loop {
        let room = connections.len() < CONNECTIONS;
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => {}
            (io, _) = listener.accept(), if room => {
                connections.spawn(converse(io, router.clone(), stopped.clone()));
            }
        }
    }
    drop(listener);
    stop.send_replace(true);
    let drained = timeout(DRAIN, async { while connections.join_next().await.is_some() {} });
    if drained.await.is_err() {
        tracing::warn!(connections = connections.len(), "requests cut off at shutdown");
        connections.shutdown().await;
    }
}

/// One connection, to its end or, once stopped, to the end of its request.
async fn converse<I>(io: I, router: watch::Receiver<Router>, mut stopped: watch::Receiver<bool>)
where
    I: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(64 << 10);
    let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let router = router.borrow().clone();
        router.oneshot(request)
    });
    let connection = builder.serve_connection(TokioIo::new(io), service);
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]
    use super::*;
    use axum::routing::get;
    use std::sync::Arc;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixStream;
    use tokio::sync::{Notify, mpsc, oneshot};

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[tokio::test]
    async fn the_socket_appears_with_its_rights_and_goes_with_its_door() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run/api.sock");
        let group = fs::metadata(directory.path()).unwrap().gid().to_string();
        let door = bind_unix(&path, Some(&group)).unwrap();
        assert_eq!(mode(&path), MODE);
        assert_eq!(fs::read_dir(directory.path().join("run")).unwrap().count(), 1);
        drop(door);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("api.sock");
        // The standard library's listener leaves its file behind: nobody answers there.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let door = bind_unix(&path, None).unwrap();
        assert!(matches!(bind_unix(&path, None), Err(BindError::InUse(_))));
        assert!(path.exists(), "refusing takes nothing away");
        drop(door);
    }

    #[tokio::test]
    async fn what_is_no_socket_is_not_touched() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("api.sock");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(bind_unix(&path, None), Err(BindError::NotASocket(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        let elsewhere = directory.path().join("other.sock");
        let unknown = bind_unix(&elsewhere, Some("no such group"));
        assert!(matches!(unknown, Err(BindError::UnknownGroup(_))));
        assert!(!elsewhere.exists());
    }

    #[tokio::test]
    async fn a_door_does_not_remove_its_successors_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("api.sock");
        let door = bind_unix(&path, None).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "another's").unwrap();
        drop(door);
        assert!(path.exists());
    }

    #[tokio::test]
    async fn a_request_under_way_is_finished_after_shutdown() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("api.sock");
        let door = bind_unix(&path, None).unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let (arrive, mut arrived) = mpsc::channel(1);
        let release = Arc::new(Notify::new());
        let released = release.clone();
        let handler = move || async move {
            arrive.send(()).await.unwrap();
            released.notified().await;
            "done"
        };
        let router = Router::new().route("/", get(handler));
        let (_router, router) = watch::channel(router);
        let serving = tokio::spawn(serve_unix(door, router, async { drop(stopped.await) }));
        let mut stream = UnixStream::connect(&path).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        arrived.recv().await.unwrap();
        stop.send(()).unwrap();
        while UnixStream::connect(&path).await.is_ok() {
            tokio::task::yield_now().await;
        }
        release.notify_one();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("done"), "{answer}");
        serving.await.unwrap();
        assert!(!path.exists());
    }
}
