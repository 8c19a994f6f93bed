//! Views that are to be one array.
//!
//! ```text
//!  together   | .[s1][s2][s3]. |                     they lie so already: the array is where they are
//!  gathered   | .[s2]..[s3].[s1] | [s1][s2][s3] |    behind the extents, by moves within the region
//!  placed     | [s1][s2][s3] |                       large pieces on the staged path: the copies put them there, and the
//!                                                    region has no extents
//! ```
//!
//! Those whose elements change on the way (`cast.rs`) lie behind the extents, and so do all beside them.

use std::ops::Range;

use super::{Limits, Move, Plan};

/// From this size on a piece is worth a copy of its own.
pub(crate) const PLACED_BYTES_MIN: u64 = 64 << 10;

impl Plan {
    /// The same with room for so many arrays of `views` views, cut at `cuts` windows.
    pub fn with_arrays(mut self, arrays: usize, views: usize, cuts: usize) -> Plan {
        self.arrays.reserve_exact(arrays);
        self.moves.reserve_exact(if arrays > 0 { 2 * views + cuts } else { 0 });
        self
    }

    /// Makes the views numbered `views` one array, each behind the one before, of items of `item_bytes`. All of them are
    /// there. No view is in two arrays.
    pub fn array(&mut self, views: Range<usize>, item_bytes: u64, limits: &Limits) {
        if let Some(at) = self.together(views.clone(), item_bytes) {
            self.arrays.push((views, at));
            return;
        }
        let at = self.region_bytes;
        let mut target = at;
        for view in views.clone() {
            let (source, bytes) = (self.offsets[view], self.lengths[view]);
            match self.moves.last_mut() {
                Some(last) if last.source + last.bytes == source && last.target + last.bytes == target => {
                    last.bytes += bytes;
                }
                _ if bytes > 0 => self.moves.push(Move { source, target, bytes }),
                _ => {}
            }
            target += bytes;
        }
        self.arrays.push((views, at));
        self.region_bytes = target.next_multiple_of(limits.align);
    }

    /// Has the copies put every piece in its place, if that is all that there is to copy and the pieces are large. After
    /// the last array; only where windows are copied to the region.
    pub fn place(&mut self, limits: &Limits) {
        let lengths = |views: &Range<usize>| self.lengths[views.clone()].iter().copied().filter(|&bytes| bytes > 0);
        let gathered = |(_, at): &&(Range<usize>, u64)| *at >= self.read_bytes;
        let arrays = || self.arrays.iter().filter(gathered);
        let moved: u64 = arrays().flat_map(|(views, _)| lengths(views)).sum();
        let small = arrays().flat_map(|(views, _)| lengths(views)).any(|bytes| bytes < PLACED_BYTES_MIN);
        // Casts read what lies in extents.
        if self.moves.is_empty() || !self.casts.is_empty() || small || moved < self.wanted_bytes {
            return;
        }
        self.moves.clear();
        let (arrays, window) = (std::mem::take(&mut self.arrays), limits.window_bytes);
        for (views, at) in &arrays {
            let mut target = at - self.read_bytes;
            for view in views.clone() {
                let (mut source, mut left) = (self.offsets[view], self.lengths[view]);
                self.offsets[view] = target;
                while left > 0 {
                    let bytes = left.min(window - source % window);
                    self.moves.push(Move { source, target, bytes });
                    (source, target, left) = (source + bytes, target + bytes, left - bytes);
                }
            }
        }
        self.arrays = arrays;
        self.arrays.iter_mut().for_each(|(_, at)| *at -= self.read_bytes);
        self.moves.sort_unstable_by_key(|piece| piece.source);
        self.region_bytes -= self.read_bytes;
        self.placed = true;
    }

    /// Where array number `array`, in the order in which they were asked for, starts in the region.
    pub fn array_at(&self, array: usize) -> u64 {
        self.arrays[array].1
    }

    /// What is left to do within the region once everything has been read and copied there.
    pub fn gather(&self) -> &[Move] {
        if self.placed { &[] } else { &self.moves }
    }

    /// The pieces of the window that starts at `at`, from where they were read to where they go; `None` where the whole
    /// window goes to the same place in the region.
    pub fn pieces(&self, at: u64, limits: &Limits) -> Option<&[Move]> {
        let before = |end: u64| self.moves.partition_point(|piece| piece.source < end);
        self.placed.then(|| &self.moves[before(at)..before(at.saturating_add(limits.window_bytes))])
    }

    /// Where the views start, if each starts where the one before ends, and the first where an item may.
    fn together(&self, views: Range<usize>, item_bytes: u64) -> Option<u64> {
        let mut start = None;
        let mut end = 0;
        for view in views.filter(|&view| self.lengths[view] > 0) {
            let at = self.offsets[view];
            match start {
                None => start = Some(at),
                Some(_) if at == end => {}
                Some(_) => return None,
            }
            end = at + self.lengths[view];
        }
        start.filter(|at| at.is_multiple_of(item_bytes))
    }
}
