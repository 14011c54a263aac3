//! Checks the certificate of an account when the configuration is loaded.
//!
//! It is read again for each token request. What would be refused then is refused here already.

use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use secrecy::SecretString;
use secrecy::zeroize::Zeroizing;

use super::diagnostic::Issue;
use super::reader::TableReader;
use super::secret;
use super::sources::Sources;
use crate::certificate::{CertificateError, ClientCertificate};
use crate::mirror::account::Credential;

const CERTIFICATE: &str = "certificate_file";
pub(super) const PASSWORD: &str = "certificate_password_file";

/// How long before its end a certificate is warned about.
const EXPIRES_SOON: SignedDuration = SignedDuration::from_hours(30 * 24);

/// Reads the two keys of a certificate, and the certificate; `None` after an error.
pub(super) fn credential(
    reader: &mut TableReader<'_>,
    sources: &Sources,
    now: Timestamp,
) -> Option<Credential> {
    let path = reader.read(CERTIFICATE, |written| secret::path(written, sources));
    let password_file = reader.read(PASSWORD, |written| secret::path(written, sources));
    if reader.has(PASSWORD) && password_file.is_none() {
        return None;
    }
    let path = path?;
    match read(&path, password_file.as_deref()) {
        Ok(certificate) => warn_of_its_times(&certificate, &path, now, reader),
        Err((key, wrong)) => {
            reader.fault(key, wrong);
            return None;
        }
    }
    Some(Credential::CertificateFile { path, password_file })
}

/// Reads the certificate; an error names the key to which it belongs.
fn read(
    path: &Path,
    password_file: Option<&Path>,
) -> Result<ClientCertificate, (&'static str, Issue)> {
    // Both files have been found readable; now they may be gone.
    let content = |key, path: &Path| {
        let unreadable = |error| {
            let problem = format!("{} cannot be read: {error}", path.display());
            (key, Issue::new(problem, "let the daemon's user read it"))
        };
        std::fs::read(path).map(Zeroizing::new).map_err(unreadable)
    };
    let password = match password_file {
        None => None,
        Some(path) => {
            let bytes = content(PASSWORD, path)?;
            let text = std::str::from_utf8(&bytes).map_err(|_| {
                let problem = format!("{} is not plain text", path.display());
                (PASSWORD, Issue::new(problem, "write the password into it as UTF-8"))
            })?;
            Some(SecretString::from(text.trim()))
        }
    };
    ClientCertificate::read(&content(CERTIFICATE, path)?, password.as_ref()).map_err(|error| {
        let (key, path) = match (error, password_file) {
            (CertificateError::WrongPassword, Some(password)) => (PASSWORD, password),
            _ => (CERTIFICATE, path),
        };
        let problem = match error {
            CertificateError::WrongPassword => {
                format!("the password in {} does not open the certificate", path.display())
            }
            _ => format!("{} cannot be used: {}", path.display(), error.problem()),
        };
        (key, Issue::new(problem, error.remedy()))
    })
}

/// Warns of a certificate that has expired, expires soon, or is not valid yet.
fn warn_of_its_times(
    certificate: &ClientCertificate,
    path: &Path,
    now: Timestamp,
    reader: &mut TableReader<'_>,
) {
    let ClientCertificate { valid_from, valid_until, .. } = certificate;
    let shown = path.display();
    let day = |time: &Timestamp| time.strftime("%Y-%m-%d").to_string();
    let renew =
        "upload a new certificate to the application, then put it and its key into the file";
    if valid_until.duration_since(now) < EXPIRES_SOON {
        // Not a fault: a start must not fail for the windows of other accounts.
        let verb = if *valid_until <= now { "expired" } else { "expires" };
        let problem = format!("the certificate in {shown} {verb} on {}", day(valid_until));
        reader.warn(CERTIFICATE, Issue::new(problem, renew));
    }
    if *valid_from > now {
        let problem = format!("the certificate in {shown} is not valid before {}", day(valid_from));
        let remedy = "check this machine's clock; until then Microsoft refuses the certificate";
        reader.warn(CERTIFICATE, Issue::new(problem, remedy));
    }
}
