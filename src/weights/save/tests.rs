//! Saves from one seed: simulated rings and devices, real files, the tensors' bytes as oracle.

use std::path::PathBuf;
use std::sync::Arc;

use super::*;
use crate::device::{DevicePtr, SimDevice, SimFaults};
use crate::dtype::DType;
use crate::sim::Rng;
use crate::storage::{Faults, SimRing};
use crate::weights::Digest;

const SEEDS: u64 = 150;

struct Owned {
    name: String,
    dtype: DType,
    shape: Vec<u64>,
    bytes: Vec<u8>,
}

fn tensors(rng: &mut Rng) -> Vec<Owned> {
    let types: Vec<DType> = DType::all().filter(|dtype| *dtype != DType::C128).collect();
    let tensor = |number: u64, rng: &mut Rng| {
        let dtype = types[rng.below(types.len() as u64) as usize];
        let shape = match rng.below(5) {
            0 => vec![0, 4],
            1 => vec![8],
            2 => vec![2, 4 * rng.below(500)],
            _ => vec![4 * rng.below(3000)],
        };
        let bytes = dtype.array_bytes(&shape).unwrap();
        let bytes = (0..bytes).map(|_| rng.next_u64() as u8).collect();
        Owned { name: format!("layer.{number}.\"w\""), dtype, shape, bytes }
    };
    (0..rng.below(12)).map(|number| tensor(number, rng)).collect()
}

/// A simulated device with the tensors in its memory, at odd addresses.
fn on_device(sim: &Arc<SimDevice>, device: &Device, tensors: &[Owned]) -> Vec<DevicePtr> {
    let lengths = tensors.iter().map(|tensor| tensor.bytes.len() + 7).sum::<usize>();
    let base = device.raw().allocate(lengths.max(1)).unwrap().base;
    let mut at = base + 3;
    let place = |tensor: &Owned| {
        let here = at;
        sim.store(here, &tensor.bytes);
        at += tensor.bytes.len() as u64 + 7;
        here
    };
    tensors.iter().map(place).collect()
}

