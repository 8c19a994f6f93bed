//! Shuffling blocks of neighbours, so that small samples are still read in large pieces.
//!
//! ```text
//!   ids        | block 0 | block 1 | block 2 | block 3 | blk 4|      the last block may be short
//!   blocks     | block 3 | blk 4| block 0 | block 2 | block 1 |      permuted: slots 0, 1, 2, ..
//!   windows    |      window 0  |      window 1     | window 2|      `window` slots each (here 2)
//!   positions  | 3 4 3 3 4 3 .. | 0 2 2 0 0 2 ..    | 1 1 ..  |      permuted inside each window
//! ```

use super::key::{Purpose, fold, key};
use super::permutation::Permutation;

/// One epoch of block order: the keys and the place of the short block. Constant memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct BlockEpoch {
    n: u64,
    block_samples: u64,
    /// Slots of a window.
    window: u64,
    /// Slot -> block.
    blocks: Permutation,
    /// The slot of the last block, and how many samples that block lacks.
    short_slot: u64,
    lacking: u64,
    window_key: u64,
}

/// One window of positions, and the permutation inside it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    pub(super) start: u64,
    pub(super) end: u64,
    first_slot: u64,
    inner: Permutation,
}

impl BlockEpoch {
    /// `block_samples` and `window` are at least 1; both are cut to what there is, which keeps their product near `n`.
    pub(super) fn new(n: u64, block_samples: u64, window: u64, seed: u64, epoch: u64) -> BlockEpoch {
        let block_samples = block_samples.min(n.max(1));
        let count = n.div_ceil(block_samples);
        let blocks = Permutation::new(count, key(seed, epoch, Purpose::Blocks));
        BlockEpoch {
            n,
            block_samples,
            window: window.min(count.max(1)),
            blocks,
            short_slot: if count == 0 { 0 } else { blocks.index_of(count - 1) },
            lacking: count * block_samples - n,
            window_key: key(seed, epoch, Purpose::Window),
        }
    }

    /// The window around `position`.
    pub(super) fn window_at(&self, position: u64) -> Window {
        assert!(position < self.n, "position {position} of {}", self.n);
        let window_samples = self.block_samples * self.window;
        let after_short = self.start_of(self.short_slot / self.window + 1);
        let shift = if position >= after_short { self.lacking } else { 0 };
        let number = (position + shift) / window_samples;
        let (start, end) = (self.start_of(number), self.start_of(number + 1).min(self.n));
        let inner = Permutation::new(end - start, fold(self.window_key, number));
        Window { start, end, first_slot: number * self.window, inner }
    }

    /// The sample at `position`, which lies inside `window`.
    pub(super) fn sample_in(&self, window: &Window, position: u64) -> u64 {
        let place = window.inner.at(position - window.start);
        // Places behind the short block move on by what it lacks, as if it were whole.
        let whole_until = match self.short_slot.checked_sub(window.first_slot) {
            Some(slot) if slot < self.window => (slot + 1) * self.block_samples - self.lacking,
            _ => u64::MAX,
        };
        let place = if place >= whole_until { place + self.lacking } else { place };
        let slot = window.first_slot + place / self.block_samples;
        self.blocks.at(slot) * self.block_samples + place % self.block_samples
    }

    /// Where window `number` starts: every window behind the short block starts earlier by what that block lacks.
    fn start_of(&self, number: u64) -> u64 {
        let behind = number > self.short_slot / self.window;
        number * self.window * self.block_samples - if behind { self.lacking } else { 0 }
    }
}
