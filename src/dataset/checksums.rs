//! CRC32C of each field of each sample of a shard.

use super::format::Indexed;
use super::reading::Reading;
use crate::error::{Error, Result};

/// What one read brings.
const PIECE_BYTES: u64 = 4 << 20;
/// Direct reads of such pieces are multiples of any block.
const UNIT_MAX: u64 = 4096;

/// The checksums, row after row; 0 where a sample lacks the field. `read` is told of bytes as they are read.
pub(super) fn of(indexed: &Indexed, read: &mut dyn FnMut(u64) -> Result<()>) -> Result<Vec<u32>> {
    let width = indexed.fields.len();
    let mut crcs = vec![0; indexed.table.rows() as usize * width];
    each(indexed, read, &mut |row, column, _, crc| {
        crcs[row as usize * width + column] = crc;
        Ok(())
    })?;
    Ok(crcs)
}

/// Compares a shard with the checksums in its index. The first that differs is the error.
pub(super) fn compare(indexed: &Indexed, read: &mut dyn FnMut(u64) -> Result<()>) -> Result<()> {
    each(indexed, read, &mut |row, column, (offset, bytes), crc| match indexed.table.cell_crc(row, column)? {
        Some(want) if want != crc => Err(Error::Corrupt {
            path: indexed.path.clone(),
            offset,
            bytes,
            problem: format!(
                "field {} of sample {row} of this shard has the CRC32C {crc:#010x} and not {want:#010x}",
                indexed.fields[column].name
            ),
        }),
        _ => Ok(()),
    })
}

/// Calls `found` with each entry's row, column, place and checksum.
fn each(
    indexed: &Indexed,
    read: &mut dyn FnMut(u64) -> Result<()>,
    found: &mut dyn FnMut(u64, usize, (u64, u64), u32) -> Result<()>,
) -> Result<()> {
    let Indexed { path, bytes, fields, table, .. } = indexed;
    let mut shard = Ahead { file: Reading::open(path, UNIT_MAX)?, start: 0, data: Vec::new(), read };
    let mut cell = |row, column| {
        let Some(entry) = table.cell(row, column, *bytes)? else { return Ok(()) };
        let crc = shard.crc(entry.offset, entry.len)?;
        found(row, column, (entry.offset, entry.len), crc)
    };
    // Columns that lie one behind another, as tensors do, are read so; those of tar files lie side by side.
    match table.is_even() {
        true => (0..fields.len()).try_for_each(|column| (0..table.rows()).try_for_each(|row| cell(row, column))),
        false => (0..table.rows()).try_for_each(|row| (0..fields.len()).try_for_each(|column| cell(row, column))),
    }
}

/// Reads on in large pieces, as long as entries follow each other.
struct Ahead<'a> {
    file: Reading<'a>,
    start: u64,
    data: Vec<u8>,
    read: &'a mut dyn FnMut(u64) -> Result<()>,
}

impl Ahead<'_> {
    fn crc(&mut self, mut offset: u64, mut len: u64) -> Result<u32> {
        let mut crc = 0;
        while len > 0 {
            let end = self.start + self.data.len() as u64;
            if !(self.start..end).contains(&offset) {
                let want = PIECE_BYTES.min(self.file.bytes().saturating_sub(offset)).max(1);
                let piece = self.file.piece(offset, want)?;
                self.data.clear();
                self.data.extend_from_slice(piece);
                self.start = offset;
                (self.read)(self.data.len() as u64)?;
            }
            let held = &self.data[(offset - self.start) as usize..];
            let part = &held[..held.len().min(usize::try_from(len).unwrap_or(usize::MAX))];
            crc = crc32c::crc32c_append(crc, part);
            (offset, len) = (offset + part.len() as u64, len - part.len() as u64);
        }
        Ok(crc)
    }
}
