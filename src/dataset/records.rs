//! Raw files of fixed-size records.

use std::path::Path;

use super::Field;
use super::format::{Format, Indexed, Reader, Source, Verdict};
use super::options::Options;
use super::table::Table;
use crate::error::{Error, Result};

/// Never recognised: raw bytes look like anything.
pub(super) const READER: Reader = Reader {
    format: Format::Records,
    recognise: |_| Verdict::No,
    sources: |path, _| Ok(vec![Source::file(path, index)]),
};

fn index(path: &Path, options: &Options) -> Result<Indexed> {
    let Some(record_bytes) = options.record_bytes else {
        return Err(Error::config("record_bytes", "raw files of records need it: the size of one, in bytes"));
    };
    if record_bytes == 0 {
        return Err(Error::config("record_bytes", "must be at least 1"));
    }
    let (_, bytes) = crate::file::open_file(path)?;
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
    Ok(Indexed {
        path: path.into(),
        bytes,
        fields: vec![Field::of_bytes("record", Some(record_bytes))],
        met_at: Vec::new(),
        table: Table::even(bytes / record_bytes, &[(0, record_bytes, record_bytes)]),
    })
}
