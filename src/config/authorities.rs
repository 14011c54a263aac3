//! Reads files with certificate authorities.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::diagnostic::Issue;
use super::reader::TableReader;

/// Larger than every system's own list of authorities.
const MAX_BYTES: u64 = 8 << 20;

/// A PEM file with certificates of authorities, and what it held when it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorityFile {
    /// The file.
    pub path: PathBuf,
    /// The certificates that can be used; at least one.
    pub certificates: Arc<[CertificateDer<'static>]>,
}

/// Reads the file that `key` names. Certificates that cannot be used are warnings, unless none can:
/// bundles have such certificates.
pub(super) fn authorities(
    key: &'static str,
    reader: &mut TableReader<'_>,
) -> Option<AuthorityFile> {
    let mut unusable = 0;
    let file = reader.read(key, |written| {
        let path = written.path()?;
        let (certificates, others) = read(&path)?;
        unusable = others;
        Ok(AuthorityFile { path, certificates })
    })?;
    if unusable > 0 {
        let all = unusable + file.certificates.len();
        let problem = format!("{unusable} of its {all} certificates cannot be read");
        reader.warn(key, Issue::new(problem, "remove them; the others are used"));
    }
    Some(file)
}

/// The certificates of a file, and how many cannot be used.
fn read(path: &std::path::Path) -> Result<(Arc<[CertificateDer<'static>]>, usize), Issue> {
    let shown = path.display();
    let mut content = Vec::new();
    File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut content)).map_err(
        |error| {
            let remedy = if error.kind() == std::io::ErrorKind::NotFound {
                "write the authorities' certificates into that file, in PEM form"
            } else {
                "name a PEM file, and let the daemon's user read it"
            };
            Issue::new(format!("{shown} cannot be read: {error}"), remedy)
        },
    )?;
    if content.len() as u64 > MAX_BYTES {
        let problem = format!("{shown} is too large for a file of certificates");
        return Err(Issue::new(problem, "name the file with the authorities alone"));
    }
    let found: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(&content).collect::<Result<_, _>>().map_err(|error| {
            Issue::new(
                format!("{shown} is no proper PEM file: {error}"),
                "write the authorities' certificates into it again",
            )
        })?;
    if found.is_empty() {
        return Err(Issue::new(
            format!("{shown} holds no certificate in PEM form"),
            "convert it if it is binary: openssl x509 -inform der -in FILE -out FILE.pem",
        ));
    }
    let all = found.len();
    let usable = |der: &CertificateDer<'static>| RootCertStore::empty().add(der.clone()).is_ok();
    let certificates: Arc<[_]> = found.into_iter().filter(usable).collect();
    if certificates.is_empty() {
        return Err(Issue::new(
            format!("{shown} holds no certificate that can be read"),
            "write the authorities' certificates into it again",
        ));
    }
    let unusable = all - certificates.len();
    Ok((certificates, unusable))
}
