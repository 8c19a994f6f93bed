//! Some of a dataset's fields: only they are read, planned, measured and handed over.

mod common;

use std::path::{Path, PathBuf};

use common::{bytes_of, disk_directory};
use strait::order::{Bucketing, Budget, Cost, Shuffle};
use strait::{Builder, Dataset, Device, Error, Loader, PathChoice};

const SAMPLES: u64 = 60;
const FIELDS: [&str; 4] = ["jpg", "cls", "json", "npy"];

/// What field number `field` of a sample holds; every third sample has no `json`.
fn body(sample: u64, field: usize) -> Option<Vec<u8>> {
    let len = [30_000 + 977 * sample, 3, 200 + sample, 8192][field];
    (field != 2 || sample % 3 != 1).then(|| bytes_of(sample * 4 + field as u64, 0, len))
}

fn write_tar(directory: &Path) -> PathBuf {
    let path = directory.join("fields.tar");
    let all = (0..SAMPLES).flat_map(|sample| (0..4).map(move |field| (sample, field)));
    let member = |(sample, field)| Some((format!("{sample:04}.{}", FIELDS[field]), body(sample, field)?));
    common::write_tar(&path, all.filter_map(member));
    path
}

fn builder(path: &Path) -> Builder {
    Loader::builder(Dataset::webdataset(&[path]).unwrap()).device(Device::host()).batch_size(7).shuffle(Shuffle::Full)
}

/// Mutants that this catches: fields planned by their place in the dataset; an unselected field read.
#[test]
fn only_the_fields_named_are_read() {
    let directory = disk_directory();
    let path = write_tar(directory.path());
    for names in [&["cls"][..], &["npy", "cls"], &["json"], &["jpg", "json", "npy", "cls"]] {
        for way in [PathChoice::Auto, PathChoice::Staged] {
            let mut loader = builder(&path).fields(names).path(way).gap_bytes(0).build().unwrap();
            let (mut samples, mut wanted) = (0, 0);
            for batch in loader.epoch(0) {
                let batch = batch.unwrap();
                let listed: Vec<&str> = batch.fields().iter().map(|field| &*field.name).collect();
                let numbers: Vec<usize> = (0..4).filter(|&field| names.contains(&FIELDS[field])).collect();
                assert_eq!(listed, numbers.iter().map(|&field| FIELDS[field]).collect::<Vec<_>>());
                for (i, &sample) in batch.samples().iter().enumerate() {
                    for &field in &numbers {
                        let want = body(sample, field);
                        wanted += want.as_ref().map_or(0, Vec::len) as u64;
                        assert_eq!(batch.field(FIELDS[field]).unwrap().host_bytes(i).unwrap(), want.as_deref());
                    }
                    samples += 1;
                }
                let others = (0..4).filter(|field| !numbers.contains(field));
                assert!({ others }.all(|field| batch.field(FIELDS[field]).is_none()));
            }
            assert_eq!((samples, loader.stats().bytes_wanted), (SAMPLES, wanted), "{names:?}");
            // At most two blocks for each of them, and nothing of what lies between.
            let most = wanted + SAMPLES * names.len() as u64 * 2 * 4096;
            assert!(loader.stats().bytes_read <= most, "{names:?}: {} bytes read", loader.stats().bytes_read);
        }
    }
}

/// Mutant that this catches: regions sized by all fields.
#[test]
fn memory_and_budgets_are_those_of_the_fields_that_are_read() {
    let directory = disk_directory();
    let path = write_tar(directory.path());
    let small = builder(&path).fields(&["cls"]).batch_size(60).prefetch(1).hold(1).build().unwrap();
    let all = builder(&path).batch_size(60).prefetch(1).hold(1).build().unwrap();
    let (small, all) = (small.stats().region_bytes, all.stats().region_bytes);
    assert!(small * 3 < all, "{small} bytes for one small field, {all} for all");

    let budget = Budget { samples_max: 100, cost_max: 30, cost: Cost::Sum };
    let mut loader = builder(&path).fields(&["cls"]).budget(budget, Bucketing::NONE).build().unwrap();
    assert!(loader.epoch(0).all(|batch| batch.unwrap().len() == 10), "ten times three bytes");
    // What is measured need not be read.
    let budget = Budget { cost_max: 10 * 8192, ..budget };
    let builder = builder(&path).fields(&["cls"]).tokens("npy", 1).budget(budget, Bucketing::NONE);
    let mut loader = builder.build().unwrap();
    assert!(loader.epoch(0).all(|batch| batch.unwrap().len() == 10), "ten arrays");
    assert_eq!(loader.stats().bytes_wanted, 3 * SAMPLES);
}

/// Mutants that this catches: a region that must hold gaps which are not read where there is no room; a gap of any length;
/// one that is refused at the length that is said to do.
#[test]
fn gaps_need_no_room_and_are_no_longer_than_a_read() {
    let directory = disk_directory();
    let path = write_tar(directory.path());
    for way in [PathChoice::Auto, PathChoice::Staged] {
        let builder = || builder(&path).fields(&["cls", "npy"]).batch_size(1).prefetch(1).hold(1).path(way);
        let mut loader = builder().region_bytes(64 << 10).gap_bytes(4 << 20).build().unwrap();
        assert_eq!(loader.epoch(0).map(|batch| batch.unwrap().len() as u64).sum::<u64>(), SAMPLES);
        for gap_bytes in [u64::MAX, 1 << 40, (4 << 20) + 1] {
            let text = builder().gap_bytes(gap_bytes).build().err().unwrap().to_string();
            assert!(text.starts_with("gap_bytes:") && text.contains("at most 4194304"), "{text}");
        }
    }
}

#[test]
fn names_that_are_none_are_an_error_that_lists_what_there_is() {
    let directory = disk_directory();
    let path = write_tar(directory.path());
    let error = |builder: Builder| {
        let error = builder.build().err().unwrap();
        assert!(matches!(error, Error::Config { .. }), "{error}");
        error.to_string()
    };
    let text = error(builder(&path).fields(&["cls", "png"]));
    assert!(text.starts_with("fields:") && text.contains("\"png\"") && text.contains("jpg, cls, json, npy"), "{text}");
    assert!(error(builder(&path).fields(&[])).contains("name one or more"));
    let windows = builder(&path).fields(&["npy"]).tokens("npy", 2).pack(100);
    assert!(error(windows).contains("windows read the field of their tokens alone"));
}
