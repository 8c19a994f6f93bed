//! Weights on the CUDA device, over a stand-in for the driver whose copies are late. A test binary of its own: where
//! others ask for CUDA, they see the machine as it is.
#![cfg(feature = "cuda")]

mod checkpoints;
mod common;
mod stand_in;

use checkpoints::{Made, any_tensor, write};
use stand_in::take;
use strait::device::RawStream;
use strait::sim::Rng;
use strait::weights::{Builder, Checkpoint, Part, Tensor};
use strait::{DType, Device, Error};

fn made(seed: u64) -> Vec<Made> {
    let mut rng = Rng::new(seed);
    (0..60).map(|i| any_tensor(&mut rng, format!("t{i}"), 20_000)).collect()
}

fn small(builder: Builder) -> Builder {
    builder.block_bytes(16 << 10).bytes_in_flight(64 << 10)
}

fn check(tensor: &Tensor, made: &[Made]) {
    let made = made.iter().find(|made| made.name == tensor.name()).unwrap();
    assert!(tensor.read_back().unwrap() == made.bytes, "wrong bytes in {}", made.name);
}

/// Mutant that this catches: a tensor that does not wait for its seq.
#[test]
fn tensors_are_there_behind_their_seq() {
    let (fake, _alone) = take();
    let before = fake.live_at_rest();
    let directory = common::disk_directory();
    let made = made(1);
    write(directory.path(), "m.safetensors", &made, 1);
    let checkpoint = Checkpoint::open(directory.path()).unwrap();
    for seed in 0..6 {
        fake.pace(seed, 300, 1 << 20);
        let load = small(checkpoint.load().device(Device::cuda(0).unwrap())).start().unwrap();
        let mut count = 0;
        for tensor in load {
            check(&tensor.unwrap(), &made);
            count += 1;
        }
        assert_eq!(count, made.len());
    }
    assert_eq!((fake.live_at_rest(), fake.misuse()), (before, String::new()));
}

/// Rows that are near each other are one call. Mutants that these catch: rows of a wrong distance; each row by itself.
#[test]
fn columns_are_copied_as_rows() {
    let (fake, _alone) = take();
    let before = fake.live_at_rest();
    let directory = common::disk_directory();
    let mut rng = Rng::new(5);
    let made = vec![
        Made::new(&mut rng, "a", DType::F32, &[300, 5, 4]),
        Made::new(&mut rng, "b", DType::BF16, &[1000, 8]),
        Made::new(&mut rng, "c", DType::U8, &[7, 11]),
    ];
    write(directory.path(), "m.safetensors", &made, 0);
    let checkpoint = Checkpoint::open(directory.path()).unwrap();
    let calls = || ["cuMemcpyHtoDAsync_v2", "cuMemcpy2DAsync_v2"].map(|symbol| fake.calls(symbol));
    for (dim, from, to) in [(1, 1, 4), (1, 0, 5), (1, 4, 5), (1, 0, 1)] {
        let part = move |_: &strait::weights::TensorInfo, _| Part::Slice { dim, from, to };
        let earlier = calls();
        let tensors = small(checkpoint.load().device(Device::cuda(0).unwrap()).part(part)).load_all().unwrap();
        for made in &made {
            let bytes = tensors.get(&made.name).unwrap().read_back().unwrap();
            assert!(bytes == made.slice(dim, from..to), "{} {from}..{to}", made.name);
        }
        let [one, rows] = [0, 1].map(|i| calls()[i] - earlier[i]);
        assert!(one <= 8 && rows <= 6, "{one} copies and {rows} of rows for 1,307 rows in 3 slabs");
    }
    assert_eq!((fake.live_at_rest(), fake.misuse()), (before, String::new()));
}

/// Slabs are pinned once, for both; each device gets its own columns from one read.
#[test]
fn two_devices_share_slabs() {
    let (fake, _alone) = take();
    let before = fake.live_at_rest();
    let directory = common::disk_directory();
    let mut rng = Rng::new(2);
    let made: Vec<Made> = (0..9).map(|i| Made::new(&mut rng, format!("t{i}"), DType::F16, &[64, 40 + 2 * i])).collect();
    write(directory.path(), "m.safetensors", &made, 0);
    let checkpoint = Checkpoint::open(directory.path()).unwrap();
    fake.pace(3, 300, 1 << 20);
    let registrations = fake.calls("cuMemHostRegister_v2");
    let devices = vec![Device::cuda(0).unwrap(), Device::cuda(1).unwrap()];
    let builder = checkpoint.load().devices(devices).part(|info, device| Part::share(info, 1, device as u32, 2));
    let tensors = small(builder).load_all().unwrap();
    assert_eq!(fake.calls("cuMemHostRegister_v2") - registrations, 1);
    assert_eq!(tensors.len(), 18);
    for tensor in tensors.iter() {
        let made = made.iter().find(|made| made.name == tensor.name()).unwrap();
        let half = made.shape[1] / 2;
        let from = half * tensor.device_index() as u64;
        assert!(tensor.read_back().unwrap() == made.slice(1, from..from + half), "{tensor:?}");
    }
    drop(tensors);
    assert_eq!((fake.live_at_rest(), fake.misuse()), (before, String::new()));
}

