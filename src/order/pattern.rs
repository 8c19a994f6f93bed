//! Which dataset each position of a mixture draws from.
//!
//! Weights are integers and their reduced sum is a period: a pattern of that length says which dataset each position
//! draws from, and repeats. Inside a period the `k`-th draw of a dataset with share `s` lies in the positions
//! `floor(k / s) .. ceil((k + 1) / s)`, and the draw whose interval ends first comes first: the rule that keeps a
//! processor's time shares fair (Baruah, Cohen, Plaxton and Varvel, "Proportionate progress", 1996). So after any
//! number `p` of positions every dataset has had `floor(p s)` or `ceil(p s)` draws, and nothing drifts.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::error::{Error, Result};

/// The longest period, in positions: 256 KiB of pattern, and weights to four decimals and more.
const PERIOD_MAX: u64 = 1 << 16;

/// One period: constant after construction, at most [`PERIOD_MAX`] positions long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern {
    weights: Vec<u64>,
    /// Per position: the dataset, and how many draws it had before in this period.
    slots: Vec<(u16, u16)>,
}

impl Pattern {
    pub(super) fn new(weights: impl Iterator<Item = u32> + Clone) -> Result<Pattern> {
        let divisor = weights.clone().fold(0, |a, weight| gcd(a, weight.into()));
        let weights: Vec<u64> = weights.map(|weight| u64::from(weight) / divisor).collect();
        let period: u64 = weights.iter().sum();
        if period > PERIOD_MAX {
            let problem = format!("the weights add up to {period} in lowest terms; round them to at most {PERIOD_MAX}");
            return Err(Error::config("mixture", problem));
        }
        let release = |dataset: usize, draw: u64| draw * period / weights[dataset];
        let deadline = |dataset: usize, draw: u64| ((draw + 1) * period).div_ceil(weights[dataset]);
        let mut later: BinaryHeap<_> = (0..weights.len()).map(|d| Reverse((0, d, 0u64))).collect();
        let mut ready = BinaryHeap::new();
        let mut slots = Vec::with_capacity(period as usize);
        for position in 0..period {
            while let Some(&Reverse((from, dataset, draw))) = later.peek()
                && from <= position
            {
                later.pop();
                ready.push(Reverse((deadline(dataset, draw), dataset, draw)));
            }
            // Shares add up to 1, so some draw is always due.
            let Some(Reverse((_, dataset, draw))) = ready.pop() else { break };
            slots.push((dataset as u16, draw as u16));
            later.push(Reverse((release(dataset, draw + 1), dataset, draw + 1)));
        }
        Ok(Pattern { weights, slots })
    }

    /// The dataset of a position, and how many draws it had before.
    pub(super) fn at(&self, position: u64) -> (usize, u64) {
        let period = self.slots.len() as u64;
        let (dataset, before) = self.slots[(position % period) as usize];
        (dataset.into(), position / period * self.weights[usize::from(dataset)] + u64::from(before))
    }

    /// The position of a dataset's draw number `draw`.
    pub(super) fn position_of(&self, dataset: usize, draw: u64) -> u64 {
        let weight = self.weights[dataset];
        let wanted = (dataset as u16, (draw % weight) as u16);
        let slot = self.slots.iter().position(|&slot| slot == wanted).unwrap_or(0);
        (draw / weight).saturating_mul(self.slots.len() as u64).saturating_add(slot as u64)
    }

    /// The draws of each dataset before `position`.
    pub(super) fn counts(&self, position: u64) -> Vec<u64> {
        let period = self.slots.len() as u64;
        let mut counts: Vec<u64> = self.weights.iter().map(|weight| position / period * weight).collect();
        for &(dataset, _) in &self.slots[..(position % period) as usize] {
            counts[usize::from(dataset)] += 1;
        }
        counts
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}
