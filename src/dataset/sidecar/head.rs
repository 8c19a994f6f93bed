//! The head of a sidecar, byte by byte: ARCHITECTURE.md draws it.

use std::sync::Arc;

use super::super::Field;
use super::super::format::Format;
use super::super::table::{Bound, Cells, Numbers};
use super::Stamp;
use crate::dtype::DType;

pub(super) const MAGIC: [u8; 8] = *b"STRAITIX";
pub(super) const VERSION: u32 = 2;
/// Reads as another number where bytes are read in the other order.
const ORDER: u32 = 0x0102_0304;

/// A head is not longer: what says otherwise is damaged. Room for 4096 fields and the checksums of 512 GiB.
const HEAD_BYTES_MAX: u64 = 64 << 20;
/// What says how long the head is.
pub(super) const START_BYTES: usize = 32;

const NONE: u64 = 0xff;
/// Marks a distance as one before the next row's edge.
const BEFORE_LAST: u64 = 1 << 63;
/// Marks a stride as one between numbers of 8 bytes.
const WIDE: u64 = 1 << 63;

/// All that a sidecar says but its numbers.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Head {
    pub(super) format: Format,
    pub(super) stamp: Stamp,
    pub(super) fingerprint: u64,
    pub(super) samples: u64,
    /// The largest sample, all fields together.
    pub(super) largest: u64,
    pub(super) columns: Vec<Column>,
    /// CRC32C of each block of the numbers.
    pub(super) sums: Vec<u32>,
}

/// What one field is, and where its numbers are, in bytes from the end of the head.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Column {
    pub(super) field: Field,
    pub(super) largest: u64,
    pub(super) cells: Cells,
    pub(super) crcs: Option<Numbers>,
}

/// The sizes of the head and of the whole sidecar, from its first [`START_BYTES`] bytes.
pub(super) fn sizes(start: &[u8]) -> Result<(u64, u64), String> {
    let mut words = Words { bytes: start };
    if start.get(..8) != Some(&MAGIC) {
        return Err("it does not begin as an index of strait's does".into());
    }
    words.take(8)?;
    let (version, order) = (words.u32()?, words.u32()?);
    if order != ORDER {
        return Err("its bytes are in another order than this version writes them".into());
    }
    if version != VERSION {
        return Err(format!("it is of version {version}, and this is version {VERSION}"));
    }
    let (head, all) = (words.u64()?, words.u64()?);
    if head < START_BYTES as u64 || head > HEAD_BYTES_MAX || head > all || !head.is_multiple_of(8) {
        return Err(format!("a head of {head} bytes in an index of {all}"));
    }
    Ok((head, all))
}

impl Head {
    pub(super) fn has_checksums(&self) -> bool {
        !self.columns.is_empty() && self.columns.iter().all(|column| column.crcs.is_some())
    }

    /// The head's bytes, for a body of `body_bytes`.
    pub(super) fn encode(&self, body_bytes: u64) -> Vec<u8> {
        let mut out = Vec::from(MAGIC);
        let Stamp { bytes, mtime_ns, made_of } = self.stamp;
        out.extend(VERSION.to_le_bytes());
        out.extend(ORDER.to_le_bytes());
        let shape = (self.format as u64) | (self.columns.len() as u64) << 16 | (self.sums.len() as u64) << 32;
        let words = [0, 0, bytes, mtime_ns as u64, made_of, self.fingerprint, self.samples, self.largest, shape];
        words.iter().for_each(|word| out.extend(word.to_le_bytes()));
        self.columns.iter().for_each(|column| column.encode(&mut out));
        self.sums.iter().for_each(|sum| out.extend(sum.to_le_bytes()));
        // The head's own checksum ends it.
        out.resize((out.len() + 4).next_multiple_of(8) - 4, 0);
        let head = out.len() as u64 + 4;
        out[16..24].copy_from_slice(&head.to_le_bytes());
        out[24..32].copy_from_slice(&(head + body_bytes).to_le_bytes());
        let sum = crc32c::crc32c(&out);
        out.extend(sum.to_le_bytes());
        out
    }

