//! NumPy arrays (`.npy`): a row of the first dimension is a sample.
//!
//! ```text
//! 0    "\x93NUMPY"
//! 6    u8 version: 1, 2 or 3      u8 0
//! 8    u16 header length (version 1)  or  u32 (2 and 3)
//!      header: a Python dictionary, spaces, '\n'; see `literal`
//!      elements, row after row                                    to the end of the file
//! ```
//! After `numpy/lib/format.py`. An array without dimensions is one sample of one element.

mod literal;

use std::path::Path;

use super::Field;
use super::format::{Format, Indexed, Look, Reader, Source, Verdict};
use super::options::Options;
use super::parse::{Problem, u16_at, u32_at};
use super::table::Table;
use crate::dtype::DType;
use crate::error::Result;
use crate::file::{open_file, read_at};
use literal::Descr;

/// The name alone is not enough: token files without a header have it too.
pub(super) const READER: Reader =
    Reader { format: Format::Npy, recognise, sources: |path, _| Ok(vec![Source::file(path, index)]) };

fn recognise(look: &Look) -> Verdict {
    look.start.starts_with(MAGIC).into()
}

fn index(path: &Path, _: &Options) -> Result<Indexed> {
    let (file, bytes) = open_file(path)?;
    let mut start = vec![0; bytes.min(HEADER_BYTES_MAX + 12) as usize];
    // A file that was cut short since is one whose header is.
    let got = read_at(&file, path, 0, &mut start)?;
    let array = parse(&start[..got], bytes).map_err(|problem| problem.of(path))?;
    let shape = array.dtype.map(|_| array.shape.into());
    let field = Field {
        name: "array".into(),
        fixed_bytes: Some(array.row_bytes),
        dtype: array.dtype,
        shape,
        text: false,
        varints: false,
    };
    Ok(Indexed {
        path: path.into(),
        bytes,
        fields: vec![field],
        met_at: Vec::new(),
        table: Table::even(array.rows, &[(array.first, array.row_bytes, array.row_bytes)]),
    })
}

/// What such a file starts with.
pub(super) const MAGIC: &[u8; 6] = b"\x93NUMPY";

/// The longest header that is read, in bytes. NumPy itself takes 10,000 before it asks whether the file is trusted.
pub(super) const HEADER_BYTES_MAX: u64 = 64 << 10;

/// Where the rows of an array are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Array {
    /// The first row's first byte.
    pub(super) first: u64,
    pub(super) rows: u64,
    pub(super) row_bytes: u64,
    /// `None` for strings, dates and raw bytes, which are plain bytes here.
    pub(super) dtype: Option<DType>,
    /// Of one row.
    pub(super) shape: Vec<u64>,
}

/// Reads what `start`, the first bytes of a file of `file_bytes`, says of the array in it. `start` must hold
/// [`HEADER_BYTES_MAX`] and 12 bytes, or the whole file.
pub(super) fn parse(start: &[u8], file_bytes: u64) -> Result<Array, Problem> {
    if !start.starts_with(MAGIC) {
        let remedy = "\"\\x93NUMPY\" is not at its start: this is no NumPy array. Token files without a header are often \
                      named .npy: read them as tokens, and give their type";
        return Err(Problem::new(0, remedy));
    }
    let short = || Problem::new(0, "the file ends in its header: it was truncated; write it again");
    let (prefix, len) = match start.get(6).ok_or_else(short)? {
        1 => (10, u16_at(start, 8).map(u64::from)),
        2 | 3 => (12, u32_at(start, 8).map(u64::from)),
        version => return Err(Problem::new(6, format!("version {version} of the NumPy format; 1 to 3 are known"))),
    };
    let len = len.ok_or_else(short)?;
    if len > HEADER_BYTES_MAX {
        let problem = format!("a header of {len} bytes; at most {HEADER_BYTES_MAX} are read: is this a NumPy array?");
        return Err(Problem::new(8, problem));
    }
    let first = prefix + len;
    let header = start.get(prefix as usize..first as usize).ok_or_else(short)?;
    let header = literal::parse(header).map_err(|problem| {
        Problem::new(prefix + problem.at, format!("{} in the header; save the array again", problem.what))
    })?;
    let refuse = |what: String| Problem::new(prefix, what);
    let (dtype, item_bytes) = element(&header.descr).map_err(refuse)?;
    if header.fortran_order && header.shape.iter().filter(|&&len| len != 1).count() > 1 {
        let remedy = "stored column by column (fortran_order): a row is in no one place; save it with \
                      np.save(path, np.ascontiguousarray(array))";
        return Err(refuse(remedy.into()));
    }
    let rows = header.shape.first().copied().unwrap_or(1);
    let shape = header.shape.get(1..).unwrap_or_default();
    let row_bytes = shape.iter().try_fold(item_bytes, |bytes, &len| bytes.checked_mul(len));
    let bytes = row_bytes.and_then(|row_bytes| rows.checked_mul(row_bytes));
    let (Some(row_bytes), Some(bytes)) = (row_bytes, bytes) else {
        return Err(refuse(format!("the shape {:?} has more bytes than a file can", header.shape)));
    };
    if row_bytes == 0 && rows > 0 {
        return Err(refuse(format!("the shape {:?} has rows without a byte: there is nothing to load", header.shape)));
    }
    let there = file_bytes.saturating_sub(first);
    if there != bytes {
        let why = match there < bytes {
            true => "it was truncated; write it again",
            false => "a file with several arrays is read by no one else either; save each in a file of its own",
        };
        let problem =
            format!("the shape {:?} takes {bytes} bytes, and {there} are behind the header: {why}", header.shape);
        return Err(Problem::new(first, problem));
    }
    Ok(Array { first, rows, row_bytes, dtype, shape: shape.into() })
}

