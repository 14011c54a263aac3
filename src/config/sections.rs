//! The sections other than accounts and windows: store, graph, api, feed, log.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use super::cloud::{CLOUDS, VERSION, VERSIONS, address};
use super::diagnostic::{Issue, suggest};
use super::origin::DiagnosticSink;
use super::reader::{RawValue, TableReader};
use super::secret;
use super::sources::Sources;
use super::table::LayeredTable;

/// `[store]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreConfig {
    /// The store's directory.
    pub path: PathBuf,
}

/// `[graph]`, with the cloud resolved to addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GraphConfig {
    /// The cloud's name, whether its addresses are used or not.
    pub cloud: &'static str,
    /// Graph's address with its version, without a trailing slash:
    /// `https://graph.microsoft.com/v1.0`.
    pub base_url: String,
    /// The sign-in address, without a trailing slash: `https://login.microsoftonline.com`.
    pub login_url: String,
    /// The scope of tokens: the origin of `base_url` and `/.default` (fact 135).
    pub scope: String,
    /// Requests in flight over all mailboxes, at least 1.
    pub max_concurrent: usize,
    /// Requests in flight to one mailbox, 1 to 4.
    pub max_concurrent_per_mailbox: usize,
    /// How long one request may take.
    pub request_timeout: Duration,
}

/// `[api]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiConfig {
    /// The Unix socket; `None` if it is `off`.
    pub socket: Option<PathBuf>,
    /// The group that may use the socket.
    pub socket_group: Option<String>,
    /// The TCP address, if TCP is used.
    pub listen: Option<SocketAddr>,
    /// Host names under which clients reach the API over TCP, in lower case, in addition to
    /// loopback and the address listened on.
    pub hosts: Vec<String>,
    /// The file with the token for full access; required with `listen`.
    pub token_file: Option<PathBuf>,
    /// The file with the token for reading only.
    pub read_token_file: Option<PathBuf>,
    /// Whether readers see only time and busy state of private and confidential events.
    pub mask_private: bool,
}

/// `[feed]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedConfig {
    /// How long tombstones are kept.
    pub retention: Duration,
}

/// `[log]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// A level or tracing directives, already validated.
    pub level: String,
    /// The format of log lines.
    pub format: LogFormat,
}

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Journald under systemd, text on a terminal, JSON otherwise.
    Auto,
    /// For people.
    Text,
    /// For programs.
    Json,
    /// With journald's own fields.
    Journald,
}

/// A request that takes longer than this is lost, so a longer timeout is rejected.
const MAX_REQUEST_TIMEOUT: Duration = Duration::from_secs(3600);

/// Readers must be able to resume after an outage of a night or a weekend. Less than an hour is
/// probably a wrong unit.
const MIN_RETENTION: Duration = Duration::from_secs(3600);

/// The path of a Unix socket has at most 107 bytes on Linux, and the daemon first creates the
/// socket under this path with `.new` appended.
const MAX_SOCKET_PATH: usize = 107 - ".new".len();

pub(super) fn store(table: &LayeredTable, report: &mut DiagnosticSink) -> Option<StoreConfig> {
    let mut reader = TableReader::new(table, report);
    Some(StoreConfig { path: reader.take("path", |written| written.path())? })
}

pub(super) fn graph(table: &LayeredTable, report: &mut DiagnosticSink) -> Option<GraphConfig> {
    let mut reader = TableReader::new(table, report);
    let clouds = CLOUDS.map(|cloud| (cloud.name, cloud));
    let cloud = reader.take("cloud", |written| written.choice(&clouds));
    let base = reader.take("base_url", |written| address(written.text()?));
    let login = reader.take("login_url", |written| address(written.text()?));
    let all = reader.take("max_concurrent", |written| written.integer(1..=100_000));
    let each = reader.take("max_concurrent_per_mailbox", |written| written.integer(1..=4));
    let timeout = reader.take("request_timeout", |written| {
        let timeout = written.duration(Duration::from_secs(1))?;
        if timeout > MAX_REQUEST_TIMEOUT {
            return Err(Issue::new("too long", "write at most 1h"));
        }
        Ok(timeout)
    });
    if let Some((url, origin)) = &base
        && !VERSIONS.iter().any(|version| url.ends_with(version))
    {
        let problem = format!("{url} names no version of Graph");
        let remedy = format!("write {origin}{VERSION}, unless a proxy adds the version");
        reader.warn("base_url", Issue::new(problem, remedy));
    }
    let cloud = cloud?;
    let (base_url, origin) =
        base.unwrap_or_else(|| (format!("{}{VERSION}", cloud.graph), cloud.graph.to_owned()));
    Some(GraphConfig {
        cloud: cloud.name,
        base_url,
        login_url: login.map_or_else(|| cloud.login.to_owned(), |(login, _)| login),
        scope: format!("{origin}/.default"),
        max_concurrent: all?,
        max_concurrent_per_mailbox: each?,
        request_timeout: timeout?,
    })
}

