//! What has landed comes to its targets, and whole ones to the consumer.

use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

use super::{Engine, give_back, inherit};
use crate::device::{DevicePtr, RawCopy, RawRows, Seq};
use crate::error::Result;
use crate::memory::Slab;
use crate::weights::load::Output;
use crate::weights::memory::{Copying, Hold};
use crate::weights::plan::{Plan, Target, Where};
use crate::weights::window::{Landing, Window};

impl Engine {
    /// The bytes of a window are there, and are what they should be: sees to it that they come to their targets.
    pub(super) fn settle(&mut self, window: Window, hold: Hold) -> Result<()> {
        match hold {
            Hold::Span(_) => self.arrive(&window, 0, Seq(0)), // They are where they belong.
            Hold::Slab(slab) => {
                let slab = Arc::new(slab);
                for device in 0..self.copies.len() {
                    let seq = self.copy(&window, &slab, device)?;
                    self.arrive(&window, device, seq);
                }
                give_back(self.slabs.as_mut().expect("it is one of these"), slab);
            }
        }
        Ok(())
    }

    /// Starts the copies of a window's bytes to one device; gives the point behind them.
    fn copy(&mut self, window: &Window, slab: &Arc<Slab>, device: usize) -> Result<Seq> {
        let list = &mut self.state.list;
        list.clear();
        let (mut bytes, mut before) = (0, None);
        for Landing { read, at } in &window.reads {
            for target in targets(&self.plan, read.items.clone(), device) {
                let memory = &self.shared.targets[target].memory;
                // Neighbours in a block are one allocation; the caller's need not be, wherever they lie.
                let block = matches!(self.plan.targets[target].memory, Where::Block(_));
                let key = if block { None } else { Some(target) };
                let mut same = before.replace(key) == Some(key);
                let stride = self.plan.targets[target].rows.stride as usize;
                for piece in self.plan.targets[target].rows.within(read.offset..read.offset + read.want) {
                    let source = at + (piece.offset - read.offset) as usize;
                    assert!(source as u64 + piece.bytes <= slab.bytes() as u64, "a copy from outside its slab");
                    bytes += piece.bytes;
                    // SAFETY: inside the slab, checked above.
                    let source = unsafe { slab.base().add(source) };
                    let target = memory.ptr + piece.at;
                    let bytes = piece.bytes as usize;
                    let last = list.last_mut().filter(|_| same);
                    if !last.is_some_and(|last| join(last, source, target, bytes, stride)) {
                        list.push(RawCopy { source, target, bytes }.into());
                    }
                    same = true;
                }
            }
        }
        if list.is_empty() {
            return Ok(Seq(0));
        }
        let copying = Copying { slab: slab.clone(), _targets: self.owners.clone() };
        // SAFETY: the slab is pinned for as long as its arena lives (`Pinned`), and a share of it moves into the queue:
        // it is given back when the last share comes out. The targets lie in memory that `owners` keeps, of which a share
        // moves into the queue too; each byte of it is one target's, which nobody reads before its seq.
        let seq = unsafe { self.copies[device].queue.copy_all(copying, list.drain(..)) }?;
        self.shared.counters.bytes_copied.add(bytes);
        if let Some(fallback) = self.copies[device].queue.fallback() {
            self.shared.counters.fall_back(fallback);
        }
        Ok(seq)
    }

    /// Counts what has come of each target of a device, and hands over those that are whole.
    fn arrive(&mut self, window: &Window, device: usize, seq: Seq) {
        for Landing { read, .. } in &window.reads {
            let Some(last) = read.items.clone().next_back() else { continue };
            // The targets of neighbouring items are neighbours.
            for target in self.plan.items[read.items.start].targets.start..self.plan.items[last].targets.end {
                let Target { rows, device: own, .. } = &self.plan.targets[target];
                let bytes = rows.bytes_within(read.offset..read.offset + read.want);
                if bytes == 0 || *own != device {
                    continue;
                }
                self.shared.counters.bytes_wanted.add(bytes);
                self.come(target, bytes, seq);
            }
        }
    }

