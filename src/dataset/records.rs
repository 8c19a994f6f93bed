//! Raw files of fixed-size records.

use std::path::Path;

use super::{Dataset, Field, Layout, Shard};
use crate::error::{Error, Result};

pub(super) fn open<P: AsRef<Path>>(paths: &[P], record_bytes: u64) -> Result<Dataset> {
    if record_bytes == 0 {
        return Err(Error::config("record_bytes", "must be at least 1"));
    }
    let shards = super::files::index_shards(paths, |path| shard(path, record_bytes))?;
    Ok(Dataset::new("records", shards, vec![Field::of_bytes("record", Some(record_bytes))]))
}

fn shard(path: &Path, record_bytes: u64) -> Result<Shard> {
    let (_, bytes) = super::files::open_file(path)?;
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
        layout: Layout::Records { first: 0, record_bytes, count: bytes / record_bytes, field: 0 },
    })
}
