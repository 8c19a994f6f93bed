//! Weights into the memory of a CUDA device by cuFile, over stand-ins for both: reads that land late, in any order and in no
//! stream's, beside copies out of slabs. A test binary of its own: where others ask for CUDA, they see the machine as it is.
#![cfg(feature = "cuda")]

mod checkpoints;
mod common;
#[path = "stand_in/cufile.rs"]
mod cufile;
mod stand_in;

use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use checkpoints::{Made, any_tensor, pad_to, write};
use cufile::FakeCufile;
use stand_in::Fake;
use strait::device::RawStream;
use strait::sim::Rng;
use strait::weights::{Algorithm, Builder, Checkpoint, Digest, FileDigests, Manifest, Part, Place, Tensor, TensorInfo};
use strait::{DType, Device, Error, PathChoice, RingChoice};

const MIB: u64 = 1 << 20;
/// A stretch begins and ends somewhere in a block.
const ENDS: u64 = 2 * 4095;

/// Both stand-ins, and what was alive before.
struct Bed {
    cuda: Fake,
    storage: FakeCufile,
    before: ([u64; 6], [u64; 4]),
    directory: tempfile::TempDir,
    _alone: MutexGuard<'static, ()>,
}

impl Bed {
    fn new() -> Bed {
        let (cuda, alone) = stand_in::take();
        let (storage, _alone_too) = cufile::take();
        let before = (cuda.live_at_rest(), storage.live());
        Bed { cuda, storage, before, directory: common::disk_directory(), _alone: alone }
    }

    /// A file whose tensors start at a multiple of 4096 and so many bytes more.
    fn write(&self, name: &str, made: &[Made], at: usize) -> Checkpoint {
        write(self.directory.path(), name, made, pad_to(made, at));
        Checkpoint::open(self.directory.path()).unwrap()
    }

    /// Nothing was done that driver or storage do not allow, and everything was given back.
    fn nothing_is_left(&self) {
        assert_eq!(
            self.cuda.live_at_rest(),
            self.before.0,
            "memory, registrations, streams, events, contexts, modules"
        );
        assert_eq!(self.storage.live()[..3], self.before.1[..3], "files, buffers, batches");
        self.no_misuse("");
    }

    fn no_misuse(&self, when: &str) {
        assert_eq!((self.cuda.misuse().as_str(), self.storage.misuse().as_str()), ("", ""), "{when}");
    }
}

fn options(builder: Builder) -> Builder {
    let builder = builder.device(Device::cuda(0).unwrap()).ring(RingChoice::Cufile);
    builder.block_bytes(256 << 10).bytes_in_flight(MIB)
}

fn large(rng: &mut Rng) -> Vec<Made> {
    (0..3).map(|i| Made::new(rng, format!("t{i}"), DType::F16, &[1000 + i, 700])).collect()
}

fn check(tensor: &Tensor, made: &[Made]) {
    let made = made.iter().find(|made| made.name == tensor.name()).unwrap();
    assert!(tensor.read_back().unwrap() == made.bytes, "wrong bytes in {}", made.name);
}

/// Some of a tensor: whole, rows of it, columns, or nothing; always the same for one tensor.
fn part(info: &TensorInfo, salt: u64) -> Part {
    let mut rng = Rng::new(salt ^ info.offset ^ u64::from(info.shard) << 50);
    if info.dtype.bytes().is_none() || info.shape.is_empty() || rng.one_in(2) {
        return if rng.one_in(8) { Part::Skip } else { Part::Whole };
    }
    let dim = if rng.one_in(2) { 0 } else { rng.below(info.shape.len() as u64) as usize };
    let to = rng.below(info.shape[dim] + 1);
    Part::Slice { dim, from: rng.below(to + 1), to }
}

