//! Checks files with secrets when the configuration is loaded.
//!
//! Secrets are read when they are used, so that a rotated file needs no restart. This module does
//! not keep or return a secret. A secret that others can read is an error, not a warning.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::diagnostic::Issue;
use super::reader::RawValue;
use super::sources::Sources;
use crate::mirror::account::MAX_SECRET_BYTES;

/// Directories where container engines mount secrets, each only into the container that may read
/// it. The files' modes mean nothing there (Docker's are 0444). Kubernetes projects service-account
/// tokens below `/var/run/secrets`, which is the same directory only where `/var/run` is a link.
const SECRET_MOUNTS: [&str; 2] = ["/run/secrets", "/var/run/secrets"];

/// A token with fewer bytes can be guessed by trying.
const MIN_TOKEN_BYTES: usize = 16;

/// The content of a secret's file without the white space around it. If the content is text, all
/// Unicode white space is trimmed, so that a consumer that reads it as text finds the same secret.
pub fn trimmed(content: &[u8]) -> &[u8] {
    match std::str::from_utf8(content) {
        Ok(text) => text.trim().as_bytes(),
        Err(_) => content.trim_ascii(),
    }
}

/// Whether the file is below a directory whose files only this process can reach, so that its mode
/// does not matter. Only the path as written is examined; it must not contain `..`.
fn is_mounted(path: &Path, credentials: Option<&Path>) -> bool {
    let mounted = credentials.into_iter().chain(SECRET_MOUNTS.iter().map(Path::new));
    let climbs = path.components().any(|part| part == Component::ParentDir);
    !climbs && mounted.into_iter().any(|folder| path.starts_with(folder))
}

/// Weaknesses of the token in `path`, and whether it equals the one in `other`. A file that cannot
/// be read has none here: [`check`] reports it.
pub(super) fn weak_token(path: &Path, other: Option<&Path>) -> Vec<Issue> {
    let read = |path: &Path| std::fs::read(path).ok();
    let Some(content) = read(path) else { return Vec::new() };
    let token = trimmed(&content);
    let shown = path.display();
    let remedy = format!("write a random one: openssl rand -hex 32 > {shown}");
    let mut wrong = Vec::new();
    if token.len() < MIN_TOKEN_BYTES {
        let problem = match token.len() {
            1 => "the token is one byte long and is guessed at once".to_owned(),
            length => format!("the token is {length} bytes long and can be guessed"),
        };
        wrong.push(Issue::new(problem, remedy.clone()));
    }
    let same = other.and_then(read).is_some_and(|other| trimmed(&other) == token);
    if same {
        let problem = "the same token as in token_file: read-only clients get full access";
        wrong.push(Issue::new(problem, remedy));
    }
    wrong
}

/// What tells the secrets in two files apart; `None` if the file cannot be read.
pub(super) fn digest(path: &Path) -> Option<[u8; 32]> {
    std::fs::read(path).ok().map(|content| Sha256::digest(trimmed(&content)).into())
}

/// Reads the path of a file with a secret, and checks the file.
pub(super) fn path(written: RawValue<'_>, sources: &Sources) -> Result<PathBuf, Issue> {
    checked(written.path()?, sources)
}

/// Checks the file with a secret.
pub(super) fn checked(path: PathBuf, sources: &Sources) -> Result<PathBuf, Issue> {
    let credentials = sources.environment.get("CREDENTIALS_DIRECTORY");
    check(&path, credentials.filter(|dir| !dir.is_empty()).map(Path::new))?;
    Ok(path)
}

/// Checks that the file exists, is readable, is not empty, and is accessible only to its owner. The
/// mode is not checked below `credentials` (systemd's `$CREDENTIALS_DIRECTORY`) or where container
/// engines mount secrets, because they set modes of their own.
fn check(path: &Path, credentials: Option<&Path>) -> Result<(), Issue> {
    let shown = path.display();
    let unreadable = |error: std::io::Error| {
        let remedy = if error.kind() == std::io::ErrorKind::NotFound {
            "write the secret into that file, with mode 0600".to_owned()
        } else {
            format!("let the daemon's user read it: chown it, and chmod 0600 {shown}")
        };
        Issue::new(format!("{shown} cannot be read: {error}"), remedy)
    };
    let meta = std::fs::metadata(path).map_err(unreadable)?;
    if !meta.is_file() {
        return Err(Issue::new(format!("{shown} is not a file"), "name the file itself"));
    }
    let mode = meta.permissions().mode() & 0o777;
    if mode & 0o077 != 0 && !is_mounted(path, credentials) {
        return Err(Issue::new(
            format!("{shown} can be read by others (mode {mode:04o})"),
            format!("chmod 0600 {shown}"),
        ));
    }
    if meta.len() > MAX_SECRET_BYTES {
        return Err(Issue::new(
            format!("{shown} is too large for a secret"),
            "name the file that holds only the secret",
        ));
    }
    let mut content = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_SECRET_BYTES).read_to_end(&mut content))
        .map_err(unreadable)?;
    if trimmed(&content).is_empty() {
        return Err(Issue::new(format!("{shown} is empty"), "write the secret into it"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_mounted_for_one_process_need_no_private_mode() {
        let credentials = Some(Path::new("/run/credentials/calmirror.service"));
        for (path, mounted) in [
            ("/run/secrets/token", true),
            ("/var/run/secrets/azure/tokens/azure-identity-token", true),
            ("/var/run/secrets/kubernetes.io/serviceaccount/token", true),
            ("/run/credentials/calmirror.service/token", true),
            ("/run/secretsx/token", false),
            ("/var/run/token", false),
            ("/run/secrets/../token", false),
            ("/var/run/secrets/../../../etc/token", false),
            ("/etc/calmirror/api.token", false),
        ] {
            assert_eq!(is_mounted(Path::new(path), credentials), mounted, "{path}");
        }
    }
}
