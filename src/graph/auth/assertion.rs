//! Signs the assertion that proves possession of a certificate's key (fact 138).
//!
//! A JWT with PS256 and `x5t#S256`, for the token endpoint alone, valid for ten minutes and created
//! for each token request. Only RSA keys can sign one.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jiff::Timestamp;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::Serialize;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::secret::Secret;

/// Microsoft asks for five to ten minutes.
const VALID_SECONDS: i64 = 600;

/// Why no assertion could be created. Shows nothing of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum AssertionError {
    #[error("it holds no certificate")]
    NoCertificate,
    #[error("it holds no private key")]
    NoKey,
    #[error("the private key is not an rsa key that can sign")]
    UnfitKey,
}

#[derive(Serialize)]
struct Claims<'a> {
    aud: &'a str,
    iss: &'a str,
    sub: &'a str,
    jti: String,
    nbf: i64,
    iat: i64,
    exp: i64,
}

/// Signs an assertion with the key and the first certificate of a PEM file.
pub(super) fn sign(
    pem: &[u8],
    audience: &str,
    client_id: &str,
    now: Timestamp,
    id: Uuid,
) -> Result<Secret, AssertionError> {
    let certificate =
        CertificateDer::from_pem_slice(pem).map_err(|_| AssertionError::NoCertificate)?;
    let key = PrivateKeyDer::from_pem_slice(pem).map_err(|_| AssertionError::NoKey)?;
    let mut header = Header::new(Algorithm::PS256);
    header.x5t_s256 = Some(URL_SAFE_NO_PAD.encode(Sha256::digest(&certificate)));
    let now = now.as_second();
    let claims = Claims {
        aud: audience,
        iss: client_id,
        sub: client_id,
        jti: id.to_string(),
        nbf: now,
        iat: now,
        exp: now + VALID_SECONDS,
    };
    jsonwebtoken::encode(&header, &claims, &encoding_key(&key)?)
        .map(Secret::new)
        .map_err(|_| AssertionError::UnfitKey)
}

/// The key alone as PEM, because the library reads only the first section of a file.
fn encoding_key(key: &PrivateKeyDer<'_>) -> Result<EncodingKey, AssertionError> {
    let label = match key {
        PrivateKeyDer::Pkcs1(_) => "RSA PRIVATE KEY",
        PrivateKeyDer::Pkcs8(_) => "PRIVATE KEY",
        _ => return Err(AssertionError::UnfitKey),
    };
    let body = STANDARD.encode(key.secret_der());
    let mut pem = format!("-----BEGIN {label}-----\n");
    for line in body.as_bytes().chunks(64) {
        pem.extend(line.iter().map(|b| char::from(*b)));
        pem.push('\n');
    }
    pem.push_str(&format!("-----END {label}-----\n"));
    EncodingKey::from_rsa_pem(pem.as_bytes()).map_err(|_| AssertionError::UnfitKey)
}
