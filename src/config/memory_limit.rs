//! How much memory this process may use: what the machine has, or what its control group allows.

use std::path::Path;

/// Bytes of memory that this process may use; `None` if the system does not say it.
pub(super) fn memory_limit() -> Option<u64> {
    let read = |path: &Path| std::fs::read_to_string(path).ok();
    let machine = in_machine(&read(Path::new("/proc/meminfo"))?)?;
    let groups = read(Path::new("/proc/self/cgroup")).unwrap_or_default();
    Some(in_groups(&groups, read).map_or(machine, |group| group.min(machine)))
}

/// Parses `/proc/meminfo`.
fn in_machine(info: &str) -> Option<u64> {
    let total = info.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    total.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The smallest limit of the groups in `/proc/self/cgroup` and all groups above them, because each
/// of them applies. In a container the paths may be those of the host, which it does not have; its
/// own group is then the root.
fn in_groups(groups: &str, read: impl Fn(&Path) -> Option<String>) -> Option<u64> {
    let groups = groups.lines().filter_map(|line| {
        let (_, group) = line.split_once(':')?;
        let (controllers, path) = group.split_once(':')?;
        // Version 2 has one hierarchy, which names no controllers; version 1 one for each.
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            _ if controllers.split(',').any(|name| name == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => return None,
        };
        Some((root, path.strip_prefix('/')?, file))
    });
    // Without a limit the file says `max`, or a number beyond any machine.
    let limits = groups.flat_map(|(root, path, file)| {
        let limit =
            |group: &Path| read(&Path::new(root).join(group).join(file))?.trim().parse().ok();
        Path::new(path).ancestors().filter_map(limit).collect::<Vec<u64>>()
    });
    limits.min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_the_machine_is_read() {
        let info = "MemTotal:       24029092 kB\nMemFree:        1 kB\n";
        assert_eq!(in_machine(info), Some(24_029_092 << 10));
        for nonsense in ["", "MemTotal: lots kB", "MemTotal: 5"] {
            assert_eq!(in_machine(nonsense), None);
        }
    }

    #[test]
    fn the_smallest_limit_on_the_way_to_the_root_counts() {
        let files = [
            ("/sys/fs/cgroup/memory.max", "1"),
            ("/sys/fs/cgroup/system.slice/memory.max", "900\n"),
            ("/sys/fs/cgroup/system.slice/calmirror.service/memory.max", "max\n"),
            ("/sys/fs/cgroup/system.slice/other.service/memory.max", "5\n"),
            ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("/sys/fs/cgroup/memory/docker/memory.limit_in_bytes", "800\n"),
            ("/sys/fs/cgroup/memory/docker/a/memory.limit_in_bytes", "700\n"),
        ];
        let limit = |groups: &str, from: usize| {
            in_groups(groups, |path| {
                let found = files[from..].iter().find(|(name, _)| Path::new(name) == path);
                found.map(|(_, text)| (*text).to_owned())
            })
        };
        // Version 2. The root of a machine has no such file; that of a container has one.
        assert_eq!(limit("0::/system.slice/calmirror.service\n", 1), Some(900));
        assert_eq!(limit("0::/system.slice/other.service\n", 1), Some(5));
        assert_eq!(limit("0::/user.slice\n", 1), None);
        assert_eq!(limit("0::/\n", 0), Some(1));
        // Version 1, alone and beside version 2.
        let groups = "5:cpu,cpuacct:/docker/b\n4:memory:/docker/a\n0::/docker\n";
        assert_eq!(limit(groups, 1), Some(700));
        assert_eq!(limit("4:hugetlb,memory:/docker/unknown", 1), Some(800));
        assert_eq!(limit("4:memory:/host/path", 1), Some(9_223_372_036_854_771_712));
        for nonsense in ["", "\n", "4:memory", "memory", "0::relative", "4:memory:"] {
            assert_eq!(limit(nonsense, 0), None, "{nonsense}");
        }
    }
}
