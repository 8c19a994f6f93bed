//! Several datasets by weight, as a pure function of position.

use std::ops::Range;

use super::epoch::Order;
use super::key::{Purpose, below, key};
use super::pattern::Pattern;
use super::schedule::Progress;
use super::shuffle::{SAMPLES_MAX, Shuffle};
use crate::error::{Error, Result};

/// The most datasets of a mixture: their weights are written into every cursor.
pub(super) const PARTS_MAX: usize = 1024;

/// One dataset of a mixture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Its samples; at least 1.
    pub samples: u64,
    /// Its share of the positions is this over the sum of all weights; at least 1.
    pub weight: u32,
}

/// What happens where a dataset of a mixture ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtEnd {
    /// The epoch ends as soon as a dataset would have to give a sample for the second time. The next epoch starts all of
    /// them anew, shuffled differently.
    Stop,
    /// That dataset starts over, shuffled differently. An epoch has this many positions, and the next one goes on where
    /// it ended, so that over several epochs every dataset is passed through evenly.
    Repeat {
        /// Positions of an epoch; at least 1.
        positions: u64,
    },
}

/// Datasets mixed by weight; sample ids count through the datasets in the order given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mixture {
    parts: Vec<Part>,
    at_end: AtEnd,
    /// The id of each dataset's first sample, and the total.
    first: Vec<u64>,
    orders: Vec<Order>,
    pattern: Pattern,
    len: u64,
}

/// Where a position of a mixture draws from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Draw {
    pub(super) dataset: usize,
    /// Which pass through that dataset, and how far into it.
    pub(super) pass: u64,
    pub(super) place: u64,
}

impl Mixture {
    /// Mixes `parts`; each is shuffled by itself, by a key made from `seed` and its number.
    ///
    /// # Errors
    /// [`Error::Config`] if there is no part or more than 1,024, a part has no sample or no weight, the reduced weights add up to more than
    /// 65,536, or there are too many samples or positions ([`SAMPLES_MAX`]).
    pub fn new(parts: &[Part], shuffle: Shuffle, seed: u64, at_end: AtEnd) -> Result<Mixture> {
        check(parts, at_end)?;
        let mut first = vec![0];
        for part in parts {
            let total = first[first.len() - 1] + part.samples;
            if total > SAMPLES_MAX {
                return Err(Error::config("mixture", format!("more than {SAMPLES_MAX} samples")));
            }
            first.push(total);
        }
        let order = |(number, part): (usize, &Part)| {
            Order::new(shuffle, part.samples, key(seed, number as u64, Purpose::Dataset))
        };
        let orders = parts.iter().enumerate().map(order).collect::<Result<Vec<Order>>>()?;
        let pattern = Pattern::new(parts.iter().map(|part| part.weight))?;
        let len = match at_end {
            AtEnd::Repeat { positions } => positions,
            AtEnd::Stop => (0..parts.len()).map(|d| pattern.position_of(d, parts[d].samples)).min().unwrap_or(0),
        };
        Ok(Mixture { parts: parts.to_vec(), at_end, first, orders, pattern, len })
    }

    /// The datasets.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The weights as they were given.
    pub fn weights(&self) -> Vec<u32> {
        self.parts.iter().map(|part| part.weight).collect()
    }

    /// How each dataset is shuffled.
    pub fn shuffle(&self) -> Shuffle {
        self.orders[0].shuffle()
    }

    /// What happens where a dataset ends.
    pub fn at_end(&self) -> AtEnd {
        self.at_end
    }

    /// Positions of an epoch.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether an epoch has no position; never so.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Samples of all datasets together.
    pub fn samples(&self) -> u64 {
        self.first[self.parts.len()]
    }

    /// The dataset of a sample id, and the sample's number in it.
    ///
    /// # Panics
    /// If `sample` is not below [`samples`](Self::samples).
    pub fn locate(&self, sample: u64) -> (usize, u64) {
        assert!(sample < self.samples(), "sample {sample} of {}", self.samples());
        let dataset = self.first.partition_point(|&first| first <= sample) - 1;
        (dataset, sample - self.first[dataset])
    }

    /// The sample ids of a dataset.
    ///
    /// # Panics
    /// If there is no such dataset.
    pub fn ids(&self, dataset: usize) -> Range<u64> {
        self.first[dataset]..self.first[dataset + 1]
    }

    /// How far each dataset is: its own epoch, and how much of that is consumed. Takes time in the length of the pattern.
    pub fn progress(&self, at: Progress) -> Vec<Progress> {
        let (base, epoch) = self.base(at.epoch);
        let draws = self.pattern.counts(base.saturating_add(at.consumed));
        let of_part = |(draws, part): (u64, &Part)| match epoch {
            Some(epoch) => Progress { epoch, consumed: draws },
            None => Progress { epoch: draws / part.samples, consumed: draws % part.samples },
        };
        draws.into_iter().zip(&self.parts).map(of_part).collect()
    }

    /// The last epoch whose positions can be counted in 64 bits.
    pub(super) fn epoch_max(&self) -> u64 {
        u64::MAX / self.len.max(1) - 2
    }

    pub(super) fn draw(&self, epoch: u64, position: u64) -> Draw {
        assert!(position < self.len, "position {position} of {}", self.len);
        let (base, fixed) = self.base(epoch);
        let (dataset, draws) = self.pattern.at(base + position);
        match fixed {
            Some(pass) => Draw { dataset, pass, place: draws },
            None => {
                let samples = self.parts[dataset].samples;
                Draw { dataset, pass: draws / samples, place: draws % samples }
            }
        }
    }

    pub(super) fn sample_at(&self, epoch: u64, position: u64) -> u64 {
        let draw = self.draw(epoch, position);
        self.first[draw.dataset] + self.orders[draw.dataset].sample_at(draw.pass, draw.place)
    }

    /// A sample of a dataset.
    pub(super) fn replacement(&self, dataset: usize, word: u64) -> u64 {
        self.first[dataset] + below(word, self.parts[dataset].samples)
    }

    /// The pattern's position at which an epoch starts, and the pass where all datasets share one.
    fn base(&self, epoch: u64) -> (u64, Option<u64>) {
        match self.at_end {
            AtEnd::Stop => (0, Some(epoch)),
            AtEnd::Repeat { positions } => (epoch.min(self.epoch_max()) * positions, None),
        }
    }
}

fn check(parts: &[Part], at_end: AtEnd) -> Result<()> {
    if parts.is_empty() || parts.len() > PARTS_MAX {
        return Err(Error::config("mixture", format!("{} datasets; give 1 to {PARTS_MAX}", parts.len())));
    }
    if let Some(d) = parts.iter().position(|part| part.samples == 0 || part.weight == 0) {
        let Part { samples, weight } = parts[d];
        let problem = format!("dataset {d} has {samples} samples and weight {weight}; both must be at least 1");
        return Err(Error::config("mixture", problem));
    }
    match at_end {
        AtEnd::Repeat { positions } if positions == 0 || positions > SAMPLES_MAX => {
            Err(Error::config("mixture", format!("epochs of {positions} positions; give 1 to {SAMPLES_MAX}")))
        }
        _ => Ok(()),
    }
}
