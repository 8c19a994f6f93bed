//! Blocks that cannot be read, in whatever else a seed draws: which samples they make bad, and what batches come to then.

use std::collections::BTreeSet;

use super::contents::Contents;
use super::options::Draw;
use crate::config::Verify;
use crate::order::{BadSamplePolicy, Order};
use crate::sim::Rng;
use crate::sims::damaged::{Answer, Damages};

/// A list longer than this is more than a budget may be.
const BAD_MAX: usize = 1000;

/// What is damaged, and the samples that are bad for it.
#[derive(Default)]
pub(super) struct Damaged {
    pub(super) blocks: Damages,
    pub(super) bad: BTreeSet<u64>,
}

impl Damaged {
    /// Draws a few damaged blocks and sets the policy; none where samples are windows, and where too many would be bad.
    pub(super) fn draw(rng: &mut Rng, contents: &Contents, draw: &mut Draw) -> Damaged {
        let mut damaged = Damaged::default();
        if draw.item_bytes.is_some() {
            return damaged;
        }
        let shards = contents.dataset.shards();
        for _ in 0..1 + rng.below(3) {
            let shard = rng.below(shards.len() as u64) as usize;
            let start = rng.below(shards[shard].bytes.div_ceil(4096)) * 4096;
            let end = start + 4096 * (1 + rng.below(2));
            damaged.blocks.push(match draw.config.verify == Verify::Checksums && rng.one_in(2) {
                true => (shard, start + rng.below(1000)..end, Answer::Flip),
                false => (shard, start..end, [Answer::Eio, Answer::End][rng.below(2) as usize]),
            });
        }
        damaged.bad = (0..contents.samples.len() as u64).filter(|&id| damaged.strikes(contents, draw, id)).collect();
        if damaged.bad.len() > BAD_MAX {
            return Damaged::default();
        }
        // A stand-in is of the same dataset, of which all could be bad where there are several.
        let few = damaged.bad.len() * 4 < contents.samples.len() && contents.dataset.parts().len() == 1;
        draw.config.bad_samples = match few && draw.config.budget.is_none() && rng.one_in(2) {
            true => BadSamplePolicy::Replace,
            false => BadSamplePolicy::Skip { budget: 1024, consecutive: u32::MAX },
        };
        damaged
    }

    /// Whether a field that is read of the sample shares a block with damage, or is not what its checksum says.
    fn strikes(&self, contents: &Contents, draw: &Draw, sample: u64) -> bool {
        let align = draw.config.reads.align_bytes;
        let of = |name: &str| contents.dataset.fields().iter().position(|field| &*field.name == name).unwrap();
        let extents = draw.fields.iter().filter_map(|name| contents.dataset.extent(sample, of(name)));
        extents.filter(|extent| extent.len > 0).any(|extent| {
            let (start, end) = (extent.offset, extent.offset + extent.len);
            let own = self.blocks.iter().filter(|(shard, ..)| *shard == extent.shard as usize);
            own.into_iter().any(|(_, bytes, answer)| match answer {
                Answer::Flip => (start..end).contains(&bytes.start),
                _ => start / align * align < bytes.end && bytes.start < end.next_multiple_of(align),
            })
        })
    }

    /// What a batch comes to whose first place is at `position`: its samples, and how many are padding.
    pub(super) fn leave_out(
        &self,
        order: &Order,
        epoch: u64,
        (places, padded): &(Vec<u64>, u64),
        position: u64,
        policy: BadSamplePolicy,
    ) -> (Vec<u64>, u64) {
        let (mut samples, mut padding) = (Vec::new(), 0);
        for (index, &place) in places.iter().enumerate() {
            let mut stand_in = Some(place);
            for attempt in 0.. {
                if stand_in.is_none_or(|sample| !self.bad.contains(&sample)) {
                    break;
                }
                let position = (position + index as u64) % order.len();
                let replaces = policy == BadSamplePolicy::Replace;
                stand_in = replaces.then(|| order.replacement(epoch, position, attempt));
            }
            if let Some(sample) = stand_in {
                samples.push(sample);
                padding += u64::from(index as u64 >= places.len() as u64 - padded);
            }
        }
        (samples, padding)
    }
}
