//! Which blocks a reference reads, and in which order.

use std::fs::File;
use std::io;
use std::path::Path;

use super::request::Request;
use crate::failure::{Failure, Result};
use crate::linux::file::open_direct;

/// The blocks of a list of files, one after another; the last one of a file may be short.
pub(super) struct Blocks {
    /// Number of the first block of each file, and the total at the end.
    first: Vec<u64>,
    block_bytes: u64,
    shuffle: Option<Shuffle>,
}

impl Blocks {
    pub(super) fn new(file_bytes: &[u64], block_bytes: u64, shuffle_seed: Option<u64>) -> Blocks {
        let mut first = vec![0];
        for bytes in file_bytes {
            first.push(first.last().expect("starts with 0") + bytes.div_ceil(block_bytes));
        }
        let total = *first.last().expect("starts with 0");
        Blocks { first, block_bytes, shuffle: shuffle_seed.map(|seed| Shuffle::new(total, seed)) }
    }

    pub(super) fn len(&self) -> u64 {
        *self.first.last().expect("starts with 0")
    }

    /// File and offset of the block at `position`.
    pub(super) fn at(&self, position: u64) -> (usize, u64) {
        let block = self.shuffle.as_ref().map_or(position, |shuffle| shuffle.at(position));
        let file = self.first.partition_point(|&first| first <= block) - 1;
        (file, (block - self.first[file]) * self.block_bytes)
    }
}

/// A permutation of `0..len` without a table: a bijection of the next power of two, walked until it falls inside.
struct Shuffle {
    len: u64,
    bits: u32,
    seed: u64,
}

impl Shuffle {
    fn new(len: u64, seed: u64) -> Shuffle {
        Shuffle { len, bits: len.max(2).next_power_of_two().trailing_zeros(), seed }
    }

    fn at(&self, position: u64) -> u64 {
        let mut x = position;
        loop {
            x = self.mix(x);
            if x < self.len {
                return x;
            }
        }
    }

    /// Odd multiplications, additions and xor-shifts are each invertible on `bits` bits, and so is their chain.
    fn mix(&self, mut x: u64) -> u64 {
        let mask = (1 << self.bits) - 1;
        for round in 1..=4u64 {
            x = x.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(self.seed ^ round) & mask;
            x ^= x >> (self.bits / 2).max(1);
        }
        x
    }
}

/// The files, open for direct reads where the file system allows it.
pub(super) struct Files {
    pub(super) files: Vec<File>,
    pub(super) bytes: Vec<u64>,
    /// `"O_DIRECT"`, or why not.
    pub(super) mode: String,
}

pub(super) fn open(request: &Request) -> Result<Files> {
    let mut mode = "O_DIRECT".to_owned();
    let (mut files, mut bytes) = (Vec::new(), Vec::new());
    for path in &request.paths {
        let file = open_one(path, &mut mode).map_err(|e| Failure::file("open", path, &e))?;
        bytes.push(file.metadata().map_err(|e| Failure::file("examine", path, &e))?.len());
        files.push(file);
    }
    Ok(Files { files, bytes, mode })
}

fn open_one(path: &Path, mode: &mut String) -> io::Result<File> {
    open_direct(path).or_else(|error| match error.raw_os_error() {
        Some(libc::EINVAL) => {
            *mode = "buffered (O_DIRECT is refused)".into();
            File::open(path)
        }
        _ => Err(error),
    })
}

/// What came of a read of a reference.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Came {
    Bytes(u64),
    /// It is to be tried again.
    Again,
    Failed(i32),
}

/// As often as strait's own reads are tried again.
const TRIES_MAX: u32 = 8;

/// `result`: bytes, or an errno below 0.
pub(super) fn judge(result: i32, tries: &mut u32) -> Came {
    match -result {
        libc::EAGAIN | libc::EINTR if *tries < TRIES_MAX => {
            *tries += 1;
            Came::Again
        }
        errno if errno > 0 => Came::Failed(errno),
        _ => Came::Bytes(result as u64),
    }
}

/// Whether io_uring_enter(2) may do better the next time.
pub(super) fn is_busy(errno: i32) -> bool {
    matches!(errno, libc::EINTR | libc::EAGAIN | libc::EBUSY)
}

/// What a failed read of a reference means.
pub(super) fn read_failure(path: &Path, offset: u64, errno: i32) -> Failure {
    Failure::file(&format!("read at byte {offset} of"), path, &io::Error::from_raw_os_error(errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_block_of_every_file_comes_once_in_either_order() {
        for seed in [None, Some(1), Some(99)] {
            let blocks = Blocks::new(&[10_000, 0, 4096, 8193], 4096, seed);
            let mut seen: Vec<_> = (0..blocks.len()).map(|position| blocks.at(position)).collect();
            seen.sort();
            assert_eq!(seen, [(0, 0), (0, 4096), (0, 8192), (2, 0), (3, 0), (3, 4096), (3, 8192)]);
        }
    }

    /// Mutants that this catches: a storage that is busy for a moment ends the measurement; one that stays so is asked for ever;
    /// another errno is asked again; a kernel that is short of requests is taken for one that fails.
    #[test]
    fn a_read_is_tried_again_a_few_times_where_that_may_help() {
        let mut tries = 0;
        assert_eq!(judge(4096, &mut tries), Came::Bytes(4096));
        assert_eq!(judge(-libc::EIO, &mut tries), Came::Failed(libc::EIO));
        for errno in [libc::EAGAIN, libc::EINTR].repeat(TRIES_MAX as usize / 2) {
            assert_eq!(judge(-errno, &mut tries), Came::Again);
        }
        assert_eq!(judge(-libc::EAGAIN, &mut tries), Came::Failed(libc::EAGAIN));
        assert!([libc::EINTR, libc::EAGAIN, libc::EBUSY].into_iter().all(is_busy) && !is_busy(libc::EBADF));
    }

    #[test]
    fn a_shuffle_is_a_permutation_and_moves_neighbours_apart() {
        for len in [1, 2, 3, 64, 65, 1000, 4097] {
            let shuffle = Shuffle::new(len, 7);
            let mut seen: Vec<u64> = (0..len).map(|position| shuffle.at(position)).collect();
            let neighbours = seen.windows(2).filter(|pair| pair[0] + 1 == pair[1]).count() as u64;
            assert!(len < 64 || neighbours < len / 8, "{neighbours} of {len}");
            seen.sort();
            assert!(seen.into_iter().eq(0..len), "{len}");
        }
    }
}
