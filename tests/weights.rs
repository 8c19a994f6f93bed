//! Checkpoints of any make come to each device as they are on disk, by the word of the safetensors crate and of the bytes
//! that were written.

mod checkpoints;
mod common;

use std::path::Path;
use std::sync::Arc;

use checkpoints::{Made, any_tensor, pad_to, write};
use common::disk_directory;
use safetensors::SafeTensors;
use strait::device::SimDevice;
use strait::sim::{Clock, Rng};
use strait::weights::{Algorithm, Builder, Checkpoint, Hash, Load, Per, Tensors};
use strait::{DType, Device, PathChoice, RingChoice};

fn check(tensors: &Tensors, made: &[Made]) {
    assert_eq!(tensors.len(), made.len());
    for made in made {
        let tensor = tensors.get(&made.name).unwrap();
        assert_eq!((tensor.dtype(), tensor.shape()), (made.dtype, &made.shape[..]), "{}", made.name);
        assert!(tensor.read_back().unwrap() == made.bytes, "wrong bytes in {}", made.name);
        let align = made.dtype.bytes().unwrap_or(1);
        assert!(made.bytes.is_empty() || tensor.device_ptr().is_multiple_of(align), "{} is not aligned", made.name);
    }
}

/// By the crate of the format.
fn check_against_crate(path: &Path, tensors: &Tensors) {
    let bytes = std::fs::read(path).unwrap();
    for (name, view) in SafeTensors::deserialize(&bytes).unwrap().tensors() {
        let tensor = tensors.get(&name).unwrap();
        let shape: Vec<u64> = view.shape().iter().map(|&len| len as u64).collect();
        assert_eq!((tensor.dtype().name().to_uppercase(), tensor.shape()), (view.dtype().to_string(), &shape[..]));
        assert!(tensor.read_back().unwrap() == view.data(), "wrong bytes in {name}");
    }
}

/// On the host directly, on the host through slabs, by threads, and on a device with late copies.
fn every_way(checkpoint: &Checkpoint, made: &[Made], shape: impl Fn(Builder) -> Builder) {
    let host = || shape(checkpoint.load().device(Device::host()));
    let direct = host().load_all().unwrap();
    check(&direct, made);
    check(&host().path(PathChoice::Staged).load_all().unwrap(), made);
    check(&host().ring(RingChoice::Pread).load_all().unwrap(), made);
    let sim = Arc::new(SimDevice::new(3, Clock::real()));
    let tensors = shape(checkpoint.load().device(Device::new(sim.clone()))).load_all().unwrap();
    check(&tensors, made);
    let exact: u64 = made.iter().map(|made| made.bytes.len() as u64).sum();
    assert_eq!(tensors.stats().region_bytes, exact, "device memory is what was asked for and nothing more");
    drop(tensors);
    assert_eq!((sim.violations(), sim.allocated_bytes()), (Vec::new(), 0));
    for file in checkpoint.files() {
        check_against_crate(&file.path, &direct);
    }
}

#[test]
fn any_mix_at_any_offset() {
    for seed in 0..12 {
        let directory = disk_directory();
        let mut rng = Rng::new(seed);
        let mut made = Vec::new();
        for shard in 0..1 + rng.below(4) {
            let count = rng.below(30);
            let own: Vec<Made> = (0..count).map(|i| any_tensor(&mut rng, format!("{shard}.{i}"), 50_000)).collect();
            let at = rng.below(4096) as usize;
            write(directory.path(), &format!("{shard}.safetensors"), &own, pad_to(&own, at));
            made.extend(own);
        }
        let checkpoint = Checkpoint::open(directory.path()).unwrap();
        let block_bytes = 4096 << rng.below(8);
        every_way(&checkpoint, &made, |builder| builder.block_bytes(block_bytes).bytes_in_flight(1 << 20));
    }
}

