//! Every byte on every file system, whatever its sectors, its holes and the sizes of its files; and which way it took.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::{Duration, Instant};

use common::mount::{Kind, Mounts, memory_directory};
use common::process::Within;
use common::{bytes_of, disk_directory};
use strait::order::{Cursor, IfChanged, Progress, Shuffle};
use strait::storage::Uring;
use strait::{Batch, Builder, Dataset, Device, Fallback, Loader, PathChoice, RingChoice};

const PATHS: [PathChoice; 2] = [PathChoice::Auto, PathChoice::Staged];

fn rings() -> Vec<RingChoice> {
    match Uring::new(8, 4) {
        Ok(_) => vec![RingChoice::Auto, RingChoice::Uring, RingChoice::Pread],
        Err(error) => {
            static SAID: Once = Once::new();
            SAID.call_once(|| eprintln!("SKIPPED for uring: {error}"));
            vec![RingChoice::Pread]
        }
    }
}

/// What a loader is expected to say about the way it took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Ring,
    /// Direct reads by threads, because the file system cannot start reads without waiting.
    Threads,
    /// Reads through the page cache by threads, because the file system has no others.
    Buffered,
    /// Whatever it is.
    Any,
}

impl Way {
    fn of(directory: &Path) -> Way {
        match Kind::of(directory) {
            Kind::Direct => Way::Ring,
            Kind::Waits => Way::Threads,
            Kind::Other => {
                eprintln!("SKIPPED: which way is taken in {}, on no file system known here", directory.display());
                Way::Any
            }
        }
    }

    fn check(self, loader: &Loader, ring: RingChoice) {
        let stats = loader.stats();
        // What can be registered is a matter of limits, not of file systems.
        let files = |f: &&Fallback| f.instead.contains("threads");
        let ways: Vec<&Fallback> = stats.fallbacks.iter().filter(files).collect();
        let took = match (self, ring) {
            (_, RingChoice::Pread) | (Way::Threads | Way::Buffered, RingChoice::Auto) => "pread",
            _ => "uring",
        };
        assert!(stats.ring.contains(took) || matches!(self, Way::Any), "{} where {took} was due", stats.ring);
        match (self, ring) {
            (Way::Any, _) => {}
            (Way::Ring, _) | (_, RingChoice::Uring | RingChoice::Cufile) | (Way::Threads, RingChoice::Pread) => {
                assert!(ways.is_empty(), "{ring:?}: {ways:?}");
            }
            (Way::Threads, RingChoice::Auto) => {
                let [fallback] = &ways[..] else { panic!("{ways:?}") };
                assert_eq!(fallback.errno, Some(libc::EOPNOTSUPP), "{fallback}");
                assert!(fallback.instead.starts_with("pread threads") && !fallback.remedy.is_empty(), "{fallback}");
            }
            (Way::Buffered, _) => {
                let [fallback] = &ways[..] else { panic!("{ways:?}") };
                assert!(fallback.instead.starts_with("buffered reads"), "{fallback}");
            }
        }
    }
}

/// Shards of equal records, in one directory or several.
struct Shards {
    record: u64,
    /// Path, seed and size.
    files: Vec<(PathBuf, u64, u64)>,
}

impl Shards {
    fn write(directories: &[&Path], record: u64, sizes: &[u64]) -> Shards {
        let file = |(i, &bytes): (usize, &u64)| {
            let seed = record ^ (i as u64) << 32;
            let path = directories[i % directories.len()].join(format!("{record}-{i}.bin"));
            fs::write(&path, bytes_of(seed, 0, bytes)).unwrap();
            (path, seed, bytes)
        };
        Shards { record, files: sizes.iter().enumerate().map(file).collect() }
    }

    fn builder(&self) -> Builder {
        let paths: Vec<&Path> = self.files.iter().map(|(path, ..)| &**path).collect();
        Loader::builder(Dataset::records(&paths, self.record).unwrap()).device(Device::host())
    }

    /// The bytes of a sample.
    fn sample(&self, sample: u64) -> Vec<u8> {
        let mut local = sample;
        for &(_, seed, bytes) in &self.files {
            if local < bytes / self.record {
                return bytes_of(seed, local * self.record, self.record);
            }
            local -= bytes / self.record;
        }
        panic!("no sample {sample}");
    }

    fn samples(&self) -> u64 {
        self.files.iter().map(|(_, _, bytes)| bytes / self.record).sum()
    }

