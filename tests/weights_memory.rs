//! A load takes the memory of its tensors, its slabs, and little more. A test binary of its own: it looks at the process.

mod common;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use common::disk_directory;
use strait::weights::Checkpoint;
use strait::{DType, Device, PathChoice};

const MIB: u64 = 1 << 20;
/// One test at a time: memory is the whole process's.
static ALONE: Mutex<()> = Mutex::new(());

/// A file of `count` tensors of `bytes` zeros each, which takes no room on disk.
fn sparse(path: &Path, count: u64, bytes: u64) {
    let entry = |i| {
        let (begin, end) = (i * bytes, (i + 1) * bytes);
        format!(r#""t{i}":{{"dtype":"F32","shape":[{}],"data_offsets":[{begin},{end}]}}"#, bytes / 4)
    };
    let header = format!("{{{}}}", (0..count).map(entry).collect::<Vec<_>>().join(","));
    let header = format!("{header}{}", " ".repeat((8 - header.len() % 8) % 8));
    let file = File::create(path).unwrap();
    file.write_at(&(header.len() as u64).to_le_bytes(), 0).unwrap();
    file.write_at(header.as_bytes(), 8).unwrap();
    file.set_len(8 + header.len() as u64 + count * bytes).unwrap();
}

/// Most memory that this process has had in RAM at once, since the last reset.
fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

fn reset_peak() -> bool {
    std::fs::write("/proc/self/clear_refs", "5").is_ok()
}

/// Mutants that this catches: slabs for the direct path too; a slab for each window.
#[test]
fn memory_is_that_of_the_tensors_and_the_slabs() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let directory = disk_directory();
    let path = directory.path().join("m.safetensors");
    sparse(&path, 12, 8 * MIB);
    let checkpoint = Checkpoint::open(&path).unwrap();
    let tensor_bytes = checkpoint.bytes();
    for (path, slab_bytes) in [(PathChoice::Auto, 0), (PathChoice::Staged, 16 * MIB)] {
        if !reset_peak() {
            return eprintln!("skipped: /proc/self/clear_refs cannot be written here");
        }
        let before = peak_bytes();
        let builder = checkpoint.load().device(Device::host()).path(path).pinned_bytes_max(16 * MIB).block_bytes(MIB);
        let tensors = builder.load_all().unwrap();
        assert!(tensors.iter().all(|tensor| tensor.dtype() == DType::F32 && tensor.bytes() == 8 * MIB));
        let stats = tensors.stats();
        assert_eq!(stats.pinned_bytes_max, slab_bytes, "{path:?}");
        let blocks = if path == PathChoice::Auto { 2 * 4096 } else { 0 };
        assert!((tensor_bytes..=tensor_bytes + blocks).contains(&stats.region_bytes), "{}", stats.region_bytes);
        let grown = peak_bytes() - before;
        assert!(grown <= tensor_bytes + slab_bytes + 64 * MIB, "{path:?}: {} MiB", grown / MIB);
        assert!(grown >= tensor_bytes, "it was not all there: {} MiB", grown / MIB);
    }
}

/// The checkpoint may be larger than memory: what is not asked for takes none.
#[test]
fn what_is_not_asked_for_takes_no_memory() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let directory = disk_directory();
    let path = directory.path().join("m.safetensors");
    sparse(&path, 1000, 64 * MIB);
    let checkpoint = Checkpoint::open(&path).unwrap();
    assert_eq!(checkpoint.bytes(), 64_000 * MIB);
    let builder = checkpoint.load().device(Device::host()).names(["t999"]);
    let tensors = builder.part(|info, _| strait::weights::Part::share(info, 0, 3, 16)).load_all().unwrap();
    assert_eq!((tensors.iter().next().unwrap().bytes(), tensors.len()), (4 * MIB, 1));
    assert!(tensors.stats().bytes_read <= 4 * MIB + 8192 && tensors.stats().region_bytes <= 4 * MIB + 8192);
}
