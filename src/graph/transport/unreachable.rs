//! Explains why no connection could be made: one cause, one message, one remedy.
//!
//! The cause is determined by the types in the error's chain, never by their texts. A message names
//! the host to check (the requested one, or the proxy) and the key that configures it, and never a
//! link, a user or a password.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::proxy::matcher::Intercept;
use jiff::Timestamp;
use rustls::CertificateError;
use rustls_pki_types::UnixTime;

use super::CONNECT_TIMEOUT;

/// The error of a `CONNECT` through a proxy. Its module is private; its type is not.
type TunnelError = <Tunnel<HttpConnector> as tower::Service<Uri>>::Error;

/// What names the proxy of the environment, in messages.
const VARIABLE: &str = "HTTPS_PROXY";

/// How many characters of the names in a certificate are shown: they are text from the network.
const SHOWN_NAMES_MAX: usize = 100;

/// Why a connection could not be made.
#[derive(Clone, Debug, PartialEq, Eq)]
enum ConnectFailure {
    /// Nothing listens on the port, or a firewall rejects the connection.
    Refused,
    /// There is no route to the address.
    NoRoute,
    /// The name has no address.
    UnknownName,
    /// No connection within `CONNECT_TIMEOUT`.
    TimedOut,
    /// The connection ended while it was being set up.
    BrokeOff,
    /// The certificate is not accepted: what is wrong with it, and what to do.
    BadCertificate(Box<str>),
    /// The TLS handshake failed.
    Handshake,
    /// The proxy requires a user and a password, or different ones (407).
    ProxyWantsPassword,
    /// The proxy answered `CONNECT` with another status than 200.
    ProxyRefused,
    /// Anything else.
    Other,
}

/// A host that was not reached, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UnreachableHost {
    cause: ConnectFailure,
    /// The requested host and port.
    host: Box<str>,
    /// The proxy, if one is used.
    proxy: Option<UsedProxy>,
    /// Whether the proxy itself was not reached.
    at_proxy: bool,
    /// Whether an account sends the request; its keys can name a proxy.
    of_account: bool,
}

/// The proxy of a request, and where it is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UsedProxy {
    /// Its host and port.
    place: Box<str>,
    /// The key or the variable that names it.
    key: &'static str,
    credentials: ProxyCredentials,
}

/// Where the user and the password for a proxy come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ProxyCredentials {
    /// There are none.
    Absent,
    /// From the address in the environment.
    InAddress,
    /// From a file, and why they cannot be read from there now.
    File { path: PathBuf, problem: Option<String> },
}

impl UsedProxy {
    /// The proxy at that address. `of_account`: the account names it, not the environment.
    pub(super) fn new(address: &Uri, of_account: bool, credentials: ProxyCredentials) -> Self {
        let key = if of_account { "proxy of the account" } else { VARIABLE };
        Self { place: host_and_port(address), key, credentials }
    }

    /// The proxy of the environment, for a request that no account sends.
    pub(crate) fn of_environment(used: &Intercept) -> Self {
        let credentials = match used.basic_auth() {
            Some(_) => ProxyCredentials::InAddress,
            None => ProxyCredentials::Absent,
        };
        Self::new(used.uri(), false, credentials)
    }
}

impl UnreachableHost {
    /// Determines the cause from the chain of a connector's error for a request to `uri`, which uses
    /// `proxy`.
    pub(super) fn read(
        error: &(dyn Error + 'static),
        timed_out: bool,
        uri: &Uri,
        proxy: Option<UsedProxy>,
    ) -> Self {
        let mut found = Self {
            cause: if timed_out { ConnectFailure::TimedOut } else { ConnectFailure::Other },
            host: host_and_port(uri),
            proxy,
            at_proxy: false,
            of_account: true,
        };
        let mut cause = Some(error);
        while let Some(error) = cause {
            if let Some(tunnel) = error.downcast_ref::<TunnelError>() {
                found.at_proxy = matches!(tunnel, TunnelError::ConnectFailed(_));
                found.cause = match tunnel {
                    TunnelError::ProxyAuthRequired => ConnectFailure::ProxyWantsPassword,
                    TunnelError::ConnectFailed(_) | TunnelError::Io(_) => found.cause,
                    TunnelError::TunnelUnexpectedEof => ConnectFailure::BrokeOff,
                    _ => ConnectFailure::ProxyRefused,
                };
            }
            if let Some(obstacle) = obstacle(error) {
                found.cause = obstacle;
            }
            cause = inner(error);
        }
        found
    }

    /// Sets the cause to a name without an address, which only reqwest can tell.
    pub(super) fn without_name(mut self) -> Self {
        self.cause = ConnectFailure::UnknownName;
        self
    }

    /// No account sends the request.
    pub(super) fn without_account(mut self) -> Self {
        self.of_account = false;
        self
    }
}

/// The next error of a chain. The `source` of an I/O error skips the error that it carries.
fn inner<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(carried) => Some(carried),
        None => error.source(),
    }
}

