//! Samples that cannot be read, through a loader on real threads: raised, left out, replaced.

mod common;

use common::damaged::Damaged;
use common::{bytes_of, disk_directory, write_shard};
use strait::order::{BadSamplePolicy, Bucketing, Budget, Cost, Cursor, IfChanged, Shuffle};
use strait::{Batch, Builder, Dataset, Device, Error, Loader, PathChoice};

const RECORD: u64 = 4096;
const SAMPLES: u64 = 200;
/// Sample 50 and its neighbour.
const BAD: [u64; 2] = [50, 51];

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
        Loader::builder(dataset)
            .device(Device::host())
            .batch_size(10)
            .bad_samples(policy)
            .custom_ring(Damaged::ring(BAD[0] * RECORD..(BAD[1] + 1) * RECORD))
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

/// What a run over windows remembers is a token of the damaged block: the windows that need it are left out in every epoch,
/// however documents are shuffled, and by a resumed run before anything is read.
#[test]
fn windows_that_need_a_damaged_block_are_left_out() {
    let bed = Bed::new();
    let policy = BadSamplePolicy::Skip { budget: 2, consecutive: 9 };
    // Windows of three blocks over blocks of 1024 tokens: 50 is in window 16, 51 in window 17.
    let build = |policy, packed| {
        let builder = bed.builder(policy).tokens("record", 4).batch_size(7).shuffle(Shuffle::Full);
        if packed { builder.pack(3 * 1024) } else { builder.windows(3 * 1024, 3 * 1024) }.build().unwrap()
    };
    let numbers = |loader: &mut Loader, epoch| {
        let windows = |batch: strait::Result<Batch>| {
            let batch = batch.unwrap();
            for (i, &number) in batch.samples().iter().enumerate() {
                let view = batch.window(i).unwrap();
                let bytes = view.bytes.host_bytes(0).unwrap().unwrap();
                assert!(bytes == bytes_of(3, number * 3 * RECORD, 3 * RECORD) && view.pieces.len() == 1);
            }
            let rows = |number: &u64| bytes_of(3, number * 3 * RECORD, 3 * RECORD);
            let tensor = batch.tensor("record").unwrap();
            assert_eq!(tensor.shape(), [batch.len() as u64, 3 * 1024]);
            assert!(tensor.host_bytes().unwrap() == batch.samples().iter().flat_map(rows).collect::<Vec<u8>>());
            batch.samples().to_vec()
        };
        let mut all: Vec<u64> = loader.epoch(epoch).flat_map(windows).collect();
        all.sort_unstable();
        all
    };
    let good: Vec<u64> = (0..SAMPLES / 3).filter(|window| ![16, 17].contains(window)).collect();
    for packed in [false, true] {
        let mut loader = build(policy, packed);
        assert_eq!(numbers(&mut loader, 0), good);
        let stats = loader.stats();
        assert_eq!((stats.samples_skipped, &stats.bad_samples[..]), (2, &[50 * 1024, 51 * 1024][..]));
        assert!(stats.batches_read_again > 0);
        let again = stats.batches_read_again;
        assert_eq!(numbers(&mut loader, 1), good);
        assert_eq!(loader.stats().batches_read_again, again, "known, and left out before they are read");
        let text = loader.cursor().to_json();
        assert!(text.contains(r#""skipped":[51200,52224]"#), "{text}");
        let mut resumed = build(policy, packed);
        resumed.resume(&Cursor::parse(text.as_bytes()).unwrap(), IfChanged::Refuse).unwrap();
        assert_eq!(resumed.rest_of_epoch().map(|batch| batch.unwrap().len()).sum::<usize>(), good.len());
        assert_eq!((resumed.stats().batches_read_again, resumed.stats().samples_skipped), (0, 2));

        let mut replaced = build(BadSamplePolicy::Replace, packed);
        let all = numbers(&mut replaced, 0);
        assert!(all.len() as u64 == SAMPLES / 3 && good.iter().all(|window| all.contains(window)));
        assert_eq!((replaced.stats().samples_replaced, replaced.stats().samples_skipped), (2, 0));

        let mut few = build(BadSamplePolicy::Skip { budget: 1, consecutive: 9 }, packed);
        let error = few.epoch(0).last().unwrap().unwrap_err().to_string();
        assert!(error.contains("budget of 1") && error.contains("a token") && error.contains("shard-3.bin"), "{error}");
        let error = build(BadSamplePolicy::Raise, packed).epoch(0).last().unwrap().unwrap_err();
        assert!(matches!(error, Error::Io { errno: libc::EIO, .. }), "{error}");
    }
}

/// A stand-in is no longer than what it stands in for, so that the budget holds.
#[test]
fn replaced_samples_stay_within_the_budget() {
    let directory = disk_directory();
    let path = directory.path().join("a.tar");
    let mut tar = tar::Builder::new(std::fs::File::create(&path).unwrap());
    for sample in 0..90u64 {
        let bytes = vec![7; 1 + (sample * 2477 % 9000) as usize];
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        tar.append_data(&mut header, format!("{sample:03}.jpg"), &bytes[..]).unwrap();
    }
    tar.finish().unwrap();
    let dataset = Dataset::webdataset(&[&path]).unwrap();
    let len = |sample| dataset.extent(sample, 0).unwrap().len;
    let budget = Budget { samples_max: 3, cost_max: 9000, cost: Cost::Sum };
    let mut replaced = 0;
    for seed in 0..20 {
        let builder = Loader::builder(dataset.clone()).device(Device::host()).shuffle(Shuffle::Full).seed(seed);
        let builder = builder
            .bad_samples(BadSamplePolicy::Replace)
            .budget(budget, Bucketing::NONE)
            .custom_ring(Damaged::ring(BAD[0] * RECORD..(BAD[1] + 1) * RECORD));
        let mut loader = builder.build().unwrap();
        for batch in loader.epoch(0) {
            let batch = batch.unwrap();
            let cost: u64 = batch.samples().iter().map(|&sample| len(sample)).sum();
            assert!(cost <= budget.cost_max, "{:?}: {cost}", batch.samples());
        }
        replaced += loader.stats().samples_replaced;
    }
    assert!(replaced > 20, "{replaced}");
}
