//! Explains why no connection could be made: one cause, one message, one remedy.
//!
//! The cause is determined by the types in the error's chain, never by their texts. A message names
//! the host to check (the requested one, or the proxy) and never a link.

use std::error::Error;
use std::fmt;
use std::io;

use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::proxy::matcher::Matcher;
use rustls::CertificateError;

use super::CONNECT_TIMEOUT;

/// The error of a `CONNECT` through a proxy. Its module is private; its type is not.
type TunnelError = <Tunnel<HttpConnector> as tower::Service<Uri>>::Error;

/// Why a connection could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    BadCertificate(&'static str),
    /// The TLS handshake failed.
    Handshake,
    /// The proxy requires a user and a password, or different ones (407).
    ProxyWantsPassword,
    /// The proxy did not connect us to the host.
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
    /// The proxy's host and port, if a proxy is used.
    proxy: Option<Box<str>>,
    /// Whether the proxy itself was not reached.
    at_proxy: bool,
}

impl UnreachableHost {
    /// Determines the cause from the chain of a connector's error for a request to `uri`.
    pub(super) fn read(
        error: &(dyn Error + 'static),
        timed_out: bool,
        uri: &Uri,
        proxies: Option<&Matcher>,
    ) -> Self {
        let proxy = proxies.and_then(|proxies| proxies.intercept(uri));
        let mut found = Self {
            cause: if timed_out { ConnectFailure::TimedOut } else { ConnectFailure::Other },
            host: host_and_port(uri),
            proxy: proxy.map(|proxy| host_and_port(proxy.uri())),
            at_proxy: false,
        };
        let mut cause = Some(error);
        while let Some(error) = cause {
            if let Some(tunnel) = error.downcast_ref::<TunnelError>() {
                found.at_proxy = matches!(tunnel, TunnelError::ConnectFailed(_));
                found.cause = match tunnel {
                    TunnelError::ProxyAuthRequired => ConnectFailure::ProxyWantsPassword,
                    TunnelError::ConnectFailed(_) | TunnelError::Io(_) => found.cause,
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
                ConnectFailure::BadCertificate(certificate_problem(fault))
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
fn certificate_problem(fault: &CertificateError) -> &'static str {
    match fault {
        CertificateError::UnknownIssuer => {
            "is from an unknown authority; if TLS is inspected on the way, add that authority to the \
             system's certificates or name its file in SSL_CERT_FILE"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "is for another name; check the address, DNS and the proxy"
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "has expired; check this machine's clock, then the server or the proxy that inspects TLS"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "is not valid yet; check this machine's clock"
        }
        _ => "was not accepted; check which server answers there",
    }
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
        let host = &*self.host;
        let seconds = CONNECT_TIMEOUT.as_secs();
        if let Some(proxy) = self.proxy.as_deref().filter(|_| self.at_proxy) {
            return self.write_proxy_unreachable(f, proxy);
        }
        match (self.cause, self.proxy.as_deref()) {
            (ConnectFailure::ProxyWantsPassword, proxy) => write!(
                f,
                "the proxy {} wants a user name and password, or different ones (407); \
                 put them into the address in HTTPS_PROXY",
                proxy.unwrap_or("of the environment")
            ),
            (ConnectFailure::ProxyRefused, proxy) => write!(
                f,
                "the proxy {} did not connect to {host}; allow that host there",
                proxy.unwrap_or("of the environment")
            ),
            (ConnectFailure::TimedOut, Some(proxy)) => write!(
                f,
                "no connection to {host} through the proxy {proxy} within {seconds} s; \
                 check HTTPS_PROXY, and that the proxy allows that host"
            ),
            (ConnectFailure::TimedOut, None) => write!(
                f,
                "no connection to {host} within {seconds} s; check the firewall, and whether \
                 HTTPS_PROXY has to name a proxy"
            ),
            (ConnectFailure::BrokeOff, Some(proxy)) => write!(
                f,
                "the connection to {host} through the proxy {proxy} ended while it was set up; \
                 check that the proxy allows that host"
            ),
            (ConnectFailure::BrokeOff, None) => write!(
                f,
                "the connection to {host} ended while it was set up; check the firewall, and \
                 whether HTTPS_PROXY has to name a proxy"
            ),
            (ConnectFailure::Refused, _) => {
                write!(f, "{host} refused the connection; check the address and the firewall")
            }
            (ConnectFailure::NoRoute, _) => {
                write!(f, "there is no route to {host}; check the network and the firewall")
            }
            (ConnectFailure::UnknownName, _) => write!(
                f,
                "the name {host} could not be resolved; check DNS, and whether HTTPS_PROXY has to \
                 name a proxy"
            ),
            (ConnectFailure::BadCertificate(problem), _) => {
                write!(f, "the certificate of {host} {problem}")
            }
            (ConnectFailure::Handshake, _) => write!(
                f,
                "TLS with {host} failed; check the address, and which server answers there"
            ),
            (ConnectFailure::Other, _) => write!(f, "no connection to {host} could be made"),
        }
    }
}

impl UnreachableHost {
    /// Writes why the proxy itself was not reached.
    fn write_proxy_unreachable(&self, f: &mut fmt::Formatter<'_>, proxy: &str) -> fmt::Result {
        let seconds = CONNECT_TIMEOUT.as_secs();
        let check = "check HTTPS_PROXY";
        match self.cause {
            ConnectFailure::Refused => {
                write!(f, "the proxy {proxy} refused the connection; {check}")
            }
            ConnectFailure::NoRoute => {
                write!(f, "there is no route to the proxy {proxy}; {check}")
            }
            ConnectFailure::UnknownName => {
                write!(f, "the name of the proxy {proxy} could not be resolved; {check}")
            }
            ConnectFailure::TimedOut => {
                write!(f, "the proxy {proxy} accepted no connection within {seconds} s; {check}")
            }
            _ => write!(f, "no connection to the proxy {proxy} could be made; {check}"),
        }
    }
}
