//! The frames of a TFRecord file.
//!
//! ```text
//! u64 length    u32 masked CRC-32C of the length    the record    u32 masked CRC-32C of the record    the next ...
//! ```
//! After `tensorflow/core/lib/io/record_writer.cc`.

use std::ops::Range;
use std::path::Path;

use super::source::Source;
use crate::dataset::parse::{u32_at, u64_at};
use crate::error::{Error, Result};

/// What is around a record, in bytes.
const HEAD: u64 = 12;
const TAIL: u64 = 4;

/// Goes from record to record.
pub(super) struct Frames<'p> {
    path: &'p Path,
    file_bytes: u64,
    next: u64,
    /// Read the records too, and compare their checksums.
    verify: bool,
}

impl<'p> Frames<'p> {
    pub(super) fn new(path: &'p Path, file_bytes: u64, verify: bool) -> Frames<'p> {
        Frames { path, file_bytes, next: 0, verify }
    }

    /// Where the next record is.
    pub(super) fn next(&mut self, source: &mut impl Source) -> Result<Option<Range<u64>>> {
        let at = self.next;
        let left = self.file_bytes - at;
        if left == 0 {
            return Ok(None);
        }
        if left < HEAD + TAIL {
            // What is compressed may be shorter than a record, and says of itself what it is.
            let mut head = [0; HEAD as usize];
            source.read(at, &mut head[..left.min(HEAD) as usize])?;
            if compressed(&head).is_some() && at == 0 {
                return Err(self.no_frame(at, &head));
            }
            return Err(self.bad(at, format!("the file ends {left} bytes into a record: it was truncated")));
        }
        let mut head = [0; HEAD as usize];
        source.read(at, &mut head)?;
        if !is_head(&head) {
            return Err(self.no_frame(at, &head));
        }
        let len = u64_at(&head, 0).unwrap_or(u64::MAX);
        let room = left - HEAD - TAIL;
        if len > room {
            let problem =
                format!("a record of {len} bytes, of which the file has {room}: it was truncated; write it again");
            return Err(self.bad(at, problem));
        }
        let record = at + HEAD..at + HEAD + len;
        self.next = record.end + TAIL;
        if self.verify {
            // Its features are looked up next.
            source.hold(record.start, len + TAIL)?;
            self.verify(&record, source)?;
        }
        Ok(Some(record))
    }

    fn verify(&self, record: &Range<u64>, source: &mut impl Source) -> Result<()> {
        let (mut sum, mut at) = (0, record.start);
        while at < record.end {
            let part = source.from(at)?;
            let part = &part[..part.len().min((record.end - at) as usize)];
            sum = crc32c::crc32c_append(sum, part);
            at += part.len() as u64;
        }
        let mut want = [0; TAIL as usize];
        source.read(record.end, &mut want)?;
        let (found, want) = (masked(sum), u32::from_le_bytes(want));
        if found == want {
            return Ok(());
        }
        Err(Error::Corrupt {
            path: self.path.into(),
            offset: record.start,
            bytes: record.end - record.start,
            problem: format!("the record's masked CRC-32C is {found:#010x}, and {want:#010x} was written"),
        })
    }

    fn no_frame(&self, at: u64, head: &[u8; HEAD as usize]) -> Error {
        match compressed(head).filter(|_| at == 0) {
            Some((kind, remedy)) => self.bad(
                at,
                format!(
                    "compressed with {kind} as a whole: records have no place of their own in it; decompress it first \
                     (`{remedy}`) or write it without compression"
                ),
            ),
            None if at == 0 => self.bad(at, "no length with its checksum is here: this is no TFRecord file"),
            None => {
                self.bad(at, "the length does not match its checksum: the file is damaged from here on; write it again")
            }
        }
    }

    fn bad(&self, at: u64, problem: impl Into<String>) -> Error {
        Error::format(self.path, at, problem)
    }
}

/// What the file is compressed with, and what undoes it.
fn compressed(head: &[u8; HEAD as usize]) -> Option<(&'static str, &'static str)> {
    match head {
        [0x1f, 0x8b, ..] => Some(("gzip", "gunzip")),
        [0x78, 0x01 | 0x5e | 0x9c | 0xda, ..] => Some(("zlib", "zlib-flate -uncompress")),
        _ => None,
    }
}

/// Whether these bytes begin with a length and its checksum.
pub(super) fn is_head(bytes: &[u8]) -> bool {
    bytes.get(..8).is_some_and(|length| u32_at(bytes, 8) == Some(masked(crc32c::crc32c(length))))
}

/// How the format stores a CRC-32C, so that a checksum of checksums stays one.
pub(super) fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(record: &[u8]) -> Vec<u8> {
        let length = (record.len() as u64).to_le_bytes();
        let sum = |bytes: &[u8]| masked(crc32c::crc32c(bytes)).to_le_bytes();
        [&length[..], &sum(&length), record, &sum(record)].concat()
    }

    fn all(bytes: &[u8], verify: bool) -> Result<Vec<Range<u64>>> {
        let mut frames = Frames::new(Path::new("x"), bytes.len() as u64, verify);
        let mut bytes = bytes;
        std::iter::from_fn(|| frames.next(&mut bytes).transpose()).collect()
    }

    #[test]
    fn the_vector_of_tensorflow_s_writer_is_read() {
        let vector = b"\x03\0\0\0\0\0\0\0\xb0\x99\x49\x0eabc\x6e\x57\xf1\x21";
        assert_eq!(frame(b"abc"), vector);
        let two = [&vector[..], &frame(b"")].concat();
        assert_eq!(all(&two, true).unwrap(), [12..15, 31..31]);
        assert!(all(b"", true).unwrap().is_empty());
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_an_error() {
        let two = [frame(b"abc"), frame(&[7; 300])].concat();
        for cut in (1..two.len()).filter(|&cut| cut != 19) {
            assert!(all(&two[..cut], false).is_err(), "{cut}");
        }
        for bit in 0..8 * two.len() {
            let mut flipped = two.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(all(&flipped, true).is_err(), "{bit}");
        }
        let mut damaged = two.clone();
        damaged[14] ^= 1;
        assert_eq!(all(&damaged, false).unwrap().len(), 2, "records are not read unless asked");
        let error = all(&damaged, true).unwrap_err();
        assert!(matches!(error, Error::Corrupt { offset: 12, bytes: 3, .. }), "{error:?}");
    }

    #[test]
    fn compressed_files_and_lies_are_refused() {
        for (start, word) in [(&b"\x1f\x8b\x08"[..], "gunzip"), (b"\x78\x9c", "zlib"), (b"hello", "no TFRecord")] {
            let error = all(&[start, &[0; 20]].concat(), false).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        // `zlib.compress(b"")`.
        let error = all(b"\x78\x9c\x03\0\0\0\0\x01", false).unwrap_err().to_string();
        assert!(error.contains("zlib"), "{error}");
        for len in [u64::MAX, u64::MAX - 15, 1 << 63, 4] {
            let length = len.to_le_bytes();
            let bytes = [&length[..], &masked(crc32c::crc32c(&length)).to_le_bytes(), b"abc", &[0; 4]].concat();
            assert!(all(&bytes, false).unwrap_err().to_string().contains("truncated"), "{len}");
        }
    }
}
