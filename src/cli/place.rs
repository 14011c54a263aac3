//! Where the daemon is and what opens its door: `--api`, else as configured, else the usual
//! socket. Reads only what it needs of the configuration and forgives the rest: a client must
//! work for users who may not read every secret the daemon has.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use super::exit::{Failure, UNAVAILABLE, USAGE};
use crate::config::DEFAULT_FILE;

/// Where the daemon serves unless configured otherwise.
const DEFAULT_SOCKET: &str = "/run/calmirror/api.sock";

/// What `api.socket` is where no socket is wanted.
const OFF: &str = "off";

/// An address of the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A Unix socket.
    Socket(PathBuf),
    /// Host and port.
    Tcp(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => write!(f, "{}", path.display()),
            Self::Tcp(authority) => write!(f, "http://{authority}"),
        }
    }
}

/// The `[api]` of a configuration, as far as a client cares.
#[derive(Debug, Default)]
struct Api {
    /// `None` where there is none: `socket = "off"`.
    socket: Option<PathBuf>,
    listen: Option<String>,
    token_files: Vec<PathBuf>,
}

/// Finds the daemon and, where it is not on a socket, the token.
///
/// # Errors
/// Where `--api` is neither a socket nor an `http://` address, or the daemon is configured to
/// serve nowhere.
pub(super) fn find(
    api: Option<&str>,
    config: Option<&Path>,
    environment: &BTreeMap<String, String>,
) -> Result<(Place, Option<String>), Failure> {
    let configured = configured(config.unwrap_or(Path::new(DEFAULT_FILE)), environment);
    let place = match api {
        Some(text) => parse(text)?,
        None => match (configured.socket, configured.listen) {
            (Some(socket), _) => Place::Socket(socket),
            (None, Some(listen)) => Place::Tcp(reachable(&listen)),
            (None, None) => {
                let failure =
                    Failure::new(UNAVAILABLE, "the daemon is configured to serve nowhere").remedy(
                        "set api.socket or api.listen, or say where it is: --api SOCKET-OR-URL",
                    );
                return Err(failure);
            }
        },
    };
    let token = match place {
        Place::Socket(_) => None,
        Place::Tcp(_) => environment.get("CALMIRROR_TOKEN").cloned().or_else(|| {
            configured.token_files.iter().find_map(|file| fs::read_to_string(file).ok())
        }),
    };
    Ok((place, token.map(|token| token.trim().to_owned())))
}

/// Where a daemon that listens on this address is reached from its own machine: one that listens
/// on all addresses also listens on loopback.
fn reachable(listen: &str) -> String {
    match listen.parse::<SocketAddr>() {
        Ok(address) if address.ip().is_unspecified() => {
            let loopback: IpAddr = match address.ip() {
                IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            };
            SocketAddr::new(loopback, address.port()).to_string()
        }
        _ => listen.to_owned(),
    }
}

fn parse(text: &str) -> Result<Place, Failure> {
    if let Some(rest) = text.strip_prefix("http://") {
        let authority = rest.trim_end_matches('/');
        if authority.is_empty() || authority.contains(['/', '@', '?', '#']) {
            let failure = Failure::new(USAGE, format!("not an address of a daemon: {text}"));
            return Err(failure.remedy("write it as http://HOST:PORT"));
        }
        let has_port = authority.rsplit_once(':').is_some_and(|(_, p)| p.parse::<u16>().is_ok());
        let authority = if has_port { authority.to_owned() } else { format!("{authority}:80") };
        return Ok(Place::Tcp(authority));
    }
    if text.contains("://") && !text.starts_with("unix://") {
        let failure = Failure::new(USAGE, format!("not a socket nor an http:// address: {text}"));
        return Err(failure.remedy("the daemon speaks plain http; ask it where it listens"));
    }
    Ok(Place::Socket(text.strip_prefix("unix://").unwrap_or(text).into()))
}

