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

use super::error::TreeError;
use super::{directory, record};
use crate::mirror::change::Seq;

/// The format of the whole store that this program writes.
pub(super) const FORMAT: u32 = 1;

/// A lower bound of a store's last seq.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Watermark {
    pub(super) format: u32,
    pub(super) seq: Seq,
    pub(super) incarnation: u64,
}

/// The content of the file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum WatermarkFile {
    /// There is no file.
    Nothing,
    /// The file cannot be read and protects nothing.
    Unreadable,
    /// A newer program wrote the file.
    Newer(u32),
    /// A readable watermark.
    Mark(Watermark),
}

fn path(dir: &Path) -> PathBuf {
    dir.join("watermark")
}

impl Watermark {
    /// Reads the file of a store's directory.
    ///
    /// # Errors
    /// If the operating system refuses; a missing or garbled file is no error.
    pub(super) fn read(dir: &Path) -> io::Result<WatermarkFile> {
        let file = directory::existing(directory::file_options().read(true).open(path(dir)))?;
        let Some(mut file) = file else { return Ok(WatermarkFile::Nothing) };
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        // Newer formats may change everything but `format`.
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        match record::from_json::<Format>(&bytes, "watermark") {
            Ok(f) if f.format > FORMAT => return Ok(WatermarkFile::Newer(f.format)),
            Err(TreeError::Newer(_, format)) => return Ok(WatermarkFile::Newer(format.into())),
            _ => {}
        }
        Ok(record::from_json(&bytes, "watermark")
            .map_or(WatermarkFile::Unreadable, WatermarkFile::Mark))
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
    fn what_was_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Watermark::read(dir.path()).unwrap(), WatermarkFile::Nothing);
        let mark = Watermark { format: FORMAT, seq: 42, incarnation: u64::MAX };
        mark.write(dir.path()).unwrap();
        assert_eq!(Watermark::read(dir.path()).unwrap(), WatermarkFile::Mark(mark));
        Watermark { format: FORMAT + 1, ..mark }.write(dir.path()).unwrap();
        assert_eq!(Watermark::read(dir.path()).unwrap(), WatermarkFile::Newer(FORMAT + 1));
        fs::write(path(dir.path()), b"garbage").unwrap();
        assert_eq!(Watermark::read(dir.path()).unwrap(), WatermarkFile::Unreadable);
    }
}