    fn check(&self, loader: &mut Loader) {
        let mut seen = BTreeSet::new();
        for batch in loader.epoch(0) {
            check_batch(&batch.unwrap(), |sample| {
                assert!(seen.insert(sample), "sample {sample} twice");
                self.sample(sample)
            });
        }
        assert_eq!(seen.len() as u64, self.samples());
    }
}

fn check_batch(batch: &Batch, mut want: impl FnMut(u64) -> Vec<u8>) {
    let view = batch.field("record").unwrap();
    for (i, &sample) in batch.samples().iter().enumerate() {
        let (got, want) = (view.host_bytes(i).unwrap().unwrap(), want(sample));
        if got != want {
            let differs = got.iter().zip(&want).position(|(a, b)| a != b);
            panic!("sample {sample}: {} bytes of {}, differs at {differs:?}", got.len(), want.len());
        }
    }
}

/// Sizes around sectors, pages and blocks, with records that fit none of them.
const SHAPES: [(u64, &[u64]); 6] = [
    (1, &[0, 1, 511, 512, 4095, 4096, 4097]),
    (511, &[511, 0, 511 * 37]),
    (512, &[512, 512 * 9]),
    (4096, &[4096, 4096 * 33]),
    (4097, &[4097, 4097 * 17]),
    (100_003, &[100_003 * 4, 100_003]),
];

fn every_shape(directory: &Path, way: Way) {
    for (record, sizes) in SHAPES {
        let shards = Shards::write(&[directory], record, sizes);
        for ring in rings() {
            for path in PATHS {
                let builder = shards.builder().batch_size(100).shuffle(Shuffle::Full).block_bytes(64 << 10);
                let mut loader = builder.ring(ring).path(path).build().unwrap();
                shards.check(&mut loader);
                way.check(&loader, ring);
            }
        }
    }
}

#[test]
fn every_shape_on_the_disk() {
    let _within = Within::seconds(300);
    let directory = disk_directory();
    every_shape(directory.path(), Way::of(directory.path()));
}

#[test]
fn every_shape_in_memory() {
    let _within = Within::seconds(300);
    match memory_directory() {
        Ok(directory) => every_shape(directory.path(), Way::Threads),
        Err(why) => eprintln!("SKIPPED: {why}"),
    }
}

fn every_shape_in_an_image(make: &[&str], options: &str, sector: u32, mib: u64, way: Way) {
    let _within = Within::seconds(300);
    let made = Mounts::new().and_then(|mut mounts| Ok((mounts.image(make, options, sector, mib)?, mounts)));
    match made {
        Ok(((directory, _), _mounts)) => every_shape(&directory, way),
        Err(why) => eprintln!("SKIPPED: {} with {sector}-byte sectors: {why}", make[0]),
    }
}

const EXT4: [&str; 2] = ["mkfs.ext4", "-q"];
const XFS: [&str; 2] = ["mkfs.xfs", "-q"];

#[test]
fn every_shape_on_ext4_with_512_byte_sectors() {
    every_shape_in_an_image(&EXT4, "rw", 512, 64, Way::Ring);
}

#[test]
fn every_shape_on_ext4_with_4096_byte_sectors() {
    every_shape_in_an_image(&EXT4, "rw", 4096, 64, Way::Ring);
}

#[test]
fn every_shape_on_ext4_with_1024_byte_blocks() {
    every_shape_in_an_image(&["mkfs.ext4", "-q", "-b", "1024"], "rw", 512, 64, Way::Ring);
}

#[test]
fn every_shape_on_xfs_with_512_byte_sectors() {
    every_shape_in_an_image(&XFS, "rw", 512, 320, Way::Ring);
}

#[test]
fn every_shape_on_xfs_with_4096_byte_sectors() {
    every_shape_in_an_image(&XFS, "rw", 4096, 320, Way::Ring);
}

/// A journal for data rules out direct reads, and the kernel says so.
#[test]
fn every_shape_where_there_are_no_direct_reads() {
    every_shape_in_an_image(&EXT4, "data=journal", 512, 64, Way::Buffered);
}

#[test]
fn every_shape_on_an_overlay() {
    let _within = Within::seconds(300);
    let below = disk_directory();
    match Mounts::new().and_then(|mut mounts| Ok((mounts.overlay(below.path())?, mounts))) {
        Ok((directory, _mounts)) => every_shape(&directory, Way::Threads),
        Err(why) => eprintln!("SKIPPED: overlay: {why}"),
    }
}

