//! Where targets lie.
//!
//! On the host device an item is *direct* where its bytes may lie in memory as they do in blocks of the file:
//!
//! ```text
//!  file    ...|. . . a|b b b b|b . . .|...     blocks of 4096 bytes
//!  block      |. . . a|b b b b|b . . .|        the same blocks, one after another: nothing is moved, neighbours share
//! ```
//!
//! Every other target is *packed*: its bytes go through a slab, and the copy puts them where they belong.

use super::{Item, Plan, Where};
use crate::error::{Error, Result};
use crate::weights::{Checkpoint, TensorInfo};

impl Plan {
    /// Which items may be written by the ring where they are to stay.
    pub(super) fn mark_direct(&mut self, checkpoint: &Checkpoint) {
        for item in &mut self.items {
            let [target] = &self.targets[item.targets.clone()] else { continue };
            let aligned = item.extents.begin().is_multiple_of(alignment(&checkpoint.tensors()[target.place]));
            let own = matches!(target.memory, Where::Block(_));
            item.direct = own && aligned && target.rows.rows == 1 && item.extents.rows() == Some(target.rows);
        }
    }

    /// Gives every target that has none a place in its device's block: first the direct ones, in blocks as in the file,
    /// then the others without holes, which are sorted by alignment for that.
    pub(super) fn lay_out(&mut self, checkpoint: &Checkpoint, devices: usize, align: u64) -> Result<()> {
        let too_much = || Error::Memory { what: "tensors", bytes: u64::MAX, errno: libc::ENOMEM };
        let mut end = 0u64;
        for shard in &self.shards {
            let begin = end;
            let mut stretches = Stretches::new(align);
            for item in &self.items[shard.clone()] {
                let at = stretches.add(item);
                if item.direct {
                    self.targets[item.targets.start].memory = Where::Block(begin + at);
                }
            }
            end = begin.checked_add(stretches.bytes).ok_or_else(too_much)?;
            self.spans.push(begin..end);
        }
        let direct: Vec<bool> = {
            let mut direct = vec![false; self.targets.len()];
            self.items.iter().filter(|item| item.direct).for_each(|item| direct[item.targets.start] = true);
            direct
        };
        let mut packed: Vec<usize> = (0..self.targets.len())
            .filter(|&i| !direct[i] && matches!(self.targets[i].memory, Where::Block(_)))
            .collect();
        packed.sort_by_key(|&i| std::cmp::Reverse(alignment(&checkpoint.tensors()[self.targets[i].place])));
        let mut ends = vec![end; devices];
        for i in packed {
            let target = &mut self.targets[i];
            let end = &mut ends[target.device];
            target.memory = Where::Block(*end);
            *end = end.checked_add(target.rows.bytes()).ok_or_else(too_much)?;
        }
        self.block_bytes = ends;
        Ok(())
    }
}

/// Direct items of one shard, as blocks one after another.
struct Stretches {
    align: u64,
    bytes: u64,
    /// Where the last one ends in the file, if the item before was direct.
    end: Option<u64>,
}

impl Stretches {
    fn new(align: u64) -> Stretches {
        Stretches { align, bytes: 0, end: None }
    }

    /// Where the item's first byte comes to lie. The [cursor](super::cursor) reads the same blocks in the same order.
    fn add(&mut self, item: &Item) -> u64 {
        if !item.direct {
            self.end = None;
            return 0;
        }
        let (begin, end) = (item.extents.begin(), item.extents.end().next_multiple_of(self.align));
        let first = begin & !(self.align - 1);
        let from = match self.end {
            Some(before) if first <= before => before,
            _ => first,
        };
        // The place of the block that starts at `from` is `bytes`; the item may start in the block before it.
        let at = (self.bytes + begin).wrapping_sub(from);
        self.bytes += end.saturating_sub(from);
        self.end = Some(end.max(from));
        at
    }
}

/// What a tensor's address is a multiple of.
pub(super) fn alignment(tensor: &TensorInfo) -> u64 {
    tensor.dtype.bytes().unwrap_or(1)
}
