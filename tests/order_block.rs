//! What block order saves in reads, and what it costs in mixing: printed as a table (`-- --nocapture`), and held to it.

use strait::order::{Order, Policy, Progress, Rank, Schedule, Shuffle};

const N: u64 = 1 << 18;
const BATCH: u64 = 256;

struct Figures {
    /// Pieces of neighbouring samples per batch of one rank: reads, if nothing is kept between batches.
    reads: f64,
    /// Different blocks of 64 ids that a batch draws from, over what a uniform batch would: 1 is uniform.
    variety: f64,
    /// How far apart in an epoch samples with neighbouring ids stand, over what they would if uniform: 1 is uniform.
    spread: f64,
}

fn figures(shuffle: Shuffle, world: u32) -> Figures {
    let order = Order::new(shuffle, N, 1).unwrap();
    let schedule = Schedule::new(order.clone(), BATCH, Rank::new(0, world).unwrap(), Policy::Drop).unwrap();
    let steps = schedule.steps(Progress::default()).unwrap();
    let (mut reads, mut groups, mut batch) = (0, 0, Vec::new());
    for step in 0..steps.len() {
        steps.batch(step, &mut batch);
        batch.sort_unstable();
        reads += 1 + batch.windows(2).filter(|pair| pair[1] != pair[0] + 1).count();
        batch.iter_mut().for_each(|sample| *sample /= 64);
        batch.dedup();
        groups += batch.len();
    }
    let blocks = (N / 64) as f64;
    let uniform_groups = blocks * (1.0 - (1.0 - 1.0 / blocks).powf(BATCH as f64));
    let mut positions = vec![0u64; N as usize];
    let epoch = order.epoch(0);
    (0..N).for_each(|position| positions[epoch.sample_at(position) as usize] = position);
    let apart: f64 = positions.windows(2).map(|pair| pair[0].abs_diff(pair[1]) as f64).sum();
    Figures {
        reads: reads as f64 / steps.len() as f64,
        variety: groups as f64 / steps.len() as f64 / uniform_groups,
        spread: apart / (N - 1) as f64 / (N as f64 / 3.0),
    }
}

#[test]
fn fewer_reads_for_less_mixing() {
    println!("{N} samples, batches of {BATCH} on each rank");
    println!(
        "{:>16} {:>6} {:>12} {:>10} {:>8} {:>7}",
        "shuffle", "world", "reads/batch", "fewer by", "variety", "spread"
    );
    let mut table = Vec::new();
    let block = |block_samples, window| Shuffle::Block { block_samples, window };
    let blocks =
        [(16, 1), (16, 16), (64, 1), (64, 4), (64, 16), (64, 64), (256, 1), (256, 16)].map(|(b, w)| block(b, w));
    let all = [&[Shuffle::Full, Shuffle::Sequential][..], &blocks].concat();
    for (world, shuffles) in [(1, &all[..]), (8, &[block(16, 16), block(64, 16)])] {
        for &shuffle in shuffles {
            let Figures { reads, variety, spread } = figures(shuffle, world);
            let fewer = BATCH as f64 / reads;
            println!(
                "{:>16} {world:>6} {reads:>12.1} {:>9.1}x {variety:>8.3} {spread:>7.4}",
                shuffle.to_string(),
                fewer
            );
            table.push((shuffle, world, reads, variety, spread));
        }
    }
    for (shuffle, _, reads, variety, spread) in table {
        match shuffle {
            Shuffle::Full => {
                assert!(reads > 250.0 && (0.98..1.02).contains(&variety) && (0.98..1.02).contains(&spread))
            }
            // The window divides the batch: every block is one read, whatever the world.
            Shuffle::Block { block_samples, window } if BATCH.is_multiple_of(block_samples * window) => {
                assert!(reads <= (BATCH / block_samples) as f64, "{shuffle}: {reads}");
            }
            _ => {}
        }
    }
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
