//! The permutation and the orders made of it: bijective at every length, even over the keys, fixed for ever.

use proptest::prelude::*;
use strait::order::{AtEnd, ORDER_VERSION, Order, Part, Permutation, Shuffle};

/// Standard normal score of a chi-square sum (Wilson and Hilferty): beyond 4 is one in 30,000.
fn z(chi: f64, degrees: f64) -> f64 {
    let spread = 2.0 / (9.0 * degrees);
    ((chi / degrees).cbrt() - (1.0 - spread)) / spread.sqrt()
}

fn chi_square(counts: &[u32], expected: f64) -> f64 {
    counts.iter().map(|&count| (f64::from(count) - expected).powi(2) / expected).sum()
}

fn assert_bijection(n: u64, at: impl Fn(u64) -> u64) {
    let mut seen = vec![0u64; n as usize / 64 + 1];
    for position in 0..n {
        let value = at(position);
        assert!(value < n, "{value} at {position} of {n}");
        let bit = 1 << (value % 64);
        assert_eq!(seen[value as usize / 64] & bit, 0, "{value} twice in {n}");
        seen[value as usize / 64] |= bit;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn permutations_are_bijections(n in 1u64..=70_000, key: u64) {
        let permutation = Permutation::new(n, key);
        assert_bijection(n, |index| permutation.at(index));
    }

    #[test]
    fn pairs_invert_around_every_power_of_two(bits in 0u32..=40, below in 0u64..3, key: u64, picks: [u64; 32]) {
        let n = ((1u64 << bits) + 1).saturating_sub(below).max(1);
        let permutation = Permutation::new(n, key);
        for index in picks.map(|pick| pick % n).into_iter().chain([0, n / 2, n - 1]) {
            let value = permutation.at(index);
            prop_assert!(value < n);
            prop_assert_eq!(permutation.index_of(value), index);
            prop_assert_eq!(permutation.at(permutation.index_of(index)), index);
        }
    }

    #[test]
    fn block_orders_are_bijections(
        n in 1u64..5_000, block_samples in 1u64..700, window in 1u64..40, seed: u64, epoch: u64, from: u64, to: u64,
    ) {
        let order = Order::new(Shuffle::Block { block_samples, window }, n, seed).unwrap();
        let of_epoch = order.epoch(epoch);
        assert_bijection(n, |position| of_epoch.sample_at(position));
        let (from, to) = (from % n, to % (n + 1));
        let mut filled = Vec::new();
        of_epoch.extend(from..to, &mut filled);
        let expected: Vec<u64> = (from..to).map(|position| order.sample_at(epoch, position)).collect();
        prop_assert_eq!(filled, expected);
    }
}

/// Every length up to 70,000, none left out: a few places of each invert, the first and the last among them.
#[test]
fn every_n_up_to_70_000_inverts() {
    for n in 1..=70_000u64 {
        let permutation = Permutation::new(n, n.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        for index in [0, n / 3, n / 2, n - 1] {
            let value = permutation.at(index);
            assert!(value < n && permutation.index_of(value) == index, "n {n} index {index}");
            assert_eq!(permutation.at(permutation.index_of(index)), index, "n {n}");
        }
    }
}

/// Every power of two up to 2^40 and its neighbours, none left out: places spread evenly and the ends invert.
#[test]
fn every_power_of_two_and_its_neighbours_invert() {
    for bits in 0..=40 {
        for n in ((1u64 << bits).saturating_sub(2)..=(1 << bits) + 2).filter(|&n| n > 0) {
            for key in 0..3 {
                let permutation = Permutation::new(n, key);
                let step = (n / 101).max(1);
                for index in (0..n).step_by(step as usize).take(102).chain([n - 1]) {
                    let value = permutation.at(index);
                    assert!(value < n && permutation.index_of(value) == index, "n {n} key {key} index {index}");
                    assert_eq!(permutation.at(permutation.index_of(index)), index, "n {n} key {key}");
                }
            }
        }
    }
}

#[test]
fn lengths_that_broke_other_permutations() {
    for n in [65_535, 65_536, 65_537, 69_999, 70_000, 262_143, 262_144, 262_145] {
        assert_bijection(n, |index| Permutation::new(n, 42).at(index));
    }
}

#[test]
fn tiny_permutations_are_evenly_likely() {
    for (n, ways) in [(2u64, 2usize), (3, 6), (4, 24), (5, 120)] {
        let mut counts = std::collections::HashMap::new();
        let keys = 20_000;
        for key in 0..keys {
            let permutation = Permutation::new(n, key);
            *counts.entry((0..n).map(|index| permutation.at(index)).collect::<Vec<_>>()).or_insert(0u32) += 1;
        }
        assert_eq!(counts.len(), ways, "n {n}: some permutation never comes");
        let counts: Vec<u32> = counts.into_values().collect();
        let z = z(chi_square(&counts, keys as f64 / ways as f64), ways as f64 - 1.0);
        assert!(z.abs() < 4.5, "n {n}: z {z:.1}");
    }
}

/// Over many keys, each ordered pair of values is as likely as any other at two fixed places.
#[test]
fn pairs_are_even_over_the_keys() {
    for n in [8u64, 31, 64, 65, 72, 100] {
        let keys = 120_000;
        let mut counts = vec![0u32; (n * n) as usize];
        for key in 0..keys {
            let permutation = Permutation::new(n, key);
            counts[(permutation.at(1) * n + permutation.at(n / 2)) as usize] += 1;
        }
        let expected = keys as f64 / (n * (n - 1)) as f64;
        let off_diagonal: Vec<u32> = (0..n * n).filter(|i| i % n != i / n).map(|i| counts[i as usize]).collect();
        let z = z(chi_square(&off_diagonal, expected), (n * (n - 1) - 1) as f64);
        assert!(z.abs() < 4.5, "n {n}: z {z:.1}");
    }
}

/// Within one epoch, where a sample lands says nothing about its neighbours at any lag, the network's row length included.
#[test]
fn full_order_is_uniform_at_every_lag() {
    for n in [5_000u64, 65_537, 100_000, 1 << 20] {
        let row = 1u64 << ((64 - (n - 1).leading_zeros()) / 2);
        for seed in 0..2 {
            let epoch = Order::new(Shuffle::Full, n, seed).unwrap().epoch(1);
            let samples: Vec<u64> = (0..n.min(200_000)).map(|position| epoch.sample_at(position)).collect();
            for lag in [1, 2, 8, 64, row / 2, row, row + 1] {
                let mut counts = vec![0u32; 1024];
                let pairs = samples.len() - lag as usize;
                for (first, second) in samples.iter().zip(&samples[lag as usize..]) {
                    counts[(first * 32 / n * 32 + second * 32 / n) as usize] += 1;
                }
                // Margins are fixed where all positions are taken, which costs 62 of the 1023 degrees of freedom.
                let degrees = if n <= 200_000 { 961.0 } else { 1023.0 };
                let z = z(chi_square(&counts, pairs as f64 / 1024.0), degrees);
                assert!(z.abs() < 4.5, "n {n} seed {seed} lag {lag}: z {z:.1}");
            }
        }
    }
}

/// What follows is a promise to every saved cursor: a change here is a new order version. The numbers come from a second
/// implementation, in Python, written from the module's documentation.
#[test]
fn golden_orders_of_version_1() {
    assert_eq!(ORDER_VERSION, 1);
    let first = |shuffle, n, seed, epoch: u64| -> Vec<u64> {
        let order = Order::new(shuffle, n, seed).unwrap();
        (0..8).map(|position| order.sample_at(epoch, position)).collect()
    };
    let permutation = Permutation::new(10, 0);
    assert_eq!((0..10).map(|i| permutation.at(i)).collect::<Vec<_>>(), [0, 9, 6, 8, 2, 1, 3, 7, 5, 4]);
    assert_eq!(first(Shuffle::Sequential, 100, 7, 3), [0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(first(Shuffle::Full, 1_000, 0, 0), [66, 906, 895, 858, 684, 116, 742, 498]);
    assert_eq!(first(Shuffle::Full, 1_000, 0, 1), [598, 52, 608, 802, 563, 51, 992, 419]);
    assert_eq!(
        first(Shuffle::Full, (1 << 40) + 1, u64::MAX, 9),
        [
            971_676_769_089,
            485_159_773_853,
            1_097_191_260_251,
            217_050_062_837,
            633_564_852_686,
            762_723_804_800,
            319_994_730_591,
            590_064_961_148
        ]
    );
    assert_eq!(first(Shuffle::Block { block_samples: 4, window: 2 }, 30, 5, 0), [25, 24, 20, 21, 22, 27, 26, 23]);
}

/// The stand-ins for bad samples; the numbers come from the second implementation too.
#[test]
fn golden_replacements_of_version_1() {
    let order = Order::new(Shuffle::Sequential, 1_000, 7).unwrap();
    let all = [0, 5, 999].map(|position| [0, 1].map(|attempt| order.replacement(3, position, attempt)));
    assert_eq!(all, [[462, 574], [908, 306], [352, 986]]);
    // In a mixture, of the same dataset.
    let parts = [Part { samples: 50, weight: 7 }, Part { samples: 9, weight: 2 }];
    let order = Order::mixture(&parts, Shuffle::Full, 11, AtEnd::Repeat { positions: 63 }).unwrap();
    let dataset = |sample| order.as_mixture().unwrap().locate(sample).0;
    for position in 0..63 {
        let own = dataset(order.sample_at(4, position));
        assert!((0..9).all(|attempt| dataset(order.replacement(4, position, attempt)) == own), "position {position}");
    }
}
