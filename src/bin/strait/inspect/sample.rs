//! One sample: its bytes, or what they say.

use std::fs::File;
use std::os::unix::fs::FileExt;

use serde_json::{Value, json};
use strait::dataset::{Extent, Field};
use strait::{DType, Dataset};

use crate::failure::{Failure, Result};

/// Bytes that are shown of a field.
const SHOWN_BYTES: u64 = 256;
/// Numbers that are shown of an array.
const SHOWN_NUMBERS: usize = 16;

/// A field of the sample.
struct Part {
    name: String,
    shard: String,
    extent: Extent,
    /// The first of its bytes.
    start: Vec<u8>,
    value: Option<Value>,
}

/// A sample as it is shown.
pub(super) struct Shown {
    sample: u64,
    parts: Vec<Part>,
}

/// All bytes of the fields that the sample has.
pub(super) fn raw(dataset: &Dataset, sample: u64, fields: &[usize]) -> Result<Vec<Vec<u8>>> {
    let extents: Vec<Extent> = fields.iter().filter_map(|&field| dataset.extent(sample, field)).collect();
    dataset.check()?;
    if extents.is_empty() {
        return Err(Failure::new(format!("sample {sample} has no such field"), "", ""));
    }
    extents.iter().map(|extent| read(dataset, *extent, extent.len)).collect()
}

fn read(dataset: &Dataset, extent: Extent, bytes: u64) -> Result<Vec<u8>> {
    let path = &dataset.shards()[extent.shard as usize].path;
    let mut out = vec![0; bytes as usize];
    let file = File::open(path).map_err(|e| Failure::file("open", path, &e))?;
    file.read_exact_at(&mut out, extent.offset).map_err(|e| Failure::file("read", path, &e))?;
    Ok(out)
}

impl Shown {
    pub(super) fn new(dataset: &Dataset, sample: u64, fields: &[usize]) -> Result<Shown> {
        let part = |&field: &usize| {
            let extent = dataset.extent(sample, field)?;
            Some(read(dataset, extent, extent.len.min(SHOWN_BYTES)).map(|start| {
                let own = &dataset.fields()[field];
                Part {
                    name: own.name.to_string(),
                    shard: dataset.shards()[extent.shard as usize].path.display().to_string(),
                    extent,
                    value: value(own, &start, extent.len),
                    start,
                }
            }))
        };
        let parts = fields.iter().filter_map(part).collect::<Result<_>>()?;
        Ok(Shown { sample, parts })
    }

    pub(super) fn text(&self) -> String {
        let mut out = String::new();
        for Part { name, shard, extent, start, value } in &self.parts {
            let Extent { offset, len, .. } = extent;
            out += &format!("sample {}, {name}: {len} bytes at byte {offset} of {shard}\n", self.sample);
            match value {
                Some(value) => out += &format!("  {value}\n"),
                None => out += &hex_lines(start, *len),
            }
        }
        out
    }

    pub(super) fn json(&self) -> Value {
        let part = |part: &Part| {
            let Extent { offset, len, .. } = part.extent;
            json!({
                "field": part.name, "shard": part.shard, "offset": offset, "bytes": len,
                "hex": part.start.iter().map(|byte| format!("{byte:02x}")).collect::<String>(),
                "value": part.value,
            })
        };
        json!({ "id": self.sample, "fields": self.parts.iter().map(part).collect::<Vec<_>>() })
    }
}

/// What the bytes say: numbers where their type is known, text where the format or the field's name says so.
fn value(field: &Field, start: &[u8], len: u64) -> Option<Value> {
    if field.varints {
        // The last that are shown may be cut.
        let whole = start.iter().rposition(|byte| byte & 0x80 == 0).map_or(0, |last| last + 1);
        let numbers = strait::dataset::varints(&start[..whole])?;
        return match numbers.as_slice() {
            [one] if len == whole as u64 => Some(json!(one)),
            numbers => Some(json!(numbers[..numbers.len().min(SHOWN_NUMBERS)])),
        };
    }
    if let Some(dtype) = field.dtype {
        let size = dtype.bytes()? as usize;
        let numbers: Vec<Value> =
            start.chunks_exact(size).take(SHOWN_NUMBERS).map(|bytes| number(dtype, bytes)).collect::<Option<_>>()?;
        return match numbers.as_slice() {
            [one] if len == size as u64 => Some(one.clone()),
            _ => Some(Value::Array(numbers)),
        };
    }
    let ending = field.name.rsplit('.').next().unwrap_or_default();
    let is_text = ["cls", "cls2", "index", "inx", "id", "txt", "text", "transcript", "json", "jsonl", "caption"];
    ((field.text || is_text.contains(&ending)) && len == start.len() as u64)
        .then(|| std::str::from_utf8(start).ok())
        .flatten()
        .map(|text| text.trim().parse::<i64>().map_or_else(|_| json!(text), |number| json!(number)))
}

