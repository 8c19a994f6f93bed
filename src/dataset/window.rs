//! The few bytes of a shard that an index needs, read with few calls.

use std::fs::File;
use std::path::Path;

use super::files::{open_file, read_at};
use crate::error::{Error, Result};

/// Reads end at a multiple of this, in bytes: the page cache fetches no less, so a shorter read saves nothing.
const PAGE: u64 = 4096;

/// The unit of a tar file.
const BLOCK: u64 = 512;

/// What a read behind a hop is for, in bytes: a member's header and, before it, a PAX header with one block of body.
/// A second read for them would look like sequential reading, and the kernel would read ahead into payload.
const HEADERS_BYTES: u64 = 3 * BLOCK;

/// What one read brings at most, in bytes, where headers lie so close that reading on is cheaper than hopping.
const WINDOW_BYTES_MAX: u64 = 64 << 10;

/// A window onto a file that hops from header to header, over the payload between them.
///
/// It grows while the next header lies less than a page behind it, and is small again after a longer hop: so
/// payload is read only of members that share their pages with headers.
pub(super) struct Window<'a> {
    path: &'a Path,
    file: File,
    /// The file's size when it was opened.
    bytes: u64,
    start: u64,
    data: Vec<u8>,
    ahead: u64,
}

impl<'a> Window<'a> {
    pub(super) fn open(path: &'a Path) -> Result<Window<'a>> {
        let (file, bytes) = open_file(path)?;
        Ok(Window { path, file, bytes, start: 0, data: Vec::new(), ahead: HEADERS_BYTES })
    }

    /// The file's size.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The block at `offset`, a multiple of the block size; the whole block must lie inside the file.
    pub(super) fn block(&mut self, offset: u64) -> Result<[u8; BLOCK as usize]> {
        // The window starts at a block and ends at a page or at the file's end, so it holds a block wholly or not at all.
        let mut block = [0; BLOCK as usize];
        block.copy_from_slice(&self.from(offset)?[..BLOCK as usize]);
        Ok(block)
    }

    /// Puts `len` bytes from `offset`, a multiple of the block size, into `out`; they must lie inside the file.
    pub(super) fn read(&mut self, offset: u64, len: u64, out: &mut Vec<u8>) -> Result<()> {
        out.clear();
        while (out.len() as u64) < len {
            let rest = (len - out.len() as u64) as usize;
            let part = self.from(offset + out.len() as u64)?;
            out.extend_from_slice(&part[..rest.min(part.len())]);
        }
        Ok(())
    }

    /// What the window holds from `offset` on; never empty.
    pub(super) fn from(&mut self, offset: u64) -> Result<&[u8]> {
        let end = self.start + self.data.len() as u64;
        if !(self.start..end).contains(&offset) {
            self.fill(offset, end)?;
        }
        Ok(&self.data[(offset - self.start) as usize..])
    }

    fn fill(&mut self, offset: u64, end: u64) -> Result<()> {
        let near = offset >= end && offset - end < PAGE;
        self.ahead = if near { (self.ahead * 2).min(WINDOW_BYTES_MAX) } else { HEADERS_BYTES };
        let stop = (offset + self.ahead).next_multiple_of(PAGE).min(self.bytes);
        self.start = offset;
        self.data.resize((stop - offset) as usize, 0);
        let got = read_at(&self.file, self.path, offset, &mut self.data)?;
        if got < self.data.len() {
            let (want, got) = (self.data.len() as u64, got as u64);
            return Err(Error::Truncated { path: self.path.into(), offset, want, got });
        }
        Ok(())
    }
}
