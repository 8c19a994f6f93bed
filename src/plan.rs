//! From the samples of a batch to reads: pure arithmetic, no I/O.
//!
//! A batch's region holds the batch's extents in file order, each widened to aligned blocks, near ones merged:
//!
//! ```text
//!  shard   ....[s1]..[s2].........................[s3]....          s1, s2, s3: wanted bytes
//!  blocks  |-------|-------|-------|-------|-------|-------|
//!  region  |---------------|-------|                                two extents, one after the other
//!               s1   s2       s3                                    a sample is a view (offset, length) into it
//!  reads   |---- 1 --------|-- 2 --|                                cut at block_bytes and at window borders
//! ```
//!
//! Nothing is moved afterwards to mend alignment, and one copy per window serves all samples in it. Fields that are to be
//! one array lie behind the extents: [`Plan::array`], and [`Plan::cast`] where their elements change on the way.

mod arrays;
mod cast;
mod parts;

use std::ops::Range;

use crate::dataset::Extent;

pub(crate) use arrays::PLACED_BYTES_MIN;
pub use cast::Cast;
pub(crate) use cast::Caster;
#[cfg(test)]
pub(crate) use cast::nearest;
pub use parts::{Part, Use};

/// One read of a plan. `offset`, `len` and `at` are multiples of [`Limits::align`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Read {
    /// Index of the shard.
    pub shard: u32,
    /// First byte in the shard.
    pub offset: u64,
    /// Bytes to ask for; the last block of a shard is asked for whole.
    pub len: u32,
    /// Bytes that must arrive: less than `len` only at the end of the shard.
    pub want: u32,
    /// Where the first byte goes in the region.
    pub at: u64,
}

/// Bytes that go from one place of a region to another: a row of the table that a gather works through. Offsets count from
/// the region's first byte.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Move {
    /// Where they are.
    pub source: u64,
    /// Where they go.
    pub target: u64,
    /// How many; not 0.
    pub bytes: u64,
}

/// The numbers that shape a plan.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Alignment of file offsets, lengths and region offsets; a power of two.
    pub align: u64,
    /// The longest read; a multiple of `align`.
    pub block_bytes: u64,
    /// No read crosses a multiple of this in the region, so that every window is one landing; a multiple of `align`.
    pub window_bytes: u64,
    /// Two extents nearer than this are read as one, gap and all.
    pub gap_bytes: u64,
}

/// The reads and placements of one batch. Reused from batch to batch, so that planning does not allocate.
#[derive(Debug, Default)]
pub struct Plan {
    reads: Vec<Read>,
    offsets: Vec<u64>,
    lengths: Vec<u64>,
    read_bytes: u64,
    region_bytes: u64,
    wanted_bytes: u64,
    sorted: Vec<(Extent, u32)>,
    /// The views of each array, and where it starts in the region.
    arrays: Vec<(Range<usize>, u64)>,
    moves: Vec<Move>,
    /// Those over which elements change, one cast after the other.
    cast_moves: Vec<Move>,
    casts: Vec<(Cast, Range<usize>)>,
    /// The copies carry out the moves, and the region has no extents.
    placed: bool,
    parts: Vec<Part>,
}

impl Plan {
    /// A plan with room for so many views, and for so many reads beyond one a view, before it allocates again.
    pub fn with_capacity(views: usize, cuts: usize) -> Plan {
        Plan {
            reads: Vec::with_capacity(views + cuts),
            offsets: Vec::with_capacity(views),
            lengths: Vec::with_capacity(views),
            sorted: Vec::with_capacity(views),
            ..Plan::default()
        }
    }

    /// Plans the views `extents` (one per sample and field; `None`: absent), in place of what was planned before.
    ///
    /// `shard_bytes` gives the size of a shard; every extent lies inside its shard.
    pub fn build(
        &mut self,
        extents: impl Iterator<Item = Option<Extent>>,
        shard_bytes: impl Fn(u32) -> u64,
        limits: &Limits,
    ) {
        self.collect(extents);
        let mut rest = 0;
        let mut region_end = 0;
        while rest < self.sorted.len() {
            let first = self.sorted[rest].0;
            let begin = first.offset & !(limits.align - 1);
            let mut end = (first.offset + first.len).next_multiple_of(limits.align);
            let at = region_end;
            while let Some(&(extent, view)) = self.sorted.get(rest) {
                let near = extent.shard == first.shard
                    && extent.offset & !(limits.align - 1) <= end.saturating_add(limits.gap_bytes);
                if !near {
                    break;
                }
                end = end.max((extent.offset + extent.len).next_multiple_of(limits.align));
                self.offsets[view as usize] = at + (extent.offset - begin);
                rest += 1;
            }
            self.cut(first.shard, begin..end, at, shard_bytes(first.shard), limits);
            region_end = at + (end - begin);
        }
        (self.read_bytes, self.region_bytes) = (region_end, region_end);
    }

    /// The reads, in file order.
    pub fn reads(&self) -> &[Read] {
        &self.reads
    }

    /// Where each view starts in the region.
    pub fn offsets(&self) -> &[u64] {
        &self.offsets
    }

    /// How long each view is; [`Plan::ABSENT`] where there is none.
    pub fn lengths(&self) -> &[u64] {
        &self.lengths
    }

    /// The bytes that the reads fill, a multiple of the alignment: their [`Read::at`] counts from 0 to here.
    pub fn read_bytes(&self) -> u64 {
        self.read_bytes
    }

    /// The bytes of region that the batch needs, a multiple of the alignment.
    pub fn region_bytes(&self) -> u64 {
        self.region_bytes
    }

    /// The sum of all views' lengths.
    pub fn wanted_bytes(&self) -> u64 {
        self.wanted_bytes
    }

    /// The length of a view that does not exist.
    pub const ABSENT: u64 = u64::MAX;

    fn collect(&mut self, extents: impl Iterator<Item = Option<Extent>>) {
        self.reads.clear();
        self.offsets.clear();
        self.lengths.clear();
        self.sorted.clear();
        self.arrays.clear();
        self.moves.clear();
        self.cast_moves.clear();
        self.casts.clear();
        self.parts.clear();
        self.placed = false;
        self.wanted_bytes = 0;
        for (view, extent) in extents.enumerate() {
            self.offsets.push(0);
            self.lengths.push(extent.map_or(Self::ABSENT, |e| e.len));
            if let Some(extent) = extent.filter(|e| e.len > 0) {
                self.wanted_bytes += extent.len;
                self.sorted.push((extent, view as u32));
            }
        }
        self.sorted.sort_unstable_by_key(|(extent, _)| (extent.shard, extent.offset));
    }

    fn cut(&mut self, shard: u32, blocks: Range<u64>, at: u64, shard_bytes: u64, limits: &Limits) {
        let mut offset = blocks.start;
        while offset < blocks.end {
            let at = at + (offset - blocks.start);
            let window_left = limits.window_bytes - at % limits.window_bytes;
            let len = (blocks.end - offset).min(limits.block_bytes).min(window_left);
            let want = len.min(shard_bytes - offset);
            self.reads.push(Read { shard, offset, len: len as u32, want: want as u32, at });
            offset += len;
        }
    }
}
