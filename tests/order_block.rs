//! What block order saves in reads, and what it costs in mixing: printed as a table (`-- --nocapture`), which is the one in
//! the documentation of `Shuffle::Block`.

use strait::dataset::Extent;
use strait::order::{Order, Policy, Progress, Rank, Schedule, Shuffle};
use strait::plan::{Limits, Plan};

const N: u64 = 1 << 18;
const BATCH: u64 = 256;
/// Batches that are planned: enough for three digits, and of all kinds of places in a window.
const LOOK_AT: std::ops::Range<u64> = 0..64;
/// A loader's defaults.
const LIMITS: Limits = Limits { align: 4096, block_bytes: 4 << 20, window_bytes: 1 << 62, gap_bytes: 16 << 10 };

/// What a batch of one rank takes, samples of so many bytes lying one after the other.
struct Reads {
    per_batch: f64,
    /// Bytes read for each that is wanted: alignment and gaps.
    bytes: f64,
}

fn reads(shuffle: Shuffle, world: u32, sample_bytes: u64) -> Reads {
    let order = Order::new(shuffle, N, 1).unwrap();
    let schedule = Schedule::new(order, BATCH, Rank::new(0, world).unwrap(), Policy::Drop).unwrap();
    let steps = schedule.steps(Progress::default()).unwrap();
    assert!(steps.len() >= LOOK_AT.end);
    let (mut plan, mut batch, mut reads, mut bytes) = (Plan::default(), Vec::new(), 0, 0);
    for step in LOOK_AT {
        steps.batch(step, &mut batch);
        let extent = |&sample: &u64| Some(Extent { shard: 0, offset: sample * sample_bytes, len: sample_bytes });
        plan.build(batch.iter().map(extent), |_| N * sample_bytes, &LIMITS);
        reads += plan.reads().len();
        bytes += plan.reads().iter().map(|read| u64::from(read.want)).sum::<u64>();
    }
    let batches = LOOK_AT.count();
    let wanted = batches as u64 * BATCH * sample_bytes;
    Reads { per_batch: reads as f64 / batches as f64, bytes: bytes as f64 / wanted as f64 }
}

/// How far an order is from uniform.
struct Mixing {
    /// Different blocks of 64 ids that a batch draws from, over what a uniform batch would: 1 is uniform.
    variety: f64,
    /// How far apart in an epoch samples with neighbouring ids stand, over what they would if uniform: 1 is uniform.
    spread: f64,
    /// Chi-square of where the next position's sample lies, in 32 x 32 cells, per degree of freedom: 1 is uniform.
    chi_square: f64,
}

fn mixing(shuffle: Shuffle) -> Mixing {
    let epoch = Order::new(shuffle, N, 1).unwrap().epoch(0);
    let samples: Vec<u64> = (0..N).map(|position| epoch.sample_at(position)).collect();
    let mut positions = vec![0u64; N as usize];
    (0..).zip(&samples).for_each(|(position, &sample)| positions[sample as usize] = position);
    let apart: f64 = positions.windows(2).map(|pair| pair[0].abs_diff(pair[1]) as f64).sum();
    let groups = |batch: &[u64]| {
        let mut groups: Vec<u64> = batch.iter().map(|sample| sample / 64).collect();
        groups.sort_unstable();
        groups.dedup();
        groups.len()
    };
    let of_batch = samples.chunks(BATCH as usize).map(groups).sum::<usize>() as f64 / (N / BATCH) as f64;
    let blocks = (N / 64) as f64;
    let mut cells = vec![0u32; 1024];
    samples.windows(2).for_each(|pair| cells[(pair[0] * 32 / N * 32 + pair[1] * 32 / N) as usize] += 1);
    let expected = (N - 1) as f64 / 1024.0;
    let chi_square: f64 = cells.iter().map(|&count| (f64::from(count) - expected).powi(2) / expected).sum();
    Mixing {
        variety: of_batch / (blocks * (1.0 - (1.0 - 1.0 / blocks).powf(BATCH as f64))),
        spread: apart / (N - 1) as f64 / (N as f64 / 3.0),
        chi_square: chi_square / 961.0,
    }
}

/// The table in the documentation is what is measured here. Mutant that this catches: a window that does not mix.
#[test]
fn fewer_reads_for_less_mixing() {
    let documentation = include_str!("../src/order/shuffle.rs");
    let block = |block_samples, window| Shuffle::Block { block_samples, window };
    let blocks = [(16, 1), (64, 4), (64, 16), (64, 64), (256, 16)].map(|(b, w)| block(b, w));
    println!("{N} samples, batches of {BATCH} on each rank");
    println!("| | 512 B: reads | fewer | bytes | 4 KiB: reads | fewer | bytes | variety | spread | chi-square |");
    let mut missing = Vec::new();
    for shuffle in [&[Shuffle::Full][..], &blocks, &[Shuffle::Sequential]].concat() {
        let Mixing { variety, spread, chi_square } = mixing(shuffle);
        let mut row = format!("| `{shuffle}` |");
        for sample_bytes in [512, 4096] {
            let full = reads(Shuffle::Full, 1, sample_bytes).per_batch;
            let Reads { per_batch, bytes } = reads(shuffle, 1, sample_bytes);
            row += &format!(" {per_batch:.0} | {:.1} | {bytes:.1} |", full / per_batch);
        }
        row += &format!(" {variety:.3} | {spread:.3} | {chi_square:.1} |");
        println!("{row}");
        if !documentation.contains(&row) {
            missing.push(row);
        }
    }
    assert!(missing.is_empty(), "not in the documentation of Shuffle::Block:\n{}", missing.join("\n"));
}

/// What is promised without a table: the window divides the batch, so every block is one read, whatever the world.
#[test]
fn blocks_of_one_batch_are_one_read_each() {
    for (block_samples, window) in [(16, 1), (16, 16), (64, 1), (64, 4), (256, 1)] {
        for world in [1, 8] {
            let Reads { per_batch, bytes } = reads(Shuffle::Block { block_samples, window }, world, 4096);
            assert!(
                per_batch <= (BATCH / block_samples) as f64 && bytes <= 1.01,
                "{block_samples}x{window}: {per_batch}"
            );
        }
    }
    let Mixing { variety, spread, chi_square } = mixing(Shuffle::Full);
    let uniform = |figure: f64| (0.9..1.1).contains(&figure);
    assert!(uniform(variety) && uniform(spread) && uniform(chi_square), "{variety} {spread} {chi_square}");
}

/// Each sample comes at each part of an epoch equally often, blocks or not: only neighbours know of each other.
#[test]
fn every_position_is_equally_likely_for_a_sample() {
    let order = Order::new(Shuffle::Block { block_samples: 64, window: 4 }, 100_003, 1).unwrap();
    let epochs = 64;
    let mut counts = [[0u32; 16]; 8];
    for epoch in 0..epochs {
        let of_epoch = order.epoch(epoch);
        for position in (0..order.len()).step_by(7) {
            let sample = of_epoch.sample_at(position);
            counts[(sample * 8 / order.len()) as usize][(position * 16 / order.len()) as usize] += 1;
        }
    }
    let expected = epochs as f64 * order.len() as f64 / 7.0 / 128.0;
    // Blocks of 64 move together, so the counts scatter like those of 64 / 7 times fewer draws.
    let scatter = (expected * 64.0 / 7.0).sqrt();
    for count in counts.as_flattened() {
        assert!((f64::from(*count) - expected).abs() < 5.0 * scatter, "{count} of {expected:.0} +- {scatter:.0}");
    }
}
