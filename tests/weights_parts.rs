//! Selections, slices, several devices, and memory of the caller's.

mod checkpoints;
mod common;

use std::sync::Arc;

use checkpoints::{Made, any_tensor, pad_to, write};
use common::disk_directory;
use strait::device::SimDevice;
use strait::sim::{Clock, Rng};
use strait::weights::{Builder, Checkpoint, Part, Place};
use strait::{DType, Device, Error, PathChoice};

fn sims(count: u64) -> (Vec<Arc<SimDevice>>, Vec<Device>) {
    let sims: Vec<_> = (0..count).map(|seed| Arc::new(SimDevice::new(seed, Clock::real()))).collect();
    let devices = sims.iter().map(|sim| Device::new(sim.clone())).collect();
    (sims, devices)
}

fn load(checkpoint: &Checkpoint) -> Builder {
    checkpoint.load().device(Device::host())
}

#[test]
fn names_patterns_and_filters_choose() {
    let directory = disk_directory();
    let mut rng = Rng::new(1);
    let names = ["model.layers.0.w", "model.layers.1.w", "model.layers.10.w", "model.norm", "lm_head"];
    let made: Vec<Made> = names.iter().map(|&name| any_tensor(&mut rng, name.into(), 9000)).collect();
    write(directory.path(), "m.safetensors", &made, 0);
    let checkpoint = Checkpoint::open(directory.path()).unwrap();
    let names = |builder: Builder| -> Vec<String> {
        builder.load_all().unwrap().iter().map(|tensor| tensor.name().to_string()).collect()
    };
    assert_eq!(names(load(&checkpoint).names(["lm_head", "model.norm"])), ["model.norm", "lm_head"]);
    assert_eq!(names(load(&checkpoint).matching("model.layers.?.w")), ["model.layers.0.w", "model.layers.1.w"]);
    assert_eq!(names(load(&checkpoint).matching("*norm").names(["lm_head"])), ["model.norm", "lm_head"]);
    assert_eq!(names(load(&checkpoint).matching("*.w").filter(|info| info.name.contains("10"))), ["model.layers.10.w"]);
    for (wrong, want) in [(load(&checkpoint).names(["lm_tail"]), "lm_tail"), (load(&checkpoint).matching("x*"), "x*")] {
        let error = wrong.load_all().unwrap_err();
        assert!(matches!(error, Error::Config { .. }) && error.to_string().contains(want), "{error}");
    }
}

/// Every part against elements picked one by one, on the host, through slabs, and on a device. Mutant that this catches:
/// rows taken at the wrong distance.
#[test]
fn slices_are_those_of_the_array() {
    let directory = disk_directory();
    let mut rng = Rng::new(2);
    let dtypes = [DType::U8, DType::BF16, DType::F32, DType::C64];
    let made: Vec<Made> = (0..24)
        .map(|i| {
            let shape: Vec<u64> = (0..1 + rng.below(4)).map(|_| 1 + rng.below(14)).collect();
            Made::new(&mut rng, format!("t{i}"), dtypes[i % 4], &shape)
        })
        .collect();
    write(directory.path(), "m.safetensors", &made, 1);
    let checkpoint = Checkpoint::open(directory.path()).unwrap();
    for seed in 0..12u64 {
        let part = move |info: &strait::weights::TensorInfo, _| {
            let mut rng = Rng::new(seed ^ info.offset);
            let dim = rng.below(info.shape.len() as u64) as usize;
            let to = rng.below(info.shape[dim] + 1);
            Part::Slice { dim, from: rng.below(to + 1), to }
        };
        let (_, devices) = sims(1);
        let ways = [load(&checkpoint), load(&checkpoint).path(PathChoice::Staged), checkpoint.load().devices(devices)];
        for builder in ways {
            let gap_bytes = [0, 8, 1 << 20][seed as usize % 3];
            let tensors = builder.part(part).block_bytes(4096).gap_bytes(gap_bytes).load_all().unwrap();
            for made in &made {
                let tensor = tensors.get(&made.name).unwrap();
                let Part::Slice { dim, from, to } = part(tensor.info(), 0) else { panic!() };
                assert!(tensor.read_back().unwrap() == made.slice(dim, from..to), "{} {dim} {from}..{to}", made.name);
                assert_eq!(tensor.shape()[dim], to - from);
            }
        }
    }
}

