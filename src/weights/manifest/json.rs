//! The forms that are JSON: strait's own, and the listings of the Hugging Face hub.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{FileDigests, Problem, TensorDigest, sha256};
use crate::dtype::DType;
use crate::error::short;
use crate::safetensors::dtype_name;
use crate::weights::{Algorithm, Digest};

const FORMAT: &str = "strait-manifest";
const VERSION: u64 = 1;

#[derive(Serialize, Deserialize)]
struct Written<F> {
    format: String,
    version: u64,
    files: Vec<F>,
}

#[derive(Serialize, Deserialize)]
struct WrittenFile {
    name: Option<String>,
    bytes: Option<u64>,
    digest: Option<String>,
    #[serde(default)]
    tensors: Vec<WrittenTensor>,
}

#[derive(Serialize, Deserialize)]
struct WrittenTensor {
    name: String,
    dtype: Option<String>,
    shape: Option<Vec<u64>>,
    offset: u64,
    bytes: u64,
    digest: String,
}

pub(super) fn parse(text: &[u8]) -> Result<Vec<FileDigests>, Problem> {
    let value: Value = serde_json::from_slice(text).map_err(|e| at_place(text, &e))?;
    if value["format"] == FORMAT {
        return own(value);
    }
    let entries = match &value {
        Value::Array(entries) => entries.as_slice(),
        object => match &object["siblings"] {
            Value::Array(entries) => entries.as_slice(),
            _ => std::slice::from_ref(object),
        },
    };
    let files = entries.iter().filter_map(listed).collect::<Result<Vec<_>, Problem>>()?;
    match files.is_empty() {
        false => Ok(files),
        true => Err(Problem::at(0, "JSON, but neither strait's manifest nor a listing of files with `lfs` digests")),
    }
}

/// The byte at which the parser stopped.
fn at_place(text: &[u8], error: &serde_json::Error) -> Problem {
    let lines = text.split_inclusive(|byte| *byte == b'\n');
    let before: usize = lines.take(error.line().saturating_sub(1)).map(<[u8]>::len).sum();
    Problem::at(before + error.column().saturating_sub(1), format!("line {}: not JSON: {error}", error.line()))
}

fn own(value: Value) -> Result<Vec<FileDigests>, Problem> {
    let bad = |what: String| Problem::at(0, what);
    if value["version"] != VERSION {
        let found = &value["version"];
        return Err(bad(format!("version {found} of {FORMAT}; this strait reads version {VERSION}: hash it anew")));
    }
    let written: Written<WrittenFile> = serde_json::from_value(value).map_err(|e| bad(format!("{FORMAT}: {e}")))?;
    let digest = |text: &str| {
        let parts = text.split_once(':');
        let digest = parts.and_then(|(name, hex)| Digest::from_hex(Algorithm::from_name(name)?, hex));
        digest.ok_or_else(|| bad(format!("`{text}` is no digest: algorithm, colon, hexadecimal digits")))
    };
    let files = written.files.into_iter().map(|file| {
        let tensors = file.tensors.into_iter().map(|tensor| {
            let WrittenTensor { name, dtype, shape, offset, bytes, digest: text } = tensor;
            let dtype = dtype.map(|text| {
                dtype_of(&text).ok_or_else(|| bad(format!("`{}`: no dtype `{}`", short(&name), short(&text))))
            });
            Ok(TensorDigest { dtype: dtype.transpose()?, shape, offset, bytes, digest: digest(&text)?, name })
        });
        Ok(FileDigests {
            tensors: tensors.collect::<Result<_, Problem>>()?,
            name: file.name,
            bytes: file.bytes,
            digest: file.digest.as_deref().map(digest).transpose()?,
        })
    });
    files.collect()
}

fn dtype_of(name: &str) -> Option<DType> {
    DType::from_name(name).filter(|dtype| dtype_name(*dtype).as_deref() == Some(name))
}

/// One file of a listing; nothing if git keeps it itself, under a digest of its own kind.
fn listed(entry: &Value) -> Option<Result<FileDigests, Problem>> {
    let lfs = entry.get("lfs").filter(|lfs| lfs.is_object())?;
    let name = entry["path"].as_str().or(entry["rfilename"].as_str());
    let hex = lfs["oid"].as_str().or(lfs["sha256"].as_str()).unwrap_or("");
    let digest = sha256(hex.strip_prefix("sha256:").unwrap_or(hex));
    Some(match (name, digest) {
        (Some(name), Some(_)) => {
            Ok(FileDigests { name: Some(name.into()), bytes: lfs["size"].as_u64(), digest, ..FileDigests::default() })
        }
        (name, _) => {
            let name = name.unwrap_or("a file without `path`");
            Err(Problem::at(0, format!("{name}: no `lfs.oid` or `lfs.sha256` with 64 hexadecimal digits")))
        }
    })
}

pub(super) fn write(files: &[FileDigests]) -> String {
    let mut out = format!("{{\"format\": \"{FORMAT}\", \"version\": {VERSION}, \"files\": [");
    for (number, file) in files.iter().enumerate() {
        out.push_str(if number > 0 { ",\n  {" } else { "\n  {" });
        let mut fields = Vec::new();
        fields.extend(file.name.as_ref().map(|name| format!("\"name\": {}", Value::from(name.as_str()))));
        fields.extend(file.bytes.map(|bytes| format!("\"bytes\": {bytes}")));
        fields.extend(file.digest.map(|digest| format!("\"digest\": \"{}\"", text_of(&digest))));
        out.push_str(&fields.join(", "));
        for (number, tensor) in file.tensors.iter().enumerate() {
            let TensorDigest { name, dtype, shape, offset, bytes, digest } = tensor;
            out.push_str(match number {
                0 if fields.is_empty() => "\"tensors\": [\n    ",
                0 => ", \"tensors\": [\n    ",
                _ => ",\n    ",
            });
            let name = Value::from(name.as_str());
            let digest = text_of(digest);
            let dtype = dtype.and_then(dtype_name).map_or(String::new(), |dtype| format!(" \"dtype\": \"{dtype}\","));
            let shape = shape.as_ref().map_or(String::new(), |shape| format!(" \"shape\": {shape:?},"));
            out.push_str(&format!(
                "{{\"name\": {name},{dtype}{shape} \"offset\": {offset}, \"bytes\": {bytes}, \"digest\": \"{digest}\"}}"
            ));
        }
        out.push_str(if file.tensors.is_empty() { "}" } else { "]}" });
    }
    out.push_str("]}\n");
    out
}

fn text_of(digest: &Digest) -> String {
    format!("{}:{}", digest.algorithm(), digest.hex())
}
