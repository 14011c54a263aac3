//! The addresses of NATS servers. Only hosts and ports are ever shown.

use std::fmt;

use async_nats::ServerAddr;
use reqwest::Url;

use crate::loopback::is_loopback;
use crate::percent;

/// Servers of one cluster, and who logs in.
pub(super) struct NatsServers {
    pub(super) addresses: Vec<ServerAddr>,
    pub(super) login: NatsLogin,
}

/// Who logs in, as far as the addresses say it.
#[derive(PartialEq, Eq)]
pub(super) enum NatsLogin {
    Anonymous,
    Token(String),
    User { name: String, password: String },
}

/// What is wrong with addresses; continues where they are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NatsUrlProblem {
    #[error(
        "is not an address such as tls://nats.example.com:4222, or several with commas between"
    )]
    Malformed,
    #[error("has an address that begins with neither tls:// nor nats://")]
    Scheme,
    #[error("has addresses with different users or tokens; write them in the first one only")]
    Logins,
}

impl NatsServers {
    /// Reads one address or several, with commas between them. With `tls://` the server has to have
    /// TLS; with `nats://` TLS is used if the server asks for it.
    pub(super) fn parse(text: &str) -> Result<Self, NatsUrlProblem> {
        let mut servers = Self { addresses: Vec::new(), login: NatsLogin::Anonymous };
        for one in text.split(',').map(str::trim) {
            if one.contains(|c: char| c.is_whitespace() || c.is_control()) {
                return Err(NatsUrlProblem::Malformed);
            }
            let scheme = one.split_once("://").map(|(scheme, _)| scheme);
            if scheme.is_some_and(|scheme| !matches!(scheme, "nats" | "tls")) {
                return Err(NatsUrlProblem::Scheme);
            }
            let address: ServerAddr = one.parse().map_err(|_| NatsUrlProblem::Malformed)?;
            let url = address.clone().into_inner();
            if scheme.is_none() || url.host_str().is_none_or(str::is_empty) {
                return Err(NatsUrlProblem::Malformed);
            }
            let login = login(&url).ok_or(NatsUrlProblem::Malformed)?;
            match login {
                login if login == servers.login => {}
                NatsLogin::Anonymous => {}
                login if servers.addresses.is_empty() => servers.login = login,
                _ => return Err(NatsUrlProblem::Logins),
            }
            servers.addresses.push(address);
        }
        Ok(servers)
    }

    /// Whether events may be readable by others on the way: no TLS is asked for, and a server is on
    /// another machine.
    pub(super) fn is_plain(&self) -> bool {
        let is_plain =
            |address: &ServerAddr| address.scheme() != "tls" && !is_loopback(address.host());
        self.addresses.iter().any(is_plain)
    }
}

/// Who logs in, as an address says it; `None` if it does not make sense.
fn login(url: &Url) -> Option<NatsLogin> {
    let name = percent::decode(url.username())?;
    Some(match (name.is_empty(), url.password()) {
        (true, None) => NatsLogin::Anonymous,
        (true, Some(_)) => return None,
        (false, None) => NatsLogin::Token(name),
        (false, Some(password)) => NatsLogin::User { name, password: percent::decode(password)? },
    })
}

impl fmt::Display for NatsServers {
    /// Hosts and ports.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, address) in self.addresses.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            write!(f, "{comma}{}:{}", address.host(), address.port())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hosts_and_ports_are_shown() {
        let servers = NatsServers::parse("tls://canary:se%40cret@n1:4333, tls://n2").unwrap();
        assert_eq!(servers.to_string(), "n1:4333, n2:4222");
        assert!(!servers.is_plain());
        let NatsLogin::User { name, password } = servers.login else { panic!() };
        assert_eq!((&*name, &*password), ("canary", "se@cret"));
        let token = NatsServers::parse("nats://canary@n1").unwrap();
        assert!(matches!(&token.login, NatsLogin::Token(token) if token == "canary"));
        assert!(token.is_plain());
        let same = NatsServers::parse("tls://a:b@n1,tls://a:b@n2,tls://n3").unwrap();
        assert!(same.addresses.len() == 3 && matches!(same.login, NatsLogin::User { .. }));
        let here = NatsServers::parse("nats://127.0.0.1:4222,nats://localhost").unwrap();
        assert!(!here.is_plain() && matches!(here.login, NatsLogin::Anonymous));
    }

    #[test]
    fn addresses_that_cannot_be_used_are_explained_without_being_shown() {
        use NatsUrlProblem::{Logins, Malformed, Scheme};
        for (text, problem) in [
            ("", Malformed),
            ("canary", Malformed),
            ("nats://", Malformed),
            ("nats://canary:99999", Malformed),
            ("nats://can ary", Malformed),
            ("nats://n1,", Malformed),
            ("ws://canary", Scheme),
            ("https://canary", Scheme),
            ("nats://n1,nats://canary@n2", Logins),
            ("nats://a:canary@n1,nats://b:canary@n2", Logins),
            ("nats://:canary@n1", Malformed),
        ] {
            let found = NatsServers::parse(text).err();
            assert_eq!(found, Some(problem), "{text:?}");
            assert!(!problem.to_string().contains("canary"));
        }
    }
}
