//! `tf.train.Example`: the named features of a record, found without touching their values.
//!
//! ```text
//! Example    1: Features
//! Features   1: map entry, repeated: { 1: name, 2: Feature }        the last of a name counts
//! Feature    one of  1: BytesList { 1: bytes, repeated }
//!                    2: FloatList { 1: f32, packed or not }
//!                    3: Int64List { 1: varint, packed or not }
//! ```
//! After `tensorflow/core/example/feature.proto`. Each number with its colon is a tag: a varint of (number, wire type).

use std::ops::Range;

use super::source::Source;
use crate::error::{Error, Result};

/// The longest name of a feature, in bytes.
const NAME_BYTES_MAX: u64 = 4096;

/// What a feature is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Bytes,
    Floats,
    Ints,
}

/// One feature: where its bytes, its floats, or its varints lie, in one piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Feature {
    pub(super) kind: Kind,
    pub(super) at: Range<u64>,
}

/// Why a record's features cannot be had.
#[derive(Debug)]
pub(super) enum Fault {
    /// The bytes from here on are no `Example`.
    NoExample(u64, &'static str),
    /// They are, but this feature's value is in several pieces.
    Scattered(u64, String),
    Read(Error),
}

impl From<Error> for Fault {
    fn from(e: Error) -> Fault {
        Fault::Read(e)
    }
}

/// Calls `each` with the features of the record `at`, in their order; of a name that comes twice the last counts. `None`
/// is a feature without values.
pub(super) fn features<S: Source>(
    source: &mut S,
    at: Range<u64>,
    mut each: impl FnMut(&[u8], Option<Feature>) -> Result<()>,
) -> Result<(), Fault> {
    let mut name = Vec::new();
    let mut example = Message::new(source, at);
    while let Some(tag) = example.tag()? {
        if tag != (1, DELIMITED) {
            // 2 is what a SequenceExample has besides.
            return Err(Fault::NoExample(example.at, "a field that an Example does not have"));
        }
        let within = example.delimited()?;
        let mut features = Message::new(&mut *example.source, within);
        while let Some(tag) = features.tag()? {
            if tag != (1, DELIMITED) {
                return Err(Fault::NoExample(features.at, "a field that Features do not have"));
            }
            let within = features.delimited()?;
            let feature = entry(&mut *features.source, within, &mut name)?;
            each(&name, feature)?;
        }
    }
    Ok(())
}

fn entry<S: Source>(source: &mut S, at: Range<u64>, name: &mut Vec<u8>) -> Result<Option<Feature>, Fault> {
    let mut entry = Message::new(source, at);
    let mut value = None;
    name.clear();
    while let Some(tag) = entry.tag()? {
        let within = match tag {
            (1 | 2, DELIMITED) => entry.delimited()?,
            _ => return Err(Fault::NoExample(entry.at, "a field that a feature's entry does not have")),
        };
        if tag.0 == 2 {
            value = Some(within);
            continue;
        }
        if within.end - within.start > NAME_BYTES_MAX {
            return Err(Fault::NoExample(within.start, "a feature's name of more than 4096 bytes"));
        }
        name.resize((within.end - within.start) as usize, 0);
        entry.source.read(within.start, name)?;
    }
    match value {
        Some(value) => feature(source, value, name),
        None => Ok(None),
    }
}

fn feature<S: Source>(source: &mut S, at: Range<u64>, name: &[u8]) -> Result<Option<Feature>, Fault> {
    let mut feature = Message::new(source, at);
    let mut list = None;
    while let Some(tag) = feature.tag()? {
        let kind = match tag {
            (1, DELIMITED) => Kind::Bytes,
            (2, DELIMITED) => Kind::Floats,
            (3, DELIMITED) => Kind::Ints,
            _ => return Err(Fault::NoExample(feature.at, "a field that a Feature does not have")),
        };
        if list.is_some() {
            return Err(Fault::NoExample(feature.at, "a second list of values in one feature"));
        }
        list = Some((kind, feature.delimited()?));
    }
    let Some((kind, within)) = list else { return Ok(None) };
    let mut list = Message::new(source, within);
    let mut value = None;
    while let Some(tag) = list.tag()? {
        let at = match (kind, tag.0, tag.1) {
            (_, 1, DELIMITED) => list.delimited()?,
            (Kind::Floats, 1, FOUR_BYTES) => list.take(4)?,
            (Kind::Ints, 1, VARINT) => {
                let start = list.at;
                list.varint()?;
                start..list.at
            }
            _ => return Err(Fault::NoExample(list.at, "a value of another kind than its list")),
        };
        if kind == Kind::Floats && !(at.end - at.start).is_multiple_of(4) {
            return Err(Fault::NoExample(at.start, "floats that are no whole number of 4 bytes"));
        }
        // An empty packed list is no value, an empty text is one.
        if kind != Kind::Bytes && at.is_empty() {
            continue;
        }
        if value.replace(at).is_some() {
            return Err(Fault::Scattered(list.at, String::from_utf8_lossy(name).into_owned()));
        }
    }
    Ok(value.map(|at| Feature { kind, at }))
}

const VARINT: u8 = 0;
const DELIMITED: u8 = 2;
const FOUR_BYTES: u8 = 5;

/// A message of the wire format, which ends where what holds it says.
struct Message<'s, S> {
    source: &'s mut S,
    at: u64,
    end: u64,
}

