//! What the order costs: positions, batches, cursors. Before it is timed, each answer is compared with another way to it.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use strait::order::{Cursor, Fingerprint, IfChanged, Order, Permutation, Policy, Progress, Rank, Schedule, Shuffle};

/// Positions of one iteration: large enough that the loop's ends do not count.
const POSITIONS: u64 = 1 << 16;

fn permutation(c: &mut Criterion) {
    let mut group = c.benchmark_group("permutation");
    group.throughput(Throughput::Elements(POSITIONS));
    for n in [1_000_000u64, (1 << 30) + 1, 1 << 40] {
        let permutation = Permutation::new(n, 7);
        for index in 0..POSITIONS {
            assert_eq!(permutation.index_of(permutation.at(index)), index);
        }
        group.bench_function(format!("at/{n}"), |b| {
            b.iter(|| (0..POSITIONS).fold(0u64, |sum, index| sum.wrapping_add(permutation.at(black_box(index)))))
        });
    }
    group.finish();
}

fn orders(c: &mut Criterion) {
    let mut group = c.benchmark_group("order");
    group.throughput(Throughput::Elements(POSITIONS));
    let n = 100_000_000;
    for (name, shuffle) in [
        ("sequential", Shuffle::Sequential),
        ("full", Shuffle::Full),
        ("block", Shuffle::Block { block_samples: 64, window: 16 }),
    ] {
        let order = Order::new(shuffle, n, 7).unwrap();
        let start = n / 3;
        let mut out = Vec::new();
        order.epoch(1).extend(start..start + POSITIONS, &mut out);
        assert!((0..POSITIONS).step_by(97).all(|i| out[i as usize] == order.sample_at(1, start + i)));
        group.bench_function(name, |b| {
            b.iter_batched_ref(
                || Vec::with_capacity(POSITIONS as usize),
                |out| order.epoch(black_box(1)).extend(start..start + POSITIONS, out),
                BatchSize::LargeInput,
            )
        });
    }
    group.finish();
}

/// A batch of one rank of eight: what the engine asks for at every step, at the epoch's start and far into it.
fn schedule(c: &mut Criterion) {
    let mut group = c.benchmark_group("schedule");
    let (n, batch_size) = (100_000_000, 256);
    group.throughput(Throughput::Elements(batch_size));
    let order = Order::new(Shuffle::Full, n, 7).unwrap();
    let schedule = Schedule::new(order.clone(), batch_size, Rank::new(5, 8).unwrap(), Policy::Drop).unwrap();
    let mut out = Vec::with_capacity(batch_size as usize);
    for consumed in [0, n / 2 + 1] {
        let at = Progress { epoch: 3, consumed };
        let steps = schedule.steps(at).unwrap();
        steps.batch(9, &mut out);
        let expected = (0..batch_size).map(|i| order.sample_at(3, consumed + 9 * 8 * batch_size + 5 * batch_size + i));
        assert!(out.iter().copied().eq(expected));
        group.bench_function(format!("batch/consumed {consumed}"), |b| b.iter(|| steps.batch(black_box(9), &mut out)));
        group.bench_function(format!("resume and first batch/consumed {consumed}"), |b| {
            b.iter(|| schedule.steps(black_box(at)).unwrap().batch(0, &mut out))
        });
    }
    group.finish();
}

fn cursor(c: &mut Criterion) {
    let mut group = c.benchmark_group("cursor");
    let order = Order::new(Shuffle::Full, 100_000_000, 7).unwrap();
    let fingerprint = Fingerprint::new("webdataset", (0..1_000).map(|_| ("shard.tar", 1 << 30, 100_000)));
    let at = Progress { epoch: 3, consumed: 12_345_678 };
    let cursor = Cursor::new(&order, fingerprint.clone(), at);
    let text = cursor.to_json();
    let start = Cursor::new(&order, fingerprint.clone(), Progress::default());
    assert_eq!(Cursor::parse(text.as_bytes()).unwrap().resume(&start, IfChanged::Refuse).unwrap(), at);
    group.bench_function("take", |b| b.iter(|| Cursor::new(&order, black_box(fingerprint.clone()), at)));
    group.bench_function("take and write", |b| b.iter(|| Cursor::new(&order, fingerprint.clone(), at).to_json()));
    group.bench_function("parse", |b| b.iter(|| Cursor::parse(black_box(text.as_bytes())).unwrap()));
    group.finish();
}

criterion_group!(benches, permutation, orders, schedule, cursor);
criterion_main!(benches);
