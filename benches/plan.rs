//! What a batch costs before its first read: order, extents, plan. Per sample; the limit is 1 us per 4 KiB sample.

use std::fs::File;
use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use strait::Dataset;
use strait::order::{Order, Policy, Progress, Rank, Schedule, Shuffle};
use strait::plan::{Limits, Plan};

const SAMPLE_BYTES: u64 = 4096;
const SHARDS: u64 = 16;
const SHARD_BYTES: u64 = 1 << 30;

/// Sparse shards: plans never read them.
fn dataset(directory: &std::path::Path) -> Dataset {
    let shard = |i| {
        let path = directory.join(format!("{i}.bin"));
        File::create(&path).unwrap().set_len(SHARD_BYTES).unwrap();
        path
    };
    let paths: Vec<_> = (0..SHARDS).map(shard).collect();
    Dataset::records(&paths, SAMPLE_BYTES).unwrap()
}

fn plan(c: &mut Criterion) {
    let directory = tempfile::tempdir().unwrap();
    let dataset = dataset(directory.path());
    let limits = Limits { align: 4096, block_bytes: 4 << 20, window_bytes: 1 << 62, gap_bytes: 16 << 10 };
    let mut group = c.benchmark_group("order, extents and plan of a batch of 4 KiB samples");
    for batch_size in [64, 256, 4096] {
        for shuffle in [Shuffle::Sequential, Shuffle::Full] {
            let order = Order::new(shuffle, dataset.len(), 1).unwrap();
            let schedule = Schedule::new(order, batch_size, Rank::SINGLE, Policy::Short).unwrap();
            let steps = schedule.steps(Progress::default()).unwrap();
            let (mut samples, mut plan, mut step) = (Vec::new(), Plan::default(), 0);
            let mut one = || {
                steps.batch(step, &mut samples);
                step = (step + 1) % steps.len();
                let extents = samples.iter().map(|&sample| dataset.extent(sample, 0));
                plan.build(extents, |_| SHARD_BYTES, &limits);
                assert_eq!(black_box(&plan).wanted_bytes(), batch_size * SAMPLE_BYTES);
            };
            group.throughput(Throughput::Elements(batch_size));
            let name = if shuffle == Shuffle::Full { "shuffled" } else { "sequential" };
            group.bench_function(BenchmarkId::new(name, batch_size), |b| b.iter(&mut one));
        }
    }
}

criterion_group!(benches, plan);
criterion_main!(benches);
