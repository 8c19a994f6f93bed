//! Makes a table out of entries in file order, as compact as they allow.

use super::body::Body;
use super::table::{Bound, Cells, Entry, Numbers, Table};

/// The unit of a tar file, in which its members' places are counted.
const BLOCK: u64 = 512;

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

    /// A builder for so many columns, should there be fewer in the samples.
    pub(super) fn with_columns(columns: usize) -> Builder {
        Builder { seen: vec![(0, None); columns], ..Builder::default() }
    }

    /// Adds an entry to the last sample, which must not have that column yet.
    pub(super) fn push(&mut self, column: u16, entry: Entry) {
        let own = usize::from(column);
        if own >= self.seen.len() {
            self.seen.resize(own + 1, (0, None));
        }
        let (count, fixed) = &mut self.seen[own];
        *fixed = if *count == 0 { Some(entry.len) } else { fixed.filter(|&len| len == entry.len) };
        *count += 1;
        self.entries.push(entry);
        self.columns.push(column);
    }

    /// The bytes that the table takes at most, if that is a number.
    pub(super) fn table_bytes(&self) -> Option<u64> {
        let cell = if self.unit_of_narrow().is_some() { 8 } else { 16 };
        self.samples().checked_mul(self.seen.len() as u64)?.checked_mul(cell)
    }

    /// The size of a column's entries where every sample has it and all agree.
    pub(super) fn fixed_bytes(&self, column: usize) -> Option<u64> {
        let (count, fixed) = self.seen[column];
        fixed.filter(|_| count == self.samples())
    }

    pub(super) fn build(self) -> Table {
        let rows = self.samples();
        let (bytes, columns) = self.even().or_else(|| self.between()).unwrap_or_else(|| self.pairs());
        Table::over(Body::owned(bytes), rows, columns).expect("the body was made for so many rows")
    }

    /// Whether every sample has every column, in rows one behind another.
    fn full(&self) -> bool {
        let width = self.seen.len();
        let rows = self.entries.len() == self.first.len() * width;
        rows && self.columns.iter().enumerate().all(|(i, &column)| usize::from(column) == i % width)
    }

    /// Every column arithmetic: nothing is stored.
    fn even(&self) -> Option<(Vec<u8>, Vec<Cells>)> {
        let width = self.seen.len();
        if width == 0 || self.entries.len() < 2 * width || !self.full() {
            return None;
        }
        let stride = self.entries[width].offset.checked_sub(self.entries[0].offset)?;
        let next = |i: usize| self.entries[i].offset.checked_add(stride);
        let behind = |i: usize| next(i - width) == Some(self.entries[i].offset);
        let even = (width..self.entries.len()).all(|i| behind(i) && self.entries[i].len == self.entries[i - width].len);
        let column = |entry: &Entry| Cells::Even { first: entry.offset, stride, len: entry.len };
        even.then(|| (Vec::new(), self.entries[..width].iter().map(column).collect()))
    }

    /// One column whose entries lie behind one another with the same gap between them: an edge each.
    fn between(&self) -> Option<(Vec<u8>, Vec<Cells>)> {
        if self.seen.len() != 1 || self.entries.len() < 2 || !self.full() {
            return None;
        }
        let end = |entry: &Entry| entry.offset.checked_add(entry.len);
        let gap = |i: usize| self.entries[i].offset.checked_sub(end(&self.entries[i - 1])?);
        let all = gap(1)?;
        if !(1..self.entries.len()).all(|i| gap(i) == Some(all)) {
            return None;
        }
        let end = end(self.entries.last()?)?.checked_add(all)?;
        let wide = end >= u64::from(u32::MAX);
        let edges = self.entries.iter().map(|entry| entry.offset).chain([end]);
        let bytes = numbers(edges, wide);
        let edges = Numbers { at: 0, stride: if wide { 8 } else { 4 }, wide, unit: 1 };
        Some((bytes, vec![Cells::Between { edges, start: Bound::AfterFirst(0), end: Bound::BeforeLast(all) }]))
    }

    /// Offset and length of each, side by side where both have the same width.
    fn pairs(&self) -> (Vec<u8>, Vec<Cells>) {
        let width = self.seen.len() as u64;
        let cells = self.first.len() as u64 * width;
        let (narrow, short) = (self.unit_of_narrow(), self.entries.iter().all(|e| e.len < u64::from(u32::MAX)));
        let (unit, wide) = (narrow.unwrap_or(1), narrow.is_none());
        let entries = self.lay_out();
        let offset = |e: &Option<Entry>| e.map_or(u64::MAX, |e| e.offset / unit);
        let len = |e: &Option<Entry>| e.map_or(0, |e| e.len);
        let bytes = match wide && short {
            true => [numbers(entries.iter().map(offset), true), numbers(entries.iter().map(len), false)].concat(),
            false => numbers(entries.iter().flat_map(|e| [offset(e), len(e)]), wide),
        };
        let column = |column: u64| match (wide, short) {
            (true, true) => Cells::Pairs {
                lacking: true,
                offset: Numbers { at: 8 * column, stride: 8 * width, wide: true, unit },
                len: Numbers { at: 8 * cells + 4 * column, stride: 4 * width, wide: false, unit: 1 },
            },
            _ => {
                let size = if wide { 8 } else { 4 };
                let numbers = |place, unit| {
                    let at = (2 * column + place) * size;
                    Numbers { at, stride: 2 * width * size, wide, unit }
                };
                Cells::Pairs { offset: numbers(0, unit), len: numbers(1, 1), lacking: true }
            }
        };
        (bytes, (0..width).map(column).collect())
    }

    /// What offsets are counted in so that these and the lengths take 32 bits each; `None` where they cannot.
    fn unit_of_narrow(&self) -> Option<u64> {
        let limit = u64::from(u32::MAX);
        let fits = |unit: u64| {
            self.entries.iter().all(|e| e.offset.is_multiple_of(unit) && e.offset / unit < limit && e.len < limit)
        };
        [1, BLOCK].into_iter().find(|&unit| fits(unit))
    }

    /// A row each; `None` where a sample lacks a column.
    fn lay_out(&self) -> Vec<Option<Entry>> {
        let width = self.seen.len();
        let mut cells = vec![None; self.first.len() * width];
        for (row, &begin) in self.first.iter().enumerate() {
            let end = self.first.get(row + 1).copied().unwrap_or(self.entries.len());
            for i in begin..end {
                cells[row * width + usize::from(self.columns[i])] = Some(self.entries[i]);
            }
        }
        cells
    }
}