impl<'s, S: Source> Message<'s, S> {
    fn new(source: &'s mut S, at: Range<u64>) -> Message<'s, S> {
        Message { source, at: at.start, end: at.end }
    }

    /// The next field's number and wire type.
    fn tag(&mut self) -> Result<Option<(u64, u8)>, Fault> {
        if self.at == self.end {
            return Ok(None);
        }
        let tag = self.varint()?;
        Ok(Some((tag >> 3, (tag & 7) as u8)))
    }

    fn varint(&mut self) -> Result<u64, Fault> {
        let start = self.at;
        let (mut value, mut shift) = (0, 0);
        while self.at < self.end && shift < 64 {
            let left = self.end - self.at;
            for &byte in self.source.from(self.at)?.iter().take(left.min(10) as usize) {
                self.at += 1;
                value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
                if byte < 0x80 {
                    return Ok(value);
                }
                shift += 7;
            }
        }
        Err(Fault::NoExample(start, "a number without an end"))
    }

    fn delimited(&mut self) -> Result<Range<u64>, Fault> {
        let len = self.varint()?;
        self.take(len)
    }

    fn take(&mut self, len: u64) -> Result<Range<u64>, Fault> {
        if len > self.end - self.at {
            return Err(Fault::NoExample(self.at, "a length that is longer than what holds it"));
        }
        let start = self.at;
        self.at += len;
        Ok(start..self.at)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A field of the wire format.
    pub(in super::super) fn field(number: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![number << 3 | DELIMITED];
        let mut len = body.len();
        while len >= 0x80 {
            bytes.push(len as u8 | 0x80);
            len >>= 7;
        }
        bytes.push(len as u8);
        [bytes, body.to_vec()].concat()
    }

    fn example(features: &[(&str, Vec<u8>)]) -> Vec<u8> {
        let entries =
            features.iter().map(|(name, value)| field(1, &[field(1, name.as_bytes()), field(2, value)].concat()));
        field(1, &entries.collect::<Vec<_>>().concat())
    }

    type Found = Vec<(String, Option<(Kind, Vec<u8>)>)>;

    fn of(bytes: &[u8]) -> Result<Found, Fault> {
        let mut found = Vec::new();
        features(&mut &*bytes, 0..bytes.len() as u64, |name, feature| {
            let value = feature.map(|f| (f.kind, bytes[f.at.start as usize..f.at.end as usize].to_vec()));
            found.push((String::from_utf8(name.to_vec()).unwrap(), value));
            Ok(())
        })?;
        Ok(found)
    }

    #[test]
    fn the_vector_of_one_and_three_hundred_is_read() {
        let vector = b"\x0a\x0e\x0a\x0c\x0a\x01\x78\x12\x07\x1a\x05\x0a\x03\x01\xac\x02";
        assert_eq!(example(&[("x", field(3, &field(1, &[1, 0xac, 2])))]), vector);
        assert_eq!(of(vector).unwrap(), [("x".to_string(), Some((Kind::Ints, vec![1, 0xac, 2])))]);
    }

    #[test]
    fn values_are_one_piece_packed_or_not() {
        let one = 1f32.to_le_bytes();
        let two = [1f32, 2.0].map(f32::to_le_bytes).concat();
        let bytes = example(&[
            ("image", field(1, &field(1, &[9; 300]))),
            ("empty", field(1, &field(1, b""))),
            ("packed", field(2, &field(1, &two))),
            ("unpacked", field(2, &[&[1 << 3 | FOUR_BYTES][..], &one].concat())),
            ("int", field(3, &[1 << 3, 0xac, 2])),
            ("no values", field(3, &field(1, b""))),
            ("no list", field(1, b"")),
            ("nothing", vec![]),
        ]);
        let some = |name: &str, kind, bytes: &[u8]| (name.to_string(), Some((kind, bytes.to_vec())));
        let want = [
            some("image", Kind::Bytes, &[9; 300]),
            some("empty", Kind::Bytes, b""),
            some("packed", Kind::Floats, &two),
            some("unpacked", Kind::Floats, &one),
            some("int", Kind::Ints, &[0xac, 2]),
            ("no values".into(), None),
            ("no list".into(), None),
            ("nothing".into(), None),
        ];
        assert_eq!(of(&bytes).unwrap(), want);
        assert_eq!(of(b"").unwrap(), []);
    }

    #[test]
    fn values_in_several_pieces_are_named() {
        for list in [
            field(1, &[field(1, b"a"), field(1, b"b")].concat()),
            field(3, &[1 << 3, 1, 1 << 3, 2]),
            field(2, &[field(1, &[0; 4]), field(1, &[0; 4])].concat()),
        ] {
            assert!(matches!(of(&example(&[("x", list)])), Err(Fault::Scattered(_, name)) if name == "x"));
        }
    }

    #[test]
    fn other_messages_and_cut_ones_are_no_examples() {
        let whole = example(&[("image", field(1, &field(1, &[9; 200]))), ("f", field(2, &field(1, &[0; 8])))]);
        for cut in 1..whole.len() {
            assert!(matches!(of(&whole[..cut]), Err(Fault::NoExample(..))), "{cut}");
        }
        for other in [
            field(2, b""), // feature lists of a SequenceExample
            field(1, &field(2, b"")),
            example(&[("x", field(4, b""))]),
            example(&[("x", field(2, &field(1, &[0; 3])))]),
            example(&[("x", field(1, &[1 << 3, 5]))]),
            example(&[("x", [field(1, b""), field(1, b"")].concat())]),
            vec![0xff; 30],
            b"plain text".to_vec(),
        ] {
            assert!(matches!(of(&other), Err(Fault::NoExample(..))), "{other:?}");
        }
    }
}
