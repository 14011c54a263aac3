//! Signs the assertion that proves possession of a certificate's key (fact 138).
//!
//! A JWT with PS256 and `x5t#S256`, for the token endpoint alone, valid for ten minutes and created
//! for each token request.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use jsonwebtoken::Header;
use secrecy::SecretString;
use serde::Serialize;
use uuid::Uuid;

use crate::certificate::{ALGORITHM, CertificateError, ClientCertificate};

/// Microsoft asks for five to ten minutes.
const VALID_SECONDS: i64 = 600;

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

/// Signs an assertion for the token endpoint `audience`. Whether the certificate is valid at `now`
/// is the endpoint's to judge, because this machine's clock may be wrong.
pub(super) fn sign(
    certificate: &ClientCertificate,
    audience: &str,
    client_id: &str,
    now: Timestamp,
    id: Uuid,
) -> Result<SecretString, CertificateError> {
    let mut header = Header::new(ALGORITHM);
    header.x5t_s256 = Some(URL_SAFE_NO_PAD.encode(certificate.thumbprint));
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
    jsonwebtoken::encode(&header, &claims, &certificate.key())
        .map(SecretString::from)
        .map_err(|_| CertificateError::UnfitKey)
}
