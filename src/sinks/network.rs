//! What targets over TCP have in common: the authorities of certificates, and what a failed
//! connection means.

use std::error::Error as StdError;
use std::io;
use std::sync::Arc;

use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{CertificateError, ClientConfig};
use rustls_pki_types::CertificateDer;
use rustls_platform_verifier::Verifier;

use super::error::{SinkError, SinkErrorKind};

/// Checks certificates against the authorities of the system and others.
pub(super) fn verifier(
    authorities: &[CertificateDer<'static>],
    provider: Arc<CryptoProvider>,
) -> Result<Verifier, SinkError> {
    Verifier::new_with_extra_roots(authorities.iter().cloned(), provider).map_err(without_tls)
}

/// TLS with a certificate of a known authority, for the name of the host.
pub(super) fn tls_config(
    authorities: &[CertificateDer<'static>],
) -> Result<ClientConfig, SinkError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = Arc::new(verifier(authorities, provider.clone())?);
    tls_with(verifier, provider)
}

/// TLS with a certificate that a verifier accepts.
pub(super) fn tls_with(
    verifier: Arc<dyn ServerCertVerifier>,
    provider: Arc<CryptoProvider>,
) -> Result<ClientConfig, SinkError> {
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().map_err(without_tls)?;
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

fn without_tls(_: rustls::Error) -> SinkError {
    let message = "this machine has no certificates of authorities that can be used for TLS";
    SinkError::new(SinkErrorKind::Misconfigured, message)
}

/// What an error and its sources say of a connection to a peer, such as "the database".
pub(super) fn connection_problem(error: &(dyn StdError + 'static), peer: &str) -> Option<String> {
    if let Some(tls) = error.downcast_ref::<rustls::Error>() {
        return Some(match tls {
            rustls::Error::InvalidCertificate(fault) => {
                format!("the certificate of {peer} {}", certificate_problem(fault))
            }
            _ => format!("TLS with {peer} failed"),
        });
    }
    let Some(found) = error.downcast_ref::<io::Error>() else {
        return connection_problem(error.source()?, peer);
    };
    // An error that wraps another is not the source of it.
    if let Some(inner) = found.get_ref()
        && let Some(problem) = connection_problem(inner, peer)
    {
        return Some(problem);
    }
    Some(match found.kind() {
        io::ErrorKind::ConnectionRefused => format!("{peer} refused the connection"),
        io::ErrorKind::TimedOut => format!("{peer} did not answer in time"),
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            format!("there is no route to {peer}")
        }
        io::ErrorKind::NotFound => format!("the socket of {peer} does not exist"),
        io::ErrorKind::PermissionDenied => format!("the socket of {peer} is not accessible"),
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::UnexpectedEof => format!("the connection to {peer} ended"),
        _ => format!("the host of {peer} has no address, or no connection to it is possible"),
    })
}

/// Continues "the certificate of".
fn certificate_problem(fault: &CertificateError) -> &'static str {
    match fault {
        CertificateError::UnknownIssuer => {
            "is from an unknown authority; name that authority's certificate in ca_file"
        }
        CertificateError::BadSignature => {
            "is signed with another key than that of the trusted authority of the same name"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "is for another name than the host of its URL"
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "has expired, or this machine's clock is wrong"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "is not valid yet, or this machine's clock is wrong"
        }
        _ => "was not accepted",
    }
}
