//! WebDataset tar shards.

use std::path::Path;

use super::Dataset;
use crate::error::{Error, Result};

pub(super) fn open<P: AsRef<Path>>(paths: &[P]) -> Result<Dataset> {
    if paths.is_empty() {
        return Err(Error::config("paths", "no file was named"));
    }
    Err(Error::config("webdataset", "not built yet"))
}