    /// So many bytes of a target have come, or so many of its checks have ended: hands it over if that was all.
    pub(super) fn come(&mut self, target: usize, count: u64, seq: Seq) {
        let (left, behind) = &mut self.state.left[target];
        *left -= count;
        *behind = seq.max(*behind);
        if *left == 0 {
            self.hand_over(target as u32);
        }
    }

    /// There is room in the queue for every target.
    fn hand_over(&mut self, target: u32) {
        self.shared.counters.tensors.add(1);
        if self.has_handed_over_all() {
            // Before the consumer has the last tensor and forks.
            // SAFETY: every byte of every target has landed, and all that is read is for targets; copies into memory that a
            // child may have are those of a host, and end at once.
            unsafe { inherit(&self.owners) };
        }
        let _ = self.output.try_send(Output::Ready(target, self.state.left[target as usize].1));
    }

    pub(super) fn has_handed_over_all(&self) -> bool {
        self.shared.counters.tensors.get() == self.plan.targets.len() as u64
    }

    /// Of tensors without bytes there is nothing to wait for.
    pub(in crate::weights) fn hand_over_empty(&mut self) {
        for target in 0..self.plan.targets.len() {
            if self.state.left[target].0 == 0 {
                self.hand_over(target as u32);
            }
        }
    }
}

/// The targets of a device among those of some items.
fn targets(plan: &Plan, items: Range<usize>, device: usize) -> impl Iterator<Item = usize> + use<'_> {
    let all = plan.items[items].iter().flat_map(|item| item.targets.clone());
    all.filter(move |&target| plan.targets[target].device == device)
}

/// Adds a copy to the one before: where both sides go on from it (neighbours of a file are neighbours in a block), or as
/// the next of its rows, which lie `stride` bytes apart. False if it is neither.
fn join(last: &mut RawRows, source: NonNull<u8>, target: DevicePtr, bytes: usize, stride: usize) -> bool {
    let ahead = (source.as_ptr() as usize).wrapping_sub(last.source.as_ptr() as usize);
    if target != last.target + (last.rows * last.row_bytes) as u64 {
        return false;
    }
    if last.rows == 1 && ahead == last.row_bytes {
        (last.row_bytes, last.source_stride) = (last.row_bytes + bytes, last.row_bytes + bytes);
        return true;
    }
    let known = last.rows == 1 || stride == last.source_stride;
    if bytes != last.row_bytes || stride < bytes || ahead != last.rows * stride || !known {
        return false;
    }
    (last.rows, last.source_stride) = (last.rows + 1, stride);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Joined or not, the same bytes go to the same places.
    #[test]
    fn joined_copies_are_the_copies() {
        let address = |at: usize| NonNull::new(std::ptr::without_provenance_mut::<u8>(1 << 20 | at)).unwrap();
        let mut rng = crate::sim::Rng::new(1);
        let mut joined = 0;
        for _ in 0..20_000 {
            let (mut list, mut want) = (Vec::<RawRows>::new(), Vec::new());
            let (mut source, mut target) = (0, 0);
            for _ in 0..5 {
                let (bytes, stride) = (1 + rng.below(2) as usize, 1 + rng.below(4) as usize);
                want.extend((0..bytes).map(|i| (source + i, target + i)));
                let copy = RawCopy { source: address(source), target: target as DevicePtr, bytes };
                let last = list.last_mut();
                match last.is_some_and(|last| join(last, copy.source, copy.target, bytes, stride.max(bytes))) {
                    true => joined += 1,
                    false => list.push(copy.into()),
                }
                source += bytes + rng.below(3) as usize;
                target += bytes + rng.below(8) as usize / 7;
            }
            let mut got = Vec::new();
            for rows in list {
                for row in 0..rows.rows {
                    let from = (rows.source.as_ptr() as usize & 0xFFFFF) + row * rows.source_stride;
                    let to = rows.target as usize + row * rows.row_bytes;
                    got.extend((0..rows.row_bytes).map(|i| (from + i, to + i)));
                }
            }
            assert_eq!(got, want);
        }
        assert!(joined > 1000, "{joined}");
    }
}
