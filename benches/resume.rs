//! Going on: what the first batch costs at the start of an epoch and far into it, loader and all, and what a cursor costs.
//! Before it is timed, each is seen to go on.
//!
//! On files of tmpfs, where the disk is no limit. To go on should cost what a start costs, whatever batches are made of.

use std::io::Write;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use strait::order::{
    BadSamplePolicy, Bucketing, Budget, Cost, Cursor, IfChanged, PackerState, Progress, SKIPPED_MAX, Shuffle,
};
use strait::{Builder, Dataset, Device, Loader};

const DOCUMENTS: u64 = 200_000;
const RECORDS: u64 = 20_000_000;

/// A shard of documents of 0 to 400 tokens of two bytes.
fn documents() -> tempfile::NamedTempFile {
    let file = tempfile::Builder::new().suffix(".tar").tempfile_in("/dev/shm").unwrap();
    let mut tar = tar::Builder::new(std::io::BufWriter::new(file.reopen().unwrap()));
    for number in 0..DOCUMENTS {
        let bytes = vec![number as u8; 2 * (number * 7919 % 400) as usize];
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        tar.append_data(&mut header, format!("{number:07}.txt"), &bytes[..]).unwrap();
    }
    tar.into_inner().unwrap().flush().unwrap();
    file
}

fn first_batch(c: &mut Criterion) {
    let records = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
    records.as_file().set_len(RECORDS * 16).unwrap();
    let records_16 = Dataset::records(&[records.path()], 16).unwrap();
    let tar = documents();
    let texts = Dataset::webdataset(&[tar.path()]).unwrap();
    let builder = |dataset: &Dataset| {
        Loader::builder(dataset.clone()).device(Device::host()).shuffle(Shuffle::Full).batch_size(64).prefetch(2)
    };
    let tokens = || builder(&texts).tokens("txt", 2);
    let budget = Budget { samples_max: 64, cost_max: 20_000, cost: Cost::Padded };
    let bucketing = Bucketing { window: 1 << 14, run: 256 };
    let kinds: [(&str, &dyn Fn() -> Builder); 5] = [
        ("20 M samples", &|| builder(&records_16)),
        ("a budget", &|| tokens().budget(budget, Bucketing::NONE)),
        ("a budget, bucketed", &|| tokens().budget(budget, bucketing)),
        ("windows", &|| tokens().windows(512, 512)),
        ("packed windows", &|| tokens().pack(512)),
    ];
    let mut group = c.benchmark_group("loader and first batch");
    group.sample_size(10);
    for (name, build) in kinds {
        let first = |cursor: Option<&Cursor>| {
            let mut loader = build().build().unwrap();
            if let Some(cursor) = cursor {
                loader.resume(cursor, IfChanged::Refuse).unwrap();
            }
            let batch = loader.rest_of_epoch().next().unwrap().unwrap();
            batch.cursor()
        };
        let mut late = build().build().unwrap().cursor();
        late.progress = Progress { epoch: 3, consumed: late.positions - 1000 };
        // Where the last thousand windows start: a place in the epoch's order, wherever that is.
        late.packer = late.packer.map(|_| PackerState { document: DOCUMENTS - 4000, token: 0 });
        assert!(first(Some(&late)).progress.consumed > late.progress.consumed);
        group.bench_function(BenchmarkId::new("at 0", name), |b| b.iter(|| first(None)));
        group.bench_function(BenchmarkId::new("at the end", name), |b| b.iter(|| first(Some(&late))));
    }
    group.finish();
}

fn cursors(c: &mut Criterion) {
    let file = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
    file.as_file().set_len(1 << 20).unwrap();
    let builder = Loader::builder(Dataset::records(&[file.path()], 1).unwrap()).device(Device::host());
    let mut loader = builder.bad_samples(BadSamplePolicy::Replace).build().unwrap();
    let mut group = c.benchmark_group("cursor of a batch");
    for skipped in [0, SKIPPED_MAX as u64] {
        let progress = Progress { epoch: 3, consumed: 1 << 19 };
        let from = Cursor { progress, skipped: (0..skipped).collect(), ..loader.cursor() };
        loader.resume(&from, IfChanged::Refuse).unwrap();
        let batch = loader.rest_of_epoch().next().unwrap().unwrap();
        assert_eq!(batch.cursor().skipped.len() as u64, skipped);
        group.bench_function(format!("{skipped} skipped"), |b| b.iter(|| batch.cursor()));
    }
    group.finish();
}

criterion_group!(benches, first_batch, cursors);
criterion_main!(benches);
