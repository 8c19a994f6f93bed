//! One shard of an MDS dataset.
//!
//! ```text
//! u32 samples n    u32 offset[n + 1], from the start of the file    a JSON text, which the index has too    samples
//! sample:  u32 size of each column of no fixed size    the columns, one after another
//! ```

use super::index::Column;
use crate::dataset::parse::{Problem, u32_at, u32s};
use crate::dataset::table::Entry;

/// The bytes in front of a shard's first sample, at the least, if it holds that many.
pub(in crate::dataset) fn head_bytes(samples: u64) -> Option<u64> {
    samples.checked_add(2)?.checked_mul(4)
}

/// Checks the head of a shard of `file_bytes` that should hold `samples`: where its samples start, and the end.
///
/// `head` is the file's first [`head_bytes`], or all of a shorter file.
pub(in crate::dataset) fn offsets(
    head: &[u8],
    samples: u64,
    file_bytes: u64,
) -> Result<impl DoubleEndedIterator<Item = u64> + ExactSizeIterator, Problem> {
    let found = u32_at(head, 0).map(u64::from);
    let want = head_bytes(samples);
    if found != Some(samples) || want != Some(head.len() as u64) {
        let found = found.map_or("nothing".into(), |found| format!("{found} samples in {file_bytes} bytes"));
        let problem = format!(
            "the index tells of {samples} samples, and the shard of {found}: it was truncated, or is another's"
        );
        return Err(Problem::new(0, problem));
    }
    let mut before = head.len() as u64;
    for (i, offset) in u32s(&head[4..]).map(u64::from).enumerate() {
        let good = offset >= before && (i as u64 != samples || offset == file_bytes);
        if !good || offset > file_bytes {
            let problem = format!(
                "sample {i} starts at byte {offset} (the last number: where all end), but lies between bytes {before} and \
                 {file_bytes}: the shard was truncated or damaged"
            );
            return Err(Problem::new(4 + 4 * i as u64, problem));
        }
        before = offset;
    }
    Ok(u32s(&head[4..]).map(u64::from))
}

/// How the columns of a shard's samples lie.
#[derive(Debug, Clone)]
pub(in crate::dataset) struct Layout {
    /// Of each column, where it is fixed.
    sizes: Vec<Option<u64>>,
    variable: usize,
    fixed_bytes: u64,
}

impl Layout {
    pub(in crate::dataset) fn new(columns: &[Column]) -> Layout {
        let sizes: Vec<Option<u64>> = columns.iter().map(|column| column.bytes).collect();
        let variable = sizes.iter().filter(|size| size.is_none()).count();
        let fixed_bytes = sizes.iter().flatten().fold(0u64, |sum, &size| sum.saturating_add(size));
        Layout { sizes, variable, fixed_bytes }
    }

    /// How many bytes at a sample's start must be read to know where its columns lie. With one column of no fixed size
    /// none must: it is what the others leave.
    pub(in crate::dataset) fn head_bytes(&self) -> u64 {
        if self.variable > 1 { 4 * self.variable as u64 } else { 0 }
    }

