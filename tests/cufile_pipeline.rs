//! The whole loader over stand-ins for the CUDA driver and for cuFile: reads that land in device memory, late, in any order
//! and in no stream's. A test binary of its own: where others ask for CUDA, they see the machine as it is.
#![cfg(feature = "cuda")]

#[path = "../examples/gpu_check/check/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the program uses the rest")]
mod check;
mod common;
#[path = "stand_in/cufile.rs"]
mod cufile;
mod stand_in;

use std::sync::MutexGuard;
use std::time::{Duration, Instant};

use check::casts::Change;
use check::cuda::Gpu;
use check::exact;
use check::race::{self, Load, Tally};
use check::reader::{Reader, Release};
use check::shards::{Shards, Source};
use cufile::FakeCufile;
use stand_in::Fake;
use strait::order::{BadSamplePolicy, Shuffle};
use strait::sim::Rng;
use strait::{Builder, DType, Device, Error, Loader, PathChoice, RingChoice};

/// Both stand-ins, shards, and what was alive before.
struct Bed {
    cuda: Fake,
    storage: FakeCufile,
    before: ([u64; 6], [u64; 4]),
    source: Source,
    directory: tempfile::TempDir,
    _alone: MutexGuard<'static, ()>,
}

const RECORD: usize = 8192;

impl Bed {
    fn new() -> Bed {
        let (cuda, alone) = stand_in::take();
        let (storage, _alone_too) = cufile::take();
        let before = (cuda.live_at_rest(), storage.live());
        let (source, directory) = (Source::new(1 << 20), common::disk_directory());
        Bed { cuda, storage, before, source, directory, _alone: alone }
    }

    fn shards(&self) -> Shards<'_> {
        Shards::records(&self.source, self.directory.path(), &mut Rng::new(12), RECORD, self.source.len()).unwrap()
    }

    fn builder(&self, ring: RingChoice) -> Builder {
        let builder = Loader::builder(self.shards().dataset.clone()).device(Device::cuda(0).unwrap());
        builder.batch_size(8).block_bytes(16 << 10).bytes_in_flight(64 << 10).prefetch(2).hold(2).ring(ring)
    }

    /// Nothing was done that driver or storage do not allow, and everything was given back.
    fn nothing_is_left(&self) {
        assert_eq!(
            self.cuda.live_at_rest(),
            self.before.0,
            "memory, registrations, streams, events, contexts, modules"
        );
        assert_eq!(self.storage.live()[..3], self.before.1[..3], "files, buffers, batches");
        assert_eq!((self.cuda.misuse().as_str(), self.storage.misuse().as_str()), ("", ""));
    }
}

#[test]
fn every_byte_of_every_shape_is_the_shards() {
    let bed = Bed::new();
    {
        let device = Device::cuda(0).unwrap();
        let gpu = Gpu::of(&device).unwrap();
        let (source, directory, ring) = (&bed.source, bed.directory.path(), Some(RingChoice::Cufile));
        for seed in 0..24 {
            bed.cuda.pace(seed, [0, 300][seed as usize % 2], 0);
            bed.storage.set("late_us_max", [0, 2000, 200][seed as usize % 3]);
            bed.storage.set("short_bytes", [0, 12 << 10, 4096][seed as usize / 3 % 3]);
            exact::check(&exact::Bed { device: &device, gpu: &gpu, source, directory, ring }, seed).unwrap();
            let misuse = (bed.cuda.misuse(), bed.storage.misuse());
            assert_eq!(misuse, (String::new(), String::new()), "seed {seed}");
        }
    }
    bed.nothing_is_left();
}

