//! Refusing to write before the disk is full.
//!
//! sled never recovers from a full disk without being opened again. So a little space is kept
//! free: below it commits are refused, reading goes on, and writing goes on by itself once there
//! is space again.

use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

/// How often the space is looked at while there is enough.
const EVERY: Duration = Duration::from_secs(1);
/// … and after how many commits at the latest: a second of heavy writing can be a gigabyte.
const COMMITS: usize = 1024;
/// Of large disks, this part is kept free as well: 0.5 %.
const SHARE: u64 = 200;

/// Watches the free space of a file system.
pub(super) struct Space<P> {
    min_free: u64,
    probe: P,
    looked: Option<Instant>,
    commits: usize,
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

impl<P: FnMut() -> io::Result<(u64, u64)>> Space<P> {
    /// Keeps `min_free` bytes and 0.5 % free, as told by `probe` (free and total bytes).
    pub(super) fn new(min_free: u64, probe: P) -> Self {
        Self { min_free, probe, looked: None, commits: 0, full: false }
    }

    /// Whether `commits` more may be written.
    pub(super) fn allows(&mut self, commits: usize) -> bool {
        self.commits += commits;
        let fresh = self.looked.is_some_and(|at| at.elapsed() < EVERY);
        if !fresh || self.commits >= COMMITS || self.full {
            (self.looked, self.commits) = (Some(Instant::now()), 0);
            // Where the system does not say, writing itself will.
            let full = (self.probe)().is_ok_and(|(free, total)| {
                free < if self.min_free == 0 { 0 } else { self.min_free.max(total / SHARE) }
            });
            if full != self.full {
                self.full = full;
                if full {
                    tracing::error!("too little disk space, store not written");
                } else {
                    tracing::info!("disk space again, store written");
                }
            }
        }
        !self.full
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn writing_stops_below_the_reserve_and_goes_on_by_itself() {
        let free = Cell::new(1000);
        let mut space = Space::new(500, || Ok((free.get(), 2000)));
        assert!(space.allows(1));
        free.set(499);
        assert!(!space.allows(COMMITS));
        assert!(!space.allows(1));
        free.set(500);
        assert!(space.allows(1));
    }

    #[test]
    fn half_a_percent_of_a_large_disk_is_kept() {
        assert!(!Space::new(1, || Ok((4, 1000))).allows(1));
        assert!(Space::new(1, || Ok((5, 1000))).allows(1));
        assert!(Space::new(0, || Ok((0, 1000))).allows(1));
    }

    #[test]
    fn an_unknown_amount_is_no_reason_to_stop() {
        assert!(Space::new(1, || Err(io::ErrorKind::Unsupported.into())).allows(1));
    }
}
