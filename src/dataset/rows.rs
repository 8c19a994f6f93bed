//! Safetensors files as datasets: every tensor with the same first dimension is a field, a row of each is a sample.
//!
//! ```text
//! input_ids  i64 [1000, 2048]     sample 7:  input_ids[7]  of shape [2048]
//! labels     i32 [1000]                      labels[7]     of shape []
//! scale      f32 []                          left out: it has no rows
//! ```

use std::path::Path;

use super::Field;
use super::format::{Format, Indexed, Look, Reader, Source, Verdict};
use super::merge::FIELDS_MAX;
use super::options::Options;
use super::table::Table;
use crate::error::{Error, Result};
use crate::file::open_file;
use crate::safetensors::{self, Tensor};

pub(super) const READER: Reader =
    Reader { format: Format::Safetensors, recognise, sources: |path, _| Ok(vec![Source::file(path, index)]) };

fn recognise(look: &Look) -> Verdict {
    (look.ends(&[".safetensors"]) || begins(&look.start, look.bytes)).into()
}

/// Whether a file that starts so has a header of JSON that fits into it and tells of tensors; there is no magic.
fn begins(start: &[u8], bytes: u64) -> bool {
    let Some((len, header)) = start.split_first_chunk::<8>() else { return false };
    let len = u64::from_le_bytes(*len);
    let fits = len <= safetensors::HEADER_BYTES_MAX && len + 8 <= bytes;
    let says = |key: &[u8]| header.windows(key.len()).any(|part| part == key);
    fits && header.starts_with(b"{") && (says(b"\"dtype\"") || says(b"\"__metadata__\""))
}

fn index(path: &Path, _: &Options) -> Result<Indexed> {
    let (_, bytes) = open_file(path)?;
    let header = safetensors::read(path)?;
    let with_rows = || header.tensors.iter().filter(|tensor| !tensor.shape.is_empty());
    let Some(first) = with_rows().next() else {
        return Err(Error::format(path, 8, "no tensor has a dimension whose rows could be samples"));
    };
    let rows = first.shape[0];
    if let Some(other) = with_rows().find(|tensor| tensor.shape[0] != rows) {
        let problem = format!(
            "the tensor `{}` has {rows} rows and `{}` has {}: rows are samples where all tensors have as many. Are these \
             the weights of a model? They are loaded with `strait load`",
            first.name, other.name, other.shape[0]
        );
        return Err(Error::format(path, 8, problem));
    }
    if with_rows().count() > FIELDS_MAX {
        return Err(Error::format(path, 8, format!("more than {FIELDS_MAX} tensors: each would be a field")));
    }
    let row_bytes = |tensor: &Tensor| row_bytes(tensor, rows).map_err(|problem| Error::format(path, 8, problem));
    let fields = with_rows().map(|tensor| {
        let shape = Some(tensor.shape[1..].into());
        Ok(Field {
            name: tensor.name.as_str().into(),
            fixed_bytes: Some(row_bytes(tensor)?),
            dtype: Some(tensor.dtype),
            shape,
            varints: false,
            text: false,
        })
    });
    let fields = fields.collect::<Result<Vec<Field>>>()?;
    let column = |(tensor, field): (&Tensor, &Field)| {
        let bytes = field.fixed_bytes.unwrap_or(0);
        (tensor.begin, bytes, bytes)
    };
    let columns: Vec<_> = with_rows().zip(&fields).map(column).collect();
    Ok(Indexed { path: path.into(), bytes, fields, met_at: Vec::new(), table: Table::even(rows, &columns) })
}

/// The bytes of one row, which must be whole ones and not none.
fn row_bytes(tensor: &Tensor, rows: u64) -> Result<u64, String> {
    let own = tensor.dtype.array_bytes(&tensor.shape[1..]);
    match own {
        Some(0) if rows > 0 => Err(format!("the rows of `{}` have no bytes: there is nothing to load", tensor.name)),
        Some(bytes) => Ok(bytes),
        None => Err(format!("a row of `{}` is no whole number of bytes ({} elements)", tensor.name, tensor.dtype)),
    }
}