/// The cause that one error of a chain indicates by its type.
fn obstacle(error: &(dyn Error + 'static)) -> Option<ConnectFailure> {
    if let Some(tls) = error.downcast_ref::<rustls::Error>() {
        return Some(match tls {
            rustls::Error::InvalidCertificate(fault) => {
                ConnectFailure::BadCertificate(certificate_problem(fault).into())
            }
            _ => ConnectFailure::Handshake,
        });
    }
    let kind = error.downcast_ref::<io::Error>()?.kind();
    Some(match kind {
        io::ErrorKind::ConnectionRefused => ConnectFailure::Refused,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            ConnectFailure::NoRoute
        }
        io::ErrorKind::TimedOut => ConnectFailure::TimedOut,
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::UnexpectedEof => ConnectFailure::BrokeOff,
        _ => return None,
    })
}

/// What is wrong with a certificate, and what to do; continues "the certificate of HOST".
fn certificate_problem(fault: &CertificateError) -> String {
    match fault {
        CertificateError::UnknownIssuer => {
            "is from an unknown authority; if TLS is inspected on the way, name that authority's \
             certificate in graph.ca_file"
                .into()
        }
        // An authority of that name is known, but with another key.
        CertificateError::BadSignature => {
            "is signed with another key than that of the trusted authority of the same name; if TLS \
             is inspected on the way, name that authority's new certificate in graph.ca_file"
                .into()
        }
        CertificateError::NotValidForName => other_name(&[]),
        CertificateError::NotValidForNameContext { presented, .. } => other_name(presented),
        CertificateError::Expired => {
            "has expired; check this machine's clock, then the server or the proxy that inspects TLS"
                .into()
        }
        CertificateError::ExpiredContext { time, not_after } => format!(
            "expired at {}, and this machine's clock reads {}, {} later; set the clock if it is \
             wrong (NTP), otherwise the server or the proxy that inspects TLS needs a new certificate",
            shown_time(*not_after),
            shown_time(*time),
            shown_distance(*not_after, *time)
        ),
        CertificateError::NotValidYet => "is not valid yet; set this machine's clock (NTP)".into(),
        CertificateError::NotValidYetContext { time, not_before } => format!(
            "is not valid yet: it begins at {}, and this machine's clock reads {}; the clock is \
             probably slow by more than {}, set it (NTP)",
            shown_time(*not_before),
            shown_time(*time),
            shown_distance(*time, *not_before)
        ),
        _ => "was not accepted; check which server answers there".into(),
    }
}

/// `presented` are the certificate's names, as `DnsName("example.org")`.
fn other_name(presented: &[String]) -> String {
    let plain =
        |name: &&str| name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._*:".contains(&b));
    let names = presented.iter().filter_map(|name| name.split('"').nth(1)).filter(plain);
    let mut names = names.collect::<Vec<_>>().join(", ");
    names.truncate(SHOWN_NAMES_MAX);
    if !names.is_empty() {
        names = format!(" ({names})");
    }
    format!("is for another name{names}; check the address, DNS and the proxy")
}

fn shown_time(at: UnixTime) -> String {
    let seconds = i64::try_from(at.as_secs()).unwrap_or(i64::MAX);
    Timestamp::from_second(seconds).map_or_else(|_| "an unknown time".into(), |at| at.to_string())
}

/// The time between, without the smallest units of a long one.
fn shown_distance(from: UnixTime, to: UnixTime) -> String {
    let seconds = to.as_secs().saturating_sub(from.as_secs());
    let unit = match seconds {
        0..3600 => 1,
        3600..86_400 => 60,
        86_400.. => 3600,
    };
    humantime::format_duration(Duration::from_secs(seconds - seconds % unit)).to_string()
}

/// Host and port; the port is omitted if it is that of HTTPS.
fn host_and_port(uri: &Uri) -> Box<str> {
    let host = uri.host().unwrap_or("the host");
    match uri.port_u16().filter(|port| *port != 443) {
        Some(port) => format!("{host}:{port}").into(),
        None => host.into(),
    }
}

impl fmt::Display for UnreachableHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.proxy {
            Some(proxy) if self.at_proxy => self.write_proxy_unreachable(f, proxy),
            Some(proxy) => self.write_behind_proxy(f, proxy),
            None => self.write_cause(f),
        }
    }
}

