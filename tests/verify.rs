//! Samples that are not what their checksums were made of: found, read again, raised, left out or replaced.

mod common;

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::{bytes_of, disk_directory, write_shard};
use strait::dataset::{Format, Indexing, Options};
use strait::order::{BadSamplePolicy, Cursor, IfChanged, Shuffle};
use strait::storage::{Completion, Pread, RawRead, Ring};
use strait::{Batch, Builder, DType, Dataset, Device, Error, Loader, PathChoice, Verify};

const RECORD: u64 = 5000;
const SAMPLES: u64 = 200;
/// They share a block with their neighbours, which are whole.
const DAMAGED: [u64; 2] = [50, 123];

/// A shard with checksums, in which two samples have changed since.
struct Bed {
    path: PathBuf,
    dataset: Dataset,
    _directory: tempfile::TempDir,
}

fn options() -> Options {
    Dataset::options().format(Format::Records).record_bytes(RECORD)
}

fn index(path: &Path, checksums: bool) {
    let how = Indexing { checksums, threads: 1, ..Indexing::default() };
    options().index(&[path], &how, &|_| true).unwrap();
}

impl Bed {
    fn new(damaged: &[u64]) -> Bed {
        let directory = disk_directory();
        let path = write_shard(directory.path(), 1, RECORD * SAMPLES);
        index(&path, true);
        let dataset = options().open(&[&path]).unwrap();
        let bed = Bed { path, dataset, _directory: directory };
        damaged.iter().for_each(|&sample| bed.flip(sample * RECORD + 2000));
        bed
    }

    /// A bit of the byte at `offset` changes on disk; the second time it is right again.
    fn flip(&self, offset: u64) {
        let file = std::fs::File::options().read(true).write(true).open(&self.path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset).unwrap();
        file.write_all_at(&[byte[0] ^ 0x10], offset).unwrap();
        file.sync_all().unwrap();
    }

    fn builder(&self, way: PathChoice) -> Builder {
        let builder = Loader::builder(self.dataset.clone()).device(Device::host()).path(way).verify(Verify::Checksums);
        // Slabs shorter than records: each is checked in parts.
        builder.batch_size(16).shuffle(Shuffle::Full).block_bytes(4096)
    }
}

const WAYS: [PathChoice; 2] = [PathChoice::Auto, PathChoice::Staged];

fn samples(batch: strait::Result<Batch>) -> Vec<u64> {
    let batch = batch.unwrap();
    let view = batch.field("record").unwrap();
    for (i, &sample) in batch.samples().iter().enumerate() {
        assert!(view.host_bytes(i).unwrap().unwrap() == bytes_of(1, sample * RECORD, RECORD), "sample {sample}");
    }
    batch.samples().to_vec()
}

#[test]
fn what_is_whole_passes_and_is_counted() {
    for way in WAYS {
        let bed = Bed::new(&[]);
        let mut loader = bed.builder(way).array("record", DType::U8, &[RECORD]).build().unwrap();
        assert_eq!(loader.epoch(0).map(|batch| samples(batch).len() as u64).sum::<u64>(), SAMPLES);
        let stats = loader.stats();
        assert_eq!((stats.bytes_verified, stats.mismatches), (SAMPLES * RECORD, 0));
        assert_eq!(stats.bytes_gathered, SAMPLES * RECORD, "and gathered besides");
        let mut off = bed.builder(way).verify(Verify::Off).build().unwrap();
        off.epoch(0).for_each(|batch| drop(samples(batch)));
        assert_eq!(off.stats().bytes_verified, 0);
    }
}

/// Mutants that this catches: checksums not compared; a neighbour in the same block blamed.
#[test]
fn damaged_samples_are_left_out_or_replaced_and_their_neighbours_are_not() {
    for (way, shuffle) in WAYS.into_iter().flat_map(|way| [(way, Shuffle::Full), (way, Shuffle::Sequential)]) {
        let bed = Bed::new(&DAMAGED);
        let mut loader = bed
            .builder(way)
            .shuffle(shuffle)
            .bad_samples(BadSamplePolicy::Skip { budget: 9, consecutive: 9 })
            .build()
            .unwrap();
        let mut all: Vec<u64> = loader.epoch(0).flat_map(samples).collect();
        all.sort_unstable();
        assert!(all.iter().copied().eq((0..SAMPLES).filter(|sample| !DAMAGED.contains(sample))));
        let stats = loader.stats();
        assert_eq!((stats.samples_skipped, stats.bad_samples), (2, DAMAGED.to_vec()));
        assert!(stats.mismatches >= 4, "each was read twice");
        // A run that goes on elsewhere leaves out the same, though the storage has been mended.
        let cursor = Cursor::parse(loader.cursor().to_json().as_bytes()).unwrap();
        DAMAGED.iter().for_each(|sample| bed.flip(sample * RECORD + 2000));
        let mut other = bed.builder(way).shuffle(shuffle).bad_samples(BadSamplePolicy::Replace).build().unwrap();
        other.resume(&cursor, IfChanged::Refuse).unwrap();
        let all: Vec<u64> = other.rest_of_epoch().flat_map(samples).collect();
        assert_eq!((all.len() as u64, DAMAGED.iter().any(|bad| all.contains(bad))), (SAMPLES, false));
        assert_eq!((other.stats().samples_replaced, other.stats().mismatches), (2, 0));
    }
}

