//! What exists on disk: shards, samples, fields, and where each sample's bytes lie.
//!
//! A [`Dataset`] knows extents, never payload: opening one reads headers and indexes only.

mod concat;
mod files;
mod fingerprint;
#[allow(dead_code)]
mod litdata;
#[allow(dead_code)]
mod mds;
#[allow(dead_code)]
mod megatron;
#[allow(dead_code)]
mod npy;
mod open;
#[allow(dead_code)]
mod parse;
mod records;
mod table;
mod tar;
#[allow(dead_code)]
mod tfrecord;
#[allow(dead_code)]
mod tokens;
mod webdataset;

use std::path::Path;
use std::sync::Arc;

use crate::dtype::DType;
use crate::error::Result;
use crate::order::Fingerprint;
use table::Table;

#[cfg(doc)]
use crate::error::Error;

/// A named part of every sample.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// `"jpg"`, `"cls"`, `"record"`.
    pub name: Arc<str>,
    /// Its size where every sample's is the same.
    pub fixed_bytes: Option<u64>,
    /// What its elements are, where the format says so; `None` for bytes that only a decoder understands.
    pub dtype: Option<DType>,
    /// Its shape, the first dimension outermost, where every sample's is the same and the format says so. Empty for one
    /// number. `fixed_bytes` is then the shape's, in elements of `dtype`.
    pub shape: Option<Arc<[u64]>>,
}

impl Field {
    /// A field of plain bytes; `fixed_bytes` where every sample has as many.
    fn of_bytes(name: impl Into<Arc<str>>, fixed_bytes: Option<u64>) -> Field {
        Field { name: name.into(), fixed_bytes, dtype: None, shape: None }
    }
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
    /// `count` records of `record_bytes`, the first at `first`. One field, and its number.
    Records { first: u64, record_bytes: u64, count: u64, field: usize },
    /// Each sample's fields on their own.
    Table(Table),
}

impl Shard {
    /// How many samples the shard holds.
    pub fn samples(&self) -> u64 {
        match &self.layout {
            Layout::Records { count, .. } => *count,
            Layout::Table(table) => table.rows(),
        }
    }
}

/// Shards, fields and the place of every sample.
#[derive(Debug, Clone)]
pub struct Dataset {
    format: &'static str,
    shards: Vec<Shard>,
    fields: Vec<Field>,
    /// `first[i]` is the id of shard `i`'s first sample; one more entry holds the total.
    first: Vec<u64>,
    /// The samples of each dataset that was joined.
    parts: Vec<u64>,
}

impl Dataset {
    /// The shards named, in whatever format they are in: tar files are read as WebDataset, other files as records of
    /// `record_bytes` if that is given.
    ///
    /// A directory stands for the regular files in it, sorted by name; subdirectories and names that begin with a dot
    /// are left out, and so is everything but tar files where there is one. A tar file is told by its content
    /// (`ustar` at byte 257) or its name (`.tar`, `.tgz`, `.tar.gz` ...). To read a file as records no matter what it
    /// looks like, use [`Dataset::records`]; as a tar file, [`Dataset::webdataset`].
    ///
    /// # Errors
    /// Those of [`Dataset::records`] and [`Dataset::webdataset`]; [`Error::Config`] if nothing is named, the files
    /// are of different formats, or there is no way to tell how to read them.
    pub fn open<P: AsRef<Path>>(paths: &[P], record_bytes: Option<u64>) -> Result<Dataset> {
        open::open(paths, record_bytes)
    }

    /// Raw files made of records of `record_bytes` bytes each, one field `"record"`. An empty file has no records.
    ///
    /// # Errors
    /// [`Error::Config`] if `record_bytes` is 0 or no file is named, [`Error::Open`] for what cannot be read,
    /// [`Error::Format`] for what is no regular file or no whole number of records.
    pub fn records<P: AsRef<Path>>(paths: &[P], record_bytes: u64) -> Result<Dataset> {
        records::open(paths, record_bytes)
    }

