//! Mixtures: exact shares at every position, every pass through a dataset complete, order fixed for ever.

use proptest::prelude::*;
use strait::order::{AtEnd, Mixture, Order, Part, Progress, Shuffle};

fn parts() -> impl Strategy<Value = Vec<Part>> {
    prop::collection::vec((1u64..200, 1u32..1_000).prop_map(|(samples, weight)| Part { samples, weight }), 1..8)
}

fn datasets(mixture: &Mixture, order: &Order, epoch: u64) -> Vec<usize> {
    (0..order.len()).map(|position| mixture.locate(order.sample_at(epoch, position)).0).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn shares_are_exact_at_every_position(parts in parts(), positions in 1u64..3_000, epoch in 0u64..4) {
        let order = Order::mixture(&parts, Shuffle::Full, 1, AtEnd::Repeat { positions }).unwrap();
        let mixture = order.as_mixture().unwrap();
        let total: u64 = parts.iter().map(|part| u64::from(part.weight)).sum();
        let mut draws = vec![0u64; parts.len()];
        let of_epochs = (0..=epoch).flat_map(|epoch| datasets(mixture, &order, epoch));
        for (position, dataset) in of_epochs.enumerate() {
            draws[dataset] += 1;
            for (part, &draws) in parts.iter().zip(&draws) {
                // |draws - share * positions| < 1, without rounding.
                let ideal = (position as u64 + 1) * u64::from(part.weight);
                prop_assert!((draws * total).abs_diff(ideal) < total, "{draws} draws at {position}");
            }
        }
        let end = mixture.progress(Progress { epoch, consumed: positions });
        let counted = end.iter().zip(&parts).map(|(at, part)| at.epoch * part.samples + at.consumed);
        prop_assert!(counted.eq(draws));
    }

    #[test]
    fn repeating_datasets_are_passed_through_whole(parts in parts(), positions in 1u64..2_000, shuffle_full: bool) {
        let shuffle = if shuffle_full { Shuffle::Full } else { Shuffle::Block { block_samples: 7, window: 2 } };
        let order = Order::mixture(&parts, shuffle, 3, AtEnd::Repeat { positions }).unwrap();
        let mixture = order.as_mixture().unwrap();
        let mut drawn = vec![Vec::new(); parts.len()];
        for sample in (0..3).flat_map(|epoch| (0..positions).map(move |p| (epoch, p))).map(|(e, p)| order.sample_at(e, p)) {
            let (dataset, sample) = mixture.locate(sample);
            drawn[dataset].push(sample);
        }
        for (drawn, part) in drawn.iter_mut().zip(&parts) {
            for pass in drawn.chunks_mut(part.samples as usize) {
                pass.sort_unstable();
                let whole = pass.len() as u64 == part.samples;
                prop_assert!(pass.windows(2).all(|pair| pair[0] < pair[1]), "a sample twice in one pass");
                prop_assert!(!whole || pass[pass.len() - 1] == part.samples - 1);
            }
        }
    }

    #[test]
    fn stopping_mixtures_end_where_a_dataset_would_repeat(parts in parts(), seed: u64, epoch: u64) {
        let order = Order::mixture(&parts, Shuffle::Full, seed, AtEnd::Stop).unwrap();
        let mixture = order.as_mixture().unwrap();
        let mut samples: Vec<u64> = (0..order.len()).map(|position| order.sample_at(epoch, position)).collect();
        let mut draws = vec![0u64; parts.len()];
        samples.iter().for_each(|&sample| draws[mixture.locate(sample).0] += 1);
        samples.sort_unstable();
        prop_assert!(samples.windows(2).all(|pair| pair[0] < pair[1]), "a sample twice");
        prop_assert!(draws.iter().zip(&parts).any(|(&draws, part)| draws == part.samples), "ended early");
        // The same weights over datasets that never end: the next draw is from one that is used up.
        let endless: Vec<Part> = parts.iter().map(|part| Part { samples: 1 << 40, ..*part }).collect();
        let endless = Order::mixture(&endless, Shuffle::Full, seed, AtEnd::Repeat { positions: 1 << 40 }).unwrap();
        let (next, _) = endless.as_mixture().unwrap().locate(endless.sample_at(0, order.len()));
        prop_assert_eq!(draws[next], parts[next].samples);
    }
}

#[test]
fn impossible_mixtures_are_errors() {
    let part = |samples, weight| Part { samples, weight };
    let error = |parts: &[Part], at_end| Order::mixture(parts, Shuffle::Full, 0, at_end).unwrap_err().to_string();
    assert!(error(&[], AtEnd::Stop).contains("0 datasets"));
    assert!(error(&[part(1, 1), part(0, 1)], AtEnd::Stop).contains("dataset 1 has 0 samples"));
    assert!(error(&[part(1, 0)], AtEnd::Stop).contains("weight 0"));
    assert!(error(&[part(9, 65_536), part(9, 1)], AtEnd::Stop).contains("65537"));
    assert!(error(&[part(u64::MAX, 1)], AtEnd::Stop).contains("samples"));
    assert!(error(&[part(1, 1)], AtEnd::Repeat { positions: 0 }).contains("0 positions"));
    assert!(Order::mixture(&[part(9, 3_000_000_000), part(9, 1_000_000_000)], Shuffle::Full, 0, AtEnd::Stop).is_ok());
}

/// A promise to every saved cursor: a change here is a new order version. The numbers come from a second
/// implementation, in Python.
#[test]
fn golden_mixture_of_version_1() {
    let parts = [Part { samples: 50, weight: 7 }, Part { samples: 9, weight: 2 }, Part { samples: 4, weight: 1 }];
    let order = Order::mixture(&parts, Shuffle::Full, 11, AtEnd::Repeat { positions: 63 }).unwrap();
    assert_eq!(datasets(order.as_mixture().unwrap(), &order, 0)[..10], [0, 0, 0, 1, 0, 0, 1, 0, 0, 2]);
    assert_eq!(
        (0..10).map(|position| order.sample_at(1, position)).collect::<Vec<_>>(),
        [50, 27, 39, 58, 10, 6, 61, 9, 20, 30]
    );
}