/// Two consumers' streams, much slower than the loader's.
fn race(release: Release, late_us: u64) -> (Tally, String) {
    let bed = Bed::new();
    let (tally, misuse);
    {
        let device = Device::cuda(0).unwrap();
        let gpu = Gpu::of(&device).unwrap();
        let mut readers = [(); 2].map(|()| Reader::new(&gpu, 1 << 20, 0).unwrap());
        readers.iter().for_each(|reader| bed.cuda.late(reader.stream().raw(), late_us));
        let load = Load { record: 4096, batch: 16, epochs: 3, ring: RingChoice::Cufile };
        let directory = bed.directory.path();
        tally = race::turn_over(&device, &bed.source, directory, &mut readers, load, release).unwrap();
        misuse = bed.cuda.misuse();
        bed.cuda.heal();
    }
    bed.nothing_is_left();
    (tally, misuse)
}

/// No stream orders what the storage writes: the engine has to wait for the fence before it reads.
#[test]
fn memory_is_used_again_only_behind_the_streams_that_read_it() {
    for late_us in [0, 500, 10_000] {
        let (tally, misuse) = race(Release::Fenced, late_us);
        assert!(tally.wrong == 0 && tally.samples > 300, "{tally:?}");
        assert_eq!(misuse, "");
    }
    // Without the fence the same race is lost: the test can tell.
    let (tally, misuse) = race(Release::TooEarly, 20_000);
    assert!(tally.wrong > tally.samples / 2, "{tally:?}");
    assert!(misuse.contains("in no order"), "{misuse}");
}

/// Batches that nobody waits for go back while their kernels are still to run: their regions must not be read into before.
fn behind_kernels(change: Option<&Change>) {
    let bed = Bed::new();
    {
        let records = 5000;
        let directory = bed.directory.path();
        let shards = Shards::records(&bed.source, directory, &mut Rng::new(4), records, 400 * records).unwrap();
        let builder = Loader::builder(shards.dataset.clone()).device(Device::cuda(0).unwrap());
        let stored = change.map_or(DType::U8, |change| change.from);
        let shape = [records as u64 / stored.bytes().unwrap()];
        let builder = builder.array("record", stored, &shape).ring(RingChoice::Cufile);
        let builder = change.iter().fold(builder, |builder, change| change.ask(builder, "record"));
        let builder = builder.shuffle(Shuffle::Full).batch_size(8).prefetch(2).hold(1);
        let mut loader = builder.region_bytes(1 << 20).build().unwrap();
        bed.cuda.pace(7, 3000, 0);
        let mut bytes = Vec::new();
        for (step, batch) in loader.epoch(0).enumerate() {
            let batch = batch.unwrap();
            if step % 3 > 0 {
                continue; // dropped at once
            }
            batch.tensor("record").unwrap().read_back(&mut bytes).unwrap();
            for (row, &sample) in bytes.chunks(bytes.len() / batch.len()).zip(batch.samples()) {
                let record = shards.field(sample, "record").unwrap();
                assert!(row == change.map_or(record.to_vec(), |change| change.of(record)), "sample {sample}");
            }
        }
        let stats = loader.stats();
        let (gathered, cast) = (stats.bytes_gathered > 0, stats.bytes_cast > 0);
        assert_eq!((stats.path, gathered, cast), ("direct", change.is_none(), change.is_some()));
    }
    bed.nothing_is_left();
}

#[test]
fn memory_is_used_again_only_behind_its_gather() {
    behind_kernels(None);
}

#[test]
fn memory_is_used_again_only_behind_its_casts() {
    behind_kernels(Some(&Change::new(DType::U16, DType::I64, None)));
}

