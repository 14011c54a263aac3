//! Texts of the configuration that are never shown, inline or in a file.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret as _, SecretString};

use super::error::{SinkError, SinkErrorKind};
use crate::mirror::account::MAX_SECRET_BYTES;

/// An address, which may be a secret: everybody who knows it can send there, or log in.
#[derive(Clone)]
pub enum SinkSecret {
    /// As written in the configuration.
    Inline(SecretString),
    /// A file with it, which is read each time that it is used.
    File(PathBuf),
}

impl SinkSecret {
    /// The text, without white space around it: one line.
    ///
    /// # Errors
    /// [`SinkErrorKind::Misconfigured`] if the file cannot be read, or if there is not one line.
    pub fn read(&self) -> Result<SecretString, SinkError> {
        let text = match self {
            Self::Inline(text) => Zeroizing::new(text.expose_secret().to_owned()),
            Self::File(path) => read_file(path)?,
        };
        let text = text.trim();
        match text.lines().count() {
            0 => Err(unusable(self.place(), "is empty")),
            1 => Ok(text.into()),
            _ => Err(unusable(self.place(), "has more than one line; write only the address")),
        }
    }

    /// Where the text is, for messages: `url` or a file.
    pub(super) fn place(&self) -> String {
        match self {
            Self::Inline(_) => "url".to_owned(),
            Self::File(path) => path.display().to_string(),
        }
    }
}

/// Reads a small file of text.
pub(super) fn read_file(path: &Path) -> Result<Zeroizing<String>, SinkError> {
    let unreadable = |error: std::io::Error| {
        unusable(path.display(), format!("cannot be read by the daemon's user: {error}"))
    };
    let file = File::open(path).map_err(unreadable)?;
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(MAX_SECRET_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_SECRET_BYTES {
        return Err(unusable(path.display(), "is too large for a secret"));
    }
    match std::str::from_utf8(&bytes) {
        Ok(text) => Ok(Zeroizing::new(text.to_owned())),
        Err(_) => Err(unusable(path.display(), "is not text")),
    }
}

/// The error of a text that cannot be used: where it is, and why.
pub(super) fn unusable(place: impl fmt::Display, problem: impl fmt::Display) -> SinkError {
    SinkError::new(SinkErrorKind::Misconfigured, format!("{place} {problem}"))
}

impl fmt::Debug for SinkSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inline(_) => f.write_str("Inline(…)"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

impl PartialEq for SinkSecret {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Inline(one), Self::Inline(other)) => {
                one.expose_secret() == other.expose_secret()
            }
            (Self::File(one), Self::File(other)) => one == other,
            (Self::Inline(_), Self::File(_)) | (Self::File(_), Self::Inline(_)) => false,
        }
    }
}

impl Eq for SinkSecret {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_one_line_and_is_read_each_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("url");
        let file = SinkSecret::File(path.clone());
        let missing = file.read().unwrap_err();
        assert_eq!(missing.kind, SinkErrorKind::Misconfigured);
        assert!(missing.message.contains("cannot be read"), "{missing}");
        for (content, expected) in [
            (&b"\n canary://one \n"[..], Ok("canary://one")),
            (b"canary://other", Ok("canary://other")),
            (b" \n", Err("is empty")),
            (
                b"canary://one\ncanary://other\n",
                Err("has more than one line; write only the address"),
            ),
            (b"canary\xff", Err("is not text")),
            (&[b'a'; MAX_SECRET_BYTES as usize + 1], Err("is too large for a secret")),
        ] {
            std::fs::write(&path, content).unwrap();
            let read = file.read();
            let expected = expected.map_err(|problem| format!("{} {problem}", path.display()));
            let read = read.map(|text| text.expose_secret().to_owned()).map_err(|e| e.message);
            assert_eq!(read, expected.map(str::to_owned));
        }
        let inline = SinkSecret::Inline("canary://one\ncanary".into());
        let error = inline.read().unwrap_err();
        let shown = format!("{inline:?} {error} {error:?}");
        assert!(error.message.starts_with("url has more") && !shown.contains("canary"), "{shown}");
    }
}
