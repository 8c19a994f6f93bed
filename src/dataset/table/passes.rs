//! What takes a pass over all rows.

use std::sync::Arc;

use super::Table;
use crate::dataset::builder::Builder;
use crate::error::Result;

impl Table {
    /// The same table, of `columns` columns, in numbers that can be written to a file, and these.
    ///
    /// # Errors
    /// As [`get`](Self::get), for any row.
    pub(in crate::dataset) fn portable(&self, shard_bytes: u64, columns: usize) -> Result<(Table, Vec<u8>)> {
        if let Some(bytes) = self.body.just_made().filter(|_| columns == self.columns()) {
            return Ok((self.clone(), bytes.to_vec()));
        }
        let mut builder = Builder::with_columns(columns);
        for row in 0..self.rows {
            builder.begin_sample();
            for column in 0..self.columns() {
                if let Some(entry) = self.cell(row, column, shard_bytes)? {
                    builder.push(column as u16, entry);
                }
            }
        }
        let table = builder.build();
        let bytes = table.body.just_made().unwrap_or_default().to_vec();
        Ok((table, bytes))
    }

    /// The longest entry of each column, and, last, the largest row.
    ///
    /// # Errors
    /// As [`get`](Self::get), for any row, unless an index has said it.
    pub(in crate::dataset) fn largest(&self, shard_bytes: u64) -> Result<Arc<[u64]>> {
        if let Some(largest) = &self.largest {
            return Ok(largest.clone());
        }
        let mut largest = vec![0; self.columns() + 1];
        // Where one row is as long as another, one says it, and the last one that it lies inside.
        let rows = if self.is_even() { self.rows.saturating_sub(1)..self.rows } else { 0..self.rows };
        for row in rows {
            let mut all = 0u64;
            for (column, largest) in largest[..self.columns()].iter_mut().enumerate() {
                let len = self.cell(row, column, shard_bytes)?.map_or(0, |entry| entry.len);
                *largest = len.max(*largest);
                all = all.saturating_add(len);
            }
            let last = &mut largest[self.columns()];
            *last = all.max(*last);
        }
        Ok(largest.into())
    }

    /// The largest row, these of the dataset's fields together, or a bound for it where an index has one.
    pub(in crate::dataset) fn largest_of(&self, fields: &[usize], shard_bytes: u64) -> u64 {
        let columns = || fields.iter().filter_map(|&field| self.column(field));
        if let Some(largest) = &self.largest {
            let sum = columns().map(|column| largest[column]).fold(0, u64::saturating_add);
            return sum.min(largest[self.columns()]);
        }
        let len = |row, column| self.cell(row, column, shard_bytes).ok().flatten().map_or(0, |entry| entry.len);
        let sample = |row| columns().map(|column| len(row, column)).fold(0, u64::saturating_add);
        // Where one sample is as long as another, one says it.
        let rows = if self.is_even() { self.rows.min(1) } else { self.rows };
        (0..rows).map(sample).max().unwrap_or(0)
    }
}
