//! What is asked of a file that holds a secret, before anybody needs the secret.
//!
//! Secrets are read when they are used, so that a rotated file needs no restart; nothing here keeps
//! or returns one. A secret that others can read is refused, not warned about.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::fault::Wrong;

/// No secret, key or certificate is larger.
const LARGEST: u64 = 1 << 20;

/// Where container engines mount secrets, each into the one container that may have it; their
/// modes say nothing (Docker's are 0444).
const MOUNTED: &str = "/run/secrets";

/// What a secret's file holds, without the white space around it: of any kind where the file is
/// text, so that nobody who reads it as text finds less in it than was found here.
pub fn trimmed(content: &[u8]) -> &[u8] {
    match std::str::from_utf8(content) {
        Ok(text) => text.trim().as_bytes(),
        Err(_) => content.trim_ascii(),
    }
}

/// That the file exists, can be read, holds something, and is for its owner alone. Files below
/// `credentials`, systemd's `$CREDENTIALS_DIRECTORY`, are kept by systemd with modes of its own;
/// so are those of container engines.
pub(super) fn check(path: &Path, credentials: Option<&Path>) -> Result<(), Wrong> {
    let shown = path.display();
    let unreadable = |error: std::io::Error| {
        let remedy = if error.kind() == std::io::ErrorKind::NotFound {
            "write the secret into that file, with mode 0600".to_owned()
        } else {
            format!("let the daemon's user read it: chown it, and chmod 0600 {shown}")
        };
        Wrong::new(format!("{shown} cannot be read: {error}"), remedy)
    };
    let meta = std::fs::metadata(path).map_err(unreadable)?;
    if !meta.is_file() {
        return Err(Wrong::new(format!("{shown} is not a file"), "name the file itself"));
    }
    let mode = meta.permissions().mode() & 0o777;
    let kept =
        credentials.is_some_and(|folder| path.starts_with(folder)) || path.starts_with(MOUNTED);
    if mode & 0o077 != 0 && !kept {
        return Err(Wrong::new(
            format!("{shown} can be read by others (mode {mode:04o})"),
            format!("chmod 0600 {shown}"),
        ));
    }
    if meta.len() > LARGEST {
        return Err(Wrong::new(
            format!("{shown} is too large for a secret"),
            "name the file that holds only the secret",
        ));
    }
    let mut content = Vec::new();
    File::open(path)
        .and_then(|file| file.take(LARGEST).read_to_end(&mut content))
        .map_err(unreadable)?;
    if trimmed(&content).is_empty() {
        return Err(Wrong::new(format!("{shown} is empty"), "write the secret into it"));
    }
    Ok(())
}
