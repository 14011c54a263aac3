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
use crate::loopback::is_loopback;

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
    is_loopback(host)
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
mod tests;
