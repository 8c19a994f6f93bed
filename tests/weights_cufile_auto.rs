//! Weights take cuFile by themselves where it reads without a detour; tests/weights_cufile.rs has what it does then. A
//! process of its own: the library is opened once, and keeps its mode.
#![cfg(feature = "cuda")]

mod checkpoints;
mod common;
#[path = "stand_in/cufile.rs"]
mod cufile;
mod stand_in;

use std::sync::Arc;

use checkpoints::{Made, pad_to, write};
use strait::sim::Rng;
use strait::weights::{Algorithm, Builder, Checkpoint, Digest, FileDigests, Manifest, Place, Tensors};
use strait::{DType, Device, PathChoice, RingChoice, Stats};

fn load(builder: Builder, made: &[Made]) -> (Stats, Tensors) {
    let tensors = builder.load_all().unwrap();
    for tensor in tensors.iter() {
        let made = made.iter().find(|made| made.name == tensor.name()).unwrap();
        assert!(tensor.read_back().unwrap() == made.bytes, "wrong bytes in {}", made.name);
    }
    (tensors.stats().clone(), tensors)
}

/// Staged, and exactly one reason why not by cuFile.
fn staged_because(builder: Builder, made: &[Made], words: &str) {
    let (stats, _) = load(builder, made);
    assert_eq!(stats.path, "staged", "{words}");
    let refusals = stats.fallbacks.iter().filter(|fallback| fallback.instead.contains("cuFile")).collect::<Vec<_>>();
    let [refusal] = refusals[..] else { panic!("{words}: {:?}", stats.fallbacks) };
    assert!(refusal.to_string().contains(words) && !refusal.remedy.is_empty(), "{refusal}");
}

#[test]
fn cufile_is_taken_where_it_reads_without_a_detour() {
    let (cuda, _alone) = stand_in::take();
    let (storage, _alone_too) = cufile::take();
    storage.set("direct", 2);
    let directory = common::disk_directory();
    storage.lies_on(directory.path(), "nvme0n1");
    let mut rng = Rng::new(1);
    let mut made: Vec<Made> = (0..3).map(|i| Made::new(&mut rng, format!("t{i}"), DType::F16, &[1000, 700])).collect();
    write(directory.path(), "a.safetensors", &made, pad_to(&made, 24));
    let device = Device::cuda(1).unwrap();
    let builder = || Checkpoint::open(directory.path()).unwrap().load().device(device.clone()).block_bytes(256 << 10);
    let (stats, tensors) = load(builder(), &made);
    if stats.fallbacks.iter().any(|fallback| fallback.reason.contains("neither ext4 nor XFS")) {
        return eprintln!("SKIPPED: {} is on another file system", directory.path().display());
    }
    assert_eq!((stats.path, stats.ring, stats.bytes_copied), ("direct", "cufile", 0), "{:?}", stats.fallbacks);
    assert!(stats.path_reason.contains("cuFile") && stats.fallbacks.is_empty(), "{}", stats.path_reason);
    drop(tensors);

    // Not tried where it was not wanted, or where nothing is to be gained.
    let reads = storage.live()[3];
    for builder in [
        builder().ring(RingChoice::Pread),
        builder().path(PathChoice::Staged),
        builder().devices(vec![device.clone(), Device::cuda(0).unwrap()]),
        builder().part(|info, _| strait::weights::Part::Slice { dim: 0, from: 0, to: info.shape[0] / 4 }),
    ] {
        let stats = builder.load_all().unwrap().stats().clone();
        let of_cufile = stats.fallbacks.iter().any(|fallback| fallback.instead.contains("cuFile"));
        assert_eq!((stats.path, of_cufile), ("staged", false), "{:?}", stats.fallbacks);
    }
    assert_eq!(storage.live()[3], reads, "tried where it was not wanted");

    // The CPU has to see what is checked.
    let bytes = std::fs::read(directory.path().join("a.safetensors")).unwrap();
    let digests = FileDigests {
        name: Some("a.safetensors".into()),
        bytes: Some(bytes.len() as u64),
        digest: Some(Digest::of(Algorithm::Xxh3_64, &bytes)),
        tensors: Vec::new(),
    };
    staged_because(builder().verify(Manifest::new(vec![digests]).unwrap()), &made, "verify was asked for");

    // A block as long as the tensors, and no longer, was enough before there was cuFile.
    let exact: u64 = made.iter().map(|made| made.bytes.len() as u64).sum();
    let memory = device.raw().allocate(exact as usize).unwrap();
    let place = Place { ptr: memory.base, bytes: exact, owner: Arc::new(()) };
    // SAFETY: the memory is this test's alone, and freed behind the tensors.
    staged_because(unsafe { builder().block(0, place) }, &made, "block_sizes");
    stand_in::wait_for_engines();
    // SAFETY: nothing writes to it any more.
    unsafe { device.raw().free(memory) };

    // More than cuFile registers goes through slabs.
    storage.set("register_bytes_max", 1 << 20);
    staged_because(builder(), &made, "cuFileBufRegister");
    storage.set("register_bytes_max", 0);

    // Not trusted where it reads something else.
    storage.set("wrong_byte", 5000);
    staged_because(builder(), &made, "other bytes than pread");
    storage.set("wrong_byte", 0);

    // Short tensors besides: through slabs, beside the others.
    let small: Vec<Made> = (0..5).map(|i| Made::new(&mut rng, format!("s{i}"), DType::F32, &[100, 7])).collect();
    write(directory.path(), "b.safetensors", &small, pad_to(&small, 0));
    made.extend(small);
    let (stats, _) = load(builder(), &made);
    assert_eq!((stats.path, stats.bytes_copied), ("direct", 5 * 2800));
    assert!(stats.ring.starts_with("cufile and ") && stats.path_reason.contains("5 of 8"), "{stats:?}");
    drop(device);
    stand_in::wait_for_engines();
    assert_eq!((cuda.misuse().as_str(), storage.misuse().as_str()), ("", ""));
}
