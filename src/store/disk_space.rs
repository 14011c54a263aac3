//! Refusing to write before the disk is full.
//!
//! sled never recovers from a full disk without being opened again. So a little space is kept
//! free: below it commits are refused, reading goes on, and writing goes on by itself once there
//! is space again.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Bytes that the engine takes for one that is written, while much is written at once.
const AMPLIFICATION: u64 = 3;
/// What has to be free for the little that a start writes.
const START: u64 = 4 << 20;
/// Of large disks, this part is kept free as well: 0.5 %.
const SHARE: u64 = 200;

/// Watches the free space of a file system.
pub(super) struct DiskSpace<P> {
    min_free: u64,
    probe: P,
    full: bool,
}

/// Free and total bytes of the file system that holds `path`.
///
/// # Errors
/// Where the operating system does not say.
pub(super) fn free(path: &Path) -> io::Result<(u64, u64)> {
    let fs = rustix::fs::statvfs(path)?;
    Ok((fs.f_bavail.saturating_mul(fs.f_frsize), fs.f_blocks.saturating_mul(fs.f_frsize)))
}

/// What a store's directory takes, and what is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// Bytes of all its files, damaged stores that were moved aside included.
    pub bytes: u64,
    /// Bytes free on its file system.
    pub free: u64,
    /// Damaged stores that were moved aside and still lie there.
    pub damaged: u64,
}

/// Measures the directory of a store.
///
/// # Errors
/// Where the operating system does not say.
pub(super) fn footprint(path: &Path) -> io::Result<Footprint> {
    let mut damaged = 0;
    for entry in path.read_dir()? {
        let name = entry?.file_name();
        damaged += u64::from(name.to_string_lossy().starts_with("store.damaged."));
    }
    Ok(Footprint { bytes: bytes(path)?, free: free(path)?.0, damaged })
}

/// Bytes on disk of all files below a directory; what vanishes meanwhile counts nothing.
fn bytes(path: &Path) -> io::Result<u64> {
    let mut sum = 0;
    for entry in path.read_dir()?.flatten() {
        let Ok(about) = entry.metadata() else { continue };
        sum += match about.is_dir() {
            true => bytes(&entry.path()).unwrap_or_default(),
            // The engine's file has holes.
            false => about.blocks() * 512,
        };
    }
    Ok(sum)
}

impl<P: FnMut() -> io::Result<(u64, u64)>> DiskSpace<P> {
    /// Keeps `min_free` bytes and 0.5 % free, as told by `probe` (free and total bytes).
    pub(super) fn new(min_free: u64, probe: P) -> Self {
        Self { min_free, probe, full: false }
    }

    /// Whether about so many bytes of commits may be written. Asks the system each time: another
    /// program can take everything within a second.
    pub(super) fn allows(&mut self, bytes: usize) -> bool {
        // Where the system does not say, writing itself will.
        let full = self.min_free > 0
            && (self.probe)().is_ok_and(|(free, total)| {
                free < self.min_free.max(total / SHARE).saturating_add(taken(bytes))
            });
        if full != self.full {
            self.full = full;
            if full {
                tracing::error!("too little disk space, store not written");
            } else {
                tracing::info!("disk space again, store written");
            }
        }
        !full
    }

    /// Whether so many bytes, without which a daemon cannot start, may be taken of what is kept free.
    pub(super) fn allows_start(&mut self, bytes: usize) -> bool {
        self.min_free == 0 || (self.probe)().is_ok_and(|(free, _)| free >= START + taken(bytes))
    }
}

/// What the engine takes for so many bytes, about.
fn taken(bytes: usize) -> u64 {
    (bytes as u64).saturating_mul(AMPLIFICATION)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn writing_stops_below_the_reserve_and_goes_on_by_itself() {
        let free = Cell::new(1000);
        let mut space = DiskSpace::new(500, || Ok((free.get(), 2000)));
        assert!(space.allows(1));
        free.set(499);
        assert!(!space.allows(1), "looked at again each time");
        assert!(!space.allows(1));
        free.set(503);
        assert!(space.allows(1));
        assert!(!space.allows(2), "what is written counts three times");
    }

    #[test]
    fn a_start_may_use_what_is_kept_free() {
        let mut space = DiskSpace::new(64 << 20, || Ok((START + 3000, 1 << 30)));
        assert!(!space.allows(1));
        assert!(space.allows_start(1000));
        assert!(!space.allows_start(1001));
    }

    #[test]
    #[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    fn a_footprint_is_of_all_files_and_tells_what_was_moved_aside() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let empty = footprint(path).unwrap();
        assert_eq!((empty.bytes, empty.damaged), (0, 0));
        std::fs::create_dir_all(path.join("store/blobs")).unwrap();
        std::fs::create_dir(path.join("store.damaged.1")).unwrap();
        std::fs::write(path.join("store/db"), vec![1; 10_000]).unwrap();
        std::fs::write(path.join("store/blobs/7"), vec![1; 10_000]).unwrap();
        std::fs::write(path.join("store.damaged.1/db"), vec![1; 10_000]).unwrap();
        let found = footprint(path).unwrap();
        assert!((30_000..60_000).contains(&found.bytes), "{found:?}");
        assert_eq!(found.damaged, 1);
        assert!(found.free > 0);
        assert!(footprint(&path.join("nowhere")).is_err());
    }

    #[test]
    fn half_a_percent_of_a_large_disk_is_kept() {
        assert!(!DiskSpace::new(1, || Ok((4, 1000))).allows(0));
        assert!(DiskSpace::new(1, || Ok((5, 1000))).allows(0));
        assert!(DiskSpace::new(0, || Ok((0, 1000))).allows(1));
    }

    #[test]
    fn an_unknown_amount_is_no_reason_to_stop() {
        assert!(DiskSpace::new(1, || Err(io::ErrorKind::Unsupported.into())).allows(1));
    }
}
