//! What exists on disk: shards, samples, fields, and where each sample's bytes lie.
//!
//! A [`Dataset`] knows extents, never payload: opening one reads headers and indexes only.

mod beneath;
mod body;
mod builder;
mod checksums;
mod concat;
mod fingerprint;
mod format;
mod indexing;
mod litdata;
mod mds;
mod megatron;
mod merge;
mod npy;
mod open;
mod options;
mod parse;
mod reading;
mod records;
mod refused;
mod rows;
mod side_by_side;
mod sidecar;
mod sized;
mod table;
mod tar;
mod tfrecord;
mod tokens;
mod webdataset;
mod whole;
mod window;

use std::path::Path;
use std::sync::{Arc, OnceLock};

pub use format::Format;
pub use indexing::{IndexOutcome, IndexProgress, Indexing, ShardIndex};
pub use open::IndexState;
pub use options::Options;
pub use tfrecord::varints;

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::order::Fingerprint;
use crate::stats::Fallback;
use table::Table;

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
    /// Integers as a `tf.train.Example` has them, of no fixed size: [`varints`] decodes them.
    pub varints: bool,
    /// Whether the format says that it is text: UTF-8, which may be JSON or a number in digits.
    pub text: bool,
}

impl Field {
    /// A field of plain bytes; `fixed_bytes` where every sample has as many.
    fn of_bytes(name: impl Into<Arc<str>>, fixed_bytes: Option<u64>) -> Field {
        Field { name: name.into(), fixed_bytes, dtype: None, shape: None, text: false, varints: false }
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
    table: Table,
    /// Samples are records or single numbers, one behind another.
    one_document: bool,
}

impl Shard {
    /// How many samples the shard holds.
    pub fn samples(&self) -> u64 {
        self.table.rows()
    }

    /// Whether its samples are no documents of their own: to [windows](crate::Builder::windows) of tokens it is one.
    pub(crate) fn is_one_document(&self) -> bool {
        self.one_document
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
    index: IndexState,
    /// The first damage that a look-up met.
    damage: Arc<OnceLock<Error>>,
    /// What had to be done before it could be read.
    fallbacks: Vec<Fallback>,
}

impl Dataset {
    /// The shards named, in whatever format they are in; [`Dataset::options`] says what files do not say themselves.
    ///
    /// A file's format is told by its content, or by its name where formats have no mark. A directory stands for the
    /// regular files in it, sorted by name: for those of the one format that is recognised, else for all but notes
    /// (`README`, `.md`, `.txt`, `.json`, `.py` ..), which are data only where they are named. Subdirectories, names that
    /// begin with a dot, and sidecar indexes are left out. What is in no known format is read as records if
    /// [`record_bytes`](Options::record_bytes) is given, as tokens if [`dtype`](Options::dtype) is; such files beside
    /// recognised ones are then refused. [`Options::format`] forces a format.
    ///
    /// # Errors
    /// [`Error::Config`] if nothing is named, the files are of different formats, or there is no way to tell how to
    /// read them; [`Error::Open`] for what cannot be read; [`Error::Io`] where the storage fails; [`Error::Format`],
    /// with the byte, for what is not what its format demands, or is of a format that is recognised and not read, with
    /// what to do instead.
    pub fn open<P: AsRef<Path>>(paths: &[P]) -> Result<Dataset> {
        Dataset::options().open(paths)
    }

    /// How to open a dataset whose files do not say all of themselves.
    pub fn options() -> Options {
        Options::default()
    }

    /// Raw files made of records of `record_bytes` bytes each, one field `"record"`. An empty file has no records.
    ///
    /// # Errors
    /// [`Error::Config`] if `record_bytes` is 0 or no file is named, [`Error::Open`] for what cannot be read,
    /// [`Error::Format`] for what is no regular file or no whole number of records.
    pub fn records<P: AsRef<Path>>(paths: &[P], record_bytes: u64) -> Result<Dataset> {
        open::files(paths, &Dataset::options().format(Format::Records).record_bytes(record_bytes))
    }

