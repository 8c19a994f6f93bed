//! The orders of one dataset.

use std::ops::Range;

use super::block::BlockEpoch;
use super::key::{Purpose, key};
use super::permutation::Permutation;
use crate::error::{Error, Result};

/// The most samples an order takes: 2^53, so that every position and id is exact in any JSON reader.
pub const SAMPLES_MAX: u64 = 1 << 53;

/// How the samples of one dataset are mixed, anew in every epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shuffle {
    /// Sample `p` at position `p`, in every epoch.
    Sequential,
    /// A uniform permutation of all samples.
    Full,
    /// Blocks of neighbours in uniform order, then samples mixed inside windows of `window` blocks.
    ///
    /// A block is one read where all its samples go into one batch of one rank. That is so while
    /// `block_samples * window` divides the batch size: then reads are `block_samples` times fewer and larger, and a
    /// batch holds `batch_size / block_samples` independent draws instead of `batch_size`. A larger window makes batches
    /// more varied and their reads smaller again, unless the reader keeps a whole window's region while it is used.
    Block {
        /// Neighbours that stay together; at least 1.
        block_samples: u64,
        /// Blocks that are mixed with each other; at least 1.
        window: u64,
    },
}

impl Shuffle {
    /// `Block` with as many samples as make about `block_bytes`, by the mean size of a dataset of `samples` samples
    /// and `bytes` payload bytes.
    pub fn block_bytes(block_bytes: u64, window: u64, samples: u64, bytes: u64) -> Shuffle {
        let block_samples = u128::from(block_bytes) * u128::from(samples) / u128::from(bytes.max(1));
        Shuffle::Block { block_samples: (block_samples.min(SAMPLES_MAX.into()) as u64).max(1), window }
    }
}

/// Which sample stands at which position of which epoch. Constant memory; nothing is remembered between calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    shuffle: Shuffle,
    n: u64,
    seed: u64,
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
        Ok(Order { shuffle, n, seed })
    }

    /// The number of positions of an epoch.
    pub fn len(&self) -> u64 {
        self.n
    }

    /// Whether an epoch has no position at all.
    pub fn is_empty(&self) -> bool {
        self.n == 0
    }

    /// The seed.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// One epoch, with its keys derived once.
    pub fn epoch(&self, epoch: u64) -> Epoch {
        Epoch(match self.shuffle {
            Shuffle::Sequential => Kind::Sequential(self.n),
            Shuffle::Full => Kind::Full(Permutation::new(self.n, key(self.seed, epoch, Purpose::Full))),
            Shuffle::Block { block_samples, window } => {
                Kind::Block(BlockEpoch::new(self.n, block_samples, window, self.seed, epoch), self.n)
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
}

/// The order of one epoch.
#[derive(Debug, Clone, Copy)]
pub struct Epoch(Kind);

#[derive(Debug, Clone, Copy)]
enum Kind {
    Sequential(u64),
    Full(Permutation),
    Block(BlockEpoch, u64),
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
            Kind::Block(block, n) => {
                assert!(position < *n, "position {position} of {n}");
                block.sample_in(&block.window_at(position), position)
            }
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
            Kind::Block(block, n) => {
                assert!(positions.end <= *n || positions.is_empty(), "positions {positions:?} of {n}");
                let mut position = positions.start;
                while position < positions.end {
                    let window = block.window_at(position);
                    let end = window.end.min(positions.end);
                    out.extend((position..end).map(|position| block.sample_in(&window, position)));
                    position = end;
                }
            }
        }
    }
}
