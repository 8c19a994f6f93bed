//! A sidecar: one small file per shard that says where its samples lie, and, if asked for, what their checksums are.
//!
//! ```text
//!   a.tar          the shard                    a.tar.strait    head | numbers
//!                                                               `-- CRC32C of itself, and of each 64 KiB of numbers
//! ```
//! The head is read when a dataset is opened, the numbers as samples are looked up: so opening costs a few hundred
//! bytes per shard, and what was damaged meanwhile is noticed where it matters. A sidecar is taken for its shard's if
//! size and modification time are those that it was made from.

mod head;
mod place;

use std::fs::File;
use std::hash::Hasher;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use xxhash_rust::xxh3::Xxh3;

use super::body::{Body, Bytes, SUM_BYTES};
use super::format::{Format, Indexed, Source};
use super::merge::FIELDS_MAX;
use super::options::Options;
use super::table::Table;
use crate::error::{Error, Result};
use crate::file::{open_file, read_at};
use crate::memory::Mapping;
use head::{Column, Head, START_BYTES};
pub(super) use place::{ENDING, cache, place_for_reading, write};

/// What the head of a sidecar has room for.
const NAME_BYTES_MAX: usize = u16::MAX as usize;
const DIMENSIONS_MAX: usize = 64;

/// Read at once when a sidecar is opened; smaller ones are not mapped at all.
const FIRST_BYTES: usize = 4096;

/// What a shard was when it was indexed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    /// Its size.
    pub(super) bytes: u64,
    /// Its modification time, in nanoseconds since 1970.
    pub(super) mtime_ns: i64,
    /// A hash of the options that matter, and of size and time of the files beside it that say where samples lie.
    pub(super) made_of: u64,
}

impl Stamp {
    pub(super) fn of(source: &Source, format: Format, options: &Options) -> Result<Stamp> {
        let stat = |path: &Path| std::fs::metadata(path).map_err(|e| Error::open(path, &e));
        let time = |meta: &std::fs::Metadata| meta.mtime().wrapping_mul(1_000_000_000).wrapping_add(meta.mtime_nsec());
        let mut hash = Xxh3::new();
        options.hash(format, &mut hash);
        for beside in &source.beside {
            let meta = stat(beside)?;
            hash.write_u64(meta.len());
            hash.write_i64(time(&meta));
        }
        let meta = stat(&source.path)?;
        Ok(Stamp { bytes: meta.len(), mtime_ns: time(&meta), made_of: hash.finish() })
    }

    /// What differs from the shard as it is `now`.
    fn differs(&self, now: &Stamp) -> Option<String> {
        match () {
            () if self.bytes != now.bytes => Some(format!("the shard had {} bytes and has {}", self.bytes, now.bytes)),
            () if self.mtime_ns != now.mtime_ns => Some("the shard was modified since".into()),
            () if self.made_of != now.made_of => {
                Some("it was made with other options, or a file beside the shard was modified since".into())
            }
            () => None,
        }
    }
}

/// Blocks that a fingerprint is made of, spread evenly over the shard, the first and the last among them.
const FINGERPRINT_BLOCKS: u64 = 16;
const FINGERPRINT_BLOCK_BYTES: u64 = 4096;

/// A cheap hash of a shard's content: tells one that was rewritten with its size kept and its time put back. XXH3 of its
/// size and of 16 blocks of 4 KiB; of all of it, up to 64 KiB.
pub(super) fn fingerprint(path: &Path) -> Result<u64> {
    let (file, bytes) = open_file(path)?;
    let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Random);
    let mut hash = Xxh3::new();
    hash.write_u64(bytes);
    let mut add = |offset: u64, len: u64| {
        let mut block = vec![0; len as usize];
        let got = read_at(&file, path, offset, &mut block)?;
        hash.update(&block[..got]);
        Ok(())
    };
    if bytes <= FINGERPRINT_BLOCKS * FINGERPRINT_BLOCK_BYTES {
        add(0, bytes)?;
    } else {
        let last = u128::from(bytes - FINGERPRINT_BLOCK_BYTES);
        for block in 0..u128::from(FINGERPRINT_BLOCKS) {
            // Whole blocks of the disk, but for the last.
            let spread = (last * block / u128::from(FINGERPRINT_BLOCKS - 1)) as u64;
            let offset = if block + 1 < FINGERPRINT_BLOCKS.into() { spread / 4096 * 4096 } else { spread };
            add(offset, FINGERPRINT_BLOCK_BYTES)?;
        }
    }
    Ok(hash.finish())
}

/// What is at a sidecar's place.
pub(super) enum Found {
    Nothing,
    /// The shard's index.
    Index(Box<Sidecar>),
    /// A file that cannot be used, and why.
    Unusable(String),
}

/// A sidecar that is its shard's.
pub(super) struct Sidecar {
    pub(super) indexed: Indexed,
    pub(super) fingerprint: u64,
    pub(super) checksums: bool,
}

/// Looks for the index of a shard that is `now` so.
pub(super) fn find(sidecar: &Path, shard: &Path, format: Format, now: &Stamp) -> Found {
    let (file, bytes) = match open_file(sidecar) {
        Ok(opened) => opened,
        Err(Error::Open { errno: libc::ENOENT | libc::ENOTDIR, .. }) => return Found::Nothing,
        Err(e) => return Found::Unusable(e.to_string()),
    };
    match load(&file, bytes, sidecar, shard, format, now) {
        Ok(found) => Found::Index(Box::new(found)),
        Err(problem) => Found::Unusable(problem),
    }
}