    /// WebDataset tar shards, indexed from their headers alone; one field per file extension.
    ///
    /// Consecutive members whose names agree up to the first dot form a sample, as WebDataset groups them. The index
    /// takes 8 bytes per sample and field (16 in a shard of 2 TiB and more, or with members of 4 GiB and more), and
    /// never more than the shards themselves and half a MiB each.
    ///
    /// # Errors
    /// [`Error::Config`] if no file is named, [`Error::Open`] for what cannot be read, [`Error::Io`] where the
    /// storage fails, and [`Error::Format`], with the byte, for what is no whole tar file or has names that are no
    /// sample's: absolute, with `..`, or twice in one sample. Compressed tar files are refused.
    pub fn webdataset<P: AsRef<Path>>(paths: &[P]) -> Result<Dataset> {
        webdataset::open(paths)
    }

    /// Several datasets as one: what [`Builder::mixture`](crate::Builder::mixture) mixes. Sample ids count through the
    /// datasets in the order given.
    ///
    /// Fields are united by name: a sample lacks those that its dataset does not have. A dataset that is itself joined
    /// counts as one.
    ///
    /// # Errors
    /// [`Error::Config`] if there is none, or they have more than 4096 fields together.
    pub fn concat(datasets: Vec<Dataset>) -> Result<Dataset> {
        concat::concat(datasets)
    }

    /// The number of samples of each dataset that was [joined](Self::concat); of this one alone, where none was.
    pub fn parts(&self) -> &[u64] {
        &self.parts
    }

    /// The format's name: `"records"`, `"webdataset"`; `"mixed"` where datasets of different formats are joined.
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

    /// The bytes of the largest sample, all fields together. Takes a pass over the index.
    pub fn largest_sample(&self) -> u64 {
        let all: Vec<usize> = (0..self.fields.len()).collect();
        self.largest_sample_of(&all)
    }

    /// The same, these fields together.
    pub(crate) fn largest_sample_of(&self, fields: &[usize]) -> u64 {
        let largest = |shard: &Shard| match &shard.layout {
            Layout::Records { record_bytes, field, .. } => {
                fields.iter().filter(|&own| own == field).count() as u64 * record_bytes
            }
            Layout::Table(table) => {
                let sample = |row| fields.iter().filter_map(|&field| table.get(row, field)).map(|e| e.len).sum();
                (0..table.rows()).map(sample).max().unwrap_or(0)
            }
        };
        self.shards.iter().map(largest).max().unwrap_or(0)
    }

    /// Where field number `field` of a sample lies; `None` if the sample lacks that field.
    ///
    /// # Panics
    /// If `sample` or `field` is out of range.
    pub fn extent(&self, sample: u64, field: usize) -> Option<Extent> {
        assert!(sample < self.len() && field < self.fields.len(), "sample {sample}, field {field}: out of range");
        let shard = self.first.partition_point(|&first| first <= sample) - 1;
        let local = sample - self.first[shard];
        let at = |offset, len| Extent { shard: shard as u32, offset, len };
        match &self.shards[shard].layout {
            Layout::Records { field: own, .. } if *own != field => None,
            Layout::Records { first, record_bytes, .. } => Some(at(first + local * record_bytes, *record_bytes)),
            Layout::Table(table) => table.get(local, field).map(|entry| at(entry.offset, entry.len)),
        }
    }

    /// What stays the same as long as the dataset does: by it a resumed run notices another one, and names what differs.
    ///
    /// Directories are not in it, so a dataset may move; contents are not either, so a shard rewritten to the same size
    /// goes unnoticed.
    pub fn fingerprint(&self) -> Fingerprint {
        fingerprint::of(self)
    }

    /// Puts shards together; their tables already know the numbers of `fields`.
    fn new(format: &'static str, shards: Vec<Shard>, fields: Vec<Field>) -> Dataset {
        let mut first = Vec::with_capacity(shards.len() + 1);
        let mut total = 0;
        for shard in &shards {
            first.push(total);
            total += shard.samples();
        }
        first.push(total);
        Dataset { format, shards, fields, first, parts: vec![total] }
    }
}
