//! Threads and their memory on one NUMA node: the one that a device hangs on.
//!
//! A copy that crosses the bus between sockets takes longer, and so does an interrupt that is served there. A thread that
//! keeps to a node's CPUs and has its memory from there does neither; threads that it starts inherit both.

#[cfg(any(feature = "cuda", test))]
use std::path::Path;

use crate::machine;

/// `MPOL_PREFERRED` (linux/mempolicy.h): from that node if it has any left.
const PREFERRED: libc::c_int = 1;
/// More nodes than this do not exist in one machine.
const NODES_MAX: usize = 1024;
/// Where each node has a directory.
const NODES: &str = "sys/devices/system/node";

/// The node of a device on the PCI bus; sysfs says -1 where a machine has no nodes.
#[cfg(feature = "cuda")]
pub(crate) fn node_of(pci: &str) -> Option<u32> {
    node_in(machine::root(), pci)
}

#[cfg(any(feature = "cuda", test))]
fn node_in(root: &Path, pci: &str) -> Option<u32> {
    let node = root.join("sys/bus/pci/devices").join(pci.to_lowercase()).join("numa_node");
    std::fs::read_to_string(node).ok()?.trim().parse().ok()
}

/// Keeps the calling thread, and what it allocates from now on, to `node`. False, and nothing is changed, where the machine
/// has one node only. An error says why it cannot be.
pub(crate) fn stay_near(node: u32) -> Result<bool, String> {
    if (node as usize) >= NODES_MAX || !machine::root().join(NODES).join("node1").exists() {
        return Ok(false);
    }
    keep_to(node).map(|()| true)
}

fn keep_to(node: u32) -> Result<(), String> {
    let list = std::fs::read_to_string(machine::root().join(format!("{NODES}/node{node}/cpulist")))
        .map_err(|error| format!("the CPUs of NUMA node {node} are not known: {error}"))?;
    // SAFETY: an all-zero set is an empty one.
    let (mut allowed, mut both): (libc::cpu_set_t, libc::cpu_set_t) = unsafe { std::mem::zeroed() };
    let bytes = size_of::<libc::cpu_set_t>();
    // SAFETY: the set outlives the call.
    if unsafe { libc::sched_getaffinity(0, bytes, &raw mut allowed) } != 0 {
        return Err(format!("sched_getaffinity: {}", std::io::Error::last_os_error()));
    }
    let inside = cpus(&list).filter(|&cpu| cpu < 8 * bytes);
    // SAFETY: every number is below the number of bits in a set.
    let near = inside.filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &allowed) });
    // SAFETY: as above.
    let count = near.map(|cpu| unsafe { libc::CPU_SET(cpu, &mut both) }).count();
    if count == 0 {
        return Err(format!("this process may not run on any CPU of NUMA node {node}"));
    }
    // SAFETY: the set outlives the call.
    if unsafe { libc::sched_setaffinity(0, bytes, &raw const both) } != 0 {
        return Err(format!("sched_setaffinity: {}", std::io::Error::last_os_error()));
    }
    let mut mask = [0u64; NODES_MAX / 64];
    mask[node as usize / 64] = 1 << (node % 64);
    // SAFETY: the mask outlives the call, and has as many bits as are said. Where a container forbids the call, memory comes
    // from the thread's own node anyway, as long as there is some.
    unsafe { libc::syscall(libc::SYS_set_mempolicy, PREFERRED, mask.as_ptr(), NODES_MAX) };
    Ok(())
}

/// `0-3,8,10-11` one by one; what is no number is left out.
fn cpus(list: &str) -> impl Iterator<Item = usize> {
    list.trim().split(',').flat_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        match (first.parse::<usize>(), last.parse::<usize>()) {
            (Ok(first), Ok(last)) if last < 1 << 20 => first..last + 1,
            _ => 0..0,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus_are_read_as_the_kernel_writes_them() {
        let all = |list| cpus(list).collect::<Vec<_>>();
        assert_eq!(all("0-3,8,10-11\n"), [0, 1, 2, 3, 8, 10, 11]);
        assert_eq!(all("5"), [5]);
        for nothing in ["", "\n", "x", "3-", "-1", "0-99999999999", "4-2"] {
            assert!(all(nothing).is_empty(), "{nothing:?}");
        }
    }

    #[test]
    fn the_node_of_a_device_is_what_sysfs_says() {
        let root = tempfile::tempdir().unwrap();
        let place = |pci: &str| root.path().join("sys/bus/pci/devices").join(pci);
        for (pci, text, node) in [
            ("0000:1a:00.0", "0\n", Some(0)),
            ("0000:1A:00.0", "13\n", Some(13)),
            ("0001:ff:00.0", "-1\n", None),
            ("0000:01:00.0", "", None),
        ] {
            std::fs::create_dir_all(place(&pci.to_lowercase())).unwrap();
            std::fs::write(place(&pci.to_lowercase()).join("numa_node"), text).unwrap();
            assert_eq!(node_in(root.path(), pci), node, "{pci}");
        }
        assert_eq!(node_in(root.path(), "0000:02:00.0"), None);
    }

    /// Node 0 has CPUs everywhere; on a machine of one node keeping to it changes nothing that can be seen, but works.
    #[test]
    fn a_thread_can_be_kept_to_a_node_and_to_no_other() {
        if !machine::root().join(NODES).join("node0/cpulist").exists() {
            return eprintln!("SKIPPED: no NUMA nodes in sysfs");
        }
        let kept = std::thread::spawn(|| keep_to(0)).join().unwrap();
        kept.unwrap();
        let error = std::thread::spawn(|| keep_to(1000)).join().unwrap().unwrap_err();
        assert!(error.contains("NUMA node 1000"), "{error}");
        assert_eq!(stay_near(u32::MAX), Ok(false));
    }
}