fn number(dtype: DType, bytes: &[u8]) -> Option<Value> {
    let mut wide = [0; 8];
    wide.get_mut(..bytes.len())?.copy_from_slice(bytes);
    let bits = u64::from_le_bytes(wide);
    let signed = (bits << (64 - dtype.bits()) as u32) as i64 >> (64 - dtype.bits()) as u32;
    Some(match dtype {
        DType::Bool => json!(bits != 0),
        DType::U8 | DType::U16 | DType::U32 | DType::U64 => json!(bits),
        DType::I8 | DType::I16 | DType::I32 | DType::I64 => json!(signed),
        DType::F32 => json!(f32::from_bits(bits as u32)),
        DType::F64 => json!(f64::from_bits(bits)),
        DType::BF16 => json!(f32::from_bits((bits as u32) << 16)),
        DType::F16 => json!(f16(bits as u16)),
        _ => return None,
    })
}

/// Half precision: 1 sign, 5 exponent, 10 fraction.
fn f16(bits: u16) -> f32 {
    let (exponent, fraction) = (i32::from(bits >> 10 & 0x1f), f32::from(bits & 0x3ff));
    let size = match exponent {
        0 => fraction * 2f32.powi(-24),
        31 if fraction == 0.0 => f32::INFINITY,
        31 => f32::NAN,
        _ => (1024.0 + fraction) * 2f32.powi(exponent - 25),
    };
    if bits >> 15 == 1 { -size } else { size }
}

/// Sixteen bytes a line, and what of them is ASCII.
fn hex_lines(start: &[u8], len: u64) -> String {
    let mut out = String::new();
    for (line, bytes) in start.chunks(16).enumerate() {
        let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let ascii = |&byte: &u8| if byte.is_ascii_graphic() || byte == b' ' { byte as char } else { '.' };
        out += &format!("  {:>6}  {:<47}  {}\n", line * 16, hex.join(" "), bytes.iter().map(ascii).collect::<String>());
    }
    if len > start.len() as u64 {
        out += &format!("  and {} bytes more (--raw writes them all)\n", len - start.len() as u64);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_their_type_says() {
        assert_eq!(number(DType::I16, &[0xfe, 0xff]), Some(json!(-2)));
        assert_eq!(number(DType::U16, &[0xfe, 0xff]), Some(json!(65534)));
        assert_eq!(number(DType::I64, &[0xff; 8]), Some(json!(-1)));
        assert_eq!(number(DType::BF16, &[0x80, 0x3f]), Some(json!(1.0)));
        for (bits, value) in
            [(0x3c00u16, 1.0), (0xc000, -2.0), (0x7bff, 65504.0), (1, 2f32.powi(-24)), (0x3555, 0.33325195)]
        {
            assert_eq!(number(DType::F16, &bits.to_le_bytes()), Some(json!(value)), "{bits:#x}");
        }
        assert_eq!(number(DType::F16, &[0, 0x7c]), Some(Value::Null), "infinite: JSON has no such number");
        assert_eq!(number(DType::F32, &0.5f32.to_le_bytes()), Some(json!(0.5)));
        assert_eq!(number(DType::C128, &[0; 16]), None);
    }

    #[test]
    fn bytes_are_shown_in_lines_of_sixteen() {
        let text = hex_lines(b"0123456789abcdef\x00z", 300);
        assert!(text.contains("30 31 32") && text.contains(".z\n") && text.contains("282 bytes more"), "{text}");
    }
}
