//! Equal stretches of a file at equal distances: what a part of a tensor is made of. Pure arithmetic.
//!
//! ```text
//!  file    ....[ row 0 ]........[ row 1 ]........[ row 2 ]....      a slice in a dimension that is not the first
//!              |<------ stride -----|                               a whole tensor, or a slice in the first one, is
//!  memory  [ row 0 | row 1 | row 2 ]                                one row
//! ```

use std::ops::Range;

use super::{Part, TensorInfo};
use crate::error::{Error, Result, short, short_shape};

/// Stretches of a file that lie one after another in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rows {
    /// The first byte of the first row.
    pub(super) begin: u64,
    /// The length of a row; not 0 if there are rows.
    pub(super) row_bytes: u64,
    /// From the start of one row to that of the next; at least `row_bytes`.
    pub(super) stride: u64,
    pub(super) rows: u64,
}

/// What rows and a stretch of the file have in common, row by row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    /// Where it starts in the file.
    pub(super) offset: u64,
    pub(super) bytes: u64,
    /// Where it starts in memory, counted from the first row.
    pub(super) at: u64,
}

impl Rows {
    /// One row.
    pub(super) fn whole(begin: u64, bytes: u64) -> Rows {
        Rows { begin, row_bytes: bytes, stride: bytes, rows: u64::from(bytes > 0) }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.row_bytes * self.rows
    }

    /// The byte after the last; `begin` where there are none.
    pub(super) fn end(&self) -> u64 {
        match self.rows {
            0 => self.begin,
            rows => self.begin + (rows - 1) * self.stride + self.row_bytes,
        }
    }

    /// The same with gaps of up to `gap_bytes` between rows filled.
    pub(super) fn filled(&self, gap_bytes: u64) -> Rows {
        match self.stride - self.row_bytes <= gap_bytes {
            true => Rows::whole(self.begin, self.end() - self.begin),
            false => *self,
        }
    }

    /// The stretch of row `row`.
    pub(super) fn row(&self, row: u64) -> Range<u64> {
        let begin = self.begin + row * self.stride;
        begin..begin + self.row_bytes
    }

    /// What lies in `range`, in order.
    pub(super) fn within(&self, range: Range<u64>) -> impl Iterator<Item = Piece> + use<> {
        let own = *self;
        let first = range.start.saturating_sub(own.begin).checked_div(own.stride).unwrap_or(0);
        (first..own.rows)
            .map_while(move |row| {
                let stretch = own.row(row);
                let (from, to) = (stretch.start.max(range.start), stretch.end.min(range.end));
                let at = row * own.row_bytes + from.saturating_sub(stretch.start);
                // A range that starts between two rows has nothing of the first.
                (stretch.start < range.end).then(|| Piece { offset: from, bytes: to.saturating_sub(from), at })
            })
            .filter(|piece| piece.bytes > 0)
    }

    /// How many bytes lie in `range`.
    pub(super) fn bytes_within(&self, range: Range<u64>) -> u64 {
        let before = |offset: u64| {
            let past = offset.saturating_sub(self.begin);
            let whole = past.checked_div(self.stride).unwrap_or(0);
            if whole >= self.rows {
                self.bytes()
            } else {
                whole * self.row_bytes + (past - whole * self.stride).min(self.row_bytes)
            }
        };
        before(range.end).saturating_sub(before(range.start))
    }
}

