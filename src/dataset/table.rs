//! Where each field of each sample of a shard lies, eight bytes an entry where that suffices.

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
    columns: usize,
    /// The dataset's field number -> the column here, or [`NO_COLUMN`].
    column_of: Box<[u16]>,
    cells: Cells,
}

const NO_COLUMN: u16 = u16::MAX;

#[derive(Debug, Clone)]
enum Cells {
    /// Block of 512 bytes and length: enough for every tar file below 2 TiB with members below 4 GiB.
    Narrow(Box<[(u32, u32)]>),
    Wide(Box<[(u64, u64)]>),
}

/// The block, or offset, in a cell of a field that a sample does not have.
const ABSENT_BLOCK: u32 = u32::MAX;
const ABSENT: u64 = u64::MAX;
const BLOCK: u64 = 512;

impl Table {
    /// The number of samples.
    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    /// Where the dataset's field number `field` of sample `row` lies, if the sample has it.
    ///
    /// # Panics
    /// If `row` or `field` is out of range.
    pub(super) fn get(&self, row: u64, field: usize) -> Option<Entry> {
        assert!(row < self.rows, "sample {row} of {}", self.rows);
        self.cells.get(row as usize * self.columns + self.column(field)?)
    }

    /// The column of the dataset's field number `field`, if the shard has one.
    pub(super) fn column(&self, field: usize) -> Option<usize> {
        let column = self.column_of[field];
        (column != NO_COLUMN).then_some(usize::from(column))
    }

    /// Says which of the dataset's `fields` fields each column is.
    pub(super) fn number_fields(&mut self, field_of: &[u16], fields: usize) {
        let mut column_of = vec![NO_COLUMN; fields];
        for (column, &field) in field_of.iter().enumerate() {
            column_of[usize::from(field)] = column as u16;
        }
        self.column_of = column_of.into();
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

impl Cells {
    fn get(&self, cell: usize) -> Option<Entry> {
        match self {
            Cells::Narrow(cells) => {
                let (block, len) = cells[cell];
                (block != ABSENT_BLOCK).then(|| Entry { offset: u64::from(block) * BLOCK, len: u64::from(len) })
            }
            Cells::Wide(cells) => {
                let (offset, len) = cells[cell];
                (offset != ABSENT).then_some(Entry { offset, len })
            }
        }
    }
}

/// Takes a shard's entries in file order, before it is known which fields there are.
#[derive(Default)]
pub(super) struct Builder {
    entries: Vec<Entry>,
    columns: Vec<u16>,
    /// The first entry of each sample.
    first: Vec<usize>,
    /// Per column: how many samples have it, and its size where they agree.
    seen: Vec<(u64, Option<u64>)>,
}

impl Builder {
    pub(super) fn begin_sample(&mut self) {
        self.first.push(self.entries.len());
    }

    pub(super) fn samples(&self) -> u64 {
        self.first.len() as u64
    }

    /// Adds an entry to the last sample, which must not have that column yet. A new column is the next number.
    pub(super) fn push(&mut self, column: u16, entry: Entry) {
        match self.seen.get_mut(usize::from(column)) {
            Some((count, fixed)) => {
                *count += 1;
                *fixed = fixed.filter(|&len| len == entry.len);
            }
            None => self.seen.push((1, Some(entry.len))),
        }
        self.entries.push(entry);
        self.columns.push(column);
    }

    /// The bytes that the table will take, if that is a number.
    pub(super) fn table_bytes(&self) -> Option<u64> {
        let cell = if self.narrow() { size_of::<(u32, u32)>() } else { size_of::<(u64, u64)>() };
        self.samples().checked_mul(self.seen.len() as u64)?.checked_mul(cell as u64)
    }

    /// The size of a column's entries where every sample has it and all agree.
    pub(super) fn fixed_bytes(&self, column: usize) -> Option<u64> {
        let (count, fixed) = self.seen[column];
        fixed.filter(|_| count == self.samples())
    }

    pub(super) fn build(self) -> Table {
        let cells = if self.narrow() {
            let cell = |e: Entry| ((e.offset / BLOCK) as u32, e.len as u32);
            Cells::Narrow(self.lay_out((ABSENT_BLOCK, 0), cell))
        } else {
            Cells::Wide(self.lay_out((ABSENT, 0), |e| (e.offset, e.len)))
        };
        Table { rows: self.samples(), columns: self.seen.len(), column_of: Box::default(), cells }
    }

    fn narrow(&self) -> bool {
        let limit = u64::from(ABSENT_BLOCK) * BLOCK;
        self.entries.iter().all(|e| e.offset % BLOCK == 0 && e.offset < limit && e.len <= u64::from(u32::MAX))
    }

    fn lay_out<T: Copy>(&self, absent: T, cell: impl Fn(Entry) -> T) -> Box<[T]> {
        let width = self.seen.len();
        let mut cells = vec![absent; self.first.len() * width];
        for (row, &begin) in self.first.iter().enumerate() {
            let end = self.first.get(row + 1).copied().unwrap_or(self.entries.len());
            for i in begin..end {
                cells[row * width + usize::from(self.columns[i])] = cell(self.entries[i]);
            }
        }
        cells.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(entries: &[(u16, u64, u64)]) -> Table {
        let mut builder = Builder::default();
        for &(column, offset, len) in entries {
            if column == 0 {
                builder.begin_sample();
            }
            builder.push(column, Entry { offset, len });
        }
        let mut table = builder.build();
        table.number_fields(&[2, 0], 4);
        table
    }

    #[test]
    fn a_table_gives_back_what_it_was_given_narrow_or_wide() {
        for (far, len, narrow) in [
            (u64::from(u32::MAX - 1) * 512, u64::from(u32::MAX), true),
            (u64::from(u32::MAX) * 512, 1, false),
            (1024, 1 << 32, false),
            (1025, 1, false),
        ] {
            let table = table(&[(0, 512, 3), (0, far, len), (1, 2048, 0)]);
            assert_eq!(matches!(table.cells, Cells::Narrow(_)), narrow, "{far} {len}");
            assert_eq!(table.rows(), 2);
            assert_eq!(table.get(0, 2), Some(Entry { offset: 512, len: 3 }));
            assert_eq!(table.get(1, 2), Some(Entry { offset: far, len }));
            assert_eq!((table.get(0, 0), table.get(1, 0)), (None, Some(Entry { offset: 2048, len: 0 })));
            assert_eq!((table.get(0, 1), table.get(1, 3)), (None, None));
        }
    }

    #[test]
    #[should_panic(expected = "sample 1 of 1")]
    fn a_row_out_of_range_is_not_the_next_column() {
        table(&[(0, 512, 3)]).get(1, 0);
    }
}
