//! Holds disk space back for the next opening.
//!
//! sled writes while it opens: a snapshot of its page table, and a segment. On a disk that other
//! programs have filled this fails, and readers would get nothing until space is freed. A file
//! beside the store therefore keeps a little space allocated. It is emptied before an opening that
//! finds less than that free, and filled again by the writer.
//!
//! The space that the daemon keeps free (`disk_space`) is not taken for it: writes would be refused.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use super::{directory, disk_space, exchange};

/// Bytes that are always held. An opening and 100 new windows took at most 0.6 MB when measured
/// (`tests/store/full.rs`): a part of a segment of 512 KiB, and a snapshot. To register windows a
/// start needs 2 MiB more (`disk_space`).
const BASE: u64 = 4 << 20;
/// 1/64 of the size of sled's file is held as well. Snapshots took 0.1 to 1 % of it when measured.
const SHARE: u64 = 64;
/// Less than this is not worth a file.
const LEAST: u64 = 1 << 20;

/// The reserve file of a store.
#[derive(Clone, Debug)]
pub(super) struct SpaceReserve {
    path: PathBuf,
    /// See [`disk_space::kept_free`].
    min_free: u64,
}

/// The reserve file as it is.
#[derive(Clone, Copy, Debug)]
struct HeldSpace {
    /// Bytes that are allocated.
    bytes: u64,
    /// Whether an opening has freed the space.
    released: bool,
}

impl SpaceReserve {
    /// The reserve file of the store in this directory; `None` if no space is to be kept free.
    pub(super) fn of(path: &Path, min_free: u64) -> Option<Self> {
        (min_free > 0).then(|| Self { path: path.to_owned(), min_free })
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

    /// Allocates what an opening may need, or as much of it as may be taken. Gives back what the
    /// store no longer needs.
    pub(super) fn hold(&self) {
        if let Err(error) = self.allocate() {
            // Not every file system can preallocate; the store works without it.
            tracing::debug!(%error, "no disk space could be reserved for the next opening");
        }
    }

    fn allocate(&self) -> io::Result<()> {
        let options = &mut directory::file_options();
        let existing = directory::existing(options.write(true).open(self.file()))?;
        let about = existing.as_ref().map(File::metadata).transpose()?;
        let length = about.as_ref().map_or(0, Metadata::len);
        let bytes = about.as_ref().map_or(0, |about| length.min(about.blocks() * 512));
        let wanted = self.wanted();
        // Shrinks after a compaction, and not with every change of the store.
        if let Some(file) = &existing
            && length > wanted + wanted / 2
        {
            file.set_len(wanted)?;
            return file.sync_all();
        }
        let held = HeldSpace { bytes, released: existing.is_some() && length == 0 };
        let mut wanted = allowed(wanted, held, disk_space::free(&self.path)?, self.min_free);
        // Grows in steps of an eighth, so that not every change of the store resizes the file.
        if wanted <= bytes + wanted / 8 || wanted < LEAST {
            return Ok(());
        }
        let file: File = match existing {
            Some(file) => file,
            None => options.create_new(true).open(self.file())?,
        };
        while wanted > bytes.max(LEAST) {
            match fallocate(&file, FallocateFlags::empty(), 0, wanted) {
                Ok(()) => return file.sync_all(),
                Err(Errno::NOSPC | Errno::DQUOT) => wanted -= wanted / 16,
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }
}

/// How many of the `wanted` bytes may be held on a disk with so many `(free, total)` bytes: half of
/// what is there beyond the bytes kept free, so that the other half is left to be written to.
///
/// What an opening has freed may be taken again while less is free than that. Writes are refused
/// then in any case, and the next opening needs it.
fn allowed(wanted: u64, held: HeldSpace, (free, total): (u64, u64), min_free: u64) -> u64 {
    let kept = disk_space::kept_free(min_free, total);
    if held.released && free < kept {
        return wanted.min(free);
    }
    wanted.min((free + held.bytes).saturating_sub(kept) / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn space_is_reserved_once_and_released_with_the_store() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("store")).unwrap();
        assert!(SpaceReserve::of(dir.path(), 0).is_none(), "no space is to be kept free");
        let reserve = SpaceReserve::of(dir.path(), 1).unwrap();
        reserve.hold();
        let held = || std::fs::metadata(dir.path().join("reserve")).unwrap();
        assert_eq!(held().len(), BASE);
        assert!(held().blocks() * 512 >= BASE, "allocated, not only a length");
        assert_eq!(held().mode() & 0o777, 0o600);
        let db = File::create(dir.path().join("store/db")).unwrap();
        db.set_len(1 << 30).unwrap();
        reserve.hold();
        assert_eq!(held().len(), BASE + (16 << 20));
        // There is enough space: nothing is freed.
        reserve.release().unwrap();
        assert_eq!(held().len(), BASE + (16 << 20));
        // A compaction has made the store smaller.
        db.set_len(64 << 20).unwrap();
        reserve.hold();
        assert_eq!(held().len(), BASE + MIB);
        assert!(held().blocks() * 512 <= BASE + 2 * MIB, "the space was not given back");
        // Little is gained by shrinking it again.
        db.set_len(0).unwrap();
        reserve.hold();
        assert_eq!(held().len(), BASE + MIB);
    }

    #[test]
    fn space_that_is_kept_free_is_not_reserved() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("store")).unwrap();
        SpaceReserve::of(dir.path(), 1 << 60).unwrap().hold();
        assert!(!dir.path().join("reserve").exists());

        let allowed = |held, released, free| {
            let held = HeldSpace { bytes: held * MIB, released };
            allowed(16 * MIB, held, (free * MIB, 1000 * MIB), 64 * MIB) / MIB
        };
        assert_eq!([64, 70, 96, 200].map(|free| allowed(0, false, free)), [0, 3, 16, 16]);
        // What was taken does not count as taken by others.
        assert_eq!([67, 70, 80].map(|free| allowed(3, false, free)), [3, 4, 9]);
        assert_eq!([0, 9, 63].map(|free| allowed(0, true, free)), [0, 9, 16]);
        assert_eq!([64, 70].map(|free| allowed(0, true, free)), [0, 3]);
        assert_eq!([0, 63].map(|free| allowed(0, false, free)), [0, 0]);
    }
}
