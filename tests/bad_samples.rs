//! Samples that cannot be read, through a loader on real threads: raised, left out, replaced.

mod common;

use std::time::Duration;

use common::{bytes_of, disk_directory, write_shard};
use strait::order::{BadSamplePolicy, Cursor, IfChanged, Shuffle};
use strait::sim::Clock;
use strait::storage::{Completion, Faults, RawRead, Ring, SimRing};
use strait::{Batch, Builder, Dataset, Device, Error, Loader, PathChoice};

const RECORD: u64 = 4096;
const SAMPLES: u64 = 200;
/// Sample 50 and its neighbour.
const BAD: [u64; 2] = [50, 51];

/// A storage with two blocks that cannot be read.
struct Damaged {
    ring: SimRing,
    struck: Vec<u64>,
}

// SAFETY: as the ring inside; some completions are errors instead.
unsafe impl Ring for Damaged {
    fn name(&self) -> &'static str {
        "damaged"
    }

    fn capacity(&self) -> usize {
        self.ring.capacity()
    }

    unsafe fn submit(&mut self, read: RawRead) -> strait::Result<()> {
        self.struck.retain(|&token| token != read.token);
        if read.offset < (BAD[1] + 1) * RECORD && read.offset + u64::from(read.len) > BAD[0] * RECORD {
            self.struck.push(read.token);
        }
        // SAFETY: the caller's promises are passed on.
        unsafe { self.ring.submit(read) }
    }

    fn poll(&mut self, want: usize, timeout: Duration, out: &mut Vec<Completion>) -> strait::Result<()> {
        let before = out.len();
        self.ring.poll(want, timeout, out)?;
        for completion in &mut out[before..] {
            if self.struck.contains(&completion.token) {
                completion.result = -libc::EIO;
            }
        }
        Ok(())
    }
}

struct Bed {
    path: std::path::PathBuf,
    _directory: tempfile::TempDir,
}

impl Bed {
    fn new() -> Bed {
        let directory = disk_directory();
        Bed { path: write_shard(directory.path(), 3, SAMPLES * RECORD), _directory: directory }
    }

    fn builder(&self, policy: BadSamplePolicy) -> Builder {
        let dataset = Dataset::records(&[&self.path], RECORD).unwrap();
        let ring = |depth| {
            let ring = SimRing::new(1, Clock::simulated(), depth, Faults::default());
            Ok(Box::new(Damaged { ring, struck: Vec::new() }) as Box<dyn Ring>)
        };
        Loader::builder(dataset).device(Device::host()).batch_size(10).bad_samples(policy).custom_ring(ring)
    }
}

fn samples(batch: strait::Result<Batch>) -> Vec<u64> {
    let batch = batch.unwrap();
    let view = batch.field("record").unwrap();
    for (i, &sample) in batch.samples().iter().enumerate() {
        assert!(view.host_bytes(i).unwrap().unwrap() == bytes_of(3, sample * RECORD, RECORD), "sample {sample}");
    }
    batch.samples().to_vec()
}

#[test]
fn by_default_the_error_is_the_consumer_s() {
    let bed = Bed::new();
    let mut loader = bed.builder(BadSamplePolicy::default()).build().unwrap();
    let batches: Vec<_> = loader.epoch(0).collect();
    let (last, whole) = batches.split_last().unwrap();
    assert!(whole.len() <= 5 && whole.iter().all(Result::is_ok));
    let error = last.as_ref().unwrap_err();
    assert!(matches!(error, Error::Io { errno: libc::EIO, .. }), "{error}");
    assert!(loader.stats().bad_samples.is_empty());
}

#[test]
fn skipped_samples_are_counted_listed_and_skipped_again() {
    let bed = Bed::new();
    let policy = BadSamplePolicy::Skip { budget: 2, consecutive: 2 };
    for path in [PathChoice::Auto, PathChoice::Staged] {
        let mut loader = bed.builder(policy).path(path).build().unwrap();
        let all: Vec<u64> = loader.epoch(0).flat_map(samples).collect();
        assert_eq!(all, (0..SAMPLES).filter(|sample| !BAD.contains(sample)).collect::<Vec<_>>());
        let stats = loader.stats();
        assert_eq!((stats.samples_skipped, stats.samples_replaced, &stats.bad_samples[..]), (2, 0, &BAD[..]));
        assert_eq!((stats.samples, stats.batches_read_again), (SAMPLES - 2, 2));
        // Known: left out before they are read.
        assert_eq!(loader.epoch(1).flat_map(samples).count() as u64, SAMPLES - 2);
        assert_eq!(loader.stats().batches_read_again, 2);
        let text = loader.cursor().to_json();
        assert!(text.contains(r#""skipped":[50,51],"consecutive_bad":0"#), "{text}");
        let mut resumed = bed.builder(policy).path(path).shuffle(Shuffle::Sequential).build().unwrap();
        resumed.resume(&Cursor::parse(text.as_bytes()).unwrap(), IfChanged::Refuse).unwrap();
        assert_eq!(resumed.rest_of_epoch().flat_map(samples).count() as u64, SAMPLES - 2);
        let stats = resumed.stats();
        assert_eq!((stats.samples_skipped, stats.batches_read_again), (2, 0));
    }
}

#[test]
fn replaced_samples_leave_batches_whole() {
    let bed = Bed::new();
    let mut loader = bed.builder(BadSamplePolicy::Replace).build().unwrap();
    let all: Vec<u64> = loader.epoch(0).flat_map(samples).collect();
    assert_eq!(all.len() as u64, SAMPLES);
    assert!(!BAD.iter().any(|bad| all.contains(bad)));
    let others = (0..SAMPLES).filter(|sample| !BAD.contains(sample));
    assert!(others.clone().all(|sample| all.contains(&sample)));
    assert_eq!((loader.stats().samples_replaced, loader.stats().samples_skipped), (2, 0));
    assert_eq!(all, loader.epoch(0).flat_map(samples).collect::<Vec<_>>(), "the same stand-ins again");
}

#[test]
fn what_is_not_forgiven_says_why() {
    let bed = Bed::new();
    for (budget, consecutive, word) in [(1, 9, "budget of 1"), (9, 1, "1 bad samples follow each other")] {
        let mut loader = bed.builder(BadSamplePolicy::Skip { budget, consecutive }).build().unwrap();
        let batches: Vec<_> = loader.epoch(0).collect();
        assert_eq!(batches.len(), 6, "five whole batches and the error");
        let error = batches[5].as_ref().unwrap_err();
        let text = error.to_string();
        assert!(text.contains("sample 51 ") && text.contains(word) && text.contains("shard-3.bin"), "{text}");
        assert_eq!((error.code(), error.offset(), error.errno()), (14, Some(51 * RECORD), Some(libc::EIO)));
    }
    let error = bed.builder(BadSamplePolicy::Skip { budget: 2000, consecutive: 1 }).build().err().unwrap();
    assert!(error.to_string().contains("at most 1024"), "{error}");
}

/// A missing file is no damaged sample.
#[test]
fn a_lost_shard_is_an_error_under_every_policy() {
    let bed = Bed::new();
    let mut loader = bed.builder(BadSamplePolicy::Skip { budget: 1024, consecutive: 1024 }).build().unwrap();
    std::fs::remove_file(&bed.path).unwrap();
    let error = loader.epoch(0).next().unwrap().unwrap_err();
    assert!(matches!(error, Error::Open { .. }), "{error}");
}
