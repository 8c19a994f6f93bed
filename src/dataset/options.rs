//! What a dataset's files do not say of themselves.

use std::hash::Hasher;
use std::path::{Path, PathBuf};

use super::{Dataset, Format, open};
use crate::dtype::DType;
use crate::error::Result;

/// How a dataset is opened. Made by [`Dataset::options`].
#[derive(Debug, Clone, Default)]
pub struct Options {
    pub(super) format: Option<Format>,
    pub(super) dtype: Option<DType>,
    pub(super) record_bytes: Option<u64>,
    pub(super) index_dir: Option<PathBuf>,
    pub(super) examples: Option<bool>,
    pub(super) verify: bool,
}

impl Options {
    /// Reads the files as this format, whatever they look like.
    #[must_use]
    pub fn format(mut self, format: Format) -> Self {
        self.format = Some(format);
        self
    }

    /// The type of the elements, in files that do not say it: headerless tokens.
    #[must_use]
    pub fn dtype(mut self, dtype: DType) -> Self {
        self.dtype = Some(dtype);
        self
    }

    /// The size of a sample, in bytes, in files whose format does not say it: raw records.
    #[must_use]
    pub fn record_bytes(mut self, bytes: u64) -> Self {
        self.record_bytes = Some(bytes);
        self
    }

    /// Where sidecar indexes are, if not beside their shards.
    #[must_use]
    pub fn index_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.index_dir = Some(directory.into());
        self
    }

    /// What of these decides where samples of that format lie.
    pub(super) fn hash(&self, format: Format, hash: &mut impl Hasher) {
        if matches!(format, Format::Records | Format::Tokens | Format::Npy) {
            hash.write_u64(self.record_bytes.unwrap_or(0));
            hash.write(self.dtype.map_or("", DType::name).as_bytes());
        }
        if format == Format::TfRecord {
            hash.write_u8(self.examples.map_or(2, u8::from));
        }
    }

    /// Whether the records of a TFRecord file are `tf.train.Example`s, whose features become fields; `false` for whole
    /// records. Default: what the first record is.
    #[must_use]
    pub fn examples(mut self, examples: bool) -> Self {
        self.examples = Some(examples);
        self
    }

    /// Reads the shards whole as they are indexed, and compares the checksums that their format has: those of TFRecord.
    /// Default: only what says where samples lie is read.
    #[must_use]
    pub fn verify(mut self, verify: bool) -> Self {
        self.verify = verify;
        self
    }

    /// Opens the dataset.
    ///
    /// # Errors
    /// As [`Dataset::open`].
    pub fn open<P: AsRef<Path>>(&self, paths: &[P]) -> Result<Dataset> {
        open::open(paths, self)
    }
}