/// Sorted and padded as the format's own writer does it: on the host no byte is copied.
#[test]
fn what_the_crate_writes_is_read_in_place() {
    let directory = disk_directory();
    let mut rng = Rng::new(5);
    let dtypes = [DType::F32, DType::BF16, DType::U8, DType::I64, DType::Bool];
    let made: Vec<Made> =
        (0..50).map(|i| Made::new(&mut rng, format!("t{i}"), dtypes[i % 5], &[1 + i as u64, 7])).collect();
    let view = |made: &'_ Made| {
        let dtype = serde_json::from_value(strait::safetensors::dtype_name(made.dtype).into()).unwrap();
        let shape = made.shape.iter().map(|&len| len as usize).collect();
        (made.name.clone(), safetensors::tensor::TensorView::new(dtype, shape, made.bytes.clone().leak()).unwrap())
    };
    let path = directory.path().join("m.safetensors");
    safetensors::serialize_to_file(made.iter().map(view), None, &path).unwrap();
    let tensors = Checkpoint::open(&path).unwrap().load().device(Device::host()).load_all().unwrap();
    check(&tensors, &made);
    let stats = tensors.stats();
    assert_eq!((stats.path, stats.bytes_copied, stats.pinned_bytes_max), ("direct", 0, 0));
    assert_eq!((stats.tensors, stats.bytes_wanted), (50, made.iter().map(|made| made.bytes.len() as u64).sum()));
    assert!(stats.bytes_read < stats.bytes_wanted + 2 * 4096, "{} bytes read", stats.bytes_read);
    assert!(stats.region_bytes < stats.bytes_wanted + 2 * 4096, "{} bytes of memory", stats.region_bytes);
}

/// Where elements lie across their size, the host copies, and says so; elements of one byte lie anywhere.
#[test]
fn an_odd_start_costs_the_host_a_copy() {
    let directory = disk_directory();
    let mut rng = Rng::new(6);
    let made = [
        Made::new(&mut rng, "f32", DType::F32, &[3000]),
        Made::new(&mut rng, "u8", DType::U8, &[5000]),
        Made::new(&mut rng, "f8", DType::F8E4M3, &[5000]),
    ];
    let path = write(directory.path(), "m.safetensors", &made, pad_to(&made, 4095));
    let tensors = Checkpoint::open(&path).unwrap().load().device(Device::host()).load_all().unwrap();
    check(&tensors, &made);
    assert_eq!(tensors.stats().bytes_copied, 12_000);
    assert!(tensors.stats().path_reason.contains("1 of 3"), "{}", tensors.stats().path_reason);
}

#[test]
fn thousands_of_tiny_tensors_share_copies() {
    let directory = disk_directory();
    let mut rng = Rng::new(7);
    let made: Vec<Made> = (0..5000).map(|i| Made::new(&mut rng, format!("t{i}"), DType::F16, &[1 + i % 9])).collect();
    write(directory.path(), "m.safetensors", &made, 1);
    let checkpoint = Checkpoint::open(directory.path()).unwrap();
    every_way(&checkpoint, &made, |builder| builder);
    let sim = Arc::new(SimDevice::new(4, Clock::real()));
    checkpoint.load().device(Device::new(sim.clone())).load_all().unwrap();
    assert!(sim.copies_started() <= 2, "{} copies of neighbours in one slab", sim.copies_started());
}

#[test]
fn a_tensor_larger_than_all_slabs() {
    let directory = disk_directory();
    let mut rng = Rng::new(8);
    let made = [
        Made::new(&mut rng, "small", DType::F64, &[9]),
        Made::new(&mut rng, "large", DType::BF16, &[3, 1 << 20]),
        Made::new(&mut rng, "none", DType::F64, &[0, 9]),
        Made::new(&mut rng, "one", DType::F64, &[]),
    ];
    write(directory.path(), "m.safetensors", &made, 3);
    let checkpoint = Checkpoint::open(directory.path()).unwrap();
    every_way(&checkpoint, &made, |builder| builder.block_bytes(128 << 10).pinned_bytes_max(2 * (128 << 10)));
}