/// Mutants that this catches: a layout without room for the end of a stretch; short stretches read too; a read into device
/// memory handed to the ring of slabs.
#[test]
fn every_byte_of_many_checkpoints_is_the_files() {
    let bed = Bed::new();
    let (mut rings, mut direct_bytes) = (std::collections::BTreeSet::new(), 0);
    for seed in 0..24 {
        let mut rng = Rng::new(seed);
        let directory = common::disk_directory();
        let tensor = |rng: &mut Rng, shard, i| {
            let bytes_max = [5000, 300_000, 3 * MIB][rng.below(3) as usize];
            any_tensor(rng, format!("{shard}.{i}"), bytes_max)
        };
        let made: Vec<Vec<Made>> = (0..1 + rng.below(3))
            .map(|shard| (0..rng.below(9)).map(|i| tensor(&mut rng, shard, i)).collect())
            .collect();
        for (shard, own) in made.iter().enumerate() {
            let at = [0, 8, 2048, 4095, 1][rng.below(5) as usize];
            write(directory.path(), &format!("{shard}.safetensors"), own, pad_to(own, at));
        }
        bed.cuda.pace(seed, [0, 300][seed as usize % 2], 0);
        bed.storage.set("late_us_max", [0, 2000, 200][seed as usize % 3]);
        bed.storage.set("short_bytes", [0, 12 << 10, 4096 * 5][seed as usize / 3 % 3]);
        let paths: Vec<_> = (0..made.len()).map(|i| directory.path().join(format!("{i}.safetensors"))).collect();
        let checkpoint = Checkpoint::open_files(&paths).unwrap();
        let salt = rng.next_u64();
        let sliced = rng.one_in(2);
        let pick = move |info: &TensorInfo, _: usize| if sliced { part(info, salt) } else { Part::Whole };
        let mut builder = options(checkpoint.load()).part(pick).block_bytes(4096 << rng.below(9));
        builder = builder.reads_in_flight(1 + rng.below(20) as usize).gap_bytes([0, 5000][rng.below(2) as usize]);
        builder = builder.open_files_max(1 + rng.below(3) as usize);
        let sizes = builder.block_sizes().unwrap();
        let tensors = builder.load_all().unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let mut bytes = 0;
        for info in checkpoint.tensors().iter() {
            let made = made.iter().flatten().find(|made| made.name == *info.name).unwrap();
            let want = match pick(info, 0) {
                Part::Skip => continue,
                Part::Slice { dim, from, to } => made.slice(dim, from..to),
                _ => made.bytes.clone(),
            };
            let tensor = tensors.get(&info.name).unwrap();
            assert!(tensor.read_back().unwrap() == want, "seed {seed}: wrong bytes in {}", info.name);
            bytes += want.len() as u64;
        }
        let stats = tensors.stats();
        assert_eq!((stats.bytes_wanted, stats.region_bytes), (bytes, sizes[0]), "seed {seed}");
        // A stretch has a MiB at least, and ends somewhere in a block on both sides.
        let direct = stats.bytes_wanted - stats.bytes_copied;
        let ends = stats.region_bytes - bytes;
        assert!(ends <= direct / MIB * ENDS, "seed {seed}: {ends} bytes more than the tensors, {direct} direct");
        let (path, by_cufile) = (stats.path, stats.ring.contains("cufile"));
        assert!(direct == 0 || path == "direct" && by_cufile, "seed {seed}: {path} {}", stats.ring);
        if direct > 0 {
            rings.insert(stats.ring);
        }
        direct_bytes += direct;
        assert!(stats.fallbacks.iter().all(|fallback| !fallback.instead.contains("cuFile")), "{:?}", stats.fallbacks);
        drop(tensors);
        bed.no_misuse(&format!("seed {seed}"));
    }
    assert!(rings.len() >= 2 && rings.contains("cufile") && direct_bytes > 20 * MIB, "{rings:?}, {direct_bytes}");
    bed.nothing_is_left();
}

/// Every byte is read once, straight to its place: no slab, no stream, no copy.
#[test]
fn what_is_all_direct_takes_no_host_memory() {
    let bed = Bed::new();
    let made = large(&mut Rng::new(1));
    let checkpoint = bed.write("m.safetensors", &made, 8);
    {
        let calls = || bed.cuda.calls("cuMemcpyHtoDAsync_v2") + bed.cuda.calls("cuMemHostRegister_v2");
        let before = calls();
        let tensors = options(checkpoint.load()).load_all().unwrap();
        tensors.iter().for_each(|tensor| check(tensor, &made));
        let stats = tensors.stats();
        assert_eq!((stats.path, stats.ring, stats.bytes_copied, stats.pinned_bytes_max), ("direct", "cufile", 0, 0));
        assert!(stats.path_reason.contains("cuFile was asked for"), "{}", stats.path_reason);
        assert!(stats.region_bytes <= stats.bytes_wanted + ENDS && stats.fallbacks.is_empty(), "{:?}", stats.fallbacks);
        assert_eq!(calls(), before);
        // Of its memory nothing is on a stream of strait's; a consumer's is waited for.
        let legacy = RawStream(std::ptr::null_mut());
        for tensor in tensors {
            assert_eq!(tensor.seq(), strait::device::Seq(0));
            // SAFETY: null is the legacy stream of the device's context.
            unsafe { tensor.release_on(legacy) }.unwrap();
        }
    }
    bed.nothing_is_left();
}