/// All bits set stay so in 4 bytes.
fn numbers(numbers: impl Iterator<Item = u64>, wide: bool) -> Vec<u8> {
    match wide {
        true => numbers.flat_map(u64::to_le_bytes).collect(),
        false => numbers.flat_map(|number| (number as u32).to_le_bytes()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::table::numbering;
    use super::*;

    /// Samples as (column, offset, len), and what a naive table of them says.
    fn check(samples: &[Vec<(u16, u64, u64)>], columns: usize) -> Table {
        let mut builder = Builder::default();
        for sample in samples {
            builder.begin_sample();
            sample.iter().for_each(|&(column, offset, len)| builder.push(column, Entry { offset, len }));
        }
        let mut table = builder.build();
        let field_of: Vec<u16> = (0..table.columns() as u16).collect();
        table.number_fields(numbering(&field_of, columns));
        assert_eq!(table.rows(), samples.len() as u64);
        for (row, sample) in samples.iter().enumerate() {
            for field in 0..columns {
                let want = sample.iter().find(|(column, ..)| usize::from(*column) == field);
                let want = want.map(|&(_, offset, len)| Entry { offset, len });
                assert_eq!(table.get(row as u64, field, u64::MAX).unwrap(), want, "row {row} field {field}");
            }
        }
        table
    }

    fn one(entries: &[(u64, u64)]) -> Table {
        check(&entries.iter().map(|&(offset, len)| vec![(0, offset, len)]).collect::<Vec<_>>(), 1)
    }

    fn body_bytes(table: &Table) -> usize {
        table.body_bytes()
    }

    #[test]
    fn a_table_takes_no_more_than_its_entries_need() {
        const FAR: u64 = u32::MAX as u64;
        // Even, a gap that stays the same, 32 bits, blocks, offsets of 64 bits, all of 64 bits.
        assert_eq!(body_bytes(&one(&[(5, 3), (10, 3), (15, 3)])), 0);
        assert_eq!(body_bytes(&one(&[(12, 3), (31, 0), (47, 9)])), 4 * 4);
        assert_eq!(body_bytes(&one(&[(12, FAR), (FAR + 28, 3)])), 8 * 3);
        assert_eq!(body_bytes(&one(&[(12, 3), (16, 0), (47, 9)])), 8 * 3);
        assert_eq!(body_bytes(&one(&[(512, 3), (FAR * 512 - 512, 7), (1024, FAR - 1)])), 8 * 3);
        assert_eq!(body_bytes(&one(&[(512, 3), (FAR * 512, 7), (1024, FAR - 1)])), 12 * 3);
        assert_eq!(body_bytes(&one(&[(513, 3), (FAR, 7), (1024, 0)])), 12 * 3);
        assert_eq!(body_bytes(&one(&[(513, 3), (FAR, 7), (1024, FAR)])), 16 * 3);
        assert_eq!(body_bytes(&one(&[])), 0);
    }

    #[test]
    #[should_panic(expected = "sample 1 of 1")]
    fn a_row_out_of_range_is_not_the_next_column() {
        let _ = check(&[vec![(0, 512, 3), (1, 1024, 5)]], 2).get(1, 0, u64::MAX);
    }

    proptest! {
        #[test]
        fn a_table_gives_back_what_it_was_given(
            samples in prop::collection::vec(prop::collection::vec((0u64..40, 0u64..40, any::<bool>()), 3), 0..20),
            scale in prop::sample::select(vec![1u64, 512, 1 << 30, 1 << 42]),
        ) {
            let sample = |sample: &Vec<(u64, u64, bool)>| -> Vec<(u16, u64, u64)> {
                let cells = sample.iter().enumerate().filter(|(_, (.., there))| *there);
                cells.map(|(column, &(offset, len, _))| (column as u16, offset * scale, len * (scale >> 9))).collect()
            };
            check(&samples.iter().map(sample).collect::<Vec<_>>(), 3);
        }

        #[test]
        fn numbers_of_any_kind_lead_nowhere_outside(
            body in prop::collection::vec(any::<u8>(), 0..64), at in 0u64..80, stride in 0u64..20, wide: bool,
            unit in prop::sample::select(vec![0u64, 1, 512, u64::MAX]), rows in 0u64..6, shard in any::<u16>(),
            back in 0u64..9,
        ) {
            let numbers = Numbers { at, stride, wide, unit };
            let between = Cells::Between { edges: numbers, start: Bound::AfterFirst(back), end: Bound::BeforeLast(back) };
            for cells in [between, Cells::Pairs { offset: numbers, len: numbers, lacking: true }] {
                let Ok(table) = Table::over(Body::owned(body.clone()), rows, vec![cells]) else { continue };
                for row in 0..rows {
                    if let Ok(Some(entry)) = table.cell(row, 0, u64::from(shard)) {
                        prop_assert!(entry.offset + entry.len <= u64::from(shard));
                    }
                }
            }
        }
    }
}