/// Where a part of a tensor is in the file, and its shape; `None` for no part at all.
pub(super) fn rows_of(tensor: &TensorInfo, part: Part) -> Result<Option<(Rows, Vec<u64>)>> {
    let (dim, from, to) = match part {
        Part::Skip => return Ok(None),
        Part::Whole => return Ok(Some((Rows::whole(tensor.offset, tensor.bytes), tensor.shape.clone()))),
        Part::Slice { dim, from, to } => (dim, from, to),
    };
    let name = short(&tensor.name);
    let wrong = |problem: String| Error::config("part", format!("tensor `{name}`: {problem}"));
    let Some(&len) = tensor.shape.get(dim) else {
        return Err(wrong(format!("there is no dimension {dim} in its shape {}", short_shape(&tensor.shape))));
    };
    if from > to || to > len {
        return Err(wrong(format!("{from}..{to} is not inside dimension {dim}, which has the length {len}")));
    }
    let mut shape = tensor.shape.clone();
    shape[dim] = to - from;
    if (from, to) == (0, len) {
        return Ok(Some((Rows::whole(tensor.offset, tensor.bytes), shape)));
    }
    if tensor.bytes == 0 || from == to {
        return Ok(Some((Rows::whole(tensor.offset, 0), shape)));
    }
    // No product is larger than the tensor's own size in bits, which the header's check has multiplied out.
    let inner_bits =
        u128::from(tensor.dtype.bits()) * tensor.shape[dim + 1..].iter().map(|&n| u128::from(n)).product::<u128>();
    let bytes = |elements: u64| {
        let bits = inner_bits * u128::from(elements);
        bits.is_multiple_of(8).then_some((bits / 8) as u64)
    };
    let (Some(skipped), Some(row_bytes), Some(stride)) = (bytes(from), bytes(to - from), bytes(len)) else {
        return Err(wrong(format!("{from}..{to} of dimension {dim} cuts through a byte of {}", tensor.dtype)));
    };
    let rows = tensor.shape[..dim].iter().product();
    let whole = Rows { begin: tensor.offset + skipped, row_bytes, stride, rows };
    Ok(Some((whole.filled(0), shape)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::DType;

    proptest! {
        #[test]
        fn pieces_are_those_of_a_byte_by_byte_walk(
            begin in 0u64..50, row_bytes in 1u64..9, gap in 0u64..9, rows in 0u64..7, from in 0u64..150, len in 0u64..150,
        ) {
            let all = Rows { begin, row_bytes, stride: row_bytes + gap, rows };
            let range = from..from + len;
            let mut want = Vec::new();
            for row in 0..rows {
                for byte in 0..row_bytes {
                    let offset = begin + row * (row_bytes + gap) + byte;
                    if range.contains(&offset) {
                        want.push((offset, row * row_bytes + byte));
                    }
                }
            }
            let pieces = all.within(range.clone());
            let got: Vec<_> = pieces.flat_map(|p| (0..p.bytes).map(move |i| (p.offset + i, p.at + i))).collect();
            prop_assert_eq!(&got, &want);
            prop_assert_eq!(all.bytes_within(range), want.len() as u64);
        }

        /// Against an index of every element.
        #[test]
        fn slices_are_those_of_an_array(
            shape in prop::collection::vec(0u64..5, 1..5), dim in 0usize..4, a in 0u64..5, b in 0u64..5,
            dtype in prop::sample::select(DType::all().collect::<Vec<_>>()),
        ) {
            let dim = dim % shape.len();
            let (from, to) = (a.min(b).min(shape[dim]), a.max(b).min(shape[dim]));
            let Some(bytes) = dtype.array_bytes(&shape) else { return Ok(()) };
            let tensor = TensorInfo { name: "t".into(), dtype, shape: shape.clone(), shard: 0, offset: 1000, bytes };
            let mut bits = Vec::new(); // of every element in the slice, in order
            for element in 0..shape.iter().product::<u64>() {
                let inner: u64 = shape[dim + 1..].iter().product();
                if (from..to).contains(&(element / inner % shape[dim])) {
                    bits.extend((0..dtype.bits()).map(|bit| element * dtype.bits() + bit));
                }
            }
            match rows_of(&tensor, Part::Slice { dim, from, to }) {
                Ok(Some((rows, sliced))) => {
                    let offsets = rows.within(0..u64::MAX).flat_map(|p| p.offset..p.offset + p.bytes);
                    let got: Vec<u64> = offsets.flat_map(|byte| (0..8).map(move |bit| (byte - 1000) * 8 + bit)).collect();
                    prop_assert_eq!(got, bits);
                    prop_assert_eq!(sliced[dim], to - from);
                }
                Ok(None) => prop_assert!(false),
                // A row of the slice starts or ends inside a byte.
                Err(_) => prop_assert!(bits.chunk_by(|a, b| a + 1 == *b).any(|row| row[0] % 8 != 0 || row.len() % 8 != 0)),
            }
        }
    }

    #[test]
    fn what_is_no_slice() {
        let tensor =
            TensorInfo { name: "w".into(), dtype: DType::F4, shape: vec![2, 4], shard: 0, offset: 0, bytes: 4 };
        for (part, want) in [
            (Part::Slice { dim: 2, from: 0, to: 1 }, "no dimension 2"),
            (Part::Slice { dim: 1, from: 3, to: 2 }, "not inside"),
            (Part::Slice { dim: 0, from: 0, to: 3 }, "not inside"),
            (Part::Slice { dim: 1, from: 1, to: 3 }, "cuts through a byte"),
        ] {
            let text = rows_of(&tensor, part).unwrap_err().to_string();
            assert!(text.contains(want) && text.contains("`w`"), "{text}");
        }
    }

    /// A header may give a tensor as many dimensions as fit it. Mutants that this catches: the shape, or the name, whole.
    #[test]
    fn errors_are_short_whatever_the_header_says() {
        let tensor = TensorInfo {
            name: "n".repeat(1 << 20).into(),
            dtype: DType::U8,
            shape: vec![1; 1 << 20],
            shard: 0,
            offset: 0,
            bytes: 1,
        };
        let text = rows_of(&tensor, Part::Slice { dim: 1 << 20, from: 0, to: 1 }).unwrap_err().to_string();
        assert!(text.contains("(1048576 dimensions)") && text.len() < 2000, "{} bytes", text.len());
    }
}
