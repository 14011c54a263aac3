//! Reads the certificate and the private key with which an application signs assertions (fact 138).
//!
//! The bytes of a PEM or PFX (PKCS #12, RFC 7292) file become a [`ClientCertificate`]. A key that does
//! not belong to its certificate is refused: it signs a message, and the certificate verifies it. The
//! clock is not read here: whoever needs a certificate that is valid now compares its times.

use jiff::Timestamp;
use jsonwebtoken::crypto::{sign, verify};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};
use p12_keystore::Pkcs12Archive;
use p12_keystore::error::Error as PfxError;
use pkcs8::der::{Decode as _, Encode as _};
use pkcs8::{EncryptedPrivateKeyInfoRef, PrivateKeyInfoRef};
use pkcs12::pfx::Pfx;
use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret as _, SecretSlice, SecretString};
use sha2::{Digest as _, Sha256};
use x509_parser::oid_registry::OID_PKCS1_RSAENCRYPTION;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// The algorithm of assertions.
pub(crate) const ALGORITHM: Algorithm = Algorithm::PS256;

/// The first byte of a PFX file: the tag of a sequence. A PEM file begins with text.
const SEQUENCE: u8 = 0x30;
/// The algorithm of an RSA key, rsaEncryption (RFC 8017), as in PKCS #8.
const RSA: pkcs8::ObjectIdentifier = pkcs8::ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
/// What a key signs to prove that it belongs to a certificate.
const PROBE: &[u8] = b"calmirror";

/// A certificate and its private key.
#[derive(Debug)]
pub(crate) struct ClientCertificate {
    /// The key as PKCS #1.
    key: SecretSlice<u8>,
    /// SHA-256 of the certificate as DER.
    pub(crate) thumbprint: [u8; 32],
    /// When the certificate becomes valid.
    pub(crate) valid_from: Timestamp,
    /// When the certificate expires.
    pub(crate) valid_until: Timestamp,
}

/// Why a file cannot be used to sign assertions. Shows nothing of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}; {remedy}", problem = self.problem(), remedy = self.remedy())]
pub(crate) enum CertificateError {
    /// There is no certificate.
    NoCertificate,
    /// There is no private key.
    NoKey,
    /// The key is of another kind, such as EC.
    NotRsa,
    /// The key cannot sign.
    UnfitKey,
    /// The key belongs to another certificate.
    Mismatch,
    /// A password is needed, and there is none.
    PasswordMissing,
    /// There is a password, but another one is needed.
    WrongPassword,
    /// The encryption or the form is not supported.
    Unsupported,
    /// The file is neither PEM nor PFX, or a part of it is damaged.
    Damaged,
}

/// What a file contains.
#[derive(Default)]
struct KeyFile {
    /// The first private key, as PKCS #1.
    key: Option<SecretSlice<u8>>,
    /// All certificates, as DER.
    certificates: Vec<Vec<u8>>,
}

impl ClientCertificate {
    /// Reads the content of a PEM or PFX file: its first private key, and the certificate of that
    /// key. Other certificates, such as those of the issuer, are ignored.
    ///
    /// # Errors
    /// If the content has no RSA key with its certificate, or the password does not open it.
    pub(crate) fn read(
        content: &[u8],
        password: Option<&SecretString>,
    ) -> Result<Self, CertificateError> {
        let KeyFile { key, certificates } = match content.first() {
            Some(&SEQUENCE) => KeyFile::from_pfx(content, password)?,
            _ => KeyFile::from_pem(content, password)?,
        };
        if certificates.is_empty() {
            return Err(CertificateError::NoCertificate);
        }
        let key = key.ok_or(CertificateError::NoKey)?;
        let signature =
            sign(PROBE, &encoding_key(&key), ALGORITHM).map_err(|_| CertificateError::UnfitKey)?;
        let mut found = CertificateError::NotRsa;
        for der in &certificates {
            let certificate =
                X509Certificate::from_der(der).map_err(|_| CertificateError::Damaged)?.1;
            let public = certificate.public_key();
            if public.algorithm.algorithm != OID_PKCS1_RSAENCRYPTION {
                continue;
            }
            found = CertificateError::Mismatch;
            let public = DecodingKey::from_rsa_der(&public.subject_public_key.data);
            if !verify(&signature, PROBE, &public, ALGORITHM).unwrap_or(false) {
                continue;
            }
            let time = |seconds| Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX);
            let validity = certificate.validity();
            return Ok(Self {
                thumbprint: Sha256::digest(der).into(),
                valid_from: time(validity.not_before.timestamp()),
                valid_until: time(validity.not_after.timestamp()),
                key,
            });
        }
        Err(found)
    }

    /// The key, for [`ALGORITHM`].
    pub(crate) fn key(&self) -> EncodingKey {
        encoding_key(&self.key)
    }
}

fn encoding_key(pkcs1: &SecretSlice<u8>) -> EncodingKey {
    EncodingKey::from_rsa_der(pkcs1.expose_secret())
}

