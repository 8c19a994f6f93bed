//! How much of the pool of huge pages a process may have.

use std::path::Path;

/// What its cgroups leave this process of their limits on 2 MiB pages, in bytes. A mapping reserves pages of the pool whatever
/// these limits are; who touches one too many is killed by SIGBUS.
pub(super) fn left_by_cgroups(root: &Path) -> u64 {
    let groups = std::fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    groups.lines().filter_map(|group| left_by(root, group)).min().unwrap_or(u64::MAX)
}

/// `0::/a/b` is a group of the one hierarchy, `8:hugetlb:/a/b` one of those before it. Every group above counts too; in a
/// container the topmost that can be seen is its own.
fn left_by(root: &Path, group: &str) -> Option<u64> {
    let (_, group) = group.split_once(':')?;
    let (controllers, path) = group.split_once(':')?;
    let (mount, [limit, used]) = match controllers {
        "" => ("sys/fs/cgroup", ["hugetlb.2MB.max", "hugetlb.2MB.current"]),
        "hugetlb" => ("sys/fs/cgroup/hugetlb", ["hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.usage_in_bytes"]),
        _ => return None,
    };
    let left = |group: &Path| {
        let place = root.join(mount).join(group.strip_prefix("/").ok()?);
        let number = |name| std::fs::read_to_string(place.join(name)).ok()?.trim().parse::<u64>().ok();
        Some(number(limit)?.saturating_sub(number(used).unwrap_or(0)))
    };
    Path::new(path).ancestors().filter_map(left).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mutants that this catches: one kind of hierarchy only; the process's own group only; a limit without what is used of it.
    #[test]
    fn every_group_above_a_process_counts() {
        let left = |groups: &str, files: &[(&str, &str)]| {
            let root = tempfile::tempdir().unwrap();
            let groups = ("proc/self/cgroup", groups);
            for (file, text) in files.iter().chain([&groups]) {
                let file = root.path().join(file);
                std::fs::create_dir_all(file.parent().unwrap()).unwrap();
                std::fs::write(file, text).unwrap();
            }
            left_by_cgroups(root.path())
        };
        let own = ("sys/fs/cgroup/a/b/hugetlb.2MB.max", "max\n");
        let above =
            [("sys/fs/cgroup/a/hugetlb.2MB.max", "6291456\n"), ("sys/fs/cgroup/a/hugetlb.2MB.current", "2097152\n")];
        assert_eq!(left("0::/a/b\n", &[]), u64::MAX);
        assert_eq!(left("0::/a/b\n", &[own]), u64::MAX);
        assert_eq!(left("0::/a/b\n", &[own, above[0], above[1]]), 4 << 20);
        // In a container: the path is that outside, or `/`.
        let topmost = ("sys/fs/cgroup/hugetlb.2MB.max", "0\n");
        assert_eq!(left("0::/kubepods/x\n", &[topmost]), 0);
        assert_eq!(left("0::/\n", &[topmost]), 0);
        let older = ("sys/fs/cgroup/hugetlb/x/hugetlb.2MB.limit_in_bytes", "4194304\n");
        assert_eq!(left("9:memory:/y\n8:hugetlb:/x\n0::/\n", &[older]), 4 << 20);
    }
}