impl UnreachableHost {
    /// Writes why the host was not reached without a proxy, or what a proxy has no part in.
    fn write_cause(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = &*self.host;
        let seconds = CONNECT_TIMEOUT.as_secs();
        let need = match self.of_account {
            true => "whether a proxy has to be named (proxy of the account, or HTTPS_PROXY)",
            false => "whether a proxy has to be named (HTTPS_PROXY)",
        };
        match &self.cause {
            ConnectFailure::Refused => {
                write!(f, "{host} refused the connection; check the address and the firewall")
            }
            ConnectFailure::NoRoute => {
                write!(f, "there is no route to {host}; check the network and the firewall")
            }
            ConnectFailure::UnknownName => {
                write!(f, "the name {host} could not be resolved; check DNS, and {need}")
            }
            ConnectFailure::TimedOut => {
                write!(
                    f,
                    "no connection to {host} within {seconds} s; check the firewall, and {need}"
                )
            }
            ConnectFailure::BrokeOff => write!(
                f,
                "the connection to {host} ended while it was set up; check the firewall, and {need}"
            ),
            ConnectFailure::BadCertificate(problem) => {
                write!(f, "the certificate of {host} {problem}")
            }
            ConnectFailure::Handshake => write!(
                f,
                "TLS with {host} failed; check the address, and which server answers there"
            ),
            // A proxy's answers are explained where the proxy is known.
            ConnectFailure::ProxyWantsPassword
            | ConnectFailure::ProxyRefused
            | ConnectFailure::Other => write!(f, "no connection to {host} could be made"),
        }
    }

    /// Writes why a proxy that was reached did not lead to the host.
    fn write_behind_proxy(&self, f: &mut fmt::Formatter<'_>, proxy: &UsedProxy) -> fmt::Result {
        let host = &*self.host;
        let seconds = CONNECT_TIMEOUT.as_secs();
        let UsedProxy { place, key, credentials } = proxy;
        match &self.cause {
            ConnectFailure::ProxyWantsPassword => {
                credentials.write_refused(f, place, *key == VARIABLE, self.of_account)
            }
            ConnectFailure::ProxyRefused => write!(
                f,
                "the proxy {place} did not connect to {host}: it answered CONNECT with another \
                 status than 200; allow that host there, and check that {key} names a proxy"
            ),
            ConnectFailure::TimedOut => write!(
                f,
                "no connection to {host} through the proxy {place} within {seconds} s; \
                 check {key}, and that the proxy allows that host"
            ),
            ConnectFailure::BrokeOff => write!(
                f,
                "the connection to {host} through the proxy {place} ended while it was set up; \
                 check {key}, and that the proxy allows that host"
            ),
            ConnectFailure::Handshake => write!(
                f,
                "TLS with {host} through the proxy {place} failed; check which server answers there"
            ),
            _ => self.write_cause(f),
        }
    }

    /// Writes why the proxy itself was not reached.
    fn write_proxy_unreachable(
        &self,
        f: &mut fmt::Formatter<'_>,
        proxy: &UsedProxy,
    ) -> fmt::Result {
        let seconds = CONNECT_TIMEOUT.as_secs();
        let UsedProxy { place, key, .. } = proxy;
        match &self.cause {
            ConnectFailure::Refused => {
                write!(f, "the proxy {place} refused the connection; check {key}")
            }
            ConnectFailure::NoRoute => {
                write!(f, "there is no route to the proxy {place}; check {key}")
            }
            ConnectFailure::UnknownName => {
                write!(f, "the name of the proxy {place} could not be resolved; check {key}")
            }
            ConnectFailure::TimedOut => {
                write!(
                    f,
                    "the proxy {place} accepted no connection within {seconds} s; check {key}"
                )
            }
            ConnectFailure::BadCertificate(problem) => {
                write!(f, "the certificate of the proxy {place} {problem}")
            }
            ConnectFailure::Handshake => write!(
                f,
                "TLS with the proxy {place} failed; check {key}: an http proxy begins with http://"
            ),
            _ => write!(f, "no connection to the proxy {place} could be made; check {key}"),
        }
    }
}

impl ProxyCredentials {
    /// Writes that the proxy `place` refused them (407), and what to do.
    fn write_refused(
        &self,
        f: &mut fmt::Formatter<'_>,
        place: &str,
        of_environment: bool,
        of_account: bool,
    ) -> fmt::Result {
        let wants = format!("the proxy {place} wants a user and a password (407)");
        let write =
            "write user:password into a file that proxy_credentials_file of the account names";
        match self {
            Self::Absent if !of_account => {
                write!(f, "{wants}; put them into the address in HTTPS_PROXY")
            }
            Self::InAddress if !of_account => write!(
                f,
                "the proxy {place} does not accept the user and the password in HTTPS_PROXY (407); \
                 correct them"
            ),
            Self::Absent if of_environment => {
                write!(f, "{wants}; {write}, or put them into the address in HTTPS_PROXY")
            }
            Self::Absent => write!(f, "{wants}; {write}"),
            Self::InAddress => write!(
                f,
                "the proxy {place} does not accept the user and the password in HTTPS_PROXY (407); \
                 correct them, or {write}"
            ),
            Self::File { path, problem: None } => write!(
                f,
                "the proxy {place} does not accept the user and the password in \
                 proxy_credentials_file {} (407); correct them there",
                path.display()
            ),
            Self::File { path, problem: Some(problem) } => write!(
                f,
                "{wants}, but proxy_credentials_file {} cannot be used: {problem}; write \
                 user:password into it, readable by the daemon's user",
                path.display()
            ),
        }
    }
}
