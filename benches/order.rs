//! What the order costs: positions, batches, cursors. Each bench checks what it measured.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use strait::order::{Order, Permutation, Shuffle};

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

criterion_group!(benches, permutation, orders);
criterion_main!(benches);
