//! Connections to PostgreSQL: the URL, and TLS as its `sslmode` asks for.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use rustls_platform_verifier::Verifier;
use tokio::task::JoinSet;
use tokio::time::{Duration, timeout};
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::{Client, Config};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::loopback::is_loopback;
use crate::sinks::error::{SinkError, SinkErrorKind};
use crate::sinks::network::{tls_with, verifier};

/// The longest wait for a connection, with TLS and the password.
const CONNECT_LIMIT: Duration = Duration::from_secs(20);
/// A connection whose packets are not answered for this long is lost.
const LOST_AFTER: Duration = Duration::from_secs(60);

/// The values of `sslmode`, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TlsMode {
    /// Never TLS.
    Disable,
    /// TLS if the server has it, with any certificate.
    Prefer,
    /// TLS; with authorities in the configuration like [`Self::VerifyCa`], as libpq does.
    Require,
    /// The certificate is from a known authority.
    VerifyCa,
    /// It is also for the host of the URL.
    VerifyFull,
}

/// Connects; the tasks end the connection when they are dropped.
pub(super) async fn connect(
    url: &str,
    authorities: &[CertificateDer<'static>],
) -> Result<(Client, JoinSet<()>), SinkError> {
    let (config, mode) = parse(url)?;
    let tls = MakeRustlsConnect::new(tls_config(mode, authorities)?);
    let connected = timeout(CONNECT_LIMIT, config.connect(tls)).await.map_err(|_| {
        SinkError::new(SinkErrorKind::Unreachable, "the database did not answer in time")
    })?;
    let (client, connection) = connected?;
    let mut tasks = JoinSet::new();
    // The client reports how it ends.
    tasks.spawn(async { connection.await.unwrap_or(()) });
    Ok((client, tasks))
}

/// The settings and the TLS of a URL. Without `sslmode`, only a server on this machine may have no
/// TLS or a certificate that nobody knows.
pub(super) fn parse(url: &str) -> Result<(Config, TlsMode), SinkError> {
    let wrong = |message: &str| SinkError::new(SinkErrorKind::Misconfigured, message);
    if !(url.starts_with("postgres://") || url.starts_with("postgresql://")) {
        return Err(wrong("the URL of the database has to begin with postgres://"));
    }
    // The library knows fewer modes.
    let (address, query) = url.split_once('?').unwrap_or((url, ""));
    let (modes, others): (Vec<&str>, Vec<&str>) = query
        .split('&')
        .filter(|parameter| !parameter.is_empty())
        .partition(|parameter| parameter.starts_with("sslmode="));
    let mut config: Config = format!("{address}?{}", others.join("&")).parse().map_err(|_| {
        wrong("the URL of the database is not valid, or has a parameter that calmirror lacks")
    })?;
    let hosts = config.get_hosts();
    if hosts.is_empty() || config.get_user().is_none() {
        return Err(wrong("the URL of the database needs a user and a host"));
    }
    let is_socket = |host: &Host| matches!(host, Host::Unix(_));
    let is_here = |host: &Host| match host {
        Host::Tcp(name) => is_loopback(name),
        Host::Unix(_) => true,
    };
    let mode = match modes[..] {
        [] if hosts.iter().all(is_here) && config.get_hostaddrs().is_empty() => TlsMode::Prefer,
        [] | ["sslmode=verify-full"] => TlsMode::VerifyFull,
        ["sslmode=disable"] => TlsMode::Disable,
        ["sslmode=prefer"] => TlsMode::Prefer,
        ["sslmode=require"] => TlsMode::Require,
        ["sslmode=verify-ca"] => TlsMode::VerifyCa,
        _ => {
            return Err(wrong(
                "sslmode in the URL of the database has to be disable, prefer, require, verify-ca \
                 or verify-full",
            ));
        }
    };
    // Sockets never have TLS, and need none.
    config.ssl_mode(match mode {
        _ if hosts.iter().all(is_socket) => SslMode::Disable,
        TlsMode::Disable => SslMode::Disable,
        TlsMode::Prefer => SslMode::Prefer,
        TlsMode::Require | TlsMode::VerifyCa | TlsMode::VerifyFull => SslMode::Require,
    });
    if config.get_application_name().is_none() {
        config.application_name("calmirror");
    }
    config.connect_timeout(CONNECT_LIMIT / 2).tcp_user_timeout(LOST_AFTER);
    config.keepalives_idle(LOST_AFTER / 2).keepalives_interval(LOST_AFTER / 6);
    Ok((config, mode))
}

fn tls_config(
    mode: TlsMode,
    authorities: &[CertificateDer<'static>],
) -> Result<ClientConfig, SinkError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let known = match mode {
        TlsMode::Disable | TlsMode::Prefer => None,
        TlsMode::Require if authorities.is_empty() => None,
        TlsMode::Require | TlsMode::VerifyCa | TlsMode::VerifyFull => {
            Some(verifier(authorities, provider.clone())?)
        }
    };
    let checks_name = mode == TlsMode::VerifyFull;
    let verifier = SslModeVerifier { known, checks_name, provider: provider.clone() };
    tls_with(Arc::new(verifier), provider)
}

/// Checks of a certificate what the mode asks for. Every mode checks that the server has the key.
#[derive(Debug)]
struct SslModeVerifier {
    /// `None`: every authority will do.
    known: Option<Verifier>,
    checks_name: bool,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for SslModeVerifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(known) = &self.known else { return Ok(ServerCertVerified::assertion()) };
        match known.verify_server_cert(certificate, intermediates, name, ocsp, now) {
            // The name is checked last: everything else is in order.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.checks_name => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
