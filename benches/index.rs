//! What an index costs: entries a second when it is made, and opening a dataset that has one.
//!
//! `STRAIT_INDEX_SHARDS=10000 cargo bench --bench index` is 100 million samples; the default a fiftieth of that.

use std::fs;
use std::path::{Path, PathBuf};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use strait::Dataset;
use strait::dataset::{IndexOutcome, Indexing};

const RECORDS: u64 = 1_000_000;
const RECORDS_PER_SHARD: u64 = 10_000;

/// Records of 4 to 67 bytes.
fn tfrecord(path: &Path, records: u64) -> PathBuf {
    let masked = |bytes: &[u8]| crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes();
    let mut out = Vec::new();
    for i in 0..records {
        let data = vec![i as u8; 4 + (i % 64) as usize];
        let len = (data.len() as u64).to_le_bytes();
        for part in [&len[..], &masked(&len), &data, &masked(&data)] {
            out.extend_from_slice(part);
        }
    }
    fs::write(path, out).unwrap();
    path.to_owned()
}

/// Documents of 1 to 64 tokens, as datatrove writes them.
fn documents(path: &Path, documents: u64) -> PathBuf {
    let ends: Vec<u64> = (0..documents)
        .scan(0, |end, i| {
            *end += 1 + i % 64;
            Some(*end)
        })
        .collect();
    fs::File::create(path).unwrap().set_len(2 * ends[ends.len() - 1]).unwrap();
    fs::write(format!("{}.index", path.display()), ends.iter().flat_map(|end| end.to_le_bytes()).collect::<Vec<u8>>())
        .unwrap();
    path.to_owned()
}

fn make(criterion: &mut Criterion) {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let files = [
        ("TFRecord", tfrecord(&directory.path().join("a.tfrecord"), RECORDS), 4 + (RECORDS - 1) % 64),
        ("documents", documents(&directory.path().join("a.ds"), RECORDS), 2 * (1 + (RECORDS - 1) % 64)),
    ];
    let mut group = criterion.benchmark_group("index");
    group.throughput(Throughput::Elements(RECORDS)).sample_size(10);
    for (name, path, last_bytes) in files {
        let dataset = Dataset::options().dtype(strait::DType::U16).open(&[&path]).unwrap();
        let last = dataset.extent(RECORDS - 1, 0).unwrap();
        // Masked CRCs end a record; nothing ends a document.
        let end = last.offset + last.len + if name == "TFRecord" { 4 } else { 0 };
        assert_eq!((last.len, end), (last_bytes, dataset.shards()[0].bytes));
        let apart = || tempfile::tempdir_in(directory.path()).unwrap();
        group.bench_function(name, |bencher| {
            let index = |apart: tempfile::TempDir| {
                let options = Dataset::options().dtype(strait::DType::U16).index_dir(apart.path());
                let shards = options.index(&[&path], &Indexing::default(), &|_| true).unwrap();
                assert!(
                    matches!(shards[0].outcome, IndexOutcome::Written) && shards[0].samples == RECORDS,
                    "{shards:?}"
                );
                apart
            };
            bencher.iter_batched(apart, index, BatchSize::PerIteration);
        });
    }
    group.finish();
}

fn resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

fn open(criterion: &mut Criterion) {
    let shards: u64 = std::env::var("STRAIT_INDEX_SHARDS").map_or(200, |shards| shards.parse().unwrap());
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let name = |shard: u64| directory.path().join(format!("{shard:06}.tfrecord"));
    let first = tfrecord(&name(0), RECORDS_PER_SHARD);
    let sidecar = |shard: u64| PathBuf::from(format!("{}.strait", name(shard).display()));
    Dataset::options().index(&[&first], &Indexing::default(), &|_| true).unwrap();
    for shard in 1..shards {
        // The same shard under another name, with an index of its own.
        fs::hard_link(&first, name(shard)).unwrap();
        fs::copy(sidecar(0), sidecar(shard)).unwrap();
    }
    let samples = shards * RECORDS_PER_SHARD;
    let before = resident_bytes();
    let began = std::time::Instant::now();
    let dataset = Dataset::open(&[directory.path()]).unwrap();
    let took = began.elapsed();
    assert_eq!((dataset.len(), dataset.index_state().sidecars), (samples, shards));
    let grown = resident_bytes().saturating_sub(before) >> 20;
    eprintln!("{shards} shards, {samples} samples: opened in {took:.1?}, {grown} MiB more resident");
    assert!(dataset.extent(samples - 1, 0).is_some());
    dataset.check().unwrap();
    criterion.bench_function("open an indexed dataset", |bencher| {
        bencher.iter(|| assert_eq!(Dataset::open(&[directory.path()]).unwrap().len(), samples));
    });
}

criterion_group!(benches, make, open);
criterion_main!(benches);
