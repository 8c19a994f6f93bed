//! Where each field of each sample of a shard lies: columns of numbers, which may be in memory or in an index file.
//!
//! ```text
//!   Even      offset = first + row * stride, len                     records, rows of an array: nothing per sample
//!   Between   edges  e0 | e1 | e2 | ..   row i lies in e[i]..e[i+1]  4 or 8 bytes per sample
//!   Pairs     offset, len  of each row                               8 (tar), 12 or 16 bytes per sample and field
//! ```

mod numbers;
mod passes;

use std::sync::Arc;

use super::body::Body;
use crate::error::Result;
pub(super) use numbers::{Bound, Cells, Numbers};

/// A part of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    /// First byte, from the start of the file.
    pub(super) offset: u64,
    /// Length in bytes.
    pub(super) len: u64,
}

/// A row per sample, a column per field that occurs in the shard.
#[derive(Debug, Clone)]
pub(super) struct Table {
    rows: u64,
    columns: Arc<[Cells]>,
    /// CRC32C of each row of each column, where an index has them.
    crcs: Option<Arc<[Numbers]>>,
    /// The longest entry of each column, then the largest row, where an index says it.
    largest: Option<Arc<[u64]>>,
    body: Arc<Body>,
    /// The dataset's field number -> the column here, or [`NO_COLUMN`]. Shards alike share it.
    column_of: Arc<[u16]>,
}

const NO_COLUMN: u16 = u16::MAX;

impl Table {
    /// A table over numbers that exist already, in an index file. Entries are compared with the shard when looked up.
    ///
    /// # Errors
    /// [`Error::Format`](crate::Error::Format) if the body is too short for so many rows.
    pub(super) fn over(body: Arc<Body>, rows: u64, columns: Vec<Cells>) -> Result<Table> {
        let fit = |cells: &Cells| match cells {
            Cells::Even { .. } => true,
            Cells::Between { edges, .. } => rows < u64::MAX && edges.fit(&body, rows + 1),
            Cells::Pairs { offset, len, .. } => offset.fit(&body, rows) && len.fit(&body, rows),
        };
        if !columns.iter().all(fit) || columns.len() >= usize::from(NO_COLUMN) {
            return Err(body.damaged(0, format!("{} bytes do not hold {rows} samples", body.len())));
        }
        Ok(Table { rows, columns: columns.into(), crcs: None, largest: None, body, column_of: Arc::new([]) })
    }

    /// A table that is arithmetic alone: a column each of `(first, stride, len)`, in bytes.
    pub(super) fn even(rows: u64, columns: &[(u64, u64, u64)]) -> Table {
        let column = |&(first, stride, len): &(u64, u64, u64)| Cells::Even { first, stride, len };
        let columns = columns.iter().map(column).collect();
        Table { rows, columns, crcs: None, largest: None, body: Body::owned(Vec::new()), column_of: Arc::new([]) }
    }

    /// With what else an index says: each row's checksums by column; the longest of each column, then the largest row.
    ///
    /// # Errors
    /// As [`over`](Self::over).
    pub(super) fn with(self, crcs: Option<Vec<Numbers>>, largest: Vec<u64>) -> Result<Table> {
        if !crcs.iter().flatten().all(|crcs| crcs.fit(&self.body, self.rows)) {
            return Err(self.body.damaged(0, format!("{} bytes do not hold {} checksums", self.body.len(), self.rows)));
        }
        Ok(Table { crcs: crcs.map(Into::into), largest: Some(largest.into()), ..self })
    }

    /// That all of an index is as it was written.
    ///
    /// # Errors
    /// [`Error::Format`](crate::Error::Format).
    pub(super) fn check_body(&self) -> Result<()> {
        self.body.check_all()
    }

    /// Whether the index has checksums.
    pub(super) fn has_crcs(&self) -> bool {
        self.crcs.is_some()
    }

    /// The columns.
    pub(super) fn cells(&self) -> &[Cells] {
        &self.columns
    }

    /// The number of samples.
    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    /// How many columns there are.
    pub(super) fn columns(&self) -> usize {
        self.columns.len()
    }

    /// How many bytes its numbers take.
    #[cfg(test)]
    pub(super) fn body_bytes(&self) -> usize {
        self.body.len()
    }

    /// Whether all samples are of one size: nothing needs to be looked up.
    pub(super) fn is_even(&self) -> bool {
        self.columns.iter().all(|cells| matches!(cells, Cells::Even { .. }))
    }

    /// Where the dataset's field number `field` of sample `row` lies in a shard of `shard_bytes`, if the sample has it.
    ///
    /// # Errors
    /// [`Error::Format`](crate::Error::Format) where the index is damaged or leads out of the shard.
    ///
    /// # Panics
    /// If `row` or `field` is out of range.
    #[inline]
    pub(super) fn get(&self, row: u64, field: usize, shard_bytes: u64) -> Result<Option<Entry>> {
        match self.column(field) {
            Some(column) => self.cell(row, column, shard_bytes),
            None => Ok(None),
        }
    }

