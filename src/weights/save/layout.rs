//! Where everything goes in the file that is to be.
//!
//! ```text
//!  0          8                                     4096 k                                             total
//!  |    N     | {"__metadata__":{..},"w":{..},..}   | w                   | b           | ...          |
//!  | u64 LE   | right-padded with spaces            | largest elements first, then by name             |
//! ```
//!
//! That order is the one that the format's own writer chooses: each tensor is aligned for its elements. Unlike it, the
//! header is padded so that the tensors start at a multiple of 4096: later direct reads then need no more than their bytes.

use std::collections::BTreeMap;
use std::ops::Range;

use super::{SaveTensor, Source};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::safetensors::{HEADER_BYTES_MAX, METADATA, dtype_name};

/// What the tensors start at a multiple of.
const DATA_ALIGN: usize = 4096;
/// The field in front of the header that says how long it is.
const LENGTH_BYTES: usize = 8;

/// A file to be: its header, then its tensors.
pub(super) struct Layout<'t, 'a> {
    /// With the length in front; a multiple of 4096.
    pub(super) header: Vec<u8>,
    /// In the order in which they lie, each with its first byte's place in the file.
    pub(super) tensors: Vec<(u64, &'t SaveTensor<'a>)>,
    pub(super) total_bytes: u64,
}

/// A part of a window.
pub(super) struct Piece<'a> {
    /// Where in the window it goes.
    pub(super) at: usize,
    pub(super) bytes: usize,
    pub(super) from: Source<'a>,
    /// Which tensor's it is, by place in the layout; none of the header.
    pub(super) tensor: Option<usize>,
}

impl<'t, 'a> Layout<'t, 'a> {
    pub(super) fn new(
        mut tensors: Vec<&'t SaveTensor<'a>>,
        metadata: &BTreeMap<String, String>,
    ) -> Result<Layout<'t, 'a>> {
        tensors.sort_by(|a, b| rank(b.dtype).cmp(&rank(a.dtype)).then_with(|| a.name.cmp(b.name)));
        let mut json = String::from("{");
        if !metadata.is_empty() {
            json.push_str(&format!("{}:{}", text(METADATA), serde_json::to_string(metadata).expect("strings only")));
        }
        let mut offset = 0u64;
        let mut offsets = Vec::with_capacity(tensors.len());
        for tensor in &tensors {
            let too_long = || Error::config("tensors", "together they are longer than a file can be");
            let end = offset.checked_add(tensor.bytes).filter(|end| *end < 1 << 62).ok_or_else(too_long)?;
            let dtype = dtype_name(tensor.dtype).expect("checked in `SaveTensor::check`");
            let comma = if json.len() > 1 { "," } else { "" };
            json.push_str(&format!(
                "{comma}{}:{{\"dtype\":\"{dtype}\",\"shape\":{:?},\"data_offsets\":[{offset},{end}]}}",
                text(tensor.name),
                Shape(tensor.shape),
            ));
            offsets.push(offset);
            offset = end;
        }
        json.push('}');
        let data_start = (LENGTH_BYTES + json.len()).next_multiple_of(DATA_ALIGN);
        let length = (data_start - LENGTH_BYTES) as u64;
        if length > HEADER_BYTES_MAX {
            let problem = format!("their names need a header of {length} bytes; safetensors allows {HEADER_BYTES_MAX}");
            return Err(Error::config("tensors", problem));
        }
        let mut header = length.to_le_bytes().to_vec();
        header.extend_from_slice(json.as_bytes());
        header.resize(data_start, b' ');
        let tensors = offsets.into_iter().map(|offset| data_start as u64 + offset).zip(tensors).collect();
        Ok(Layout { header, tensors, total_bytes: data_start as u64 + offset })
    }

    /// What the bytes `window` of the file are made of, in order; no part is empty.
    pub(super) fn pieces(&self, window: Range<u64>) -> impl Iterator<Item = Piece<'a>> {
        let (begin, end) = (window.start, window.end.min(self.total_bytes));
        // Of the bytes at `offset`, those that are in the window, counted from `offset`.
        let inside = move |offset: u64, bytes: u64| {
            let range = offset.clamp(begin, end)..(offset + bytes).clamp(begin, end);
            (range.start < range.end).then(|| range.start - offset..range.end - offset)
        };
        let piece = move |offset: u64, part: Range<u64>, from, tensor| {
            let at = (offset + part.start - begin) as usize;
            Piece { at, bytes: (part.end - part.start) as usize, from, tensor }
        };
        let header = inside(0, self.header.len() as u64).map(|part| {
            let range = part.start as usize..part.end as usize;
            piece(0, part, Source::Header(range), None)
        });
        let first = self.tensors.partition_point(|(offset, tensor)| offset + tensor.bytes <= begin);
        let tensors = self.tensors[first..].iter().enumerate().take_while(move |(_, (offset, _))| *offset < end);
        let tensors = tensors.filter_map(move |(number, (offset, tensor))| {
            let part = inside(*offset, tensor.bytes)?;
            Some(piece(*offset, part.clone(), tensor.source.part(part), Some(first + number)))
        });
        header.into_iter().chain(tensors)
    }
}

/// `[2,3]`, without spaces, as the format's own writer has it.
struct Shape<'a>(&'a [u64]);

impl std::fmt::Debug for Shape<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let lengths: Vec<String> = self.0.iter().map(u64::to_string).collect();
        write!(f, "[{}]", lengths.join(","))
    }
}

/// A JSON string.
pub(super) fn text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The place of a type in the order of the format's own writer (`safetensors/src/tensor.rs`): by alignment, ascending.
fn rank(dtype: DType) -> usize {
    use DType::*;
    let order = [
        Bool, F4, F6E2M3, F6E3M2, U8, I8, F8E5M2, F8E4M3, F8E8M0, F8E4M3Fnuz, F8E5M2Fnuz, I16, U16, F16, BF16, I32,
        U32, F32, C64, F64, I64, U64,
    ];
    order.iter().position(|other| *other == dtype).unwrap_or(order.len())
}