/// Whether the index there, whatever else it says, was made with checksums. What is damaged says nothing.
pub(super) fn had_checksums(sidecar: &Path) -> bool {
    let head = || {
        let (file, bytes) = open_file(sidecar).ok()?;
        let mut start = vec![0; START_BYTES];
        read_at(&file, sidecar, 0, &mut start).ok()?;
        let (head_bytes, _) = head::sizes(&start).ok().filter(|sizes| sizes.0 <= bytes)?;
        let mut head = vec![0; head_bytes as usize];
        read_at(&file, sidecar, 0, &mut head).ok()?;
        Head::decode(&head).ok()
    };
    head().is_some_and(|head| head.has_checksums())
}

fn load(file: &File, bytes: u64, sidecar: &Path, shard: &Path, format: Format, now: &Stamp) -> Result<Sidecar, String> {
    let read = |len: u64| {
        let mut out = vec![0; len as usize];
        let got = read_at(file, sidecar, 0, &mut out).map_err(|e| e.to_string())?;
        out.truncate(got);
        Ok::<_, String>(out)
    };
    let mut start = read(bytes.min(FIRST_BYTES as u64))?;
    let (head_bytes, all_bytes) = head::sizes(&start[..start.len().min(START_BYTES)])?;
    if all_bytes != bytes {
        return Err(format!("it has {bytes} bytes and should have {all_bytes}"));
    }
    if head_bytes > start.len() as u64 {
        start = read(head_bytes)?;
    }
    let head = Head::decode(start.get(..head_bytes as usize).ok_or("it was cut short")?)?;
    if head.format != format {
        return Err(format!("it is the index of a shard in the format {}", head.format));
    }
    if let Some(difference) = head.stamp.differs(now) {
        return Err(difference);
    }
    if head.sums.len() as u64 != (all_bytes - head_bytes).div_ceil(SUM_BYTES as u64) {
        return Err("it has not as many checksums as numbers".into());
    }
    let checksums = head.has_checksums();
    let sums = head.sums.into();
    let body = match start.len() as u64 == bytes {
        true => Bytes::Owned(start.into()),
        false => match Mapping::of(file) {
            Ok(map) if map.len() as u64 == bytes => Bytes::Mapped(map),
            Ok(_) => return Err("it changed while it was opened".into()),
            // More mappings than the kernel allows.
            Err(_) => Bytes::Owned(read(bytes)?.into()),
        },
    };
    let body = Body::summed(body, sidecar, head_bytes as usize, sums);
    let mut fields = Vec::with_capacity(head.columns.len());
    let mut largest = Vec::with_capacity(head.columns.len() + 1);
    let mut cells = Vec::with_capacity(head.columns.len());
    let mut crcs = Vec::new();
    for column in head.columns {
        fields.push(column.field);
        largest.push(column.largest);
        cells.push(column.cells.moved_by(head_bytes));
        crcs.extend(column.crcs.map(|crcs| crcs.moved_by(head_bytes)));
    }
    largest.push(head.largest);
    let crcs = checksums.then_some(crcs);
    let table = Table::over(body, head.samples, cells).and_then(|table| table.with(crcs, largest));
    let table = table.map_err(|e| e.to_string())?;
    let indexed = Indexed { path: shard.into(), bytes: now.bytes, fields, met_at: Vec::new(), table };
    Ok(Sidecar { indexed, fingerprint: head.fingerprint, checksums })
}

/// The bytes of a sidecar. `crcs` are row after row.
pub(super) fn encode(
    indexed: &Indexed,
    format: Format,
    stamp: Stamp,
    fingerprint: u64,
    crcs: Option<&[u32]>,
) -> Result<Vec<u8>> {
    let fits = |field: &super::Field| {
        field.name.len() <= NAME_BYTES_MAX && field.shape.as_ref().is_none_or(|shape| shape.len() <= DIMENSIONS_MAX)
    };
    if indexed.fields.len() > FIELDS_MAX || !indexed.fields.iter().all(fits) {
        let problem = format!(
            "no index can be written of {} fields; at most {FIELDS_MAX} fit, with names of {NAME_BYTES_MAX} bytes and \
             {DIMENSIONS_MAX} dimensions",
            indexed.fields.len()
        );
        return Err(Error::format(&*indexed.path, None, problem));
    }
    let (table, mut numbers) = indexed.table.portable(indexed.bytes, indexed.fields.len())?;
    let largest = table.largest(indexed.bytes)?;
    let width = indexed.fields.len() as u64;
    numbers.resize(numbers.len().next_multiple_of(8), 0);
    let at = numbers.len() as u64;
    numbers.extend(crcs.into_iter().flatten().flat_map(|crc| crc.to_le_bytes()));
    let column = |(i, (field, cells)): (usize, (&super::Field, &_))| Column {
        field: field.clone(),
        largest: largest[i],
        cells: *cells,
        crcs: crcs.map(|_| super::table::Numbers { at: at + 4 * i as u64, stride: 4 * width, wide: false, unit: 1 }),
    };
    let head = Head {
        format,
        stamp,
        fingerprint,
        samples: table.rows(),
        largest: largest[indexed.fields.len()],
        columns: indexed.fields.iter().zip(table.cells()).enumerate().map(column).collect(),
        sums: numbers.chunks(SUM_BYTES).map(crc32c::crc32c).collect(),
    };
    let mut bytes = head.encode(numbers.len() as u64);
    bytes.append(&mut numbers);
    Ok(bytes)
}

#[cfg(test)]
mod tests;