/// Mutant that this catches: a ring for slabs, and a probe of files for it, where there are no slabs.
#[test]
fn what_is_all_direct_is_not_probed_for_another_ring() {
    let bed = Bed::new();
    let Ok(directory) = tempfile::tempdir_in("/dev/shm") else { return eprintln!("SKIPPED: no /dev/shm") };
    let made = large(&mut Rng::new(11));
    let path = write(directory.path(), "m.safetensors", &made, pad_to(&made, 0));
    use std::os::unix::fs::OpenOptionsExt;
    if std::fs::OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(&path).is_err() {
        return eprintln!("SKIPPED: no O_DIRECT in /dev/shm");
    }
    let tensors = options(Checkpoint::open(path).unwrap().load()).load_all().unwrap();
    tensors.iter().for_each(|tensor| check(tensor, &made));
    assert!(tensors.stats().fallbacks.is_empty(), "{:?}", tensors.stats().fallbacks);
    drop(tensors);
    bed.nothing_is_left();
}

/// Each call of the driver that a load makes fails once: an error that names the device, and nothing is left.
#[test]
fn every_call_of_the_driver_may_fail() {
    let bed = Bed::new();
    let mut rng = Rng::new(12);
    let mut made = large(&mut rng);
    made.push(Made::new(&mut rng, "small", DType::F64, &[31])); // behind the others, off its alignment: through a slab
    made.push(Made::new(&mut rng, "shift", DType::U8, &[3]));
    made.push(Made::new(&mut rng, "odd", DType::F32, &[300]));
    let checkpoint = bed.write("m.safetensors", &made, 0);
    for symbol in
        ["cuMemAlloc_v2", "cuStreamCreateWithPriority", "cuMemHostRegister_v2", "cuEventRecord", "cuCtxPushCurrent_v2"]
    {
        for nth in 1..8 {
            bed.cuda.heal();
            let builder = options(checkpoint.load()).deadline(Duration::from_secs(5));
            bed.cuda.fail(symbol, nth, 1, symbol == "cuEventRecord");
            let failure = (|| -> strait::Result<()> {
                builder.load_all()?.iter().try_for_each(|tensor| tensor.read_back().map(drop))
            })();
            bed.cuda.heal();
            match failure {
                Err(error) => assert!(error.to_string().contains("cuda:0"), "{symbol}, call {nth}: {error}"),
                Ok(()) => assert!(nth > 1, "{symbol} failed and nobody heard of it"),
            }
            assert_eq!(bed.storage.live()[..3], bed.before.1[..3], "{symbol}, call {nth}");
            let (live, before) = (bed.cuda.live_at_rest(), bed.before.0);
            assert_eq!(live[1..], before[1..], "{symbol}, call {nth}");
            // Memory is leaked where its context cannot be entered to free it.
            assert!(live[0] == before[0] || symbol == "cuCtxPushCurrent_v2", "{symbol}, call {nth}");
            bed.no_misuse(symbol);
        }
    }
}

/// Mutant that this catches: a short block filled through slabs though cuFile was asked for.
#[test]
fn a_block_of_the_callers_is_read_into() {
    let bed = Bed::new();
    let made = large(&mut Rng::new(2));
    let checkpoint = bed.write("m.safetensors", &made, 96);
    {
        let device = Device::cuda(0).unwrap();
        let bytes = options(checkpoint.load()).block_sizes().unwrap()[0];
        let tensor_bytes: u64 = made.iter().map(|made| made.bytes.len() as u64).sum();
        assert!(bytes > tensor_bytes && bytes <= tensor_bytes + ENDS, "{bytes} for {tensor_bytes}");
        let memory = device.raw().allocate(bytes as usize).unwrap();
        let owner = Arc::new(());
        let place = |bytes| Place { ptr: memory.base, bytes, owner: owner.clone() };
        // SAFETY: the memory is this test's alone, and freed behind the tensors.
        let short = unsafe { options(checkpoint.load()).block(0, place(tensor_bytes)) };
        let error = short.load_all().map(drop).unwrap_err();
        assert!(matches!(error, Error::Config { option: "block", .. }), "{error}");
        // SAFETY: as above.
        let tensors = unsafe { options(checkpoint.load()).block(0, place(bytes)) }.load_all().unwrap();
        tensors.iter().for_each(|tensor| check(tensor, &made));
        let inside = memory.base..memory.base + bytes;
        assert!(tensors.iter().all(|tensor| inside.contains(&tensor.device_ptr())));
        assert_eq!((tensors.stats().ring, tensors.stats().bytes_copied), ("cufile", 0));
        drop(tensors);
        stand_in::wait_for_engines();
        assert_eq!(Arc::strong_count(&owner), 1);
        // SAFETY: nothing writes to it any more.
        unsafe { device.raw().free(memory) };
    }
    bed.nothing_is_left();
}