    /// Where the columns of the sample between two offsets lie. `head` is its first [`head_bytes`](Self::head_bytes), or
    /// all of it where it is shorter.
    pub(in crate::dataset) fn columns(
        &self,
        head: &[u8],
        from: u64,
        to: u64,
        mut each: impl FnMut(usize, Entry),
    ) -> Result<(), Problem> {
        let sizes_bytes = 4 * self.variable as u64;
        let wrong = || {
            let problem = format!(
                "the sizes of a sample's columns do not add up to its {} bytes: the shard is damaged",
                to - from
            );
            Problem::new(from, problem)
        };
        let body = (to - from).checked_sub(sizes_bytes).ok_or_else(wrong)?;
        let of_variable = body.checked_sub(self.fixed_bytes).ok_or_else(wrong)?;
        let stored: u64 = u32s(head).map(u64::from).sum();
        let good = match self.variable {
            0 => of_variable == 0,
            1 => true,
            _ => head.len() as u64 == sizes_bytes && stored == of_variable,
        };
        if !good {
            return Err(wrong());
        }
        let mut variable = u32s(head).map(u64::from);
        let mut offset = from + sizes_bytes;
        for (column, size) in self.sizes.iter().enumerate() {
            let len = size.unwrap_or_else(|| variable.next().unwrap_or(of_variable));
            each(column, Entry { offset, len });
            offset += len;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(bytes: Option<u64>) -> Column {
        Column { name: String::new(), bytes, dtype: None, shape: None }
    }

    /// Columns i: int and s: str; samples (7, "ab") and (-1, "").
    fn vector() -> Vec<u8> {
        let config = "{\"column_encodings\": [\"int\", \"str\"], \"column_names\": [\"i\", \"s\"], \"column_sizes\": [8, null], \
                      \"compression\": null, \"format\": \"mds\", \"hashes\": [], \"size_limit\": 67108864, \"version\": 2}";
        assert_eq!(config.len(), 181);
        let mut bytes = [2u32, 0xc5, 0xd3, 0xdf].map(u32::to_le_bytes).concat();
        bytes.extend(config.bytes());
        bytes.extend(b"\x02\0\0\0\x07\0\0\0\0\0\0\0ab\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff");
        bytes
    }

    #[test]
    fn the_vector_of_streaming_s_writer_is_read() {
        let bytes = vector();
        assert_eq!(bytes.len(), 223);
        let offsets: Vec<u64> = offsets(&bytes[..16], 2, 223).unwrap().collect();
        assert_eq!(offsets, [197, 211, 223]);
        let layout = Layout::new(&[column(Some(8)), column(None)]);
        assert_eq!(layout.head_bytes(), 0);
        let mut found = Vec::new();
        layout.columns(&[], 197, 211, |_, entry| found.push(entry)).unwrap();
        layout.columns(&[], 211, 223, |_, entry| found.push(entry)).unwrap();
        let parts: Vec<&[u8]> = found.iter().map(|e| &bytes[e.offset as usize..][..e.len as usize]).collect();
        assert_eq!(parts, [&7i64.to_le_bytes()[..], b"ab", &(-1i64).to_le_bytes(), b""]);
    }

    #[test]
    fn sizes_in_front_of_a_sample_are_checked() {
        let of = |columns: &[Option<u64>], head: &[u32], len: u64| {
            let layout = Layout::new(&columns.iter().map(|&bytes| column(bytes)).collect::<Vec<_>>());
            let mut found = Vec::new();
            let head: Vec<u8> = head.iter().flat_map(|size| size.to_le_bytes()).collect();
            layout.columns(&head, 100, 100 + len, |_, entry| found.push((entry.offset, entry.len))).map(|()| found)
        };
        assert_eq!(of(&[None, Some(2), None], &[3, 4], 17), Ok(vec![(108, 3), (111, 2), (113, 4)]));
        assert_eq!(of(&[Some(2), Some(3)], &[], 5), Ok(vec![(100, 2), (102, 3)]));
        for (columns, head, len) in [
            (&[None, Some(2), None][..], &[3, 5][..], 17),
            (&[None, Some(2), None], &[u32::MAX, u32::MAX], 17),
            (&[None, None], &[0], 4),
            (&[None, None], &[], 0),
            (&[Some(2), Some(3)], &[], 6),
            (&[Some(2), Some(u64::MAX)], &[], 1),
            (&[Some(8), None], &[], 11),
        ] {
            assert_eq!(of(columns, head, len).unwrap_err().at, 100, "{columns:?} {head:?} {len}");
        }
    }

    #[test]
    fn a_head_that_lies_is_refused() {
        let bytes = vector();
        let with = |at: usize, value: u32| {
            let mut head = bytes[..16].to_vec();
            head[at..at + 4].copy_from_slice(&value.to_le_bytes());
            offsets(&head, 2, 223).map(|_| ()).map_err(|problem| problem.at)
        };
        for (at, value, wrong) in
            [(0, 3, 0), (4, 15, 4), (4, 212, 8), (8, 196, 8), (8, 224, 8), (12, 224, 12), (12, 222, 12)]
        {
            assert_eq!(with(at, value), Err(wrong), "{at} {value}");
        }
        for cut in 0..16 {
            assert!(offsets(&bytes[..cut], 2, cut as u64).is_err());
        }
        assert!(offsets(&bytes[..16], u64::MAX, 223).is_err());
        assert!(offsets(&bytes[..16], 2, 224).is_err());
        assert_eq!(offsets(&[0, 0, 0, 0, 8, 0, 0, 0], 0, 8).unwrap().count(), 1);
    }
}
