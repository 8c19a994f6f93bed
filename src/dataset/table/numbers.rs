//! The formulas of a table's columns, and the numbers that they are over.

use crate::dataset::body::Body;
use crate::error::Result;

/// How a column's entries are worked out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::dataset) enum Cells {
    /// Row `i` at `first + i * stride`, each of `len` bytes.
    Even { first: u64, stride: u64, len: u64 },
    /// Row `i` between edge `i` and edge `i + 1`, of which there is one more than rows.
    Between { edges: Numbers, start: Bound, end: Bound },
    /// An offset and a length of its own. Rows that lack the field have all bits of the stored offset set, where rows
    /// can lack it (`lacking`); elsewhere that is no offset.
    Pairs { offset: Numbers, len: Numbers, lacking: bool },
}

/// A place relative to a row's edges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::dataset) enum Bound {
    /// So many bytes behind the row's own edge.
    AfterFirst(u64),
    /// So many bytes before the next row's.
    BeforeLast(u64),
}

/// A number per row, in a [`Body`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::dataset) struct Numbers {
    /// Where the first one is, in bytes from the start of the body.
    pub(in crate::dataset) at: u64,
    /// From one to the next, in bytes.
    pub(in crate::dataset) stride: u64,
    /// 8 bytes each, or 4.
    pub(in crate::dataset) wide: bool,
    /// What they are multiplied by: an element's size, a block.
    pub(in crate::dataset) unit: u64,
}

impl Numbers {
    /// The number of a row; `None` where all its bits are set.
    #[inline]
    pub(super) fn get(&self, body: &Body, row: u64) -> Result<Option<u64>> {
        let at = self.place(row);
        let (number, absent) = match self.wide {
            true => (body.u64(at)?, u64::MAX),
            false => (u64::from(body.u32(at)?), u64::from(u32::MAX)),
        };
        match number.checked_mul(self.unit) {
            _ if number == absent => Ok(None),
            Some(number) => Ok(Some(number)),
            None => Err(body.damaged(at, format!("{number} times {} is no offset", self.unit))),
        }
    }

    /// The same in a body that has `bytes` more in front.
    pub(in crate::dataset) fn moved_by(self, bytes: u64) -> Numbers {
        Numbers { at: self.at.saturating_add(bytes), ..self }
    }

    pub(super) fn place(&self, row: u64) -> u64 {
        self.at.saturating_add(row.saturating_mul(self.stride))
    }

    /// That all rows' numbers lie inside the body.
    pub(super) fn fit(&self, body: &Body, rows: u64) -> bool {
        let bytes = if self.wide { 8 } else { 4 };
        let last = |row: u64| row.checked_mul(self.stride)?.checked_add(self.at)?.checked_add(bytes);
        rows == 0 || last(rows - 1).is_some_and(|end| end <= body.len() as u64)
    }
}

impl Cells {
    /// The same in a body that has `bytes` more in front.
    pub(in crate::dataset) fn moved_by(self, bytes: u64) -> Cells {
        match self {
            Cells::Even { .. } => self,
            Cells::Between { edges, start, end } => Cells::Between { edges: edges.moved_by(bytes), start, end },
            Cells::Pairs { offset, len, lacking } => {
                Cells::Pairs { offset: offset.moved_by(bytes), len: len.moved_by(bytes), lacking }
            }
        }
    }
}
