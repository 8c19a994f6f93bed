//! The orders: of one dataset by its shuffle, of several by weight.

use std::ops::Range;
use std::sync::Arc;

use super::block::BlockEpoch;
use super::key::{Purpose, below, fold, key};
use super::mixture::{AtEnd, Mixture, Part};
use super::permutation::Permutation;
use super::schedule::Progress;
use super::shuffle::{SAMPLES_MAX, Shuffle};
use crate::error::{Error, Result};

/// Which sample stands at which position of which epoch. Constant memory; nothing is remembered between calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    source: Source,
    seed: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    Dataset { shuffle: Shuffle, n: u64 },
    Mixture(Arc<Mixture>),
}

impl Order {
    /// The order of `n` samples that `seed` selects. Sequential order ignores the seed.
    ///
    /// # Errors
    /// [`Error::Config`] if `n` exceeds [`SAMPLES_MAX`], or a block or window is empty.
    pub fn new(shuffle: Shuffle, n: u64, seed: u64) -> Result<Order> {
        if n > SAMPLES_MAX {
            return Err(Error::config("dataset", format!("{n} samples; an order takes at most {SAMPLES_MAX}")));
        }
        if let Shuffle::Block { block_samples, window } = shuffle
            && (block_samples == 0 || window == 0)
        {
            let problem =
                format!("block of {block_samples} samples, window of {window} blocks; both must be at least 1");
            return Err(Error::config("shuffle", problem));
        }
        Ok(Order { source: Source::Dataset { shuffle, n }, seed })
    }

    /// The order of several datasets mixed by weight.
    ///
    /// # Errors
    /// As [`Mixture::new`].
    pub fn mixture(parts: &[Part], shuffle: Shuffle, seed: u64, at_end: AtEnd) -> Result<Order> {
        Ok(Order { source: Source::Mixture(Arc::new(Mixture::new(parts, shuffle, seed, at_end)?)), seed })
    }

    /// The number of positions of an epoch.
    pub fn len(&self) -> u64 {
        match &self.source {
            Source::Dataset { n, .. } => *n,
            Source::Mixture(mixture) => mixture.len(),
        }
    }

    /// Whether an epoch has no position at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of sample ids: those of all datasets together.
    pub fn samples(&self) -> u64 {
        match &self.source {
            Source::Dataset { n, .. } => *n,
            Source::Mixture(mixture) => mixture.samples(),
        }
    }

    /// The seed.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// How samples are mixed; in a mixture, those of each dataset.
    pub fn shuffle(&self) -> Shuffle {
        match &self.source {
            Source::Dataset { shuffle, .. } => *shuffle,
            Source::Mixture(mixture) => mixture.shuffle(),
        }
    }

    /// The mixture, where this is one.
    pub fn as_mixture(&self) -> Option<&Mixture> {
        match &self.source {
            Source::Dataset { .. } => None,
            Source::Mixture(mixture) => Some(mixture),
        }
    }

    /// One epoch, with its keys derived once.
    pub fn epoch(&self, epoch: u64) -> Epoch {
        Epoch(match &self.source {
            Source::Mixture(mixture) => Kind::Mixture(Arc::clone(mixture), epoch),
            &Source::Dataset { shuffle: Shuffle::Sequential, n } => Kind::Sequential(n),
            &Source::Dataset { shuffle: Shuffle::Full, n } => {
                Kind::Full(Permutation::new(n, key(self.seed, epoch, Purpose::Full)))
            }
            &Source::Dataset { shuffle: Shuffle::Block { block_samples, window }, n } => {
                Kind::Block(BlockEpoch::new(n, block_samples, window, self.seed, epoch))
            }
        })
    }

    /// The sample at a position of an epoch. Where many are wanted, [`Epoch::extend`] is cheaper.
    ///
    /// # Panics
    /// If `position` is not below [`len`](Self::len).
    pub fn sample_at(&self, epoch: u64, position: u64) -> u64 {
        self.epoch(epoch).sample_at(position)
    }