/// Mutants that these catch: an error that does not name its tensor; a failed read taken over by threads.
#[test]
fn a_read_that_fails_is_named() {
    let bed = Bed::new();
    let made = large(&mut Rng::new(3));
    let checkpoint = bed.write("m.safetensors", &made, 0);
    for code in [-5030, -i64::from(libc::EINVAL), -i64::from(libc::EIO)] {
        let load = options(checkpoint.load());
        bed.storage.set("read_error", code);
        let error = load.load_all().map(drop).unwrap_err();
        assert!(matches!(error, Error::Tensor { .. }) && error.to_string().contains("m.safetensors"), "{error}");
        assert_eq!(error.errno(), Some(-code as i32), "{error}");
        // The next load goes well.
        options(checkpoint.load()).load_all().unwrap().iter().for_each(|tensor| check(tensor, &made));
        bed.nothing_is_left();
    }
    // EAGAIN is tried again.
    bed.storage.set("read_error", -i64::from(libc::EAGAIN));
    let tensors = options(checkpoint.load()).load_all().unwrap();
    assert_eq!(tensors.stats().reads_retried, 1);
    tensors.iter().for_each(|tensor| check(tensor, &made));
    drop(tensors);
    bed.nothing_is_left();
}

/// A file that was cut short since its header was read.
#[test]
fn a_file_that_ends_early_is_truncated_or_changed() {
    let bed = Bed::new();
    let made = large(&mut Rng::new(4));
    let checkpoint = bed.write("m.safetensors", &made, 0);
    bed.storage.set("late_us_max", 20_000);
    {
        let mut load = options(checkpoint.load()).bytes_in_flight(1).start().unwrap();
        let path = bed.directory.path().join("m.safetensors");
        std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(2 * MIB + 5).unwrap();
        let error = load.find_map(Result::err).expect("bytes that are not there");
        let text = error.to_string();
        assert!(text.contains("m.safetensors"), "{text}");
        assert!(text.contains("truncated") || text.contains("now has"), "{text}");
    }
    bed.nothing_is_left();
}

/// A storage that no longer answers: an error that says so, and nothing is freed that it may still write to.
#[test]
fn a_read_that_never_ends_is_named_and_its_memory_kept() {
    let bed = Bed::new();
    let made = large(&mut Rng::new(5));
    let checkpoint = bed.write("m.safetensors", &made, 0);
    let [memory, ..] = bed.cuda.live();
    {
        bed.storage.set("late_us_max", i64::MAX / 2);
        let error = options(checkpoint.load()).deadline(Duration::from_secs(3)).load_all().map(drop).unwrap_err();
        assert!(matches!(error, Error::Timeout { .. }) && error.to_string().contains("a read of"), "{error}");
    }
    assert_eq!(bed.cuda.live_at_rest()[0], memory + 1, "the tensors");
    bed.no_misuse("");
}

/// Mutant that this catches: the ring of slabs forgotten while cuFile's reads are waited for.
#[test]
fn slabs_go_on_while_cufile_reads() {
    let bed = Bed::new();
    let mut rng = Rng::new(10);
    let small: Vec<Made> = (0..4).map(|i| Made::new(&mut rng, format!("s{i}"), DType::F32, &[100, 7])).collect();
    let large = large(&mut rng);
    write(bed.directory.path(), "a.safetensors", &large, pad_to(&large, 0));
    let checkpoint = bed.write("b.safetensors", &small, 0);
    {
        bed.storage.set("late_us_max", i64::MAX / 2);
        let mut load = options(checkpoint.load()).deadline(Duration::from_secs(4)).start().unwrap();
        for _ in 0..small.len() {
            check(&load.next().unwrap().unwrap(), &small);
        }
        let error = load.find_map(Result::err).unwrap();
        assert!(matches!(error, Error::Timeout { .. }) && error.to_string().contains("a.safetensors"), "{error}");
    }
    bed.cuda.live_at_rest();
    bed.no_misuse("");
}

