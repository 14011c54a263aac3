//! Reads the resource usage of this process.

use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

/// The resource usage of this process. A figure that the system does not provide is `None`.
#[derive(Clone, Copy, Debug)]
pub struct Resources {
    /// Resident memory, bytes.
    pub resident: Option<u64>,
    /// Processor time, seconds, user and system.
    pub cpu_s: f64,
    /// Open file descriptors.
    pub descriptors: Option<u64>,
    /// The soft limit of open file descriptors. `None` where it is unlimited.
    pub most_descriptors: Option<u64>,
}

/// Reads the current usage. Reading files of `/proc` does not block.
pub fn resources() -> Resources {
    let status = std::fs::read_to_string("/proc/self/status").ok();
    let cpu = clock_gettime(ClockId::ProcessCPUTime);
    let files = std::fs::read_dir("/proc/self/fd").ok();
    Resources {
        resident: status.as_deref().and_then(resident),
        cpu_s: cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9,
        // The count includes the descriptor of the directory that is being read.
        descriptors: files.map(|files| files.count().saturating_sub(1) as u64),
        most_descriptors: getrlimit(Resource::Nofile).current,
    }
}

/// Disables transparent huge pages for this process. With huge pages the allocator keeps memory
/// resident of which little is used. If the kernel refuses, only memory usage suffers.
pub fn without_huge_pages() {
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::debug!(%error, "cannot disable transparent huge pages");
    }
}

/// Parses `/proc/self/status`.
fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_format_is_parsed() {
        let status = "Name:\tcalmirror\nVmRSS:\t    2048 kB\nThreads:\t3\n";
        assert_eq!(resident(status), Some(2 << 20));
        for nonsense in ["", "VmRSS:"] {
            assert_eq!(resident(nonsense), None);
        }
    }

    #[test]
    fn the_usage_of_this_process_is_not_zero() {
        let Resources { resident, cpu_s, descriptors, most_descriptors } = resources();
        assert!(resident.is_some_and(|bytes| bytes > 1 << 20));
        assert!(cpu_s > 0.0);
        assert!(descriptors.is_some_and(|n| n >= 3));
        assert!(most_descriptors.is_none_or(|most| Some(most) >= descriptors));
    }
}