    /// What `bytes`, which are as long as [`sizes`] said, say.
    pub(super) fn decode(bytes: &[u8]) -> Result<Head, String> {
        let (head, sum) = bytes.split_at_checked(bytes.len().wrapping_sub(4)).ok_or("no bytes at all")?;
        let (want, got) = (u32::from_le_bytes(sum.try_into().map_err(|_| "no checksum")?), crc32c::crc32c(head));
        if want != got {
            return Err(format!("its head has the CRC32C {got:#010x} and not {want:#010x}: it is damaged"));
        }
        let mut words = Words { bytes: head };
        words.take(START_BYTES)?;
        let stamp = Stamp { bytes: words.u64()?, mtime_ns: words.u64()? as i64, made_of: words.u64()? };
        let (fingerprint, samples, largest, shape) = (words.u64()?, words.u64()?, words.u64()?, words.u64()?);
        let format = Format::all().nth((shape & 0xffff) as usize).ok_or("it is of a format that is not known")?;
        let columns = (0..shape >> 16 & 0xffff).map(|_| Column::decode(&mut words)).collect::<Result<_, _>>()?;
        let sums = (0..shape >> 32).map(|_| words.u32()).collect::<Result<_, _>>()?;
        Ok(Head { format, stamp, fingerprint, samples, largest, columns, sums })
    }
}

impl Column {
    fn encode(&self, out: &mut Vec<u8>) {
        let Field { name, fixed_bytes, dtype, shape, varints, text } = &self.field;
        let (kind, cells) = match &self.cells {
            Cells::Even { first, stride, len } => (0, [*first, *stride, *len, 0, 0, 0]),
            Cells::Pairs { offset, len, lacking } => {
                let ([a, b, c], [d, e, f]) = (words_of(offset), words_of(len));
                (if *lacking { 1 } else { 3 }, [a, b, c, d, e, f])
            }
            Cells::Between { edges, start, end } => {
                let [a, b, c] = words_of(edges);
                (2, [a, b, c, word_of(*start), word_of(*end), 0])
            }
        };
        // A type is stored by its place in the list of types, which is only ever added to.
        let dtype = dtype.and_then(|dtype| DType::all().position(|own| own == dtype)).map_or(NONE, |at| at as u64);
        let dims = shape.as_ref().map_or(NONE, |shape| shape.len() as u64);
        let flags = u64::from(fixed_bytes.is_some())
            | u64::from(self.crcs.is_some()) << 1
            | u64::from(*varints) << 2
            | u64::from(*text) << 3;
        let what = name.len() as u64 | dtype << 16 | dims << 24 | kind << 32 | flags << 40;
        let crcs = self.crcs.map_or([0, 0], |crcs| [crcs.at, crcs.stride]);
        let words = [what, fixed_bytes.unwrap_or(0), self.largest].into_iter().chain(cells).chain(crcs);
        let words = words.chain(shape.iter().flat_map(|shape| shape.iter().copied()));
        words.for_each(|word| out.extend(word.to_le_bytes()));
        out.extend(name.as_bytes());
        out.resize(out.len().next_multiple_of(8), 0);
    }

