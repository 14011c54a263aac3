//! Reads the resource usage of this process from `/proc`.

/// The resource usage of this process. A figure that the system does not provide is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Resources {
    /// Resident memory, bytes.
    pub resident: Option<u64>,
    /// Processor time, seconds, user and system.
    pub cpu_s: Option<f64>,
    /// Open file descriptors.
    pub descriptors: Option<u64>,
    /// The limit of open file descriptors.
    pub most_descriptors: Option<u64>,
}

/// The kernel reports times in hundredths of a second, whatever its internal tick rate.
const TICKS: f64 = 100.0;

/// Reads the current usage. Reading files of `/proc` does not block.
pub fn resources() -> Resources {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/self/{name}"));
    let files = std::fs::read_dir("/proc/self/fd").ok();
    Resources {
        resident: read("status").ok().as_deref().and_then(resident),
        cpu_s: read("stat").ok().as_deref().and_then(cpu_s),
        // The count includes the descriptor of the directory that is being read.
        descriptors: files.map(|files| files.count().saturating_sub(1) as u64),
        most_descriptors: read("limits").ok().as_deref().and_then(most_descriptors),
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

/// Parses fields 14 and 15 of `/proc/self/stat`. Field 2 is the program's name, which may contain
/// any character.
fn cpu_s(stat: &str) -> Option<f64> {
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<f64>().ok();
    Some((ticks()? + ticks()?) / TICKS)
}

/// Parses the soft limit of `/proc/self/limits`. `None` where it is unlimited.
fn most_descriptors(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_files_are_read() {
        let status = "Name:\tcalmirror\nVmRSS:\t    2048 kB\nThreads:\t3\n";
        assert_eq!(resident(status), Some(2 << 20));
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 3 0 9";
        assert_eq!(cpu_s(stat), Some(2.0));
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max open files            1024                 524288               files     \n";
        assert_eq!(most_descriptors(limits), Some(1024));
        for nonsense in ["", "VmRSS:", ")", "Max open files"] {
            assert_eq!((resident(nonsense), cpu_s(nonsense)), (None, None));
            assert_eq!(most_descriptors(nonsense), None);
        }
    }

    #[test]
    fn this_process_takes_something() {
        let Resources { resident, cpu_s, descriptors, .. } = resources();
        assert!(resident.is_some_and(|bytes| bytes > 1 << 20));
        assert!(cpu_s.is_some_and(|s| s >= 0.0));
        assert!(descriptors.is_some_and(|n| n >= 3));
    }
}
