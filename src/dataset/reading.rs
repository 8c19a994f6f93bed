//! Reads a shard while it is indexed, past the page cache where the disk serves pieces small enough.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{Advice, AtFlags, StatxFlags, fadvise, statx};

use crate::error::{Error, Result};
use crate::file::{open_file, read_at};

/// The unit of the page cache, which fetches no less, and the strictest alignment of memory for direct reads.
const PAGE: usize = 4096;

/// Of a small file direct reads save little, and one just written would first be flushed.
const DIRECT_BYTES_MIN: u64 = 1 << 20;

/// A shard that is read piece by piece. One buffer, which holds the last piece.
pub(super) struct Reading<'a> {
    path: &'a Path,
    file: File,
    /// The file's size when it was opened.
    bytes: u64,
    /// Pieces begin and end at multiples of this; the page cache is bypassed if it is below [`PAGE`].
    unit: u64,
    direct: bool,
    buffer: Vec<u8>,
}

impl<'a> Reading<'a> {
    /// Opens a shard for reads that are multiples of at most `unit_max` bytes, or else go through the page cache.
    ///
    /// # Errors
    /// [`Error::Open`]; [`Error::Format`] for what is no regular file.
    pub(super) fn open(path: &'a Path, unit_max: u64) -> Result<Reading<'a>> {
        Reading::open_from(path, unit_max, DIRECT_BYTES_MIN)
    }

    /// Files of fewer than `direct_min` bytes go through the page cache.
    fn open_from(path: &'a Path, unit_max: u64, direct_min: u64) -> Result<Reading<'a>> {
        let (file, bytes) = open_file(path)?;
        let reading = |file, unit, direct| Reading { path, file, bytes, unit, direct, buffer: Vec::new() };
        if bytes >= direct_min
            && let Some(unit) = direct_unit(&file).filter(|&unit| unit <= unit_max)
            && let Ok(file) = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path)
        {
            return Ok(reading(file, unit, true));
        }
        // Reading ahead would fetch the payload that is hopped over.
        let _ = fadvise(&file, 0, None, Advice::Random);
        Ok(reading(file, PAGE as u64, false))
    }

    /// The file's size.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What a piece is a multiple of, in bytes: reading less saves nothing.
    pub(super) fn unit(&self) -> u64 {
        self.unit
    }

    /// Reads a piece; what comes back is `offset..offset + len` and perhaps more behind it, all inside the file.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Truncated`] where the file does not have those bytes (any more).
    pub(super) fn piece(&mut self, offset: u64, len: u64) -> Result<&[u8]> {
        let end = offset.checked_add(len).filter(|&end| end <= self.bytes);
        let start = offset / self.unit * self.unit;
        let stop = end.map(|end| end.next_multiple_of(self.unit)).unwrap_or(start);
        let want = (stop - start) as usize;
        if self.buffer.len() < want + PAGE {
            self.buffer = vec![0; want + PAGE];
        }
        // Aligned in memory, too.
        let place = self.buffer.as_ptr().align_offset(PAGE);
        let mut got = read_at(&self.file, self.path, start, &mut self.buffer[place..place + want]);
        if let Err(Error::Io { errno: libc::EINVAL, .. }) = &got
            && self.direct
        {
            // A file system may promise direct reads and refuse them.
            (self.file, self.direct) = (open_file(self.path)?.0, false);
            got = read_at(&self.file, self.path, start, &mut self.buffer[place..place + want]);
        }
        let got = (got? as u64).min(self.bytes - start.min(self.bytes));
        let lead = offset - start;
        if end.is_none() || got < lead + len {
            return Err(Error::Truncated { path: self.path.into(), offset, want: len, got: got.saturating_sub(lead) });
        }
        Ok(&self.buffer[place + lead as usize..place + got as usize])
    }
}

/// The smallest direct read of a file; `None` where there are none, or nobody says (before Linux 6.1).
fn direct_unit(file: &File) -> Option<u64> {
    let stat = statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN).ok()?;
    let (unit, memory) = (stat.stx_dio_offset_align, stat.stx_dio_mem_align);
    let known = stat.stx_mask & StatxFlags::DIOALIGN.bits() != 0;
    (known && unit.is_power_of_two() && memory as usize <= PAGE).then_some(u64::from(unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_the_files_bytes_wherever_they_begin() {
        let file = tempfile::NamedTempFile::new_in(".").unwrap();
        for bytes in [0usize, 1, 511, 512, 513, 4096, 4097, 10_000] {
            let content: Vec<u8> = (0..bytes).map(|i| (i * 7 + i / 256) as u8).collect();
            std::fs::write(file.path(), &content).unwrap();
            for unit_max in [0, 512, 4096] {
                let mut reading = Reading::open_from(file.path(), unit_max, 0).unwrap();
                for (offset, len) in [(0, bytes), (0, bytes.min(1)), (bytes / 2, bytes / 3), (bytes, 0)] {
                    let piece = reading.piece(offset as u64, len as u64).unwrap();
                    assert_eq!(piece[..len], content[offset..offset + len], "{bytes} {offset} {len}");
                    assert!(content[offset..].starts_with(piece), "{bytes} {offset} {len}");
                }
                for (offset, len) in [(bytes as u64, 1), (0, bytes as u64 + 1), (u64::MAX, 1), (u64::MAX, 0)] {
                    assert!(matches!(reading.piece(offset, len), Err(Error::Truncated { .. })), "{offset} {len}");
                }
            }
        }
    }
}
