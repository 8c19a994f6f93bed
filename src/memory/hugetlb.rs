//! How much of the pool of huge pages a process may have.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

const HUGE: usize = 2 << 20;

/// What this process's mappings may still fault in. Other processes of its cgroups have promises of their own, which cannot be
/// seen: where two of them share a limit and both reserve before they fault in, it can still be passed.
pub(super) static PROMISED: Promises = Promises(Mutex::new(BTreeMap::new()));

/// The mappings whose pages come from the pool as they are touched: base and length in bytes. A cgroup charges a page when it
/// comes, so that what is charged says nothing of those.
pub(super) struct Promises(Mutex<BTreeMap<usize, usize>>);

impl Promises {
    /// Whether the cgroups leave room for all of a mapping of `bytes` at `base`, beside what `absent` says that the others are
    /// still without, in bytes. If so, the mapping is one of them from now on.
    pub(super) fn claim(
        &self,
        root: &Path,
        (base, bytes): (usize, usize),
        absent: impl Fn(usize, usize) -> u64,
    ) -> bool {
        let mut promised = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        promised.remove(&base); // what was there before is gone, see `forget`
        let fits = left_by_cgroups(root) == u64::MAX || {
            // Before what is charged: a page that comes meanwhile counts twice, and not never.
            let absent: u64 = promised.iter().map(|(&base, &bytes)| absent(base, bytes)).sum();
            left_by_cgroups(root).saturating_sub(absent) >= bytes as u64
        };
        if fits {
            promised.insert(base, bytes);
        }
        fits
    }

    /// The mapping at `base`, if it is one of them, has all its pages, or is about to go.
    pub(super) fn forget(&self, base: usize) {
        // Does not wait: a child of fork may have inherited the lock from a thread that it has not. A mapping that is gone and
        // still in here lacks no page, unless another is in its place: then some room is left unused.
        if let Ok(mut promised) = self.0.try_lock() {
            promised.remove(&base);
        }
    }
}

/// How many bytes of a mapping of huge pages have not come yet; none where there is no mapping.
pub(super) fn absent(base: usize, bytes: usize) -> u64 {
    let is_absent = |page: &usize| {
        let mut resident = 0u8;
        // SAFETY: the answer for one page is one byte; the range itself is not touched, and need not be mapped.
        unsafe { libc::mincore(*page as *mut libc::c_void, 1, &raw mut resident) == 0 && resident & 1 == 0 }
    };
    (base..base + bytes).step_by(HUGE).filter(is_absent).count() as u64 * HUGE as u64
}

/// What its cgroups leave this process of their limits on 2 MiB pages, in bytes. A mapping reserves pages of the pool whatever
/// these limits are; who touches one too many is killed by SIGBUS.
fn left_by_cgroups(root: &Path) -> u64 {
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

    /// Mutants that this catches: what others are still to fault in is there for all; what they have faulted in counts twice; a
    /// refused mapping has its room all the same; one that went still has it.
    #[test]
    fn mappings_that_are_not_there_yet_have_their_room() {
        let root = tempfile::tempdir().unwrap();
        let place = root.path().join("sys/fs/cgroup");
        std::fs::create_dir_all(&place).unwrap();
        std::fs::create_dir_all(root.path().join("proc/self")).unwrap();
        std::fs::write(root.path().join("proc/self/cgroup"), "0::/\n").unwrap();
        let set = |file: &str, pages: usize| std::fs::write(place.join(file), (pages * HUGE).to_string()).unwrap();
        set("hugetlb.2MB.max", 8);
        let promises = Promises(Mutex::default());
        // Of the mapping at 1 so many pages have come, of others none.
        let claim = |base, pages, come: usize| {
            set("hugetlb.2MB.current", come);
            let absent = |base, bytes| (bytes - if base == 1 { come * HUGE } else { 0 }) as u64;
            promises.claim(root.path(), (base, pages * HUGE), absent)
        };
        assert!(claim(1, 5, 0), "8 pages are left");
        assert!(!claim(2, 4, 0), "3 are left");
        assert!(claim(3, 2, 4) && claim(4, 1, 5), "3 were left, however many of the first have come");
        assert!(!claim(5, 1, 5), "none is left");
        promises.forget(3);
        assert!(claim(5, 2, 5));
    }

    /// Mutant that this catches: pages that came and those that did not are told apart the other way around.
    #[test]
    fn pages_that_have_not_come_are_counted() {
        let bytes = 4 * HUGE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a fresh mapping at an address of the kernel's choice; one byte of its second 2 MiB is written, no other is
        // used. With 2 MiB more the range counted begins at any page, and is inside.
        unsafe {
            let at = libc::mmap(std::ptr::null_mut(), bytes + HUGE, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
            assert_ne!(at, libc::MAP_FAILED);
            let base = (at as usize).next_multiple_of(HUGE);
            assert_eq!(absent(base, bytes), bytes as u64);
            ((base + HUGE) as *mut u8).write(1);
            assert_eq!(absent(base, bytes), 3 * HUGE as u64);
            assert_eq!(libc::munmap(at, bytes + HUGE), 0);
        }
    }
}
