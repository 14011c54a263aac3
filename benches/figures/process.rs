//! The kernel's figures of a process: processor time, resident memory, bytes written.
//!
//! They come from `/proc`, which separates the daemon's share from the simulator's.

use std::fs;
use std::time::Duration;

/// Linux reports processor time to user space in hundredths of a second, whatever its own tick.
const TICKS: u64 = 100;

/// Processor time of a process with all its threads, user and system, with a resolution of 10 ms.
pub(crate) fn cpu(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process is running");
    // The second field, the name in brackets, may contain anything; utime and stime are the 14th
    // and 15th.
    let (_, rest) = stat.rsplit_once(')').expect("a name in brackets");
    let ticks: u64 =
        rest.split_whitespace().skip(11).take(2).map(|f| f.parse::<u64>().expect("ticks")).sum();
    Duration::from_millis(ticks * 1000 / TICKS)
}

/// Processor time of this thread, with the resolution of the scheduler's clock.
pub(crate) fn thread_cpu() -> Duration {
    let stat = fs::read_to_string("/proc/thread-self/schedstat").expect("schedstat");
    let nanos = stat.split_whitespace().next().and_then(|n| n.parse().ok()).expect("nanoseconds");
    Duration::from_nanos(nanos)
}

/// Bytes that a process has written to disks so far.
pub(crate) fn written(pid: u32) -> u64 {
    let io = fs::read_to_string(format!("/proc/{pid}/io")).expect("the process is running");
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: ")).expect("write_bytes");
    line.parse().expect("bytes")
}

/// Resident memory of a process, bytes.
pub(crate) fn resident(pid: u32) -> u64 {
    memory(pid, "VmRSS:")
}

/// The highest resident memory of a process so far, bytes.
pub(crate) fn peak(pid: u32) -> u64 {
    memory(pid, "VmHWM:")
}

fn memory(pid: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process is running");
    let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a line");
    let kib = line.trim().trim_end_matches(" kB").parse::<u64>().expect("kB");
    kib * 1024
}