fn listing(directory: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

fn check(path: &Path, saved: &Saved, tensors: &[Owned]) {
    let file = std::fs::read(path).unwrap();
    let header = crate::safetensors::read(path).unwrap();
    assert_eq!((header.data_start % 4096, header.tensors.len()), (0, tensors.len()));
    assert_eq!(saved.bytes, file.len() as u64);
    let manifest = saved.manifest.as_ref().unwrap();
    let digests = manifest.file(path).unwrap();
    assert_eq!(digests.digest, Some(Digest::of(Algorithm::Xxh3_64, &file)));
    for tensor in tensors {
        let found = header.tensors.iter().find(|found| found.name == tensor.name).unwrap();
        assert_eq!((found.dtype, &found.shape), (tensor.dtype, &tensor.shape));
        let bytes = &file[found.begin as usize..found.end as usize];
        assert!(bytes == tensor.bytes, "tensor {} is not as it was", tensor.name);
        let digest = digests.tensor(&tensor.name).unwrap();
        assert_eq!((digest.offset, digest.bytes), (found.begin, found.bytes()));
        assert_eq!(digest.digest, Digest::of(Algorithm::Xxh3_64, bytes));
    }
}

#[test]
fn every_seed_saves_exact_bytes_or_leaves_what_was_there() {
    let first = std::env::var("STRAIT_SIM_SEED").ok().and_then(|seed| seed.parse().ok());
    let (mut saves, mut failures) = (0, 0);
    for seed in first.map_or(0..SEEDS, |seed| seed..seed + 1) {
        match one(seed) {
            true => saves += 1,
            false => failures += 1,
        }
    }
    if first.is_none() {
        assert!(saves > SEEDS / 3 && failures > SEEDS / 10, "{saves} saves, {failures} failures");
    }
}

/// Whether the save succeeded.
fn one(seed: u64) -> bool {
    println!("seed {seed}");
    let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let path = directory.path().join("model.safetensors");
    std::fs::write(&path, b"what was there").unwrap();
    let mut rng = Rng::new(seed);
    let tensors = tensors(&mut rng);
    let clock = Clock::simulated();
    let sim = Arc::new(SimDevice::new(seed, clock.clone()));
    let device = Device::new(sim.clone());
    let places = on_device(&sim, &device, &tensors);
    let views = tensors.iter().zip(places).map(|(tensor, place)| match rng.one_in(3) {
        true => SaveTensor::new(&tensor.name, tensor.dtype, &tensor.shape, &tensor.bytes),
        // SAFETY: the simulated device holds the bytes until it is dropped.
        false => unsafe { SaveTensor::on_device(&tensor.name, tensor.dtype, &tensor.shape, place) },
    });
    let views: Vec<SaveTensor<'_>> = views.collect();
    let rare = |rng: &mut Rng, n: u64| if rng.one_in(2) { n } else { 0 };
    let number = 1 + rng.below(20);
    let faults = Faults {
        short: rare(&mut rng, 4),
        again: rare(&mut rng, 8),
        io_error: if rng.one_in(5) { 15 } else { 0 },
        stall: if rng.one_in(12) { 20 } else { 0 },
        flip: 0,
        write_fails: rng.one_in(4).then(|| (number, if rng.one_in(2) { libc::EIO } else { libc::ENOSPC })),
    };
    let at = Some(1 + rng.below(10));
    let device_faults = match rng.below(12) {
        0 => SimFaults { copy_fails: at, ..SimFaults::default() },
        1 => SimFaults { mark_fails: at, ..SimFaults::default() },
        2 => SimFaults { lost: at, ..SimFaults::default() },
        3 => SimFaults { stalls: at, ..SimFaults::default() },
        _ => SimFaults::default(),
    };
    sim.set_faults(device_faults);
    let calm = faults.io_error == 0 && faults.stall == 0 && faults.write_fails.is_none();
    let calm = calm && device_faults.copy_fails.or(device_faults.mark_fails).or(device_faults.lost).is_none();
    let calm = calm && device_faults.stalls.is_none();
    let ring_clock = clock.clone();
    let ring_seed = rng.next_u64();
    let mut make = move |depth| Ok(Box::new(SimRing::new(ring_seed, ring_clock.clone(), depth, faults)) as _);
    let save = Save { clock, ..Save::new(&device) }
        .block_bytes(4096 * (1 + rng.below(4) as usize))
        .writes_in_flight(1 + rng.below(6) as usize)
        .metadata("format", "pt")
        .digests(Algorithm::Xxh3_64, Per::Both);
    let result = save.save_with(&path, &views, Some(&mut make));
    match &result {
        Ok(saved) => check(&path, saved, &tensors),
        Err(error) => {
            assert!(!calm, "seed {seed}: {error}");
            assert_eq!(std::fs::read(&path).unwrap(), b"what was there", "seed {seed}: {error}");
        }
    }
    assert_eq!(listing(directory.path()), [path], "seed {seed}: something was left behind");
    sim.set_faults(SimFaults::default());
    sim.settle();
    assert!(sim.violations().is_empty(), "seed {seed}: {:?}", sim.violations());
    result.is_ok()
}

/// A fault at the first write, the second, and so on: each time either all of the new file or all of the old.
#[test]
fn a_fault_at_every_write() {
    let tensors = tensors(&mut Rng::new(3));
    let views: Vec<SaveTensor<'_>> =
        tensors.iter().map(|t| SaveTensor::new(&t.name, t.dtype, &t.shape, &t.bytes)).collect();
    let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let path = directory.path().join("model.safetensors");
    for number in 1.. {
        std::fs::write(&path, b"what was there").unwrap();
        let clock = Clock::simulated();
        let save = Save { clock: clock.clone(), ..Save::new(&Device::host()) };
        let save = save.block_bytes(4096).writes_in_flight(3).digests(Algorithm::Xxh3_64, Per::Both);
        let faults = Faults { write_fails: Some((number, libc::ENOSPC)), ..Faults::default() };
        let mut make = |depth| Ok(Box::new(SimRing::new(number, clock.clone(), depth, faults)) as _);
        match save.save_with(&path, &views, Some(&mut make)) {
            Ok(saved) => {
                assert!(number > 5, "{number} writes make no test");
                return check(&path, &saved, &tensors);
            }
            Err(error) => {
                let text = error.to_string();
                assert!(text.contains("bytes too few") && text.contains("model.safetensors"), "{text}");
                assert_eq!(std::fs::read(&path).unwrap(), b"what was there");
                assert_eq!(listing(directory.path()), [&*path]);
            }
        }
    }
}

/// A shard that cannot be named, after one that was: that one goes again.
#[test]
fn shards_without_an_index_are_taken_back() {
    let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let path = directory.path().join("model.safetensors");
    let tensors = ["a", "b"].map(|name| SaveTensor::new(name, DType::U8, &[4], &[1; 4]));
    let shards = Shards::plan(&path, &tensors, Some(4)).unwrap();
    let new = shards.files().iter().map(|file| NewFile::small(file, b"whole", None).unwrap()).collect();
    std::fs::create_dir(&shards.files()[1]).unwrap();
    let error = shards.publish(new).unwrap_err();
    assert!(error.to_string().contains("renaming"), "{error}");
    assert_eq!(listing(directory.path()), [&*shards.files()[1]]);
}
