//! What parsers of formats have in common: what is wrong and where, and numbers out of bytes.

use std::path::Path;

use crate::error::Error;

/// What is wrong with a file, from the byte `at` on, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) at: u64,
    pub(super) what: String,
}

impl Problem {
    pub(super) fn new(at: u64, what: impl Into<String>) -> Problem {
        Problem { at, what: what.into() }
    }

    /// As an error about a file.
    pub(super) fn of(self, path: &Path) -> Error {
        Error::format(path, self.at, self.what)
    }
}

/// The little-endian number at `at`, if all of it is there.
pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    array_at(bytes, at).map(u16::from_le_bytes)
}

/// As [`u16_at`].
pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array_at(bytes, at).map(u32::from_le_bytes)
}

/// As [`u16_at`].
pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    array_at(bytes, at).map(u64::from_le_bytes)
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.get(..N)?.try_into().ok()
}

/// The numbers of an array in a file, given as its bytes.
pub(super) fn u32s(bytes: &[u8]) -> impl DoubleEndedIterator<Item = u32> + ExactSizeIterator {
    bytes.chunks_exact(4).map(|four| u32::from_le_bytes(four.try_into().expect("four bytes")))
}

/// As [`u32s`].
pub(super) fn u64s(bytes: &[u8]) -> impl DoubleEndedIterator<Item = u64> + ExactSizeIterator {
    bytes.chunks_exact(8).map(|eight| u64::from_le_bytes(eight.try_into().expect("eight bytes")))
}