/// Memory is freed behind the stream that a tensor was given up on.
#[test]
fn a_tensor_given_up_on_a_stream_is_freed_behind_it() {
    let (fake, _alone) = take();
    let before = fake.live_at_rest();
    let directory = common::disk_directory();
    let made = made(3);
    write(directory.path(), "m.safetensors", &made, 0);
    let checkpoint = Checkpoint::open(directory.path()).unwrap();
    let tensors = small(checkpoint.load().device(Device::cuda(0).unwrap())).load_all().unwrap();
    let legacy = RawStream(std::ptr::null_mut());
    for tensor in tensors {
        // SAFETY: null is the legacy stream of the device's context.
        unsafe { tensor.release_on(legacy) }.unwrap();
    }
    assert_eq!((fake.live_at_rest(), fake.misuse()), (before, String::new()));
}

/// Mutant that this catches: memory that is freed though nobody knows when its reader has done.
#[test]
fn memory_whose_reader_cannot_be_waited_for_is_never_freed() {
    let (fake, _alone) = take();
    let directory = common::disk_directory();
    let made = [Made::new(&mut Rng::new(9), "w", DType::U8, &[5000])];
    write(directory.path(), "m.safetensors", &made, 0);
    let checkpoint = Checkpoint::open(directory.path()).unwrap();
    for symbol in ["cuEventCreate", "cuEventRecord"] {
        let [memory, ..] = fake.live_at_rest();
        let tensors = small(checkpoint.load().device(Device::cuda(0).unwrap())).load_all().unwrap();
        fake.fail(symbol, 1, 1, false);
        for tensor in tensors {
            // SAFETY: null is the legacy stream of the device's context.
            let error = unsafe { tensor.release_on(RawStream(std::ptr::null_mut())) }.unwrap_err();
            assert!(error.to_string().contains(symbol), "{error}");
        }
        let [left, ..] = fake.live_at_rest();
        assert_eq!((left, fake.misuse()), (memory + 1, String::new()), "{symbol}");
    }
}

/// Each call that a load makes fails once: an error that names the device, and nothing is left.
#[test]
fn every_call_may_fail() {
    let (fake, _alone) = take();
    let directory = common::disk_directory();
    let made = made(4);
    write(directory.path(), "m.safetensors", &made, 0);
    let checkpoint = Checkpoint::open(directory.path()).unwrap();
    let before = fake.live_at_rest();
    for symbol in [
        "cuStreamCreateWithPriority",
        "cuMemAlloc_v2",
        "cuMemHostRegister_v2",
        "cuEventCreate",
        "cuMemcpyHtoDAsync_v2",
        "cuEventRecord",
    ] {
        for nth in [1, 2, 5] {
            fake.heal();
            fake.pace(nth, 200, 1 << 20);
            let device = Device::cuda(0).unwrap();
            // A copy or a mark that failed may have been started all the same.
            let works = ["cuMemcpyHtoDAsync_v2", "cuEventRecord"].contains(&symbol);
            fake.fail(symbol, nth, 1, works);
            let failure = (|| -> strait::Result<()> {
                for tensor in small(checkpoint.load().device(device)).start()? {
                    check(&tensor?, &made);
                }
                Ok(())
            })();
            fake.heal();
            match failure {
                Err(error) => {
                    assert!(matches!(error, Error::Device { .. }) && error.to_string().contains("cuda:0"), "{error}")
                }
                Ok(()) => assert!(nth > 1, "{symbol} failed and nobody heard of it"),
            }
            assert_eq!((fake.live_at_rest(), fake.misuse()), (before, String::new()), "{symbol}, call {nth}");
        }
    }
}

/// Mutant that this catches: a refusal that is logged and not kept in the stats.
#[test]
fn copies_that_are_not_taken_together_are_a_fallback() {
    let (fake, _alone) = take();
    let before = fake.live_at_rest();
    let directory = common::disk_directory();
    let made = made(6);
    write(directory.path(), "m.safetensors", &made, 0);
    let checkpoint = Checkpoint::open(directory.path()).unwrap();
    for refused in [false, true] {
        if refused {
            fake.fail("cuMemcpyBatchAsync", 1, 801, false);
        }
        let devices = [0, 1].map(|ordinal| Device::cuda(ordinal).unwrap()).to_vec();
        let tensors = small(checkpoint.load().devices(devices)).load_all().unwrap();
        tensors.iter().for_each(|tensor| check(tensor, &made));
        let one_by_one = tensors.stats().fallbacks.iter().filter(|fallback| fallback.instead.contains("one by one"));
        let reasons: Vec<String> = one_by_one.map(ToString::to_string).collect();
        assert_eq!(reasons.len(), usize::from(refused), "{reasons:?}");
        assert!(reasons.iter().all(|reason| reason.contains("cuMemcpyBatchAsync") && reason.contains("801")));
    }
    assert_eq!((fake.live_at_rest(), fake.misuse()), (before, String::new()));
}
