//! Finds the daemon's address and token: from `--api`, else as configured, else the usual socket.
//!
//! Reads only the keys it needs and ignores faults in the rest of the configuration: a client must
//! work for users who may not read all of the daemon's secrets. It does not silently use the usual
//! socket if the configuration may name another: it warns, or refuses a file named by `--config`.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use super::exit::{CONFIGURATION, CliError, UNAVAILABLE, USAGE};
use crate::config::{ClientConfig, Diagnostic, Sources};

/// An address of the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// A Unix socket.
    Socket(PathBuf),
    /// Host and port.
    Tcp(String),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => write!(f, "{}", path.display()),
            Self::Tcp(authority) => write!(f, "http://{authority}"),
        }
    }
}

/// The daemon that a client connects to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ClientTarget {
    pub(super) endpoint: Endpoint,
    /// The token, if the address is not a socket.
    pub(super) token: Option<String>,
    /// Whether the token from `$CALMIRROR_TOKEN` leaves this machine as clear text.
    pub(super) exposed: bool,
    /// What of the configuration could not be used, so that `endpoint` is only the usual socket.
    pub(super) unusable: Option<Diagnostic>,
}

/// Finds the daemon and, if it is not on a socket, the token. An empty variable counts as unset.
///
/// `$CALMIRROR_TOKEN` is sent to whatever address `--api` names. A configured token file belongs to
/// the daemon of that configuration: its token is sent only to the configured address and to
/// loopback.
///
/// # Errors
/// If `--api` is neither a socket nor an `http://` address, if the file named by `--config` cannot
/// be used, or if no socket and no address is configured.
pub(super) fn find(
    api: Option<&str>,
    config: Option<&Path>,
    environment: &BTreeMap<String, String>,
) -> Result<ClientTarget, CliError> {
    let variable =
        |name| environment.get(name).map(|value| value.trim()).filter(|value| !value.is_empty());
    let ClientConfig { socket, listen, token_files, unusable } =
        ClientConfig::find(&Sources::find(config, environment.clone()));
    let listen = listen.map(reachable);
    let target = |endpoint| ClientTarget { endpoint, token: None, exposed: false, unusable: None };
    let place = match (api.or_else(|| variable("CALMIRROR_API")), socket, listen) {
        (Some(text), ..) => parse(text)?,
        (None, Some(socket), _) => {
            let named = |fault: &&Diagnostic| config.is_some() && fault.file.as_deref() == config;
            if let Some(fault) = unusable.iter().find(named) {
                return Err(CliError::new(CONFIGURATION, fault.to_string()));
            }
            let remedy = format!("asking the daemon at {}", socket.display());
            let unusable = unusable.into_iter().next().map(|fault| Diagnostic { remedy, ..fault });
            return Ok(ClientTarget { unusable, ..target(Endpoint::Socket(socket)) });
        }
        (None, None, Some(listen)) => Endpoint::Tcp(listen.to_string()),
        (None, None, None) => {
            let failure = CliError::new(UNAVAILABLE, "the daemon is configured to serve nowhere")
                .remedy("set api.socket or api.listen, or name its address: --api SOCKET-OR-URL");
            return Err(failure);
        }
    };
    let Endpoint::Tcp(authority) = &place else { return Ok(target(place)) };
    let near = is_near(authority);
    let configured = listen.is_some_and(|listen| authority.parse() == Ok(listen));
    if let Some(token) = variable("CALMIRROR_TOKEN") {
        let token = Some(token.to_owned());
        return Ok(ClientTarget { token, exposed: !near, ..target(place) });
    }
    let read = |file: &PathBuf| {
        let token = String::from_utf8(fs::read(file).ok()?).ok()?;
        Some(token.trim().to_owned()).filter(|token| !token.is_empty())
    };
    let token = if near || configured { token_files.iter().find_map(read) } else { None };
    Ok(ClientTarget { token, ..target(place) })
}

/// The address at which a daemon listening on `listen` is reached from its own machine: loopback
/// if it listens on all addresses.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let loopback: IpAddr = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(loopback, listen.port())
}

/// Whether data sent to `authority` stays on this machine.
fn is_near(authority: &str) -> bool {
    let (host, _) = authority.rsplit_once(':').unwrap_or((authority, ""));
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|ip| ip.is_loopback())
}

