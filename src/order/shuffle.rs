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
    /// independent draws instead of `batch_size`. A larger window makes batches more varied, and reads smaller again
    /// unless the reader keeps a whole window while it is used. For 2^18 samples in batches of 256, on 1 rank or 8:
    ///
    /// | | reads per batch | draws per batch, over uniform | neighbours' distance, over uniform |
    /// |---|---|---|---|
    /// | `Full` | 256 | 1 | 1 |
    /// | `block:16x1` | 16 | 0.064 | 0.063 |
    /// | `block:64x4` | 4 | 0.016 | 0.017 |
    /// | `block:64x16` | 193 (4 with the window kept) | 0.064 | 0.020 |
    /// | `block:64x64` | 240 (4 with the window kept) | 0.254 | 0.031 |
    /// | `Sequential` | 1 | 0.016 | 0 |
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