impl KeyFile {
    fn from_pem(content: &[u8], password: Option<&SecretString>) -> Result<Self, CertificateError> {
        let mut read = Self::default();
        for section in pem::parse_many(content).map_err(|_| CertificateError::Damaged)? {
            let is_encrypted = section.headers().get("Proc-Type").is_some();
            let tag = section.tag().to_owned();
            let der = Zeroizing::new(section.into_contents());
            let key = match tag.as_str() {
                "CERTIFICATE" => {
                    read.certificates.push(der.to_vec());
                    continue;
                }
                // The encryption of PEM itself (RFC 1421), which derives its key by MD5.
                "RSA PRIVATE KEY" if is_encrypted => return Err(CertificateError::Unsupported),
                "RSA PRIVATE KEY" => SecretSlice::from(der.to_vec()),
                "PRIVATE KEY" => pkcs1(&der)?,
                "ENCRYPTED PRIVATE KEY" => {
                    let password = password.ok_or(CertificateError::PasswordMissing)?;
                    decrypted(&der, password)?
                }
                "EC PRIVATE KEY" | "DSA PRIVATE KEY" => return Err(CertificateError::NotRsa),
                _ => continue,
            };
            read.key.get_or_insert(key);
        }
        Ok(read)
    }

    fn from_pfx(content: &[u8], password: Option<&SecretString>) -> Result<Self, CertificateError> {
        let text = password.map(|password| password.expose_secret()).unwrap_or_default();
        let archive = match Pkcs12Archive::from_pkcs12(content, text) {
            // The MAC of a file without a password may be made with no bytes at all, where the
            // library uses an empty, terminated text. It protects nothing then.
            Err(error @ PfxError::MacError(_)) if text.is_empty() => {
                Pkcs12Archive::from_pkcs12(&without_mac(content)?, text).map_err(|_| error)
            }
            read => read,
        };
        let archive = archive.map_err(|error| match error {
            PfxError::MacError(_) | PfxError::UnpadError | PfxError::Pkcs5Error(_) => password
                .map_or(CertificateError::PasswordMissing, |_| CertificateError::WrongPassword),
            PfxError::UnsupportedEncryptionScheme
            | PfxError::UnsupportedMacAlgorithm
            | PfxError::UnsupportedContentType
            | PfxError::UnsupportedCertificateType
            | PfxError::InvalidParameters => CertificateError::Unsupported,
            _ => CertificateError::Damaged,
        })?;
        let certificates = archive.certs.iter().map(|bag| bag.cert.as_der().to_vec()).collect();
        let key = archive.keys.first().map(|bag| pkcs1(bag.key.as_der())).transpose()?;
        Ok(Self { key, certificates })
    }
}

/// The key as PKCS #1, of a key as PKCS #8.
fn pkcs1(pkcs8: &[u8]) -> Result<SecretSlice<u8>, CertificateError> {
    let key = PrivateKeyInfoRef::try_from(pkcs8).map_err(|_| CertificateError::UnfitKey)?;
    if key.algorithm.oid != RSA {
        return Err(CertificateError::NotRsa);
    }
    Ok(key.private_key.as_bytes().to_vec().into())
}

fn decrypted(pkcs8: &[u8], password: &SecretString) -> Result<SecretSlice<u8>, CertificateError> {
    use pkcs8::{Error, pkcs5};
    let key = EncryptedPrivateKeyInfoRef::try_from(pkcs8).map_err(|_| CertificateError::Damaged)?;
    let key = key.decrypt(password.expose_secret()).map_err(|error| match error {
        Error::EncryptedPrivateKey(
            pkcs5::Error::UnsupportedAlgorithm { .. } | pkcs5::Error::NoPbes1CryptSupport,
        ) => CertificateError::Unsupported,
        // A wrong key may also decrypt to something that is no key.
        _ => CertificateError::WrongPassword,
    })?;
    pkcs1(key.as_bytes())
}

/// A PFX file without its integrity check.
fn without_mac(content: &[u8]) -> Result<Vec<u8>, CertificateError> {
    let mut file = Pfx::from_der(content).map_err(|_| CertificateError::Damaged)?;
    file.mac_data = None;
    file.to_der().map_err(|_| CertificateError::Damaged)
}

impl CertificateError {
    /// What is wrong with the file.
    pub(crate) fn problem(self) -> &'static str {
        match self {
            Self::NoCertificate => "it holds no certificate",
            Self::NoKey => "it holds no private key",
            Self::NotRsa => "its key is not an RSA key, and only RSA keys sign assertions",
            Self::UnfitKey => "its private key is damaged or shorter than 2048 bits",
            Self::Mismatch => "its private key does not belong to its certificate",
            Self::PasswordMissing => "its private key is protected by a password",
            Self::WrongPassword => "the password does not open it",
            Self::Unsupported => "it is protected in a way that is not supported",
            Self::Damaged => "it is damaged, or neither PEM nor PFX",
        }
    }

    /// What to do about it.
    pub(crate) fn remedy(self) -> &'static str {
        match self {
            Self::NoCertificate => "add the certificate that belongs to the private key",
            Self::NoKey => "add the private key that belongs to the certificate",
            Self::NotRsa | Self::UnfitKey => {
                "make a certificate with an RSA key of at least 2048 bits"
            }
            Self::Mismatch => "put a key and a certificate into it that were made together",
            Self::PasswordMissing => {
                "write the password into a private file and name that with certificate_password_file"
            }
            Self::WrongPassword => "write the password it was exported with into its file",
            Self::Unsupported => {
                "export it again as PFX with AES-256, or as PEM without a password"
            }
            Self::Damaged => "export it again as PEM or PFX, with its private key",
        }
    }
}

#[cfg(test)]
mod tests;
