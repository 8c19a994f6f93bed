//! Where targets lie.
//!
//! Where a ring can write to the device's memory an item is *direct* if its bytes may lie there as they do in blocks of the
//! file:
//!
//! ```text
//!  file    ...|. . . a|b b b b|b . . .|...     blocks of 4096 bytes
//!  block      |. . . a|b b b b|b . . .|        the same blocks, one after another: nothing is moved, neighbours share
//! ```
//!
//! Every other target is *packed*: its bytes go through a slab, and the copy puts them where they belong.

use super::{Item, Plan, Where};
use crate::error::{Error, Result, TENSORS};
use crate::weights::{Checkpoint, TensorInfo};

impl Plan {
    /// Which items may be written by the ring where they are to stay: those that lie in stretches of so many bytes at
    /// least, each of which costs up to two blocks less two bytes of memory besides its own.
    pub(in crate::weights) fn mark_direct(&mut self, checkpoint: &Checkpoint, stretch_bytes_min: u64, align: u64) {
        for item in &mut self.items {
            let [target] = &self.targets[item.targets.clone()] else { continue };
            let aligned = item.extents.begin().is_multiple_of(alignment(&checkpoint.tensors()[target.place]));
            let own = matches!(target.memory, Where::Block(_));
            item.direct = own && aligned && target.rows.rows == 1 && item.extents.rows() == Some(target.rows);
        }
        for shard in &self.shards {
            let follows = |before: &Item, item: &Item| {
                let near = item.extents.begin() & !(align - 1) <= before.extents.end().next_multiple_of(align);
                before.direct && item.direct && near
            };
            for stretch in self.items[shard.clone()].chunk_by_mut(follows) {
                let bytes = stretch.last().map_or(0, |item| item.extents.end()) - stretch[0].extents.begin();
                let long = bytes >= stretch_bytes_min;
                stretch.iter_mut().for_each(|item| item.direct &= long);
            }
        }
    }

    /// Nothing is direct, wherever it has been laid out.
    pub(in crate::weights) fn unmark(&mut self) {
        self.items.iter_mut().for_each(|item| item.direct = false);
        self.spans.iter_mut().for_each(|span| *span = 0..0);
    }

    /// The shards that direct items are read from.
    pub(in crate::weights) fn direct_shards(&self) -> impl Iterator<Item = usize> + use<'_> {
        (0..self.shards.len()).filter(|&shard| self.items[self.shards[shard].clone()].iter().any(|item| item.direct))
    }

    /// Gives every target that has none a place in its device's block: first the direct ones, in blocks as in the file,
    /// then the others without holes, which are sorted by alignment for that.
    pub(in crate::weights) fn lay_out(&mut self, checkpoint: &Checkpoint, devices: usize, align: u64) -> Result<()> {
        let too_much = || Error::Memory { what: TENSORS, bytes: u64::MAX, errno: libc::ENOMEM };
        self.spans.clear();
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

    /// Where the item's first byte comes to lie. The [cursor](crate::weights::cursor) reads the same blocks in the same order.
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