/// A rank reads its rows and no more; columns far apart are read by themselves, near ones with their gaps.
#[test]
fn only_what_is_needed_is_read() {
    let directory = disk_directory();
    let mut rng = Rng::new(3);
    let rows = Made::new(&mut rng, "rows", DType::BF16, &[1024, 1024]);
    let wide = Made::new(&mut rng, "wide", DType::BF16, &[16, 128 << 10]);
    let made = [rows.clone(), wide.clone()];
    let path = write(directory.path(), "m.safetensors", &made, pad_to(&made, 512));
    let checkpoint = Checkpoint::open(path).unwrap();
    let read = |name: &str, dim, gap_bytes| {
        let part = move |info: &strait::weights::TensorInfo, _| Part::share(info, dim, 1, 4);
        let builder = load(&checkpoint).names([name]).part(part).gap_bytes(gap_bytes);
        let tensors = builder.load_all().unwrap();
        let made = if name == "rows" { &rows } else { &wide };
        let len = made.shape[dim];
        assert!(tensors.iter().next().unwrap().read_back().unwrap() == made.slice(dim, len / 4..len / 2));
        (tensors.stats().bytes_read, tensors.stats().bytes_copied)
    };
    let quarter = 512 << 10;
    let (bytes, copied) = read("rows", 0, 32 << 10);
    assert!((quarter..=quarter + 8192).contains(&bytes), "a quarter of the rows: {bytes}");
    assert_eq!(copied, 0, "one extent, in place");
    let (bytes, _) = read("rows", 1, 32 << 10);
    assert!(bytes >= 2 << 20, "columns 1,536 bytes apart are read with what is between them: {bytes}");
    let (bytes, _) = read("wide", 1, 32 << 10);
    assert!((1 << 20..=(1 << 20) + 16 * 8192).contains(&bytes), "rows of 64 KiB, 192 KiB apart: {bytes}");
}

/// Each device its share, all from one read. Mutant that this catches: a slab given back behind the first device's copy.
#[test]
fn several_devices_share_one_read() {
    let directory = disk_directory();
    let mut rng = Rng::new(4);
    let made: Vec<Made> =
        (0..12).map(|i| Made::new(&mut rng, format!("t{i}"), DType::F16, &[64, 3 * (1 + i * i)])).collect();
    write(directory.path(), "m.safetensors", &made, 0);
    let checkpoint = Checkpoint::open(directory.path()).unwrap();
    for seed in 0..5 {
        let (sims, mut devices) = sims(3);
        if seed == 4 {
            devices[1] = Device::host();
        }
        let share = |info: &strait::weights::TensorInfo, device: usize| match info.name.len() {
            2 => Part::share(info, 1, device as u32, 3),
            _ if info.name.ends_with('0') && device == 2 => Part::Skip,
            _ => Part::Whole,
        };
        let builder = checkpoint.load().devices(devices).part(share).block_bytes(8192).bytes_in_flight(32 << 10);
        let tensors = builder.load_all().unwrap();
        let file_bytes = checkpoint.files()[0].bytes;
        assert!(tensors.stats().bytes_read <= file_bytes + 4096, "{} of {file_bytes}", tensors.stats().bytes_read);
        assert_eq!(tensors.len(), 10 * 3 + 2 + 3);
        for tensor in tensors.iter() {
            let made = made.iter().find(|made| made.name == tensor.name()).unwrap();
            let want = match share(tensor.info(), tensor.device_index()) {
                Part::Slice { dim, from, to } => made.slice(dim, from..to),
                _ => made.bytes.clone(),
            };
            assert!(tensor.read_back().unwrap() == want, "{tensor:?}");
        }
        assert!(sims.iter().all(|sim| sim.violations().is_empty()));
    }
}