    /// The sample to try in place of a bad one: any sample of the same dataset, chosen by place and attempt. It is
    /// delivered a second time in its epoch, and may be bad itself.
    ///
    /// # Panics
    /// If `position` is not below [`len`](Self::len).
    pub fn replacement(&self, epoch: u64, position: u64, attempt: u32) -> u64 {
        assert!(position < self.len(), "position {position} of {}", self.len());
        let dataset = self.as_mixture().map_or(0, |mixture| mixture.draw(epoch, position).dataset);
        self.replacement_in(dataset, epoch, position, attempt)
    }

    /// The same for the sample `place`, whose position bucketing may have given to another one.
    pub(crate) fn replacement_of(&self, place: u64, epoch: u64, position: u64, attempt: u32) -> u64 {
        let dataset = self.as_mixture().map_or(0, |mixture| mixture.locate(place).0);
        self.replacement_in(dataset, epoch, position, attempt)
    }

    fn replacement_in(&self, dataset: usize, epoch: u64, position: u64, attempt: u32) -> u64 {
        let word = fold(fold(key(self.seed, epoch, Purpose::Replacement), position), attempt.into());
        match &self.source {
            Source::Dataset { n, .. } => below(word, *n),
            Source::Mixture(mixture) => mixture.replacement(dataset, word),
        }
    }

    /// That a run can stand there.
    pub(super) fn check(&self, at: Progress) -> Result<()> {
        let Progress { epoch, consumed } = at;
        if consumed > self.len() {
            let problem =
                format!("{consumed} samples consumed of an epoch of {}; is this another dataset's?", self.len());
            return Err(Error::config("cursor", problem));
        }
        let epoch_max = self.as_mixture().map_or(u64::MAX - 1, Mixture::epoch_max);
        if epoch > epoch_max {
            return Err(Error::config("cursor", format!("epoch {epoch}; this order has {epoch_max} at most")));
        }
        Ok(())
    }
}

/// The order of one epoch.
#[derive(Debug, Clone)]
pub struct Epoch(Kind);

#[derive(Debug, Clone)]
enum Kind {
    Sequential(u64),
    Full(Permutation),
    Block(BlockEpoch),
    Mixture(Arc<Mixture>, u64),
}

impl Epoch {
    /// The sample at `position`.
    ///
    /// # Panics
    /// If `position` is not below the order's length.
    #[inline]
    pub fn sample_at(&self, position: u64) -> u64 {
        match &self.0 {
            Kind::Sequential(n) => {
                assert!(position < *n, "position {position} of {n}");
                position
            }
            Kind::Full(permutation) => permutation.at(position),
            Kind::Block(block) => block.sample_in(&block.window_at(position), position),
            Kind::Mixture(mixture, epoch) => mixture.sample_at(*epoch, position),
        }
    }

    /// Appends the samples of a range of positions. Allocates only where `out` lacks capacity.
    ///
    /// # Panics
    /// If the range ends behind the order's length.
    pub fn extend(&self, positions: Range<u64>, out: &mut Vec<u64>) {
        match &self.0 {
            Kind::Sequential(n) => {
                assert!(positions.end <= *n || positions.is_empty(), "positions {positions:?} of {n}");
                out.extend(positions);
            }
            Kind::Full(permutation) => out.extend(positions.map(|position| permutation.at(position))),
            Kind::Block(block) => {
                let mut position = positions.start;
                while position < positions.end {
                    let window = block.window_at(position);
                    let end = window.end.min(positions.end);
                    out.extend((position..end).map(|position| block.sample_in(&window, position)));
                    position = end;
                }
            }
            Kind::Mixture(mixture, epoch) => {
                out.extend(positions.map(|position| mixture.sample_at(*epoch, position)));
            }
        }
    }
}
