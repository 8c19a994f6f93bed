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
//! After `megatron/core/datasets/indexed_dataset.py`. Nothing in an index is aligned. A sequence is a sample, as it is
//! for Megatron's own `GPTDataset`. The index is mapped: a place is compared with the `.bin` when it is looked up.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::Field;
use super::body::Body;
use super::format::{Format, Indexed, Look, Reader, Source, Verdict};
use super::options::Options;
use super::parse::{Problem, u64_at};
use super::table::{Cells, Numbers, Table};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::file::{open_file, read_at};

/// What an index starts with.
const MAGIC: &[u8; 9] = b"MMIDIDX\0\0";

pub(super) const READER: Reader = Reader { format: Format::Megatron, recognise, sources };

fn recognise(look: &Look) -> Verdict {
    if look.start.starts_with(MAGIC) {
        return Verdict::Yes;
    }
    let index = look.path.with_extension("idx");
    let beside = look.ends(&[".bin"]) && Look::at(&index).is_ok_and(|index| index.start.starts_with(MAGIC));
    if beside { Verdict::Beside } else { Verdict::No }
}

/// The index of a dataset that is named by what its two files have in common, as Megatron's own options name it.
pub(super) fn index_of(prefix: &Path) -> Option<PathBuf> {
    let index = PathBuf::from(format!("{}.idx", prefix.display()));
    (!prefix.exists() && index.is_file()).then_some(index)
}

fn sources(path: &Path, _: &Options) -> Result<Vec<Source>> {
    let mut source = Source::file(&path.with_extension("bin"), index);
    source.beside.push(path.with_extension("idx"));
    Ok(vec![source])
}

fn index(bin: &Path, _: &Options) -> Result<Indexed> {
    let (_, bin_bytes) = open_file(bin)?;
    let path = bin.with_extension("idx");
    let (file, bytes) = open_file(&path)?;
    let mut start = [0; HEADER_BYTES];
    let got = read_at(&file, &path, 0, &mut start)?;
    let index = Index::parse(&start[..got], bytes).map_err(|problem| problem.of(&path))?;
    if let Some(last) = index.bounds.checked_sub(1) {
        let bound = |number| number_at(&file, &path, index.bound_at(number));
        index.check_bounds(bound(0)?, bound(last)?).map_err(|problem| problem.of(&path))?;
    }
    let body = Body::mapped(&path)?;
    index.check_order(|bound| body.u64(index.bound_at(bound)))?.map_err(|problem| problem.of(&path))?;
    let offset = Numbers { at: index.pointer_at(0), stride: 8, wide: true, unit: 1 };
    let len = Numbers { at: index.length_at(0), stride: 4, wide: false, unit: index.item_bytes };
    let field = Field {
        name: "tokens".into(),
        fixed_bytes: None,
        dtype: Some(index.dtype),
        shape: None,
        text: false,
        varints: false,
    };
    Ok(Indexed {
        path: bin.into(),
        bytes: bin_bytes,
        fields: vec![field],
        met_at: Vec::new(),
        table: Table::over(body, index.sequences, vec![Cells::Pairs { offset, len, lacking: false }])?,
    })
}

fn number_at(file: &File, path: &Path, at: u64) -> Result<u64> {
    let mut number = [0; 8];
    match read_at(file, path, at, &mut number)? {
        8 => Ok(u64::from_le_bytes(number)),
        got => Err(Error::Truncated { path: path.into(), offset: at, want: 8, got: got as u64 }),
    }
}

/// The bytes in front of the arrays.
const HEADER_BYTES: usize = 34;

/// What the start and the size of an index say.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Index {
    dtype: DType,
    item_bytes: u64,
    sequences: u64,
    /// One more than documents.
    bounds: u64,
    /// Each sequence has a mode: text, or one of an image's parts.
    multimodal: bool,
}

impl Index {
    /// Reads the first [`HEADER_BYTES`], or the whole file where it is shorter.
    fn parse(start: &[u8], file_bytes: u64) -> Result<Index, Problem> {
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
        if bounds == 0 {
            return Err(Problem::new(26, "no bounds of documents, and there is always a first; make the index anew"));
        }
        Ok(Index { multimodal: sequences > 0 && file_bytes == multimodal, ..index })
    }

    fn bytes(&self, multimodal: bool) -> Option<u64> {
        let of_sequences = self.sequences.checked_mul(12 + u64::from(multimodal))?;
        of_sequences.checked_add(self.bounds.checked_mul(8)?)?.checked_add(HEADER_BYTES as u64)
    }

    /// Where the length of a sequence is in the index; the length array ends at that of [`sequences`](Self::sequences).
    fn length_at(&self, sequence: u64) -> u64 {
        HEADER_BYTES as u64 + 4 * sequence
    }

    /// The same for its first byte.
    fn pointer_at(&self, sequence: u64) -> u64 {
        self.length_at(self.sequences) + 8 * sequence
    }

    /// The same for a bound of documents.
    fn bound_at(&self, bound: u64) -> u64 {
        self.pointer_at(self.sequences) + 8 * bound
    }

    /// Checks that no document ends before it begins.
    fn check_order(&self, bound: impl Fn(u64) -> Result<u64>) -> Result<Result<(), Problem>> {
        let mut before = 0;
        for number in 0..self.bounds {
            let found = bound(number)?;
            if found < before {
                let problem = format!(
                    "bound {number} of documents is {found}, less than the one before, {before}; make \
                                       the index anew"
                );
                return Ok(Err(Problem::new(self.bound_at(number), problem)));
            }
            before = found;
        }
        Ok(Ok(()))
    }

    /// Checks that documents begin with the first sequence and end with the last.
    fn check_bounds(&self, first: u64, last: u64) -> Result<(), Problem> {
        for (number, found, want) in [(0, first, 0), (self.bounds - 1, last, self.sequences)] {
            if found != want {
                let problem = format!("bound {number} of documents is {found} and not {want}; make the index anew");
                return Err(Problem::new(self.bound_at(number), problem));
            }
        }
        Ok(())
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
        assert_eq!(index.check_bounds(0, 2), Ok(()));
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
        assert_eq!(index.check_bounds(1, 2).unwrap_err().at, 58);
        assert_eq!(index.check_bounds(0, 1).unwrap_err().at, 74);
    }
}
