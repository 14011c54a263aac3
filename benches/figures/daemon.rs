//! The daemon under test: the built binary as a separate process, with a configuration file and a
//! store on disk, queried over its Unix socket.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

use crate::graph::{END, START, mailbox};
use crate::process;

/// The tenant of every window.
pub(crate) const TENANT: &str = "00000000-0000-0000-0000-000000000000";
/// The account of every window.
pub(crate) const ACCOUNT: &str = "bench";
/// The variable with another size of the store's cache than the default, for example `32MiB`.
const CACHE_VARIABLE: &str = "CALMIRROR_FIGURES_CACHE";

/// The program under test.
pub(crate) fn own() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_calmirror"))
}

/// A directory on the disk that holds the build, removed when dropped.
pub(crate) fn directory() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("figures-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// The settings of a daemon.
pub(crate) struct Setup<'a> {
    /// The origin of Graph: `http://…`.
    pub(crate) origin: String,
    /// The number of mailboxes, with one window each.
    pub(crate) mailboxes: usize,
    /// `interval`.
    pub(crate) interval: &'a str,
    /// `page_size`.
    pub(crate) page_size: u32,
}

/// A running daemon, killed when dropped.
pub(crate) struct Daemon {
    child: Child,
    api: Api,
}

impl Daemon {
    /// Starts a daemon in `directory` and waits until it serves.
    pub(crate) async fn start(directory: &Path, setup: &Setup<'_>) -> Self {
        Self::start_with(directory, setup, "").await
    }

    /// The same, with more sections of the configuration.
    pub(crate) async fn start_with(directory: &Path, setup: &Setup<'_>, more: &str) -> Self {
        configure(directory, setup, more);
        Self::run(own(), directory).await
    }

    /// As [`Daemon::start`], for another build of the program.
    pub(crate) async fn start_program(program: &Path, directory: &Path, setup: &Setup<'_>) -> Self {
        configure(directory, setup, "");
        Self::run(program, directory).await
    }

    /// The same, with more lines of `[api]`, too.
    pub(crate) async fn start_at(
        directory: &Path,
        setup: &Setup<'_>,
        api: &str,
        more: &str,
    ) -> Self {
        let file = configure(directory, setup, more);
        let text = fs::read_to_string(&file).unwrap();
        let socket = "socket = \"api.sock\"\n";
        fs::write(&file, text.replace(socket, &format!("{socket}{api}"))).unwrap();
        Self::run(own(), directory).await
    }