    fn decode(words: &mut Words) -> Result<Column, String> {
        let what = words.u64()?;
        let byte = |shift: u32| what >> shift & 0xff;
        let (fixed_bytes, largest) = (words.u64()?, words.u64()?);
        let mut cell = [0; 6];
        for word in &mut cell {
            *word = words.u64()?;
        }
        let [a, b, c, d, e, f] = cell;
        let cells = match byte(32) {
            0 => Cells::Even { first: a, stride: b, len: c },
            kind @ (1 | 3) => {
                Cells::Pairs { offset: numbers_of([a, b, c]), len: numbers_of([d, e, f]), lacking: kind == 1 }
            }
            2 => Cells::Between { edges: numbers_of([a, b, c]), start: bound_of(d), end: bound_of(e) },
            kind => return Err(format!("a table of kind {kind}, which is not known")),
        };
        let (at, stride) = (words.u64()?, words.u64()?);
        let crcs = (byte(40) & 2 != 0).then_some(Numbers { at, stride, wide: false, unit: 1 });
        let shape = match byte(24) {
            NONE => None,
            dims => Some((0..dims).map(|_| words.u64()).collect::<Result<Arc<[u64]>, _>>()?),
        };
        let dtype = match byte(16) {
            NONE => None,
            place => Some(DType::all().nth(place as usize).ok_or("elements of a type that is not known")?),
        };
        let len = (what & 0xffff) as usize;
        let name = std::str::from_utf8(words.take(len)?).map_err(|_| "a field's name is not UTF-8")?.into();
        words.take(len.next_multiple_of(8) - len)?;
        let fixed_bytes = (byte(40) & 1 != 0).then_some(fixed_bytes);
        let field = Field { name, fixed_bytes, dtype, shape, varints: byte(40) & 4 != 0, text: byte(40) & 8 != 0 };
        Ok(Column { field, largest, cells, crcs })
    }
}

fn words_of(numbers: &Numbers) -> [u64; 3] {
    [numbers.at, numbers.stride | if numbers.wide { WIDE } else { 0 }, numbers.unit]
}

fn numbers_of([at, stride, unit]: [u64; 3]) -> Numbers {
    Numbers { at, stride: stride & !WIDE, wide: stride & WIDE != 0, unit }
}

fn word_of(bound: Bound) -> u64 {
    match bound {
        Bound::AfterFirst(bytes) => bytes,
        Bound::BeforeLast(bytes) => bytes | BEFORE_LAST,
    }
}

fn bound_of(word: u64) -> Bound {
    match word & BEFORE_LAST {
        0 => Bound::AfterFirst(word),
        _ => Bound::BeforeLast(word & !BEFORE_LAST),
    }
}

/// Little-endian words one after another.
struct Words<'a> {
    bytes: &'a [u8],
}

