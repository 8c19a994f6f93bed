//! What is read of a tensor: the parts that several devices want of it, each byte once and nothing between them.
//!
//! ```text
//!  parts     [a0]....[b0]..[c0][a1]....[b1]..[c1]     equal strides: columns, side by side in each stride
//!  extents   [ 0]    [   1    ][ 2]    [   3    ]     columns that are near become one, with the gap between them
//! ```

use std::ops::Range;

use super::rows::Rows;

/// Stretches of a file that are read, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Extents {
    /// At least one. As many rows in each, at equal strides, and all first rows in order within one stride.
    columns: Vec<Rows>,
}

impl From<Rows> for Extents {
    fn from(rows: Rows) -> Extents {
        Extents { columns: vec![rows] }
    }
}

impl Extents {
    /// All rows of `sorted`, which start in that order, in as few extents as can be without reading gaps of more than
    /// `gap_bytes`; each with how many of `sorted` it has. Only parts of one tensor that were cut in different dimensions,
    /// and overlap, are read with all that is between them.
    pub(super) fn of(sorted: impl IntoIterator<Item = Rows>, gap_bytes: u64) -> Vec<(Extents, usize)> {
        let mut all: Vec<(Extents, usize)> = Vec::new();
        for rows in sorted {
            match all.last_mut().filter(|(before, _)| rows.begin < before.end()) {
                Some((before, count)) => {
                    before.add(rows, gap_bytes);
                    *count += 1;
                }
                None => all.push((rows.into(), 1)),
            }
        }
        all
    }

    /// Adds rows that start inside.
    fn add(&mut self, rows: Rows, gap_bytes: u64) {
        let first = self.columns[0];
        let last = self.columns.last_mut().expect("at least one");
        let (last_end, row_end) = (last.begin + last.row_bytes, rows.begin + rows.row_bytes);
        let same = (rows.stride, rows.rows) == (first.stride, first.rows) && row_end - first.begin <= first.stride;
        if !same {
            let end = self.end().max(rows.end());
            self.columns = vec![Rows::whole(first.begin, end - first.begin)];
        } else if rows.begin <= last_end.saturating_add(gap_bytes) {
            last.row_bytes = last_end.max(row_end) - last.begin;
        } else {
            self.columns.push(rows);
        }
    }

    pub(super) fn begin(&self) -> u64 {
        self.columns[0].begin
    }

    /// The byte after the last.
    pub(super) fn end(&self) -> u64 {
        self.columns[self.columns.len() - 1].end()
    }

    /// The rows, if they are one column.
    pub(super) fn rows(&self) -> Option<Rows> {
        if let [rows] = self.columns[..] { Some(rows) } else { None }
    }

    /// How many there are, where gaps of up to `gap_bytes` are filled.
    pub(super) fn count(&self, gap_bytes: u64) -> u64 {
        match self.rows() {
            Some(rows) => rows.filled(gap_bytes).rows,
            None => self.columns.len() as u64 * self.columns[0].rows,
        }
    }

    /// Extent `number` of those.
    pub(super) fn extent(&self, number: u64, gap_bytes: u64) -> Range<u64> {
        let columns = self.columns.len() as u64;
        match self.rows() {
            Some(rows) => rows.filled(gap_bytes).row(number),
            None => self.columns[(number % columns) as usize].row(number / columns),
        }
    }

    /// Whether bytes of them lie in `range`.
    pub(super) fn meet(&self, range: Range<u64>) -> bool {
        self.columns.iter().any(|rows| rows.bytes_within(range.clone()) > 0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against a walk byte by byte. Parts of one stride, as one dimension gives them, read nothing but gaps that are
        /// asked to be filled; parts of any stride are all inside, in order, without an overlap.
        #[test]
        fn every_byte_once_and_only_small_gaps(
            stride in 1u64..40, rows in 1u64..5, gap_bytes in 0u64..12, mixed: bool,
            cuts in prop::collection::vec((0u64..40, 1u64..40, 1u64..40, 1u64..5), 1..5),
        ) {
            let mut parts: Vec<Rows> = cuts.iter().map(|&(from, bytes, own_stride, own_rows)| match mixed {
                true => Rows { begin: from, row_bytes: bytes.min(own_stride), stride: own_stride, rows: own_rows },
                false => {
                    let from = from % stride;
                    Rows { begin: from, row_bytes: bytes.min(stride - from), stride, rows }
                }
            }).collect();
            parts.sort_by_key(|rows| rows.begin);
            let all = Extents::of(parts.iter().copied(), gap_bytes);
            prop_assert_eq!(all.iter().map(|(_, count)| count).sum::<usize>(), parts.len());
            let read: Vec<Range<u64>> =
                all.iter().flat_map(|(e, _)| (0..e.count(gap_bytes)).map(|n| e.extent(n, gap_bytes))).collect();
            prop_assert!(read.windows(2).all(|two| two[0].end <= two[1].start), "{:?}", read);
            let wanted = |byte: u64| parts.iter().any(|rows| rows.bytes_within(byte..byte + 1) > 0);
            let is_read = |byte: u64| read.iter().any(|range| range.contains(&byte));
            let last = parts.iter().map(Rows::end).max().unwrap();
            prop_assert!((0..last).all(|byte| is_read(byte) || !wanted(byte)));
            prop_assert!((0..last).all(|byte| all.iter().any(|(e, _)| e.meet(byte..byte + 1)) || !wanted(byte)));
            for byte in (0..last).filter(|&byte| !mixed && is_read(byte) && !wanted(byte)) {
                let before = (0..byte).rev().find(|&b| wanted(b)).unwrap();
                let behind = (byte..last).find(|&b| wanted(b)).unwrap();
                prop_assert!(behind - before - 1 <= gap_bytes, "{}..{}", before, behind);
            }
        }
    }
}
