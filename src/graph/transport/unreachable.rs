//! Why no connection could be made: one cause, one message, one remedy.
//!
//! The cause is read from the types in the error's chain, never from their texts. A message names
//! the host that has to be looked at – the one asked for, or the proxy – and never a link.

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

/// What kept a connection from being made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectFailure {
    /// Nothing listens at the port, or a firewall refuses.
    Refused,
    /// There is no route to the address.
    NoRoute,
    /// The name has no address.
    UnknownName,
    /// No connection within `CONNECT_TIMEOUT`.
    TimedOut,
    /// The connection ended while it was being set up.
    BrokeOff,
    /// The certificate leads to no authority that is trusted.
    UnknownAuthority,
    /// The certificate is for another name.
    WrongName,
    /// The certificate has expired, by this machine's clock.
    Expired,
    /// The certificate is not valid yet, by this machine's clock.
    NotYetValid,
    /// The certificate is not accepted for another reason.
    BadCertificate,
    /// TLS could not be agreed on.
    Handshake,
    /// The proxy wants a user and a password, or others (407).
    ProxyWantsPassword,
    /// The proxy did not connect us to the host.
    ProxyRefused,
    /// Anything else.
    Other,
}

/// A host that was not reached, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreachableHost {
    obstacle: ConnectFailure,
    /// The host and port that were asked for.
    host: Box<str>,
    /// The proxy's host and port, where the way leads through one.
    proxy: Option<Box<str>>,
    /// Whether it is the proxy that was not reached.
    at_proxy: bool,
}

impl UnreachableHost {
    /// Reads the chain of an error that a connector made on the way to `uri`.
    pub(super) fn read(
        error: &(dyn Error + 'static),
        timed_out: bool,
        uri: &Uri,
        proxies: Option<&Matcher>,
    ) -> Self {
        let proxy = proxies.and_then(|proxies| proxies.intercept(uri));
        let mut found = Self {
            obstacle: if timed_out { ConnectFailure::TimedOut } else { ConnectFailure::Other },
            host: place(uri),
            proxy: proxy.map(|proxy| place(proxy.uri())),
            at_proxy: false,
        };
        let mut cause = Some(error);
        while let Some(error) = cause {
            if let Some(tunnel) = error.downcast_ref::<TunnelError>() {
                found.at_proxy = matches!(tunnel, TunnelError::ConnectFailed(_));
                found.obstacle = match tunnel {
                    TunnelError::ProxyAuthRequired => ConnectFailure::ProxyWantsPassword,
                    TunnelError::ConnectFailed(_) | TunnelError::Io(_) => found.obstacle,
                    _ => ConnectFailure::ProxyRefused,
                };
            }
            if let Some(obstacle) = obstacle(error) {
                found.obstacle = obstacle;
            }
            cause = inner(error);
        }
        found
    }

    /// Why.
    pub fn obstacle(&self) -> ConnectFailure {
        self.obstacle
    }

    /// Names the lack of an address where a resolver failed, which only reqwest can tell.
    pub(super) fn without_name(mut self) -> Self {
        self.obstacle = ConnectFailure::UnknownName;
        self
    }
}

/// The next error of a chain. An I/O error hides the error that it carries from `source`.
fn inner<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(carried) => Some(carried),
        None => error.source(),
    }
}

/// What one error of a chain says by its own type.
fn obstacle(error: &(dyn Error + 'static)) -> Option<ConnectFailure> {
    if let Some(tls) = error.downcast_ref::<rustls::Error>() {
        return Some(match tls {
            rustls::Error::InvalidCertificate(certificate) => match certificate {
                CertificateError::UnknownIssuer => ConnectFailure::UnknownAuthority,
                CertificateError::NotValidForName
                | CertificateError::NotValidForNameContext { .. } => ConnectFailure::WrongName,
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                    ConnectFailure::Expired
                }
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                    ConnectFailure::NotYetValid
                }
                _ => ConnectFailure::BadCertificate,
            },
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

/// Host and port; the port only where it is not that of HTTPS.
fn place(uri: &Uri) -> Box<str> {
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
            let check = "check HTTPS_PROXY";
            return match self.obstacle {
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
                    write!(
                        f,
                        "the proxy {proxy} accepted no connection within {seconds} s; {check}"
                    )
                }
                _ => write!(f, "no connection to the proxy {proxy} could be made; {check}"),
            };
        }
        match (self.obstacle, self.proxy.as_deref()) {
            (ConnectFailure::ProxyWantsPassword, proxy) => write!(
                f,
                "the proxy {} wants a user name and password, or other ones (407); \
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
                "the connection to {host} through the proxy {proxy} ended while it was made; \
                 check that the proxy allows that host"
            ),
            (ConnectFailure::BrokeOff, None) => write!(
                f,
                "the connection to {host} ended while it was made; check the firewall, and \
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
            (ConnectFailure::UnknownAuthority, _) => write!(
                f,
                "the certificate of {host} is from an unknown authority; if TLS is inspected on \
                 the way, add that authority to the system's certificates or name its file in \
                 SSL_CERT_FILE"
            ),
            (ConnectFailure::WrongName, _) => write!(
                f,
                "the certificate of {host} is for another name; check the address, DNS and the \
                 proxy"
            ),
            (ConnectFailure::Expired, _) => write!(
                f,
                "the certificate of {host} has expired; check this machine's clock, then the \
                 server or the proxy that inspects TLS"
            ),
            (ConnectFailure::NotYetValid, _) => {
                write!(f, "the certificate of {host} is not valid yet; check this machine's clock")
            }
            (ConnectFailure::BadCertificate, _) => {
                write!(f, "the certificate of {host} was not accepted; check what answers there")
            }
            (ConnectFailure::Handshake, _) => {
                write!(f, "TLS with {host} failed; check the address, and what answers there")
            }
            (ConnectFailure::Other, _) => write!(f, "no connection to {host} could be made"),
        }
    }
}