    /// WebDataset tar shards, indexed from their headers alone; one field per file extension.
    ///
    /// Consecutive members whose names agree up to the first dot form a sample, as WebDataset groups them. The index
    /// takes 8 bytes per sample and field (12 to 16 in a shard of 2 TiB and more, or with members of 4 GiB and more), and
    /// never more than the shards themselves and half a MiB each.
    ///
    /// # Errors
    /// [`Error::Config`] if no file is named, [`Error::Open`] for what cannot be read, [`Error::Io`] where the
    /// storage fails, and [`Error::Format`], with the byte, for what is no whole tar file or has names that are no
    /// sample's: absolute, with `..`, or twice in one sample. Compressed tar files are refused.
    pub fn webdataset<P: AsRef<Path>>(paths: &[P]) -> Result<Dataset> {
        open::files(paths, &Dataset::options().format(Format::WebDataset))
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

    /// Which shards' indexes came from sidecars.
    pub fn index_state(&self) -> &IndexState {
        &self.index
    }

    /// The files.
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// The fields that samples have, in the order in which they are addressed.
    pub fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// What had to be done to shards before they could be read, and so what costs time: compressed ones are decompressed.
    /// A loader has these in its [`Stats`](crate::Stats).
    pub fn fallbacks(&self) -> &[Fallback] {
        &self.fallbacks
    }

    /// The number of samples. Sample ids are `0..len()`, shard by shard in the order given.
    pub fn len(&self) -> u64 {
        self.first.last().copied().unwrap_or(0)
    }

    /// Whether there is no sample at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes of the largest sample, all fields together. Takes a pass over the index, unless sidecars say it.
    pub fn largest_sample(&self) -> u64 {
        let all: Vec<usize> = (0..self.fields.len()).collect();
        self.largest_sample_of(&all)
    }

    /// The same, these fields together; of some fields, but not all, sidecars give a bound.
    pub(crate) fn largest_sample_of(&self, fields: &[usize]) -> u64 {
        self.shards.iter().map(|shard| shard.table.largest_of(fields, shard.bytes)).max().unwrap_or(0)
    }

    /// Where field number `field` of a sample lies, inside its shard; `None` if the sample lacks that field.
    ///
    /// Also `None` where the shard's index turns out to be damaged: then [`check`](Self::check) says so, which whoever
    /// relies on the answers has to ask.
    ///
    /// # Panics
    /// If `sample` or `field` is out of range.
    pub fn extent(&self, sample: u64, field: usize) -> Option<Extent> {
        let (number, local) = self.place(sample, field);
        let shard = &self.shards[number];
        let entry = self.sound(shard.table.get(local, field, shard.bytes))?;
        Some(Extent { shard: number as u32, offset: entry.offset, len: entry.len })
    }

    /// The CRC32C (Castagnoli) that a field of a sample must have, where an index with checksums says it.
    ///
    /// # Panics
    /// If `sample` or `field` is out of range.
    pub fn crc32c(&self, sample: u64, field: usize) -> Option<u32> {
        let (shard, local) = self.place(sample, field);
        self.sound(self.shards[shard].table.crc(local, field))
    }

    /// The shards with samples whose index has no checksums.
    pub(crate) fn without_checksums(&self) -> impl Iterator<Item = &Shard> {
        self.shards.iter().filter(|shard| shard.samples() > 0 && !shard.table.has_crcs())
    }

    /// That no look-up so far has met a damaged index.
    ///
    /// Indexes are read as samples are looked up, so damage may show long after the dataset was opened.
    ///
    /// # Errors
    /// [`Error::Format`], naming the index and the byte.
    pub fn check(&self) -> Result<()> {
        self.damage.get().map_or(Ok(()), |damage| Err(damage.clone()))
    }

    /// The sample's shard, and its number there.
    fn place(&self, sample: u64, field: usize) -> (usize, u64) {
        assert!(sample < self.len() && field < self.fields.len(), "sample {sample}, field {field}: out of range");
        let shard = self.first.partition_point(|&first| first <= sample) - 1;
        (shard, sample - self.first[shard])
    }

    fn sound<T>(&self, found: Result<Option<T>>) -> Option<T> {
        found.unwrap_or_else(|damage| {
            let _ = self.damage.set(damage); // the first one stays
            None
        })
    }

    /// What stays the same as long as the dataset does: by it a resumed run notices another one, and names what differs.
    ///
    /// Directories are not in it, so a dataset may move; contents are not either, so a shard rewritten to the same size goes
    /// unnoticed, unless one of up to 1,024 [samples looked at](Fingerprint::places) is elsewhere in it, or longer or shorter.
    pub fn fingerprint(&self) -> Fingerprint {
        fingerprint::of(self)
    }

    /// Puts shards together; their tables already know the numbers of `fields`.
    fn new(format: &'static str, shards: Vec<Shard>, fields: Vec<Field>) -> Dataset {
        let mut first = Vec::with_capacity(shards.len() + 1);
        let mut total = 0;
        for shard in &shards {
            first.push(total);
            total = u64::saturating_add(total, shard.samples());
        }
        first.push(total);
        Dataset {
            format,
            shards,
            fields,
            first,
            parts: vec![total],
            index: IndexState::default(),
            damage: Arc::default(),
            fallbacks: Vec::new(),
        }
    }
}
