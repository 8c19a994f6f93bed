//! Options of every command that opens a dataset.

use std::path::PathBuf;

use strait::dataset::{Format, Options};
use strait::{DType, Dataset};

use crate::size;

/// What the files do not say themselves.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct DatasetOptions {
    /// Read the files as this format, whatever they look like: webdataset, tokens, records ..
    #[arg(long, value_name = "FORMAT", value_parser = parse_format)]
    pub(crate) format: Option<Format>,
    /// Type of the elements, in files that do not say it: u16, i32 ..
    #[arg(long, value_name = "DTYPE", value_parser = parse_dtype)]
    pub(crate) dtype: Option<DType>,
    /// Size of one sample in raw files
    #[arg(long, value_name = "SIZE", value_parser = size::parse_nonzero)]
    pub(crate) record_bytes: Option<u64>,
    /// Whether TFRecords are tf.train.Examples with features, or whole records [default: what the first record is]
    #[arg(long, value_name = "BOOL")]
    pub(crate) examples: Option<bool>,
    /// Where sidecar indexes are [default: beside their shards, else in the cache directory]
    #[arg(long, value_name = "DIR")]
    pub(crate) index_dir: Option<PathBuf>,
}

impl DatasetOptions {
    /// The same for the library.
    pub(crate) fn options(&self) -> Options {
        let mut options = Dataset::options();
        if let Some(format) = self.format {
            options = options.format(format);
        }
        if let Some(dtype) = self.dtype {
            options = options.dtype(dtype);
        }
        if let Some(bytes) = self.record_bytes {
            options = options.record_bytes(bytes);
        }
        if let Some(examples) = self.examples {
            options = options.examples(examples);
        }
        match &self.index_dir {
            Some(directory) => options.index_dir(directory),
            None => options,
        }
    }
}

fn parse_format(text: &str) -> Result<Format, String> {
    let names = || Format::all().map(Format::name).collect::<Vec<_>>().join(", ");
    Format::from_name(text).ok_or_else(|| format!("there is no format `{text}`; there are {}", names()))
}

fn parse_dtype(text: &str) -> Result<DType, String> {
    let names = || DType::all().map(DType::name).collect::<Vec<_>>().join(", ");
    DType::from_name(text).ok_or_else(|| format!("there is no type `{text}`; there are {}", names()))
}
