//! Refuses writes before the disk is full.
//!
//! sled does not recover from a full disk until it is opened again. So some space is kept free:
//! below it, commits are refused and reading continues. Writing resumes once there is space again.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Bytes that sled takes for each byte written, under heavy writing.
const AMPLIFICATION: u64 = 3;
/// Bytes that must be free for a start, which writes little.
const START: u64 = 2 << 20;
/// On large disks 1/200 of the disk (0.5 %) is kept free.
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
/// If the operating system does not report it.
pub(super) fn free(path: &Path) -> io::Result<(u64, u64)> {
    let fs = rustix::fs::statvfs(path)?;
    Ok((fs.f_bavail.saturating_mul(fs.f_frsize), fs.f_blocks.saturating_mul(fs.f_frsize)))
}

/// Disk usage of a store's directory, and the space left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// Bytes of all its files, including damaged stores that were moved aside.
    pub bytes: u64,
    /// Bytes free on its file system.
    pub free: u64,
    /// Number of damaged stores that were moved aside and are still there.
    pub damaged: u64,
}

/// Measures the directory of a store.
///
/// # Errors
/// If the operating system does not report it.
pub(super) fn footprint(path: &Path) -> io::Result<Footprint> {
    let mut damaged = 0;
    for entry in path.read_dir()? {
        let name = entry?.file_name();
        damaged += u64::from(name.to_string_lossy().starts_with("store.damaged."));
    }
    Ok(Footprint { bytes: bytes(path)?, free: free(path)?.0, damaged })
}

/// Bytes to keep free of a file system of `total` bytes: `min_free` or 0.5 %, whichever is more.
pub(super) fn kept_free(min_free: u64, total: u64) -> u64 {
    if min_free > 0 { min_free.max(total / SHARE) } else { 0 }
}

/// Bytes on disk of all files below a directory; files that vanish meanwhile are not counted.
///
/// # Errors
/// If the directory cannot be read.
pub(super) fn bytes(path: &Path) -> io::Result<u64> {
    let mut sum = 0;
    for entry in path.read_dir()?.flatten() {
        let Ok(about) = entry.metadata() else { continue };
        sum += match about.is_dir() {
            true => bytes(&entry.path()).unwrap_or_default(),
            // sled's file has holes.
            false => about.blocks() * 512,
        };
    }
    Ok(sum)
}

impl<P: FnMut() -> io::Result<(u64, u64)>> DiskSpace<P> {
    /// Keeps `min_free` bytes or 0.5 % of the disk free, whichever is more. `probe` returns free
    /// and total bytes.
    pub(super) fn new(min_free: u64, probe: P) -> Self {
        Self { min_free, probe, full: false }
    }

    /// Whether about `bytes` bytes of commits may be written. Asks the system each time: another
    /// program can take everything within a second.
    pub(super) fn allows(&mut self, bytes: usize) -> bool {
        // If the system does not report it, the write itself will fail.
        let probed = if self.min_free > 0 { (self.probe)().ok() } else { None };
        let space = probed.map(|(free, total)| {
            (free, kept_free(self.min_free, total).saturating_add(taken(bytes)))
        });
        let full = space.is_some_and(|(free, needed)| free < needed);
        if full != self.full {
            self.full = full;
            let (free_bytes, needed_bytes) = space.unzip();
            if full {
                tracing::error!(
                    free_bytes,
                    needed_bytes,
                    "too little disk space, writes to the store are refused"
                );
            } else {
                tracing::info!(
                    free_bytes,
                    needed_bytes,
                    "enough disk space again, writes to the store resume"
                );
            }
        }
        !full
    }

    /// Whether a start may take `bytes` bytes of the space that is kept free.
    pub(super) fn allows_start(&mut self, bytes: usize) -> bool {
        self.min_free == 0 || (self.probe)().is_ok_and(|(free, _)| free >= START + taken(bytes))
    }
}

/// Rough number of bytes that sled takes for `bytes` written.
fn taken(bytes: usize) -> u64 {
    (bytes as u64).saturating_mul(AMPLIFICATION)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn writing_stops_below_the_reserve_and_resumes_by_itself() {
        let free = Cell::new(1000);
        let mut space = DiskSpace::new(500, || Ok((free.get(), 2000)));
        assert!(space.allows(1));
        free.set(499);
        assert!(!space.allows(1), "probed again each time");
        assert!(!space.allows(1));
        free.set(503);
        assert!(space.allows(1));
        assert!(!space.allows(2), "what is written counts three times");
    }

    #[test]
    fn a_start_may_use_the_reserved_space() {
        let mut space = DiskSpace::new(64 << 20, || Ok((START + 3000, 1 << 30)));
        assert!(!space.allows(1));
        assert!(space.allows_start(1000));
        assert!(!space.allows_start(1001));
    }

    #[test]
    fn the_footprint_counts_all_files_and_names_moved_ones() {
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
    fn half_a_percent_of_a_large_disk_is_reserved() {
        assert!(!DiskSpace::new(1, || Ok((4, 1000))).allows(0));
        assert!(DiskSpace::new(1, || Ok((5, 1000))).allows(0));
        assert!(DiskSpace::new(0, || Ok((0, 1000))).allows(1));
    }

    #[test]
    fn an_unknown_amount_of_free_space_does_not_stop_writing() {
        assert!(DiskSpace::new(1, || Err(io::ErrorKind::Unsupported.into())).allows(1));
    }
}
