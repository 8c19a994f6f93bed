//! The reads of one shard, one after another: pure arithmetic, in constant memory.
//!
//! ```text
//!  items    [  a  ][ b ]......[r]..[r]...............[ c ]
//!  blocks   |-------|-------|-------|-------|-------|-------|
//!  reads    |---- 1 --------|-- 2 --|               |-- 3 --|      near ones are one read, which block_bytes cuts
//! ```
//!
//! Items that the ring may write to their own place, and items that go through slabs, never share a read: where they
//! meet inside a block, that block is read twice.

use std::ops::Range;

use super::plan::Item;

/// One read: whole blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Read {
    /// First byte in the file.
    pub(super) offset: u64,
    /// Bytes to ask for.
    pub(super) len: u64,
    /// Bytes that must arrive: fewer at the end of the file.
    pub(super) want: u64,
    /// The items of which bytes may be in it.
    pub(super) items: Range<usize>,
    pub(super) direct: bool,
}

/// The numbers that shape reads.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Alignment of offsets and lengths.
    pub(super) align: u64,
    /// The longest read.
    pub(super) block_bytes: u64,
    /// Extents that are nearer than this are read as one, through slabs.
    pub(super) gap_bytes: u64,
}

/// Where the reading of a shard stands.
#[derive(Debug)]
pub(super) struct Cursor {
    items: Range<usize>,
    file_bytes: u64,
    /// The first item of which bytes may still be read.
    first: usize,
    /// The next extent that no stretch has: an item, and which of its.
    next: (usize, u64),
    /// Blocks that are to be read now.
    stretch: Range<u64>,
    direct: bool,
}

impl Cursor {
    /// At the start of a shard with these items.
    pub(super) fn new(items: Range<usize>, file_bytes: u64) -> Cursor {
        let (first, next) = (items.start, (items.start, 0));
        Cursor { items, file_bytes, first, next, stretch: 0..0, direct: false }
    }

    /// The next read, of `room` bytes at most, a multiple of the alignment; `None` at the end of the shard.
    pub(super) fn next(&mut self, items: &[Item], limits: &Limits, room: u64) -> Option<Read> {
        if !self.prepare(items, limits) {
            return None;
        }
        let Range { start: offset, end } = self.stretch;
        let to_cut = limits.block_bytes - offset % limits.block_bytes;
        let len = (end - offset).min(to_cut).min(room);
        let read_end = offset + len;
        while items[self.first].extents.end() <= offset {
            self.first += 1;
        }
        let own = items[self.first..self.items.end].iter();
        let inside = own.take_while(|item| item.direct == self.direct && item.extents.begin() < read_end).count();
        self.stretch.start = read_end;
        let want = len.min(self.file_bytes - offset);
        Some(Read { offset, len, want, items: self.first..self.first + inside, direct: self.direct })
    }

    /// Whether the next read is direct, and how long it would be if it had room; `None` at the end of the shard.
    pub(super) fn peek(&mut self, items: &[Item], limits: &Limits) -> Option<(bool, u64)> {
        self.prepare(items, limits).then(|| {
            let to_cut = limits.block_bytes - self.stretch.start % limits.block_bytes;
            (self.direct, (self.stretch.end - self.stretch.start).min(to_cut))
        })
    }

    /// Sees to it that there is a stretch, and that it is as long as a read may be, if it can be; false at the end.
    fn prepare(&mut self, items: &[Item], limits: &Limits) -> bool {
        let down = |offset: u64| offset & !(limits.align - 1);
        while self.stretch.end - self.stretch.start < limits.block_bytes {
            let Some((extent, direct)) = self.extent(items, limits) else { break };
            let Range { start, end } = self.stretch;
            let gap_bytes = if direct { 0 } else { limits.gap_bytes };
            if start == end {
                // Blocks that the reads before have had are not read again, but for the other kind of items.
                let from = if direct == self.direct { end.max(down(extent.start)) } else { down(extent.start) };
                self.stretch = from..from.max(extent.end.next_multiple_of(limits.align));
                if direct != self.direct {
                    (self.direct, self.first) = (direct, self.next.0);
                }
            } else if direct == self.direct && down(extent.start) <= end.saturating_add(gap_bytes) {
                self.stretch.end = end.max(extent.end.next_multiple_of(limits.align));
            } else {
                break;
            }
            self.advance(items, limits);
        }
        self.stretch.start < self.stretch.end
    }

    /// The next extent: a row, or all rows of an item whose gaps are read along.
    fn extent(&self, items: &[Item], limits: &Limits) -> Option<(Range<u64>, bool)> {
        let (item, number) = self.next;
        let item = self.items.contains(&item).then(|| &items[item])?;
        Some((item.extents.extent(number, limits.gap_bytes), item.direct))
    }

    fn advance(&mut self, items: &[Item], limits: &Limits) {
        let (item, number) = self.next;
        let last = number + 1 >= items[item].extents.count(limits.gap_bytes);
        self.next = if last { (item + 1, 0) } else { (item, number + 1) };
    }
}