/// cuFile gives up on a read, or on all of them: what it had stays where it is.
#[test]
fn what_cufile_gives_up_on_is_kept() {
    let bed = Bed::new();
    let made = large(&mut Rng::new(6));
    let checkpoint = bed.write("m.safetensors", &made, 0);
    for (knob, value) in [("event_status", 0x20), ("submit_error", 5011), ("status_error", 5030)] {
        let [memory, ..] = bed.cuda.live_at_rest();
        let builder = options(checkpoint.load()).deadline(Duration::from_secs(2));
        bed.storage.set(knob, value);
        let error = builder.load_all().map(drop).unwrap_err();
        assert!(matches!(error, Error::Ring { ring: "cufile", .. }), "{knob}: {error}");
        assert_eq!(bed.cuda.live_at_rest()[0], memory + 1, "{knob}: the tensors");
        bed.no_misuse(knob);
    }
}

/// Dropped at once, with reads in flight: they are waited for, then everything is given back.
#[test]
fn a_load_dropped_in_the_middle_gives_everything_back() {
    let bed = Bed::new();
    let made = large(&mut Rng::new(7));
    let checkpoint = bed.write("m.safetensors", &made, 0);
    bed.storage.set("late_us_max", 20_000);
    for taken in [0, 1] {
        let mut load = options(checkpoint.load()).start().unwrap();
        let kept: Vec<Tensor> = load.by_ref().take(taken).map(Result::unwrap).collect();
        let start = Instant::now();
        drop(load);
        assert!(start.elapsed() < Duration::from_secs(20));
        kept.iter().for_each(|tensor| check(tensor, &made));
        drop(kept);
        bed.nothing_is_left();
    }
}

#[test]
fn what_cufile_cannot_do_is_refused_by_name() {
    let bed = Bed::new();
    let made = large(&mut Rng::new(8));
    let checkpoint = bed.write("m.safetensors", &made, 0);
    let refused = |builder: Builder| builder.load_all().map(drop).unwrap_err();
    let cuda = |ordinal| Device::cuda(ordinal).unwrap();
    for builder in [
        options(checkpoint.load()).path(PathChoice::Staged),
        options(checkpoint.load()).device(Device::host()),
        options(checkpoint.load()).devices(vec![cuda(0), cuda(1)]),
    ] {
        let error = refused(builder);
        assert!(matches!(error, Error::Config { option: "ring", .. }), "{error}");
    }
    let path = bed.directory.path().join("m.safetensors");
    let digest = Some(Digest::of(Algorithm::Crc32c, &std::fs::read(path).unwrap()));
    let digests = FileDigests { name: Some("m.safetensors".into()), bytes: None, digest, tensors: Vec::new() };
    let error = refused(options(checkpoint.load()).verify(Manifest::new(vec![digests]).unwrap()));
    assert!(matches!(error, Error::Config { option: "verify", .. }) && error.to_string().contains("cuFile"), "{error}");
    bed.storage.set("wrong_byte", 77);
    let error = refused(options(checkpoint.load()));
    assert!(error.to_string().contains("other bytes than pread"), "{error}");
    // Also where there is nothing that it would read.
    let error =
        refused(options(checkpoint.load()).part(|info, _| Part::Slice { dim: 1, from: 0, to: info.shape[1] / 2 }));
    assert!(error.to_string().contains("other bytes than pread"), "{error}");
    bed.storage.set("wrong_byte", 0);
    bed.storage.set("batch_error", 5030);
    let error = refused(options(checkpoint.load()));
    assert!(error.to_string().contains("cuFileBatchIOSetUp"), "{error}");
    bed.nothing_is_left();
}

/// Where it was asked for, memory that cuFile does not register is read into all the same, and that is said.
#[test]
fn memory_that_is_not_registered_is_said() {
    let bed = Bed::new();
    let made = large(&mut Rng::new(9));
    let checkpoint = bed.write("m.safetensors", &made, 0);
    bed.storage.set("register_bytes_max", 1 << 20);
    {
        let tensors = options(checkpoint.load()).load_all().unwrap();
        tensors.iter().for_each(|tensor| check(tensor, &made));
        let stats = tensors.stats();
        let [fallback] = &stats.fallbacks[..] else { panic!("{:?}", stats.fallbacks) };
        assert!(fallback.reason.contains("cuFileBufRegister") && stats.bytes_copied == 0, "{fallback}");
    }
    bed.nothing_is_left();
}