    async fn run(program: &Path, directory: &Path) -> Self {
        let log = fs::File::create(directory.join("log")).unwrap();
        let child = Command::new(program)
            .arg("--config")
            .arg(directory.join("calmirror.toml"))
            .arg("run")
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut daemon = Self { child, api: Api::new(directory) };
        let began = Instant::now();
        while !daemon.api.connect().await {
            let ended = daemon.child.try_wait().unwrap();
            if ended.is_some() || began.elapsed() > Duration::from_secs(300) {
                let log = fs::read_to_string(directory.join("log")).unwrap_or_default();
                panic!("the daemon does not serve ({ended:?}):\n{log}");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // The addresses are bound before the windows are registered, and served after.
        daemon.get("/healthz").await;
        daemon
    }

    /// The daemon's processor time so far.
    pub(crate) fn cpu(&self) -> Duration {
        process::cpu(self.child.id())
    }

    /// The daemon's resident memory, bytes.
    pub(crate) fn resident(&self) -> u64 {
        process::resident(self.child.id())
    }

    /// The daemon's highest resident memory so far, bytes.
    pub(crate) fn peak(&self) -> u64 {
        process::peak(self.child.id())
    }

    /// Bytes the daemon has written to disks.
    pub(crate) fn written(&self) -> u64 {
        process::written(self.child.id())
    }

    /// Makes a GET request to the API. Panics unless the status is 200.
    pub(crate) async fn get(&mut self, path: &str) -> Bytes {
        self.api.get(path).await
    }

    /// Runs a client of the API with a connection of its own, all of it on this thread: that what is
    /// timed is not how fast the client's threads wake each other.
    pub(crate) fn alone<T>(&self, client: impl AsyncFnOnce(&mut Api) -> T) -> T {
        let mut api = Api { path: self.api.path.clone(), sender: None };
        tokio::task::block_in_place(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(client(&mut api))
        })
    }

    /// The same, as JSON.
    pub(crate) async fn json(&mut self, path: &str) -> Value {
        serde_json::from_slice(&self.get(path).await).unwrap()
    }

    /// Makes a POST request to the API. Panics unless the response is 200 and JSON.
    pub(crate) async fn post(&mut self, path: &str) -> Value {
        serde_json::from_slice(&self.api.ask(http::Method::POST, path).await).unwrap()
    }

    /// Waits until every window is settled, polling at this interval.
    pub(crate) async fn settle(&mut self, every: Duration) {
        loop {
            let status = self.json("/v1/status").await;
            let count = |state: &str| status["windows"][state].as_u64().unwrap();
            if count("settled") + count("following") == count("total") {
                return;
            }
            let trouble = count("total") - count("enumerating") - count("settled");
            assert!(trouble - count("following") == 0, "windows in trouble: {status}");
            tokio::time::sleep(every).await;
        }
    }

    /// Waits until the daemon has nothing more to do.
    pub(crate) async fn rest(&self) {
        loop {
            let before = self.cpu();
            tokio::time::sleep(Duration::from_secs(2)).await;
            if self.cpu() - before < Duration::from_millis(60) {
                return;
            }
        }
    }

    /// The number of events over all windows, as the daemon counts them.
    pub(crate) async fn events(&mut self) -> u64 {
        let windows = self.json("/v1/windows?limit=10000").await;
        windows["value"].as_array().unwrap().iter().map(|w| w["events"].as_u64().unwrap()).sum()
    }

    /// The number of windows of this process alone.
    pub(crate) async fn windows(&mut self) -> u64 {
        let status = self.api.own("/v1/status").await;
        let status: Value = serde_json::from_slice(&status).unwrap();
        status["windows"]["total"].as_u64().unwrap()
    }

    /// Stops the daemon and waits for its end.
    pub(crate) async fn stop(mut self) {
        let kill = Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
        assert!(kill.success());
        loop {
            if let Some(ended) = self.child.try_wait().unwrap() {
                assert!(ended.success(), "the daemon ended with {ended}");
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // After an orderly stop the process is already gone.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Writes the file that lists the mailboxes with these numbers.
pub(crate) fn write_mailboxes(directory: &Path, numbers: std::ops::Range<usize>) {
    let mut mailboxes = String::new();
    for number in numbers {
        writeln!(mailboxes, "{}", mailbox(number)).unwrap();
    }
    fs::write(directory.join("mailboxes.txt"), mailboxes).unwrap();
}

/// Writes the configuration with these further sections, and what it names.
pub(crate) fn configure(directory: &Path, setup: &Setup<'_>, more: &str) -> PathBuf {
    let secret = directory.join("secret");
    fs::write(&secret, "s3cret").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    write_mailboxes(directory, 0..setup.mailboxes);
    let Setup { origin, interval, page_size, .. } = setup;
    let cache = std::env::var(CACHE_VARIABLE).map(|cache| format!("cache = \"{cache}\""));
    let cache = cache.unwrap_or_default();
    let text = format!(
        r#"
[store]
path = "store"
{cache}
[graph]
base_url = "{origin}/v1.0"
login_url = "{origin}"
[api]
socket = "api.sock"
[log]
format = "text"
[defaults]
interval = "{interval}"
page_size = {page_size}
start = "{START}"
end = "{END}"
[account.{ACCOUNT}]
tenant = "{TENANT}"
client_id = "11111111-1111-1111-1111-111111111111"
client_secret_file = "secret"
[[window]]
mailboxes_file = "mailboxes.txt"
account = "{ACCOUNT}"
{more}"#
    );
    let file = directory.join("calmirror.toml");
    fs::write(&file, text).unwrap();
    file
}

/// One persistent connection to the API.
pub(crate) struct Api {
    path: PathBuf,
    sender: Option<http1::SendRequest<Empty<Bytes>>>,
}

impl Api {
    /// Not connected yet to the daemon in this directory.
    pub(crate) fn new(directory: &Path) -> Self {
        Self { path: directory.join("api.sock"), sender: None }
    }

    async fn connect(&mut self) -> bool {
        let Ok(stream) = UnixStream::connect(&self.path).await else { return false };
        let Ok((sender, connection)) = http1::handshake(TokioIo::new(stream)).await else {
            return false;
        };
        // This task ends with the connection.
        tokio::spawn(connection);
        self.sender = Some(sender);
        true
    }

    /// Makes a GET request. Panics unless the status is 200.
    pub(crate) async fn get(&mut self, path: &str) -> Bytes {
        self.ask(http::Method::GET, path).await
    }

    /// Makes a GET request that a shard answers without the others.
    async fn own(&mut self, path: &str) -> Bytes {
        let request = http::Request::builder().header("calmirror-shard-only", "1");
        self.send(request.uri(path), path).await
    }

    async fn ask(&mut self, method: http::Method, path: &str) -> Bytes {
        self.send(http::Request::builder().method(method).uri(path), path).await
    }

    async fn send(&mut self, request: http::request::Builder, path: &str) -> Bytes {
        let answer = self.begin(request).await;
        let status = answer.status();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(status, 200, "{path}: {}", String::from_utf8_lossy(&body));
        body
    }

    /// Makes a GET request and gives `take` the body as it arrives. Panics unless the status is 200.
    pub(crate) async fn stream(
        &mut self,
        path: &str,
        mut take: impl FnMut(&[u8]),
    ) -> http::HeaderMap {
        let answer = self.begin(http::Request::builder().uri(path)).await;
        assert_eq!(answer.status(), 200, "{path}");
        let (head, mut body) = answer.into_parts();
        while let Some(frame) = body.frame().await {
            frame.unwrap().data_ref().into_iter().for_each(|piece| take(piece));
        }
        head.headers
    }

    async fn begin(&mut self, request: http::request::Builder) -> http::Response<Incoming> {
        let request = request.header("host", "calmirror").body(Empty::new()).unwrap();
        // The daemon closes a connection on which nothing was asked for a while.
        if self.sender.as_ref().is_none_or(http1::SendRequest::is_closed) {
            assert!(self.connect().await, "the daemon does not serve");
        }
        let sender = self.sender.as_mut().unwrap();
        sender.ready().await.unwrap();
        sender.send_request(request).await.unwrap()
    }
}
