//! Fields that come out as one array a batch: what is in it, what it costs, and what it cannot be made of.

mod common;

use common::{bytes_of, disk_directory, write_shard};
use strait::order::{BadSamplePolicy, Policy, Rank, Shuffle};
use strait::{Batch, Builder, DType, Dataset, Device, Error, Loader, PathChoice};

const RECORD: u64 = 6000;
const SAMPLES: u64 = 100;

fn builder(dataset: &Dataset) -> Builder {
    Loader::builder(dataset.clone()).device(Device::host()).batch_size(7).block_bytes(64 << 10)
}

fn records(directory: &std::path::Path, record: u64, samples: u64) -> Dataset {
    Dataset::records(&[write_shard(directory, 1, record * samples)], record).unwrap()
}

fn rows(batch: &Batch, record: u64) -> Vec<u8> {
    batch.samples().iter().flat_map(|sample| bytes_of(1, sample * record, record)).collect()
}

#[test]
fn an_array_has_a_row_for_every_sample() {
    let directory = disk_directory();
    let dataset = records(directory.path(), RECORD, SAMPLES);
    for (way, shuffle) in [
        (PathChoice::Auto, Shuffle::Full),
        (PathChoice::Staged, Shuffle::Full),
        (PathChoice::Auto, Shuffle::Sequential),
        (PathChoice::Staged, Shuffle::Sequential),
    ] {
        let typed = builder(&dataset).array("record", DType::F32, &[3, 500]).path(way).shuffle(shuffle);
        let mut loader = typed.rank(Rank::new(1, 2).unwrap()).policy(Policy::Pad).build().unwrap();
        let mut bytes = 0;
        for batch in loader.epoch(0) {
            let batch = batch.unwrap();
            let tensor = batch.tensor("record").unwrap();
            assert_eq!((tensor.dtype(), tensor.shape()), (DType::F32, &[batch.len() as u64, 3, 500][..]));
            assert!(tensor.strides().eq([1500, 500, 1]));
            assert!(tensor.host_bytes().unwrap() == rows(&batch, RECORD), "{way:?} {shuffle:?}");
            let mut copied = Vec::new();
            tensor.read_back(&mut copied).unwrap();
            assert!(copied == tensor.host_bytes().unwrap());
            bytes += tensor.bytes();
        }
        let stats = loader.stats();
        match shuffle {
            // Padding repeats a row that lies there once.
            Shuffle::Sequential => assert!(stats.bytes_gathered <= 7 * RECORD, "{} gathered", stats.bytes_gathered),
            _ => assert_eq!(stats.bytes_gathered, bytes),
        }
    }
}

/// Mutant that this catches: large rows gathered though the copies could put them in place.
#[test]
fn large_rows_are_put_in_place_by_the_copies() {
    let directory = disk_directory();
    let record = 70_000;
    let dataset = records(directory.path(), record, 40);
    let typed = || builder(&dataset).array("record", DType::U8, &[record]).shuffle(Shuffle::Full);
    let mut staged = typed().path(PathChoice::Staged).build().unwrap();
    for batch in staged.epoch(0) {
        let batch = batch.unwrap();
        assert!(batch.tensor("record").unwrap().host_bytes().unwrap() == rows(&batch, record));
        let view = batch.field("record").unwrap();
        assert!((0..batch.len()).all(|i| view.offsets()[i] == i as u64 * record), "views are rows");
        assert!(batch.region_bytes() < batch.len() as u64 * record + 4096, "no extents besides");
    }
    assert_eq!((staged.stats().bytes_gathered, staged.stats().bytes_copied), (0, 40 * record));
    let mut direct = typed().build().unwrap();
    direct.epoch(0).for_each(|batch| assert!(batch.unwrap().tensor("record").is_some()));
    assert_eq!(direct.stats().bytes_gathered, 40 * record, "the ring reads whole blocks");
}

#[test]
fn windows_are_rows_of_tokens() {
    let directory = disk_directory();
    let dataset = records(directory.path(), 2, 50_000);
    for (windows, way) in [(true, PathChoice::Auto), (true, PathChoice::Staged), (false, PathChoice::Auto)] {
        let tokens = builder(&dataset).tokens("record", 2).path(way).shuffle(Shuffle::Full);
        let mut loader = if windows { tokens.windows(1000, 999) } else { tokens.pack(1000) }.build().unwrap();
        for batch in loader.epoch(0) {
            let batch = batch.unwrap();
            let tensor = batch.tensor("record").unwrap();
            assert_eq!((tensor.dtype(), tensor.shape()), (DType::U16, &[batch.len() as u64, 1000][..]));
            let stride = if windows { 999 } else { 1000 };
            let row = |window: &u64| bytes_of(1, window * stride * 2, 2000);
            assert!(tensor.host_bytes().unwrap() == batch.samples().iter().flat_map(row).collect::<Vec<u8>>());
        }
    }
    // Another type of the same size, or none.
    let signed = builder(&dataset).tokens("record", 2).windows(10, 10).array("record", DType::I16, &[]);
    let batch = signed.build().unwrap().epoch(0).next().unwrap().unwrap();
    assert_eq!(batch.tensor("record").unwrap().dtype(), DType::I16);
    let none = builder(&dataset).tokens("record", 2).windows(10, 10).tensors(&[]);
    assert!(none.build().unwrap().epoch(0).next().unwrap().unwrap().tensor("record").is_none());
}

#[test]
fn skipped_samples_leave_no_row() {
    let directory = disk_directory();
    let dataset = records(directory.path(), 4096, 20);
    let policy = BadSamplePolicy::Skip { budget: 9, consecutive: 9 };
    let typed = || builder(&dataset).array("record", DType::U8, &[4096]).bad_samples(policy).batch_size(5);
    let mut loader = typed().build().unwrap();
    let known = strait::order::Cursor { skipped: vec![0, 3, 4, 5, 6, 7, 8, 9], ..loader.cursor() };
    loader.resume(&known, strait::order::IfChanged::Refuse).unwrap();
    let batches: Vec<Batch> = loader.rest_of_epoch().take(2).map(Result::unwrap).collect();
    assert_eq!(batches[0].samples(), [1, 2]);
    let tensor = batches[0].tensor("record").unwrap();
    assert_eq!(tensor.shape(), [2, 4096]);
    assert!(tensor.host_bytes().unwrap() == rows(&batches[0], 4096));
    let empty = batches[1].tensor("record").unwrap();
    assert_eq!((empty.shape(), empty.bytes(), empty.host_bytes().unwrap().len()), (&[0, 4096][..], 0, 0));
}

#[test]
fn what_is_no_array_is_said_at_once() {
    let directory = disk_directory();
    let dataset = records(directory.path(), 10, 100);
    let error = |builder: Builder| {
        let error = builder.build().err().unwrap();
        assert!(matches!(error, Error::Config { .. }), "{error}");
        error.to_string()
    };
    let text = error(builder(&dataset).array("record", DType::F32, &[3]));
    assert!(text.contains("record has 10 bytes each; f32 of shape [3] takes 12 bytes"), "{text}");
    assert!(error(builder(&dataset).array("image", DType::U8, &[10])).contains("the fields are record"));
    assert!(error(builder(&dataset).tensors(&["record"])).contains("say what it is with `array`"));
    assert!(error(builder(&dataset).array("record", DType::F4, &[u64::MAX, 3])).contains("no whole number of bytes"));
    let batch = builder(&dataset).build().unwrap().epoch(0).next().unwrap().unwrap();
    assert!(batch.tensor("record").is_none() && batch.tensor("image").is_none());
}
