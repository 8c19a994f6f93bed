//! The few bytes of a shard that an index needs, read with few calls.

use std::path::Path;

use super::reading::Reading;
use crate::error::Result;

/// A next header this near is reached by reading on, in bytes.
const NEAR_BYTES: u64 = 4096;

/// The unit of a tar file.
const BLOCK: u64 = 512;

/// What a read behind a hop is for, in bytes: a member's header and, before it, a PAX header with one block of body.
/// A second read for them would cost another wait.
const HEADERS_BYTES: u64 = 3 * BLOCK;

/// What one read brings at most, in bytes, where headers lie so close that reading on is cheaper than hopping.
const WINDOW_BYTES_MAX: u64 = 256 << 10;

/// A window onto a file that hops from header to header, over the payload between them.
///
/// It grows while the next header lies less than a page behind it, and is small again after a longer hop: so
/// payload is read only of members that share their pages with headers. Where the disk serves single blocks, headers
/// alone are read, past the page cache: of 100 KiB members 1.5 %, against a page each, 4 %, through it.
pub(super) struct Window<'a> {
    file: Reading<'a>,
    start: u64,
    data: Vec<u8>,
    ahead: u64,
    /// Whether the last member had an extension header before its own, as the next will have.
    extended: bool,
}

impl<'a> Window<'a> {
    pub(super) fn open(path: &'a Path) -> Result<Window<'a>> {
        let file = Reading::open(path, BLOCK)?;
        Ok(Window { file, start: 0, data: Vec::new(), ahead: HEADERS_BYTES, extended: true })
    }

    /// The file's size when it was opened.
    pub(super) fn bytes(&self) -> u64 {
        self.file.bytes()
    }

    /// Says whether members have extension headers, so that these are read along.
    pub(super) fn expect_extensions(&mut self, extended: bool) {
        self.extended = extended;
    }

    /// The block at `offset`, a multiple of the block size; the whole block must lie inside the file.
    pub(super) fn block(&mut self, offset: u64) -> Result<[u8; BLOCK as usize]> {
        // The window starts at a block and ends at one or at the file's end, so it holds a block wholly or not at all.
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
        let near = offset >= end && offset - end < NEAR_BYTES;
        let hop = if self.extended { HEADERS_BYTES } else { BLOCK };
        self.ahead = if near { (self.ahead * 2).min(WINDOW_BYTES_MAX) } else { hop };
        self.fill_from(offset)
    }

    /// Reads on so that these bytes, which lie inside the file, are held together, unless they are too many: for who goes
    /// over them twice.
    pub(super) fn hold(&mut self, offset: u64, len: u64) -> Result<()> {
        let end = self.start + self.data.len() as u64;
        let held = (self.start..end).contains(&offset) && len <= end - offset;
        if held || len > WINDOW_BYTES_MAX {
            return Ok(());
        }
        self.ahead = WINDOW_BYTES_MAX;
        self.fill_from(offset)
    }

    fn fill_from(&mut self, offset: u64) -> Result<()> {
        let unit = self.file.unit().max(BLOCK);
        let stop = (offset + self.ahead).next_multiple_of(unit).min(self.bytes());
        let piece = self.file.piece(offset, stop - offset)?;
        self.start = offset;
        self.data.clear();
        self.data.extend_from_slice(&piece[..(stop - offset) as usize]);
        Ok(())
    }
}