/// The type of elements and their size in bytes.
fn element(descr: &Descr) -> Result<(Option<DType>, u64), String> {
    let Descr::Simple(descr) = descr else {
        let problem = "a structured type: its parts lie among each other; save each part as an array of its own";
        return Err(problem.into());
    };
    let unknown =
        || format!("the type {descr:?} is unknown; convert the array with array.astype(np.float32) or the like");
    let (order, rest) = descr.split_at_checked(1).ok_or_else(unknown)?;
    let (kind, size) = rest.split_at_checked(1).ok_or_else(unknown)?;
    if kind == "O" {
        let problem = "Python objects: they are pickled, and a pickle can run any program when it is read, so strait reads \
                       none; save numbers or bytes";
        return Err(problem.into());
    }
    // Dates have their unit behind the size: <M8[ns].
    let size = size.split('[').next().unwrap_or(size);
    let size: u64 = size.parse().map_err(|_| unknown())?;
    let big = match order {
        "<" | "|" | "=" => false,
        // A character of text has four bytes, whatever their number.
        ">" => kind == "U" || (size > 1 && !["S", "V"].contains(&kind)),
        _ => return Err(unknown()),
    };
    if big {
        let swap =
            "numbers are stored big-endian; save it with np.save(path, array.astype(array.dtype.newbyteorder('<')))";
        return Err(swap.into());
    }
    let dtype = match (kind, size) {
        ("b", 1) => DType::Bool,
        ("u", 1) => DType::U8,
        ("u", 2) => DType::U16,
        ("u", 4) => DType::U32,
        ("u", 8) => DType::U64,
        ("i", 1) => DType::I8,
        ("i", 2) => DType::I16,
        ("i", 4) => DType::I32,
        ("i", 8) => DType::I64,
        ("f", 2) => DType::F16,
        ("f", 4) => DType::F32,
        ("f", 8) => DType::F64,
        ("c", 8) => DType::C64,
        ("c", 16) => DType::C128,
        // Strings of 4-byte characters.
        ("U", size) => return size.checked_mul(4).map(|bytes| (None, bytes)).ok_or_else(unknown),
        ("S" | "V", size) => return Ok((None, size)),
        ("M" | "m", 8) => return Ok((None, 8)),
        _ => return Err(unknown()),
    };
    Ok((Some(dtype), size))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `numpy.save` writes it, but for the data, which is `data_bytes` zeros.
    fn file(version: u8, dictionary: &str, data_bytes: usize) -> Vec<u8> {
        let prefix = if version == 1 { 10 } else { 12 };
        let len = (prefix + dictionary.len() + 1).next_multiple_of(64) - prefix;
        let mut file = MAGIC.to_vec();
        file.extend([version, 0]);
        file.extend(&(len as u32).to_le_bytes()[..prefix - 8]);
        file.extend(format!("{dictionary:<width$}\n", width = len - 1).bytes());
        file.resize(file.len() + data_bytes, 0);
        file
    }

    fn of(descr: &str, order: &str, shape: &str, data_bytes: usize) -> Result<Array, Problem> {
        let file = file(1, &format!("{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"), data_bytes);
        parse(&file, file.len() as u64)
    }

    #[test]
    fn rows_lie_behind_the_header_in_every_version() {
        for (version, first) in [(1, 128), (2, 128), (3, 128)] {
            let file = file(version, "{'descr': '<f4', 'fortran_order': False, 'shape': (5, 2, 3), }", 120);
            let want = Array { first, rows: 5, row_bytes: 24, dtype: Some(DType::F32), shape: vec![2, 3] };
            assert_eq!(parse(&file, file.len() as u64), Ok(want), "version {version}");
        }
        // numpy 2.4: np.save of np.array([1, 2, 3], '<u2'), with its extra block of spaces.
        let mut three = b"\x93NUMPY\x01\x00v\x00{'descr': '<u2', 'fortran_order': False, 'shape': (3,), }".to_vec();
        three.resize(127, b' ');
        three.extend(b"\n\x01\0\x02\0\x03\0");
        let want = Array { first: 128, rows: 3, row_bytes: 2, dtype: Some(DType::U16), shape: vec![] };
        assert_eq!(parse(&three, 134), Ok(want));
    }

    #[test]
    fn an_array_without_dimensions_is_one_sample_and_one_without_rows_has_none() {
        let of =
            |shape, bytes| of("'<i8'", "False", shape, bytes).map(|array| (array.rows, array.row_bytes, array.shape));
        assert_eq!(of("()", 8), Ok((1, 8, vec![])));
        assert_eq!(of("(0, 3)", 0), Ok((0, 24, vec![3])));
        assert!(of("(3, 0)", 0).unwrap_err().what.contains("without a byte"));
        assert!(of("(1152921504606846976, 3, 0)", 0).is_err());
    }

    #[test]
    fn types_are_named_or_plain_bytes() {
        let of = |descr, bytes| of(descr, "False", "(1,)", bytes).unwrap().dtype;
        assert_eq!(of("'|b1'", 1), Some(DType::Bool));
        assert_eq!(of("'>u1'", 1), Some(DType::U8), "one byte has no order");
        assert_eq!(of("'<c16'", 16), Some(DType::C128));
        assert_eq!([of("'<U3'", 12), of("'|S7'", 7), of("'<M8[ns]'", 8), of("'|V2'", 2)], [None; 4]);
    }

    #[test]
    fn what_cannot_be_read_says_what_to_do() {
        for (descr, order, shape, bytes, words) in [
            ("'>f4'", "False", "(2,)", 8, "newbyteorder"),
            ("'>U1'", "False", "(2,)", 8, "newbyteorder"),
            ("'|O'", "False", "(2,)", 16, "pickle"),
            ("[('x', '<f4')]", "False", "(2,)", 8, "part as an array of its own"),
            ("'<f4'", "True", "(2, 3)", 24, "ascontiguousarray"),
            ("'<f16'", "False", "(2,)", 32, "astype"),
            ("'<'", "False", "(2,)", 8, "unknown"),
            ("''", "False", "(2,)", 8, "unknown"),
            ("'<f4'", "False", "(4294967296, 4294967296)", 8, "more bytes than a file can"),
            ("'<f4'", "False", "(3,)", 8, "truncated"),
            ("'<f4'", "False", "(2,)", 16, "several arrays"),
        ] {
            let problem = of(descr, order, shape, bytes).unwrap_err();
            assert!(problem.what.contains(words), "{descr} {shape}: {problem:?}");
        }
        assert!(of("'<f4'", "True", "(6,)", 24).is_ok(), "one dimension is one order");
        assert!(of("'<f4'", "True", "(1, 6)", 24).is_ok());
    }

    #[test]
    fn every_cut_of_a_header_is_an_error() {
        let whole = file(2, "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", 8);
        for cut in 0..whole.len() {
            assert!(parse(&whole[..cut], cut as u64).is_err(), "{cut}");
        }
        let mut long = whole.clone();
        long[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(parse(&long, u64::MAX).unwrap_err().what.contains("at most 65536"));
    }
}
