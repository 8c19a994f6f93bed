//! How the samples of a dataset are mixed.

use std::fmt;
use std::str::FromStr;

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
    /// A block is one read where all its samples go into one batch of one rank: where `block_samples * window` divides the
    /// batch size. Then reads are `block_samples` times fewer and larger, and a batch holds `batch_size / block_samples`
    /// independent draws instead of `batch_size`. In a larger window neighbours in a batch know less of each other, but a
    /// batch still has no more draws than it has reads: a loader keeps nothing from batch to batch, so it reads a block anew
    /// for every batch that takes of it. Small samples of one block are then one read for all that they lie apart (16 KiB
    /// by default), with what lies between: a window of 64 blocks costs more bytes than `Full`.
    ///
    /// For 2^18 samples of 512 bytes and of 4 KiB in batches of 256: reads of a batch, how many times fewer than with
    /// `Full`, and bytes read for each one wanted. And how far from uniform, which is 1: *variety*, the draws of a batch;
    /// *spread*, how far apart neighbours come; *chi-square*, of the next position's sample, per degree of freedom.
    ///
    /// | | 512 B: reads | fewer | bytes | 4 KiB: reads | fewer | bytes | variety | spread | chi-square |
    /// |---|---|---|---|---|---|---|---|---|---|
    /// | `full` | 246 | 1.0 | 8.6 | 255 | 1.0 | 1.0 | 1.001 | 1.002 | 1.0 |
    /// | `block:16x1` | 16 | 15.4 | 1.0 | 16 | 15.9 | 1.0 | 0.064 | 0.063 | 7430.2 |
    /// | `block:64x4` | 4 | 61.4 | 1.0 | 4 | 63.7 | 1.0 | 0.016 | 0.017 | 532.6 |
    /// | `block:64x16` | 16 | 15.3 | 3.9 | 69 | 3.7 | 2.0 | 0.064 | 0.020 | 36.2 |
    /// | `block:64x64` | 65 | 3.8 | 10.2 | 190 | 1.3 | 1.5 | 0.254 | 0.031 | 4.2 |
    /// | `block:256x16` | 28 | 8.8 | 12.2 | 188 | 1.4 | 1.5 | 0.254 | 0.019 | 51.0 |
    /// | `sequential` | 1 | 245.5 | 1.0 | 1 | 254.9 | 1.0 | 0.016 | 0.000 | 8454.2 |
    ///
    /// Each sample by itself is at every position equally often; only neighbours know of each other.
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

/// `"sequential"`, `"full"`, `"block:64x16"` (samples of a block, blocks of a window).
impl fmt::Display for Shuffle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Shuffle::Sequential => f.write_str("sequential"),
            Shuffle::Full => f.write_str("full"),
            Shuffle::Block { block_samples, window } => write!(f, "block:{block_samples}x{window}"),
        }
    }
}

impl FromStr for Shuffle {
    type Err = Error;

    fn from_str(text: &str) -> Result<Shuffle> {
        let block = |numbers: &str| {
            let (block_samples, window) = numbers.split_once('x')?;
            let number = |text: &str| text.parse::<u64>().ok().filter(|&number| number > 0);
            Some(Shuffle::Block { block_samples: number(block_samples)?, window: number(window)? })
        };
        let shuffle = match text {
            "sequential" => Some(Shuffle::Sequential),
            "full" => Some(Shuffle::Full),
            _ => text.strip_prefix("block:").and_then(block),
        };
        shuffle.ok_or_else(|| {
            Error::config(
                "shuffle",
                format!("{text:?} is none of sequential, full, block:SAMPLESxWINDOW (block:64x16)"),
            )
        })
    }
}