impl<'a> Words<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.bytes.split_at_checked(len).ok_or("its head ends too early")?;
        self.bytes = rest;
        Ok(taken)
    }

    fn u32(&mut self) -> Result<u32, String> {
        let bytes = self.take(4)?;
        Ok(u32::from_le_bytes(bytes.try_into().map_err(|_| "no 4 bytes")?))
    }

    fn u64(&mut self) -> Result<u64, String> {
        let bytes = self.take(8)?;
        Ok(u64::from_le_bytes(bytes.try_into().map_err(|_| "no 8 bytes")?))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn column() -> impl Strategy<Value = Column> {
        let numbers = || {
            (any::<u64>(), any::<u64>(), any::<bool>(), any::<u64>()).prop_map(|(at, stride, wide, unit)| Numbers {
                at,
                stride: stride & !WIDE,
                wide,
                unit,
            })
        };
        let bound = || {
            let bytes = any::<u64>().prop_map(|bytes| bytes & !BEFORE_LAST);
            prop_oneof![bytes.clone().prop_map(Bound::AfterFirst), bytes.prop_map(Bound::BeforeLast)]
        };
        let cells = prop_oneof![
            any::<(u64, u64, u64)>().prop_map(|(first, stride, len)| Cells::Even { first, stride, len }),
            (numbers(), numbers(), any::<bool>()).prop_map(|(offset, len, lacking)| Cells::Pairs {
                offset,
                len,
                lacking
            }),
            (numbers(), bound(), bound()).prop_map(|(edges, start, end)| Cells::Between { edges, start, end }),
        ];
        let dtype = prop::option::of(prop::sample::select(DType::all().collect::<Vec<_>>()));
        let shape = prop::option::of(prop::collection::vec(any::<u64>(), 0..5));
        let crcs = prop::option::of((any::<u64>(), any::<u64>()));
        let field = ("\\PC{0,12}", any::<Option<u64>>(), dtype, shape, any::<bool>(), any::<bool>());
        (field, any::<u64>(), cells, crcs).prop_map(
            |((name, fixed_bytes, dtype, shape, varints, text), largest, cells, crcs)| Column {
                field: Field { name: name.into(), fixed_bytes, dtype, shape: shape.map(Into::into), varints, text },
                largest,
                cells,
                crcs: crcs.map(|(at, stride)| Numbers { at, stride, wide: false, unit: 1 }),
            },
        )
    }

    fn head() -> impl Strategy<Value = Head> {
        let format = prop::sample::select(Format::all().collect::<Vec<_>>());
        let columns = prop::collection::vec(column(), 0..4);
        let sums = prop::collection::vec(any::<u32>(), 0..9);
        let stamp = (any::<u64>(), any::<i64>(), any::<u64>());
        let stamp = stamp.prop_map(|(bytes, mtime_ns, made_of)| Stamp { bytes, mtime_ns, made_of });
        (format, stamp, any::<(u64, u64, u64)>(), columns, sums).prop_map(
            |(format, stamp, (fingerprint, samples, largest), columns, sums)| Head {
                format,
                stamp,
                fingerprint,
                samples,
                largest,
                columns,
                sums,
            },
        )
    }

    proptest! {
        #[test]
        fn a_head_says_what_it_was_given(head in head(), body in 0u64..1 << 40) {
            let bytes = head.encode(body);
            prop_assert_eq!(sizes(&bytes), Ok((bytes.len() as u64, bytes.len() as u64 + body)));
            prop_assert_eq!(Head::decode(&bytes), Ok(head));
        }

        #[test]
        fn any_bytes_are_a_head_or_an_error(mut bytes in prop::collection::vec(any::<u8>(), 0..400), seal: bool) {
            let _ = (sizes(&bytes), Head::decode(&bytes));
            if seal && bytes.len() > 4 {
                let end = bytes.len() - 4;
                let sum = crc32c::crc32c(&bytes[..end]);
                bytes[end..].copy_from_slice(&sum.to_le_bytes());
                let _ = Head::decode(&bytes);
            }
        }

        #[test]
        fn a_bit_that_flipped_is_noticed(head in head(), at: prop::sample::Index, bit in 0u32..8) {
            let mut bytes = head.encode(0);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(Head::decode(&bytes).is_err());
        }
    }

    /// What is written today is read for ever: changed bytes are a new version.
    #[test]
    fn the_bytes_of_a_head_are_these() {
        let field = Field {
            name: "abc".into(),
            fixed_bytes: Some(2),
            dtype: Some(DType::U16),
            shape: Some([].into()),
            varints: false,
            text: true,
        };
        let cells = Cells::Even { first: 1, stride: 2, len: 3 };
        let head = Head {
            format: Format::Tokens,
            stamp: Stamp { bytes: 5, mtime_ns: -1, made_of: 6 },
            fingerprint: 7,
            samples: 8,
            largest: 9,
            columns: vec![Column { field, largest: 10, cells, crcs: None }],
            sums: vec![11],
        };
        let hex: String = head.encode(16).iter().map(|byte| format!("{byte:02x}")).collect();
        let word = |number: u64| number.to_le_bytes().map(|byte| format!("{byte:02x}")).concat();
        let start = "53545241495449580200000004030201".to_owned();
        let words = [192, 208, 5, u64::MAX, 6, 7, 8, 9, 3 | 1 << 16 | 1 << 32].map(word).concat();
        let column = [3 | 3 << 16 | 9 << 40, 2, 10, 1, 2, 3, 0, 0, 0, 0, 0].map(word).concat();
        let end = "6162630000000000".to_owned() + "0b000000";
        assert!(hex.starts_with(&(start + &words + &column + &end)), "{hex}");
        assert_eq!(hex.len(), 2 * 192);
    }
}