#[test]
fn raised_it_names_shard_sample_field_and_byte() {
    for way in WAYS {
        let bed = Bed::new(&DAMAGED);
        let mut loader = bed.builder(way).shuffle(Shuffle::Sequential).build().unwrap();
        let batches: Vec<_> = loader.epoch(0).collect();
        assert_eq!(batches.len(), 4, "three whole batches and the error");
        let error = batches[3].as_ref().unwrap_err();
        let Error::BadSample { sample: 50, cause: Some(cause), .. } = error else { panic!("{error}") };
        assert!(matches!(**cause, Error::Corrupt { bytes: RECORD, .. }), "{cause}");
        let text = error.to_string();
        for word in ["shard-1.bin", "at byte 250000", "record of sample 50", "CRC32C is", "restore the file"] {
            assert!(text.contains(word), "{word}: {text}");
        }
        assert_eq!((error.offset(), error.path()), (Some(50 * RECORD), Some(&*bed.path)));
        assert!(loader.stats().mismatches >= 2, "read twice");
    }
}

/// Threads that deliver one wrong bit once.
struct Flipping {
    ring: Pread,
    targets: Vec<(u64, usize)>,
    left: u32,
}

// SAFETY: as the ring inside; a bit is changed before the completion is handed out.
unsafe impl Ring for Flipping {
    fn name(&self) -> &'static str {
        "flipping"
    }

    fn capacity(&self) -> usize {
        self.ring.capacity()
    }

    unsafe fn submit(&mut self, read: RawRead) -> strait::Result<()> {
        self.targets.push((read.token, read.target.as_ptr() as usize));
        // SAFETY: the caller's promises are passed on.
        unsafe { self.ring.submit(read) }
    }

    fn poll(&mut self, want: usize, timeout: Duration, out: &mut Vec<Completion>) -> strait::Result<()> {
        let before = out.len();
        self.ring.poll(want, timeout, out)?;
        for completion in &out[before..] {
            let place = self.targets.iter().position(|(token, _)| *token == completion.token).unwrap();
            let (_, target) = self.targets.swap_remove(place);
            if completion.result > 0 && self.left > 0 {
                self.left -= 1;
                // SAFETY: the read has ended, and who asked for it has not been told.
                unsafe { *(target as *mut u8) ^= 1 };
            }
        }
        Ok(())
    }
}

/// A wrong bit on the way costs a second read and nothing else, under every policy.
#[test]
fn what_is_right_when_read_again_is_delivered() {
    for way in WAYS {
        for policy in [BadSamplePolicy::Raise, BadSamplePolicy::Replace] {
            let bed = Bed::new(&[]);
            let make = |depth| {
                let ring = Flipping { ring: Pread::new(depth)?, targets: Vec::new(), left: 1 };
                Ok(Box::new(ring) as Box<dyn Ring>)
            };
            let builder = bed.builder(way).shuffle(Shuffle::Sequential).bad_samples(policy);
            let mut loader = builder.custom_ring(make).build().unwrap();
            assert!(loader.epoch(0).flat_map(samples).eq(0..SAMPLES));
            let stats = loader.stats();
            assert_eq!((stats.mismatches, stats.batches_read_again), (1, 1), "{way:?} {policy:?}");
            assert!(stats.bad_samples.is_empty());
        }
    }
}

/// Mutant that this catches: satisfied with the first shard that has checksums.
#[test]
fn a_shard_without_checksums_is_named_before_anything_is_read() {
    let directory = disk_directory();
    let paths = [1, 2, 3].map(|seed| write_shard(directory.path(), seed, RECORD * 4));
    paths.iter().for_each(|path| index(path, true));
    let build = || {
        let dataset = options().open(&paths).unwrap();
        Loader::builder(dataset).device(Device::host()).verify(Verify::Checksums).build().err()
    };
    assert!(build().is_none());
    std::fs::write(&paths[1], vec![0; RECORD as usize * 4 + RECORD as usize]).unwrap();
    let text = build().unwrap().to_string();
    for word in ["shard-2.bin", "strait index --checksums", "verify"] {
        assert!(text.contains(word), "{word}: {text}");
    }
}

#[test]
fn where_there_is_nothing_to_compare_with_is_an_error() {
    let bed = Bed::new(&[]);
    let error = |builder: Builder| builder.verify(Verify::Checksums).build().err().unwrap().to_string();
    let windows = bed.builder(PathChoice::Auto).tokens("record", 1).windows(100, 100);
    assert!(error(windows).contains("windows are parts of documents"));
    let directory = disk_directory();
    let path = write_shard(directory.path(), 1, RECORD * 10);
    for indexed in [false, true] {
        if indexed {
            index(&path, false);
        }
        let text = error(Loader::builder(options().open(&[&path]).unwrap()).device(Device::host()));
        assert!(text.starts_with("verify:") && text.contains("strait index --checksums"), "{text}");
    }
}