/// What the configuration says of `[api]`, later files over earlier ones, the environment last.
fn configured(file: &Path, environment: &BTreeMap<String, String>) -> Api {
    let mut files = vec![file.to_owned()];
    let beside = file.parent().unwrap_or(Path::new("")).join("conf.d");
    if let Ok(entries) = fs::read_dir(beside) {
        let mut more: Vec<_> = entries.filter_map(|e| e.ok().map(|e| e.path())).collect();
        more.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
        more.sort();
        files.extend(more);
    }
    let mut values = BTreeMap::new();
    for file in files {
        // Paths are meant from the directory of the file they stand in.
        let directory = file.parent().unwrap_or(Path::new(""));
        let text = fs::read_to_string(&file).unwrap_or_default();
        let table = text.parse::<toml::Table>().unwrap_or_default();
        if let Some(toml::Value::Table(api)) = table.get("api") {
            for (key, value) in api {
                if let Some(value) = value.as_str().filter(|value| !value.is_empty()) {
                    let key = key.to_ascii_lowercase();
                    let path = key != "listen" && value != OFF;
                    let value = if path { directory.join(value) } else { value.into() };
                    values.insert(key, value);
                }
            }
        }
    }
    for (name, value) in environment {
        if let Some(key) = name.strip_prefix("CALMIRROR__API__") {
            values.insert(key.to_ascii_lowercase(), PathBuf::from(value));
        }
    }
    let path = |key| values.get(key).filter(|value| !value.as_os_str().is_empty()).cloned();
    Api {
        socket: match path("socket") {
            Some(off) if off == Path::new(OFF) => None,
            other => Some(other.unwrap_or_else(|| DEFAULT_SOCKET.into())),
        },
        listen: path("listen").map(|listen| listen.display().to_string()),
        token_files: ["token_file", "read_token_file"].into_iter().filter_map(path).collect(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]
    use super::*;

    #[test]
    fn addresses_are_read_and_others_refused() {
        for (text, place) in [
            ("/run/x.sock", Some(Place::Socket("/run/x.sock".into()))),
            ("unix:///run/x.sock", Some(Place::Socket("/run/x.sock".into()))),
            ("x.sock", Some(Place::Socket("x.sock".into()))),
            ("http://localhost:8380", Some(Place::Tcp("localhost:8380".into()))),
            ("http://localhost:8380/", Some(Place::Tcp("localhost:8380".into()))),
            ("http://[::1]:8380", Some(Place::Tcp("[::1]:8380".into()))),
            ("http://mirror", Some(Place::Tcp("mirror:80".into()))),
            ("http://me@mirror:1", None),
            ("http://mirror:1/v1", None),
            ("https://mirror", None),
        ] {
            assert_eq!(parse(text).ok(), place, "{text}");
        }
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

        let found = find(None, Some(&file), &environment).unwrap();
        assert_eq!(found, (Place::Socket("/a.sock".into()), None));

        fs::create_dir(directory.path().join("conf.d")).unwrap();
        fs::write(directory.path().join("conf.d/x.toml"), "[api]\nsocket='/b.sock'").unwrap();
        assert_eq!(
            find(None, Some(&file), &environment).unwrap().0,
            Place::Socket("/b.sock".into())
        );

        let (_, secret) = find(Some("http://localhost:1"), Some(&file), &environment).unwrap();
        assert_eq!(secret.as_deref(), Some("s3cret"));

        fs::write(directory.path().join("conf.d/y.toml"), "[api]\nsocket='rel.sock'").unwrap();
        assert_eq!(
            find(None, Some(&file), &environment).unwrap().0,
            Place::Socket(directory.path().join("conf.d/rel.sock"))
        );

        environment.insert("CALMIRROR__API__SOCKET".into(), "/c.sock".into());
        environment.insert("CALMIRROR_TOKEN".into(), "other".into());
        assert_eq!(
            find(None, Some(&file), &environment).unwrap().0,
            Place::Socket("/c.sock".into())
        );
        let (_, secret) = find(Some("http://localhost:1"), Some(&file), &environment).unwrap();
        assert_eq!(secret.as_deref(), Some("other"));

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
            let (place, secret) = find(None, Some(&file), &environment).unwrap();
            assert_eq!(place, Place::Tcp(reached.into()), "no socket");
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
        let found = find(None, Some(&off), &environment).unwrap();
        assert_eq!(found, (Place::Tcp("127.0.0.1:9".into()), Some("s3cret".into())));

        let nowhere = directory.path().join("none/none.toml");
        let found = find(None, Some(&nowhere), &BTreeMap::new()).unwrap();
        assert_eq!(found.0, Place::Socket(DEFAULT_SOCKET.into()));
    }
}
