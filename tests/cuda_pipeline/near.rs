//! Engines on the NUMA nodes of their devices, each on its own.

use std::path::{Path, PathBuf};

use strait::weights::Checkpoint;
use strait::{Device, RingChoice};

use super::Bed;
use crate::stand_in::{take, wait_for_engines};

/// What stands in for `/`: in its sysfs a node for each device, with a CPU; the first device is on the second node.
const ROOT: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/machine-of-two-nodes");

/// CPUs, as the kernel lists them.
fn allowed(thread: &Path) -> String {
    let status = std::fs::read_to_string(thread.join("status")).unwrap();
    status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap().trim().into()
}

fn pretend(cpus: [&str; 2]) {
    let write = |name: String, text: &str| {
        let path = Path::new(ROOT).join("sys").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    for (node, slot) in ["1b", "1a"].into_iter().enumerate() {
        write(format!("bus/pci/devices/0000:{slot}:00.0/numa_node"), &format!("{node}\n"));
        write(format!("devices/system/node/node{node}/cpulist"), &format!("{}\n", cpus[node]));
    }
    strait::machine::pretend(Path::new(ROOT));
}

/// Whether it can be said, and seen, where memory is to come from: containers may forbid it.
fn may_prefer() -> bool {
    // SAFETY: no mask is read. Nothing changes for this thread, which never said otherwise.
    let may = unsafe { libc::syscall(libc::SYS_set_mempolicy, 0, std::ptr::null::<u64>(), 0) } == 0;
    let may = may && Path::new("/proc/self/numa_maps").exists();
    if !may {
        eprintln!("SKIPPED: where memory comes from");
    }
    may
}

/// The threads of a loader: its engine's, and those that this one started.
fn threads() -> Vec<PathBuf> {
    let all = std::fs::read_dir("/proc/self/task").unwrap().map(|thread| thread.unwrap().path());
    let ours = |thread: &PathBuf| std::fs::read_to_string(thread.join("comm")).is_ok_and(|c| c.starts_with("strait-"));
    all.filter(ours).collect()
}

/// Mutants that this catches: a device of no node; one whose node is its ordinal, or always the first; an engine that runs
/// anywhere; one whose memory comes from anywhere.
#[test]
fn an_engine_its_threads_and_its_memory_are_near_its_device() {
    let (fake, _alone) = take();
    let bed = Bed::new(&fake);
    let everywhere = allowed(Path::new("/proc/thread-self"));
    let cpus: Vec<&str> = everywhere.split([',', '-']).collect();
    let [first, last] = [cpus[0], cpus[cpus.len() - 1]];
    if first == last {
        return eprintln!("SKIPPED: one CPU is near everything");
    }
    pretend([last, first]);
    fake.pci_domain(0);
    for (ordinal, node, cpu) in [(0, 1, first), (1, 0, last)] {
        wait_for_engines();
        let device = Device::cuda(ordinal).unwrap();
        let mut loader = bed.builder(&device).ring(RingChoice::Pread).build().unwrap();
        assert_eq!(loader.stats().numa_node, Some(node));
        assert!(loader.epoch(0).all(|batch| batch.is_ok()));
        let threads = threads();
        assert!(threads.len() > 1, "{threads:?}");
        for thread in threads {
            assert_eq!(allowed(&thread), cpu, "cuda:{ordinal}");
            // A machine of one node prefers no other.
            if node == 0 && may_prefer() {
                let policy = std::fs::read_to_string(thread.join("numa_maps")).unwrap();
                assert!(!policy.contains(" default") && policy.contains(" prefer"), "{policy}");
            }
        }
        assert_eq!(allowed(Path::new("/proc/thread-self")), everywhere, "the consumer's thread");
        drop(loader);
        let header = r#"{"t":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}}"#;
        let file = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), b"abc"].concat();
        std::fs::write(bed.path().join("t.safetensors"), file).unwrap();
        let weights = Checkpoint::open(bed.path()).unwrap().load().device(device).start().unwrap();
        assert_eq!(weights.stats().numa_node, Some(node), "of weights");
    }
    bed.nothing_is_left(&fake);
}
