//! Megatron-Core's indexed datasets: `X.bin`, token sequences back to back, and `X.idx`, which says where each is.
//!
//! ```text
//! X.idx   0    "MMIDIDX\0\0"
//!         9    u64 version = 1
//!         17   u8 type of a token
//!         18   u64 sequences S       26   u64 document bounds D
//!         34   i32 length[S], in tokens     i64 first byte in X.bin [S]     i64 document bound[D], in sequences
//!              and i8 mode[S] in multimodal datasets, which only the file's size tells
//! ```
//! After `megatron/core/datasets/indexed_dataset.py`. Nothing in an index is aligned.

use super::parse::{Problem, u64_at};
use super::table::Entry;
use crate::dtype::DType;

/// What an index starts with.
pub(super) const MAGIC: &[u8; 9] = b"MMIDIDX\0\0";

/// The bytes in front of the arrays.
pub(super) const HEADER_BYTES: usize = 34;

/// What the start and the size of an index say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Index {
    pub(super) dtype: DType,
    pub(super) item_bytes: u64,
    pub(super) sequences: u64,
    /// One more than documents.
    pub(super) bounds: u64,
    /// Each sequence has a mode: text, or one of an image's parts.
    pub(super) multimodal: bool,
}

impl Index {
    /// Reads the first [`HEADER_BYTES`], or the whole file where it is shorter.
    pub(super) fn parse(start: &[u8], file_bytes: u64) -> Result<Index, Problem> {
        if !start.starts_with(MAGIC) {
            let problem = "\"MMIDIDX\" is not at its start: this is no index of Megatron-Core. Older ones (\"TNTIDX\") must \
                           be made anew with its preprocess_data.py";
            return Err(Problem::new(0, problem));
        }
        let number =
            |at| u64_at(start, at).ok_or_else(|| Problem::new(at as u64, "the index was truncated; copy it again"));
        let version = number(9)?;
        if version != 1 {
            return Err(Problem::new(9, format!("version {version} of the index; only 1 is known")));
        }
        let (sequences, bounds) = (number(18)?, number(26)?);
        let dtype = dtype(start[17])?;
        let item_bytes = dtype.bytes().unwrap_or(1);
        let index = Index { dtype, item_bytes, sequences, bounds, multimodal: false };
        let (Some(plain), Some(multimodal)) = (index.bytes(false), index.bytes(true)) else {
            let problem = format!("{sequences} sequences and {bounds} document bounds are more than a file can hold");
            return Err(Problem::new(18, problem));
        };
        if file_bytes != plain && file_bytes != multimodal {
            let problem = format!(
                "{sequences} sequences and {bounds} document bounds take {plain} bytes, or {multimodal} with a mode each, \
                 and the index has {file_bytes}: it was truncated, or is of another version; copy it again"
            );
            return Err(Problem::new(18, problem));
        }
        Ok(Index { multimodal: sequences > 0 && file_bytes == multimodal, ..index })
    }

    fn bytes(&self, multimodal: bool) -> Option<u64> {
        let of_sequences = self.sequences.checked_mul(12 + u64::from(multimodal))?;
        of_sequences.checked_add(self.bounds.checked_mul(8)?)?.checked_add(HEADER_BYTES as u64)
    }

    /// Where the length of a sequence is in the index; the length array ends at that of [`sequences`](Self::sequences).
    pub(super) fn length_at(&self, sequence: u64) -> u64 {
        HEADER_BYTES as u64 + 4 * sequence
    }

    /// The same for its first byte.
    pub(super) fn pointer_at(&self, sequence: u64) -> u64 {
        self.length_at(self.sequences) + 8 * sequence
    }

    /// The same for a bound of documents.
    pub(super) fn bound_at(&self, bound: u64) -> u64 {
        self.pointer_at(self.sequences) + 8 * bound
    }

    /// Where a sequence lies in a `.bin` of `bin_bytes`; an error names a byte of the index.
    pub(super) fn sequence(&self, number: u64, len: i32, pointer: i64, bin_bytes: u64) -> Result<Entry, Problem> {
        let len = u64::try_from(len).map_err(|_| {
            Problem::new(self.length_at(number), format!("sequence {number} has {len} tokens; make the index anew"))
        })?;
        let entry = u64::try_from(pointer).ok().map(|offset| Entry { offset, len: len * self.item_bytes });
        entry.filter(|entry| entry.offset.checked_add(entry.len).is_some_and(|end| end <= bin_bytes)).ok_or_else(|| {
            let problem = format!(
                "sequence {number} has {len} tokens of {} bytes from byte {pointer} on, and the .bin has {bin_bytes} bytes: \
                 it was truncated, or is another's",
                self.item_bytes
            );
            Problem::new(self.pointer_at(number), problem)
        })
    }

