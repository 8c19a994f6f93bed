//! The formats there are, and how a file's is told: in this one place.
//!
//! Each format is a module with one [`Reader`]: how its files are recognised, which shards a path stands for, and how a
//! shard is indexed. What is recognised and not read is in [`refused`](super::refused).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::options::Options;
use super::table::Table;
use super::{Field, litdata, mds, megatron, npy, records, rows, tfrecord, tokens, webdataset};
use crate::error::{Error, Result};
use crate::file::{open_file, read_at};
use crate::stats::Fallback;

/// How the bytes of a shard are laid out. The names never change: sidecars and cursors hold them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// Raw files of records of one size.
    Records,
    /// Tar files whose consecutive members form samples.
    WebDataset,
    /// Megatron-Core `.bin` with `.idx`.
    Megatron,
    /// Token files: nanoGPT, llm.c, `.ds`, OLMo.
    Tokens,
    /// MosaicML's shards with an `index.json`.
    Mds,
    /// NumPy arrays: a row is a sample.
    Npy,
    /// Tensors whose rows are samples.
    Safetensors,
    /// TensorFlow's records.
    TfRecord,
    /// LitData's files with an `index.json`.
    LitData,
}

/// Each with its name.
const ALL: [(Format, &str); 9] = [
    (Format::Records, "records"),
    (Format::WebDataset, "webdataset"),
    (Format::Megatron, "megatron"),
    (Format::Tokens, "tokens"),
    (Format::Mds, "mds"),
    (Format::Npy, "npy"),
    (Format::Safetensors, "safetensors"),
    (Format::TfRecord, "tfrecord"),
    (Format::LitData, "litdata"),
];

impl Format {
    /// Every format there is.
    pub fn all() -> impl Iterator<Item = Format> {
        ALL.into_iter().map(|(format, _)| format)
    }

    /// `"webdataset"`, `"tokens"`.
    pub fn name(self) -> &'static str {
        ALL[self as usize].1
    }

    /// The format of that [name](Self::name), in lower or upper case.
    pub fn from_name(name: &str) -> Option<Format> {
        ALL.into_iter().find(|(_, own)| own.eq_ignore_ascii_case(name)).map(|(format, _)| format)
    }
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// How one format is read.
pub(super) struct Reader {
    pub(super) format: Format,
    /// Whether a file is of this format.
    pub(super) recognise: fn(&Look) -> Verdict,
    /// The shards that a path of this format stands for: itself, or those that its index names.
    pub(super) sources: fn(&Path, &Options) -> Result<Vec<Source>>,
}

/// Asked in this order; the first that says yes reads the file.
static READERS: [Reader; 9] = [
    webdataset::READER,
    megatron::READER,
    mds::READER,
    litdata::READER,
    npy::READER,
    rows::READER,
    tfrecord::READER,
    tokens::READER,
    records::READER,
];

/// What a reader says to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Not of this format.
    No,
    /// It is.
    Yes,
    /// It belongs to another file of this format, which stands for both where a directory is named.
    Beside,
}

impl From<bool> for Verdict {
    fn from(yes: bool) -> Verdict {
        if yes { Verdict::Yes } else { Verdict::No }
    }
}

/// Endings of what lies beside shards and is none.
const NOTES: [&str; 24] = [
    ".md", ".rst", ".txt", ".html", ".pdf", ".json", ".jsonl", ".yaml", ".yml", ".toml", ".ini", ".cfg", ".csv",
    ".tsv", ".xml", ".log", ".idx", ".py", ".ipynb", ".sh", ".c", ".cu", ".md5", ".sha256",
];

/// What a file shows of itself.
pub(super) struct Look {
    pub(super) path: PathBuf,
    /// Its name without directories, in lower case.
    pub(super) name: String,
    /// Its first bytes: [`START_BYTES`] of them, or all.
    pub(super) start: Vec<u8>,
    /// Its size.
    pub(super) bytes: u64,
}

/// Enough for the magic of every format that is known, the farthest being that of tar at byte 257.
const START_BYTES: usize = 1024;

impl Look {
    /// Reads the start of a regular file.
    pub(super) fn at(path: &Path) -> Result<Look> {
        let (file, bytes) = open_file(path)?;
        let mut start = vec![0; START_BYTES];
        let got = read_at(&file, path, 0, &mut start)?;
        start.truncate(got);
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        Ok(Look { path: path.to_owned(), name, start, bytes })
    }

    /// Whether the name ends in one of these, which are in lower case.
    pub(super) fn ends(&self, endings: &[&str]) -> bool {
        endings.iter().any(|ending| self.name.ends_with(ending))
    }

    /// Whether it is no data by its name: a note, a table, or the program that wrote the shards beside it.
    pub(super) fn is_note(&self) -> bool {
        let names = ["readme", "license", "licence", "notice", "changelog", "checksums", "md5sums", "sha256sums"];
        names.contains(&self.name.split('.').next().unwrap_or_default()) || self.ends(&NOTES)
    }

    /// The reader that takes this file, and what it says.
    pub(super) fn reader(&self) -> Option<(&'static Reader, Verdict)> {
        let verdict = |reader: &'static Reader| (reader, (reader.recognise)(self));
        READERS.iter().map(verdict).find(|(_, verdict)| *verdict != Verdict::No)
    }
}

/// The reader of a format.
pub(super) fn reader(format: Format) -> Result<&'static Reader> {
    let missing = || Error::config("format", format!("{format} cannot be read yet"));
    READERS.iter().find(|reader| reader.format == format).ok_or_else(missing)
}

/// A shard that is not indexed yet.
pub(super) struct Source {
    /// The file that holds the samples.
    pub(super) path: PathBuf,
    /// Other files that say where its samples lie: when one changes, a sidecar is stale.
    pub(super) beside: Vec<PathBuf>,
    /// What a manifest says the whole file's hashes are: name of the algorithm, digits.
    pub(super) hashes: Vec<(String, String)>,
    /// What had to be done to it before it can be read.
    pub(super) fallback: Option<Fallback>,
    /// Finds out where its samples lie. Runs beside those of other shards.
    #[allow(clippy::type_complexity, reason = "said once")]
    pub(super) index: Box<dyn Fn(&Path, &Options) -> Result<Indexed> + Send + Sync>,
}

impl Source {
    /// A shard that says all about itself.
    pub(super) fn file(path: &Path, index: fn(&Path, &Options) -> Result<Indexed>) -> Source {
        Source { path: path.to_owned(), beside: Vec::new(), hashes: Vec::new(), fallback: None, index: Box::new(index) }
    }
}

/// What indexing a shard gives.
pub(super) struct Indexed {
    pub(super) path: Arc<Path>,
    /// Its size when it was indexed.
    pub(super) bytes: u64,
    /// What each column of the table is. Sizes, types and shapes are those that every sample here has.
    pub(super) fields: Vec<Field>,
    /// Per field, where in the file it was first met, for messages; may be shorter.
    pub(super) met_at: Vec<u64>,
    pub(super) table: Table,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_is_found_by_its_name() {
        for (row, format) in Format::all().enumerate() {
            assert_eq!(format as usize, row);
            assert_eq!(Format::from_name(format.name()), Some(format));
            assert_eq!(Format::from_name(&format.name().to_uppercase()), Some(format));
        }
        assert_eq!(Format::from_name("tar"), None);
    }
}
