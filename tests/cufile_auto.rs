//! cuFile that reads without a detour is chosen by itself; tests/cufile_pipeline.rs has what it does then. A process of its
//! own: the library is opened once, and keeps its mode.
#![cfg(feature = "cuda")]

mod common;
#[path = "stand_in/cufile.rs"]
mod cufile;
mod stand_in;

use std::path::Path;

use strait::{Dataset, Device, Loader, PathChoice, RingChoice};

/// Mutants that this catches: a trial of the first shard alone, and one on a thread without a context.
#[test]
fn cufile_is_chosen_where_it_reads_without_a_detour() {
    let (cuda, _alone) = stand_in::take();
    let (storage, _alone_too) = cufile::take();
    storage.set("direct", 1);
    let directory = common::disk_directory();
    let path = common::write_shard(directory.path(), 3, 1 << 20);
    storage.lies_on(&path, "vda");
    let of = |path: &Path| {
        let dataset = Dataset::records(&[path], 8192).unwrap();
        Loader::builder(dataset).batch_size(8).device(Device::cuda(1).unwrap())
    };
    let builder = || of(&path);
    assert_eq!(builder().build().unwrap().stats().path, "staged");
    assert!(!storage.is_open(), "a driver opened for files that it would not read directly");
    storage.lies_on(&path, "nvme0n1");
    let stats = builder().build().unwrap().stats();
    if stats.fallbacks.iter().any(|fallback| fallback.reason.contains("neither ext4 nor XFS")) {
        return eprintln!("SKIPPED: {} is on another file system", path.display());
    }
    assert_eq!((stats.path, stats.ring), ("direct", "cufile"), "{:?}", stats.fallbacks);
    assert!(stats.path_reason.contains("cuFile"), "{}", stats.path_reason);
    assert!(stats.fallbacks.is_empty());
    let reads = storage.live()[3];
    for (ring, path) in [(RingChoice::Pread, PathChoice::Auto), (RingChoice::Auto, PathChoice::Staged)] {
        let stats = builder().ring(ring).path(path).build().unwrap().stats();
        assert_eq!(stats.path, "staged", "{ring:?}");
    }
    assert_eq!(storage.live()[3], reads, "tried where it was not wanted");
    // Nothing tells whether cuFile reads these through host memory: what it gives is right.
    let memory = match common::mount::memory_directory() {
        Ok(memory) => memory,
        Err(why) => return eprintln!("SKIPPED: {why}"),
    };
    let in_memory = common::write_shard(memory.path(), 3, 1 << 20);
    storage.lies_on(&in_memory, "nvme0n1");
    storage.lies_on(&path, "vda");
    for (path, why) in [(&in_memory, "neither ext4 nor XFS"), (&path, "on vda, which is no NVMe drive")] {
        let stats = of(path).build().unwrap().stats();
        assert_eq!(stats.path, "staged", "{why}");
        assert!(stats.fallbacks[0].to_string().contains(why), "{}", stats.fallbacks[0]);
        // Whoever asks for it has it.
        let asked = of(path).ring(RingChoice::Cufile).build().unwrap().stats();
        assert_eq!((asked.path, asked.ring), ("direct", "cufile"), "{why}");
    }
    storage.lies_on(&path, "nvme0n1");
    // One shard of each file system is looked at.
    let both = Dataset::records(&[&path, &in_memory], 8192).unwrap();
    let stats = Loader::builder(both).batch_size(8).device(Device::cuda(1).unwrap()).build().unwrap().stats();
    let (told, its) = (stats.fallbacks[0].to_string(), in_memory.display().to_string());
    assert!(stats.path == "staged" && told.contains(&its) && told.contains("neither ext4 nor XFS"), "{told}");
    // Not trusted where it reads something else.
    storage.set("wrong_byte", 5000);
    let stats = builder().build().unwrap().stats();
    assert_eq!(stats.path, "staged");
    assert!(stats.fallbacks[0].to_string().contains("other bytes than pread"), "{}", stats.fallbacks[0]);
    stand_in::wait_for_engines();
    assert_eq!((cuda.misuse().as_str(), storage.misuse().as_str()), ("", ""));
}