/// Any ranks of a tensor-parallel load, near and far, of either dimension, in one process: what they want is read, and
/// small gaps. Mutants that this catches: all between the first and the last byte read; columns joined over any gap.
#[test]
fn ranks_that_are_far_apart_read_nothing_in_between() {
    let directory = disk_directory();
    let mut rng = Rng::new(7);
    let made = [Made::new(&mut rng, "w", DType::BF16, &[16, 64 << 10])]; // a rank: 256 KiB, or 16 KiB of each row
    let path = write(directory.path(), "m.safetensors", &made, pad_to(&made, 512));
    let checkpoint = Checkpoint::open(path).unwrap();
    let info = &checkpoint.tensors()[0];
    for ranks in [&[0, 1][..], &[0, 7], &[7, 0], &[3, 4, 5], &[0, 2, 3, 7], &[1, 1, 6]] {
        for (dim, gap_bytes) in [(0, 0), (0, 32 << 10), (1, 0), (1, 32 << 10), (2, 4096)] {
            // Of "dimension 2" every other device has its share of the first, which no arrangement of rows describes.
            let cut = move |device: usize| if dim == 2 { device % 2 } else { dim };
            let part = {
                let ranks = ranks.to_vec();
                move |info: &strait::weights::TensorInfo, device: usize| {
                    Part::share(info, cut(device), ranks[device], 8)
                }
            };
            let (_, devices) = sims(ranks.len() as u64);
            let builder = checkpoint.load().devices(devices).part(part.clone()).gap_bytes(gap_bytes);
            let tensors = builder.block_bytes(64 << 10).load_all().unwrap();
            let mut wanted = vec![false; made[0].bytes.len() / 4096];
            for tensor in tensors.iter() {
                let Part::Slice { dim, from, to } = part(info, tensor.device_index()) else { panic!() };
                assert!(tensor.read_back().unwrap() == made[0].slice(dim, from..to), "{ranks:?} {dim} {gap_bytes}");
                let row = if dim == 0 { 16 * (128 << 10) } else { 128 << 10 };
                let of_row = row / made[0].shape[dim] as usize;
                for (block, wanted) in wanted.iter_mut().enumerate() {
                    *wanted |= (from..to).contains(&((block * 4096 % row / of_row) as u64));
                }
            }
            let naive: usize = wanted
                .chunk_by(|a, b| a == b)
                .enumerate()
                .map(|(run, blocks)| {
                    let outer = run == 0 || blocks.as_ptr_range().end == wanted.as_ptr_range().end;
                    let filled = !outer && blocks.len() * 4096 <= gap_bytes as usize;
                    if blocks[0] || filled { blocks.len() * 4096 } else { 0 }
                })
                .sum();
            let read = tensors.stats().bytes_read as usize;
            // The tensor starts inside a block: each stretch of blocks is one longer.
            let stretches = wanted.chunk_by(|a, b| a == b).count();
            let most = if dim == 2 { made[0].bytes.len() } else { naive };
            assert!(
                read <= most + stretches * 4096 && read + 4096 > naive.min(most),
                "{ranks:?} {dim} {gap_bytes}: {read}, {naive}"
            );
        }
    }
}

