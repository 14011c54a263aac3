//! A small file beside the store that records a lower bound of its last durable seq.
//!
//! sled silently opens a file that lost its tail. So the last seq of the first durable group after
//! an opening is written here before readers see it, and again every few seconds of writing. A
//! store that is behind its watermark is damaged. The file also carries the format, so that an
//! older program leaves a newer store alone without opening it.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::{OpenFault, TreeError};
use super::{directory, record};
use crate::mirror::change::Seq;

/// The format of the whole store that this program writes.
pub(super) const FORMAT: u32 = 5;

/// A lower bound of a store's last seq.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Watermark {
    pub(super) format: u32,
    pub(super) seq: Seq,
    pub(super) incarnation: u64,
}

fn path(dir: &Path) -> PathBuf {
    dir.join("watermark")
}

impl Watermark {
    /// Reads the file of a store's directory. A missing or unreadable file protects nothing.
    ///
    /// # Errors
    /// [`OpenFault::NewerFormat`], and errors of the operating system.
    pub(super) fn read(dir: &Path) -> Result<Option<Self>, OpenFault> {
        let file = directory::existing(directory::file_options().read(true).open(path(dir)))?;
        let Some(mut file) = file else { return Ok(None) };
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        // Newer formats may change everything but `format`.
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let found = match record::from_json(&bytes, "watermark") {
            Ok(Format { format }) => format,
            Err(TreeError::Newer(_, layout)) => layout.into(),
            Err(_) => 0,
        };
        if found > FORMAT {
            return Err(OpenFault::NewerFormat { found, known: FORMAT });
        }
        let mark = record::from_json(&bytes, "watermark").ok();
        if mark.is_none() {
            tracing::warn!("watermark is unreadable, opening the store without it");
        }
        Ok(mark)
    }

    /// Removes the file.
    ///
    /// # Errors
    /// If the operating system refuses.
    pub(super) fn remove(dir: &Path) -> io::Result<()> {
        directory::existing(fs::remove_file(path(dir))).map(drop)
    }

    /// Replaces the file, durably.
    ///
    /// # Errors
    /// If the operating system refuses; the old file then still exists.
    pub(super) fn write(self, dir: &Path) -> io::Result<()> {
        let new = dir.join("watermark.new");
        let mut file =
            directory::file_options().write(true).create(true).truncate(true).open(&new)?;
        file.write_all(&record::json(&self))?;
        file.sync_all()?;
        fs::rename(&new, path(dir))?;
        File::open(dir)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watermark_round_trips() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Watermark::read(dir.path()).unwrap(), None);
        let mark = Watermark { format: FORMAT, seq: 42, incarnation: u64::MAX };
        mark.write(dir.path()).unwrap();
        assert_eq!(Watermark::read(dir.path()).unwrap(), Some(mark));
        Watermark { format: FORMAT + 1, ..mark }.write(dir.path()).unwrap();
        let newer = Watermark::read(dir.path());
        assert!(matches!(newer, Err(OpenFault::NewerFormat { found: 6, known: FORMAT })));
        fs::write(path(dir.path()), b"garbage").unwrap();
        assert_eq!(Watermark::read(dir.path()).unwrap(), None);
    }
}
