//! The section `[api]`.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::diagnostic::Issue;
use super::diff::ConfigDiff;
use super::origin::DiagnosticSink;
use super::reader::{RawValue, TableReader};
use super::secret;
use super::sources::Sources;
use super::table::{ConfigKey, LayeredTable, changes};

/// `[api]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiConfig {
    /// The Unix socket; `None` if it is `off`.
    pub socket: Option<PathBuf>,
    /// The group that may use the socket.
    pub socket_group: Option<String>,
    /// The TCP address, if TCP is used.
    pub listen: Option<SocketAddr>,
    /// The TCP address of probes and scrapes, which need no token.
    pub probe_listen: Option<SocketAddr>,
    /// Host names under which clients reach the API over TCP, in lower case, in addition to
    /// loopback and the address listened on.
    pub hosts: Vec<String>,
    /// The file with the token for full access.
    pub token_file: Option<PathBuf>,
    /// The file with the token for reading only.
    pub read_token_file: Option<PathBuf>,
    /// Whether readers see only time and busy state of private and confidential events.
    pub mask_private: bool,
}

/// The path of a Unix socket has at most 107 bytes on Linux, and the daemon first creates the
/// socket under this path with `.new` appended.
const MAX_SOCKET_PATH: usize = 107 - ".new".len();

impl ApiConfig {
    pub(super) const KEYS: &[ConfigKey] = &[
        ConfigKey::with_default("socket", r#""/run/calmirror/api.sock""#),
        ConfigKey::without_default("socket_group"),
        ConfigKey::without_default("listen"),
        ConfigKey::without_default("probe_listen"),
        ConfigKey::without_default("hosts"),
        ConfigKey::without_default("token_file"),
        ConfigKey::without_default("read_token_file"),
        ConfigKey::with_default("mask_private", "false"),
    ];

    pub(super) fn read(
        table: &LayeredTable,
        sources: &Sources,
        report: &mut DiagnosticSink,
    ) -> Option<Self> {
        let mut reader = TableReader::new(table, report);
        let private = |written: RawValue<'_>| secret::path(written, sources);
        let socket = reader.read("socket", socket);
        let socket_group = reader.read("socket_group", |written| written.text().map(str::to_owned));
        let listen = reader.read("listen", listen);
        let probe_listen = reader.read("probe_listen", self::listen);
        if let (Some(api), Some(probes)) = (listen, probe_listen)
            && (api.port() != 0 && api.port() == probes.port())
            && (api.ip() == probes.ip()
                || api.ip().is_unspecified()
                || probes.ip().is_unspecified())
        {
            let remedy = "write another port: there every request needs a token";
            reader.fault("probe_listen", Issue::new("the same address as listen", remedy));
        }
        let hosts =
            reader.read("hosts", |written| written.texts()?.into_iter().map(host).collect());
        let token_file = reader.read("token_file", private);
        let read_token_file = reader.read("read_token_file", private);
        let mask_private = reader.read("mask_private", |written| written.flag());
        if token_file.is_some() && token_file == read_token_file {
            let remedy =
                "name another file: read-only clients must not hold the token for full access";
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
        Some(Self {
            socket: socket?,
            socket_group,
            listen,
            probe_listen,
            hosts: hosts.unwrap_or_default(),
            token_file,
            read_token_file,
            mask_private: mask_private?,
        })
    }

    changes!("api", {
        socket: settings,
        socket_group: settings,
        listen: settings,
        probe_listen: settings,
        hosts: settings,
        token_file: settings,
        read_token_file: settings,
        mask_private: settings,
    });
}

/// Reports that `listen` is set and there is no token, because over TCP every request needs one. An
/// address that is not valid has its own error.
pub(super) fn refuse_open_listener(report: &mut DiagnosticSink) {
    let Some(listen) = report.explained.iter().find(|one| one.key == "api.listen") else { return };
    let origin = listen.origin.clone();
    let remedy = "name a file with a token in token_file, in read_token_file or in a \
                  [consumer.NAME]: over TCP every request needs one";
    report.fault(&origin, "api.listen", Issue::new("a TCP address without a token", remedy));
}

/// A host name or IPv4 address as in the `Host` header, without the port.
pub(super) fn host(text: &str) -> Result<String, Issue> {
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