/// Where reads of a batch have failed, all that was read ahead is read again, and its gathers may still be to run.
///
/// Mutant that this catches: batches that are planned anew while something is on the gate's stream.
#[test]
fn what_was_read_ahead_is_read_again_only_behind_its_gather() {
    let bed = Bed::new();
    {
        let records = 5000;
        let directory = bed.directory.path();
        let shards = Shards::records(&bed.source, directory, &mut Rng::new(4), records, 400 * records).unwrap();
        let builder = Loader::builder(shards.dataset.clone()).device(Device::cuda(0).unwrap());
        let builder = builder.array("record", DType::U8, &[records as u64]).ring(RingChoice::Cufile);
        let builder = builder.shuffle(Shuffle::Full).batch_size(8).prefetch(4).hold(1);
        let skip = BadSamplePolicy::Skip { budget: 400, consecutive: 400 };
        let mut loader = builder.bad_samples(skip).build().unwrap();
        bed.cuda.pace(7, 10_000, 0);
        bed.storage.set("late_us_max", 500);
        let mut bytes = Vec::new();
        for batch in loader.epoch(0) {
            let batch = batch.unwrap();
            bed.storage.set("read_error", i64::from(-libc::EIO));
            batch.tensor("record").unwrap().read_back(&mut bytes).unwrap();
            for (row, &sample) in bytes.chunks(records).zip(batch.samples()) {
                assert!(Some(row) == shards.field(sample, "record"), "sample {sample}");
            }
        }
        let stats = loader.stats();
        assert!(stats.bytes_gathered > 0 && stats.batches_read_again > 0, "{stats:?}");
    }
    bed.nothing_is_left();
}

/// The last batches are given back behind a slow stream, and the loader goes at once.
#[test]
fn device_memory_is_freed_behind_the_streams_that_read_it() {
    let bed = Bed::new();
    {
        let gpu = Gpu::of(&Device::cuda(0).unwrap()).unwrap();
        let mut reader = Reader::new(&gpu, 2 << 20, 0).unwrap();
        bed.cuda.late(reader.stream().raw(), 20_000);
        let mut loader = bed.builder(RingChoice::Cufile).build().unwrap();
        let batches: Vec<_> = loader.epoch(0).take(2).map(Result::unwrap).collect();
        batches.into_iter().for_each(|batch| reader.take(batch, Release::Fenced).unwrap());
        drop(loader);
        assert_eq!(bed.cuda.misuse(), "");
        assert_eq!(reader.check(&bed.shards()).unwrap(), 0);
    }
    bed.nothing_is_left();
}

/// Dropped at once, with reads in flight: they are waited for, then everything is given back.
#[test]
fn a_loader_dropped_in_mid_epoch_gives_everything_back() {
    let bed = Bed::new();
    bed.storage.set("late_us_max", 20_000);
    for batches in [0, 1, 3] {
        let mut loader = bed.builder(RingChoice::Cufile).build().unwrap();
        loader.epoch(0).take(batches).for_each(|batch| drop(batch.unwrap()));
        loader.epoch(1);
        let start = Instant::now();
        drop(loader);
        assert!(start.elapsed() < Duration::from_secs(20));
        bed.nothing_is_left();
    }
}

/// A storage that no longer answers: an error that says so, and nothing is freed that it may still write to.
#[test]
fn a_read_that_never_ends_is_named_and_its_memory_kept() {
    let bed = Bed::new();
    let [memory, ..] = bed.cuda.live();
    {
        let mut loader = bed.builder(RingChoice::Cufile).deadline(Duration::from_secs(3)).build().unwrap();
        bed.storage.set("late_us_max", i64::MAX / 2);
        let error = loader.epoch(0).find_map(Result::err).unwrap();
        assert!(matches!(error, Error::Timeout { .. }) && error.to_string().contains("a read of"), "{error}");
    }
    assert_eq!(bed.cuda.live_at_rest()[0], memory + 1, "the regions");
    assert_eq!((bed.cuda.misuse().as_str(), bed.storage.misuse().as_str()), ("", ""));
}

#[test]
fn errors_name_the_file_and_the_code() {
    let bed = Bed::new();
    {
        let mut loader = bed.builder(RingChoice::Cufile).build().unwrap();
        bed.storage.set("read_error", -5030);
        let error = loader.epoch(0).find_map(Result::err).unwrap();
        let text = error.to_string();
        assert!(text.contains("CU_FILE_INTERNAL_ERROR") && text.contains("cufile.log"), "{text}");
        assert!(matches!(error, Error::Io { errno: 5030, .. }), "{error:?}");
        // The next epoch goes well.
        assert!(loader.epoch(1).all(|batch| batch.is_ok()));
        bed.storage.set("read_error", i64::from(-libc::EINVAL));
        let error = loader.epoch(2).find_map(Result::err).unwrap();
        assert_eq!(
            error.errno(),
            Some(libc::EINVAL),
            "read again by threads, into memory that is not the host's? {error}"
        );
    }
    bed.nothing_is_left();
}