pub(super) fn api(
    table: &LayeredTable,
    sources: &Sources,
    report: &mut DiagnosticSink,
) -> Option<ApiConfig> {
    let mut reader = TableReader::new(table, report);
    let private = |written: RawValue<'_>| secret::path(written, sources);
    let socket = reader.take("socket", socket);
    let socket_group = reader.take("socket_group", |written| written.text().map(str::to_owned));
    let listen = reader.take("listen", listen);
    let hosts = reader.take("hosts", |written| written.texts()?.into_iter().map(host).collect());
    let token_file = reader.take("token_file", private);
    let read_token_file = reader.take("read_token_file", private);
    let mask_private = reader.take("mask_private", |written| written.flag());
    if listen.is_some() && !reader.has("token_file") {
        let remedy = "name a file with a token in token_file: over TCP every request needs it";
        reader.fault("listen", Issue::new("a TCP address without a token", remedy));
    }
    if token_file.is_some() && token_file == read_token_file {
        let remedy = "name another file: read-only clients must not hold the token for full access";
        reader.fault("read_token_file", Issue::new("the same file as token_file", remedy));
    }
    for (key, file, other) in
        [("token_file", &token_file, &None), ("read_token_file", &read_token_file, &token_file)]
    {
        // The same file for both is rejected above.
        let Some(file) = file.as_deref().filter(|file| Some(*file) != other.as_deref()) else {
            continue;
        };
        for wrong in secret::weak_token(file, other.as_deref()) {
            reader.warn(key, wrong);
        }
    }
    if let Some(address) = listen.filter(|address| !address.ip().is_loopback()) {
        let problem = format!("{address} is reached from other machines, and there is no TLS");
        let remedy = "listen on 127.0.0.1 behind a proxy that speaks TLS, or on a \
                      network that is private to its readers: tokens and events are sent as clear text";
        reader.warn("listen", Issue::new(problem, remedy));
    }
    if socket == Some(None) && !reader.has("listen") {
        let remedy = "set api.listen or a socket; otherwise no client can connect";
        reader.warn("socket", Issue::new("the daemon would listen nowhere", remedy));
    }
    Some(ApiConfig {
        socket: socket?,
        socket_group,
        listen,
        hosts: hosts.unwrap_or_default(),
        token_file,
        read_token_file,
        mask_private: mask_private?,
    })
}

/// A host name or IPv4 address as in the `Host` header, without the port.
fn host(text: &str) -> Result<String, Issue> {
    let fits = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    if text.len() > 253 || !text.split('.').all(fits) {
        let remedy = "write it as clients do, without scheme and port: \"mirror.example.org\"";
        return Err(Issue::new(format!("not a host name: {text:?}"), remedy));
    }
    Ok(text.to_ascii_lowercase())
}

pub(super) fn listen(written: RawValue<'_>) -> Result<SocketAddr, Issue> {
    let remedy = "write it like \"127.0.0.1:8380\" or \"[::1]:8380\"";
    written.text()?.trim().parse().map_err(|_| Issue::new("not an address and port", remedy))
}

/// `None` if the socket is `off`.
pub(super) fn socket(written: RawValue<'_>) -> Result<Option<PathBuf>, Issue> {
    if written.text()? == "off" {
        return Ok(None);
    }
    let path = written.path()?;
    if path.as_os_str().len() > MAX_SOCKET_PATH {
        let problem = format!("a socket's path has at most {MAX_SOCKET_PATH} bytes");
        return Err(Issue::new(problem, "choose a shorter one"));
    }
    Ok(Some(path))
}

pub(super) fn feed(table: &LayeredTable, report: &mut DiagnosticSink) -> Option<FeedConfig> {
    let mut reader = TableReader::new(table, report);
    let retention = reader.take("retention", |written| written.duration(MIN_RETENTION));
    Some(FeedConfig { retention: retention? })
}

pub(super) fn log(table: &LayeredTable, report: &mut DiagnosticSink) -> Option<LogConfig> {
    let mut reader = TableReader::new(table, report);
    let level = reader.take("level", |written| level(written.text()?));
    let format = reader.take("format", log_format);
    Some(LogConfig { level: level?, format: format? })
}

pub(super) fn log_format(written: RawValue<'_>) -> Result<LogFormat, Issue> {
    written.choice(&[
        ("auto", LogFormat::Auto),
        ("text", LogFormat::Text),
        ("json", LogFormat::Json),
        ("journald", LogFormat::Journald),
    ])
}

/// Validates a level or directives for [`LogConfig::level`]. Tracing takes a mistyped level for the
/// name of a target and then logs nothing else, so a single word must be a level.
///
/// # Errors
/// The problem, and the known levels.
pub fn level(text: &str) -> Result<String, Issue> {
    const LEVELS: [&str; 6] = ["trace", "debug", "info", "warn", "error", "off"];
    let text = text.trim();
    let plain = text.chars().all(char::is_alphanumeric);
    if plain && !LEVELS.contains(&text.to_ascii_lowercase().as_str()) {
        let remedy = suggest(text, LEVELS.into_iter(), "the levels are");
        return Err(Issue::new(format!("unknown level {text:?}"), remedy));
    }
    EnvFilter::try_new(text).map(|_| text.to_owned()).map_err(|_| {
        let remedy = "write a level, or directives such as \"info,calmirror::graph=debug\"";
        Issue::new(format!("neither a level nor directives: {text:?}"), remedy)
    })
}