#[test]
fn a_checkpoint_without_tensors_and_one_without_bytes() {
    let directory = disk_directory();
    let mut rng = Rng::new(9);
    write(directory.path(), "a.safetensors", &[], 0);
    let checkpoint = Checkpoint::open(directory.path()).unwrap();
    every_way(&checkpoint, &[], |builder| builder);
    let made = [Made::new(&mut rng, "none", DType::F32, &[0])];
    write(directory.path(), "b.safetensors", &made, 0);
    let checkpoint = Checkpoint::open(directory.path()).unwrap();
    every_way(&checkpoint, &made, |builder| builder);
}

/// Tensors without bytes at the front of a file, between others and at its end: the first read starts at the first that has
/// some, and each is handed over once. Mutants that this catches: a target without bytes among those that are read; a file
/// whose first item is taken for its first tensor's.
#[test]
fn tensors_without_bytes_come_first() {
    for at in [0, 4095] {
        let directory = disk_directory();
        let mut rng = Rng::new(11);
        let mut made = Vec::new();
        for shard in 0..3 {
            let name = |what| format!("{shard}.{what}");
            let mut own = vec![
                Made::new(&mut rng, name("first"), DType::F32, &[0, 3]),
                Made::new(&mut rng, name("second"), DType::F64, &[3, 0, 2]),
                Made::new(&mut rng, name("some"), DType::F32, &[5000]),
                Made::new(&mut rng, name("between"), DType::U8, &[0]),
                Made::new(&mut rng, name("more"), DType::U8, &[7]),
                Made::new(&mut rng, name("last"), DType::U8, &[0]),
            ];
            own.truncate([6, 2, 3][shard]);
            write(directory.path(), &format!("{shard}.safetensors"), &own, pad_to(&own, at));
            made.extend(own);
        }
        let checkpoint = Checkpoint::open(directory.path()).unwrap();
        let paths: Vec<_> = checkpoint.files().iter().map(|file| file.path.clone()).collect();
        every_way(&checkpoint, &made, |builder| builder.block_bytes(4096));
        for per in [Per::File, Per::Tensor, Per::Both] {
            let manifest = Hash::new().manifest(&paths, Algorithm::Xxh3_64, per).unwrap();
            every_way(&checkpoint, &made, |builder| builder.block_bytes(4096).verify(manifest.clone()));
        }
        let names = |load: Load| load.map(|tensor| tensor.unwrap().name().to_string()).collect::<Vec<_>>();
        let mut came = names(checkpoint.load().device(Device::host()).start().unwrap());
        came.sort();
        let mut want: Vec<String> = made.iter().map(|made| made.name.clone()).collect();
        want.sort();
        assert_eq!(came, want, "each once");
    }
}

/// A tensor outlives its load, and memory goes with the last of them.
#[test]
fn tensors_outlive_their_load() {
    let directory = disk_directory();
    let mut rng = Rng::new(10);
    let made: Vec<Made> = (0..9).map(|i| Made::new(&mut rng, format!("t{i}"), DType::F32, &[10_000])).collect();
    write(directory.path(), "m.safetensors", &made, 0);
    let sim = Arc::new(SimDevice::new(5, Clock::real()));
    let builder = Checkpoint::open(directory.path()).unwrap().load().device(Device::new(sim.clone()));
    let mut load = builder.start().unwrap();
    let first = load.next().unwrap().unwrap();
    drop(load);
    let own = made.iter().find(|made| made.name == first.name()).unwrap();
    assert!(first.read_back().unwrap() == own.bytes);
    assert!(sim.allocated_bytes() > 0);
    drop(first);
    assert_eq!((sim.allocated_bytes(), sim.violations()), (0, Vec::new()));
}