    /// As [`get`](Self::get), by column.
    #[inline]
    pub(super) fn cell(&self, row: u64, column: usize, shard_bytes: u64) -> Result<Option<Entry>> {
        assert!(row < self.rows, "sample {row} of {}", self.rows);
        // A field that no sample of the shard has may have no column.
        let Some(cells) = self.columns.get(column) else { return Ok(None) };
        let Some((offset, end)) = self.range(row, cells)? else { return Ok(None) };
        match (offset, end) {
            (Some(offset), Some(end)) if offset <= end && end <= shard_bytes => {
                Ok(Some(Entry { offset, len: end - offset }))
            }
            _ => Err(self.outside(row, column, offset, end, shard_bytes)),
        }
    }

    /// First byte, and the one behind the last; each `None` if it is no number.
    #[inline]
    #[allow(clippy::type_complexity, reason = "lives between two functions")]
    fn range(&self, row: u64, cells: &Cells) -> Result<Option<(Option<u64>, Option<u64>)>> {
        let body = &self.body;
        Ok(Some(match cells {
            Cells::Even { first, stride, len } => {
                let offset = row.checked_mul(*stride).and_then(|at| at.checked_add(*first));
                (offset, offset.and_then(|offset| offset.checked_add(*len)))
            }
            Cells::Pairs { offset, len, lacking } => {
                let Some(offset) = offset.get(body, row)? else { return Ok((!lacking).then_some((None, None))) };
                (Some(offset), len.get(body, row)?.and_then(|len| offset.checked_add(len)))
            }
            Cells::Between { edges, start, end } => {
                let (first, last) = (edges.get(body, row)?, edges.get(body, row + 1)?);
                let bound = |bound: &Bound| match *bound {
                    Bound::AfterFirst(bytes) => first?.checked_add(bytes),
                    Bound::BeforeLast(bytes) => last?.checked_sub(bytes),
                };
                let end = bound(end).filter(|_| first <= last && last.is_some());
                (bound(start), end.filter(|&end| Some(end) <= last))
            }
        }))
    }

    #[cold]
    fn outside(
        &self,
        row: u64,
        column: usize,
        offset: Option<u64>,
        end: Option<u64>,
        shard_bytes: u64,
    ) -> crate::Error {
        let at = match &self.columns[column] {
            Cells::Even { .. } => 0,
            Cells::Between { edges: numbers, .. } | Cells::Pairs { offset: numbers, .. } => numbers.place(row),
        };
        let shown = |place: Option<u64>| place.map_or("beyond 2^64".to_owned(), |place| place.to_string());
        let (offset, end) = (shown(offset), shown(end));
        self.body.damaged(at, format!("sample {row} would lie at {offset}..{end} of a shard of {shard_bytes} bytes"))
    }

    /// The CRC32C of a field of a sample; `None` without checksums, or where the sample lacks the field.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub(super) fn crc(&self, row: u64, field: usize) -> Result<Option<u32>> {
        assert!(row < self.rows, "sample {row} of {}", self.rows);
        self.column(field).map_or(Ok(None), |column| self.cell_crc(row, column))
    }

    /// As [`crc`](Self::crc), by column.
    pub(super) fn cell_crc(&self, row: u64, column: usize) -> Result<Option<u32>> {
        let Some(crcs) = &self.crcs else { return Ok(None) };
        match self.columns.get(column) {
            None => Ok(None),
            Some(Cells::Pairs { offset, .. }) if offset.get(&self.body, row)?.is_none() => Ok(None),
            Some(_) => self.body.u32(crcs[column].place(row)).map(Some),
        }
    }

    /// The column of the dataset's field number `field`, if the shard has one.
    pub(super) fn column(&self, field: usize) -> Option<usize> {
        let column = self.column_of[field];
        (column != NO_COLUMN).then_some(usize::from(column))
    }

    /// Says which column each of the dataset's fields is, as [`numbering`] has it.
    pub(super) fn number_fields(&mut self, column_of: Arc<[u16]>) {
        self.column_of = column_of;
    }

    /// Says which of the `fields` fields of a larger dataset each of this one's is.
    pub(super) fn renumber_fields(&mut self, number_of: &[u16], fields: usize) {
        let mut column_of = vec![NO_COLUMN; fields];
        for (&column, &field) in self.column_of.iter().zip(number_of) {
            column_of[usize::from(field)] = column;
        }
        self.column_of = column_of.into();
    }
}

/// The column of each of `fields` fields, where column `i` is the field `field_of[i]`.
pub(super) fn numbering(field_of: &[u16], fields: usize) -> Arc<[u16]> {
    let mut column_of = vec![NO_COLUMN; fields];
    for (column, &field) in field_of.iter().enumerate() {
        column_of[usize::from(field)] = column as u16;
    }
    column_of.into()
}