/// Offsets beyond 32 bits, and holes: zeros that are on no disk.
#[test]
fn the_ends_of_a_sparse_file_of_five_gib() {
    let _within = Within::seconds(300);
    let disk = disk_directory();
    let memory = memory_directory().map_err(|why| eprintln!("SKIPPED: {why}")).ok();
    for directory in [Some(&disk), memory.as_ref()].into_iter().flatten() {
        let way = Way::of(directory.path());
        for record in [64 << 10, 1_000_003] {
            let samples = (5 << 30) / record + 1;
            let path = directory.path().join("sparse.bin");
            let file = File::create(&path).unwrap();
            file.set_len(samples * record).unwrap();
            // Data in the first two records, in the two around 4 GiB, and in the last but one; its neighbours are holes.
            let around = (4 << 30) / record;
            let bytes = |sample| (sample, bytes_of(77, sample * record, record));
            let written = BTreeMap::from([0, 1, around - 1, around, samples - 2].map(bytes));
            for (sample, bytes) in &written {
                file.write_all_at(bytes, sample * record).unwrap();
            }
            let want = |sample| written.get(&sample).cloned().unwrap_or_else(|| vec![0; record as usize]);
            for ring in rings() {
                for choice in PATHS {
                    let builder = Loader::builder(Dataset::records(&[&path], record).unwrap()).device(Device::host());
                    let builder = builder.batch_size(3).prefetch(1).block_bytes(1 << 20).bytes_in_flight(4 << 20);
                    let mut loader = builder.ring(ring).path(choice).build().unwrap();
                    for consumed in [0, around - 2, samples - 5] {
                        let mut next = consumed;
                        let cursor = Cursor { progress: Progress { epoch: 0, consumed }, ..loader.cursor() };
                        loader.resume(&cursor, IfChanged::Refuse).unwrap();
                        for batch in loader.rest_of_epoch().take(2) {
                            let batch = batch.unwrap();
                            check_batch(&batch, want);
                            assert_eq!(batch.samples()[0], next);
                            next += batch.len() as u64;
                        }
                        assert_eq!(next, (consumed + 6).min(samples));
                    }
                    way.check(&loader, ring);
                }
            }
        }
    }
}

/// Shards on two file systems in one loader: the ring and the threads work, and are waited for, side by side.
#[test]
fn two_file_systems_in_one_dataset_and_no_read_waits_for_a_timeout() {
    let _within = Within::seconds(300);
    let memory = match memory_directory() {
        Ok(memory) => memory,
        Err(why) => return eprintln!("SKIPPED: {why}"),
    };
    let disk = disk_directory();
    let way = match Way::of(disk.path()) {
        Way::Ring => Way::Threads, // the half that is in memory
        _ => Way::Any,
    };
    let shards = Shards::write(&[disk.path(), memory.path()], 512, &[512 * 250; 8]);
    let one_by_one = |ring| {
        let start = Instant::now();
        for path in PATHS {
            // One read at a time: each is waited for.
            let builder = shards.builder().batch_size(1).shuffle(Shuffle::Full).reads_in_flight(1).prefetch(1);
            let mut loader = builder.ring(ring).path(path).build().unwrap();
            shards.check(&mut loader);
            way.check(&loader, ring);
        }
        (ring, start.elapsed())
    };
    for ring in rings() {
        for path in PATHS {
            let builder = shards.builder().batch_size(64).shuffle(Shuffle::Full).gap_bytes(0);
            let mut loader = builder.ring(ring).path(path).build().unwrap();
            shards.check(&mut loader);
            way.check(&loader, ring);
        }
    }
    // Threads alone say what the machine can do now, if nothing else comes between. Waits for a timeout of 20 ms would be up
    // to 40 s in the others, each time.
    let mut tries = Vec::new();
    let passes = |elapsed: &[(RingChoice, Duration)]| {
        let (_, alone) = *elapsed.last().unwrap();
        elapsed.iter().all(|&(_, time)| time < 3 * alone + Duration::from_secs(2))
    };
    while !tries.last().is_some_and(|elapsed: &Vec<_>| passes(elapsed)) {
        assert!(tries.len() < 3, "{tries:?}");
        tries.push(rings().into_iter().map(one_by_one).collect());
    }
}