    /// Checks that bounds of documents, the first of which is number `first`, go on from `before`, which is `None` for
    /// the first bound of all. The last must be the number of sequences.
    pub(super) fn check_bounds(
        &self,
        first: u64,
        bounds: impl Iterator<Item = u64>,
        mut before: Option<u64>,
    ) -> Result<Option<u64>, Problem> {
        for (number, bound) in (first..).zip(bounds) {
            let good = match before {
                None => bound == 0,
                Some(before) => bound >= before && bound <= self.sequences,
            };
            let good = good && (number + 1 < self.bounds || bound == self.sequences);
            if !good {
                let problem = format!(
                    "bound {number} of documents is {bound}: they must go up from 0 to {}; make the index anew",
                    self.sequences
                );
                return Err(Problem::new(self.bound_at(number), problem));
            }
            before = Some(bound);
        }
        Ok(before)
    }
}

fn dtype(code: u8) -> Result<DType, Problem> {
    Ok(match code {
        1 => DType::U8,
        2 => DType::I8,
        3 => DType::I16,
        4 => DType::I32,
        5 => DType::I64,
        8 => DType::U16,
        6 | 7 => {
            let problem = format!(
                "tokens of type {code}, a floating-point number: tokens are whole numbers, and writers of this format do not \
                 agree on what {code} is; make the dataset anew with a type of integers"
            );
            return Err(Problem::new(17, problem));
        }
        code => return Err(Problem::new(17, format!("tokens of type {code}; 1 to 8 are known"))),
    })
}

#[cfg(test)]
mod tests {
    use super::super::parse::u64s;
    use super::*;

    /// Two sequences, [5, 6, 7] and [8, 9], each a document, of u16.
    fn vector() -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(1u64.to_le_bytes());
        bytes.push(8);
        bytes.extend([2u64, 3].map(u64::to_le_bytes).concat());
        bytes.extend([3i32, 2].map(i32::to_le_bytes).concat());
        bytes.extend([0u64, 6, 0, 1, 2].map(u64::to_le_bytes).concat());
        bytes
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn the_vector_of_megatron_s_writer_is_read() {
        let bytes = vector();
        let want = "4d4d4944494458000001000000000000000802000000000000000300000000000000030000000200000000000000000000000600\
                    000000000000000000000000000001000000000000000200000000000000";
        assert_eq!(hex(&bytes), want);
        let index = Index::parse(&bytes[..HEADER_BYTES], 82).unwrap();
        let want = Index { dtype: DType::U16, item_bytes: 2, sequences: 2, bounds: 3, multimodal: false };
        assert_eq!(index, want);
        assert_eq!((index.length_at(0), index.pointer_at(0), index.bound_at(0), index.bound_at(3)), (34, 42, 58, 82));
        assert_eq!(index.sequence(0, 3, 0, 10), Ok(Entry { offset: 0, len: 6 }));
        assert_eq!(index.sequence(1, 2, 6, 10), Ok(Entry { offset: 6, len: 4 }));
        assert_eq!(index.check_bounds(0, u64s(&bytes[58..]), None), Ok(Some(2)));
        assert_eq!(index.check_bounds(1, u64s(&bytes[66..]), Some(0)), Ok(Some(2)));
        assert!(Index::parse(&bytes[..HEADER_BYTES], 84).unwrap().multimodal);
    }

    #[test]
    fn types_are_integers() {
        for (code, dtype) in [(1, "u8"), (2, "i8"), (3, "i16"), (4, "i32"), (5, "i64"), (8, "u16")] {
            assert_eq!(super::dtype(code).unwrap().name(), dtype);
        }
        for code in [6, 7] {
            assert!(super::dtype(code).unwrap_err().what.contains("floating-point"));
        }
        for code in [0, 9, 255] {
            assert!(super::dtype(code).unwrap_err().what.contains("1 to 8"));
        }
    }

    #[test]
    fn an_index_that_lies_is_refused_where_it_lies() {
        let with = |at: usize, bytes: &[u8]| {
            let mut index = vector();
            index[at..at + bytes.len()].copy_from_slice(bytes);
            Index::parse(&index[..HEADER_BYTES], 82).map_err(|problem| problem.at)
        };
        assert_eq!(with(0, b"TNTIDX"), Err(0));
        assert_eq!(with(9, &2u64.to_le_bytes()), Err(9));
        assert_eq!(with(17, &[6]), Err(17));
        for count in [0, 1, 3, u64::MAX, u64::MAX / 12, 1 << 60] {
            assert_eq!(with(18, &count.to_le_bytes()), Err(18), "{count}");
            assert_eq!(with(26, &(count / 8).to_le_bytes()), Err(18), "{count}");
        }
        for cut in 0..HEADER_BYTES {
            assert!(Index::parse(&vector()[..cut], cut as u64).is_err(), "{cut}");
        }
        let index = Index::parse(&vector(), 82).unwrap();
        for (len, pointer) in [(3, 5), (3, -1), (1, i64::MAX), (i32::MAX, 0), (0, 11)] {
            assert_eq!(index.sequence(0, len, pointer, 10).unwrap_err().at, 42, "{len} {pointer}");
        }
        assert_eq!(index.sequence(1, -1, 0, 10).unwrap_err().at, 38);
        for (bounds, at) in [([1, 1, 2], 58), ([0, 2, 1], 74), ([0, 3, 2], 66), ([0, 1, 1], 74), ([0, 1, u64::MAX], 74)]
        {
            assert_eq!(index.check_bounds(0, bounds.into_iter(), None).unwrap_err().at, at, "{bounds:?}");
        }
    }
}