/// Memory of the caller's, tensor by tensor: held as long as anything may touch it, written where it belongs.
#[test]
fn tensors_go_where_the_caller_says() {
    let directory = disk_directory();
    let mut rng = Rng::new(5);
    let made: Vec<Made> = (0..20).map(|i| any_tensor(&mut rng, format!("t{i}"), 30_000)).collect();
    write(directory.path(), "m.safetensors", &made, 0);
    let checkpoint = Checkpoint::open(directory.path()).unwrap();
    let owners = Arc::new(std::sync::Mutex::new(Vec::new()));
    let given = owners.clone();
    let place = move |info: &strait::weights::TensorInfo, _, bytes: u64| {
        let memory: Arc<[u128]> = vec![0xA5; bytes as usize / 16 + 1].into();
        let (ptr, owner) = (memory.as_ptr() as u64, Arc::new(memory));
        given.lock().unwrap().push(Arc::downgrade(&owner));
        (!info.name.ends_with('7')).then_some(Place { ptr, bytes, owner })
    };
    // SAFETY: each place is a fresh allocation that its owner keeps, and that nobody else has an address of.
    let builder = unsafe { load(&checkpoint).place(place) };
    let tensors = builder.load_all().unwrap();
    for made in &made {
        assert!(tensors.get(&made.name).unwrap().host_bytes().unwrap() == made.bytes, "{}", made.name);
    }
    let held = |n: usize| owners.lock().unwrap().iter().filter(|weak| weak.strong_count() > 0).count() == n;
    let given = made.iter().filter(|made| !made.bytes.is_empty() && !made.name.ends_with('7'));
    assert!(held(given.count()), "by the tensors");
    drop(tensors);
    assert!(held(0), "by nothing any more");
    let small = move |_: &strait::weights::TensorInfo, _, _| Some(Place { ptr: 4096, bytes: 0, owner: Arc::new(()) });
    // SAFETY: refused before anything is written.
    let error = unsafe { load(&checkpoint).place(small) }.load_all().unwrap_err();
    assert!(error.to_string().contains("place: tensor `t0` needs"), "{error}");
}

#[repr(align(4096))]
struct Block(#[allow(dead_code, reason = "its address is used")] std::cell::UnsafeCell<[u8; 4096]>);

// SAFETY: written by a load before anybody reads it.
unsafe impl Sync for Block {}

/// One block of the caller's: on the host the ring writes straight into it.
#[test]
fn one_block_of_the_callers_for_everything() {
    let directory = disk_directory();
    let mut rng = Rng::new(6);
    let made: Vec<Made> = (0..9).map(|i| Made::new(&mut rng, format!("t{i}"), DType::F32, &[1 + i, 1000])).collect();
    write(directory.path(), "m.safetensors", &made, 1);
    let checkpoint = Checkpoint::open(directory.path()).unwrap();
    let bytes = load(&checkpoint).block_sizes().unwrap()[0];
    let exact: u64 = made.iter().map(|made| made.bytes.len() as u64).sum();
    assert!((exact..exact + 2 * 4096).contains(&bytes), "{bytes} for {exact}");
    let blocks = (0..bytes.div_ceil(4096)).map(|_| Block(std::cell::UnsafeCell::new([0; 4096])));
    let owner: Arc<Vec<Block>> = Arc::new(blocks.collect());
    let ptr = owner.as_ptr() as u64;
    let place = Place { ptr, bytes, owner: owner.clone() };
    // SAFETY: the block is that long, and nobody looks at it before its tensors are there.
    let tensors = unsafe { load(&checkpoint).block(0, place.clone()) }.load_all().unwrap();
    for made in &made {
        let tensor = tensors.get(&made.name).unwrap();
        assert!((ptr..ptr + bytes).contains(&tensor.device_ptr()));
        assert!(tensor.host_bytes().unwrap() == made.bytes, "{}", made.name);
    }
    drop(tensors);
    for wrong in [Place { bytes: bytes - 1, ..place.clone() }, Place { ptr: ptr + 8, ..place.clone() }] {
        // SAFETY: refused before anything is written.
        let error = unsafe { load(&checkpoint).block(0, wrong) }.load_all().unwrap_err();
        assert!(matches!(error, Error::Config { option: "block", .. }), "{error}");
    }
}
