//! Which samples make up which batch.

use crate::order::Permutation;

/// The batches of an epoch over `samples` samples.
pub(crate) struct Steps {
    pub(crate) samples: u64,
    pub(crate) batch_size: u64,
    pub(crate) drop_last: bool,
    pub(crate) shuffle: bool,
    pub(crate) seed: u64,
}

impl Steps {
    /// The number of batches.
    pub(crate) fn len(&self) -> u64 {
        if self.drop_last { self.samples / self.batch_size } else { self.samples.div_ceil(self.batch_size) }
    }

    /// The sample ids of batch `step`, in place of what was in `out`.
    pub(crate) fn fill(&self, epoch: u64, step: u64, out: &mut Vec<u64>) {
        let positions = step * self.batch_size..((step + 1) * self.batch_size).min(self.samples);
        out.clear();
        if self.shuffle {
            let order =
                Permutation::new(self.samples, self.seed.wrapping_add(epoch.wrapping_mul(0x9E37_79B9_7F4A_7C15)));
            out.extend(positions.map(|position| order.at(position)));
        } else {
            out.extend(positions);
        }
    }
}