/// The bytes may still land: what they go to is kept for as long.
///
/// Mutants that this catches: a wait without a deadline; one with the loader's own, which may be long.
#[test]
fn a_trial_read_that_hangs_is_left_behind() {
    let bed = Bed::new();
    bed.storage.set("read_hangs", 1);
    // So that the test ends where the wait does not.
    let patience = std::thread::spawn(|| {
        std::thread::park_timeout(Duration::from_secs(40));
        FakeCufile.set("read_hangs", 0);
    });
    for deadline in [Duration::from_millis(300), Duration::from_secs(600)] {
        let start = Instant::now();
        let error = bed.builder(RingChoice::Cufile).deadline(deadline).build().map(drop).unwrap_err();
        assert!(error.to_string().contains("a trial read did not return in time"), "{error}");
        assert!(start.elapsed() < Duration::from_secs(20));
        assert!(bed.cuda.live()[0] > bed.before.0[0], "its memory was freed");
    }
    patience.thread().unpark();
    patience.join().unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    while bed.cuda.live() != bed.before.0 && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(1));
    }
    bed.nothing_is_left();
}

/// It takes the staged path, and says why.
fn staged_because(bed: &Bed) -> String {
    let mut loader = bed.builder(RingChoice::Auto).build().unwrap();
    let stats = loader.stats();
    assert_eq!(stats.path, "staged");
    let refusal = stats.fallbacks.iter().find(|fallback| fallback.instead.contains("cuFile")).expect("a reason");
    assert!(!refusal.remedy.is_empty());
    let samples: usize = loader.epoch(0).map(|batch| batch.unwrap().len()).sum();
    assert_eq!(samples, bed.shards().samples());
    refusal.to_string()
}

/// Mutant that this catches: a mode that is not looked at.
#[test]
fn the_direct_path_is_taken_where_it_works_and_refused_by_name_where_not() {
    let bed = Bed::new();
    {
        // The library is open for the rest of the process, in the mode that it had then; others are tests of the ring.
        let forced = bed.builder(RingChoice::Cufile).build().unwrap().stats();
        assert_eq!((forced.path, forced.ring, forced.pinned_bytes_max), ("direct", "cufile", 0));
        assert!(forced.fallbacks.is_empty(), "{:?}", forced.fallbacks);
        // Files that it would read directly, if it were in another mode.
        bed.storage.lies_on(bed.directory.path(), "nvme0n1");
        match staged_because(&bed) {
            other if other.contains("neither ext4 nor XFS") => {
                eprintln!("SKIPPED compatibility mode: {other}");
            }
            mode => assert!(mode.contains("once it is open, that it runs in compatibility mode"), "{mode}"),
        }
        let staged = bed.builder(RingChoice::Cufile).path(PathChoice::Staged).build().map(drop).unwrap_err();
        assert!(matches!(staged, Error::Config { option: "ring", .. }), "{staged}");
        let host = bed.builder(RingChoice::Cufile).device(Device::host()).build().map(drop).unwrap_err();
        assert!(host.to_string().contains("CUDA"), "{host}");
        bed.storage.set("wrong_byte", 77);
        let error = bed.builder(RingChoice::Cufile).build().map(drop).unwrap_err();
        assert!(error.to_string().contains("other bytes than pread"), "{error}");
        bed.storage.set("wrong_byte", 0);
        bed.storage.set("batch_error", 5030);
        let error = bed.builder(RingChoice::Cufile).build().map(drop).unwrap_err();
        assert!(error.to_string().contains("cuFileBatchIOSetUp"), "{error}");
    }
    bed.nothing_is_left();
}
