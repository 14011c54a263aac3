//! Reads an account's credential, for every token request, so that a rotated file takes effect with
//! the next one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use jiff::Timestamp;
use secrecy::SecretString;
use secrecy::zeroize::Zeroizing;
use uuid::Uuid;

use super::assertion;
use super::secret::AccessToken;
use super::token_text::{self, TokenTextError};
use crate::certificate::{CertificateError, ClientCertificate};
use crate::mirror::account::{Credential, MAX_SECRET_BYTES};

/// What a credential yields.
#[derive(Debug)]
pub(super) enum Proof {
    Secret(SecretString),
    Assertion(SecretString),
    Token(AccessToken),
}

/// A credential that could not be read. Names files and variables, never their contents.
#[derive(Debug, thiserror::Error)]
pub(super) enum CredentialError {
    #[error("{key} {path} cannot be read", path = path.display())]
    Read {
        key: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{key} {path} is larger than any credential", path = path.display())]
    TooLarge { key: &'static str, path: PathBuf },
    #[error("{key} {path} is empty or not plain text", path = path.display())]
    NoText { key: &'static str, path: PathBuf },
    #[error("the environment variable {name} is not set or not plain text")]
    Variable { name: String },
    #[error("access_token_file {path} cannot be used", path = path.display())]
    Token { path: PathBuf, source: TokenTextError },
    #[error("{key} is no credential for the token endpoint")]
    NoProof { key: &'static str },
    #[error("certificate_file {path} cannot be used", path = path.display())]
    Certificate { path: PathBuf, source: CertificateError },
}

impl Credential {
    /// The credential's key in the configuration.
    pub(super) fn key(&self) -> &'static str {
        match self {
            Self::SecretFile(_) => "client_secret_file",
            Self::SecretEnv(_) => "client_secret_env",
            Self::CertificateFile { .. } => "certificate_file",
            Self::FederatedTokenFile(_) => "federated_token_file",
            Self::ManagedIdentity(_) => "managed_identity",
            Self::DeviceCode(_) => "device_code",
            Self::AccessTokenFile(_) => "access_token_file",
            Self::AccessTokenCommand(_) => "access_token_command",
        }
    }

    /// When the file was last modified, of two files the later time; distinguishes a rotated file
    /// from the one that failed.
    pub(super) fn stamp(&self) -> Option<SystemTime> {
        let modified = |path: &PathBuf| fs::metadata(path).and_then(|meta| meta.modified()).ok();
        match self {
            Self::SecretEnv(_) | Self::ManagedIdentity(_) | Self::AccessTokenCommand(_) => None,
            Self::SecretFile(path)
            | Self::FederatedTokenFile(path)
            | Self::DeviceCode(path)
            | Self::AccessTokenFile(path) => modified(path),
            Self::CertificateFile { path, password_file } => {
                modified(path).max(password_file.as_ref().and_then(modified))
            }
        }
    }

    /// Reads the credential. An assertion is created for `audience`, at the wall-clock time `now`.
    pub(super) fn read(
        &self,
        audience: &str,
        client_id: &str,
        now: Timestamp,
        id: Uuid,
    ) -> Result<Proof, CredentialError> {
        let key = self.key();
        match self {
            Self::SecretFile(path) => read_line(key, path).map(Proof::Secret),
            Self::SecretEnv(name) => match std::env::var(name).map(Zeroizing::new) {
                Ok(secret) if !secret.trim().is_empty() => Ok(Proof::Secret(secret.trim().into())),
                _ => Err(CredentialError::Variable { name: name.clone() }),
            },
            Self::CertificateFile { path, password_file } => {
                let content = read_file(key, path)?;
                let password = password_file.as_ref();
                let password = password
                    .map(|path| read_line("certificate_password_file", path))
                    .transpose()?;
                ClientCertificate::read(&content, password.as_ref())
                    .and_then(|read| assertion::sign(&read, audience, client_id, now, id))
                    .map(Proof::Assertion)
                    .map_err(|source| CredentialError::Certificate { path: path.clone(), source })
            }
            Self::FederatedTokenFile(path) => read_line(key, path).map(Proof::Assertion),
            Self::AccessTokenFile(path) => {
                // Used until it is refused or the file is rewritten, whatever end it states.
                let read = token_text::read(&read_file(key, path)?, Timestamp::MIN);
                read.map(|granted| Proof::Token(granted.token))
                    .map_err(|source| CredentialError::Token { path: path.clone(), source })
            }
            Self::ManagedIdentity(_) | Self::DeviceCode(_) | Self::AccessTokenCommand(_) => {
                Err(CredentialError::NoProof { key })
            }
        }
    }
}

fn read_file(key: &'static str, path: &Path) -> Result<Zeroizing<Vec<u8>>, CredentialError> {
    let read = |source| CredentialError::Read { key, path: path.to_owned(), source };
    if fs::metadata(path).map_err(read)?.len() > MAX_SECRET_BYTES {
        return Err(CredentialError::TooLarge { key, path: path.to_owned() });
    }
    fs::read(path).map(Zeroizing::new).map_err(read)
}

/// A file's text without the newline that editors add.
fn read_line(key: &'static str, path: &Path) -> Result<SecretString, CredentialError> {
    let bytes = read_file(key, path)?;
    let text = std::str::from_utf8(&bytes).map(str::trim).unwrap_or_default();
    if text.is_empty() {
        return Err(CredentialError::NoText { key, path: path.to_owned() });
    }
    Ok(text.into())
}
