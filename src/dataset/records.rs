//! Raw files of fixed-size records.

use std::path::Path;

use super::{Dataset, Field, Layout, Shard};
use crate::error::{Error, Result};

pub(super) fn open<P: AsRef<Path>>(paths: &[P], record_bytes: u64) -> Result<Dataset> {
    if record_bytes == 0 {
        return Err(Error::config("record_bytes", "must be at least 1"));
    }
    if paths.is_empty() {
        return Err(Error::config("paths", "no file was named"));
    }
    let shards = paths.iter().map(|path| shard(path.as_ref(), record_bytes)).collect::<Result<Vec<_>>>()?;
    Ok(Dataset::new("records", shards, vec![Field { name: "record".into(), fixed_bytes: Some(record_bytes) }]))
}

fn shard(path: &Path, record_bytes: u64) -> Result<Shard> {
    let bytes = super::file_bytes(path)?;
    let rest = bytes % record_bytes;
    if rest != 0 {
        return Err(Error::format(
            path,
            bytes - rest,
            format!(
                "the last record has {rest} of {record_bytes} bytes: the file's {bytes} bytes are not a whole number of \
                 records; check the record size, or whether the file was truncated"
            ),
        ));
    }
    Ok(Shard {
        path: path.into(),
        bytes,
        layout: Layout::Records { first: 0, record_bytes, count: bytes / record_bytes },
    })
}