/// Whether the text is `HOST:PORT` and not the path of a socket. A socket in the working directory
/// whose name ends like a port is written `./NAME`.
fn is_authority(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    port.parse::<u16>().is_ok()
        && match address {
            Some(address) => address.parse::<Ipv6Addr>().is_ok(),
            None => !host.is_empty() && host.chars().all(name),
        }
}

fn parse(text: &str) -> Result<Endpoint, CliError> {
    if let Some(rest) = text.strip_prefix("http://") {
        let authority = rest.trim_end_matches('/');
        if authority.is_empty() || authority.contains(['/', '@', '?', '#']) {
            let failure = CliError::new(USAGE, format!("not a daemon address: {text}"));
            return Err(failure.remedy("write it as http://HOST:PORT"));
        }
        let has_port = authority.rsplit_once(':').is_some_and(|(_, p)| p.parse::<u16>().is_ok());
        let authority = if has_port { authority.to_owned() } else { format!("{authority}:80") };
        return Ok(Endpoint::Tcp(authority));
    }
    if is_authority(text) {
        return Ok(Endpoint::Tcp(text.to_owned()));
    }
    if text.contains("://") && !text.starts_with("unix://") {
        let failure =
            CliError::new(USAGE, format!("neither a socket nor an http:// address: {text}"));
        return Err(failure.remedy("the daemon serves plain http, at the address in api.listen"));
    }
    Ok(Endpoint::Socket(text.strip_prefix("unix://").unwrap_or(text).into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_others_refused() {
        for (text, place) in [
            ("/run/x.sock", Some(Endpoint::Socket("/run/x.sock".into()))),
            ("unix:///run/x.sock", Some(Endpoint::Socket("/run/x.sock".into()))),
            ("x.sock", Some(Endpoint::Socket("x.sock".into()))),
            ("http://localhost:8380", Some(Endpoint::Tcp("localhost:8380".into()))),
            ("http://localhost:8380/", Some(Endpoint::Tcp("localhost:8380".into()))),
            ("http://[::1]:8380", Some(Endpoint::Tcp("[::1]:8380".into()))),
            ("http://mirror", Some(Endpoint::Tcp("mirror:80".into()))),
            ("localhost:8380", Some(Endpoint::Tcp("localhost:8380".into()))),
            ("127.0.0.1:8380", Some(Endpoint::Tcp("127.0.0.1:8380".into()))),
            ("[::1]:8380", Some(Endpoint::Tcp("[::1]:8380".into()))),
            ("mirror-1.example.org:80", Some(Endpoint::Tcp("mirror-1.example.org:80".into()))),
            ("./localhost:8380", Some(Endpoint::Socket("./localhost:8380".into()))),
            ("/run/x:8380", Some(Endpoint::Socket("/run/x:8380".into()))),
            ("unix://x:8380", Some(Endpoint::Socket("x:8380".into()))),
            ("localhost:http", Some(Endpoint::Socket("localhost:http".into()))),
            ("::1:8380", Some(Endpoint::Socket("::1:8380".into()))),
            ("http://me@mirror:1", None),
            ("http://mirror:1/v1", None),
            ("https://mirror", None),
        ] {
            assert_eq!(parse(text).ok(), place, "{text}");
        }
    }

    /// The address and the token found.
    fn found(
        api: Option<&str>,
        config: &Path,
        environment: &BTreeMap<String, String>,
    ) -> (Endpoint, Option<String>) {
        let ClientTarget { endpoint: place, token, .. } =
            find(api, Some(config), environment).unwrap();
        (place, token)
    }

    #[test]
    fn the_configuration_says_where_and_the_environment_has_the_last_word() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("calmirror.toml");
        let token = directory.path().join("token");
        fs::write(&token, "s3cret\n").unwrap();
        let text = format!("[api]\nsocket = '/a.sock'\ntoken_file = '{}'\n", token.display());
        fs::write(&file, text).unwrap();
        let mut environment = BTreeMap::new();
        let socket = |path: &str| Endpoint::Socket(path.into());

        assert_eq!(found(None, &file, &environment), (socket("/a.sock"), None));

        fs::create_dir(directory.path().join("conf.d")).unwrap();
        fs::write(directory.path().join("conf.d/x.toml"), "[api]\nsocket='/b.sock'").unwrap();
        assert_eq!(found(None, &file, &environment).0, socket("/b.sock"));

        let (_, secret) = found(Some("http://localhost:1"), &file, &environment);
        assert_eq!(secret.as_deref(), Some("s3cret"));

        // The client ignores files that the daemon ignores, and tolerates files it cannot parse.
        let hidden = "[api]\nsocket='/hidden.sock'";
        fs::write(directory.path().join("conf.d/.z.toml"), hidden).unwrap();
        fs::write(directory.path().join("conf.d/z.toml~"), hidden).unwrap();
        fs::write(directory.path().join("conf.d/z.toml"), "]").unwrap();
        fs::write(directory.path().join("conf.d/w.toml"), "[graph]\ncloud='?'\nx=1\n[?]").unwrap();
        assert_eq!(found(None, &file, &environment).0, socket("/b.sock"));

        fs::write(directory.path().join("conf.d/y.toml"), "[api]\nsocket='rel.sock'").unwrap();
        let relative = directory.path().join("conf.d/rel.sock");
        assert_eq!(found(None, &file, &environment).0, Endpoint::Socket(relative.clone()));

        // An empty variable counts as unset.
        for name in
            ["CALMIRROR__API__SOCKET", "CALMIRROR_TOKEN", "CALMIRROR_API", "CALMIRROR_CONFIG"]
        {
            environment.insert(name.into(), String::new());
        }
        let (place, secret) = found(None, &file, &environment);
        assert_eq!((place, secret), (Endpoint::Socket(relative), None));
        let (_, secret) = found(Some("http://localhost:1"), &file, &environment);
        assert_eq!(secret.as_deref(), Some("s3cret"));
        let default = find(None, None, &environment).unwrap().endpoint;
        assert_eq!(default, find(None, None, &BTreeMap::new()).unwrap().endpoint);
        environment.insert("CALMIRROR_CONFIG".into(), file.display().to_string());
        environment.insert("CALMIRROR_API".into(), "/d.sock".into());
        assert_eq!(find(None, None, &environment).unwrap().endpoint, socket("/d.sock"));
        assert_eq!(found(Some("/e.sock"), &file, &environment).0, socket("/e.sock"));
        environment.remove("CALMIRROR_API");

        environment.insert("CALMIRROR__api__Socket".into(), "/c.sock".into());
        environment.insert("CALMIRROR_TOKEN".into(), "other".into());
        assert_eq!(find(None, None, &environment).unwrap().endpoint, socket("/c.sock"));
        let (_, secret) = found(Some("http://localhost:1"), &file, &environment);
        assert_eq!(secret.as_deref(), Some("other"));

        environment.remove("CALMIRROR__api__Socket");
        environment.insert("CALMIRROR__API__SOCKET".into(), "off".into());
        let nowhere = find(None, Some(&file), &environment).unwrap_err();
        assert_eq!(nowhere.exit, UNAVAILABLE);
        for (listen, reached) in [
            ("127.0.0.1:8380", "127.0.0.1:8380"),
            ("0.0.0.0:8380", "127.0.0.1:8380"),
            ("[::]:8380", "[::1]:8380"),
            ("192.0.2.1:1", "192.0.2.1:1"),
        ] {
            environment.insert("CALMIRROR__API__LISTEN".into(), listen.into());
            let (place, secret) = found(None, &file, &environment);
            assert_eq!(place, Endpoint::Tcp(reached.into()), "no socket");
            assert_eq!(secret.as_deref(), Some("other"));
        }
        environment.clear();
        let text = format!(
            "[api]\nsocket = 'off'\nlisten = '127.0.0.1:9'\ntoken_file = '{}'\n",
            token.display()
        );
        let off = directory.path().join("off/calmirror.toml");
        fs::create_dir(off.parent().unwrap()).unwrap();
        fs::write(&off, text).unwrap();
        let there = (Endpoint::Tcp("127.0.0.1:9".into()), Some("s3cret".into()));
        assert_eq!(found(None, &off, &environment), there);
    }

    #[test]
    fn the_usual_socket_is_not_asked_silently_if_the_configuration_may_name_another() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("calmirror.toml");
        fs::create_dir(directory.path().join("conf.d")).unwrap();
        let other = directory.path().join("conf.d/x.toml");
        let environment: BTreeMap<String, String> =
            [("CALMIRROR_CONFIG".into(), file.display().to_string())].into();
        let usual = Endpoint::Socket("/run/calmirror/api.sock".into());
        // The text of the main file and of the other, what is said, and whether the main file is
        // what cannot be used.
        for (main, more, said, of_main) in [
            (None, "", Some("calmirror.toml: cannot be read: No such file"), true),
            (Some("[api"), "", Some("calmirror.toml:1: not TOML: "), true),
            (Some("[api]\nsocket = 7"), "", Some("calmirror.toml:2: api.socket: "), true),
            (Some("[api]\nsokcet = '/a.sock'"), "", Some("calmirror.toml:2: api.sokcet: "), true),
            (Some("[api]"), "]", Some("conf.d/x.toml:1: not TOML: "), false),
            (Some("[api]\nsocket = '/run/calmirror/api.sock'"), "]", None, false),
            (Some("[graph]\ncloud = 7\nx = 1\n[y]"), "", None, false),
        ] {
            fs::remove_file(&file).ok();
            if let Some(main) = main {
                fs::write(&file, main).unwrap();
            }
            fs::write(&other, more).unwrap();
            let target = find(None, None, &environment).unwrap();
            assert_eq!(target.endpoint, usual, "{main:?}");
            let warning = target.unusable.map(|fault| fault.to_string()).unwrap_or_default();
            assert!(warning.contains(said.unwrap_or_default()), "{main:?}: {warning}");
            let end = said.map_or("", |_| "; asking the daemon at /run/calmirror/api.sock");
            assert!(warning.ends_with(end) && warning.is_empty() == said.is_none(), "{warning}");
            // A file that was named for this command is not passed over.
            match find(None, Some(&file), &environment) {
                Ok(_) => assert!(!of_main, "{main:?}"),
                Err(refused) => assert!(of_main && refused.exit == CONFIGURATION, "{refused}"),
            }
            // With an address no configuration is needed.
            let api = find(Some("/b.sock"), Some(&file), &environment).unwrap();
            assert_eq!((api.endpoint, api.unusable), (Endpoint::Socket("/b.sock".into()), None));
        }
        let environment = [("CALMIRROR__API__SOKCET".into(), "/a.sock".into())].into();
        let warned = find(None, None, &environment).unwrap().unusable.unwrap();
        assert!(warned.to_string().starts_with("CALMIRROR__API__SOKCET: "), "{warned}");
        assert_eq!(find(None, None, &BTreeMap::new()).unwrap().unusable, None);
    }

    #[test]
    fn a_token_file_is_for_the_configured_daemon_alone() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("calmirror.toml");
        fs::write(directory.path().join("token"), "s3cret\n").unwrap();
        let mut environment = BTreeMap::new();
        for listen in ["192.0.2.1:8380", "0.0.0.0:8380"] {
            let text = format!("[api]\nlisten = '{listen}'\ntoken_file = 'token'\n");
            fs::write(&file, text).unwrap();
            for (authority, near, configured) in [
                ("192.0.2.1:8380", false, listen == "192.0.2.1:8380"),
                ("192.0.2.1:8381", false, false),
                ("192.0.2.2:8380", false, false),
                ("mirror.example:8380", false, false),
                ("localhost.example:8380", false, false),
                ("127.0.0.1.example:8380", false, false),
                ("localhost:1", true, false),
                ("127.0.0.2:1", true, false),
                ("[::1]:1", true, false),
                ("[2001:db8::1]:8380", false, false),
            ] {
                let api = format!("http://{authority}");
                environment.clear();
                let ClientTarget { token, exposed, .. } =
                    find(Some(&api), Some(&file), &environment).unwrap();
                let shown = near || configured;
                assert_eq!(token.as_deref(), shown.then_some("s3cret"), "{listen} {authority}");
                assert!(!exposed, "the variable is not set");
                // The variable's token is sent anywhere, and is reported as exposed.
                environment.insert("CALMIRROR_TOKEN".into(), "other".into());
                let ClientTarget { token, exposed, .. } =
                    find(Some(&api), Some(&file), &environment).unwrap();
                assert_eq!((token.as_deref(), exposed), (Some("other"), !near), "{authority}");
            }
        }
    }
}
