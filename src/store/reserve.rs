//! Holds disk space back for the next opening.
//!
//! sled writes while it opens: a snapshot of its page table, and a segment. On a disk that other
//! programs have filled this fails, and readers would get nothing until space is freed. A file
//! beside the store therefore keeps a little space allocated. It is emptied before an opening that
//! finds less than that free, and filled again by the writer.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use super::{directory, disk_space, exchange};

/// Bytes that are always held: segments and the batches of a start.
const BASE: u64 = 16 << 20;
/// 1/32 of the size of sled's file is held as well. Snapshots took 0.1 to 1 % of it when measured.
const SHARE: u64 = 32;
/// Less than this is not worth a file.
const LEAST: u64 = 1 << 20;

/// The reserve file of a store.
#[derive(Clone, Debug)]
pub(super) struct SpaceReserve {
    path: PathBuf,
}

impl SpaceReserve {
    /// The reserve file of the store in this directory.
    pub(super) fn of(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    fn file(&self) -> PathBuf {
        self.path.join("reserve")
    }

    /// Bytes that an opening may need.
    fn wanted(&self) -> u64 {
        let db = exchange::current_directory(&self.path).join("db");
        BASE + std::fs::metadata(db).map_or(0, |db| db.len() / SHARE)
    }

    /// Frees the space if an opening may need it.
    ///
    /// # Errors
    /// If the operating system refuses.
    pub(super) fn release(&self) -> io::Result<()> {
        let (free, _) = disk_space::free(&self.path)?;
        if free >= self.wanted() {
            return Ok(());
        }
        let file = directory::file_options().write(true).truncate(true).open(self.file());
        let Some(file) = directory::existing(file)? else { return Ok(()) };
        tracing::warn!("too little disk space, using the reserve to open the store");
        file.sync_all()
    }

    /// Allocates what an opening may need, or as much of it as is free.
    pub(super) fn hold(&self) {
        if let Err(error) = self.allocate() {
            // Not every file system can preallocate; the store works without it.
            tracing::debug!(%error, "no disk space could be reserved for the next opening");
        }
    }

    fn allocate(&self) -> io::Result<()> {
        let file: File =
            directory::file_options().write(true).create(true).truncate(false).open(self.file())?;
        let about = file.metadata()?;
        let mut wanted = self.wanted();
        // Grows in steps of an eighth, so that not every change of the store resizes the file.
        if about.len() + wanted / 8 >= wanted && about.blocks() * 512 >= about.len() {
            return Ok(());
        }
        while wanted > about.len().max(LEAST) {
            match fallocate(&file, FallocateFlags::empty(), 0, wanted) {
                Ok(()) => return file.sync_all(),
                Err(Errno::NOSPC | Errno::DQUOT) => wanted = wanted / 4 * 3,
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn space_is_reserved_once_and_released_with_the_store() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("store")).unwrap();
        let reserve = SpaceReserve::of(dir.path());
        reserve.hold();
        let held = || std::fs::metadata(dir.path().join("reserve")).unwrap();
        assert_eq!(held().len(), BASE);
        assert!(held().blocks() * 512 >= BASE, "allocated, not only a length");
        assert_eq!(held().mode() & 0o777, 0o600);
        let db = File::create(dir.path().join("store/db")).unwrap();
        db.set_len(1 << 30).unwrap();
        reserve.hold();
        assert_eq!(held().len(), BASE + (32 << 20));
        // There is enough space: nothing is freed.
        reserve.release().unwrap();
        assert_eq!(held().len(), BASE + (32 << 20));
    }
}
