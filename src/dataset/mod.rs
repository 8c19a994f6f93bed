//! What exists on disk: shards, samples, fields, and where each sample's bytes lie.
//!
//! A [`Dataset`] knows extents, never payload: opening one reads headers and indexes only.

mod records;
mod webdataset;

use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Result};

/// A named part of every sample.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// `"jpg"`, `"cls"`, `"record"`.
    pub name: Arc<str>,
    /// Its size where every sample's is the same.
    pub fixed_bytes: Option<u64>,
}

/// A byte range of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Index into [`Dataset::shards`].
    pub shard: u32,
    /// First byte, from the start of the file.
    pub offset: u64,
    /// Length in bytes; may be 0.
    pub len: u64,
}

/// One file of a dataset.
#[derive(Debug, Clone)]
pub struct Shard {
    /// The file.
    pub path: Arc<Path>,
    /// Its size when it was indexed; every extent lies inside.
    pub bytes: u64,
    layout: Layout,
}

/// Where a shard's samples lie.
#[derive(Debug, Clone)]
enum Layout {
    /// `count` records of `record_bytes`, the first at `first`. One field.
    Records { first: u64, record_bytes: u64, count: u64 },
    /// Entry `sample * fields + field`; an `offset` of [`ABSENT`] marks a field that the sample lacks.
    Table { entries: Vec<Entry>, samples: u64 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    offset: u64,
    len: u64,
}

/// The offset of a field that a sample does not have.
const ABSENT: u64 = u64::MAX;

/// Shards, fields and the place of every sample.
#[derive(Debug, Clone)]
pub struct Dataset {
    format: &'static str,
    shards: Vec<Shard>,
    fields: Vec<Field>,
    /// `first[i]` is the id of shard `i`'s first sample; one more entry holds the total.
    first: Vec<u64>,
}

impl Dataset {
    /// Raw files made of records of one size, one field `"record"`. A file that is no whole number of records is an error.
    pub fn records<P: AsRef<Path>>(paths: &[P], record_bytes: u64) -> Result<Dataset> {
        records::open(paths, record_bytes)
    }

    /// WebDataset tar shards, indexed from their headers alone; one field per file extension.
    ///
    /// Consecutive members whose names agree up to the first dot form a sample, as WebDataset groups them.
    pub fn webdataset<P: AsRef<Path>>(paths: &[P]) -> Result<Dataset> {
        webdataset::open(paths)
    }

    /// The format's name: `"records"`, `"webdataset"`.
    pub fn format(&self) -> &'static str {
        self.format
    }

    /// The files.
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// The fields that samples have, in the order in which they are addressed.
    pub fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// The number of samples. Sample ids are `0..len()`, shard by shard in the order given.
    pub fn len(&self) -> u64 {
        self.first.last().copied().unwrap_or(0)
    }

    /// Whether there is no sample at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where field number `field` of a sample lies; `None` if the sample lacks that field.
    ///
    /// # Panics
    /// If `sample` or `field` is out of range.
    pub fn extent(&self, sample: u64, field: usize) -> Option<Extent> {
        let shard = self.first.partition_point(|&first| first <= sample) - 1;
        let local = sample - self.first[shard];
        let at = |offset, len| Some(Extent { shard: shard as u32, offset, len });
        match &self.shards[shard].layout {
            Layout::Records { first, record_bytes, count } => {
                assert!(local < *count && field == 0, "sample {sample}, field {field}: out of range");
                at(first + local * record_bytes, *record_bytes)
            }
            Layout::Table { entries, .. } => {
                let entry = entries[local as usize * self.fields.len() + field];
                (entry.offset != ABSENT).then_some(())?;
                at(entry.offset, entry.len)
            }
        }
    }

    /// Puts shards together; their tables already have one entry per field of `fields`.
    fn new(format: &'static str, shards: Vec<Shard>, fields: Vec<Field>) -> Dataset {
        let mut first = Vec::with_capacity(shards.len() + 1);
        let mut total = 0;
        for shard in &shards {
            first.push(total);
            total += match &shard.layout {
                Layout::Records { count, .. } => *count,
                Layout::Table { samples, .. } => *samples,
            };
        }
        first.push(total);
        Dataset { format, shards, fields, first }
    }
}

/// The size of a regular file that this process may read; anything else is an error that says what it is.
fn file_bytes(path: &Path) -> Result<u64> {
    let open_error = |e| Error::open(path, &e);
    let meta = std::fs::metadata(path).map_err(open_error)?;
    if meta.is_dir() {
        return Err(Error::Open { path: path.into(), errno: libc::EISDIR });
    }
    if !meta.is_file() {
        return Err(Error::format(path, 0, "not a regular file: name a file on a file system"));
    }
    std::fs::File::open(path).map_err(open_error)?;
    Ok(meta.len())
}
