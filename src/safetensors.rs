//! The safetensors format: where each tensor of a file is.
//!
//! ```text
//!  0          8                              8 + N                                          end of the file
//!  |    N     | {"name":{"dtype":"F32",      | bytes of the first tensor | of the second ...|
//!  | u64 LE   |  "shape":[2,3],              | ^                         ^
//!  |          |  "data_offsets":[0,24]},..}  | 8 + N + data_offsets[0]   8 + N + data_offsets[1]
//! ```
//!
//! Tensors lie one after another without holes. The header may be padded with spaces so that `8 + N` is a multiple of
//! 8; files exist where it is not (`safetensors/src/tensor.rs`). Everything a file says is checked before it is used.

mod entries;

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use serde::Deserializer as _;

use crate::dtype::DType;
use crate::error::{Error, Result, bare, position, short};
use crate::file::open_file;
use entries::HeaderVisitor;

/// The longest header that the format allows.
pub const HEADER_BYTES_MAX: u64 = 100_000_000;
/// The key of the header that is no tensor.
pub const METADATA: &str = "__metadata__";
/// The field in front of the header that says how long it is.
const LENGTH_BYTES: u64 = 8;

/// What a file holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Header {
    /// In the order in which they lie in the file.
    pub tensors: Vec<Tensor>,
    /// What the writer had to say besides (`__metadata__`).
    pub metadata: BTreeMap<String, String>,
    /// Where the first tensor starts, in bytes from the start of the file.
    pub data_start: u64,
}

/// Where one tensor is, and what its bytes are: dense, in C order, little-endian.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// The type of its elements.
    pub dtype: DType,
    /// The length of each dimension; none for a single element.
    pub shape: Vec<u64>,
    /// Its first byte, from the start of the file.
    pub begin: u64,
    /// The byte after its last, from the start of the file.
    pub end: u64,
}

impl Tensor {
    /// How many bytes it has.
    pub fn bytes(&self) -> u64 {
        self.end - self.begin
    }
}

/// The name of a type in a header; `None` for types that the format does not have.
pub fn dtype_name(dtype: DType) -> Option<String> {
    (dtype != DType::C128).then(|| dtype.name().to_uppercase())
}

/// Reads and checks the header of the file at `path`; no tensor's bytes are read.
pub fn read(path: impl AsRef<Path>) -> Result<Header> {
    let path = path.as_ref();
    let failed = |e: std::io::Error| Error::open(path, &e);
    let (mut file, file_bytes) = open_file(path)?;
    let truncated = |offset, want| Error::Truncated { path: path.into(), offset, want, got: file_bytes - offset };
    if file_bytes < LENGTH_BYTES {
        return Err(truncated(0, LENGTH_BYTES));
    }
    let mut length = [0; LENGTH_BYTES as usize];
    file.read_exact(&mut length).map_err(failed)?;
    let length = u64::from_le_bytes(length);
    if length > HEADER_BYTES_MAX {
        let problem =
            format!("a header of {length} bytes, and safetensors allows {HEADER_BYTES_MAX}; this is another format");
        return Err(Error::format(path, None, problem));
    }
    if length > file_bytes - LENGTH_BYTES {
        return Err(truncated(LENGTH_BYTES, length));
    }
    let mut header = vec![0; length as usize];
    file.read_exact(&mut header).map_err(failed)?;
    parse(&header, LENGTH_BYTES + length, file_bytes, path)
}

/// Checks a header, which ends where the tensors start: at `data_start` of a file of `file_bytes`. `path` is for
/// errors.
pub fn parse(header: &[u8], data_start: u64, file_bytes: u64, path: &Path) -> Result<Header> {
    let at = |position: usize| (data_start - header.len() as u64) + position as u64;
    if header.first() != Some(&b'{') {
        let problem = "a header starts with `{`; this is no safetensors file, or it is damaged: fetch it again";
        return Err(Error::format(path, at(0), problem));
    }
    let mut json = serde_json::Deserializer::from_slice(header);
    let parsed = json.deserialize_map(HeaderVisitor { data_start }).and_then(|parsed| json.end().map(|()| parsed));
    let parsed = parsed.map_err(|error| {
        let problem = format!("{}; the file is damaged or badly written: fetch or write it again", bare(&error));
        Error::format(path, at(position(header, &error)), problem)
    })?;
    let mut parsed = Header { data_start, ..parsed };
    parsed.tensors.sort_by_key(|tensor| (tensor.begin, tensor.end));
    check_cover(&parsed, file_bytes, path)?;
    Ok(parsed)
}

/// Tensors lie one after another, from the end of the header to the end of the file.
fn check_cover(header: &Header, file_bytes: u64, path: &Path) -> Result<()> {
    let mut end = header.data_start;
    let mut before = "the header";
    for tensor in &header.tensors {
        if tensor.begin != end {
            let what = if tensor.begin < end { "overlap" } else { "leave a hole" };
            let (from, name, before) = (tensor.begin, short(&tensor.name), short(before));
            let problem = format!(
                "tensor `{name}` starts at {from} and {before} ends at {end}: they {what}; write the file again"
            );
            return Err(Error::format(path, from.min(end), problem));
        }
        (end, before) = (tensor.end, &tensor.name);
    }
    if end > file_bytes {
        let (offset, want) = (header.data_start, end - header.data_start);
        return Err(Error::Truncated { path: path.into(), offset, want, got: file_bytes.saturating_sub(offset) });
    }
    if end < file_bytes {
        let problem = format!(
            "the tensors end here, and the file has {} bytes more that belong to none; fetch or write it again",
            file_bytes - end
        );
        return Err(Error::format(path, end, problem));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file's bytes: the header, and `data` bytes of data.
    fn file(header: &str, data: usize) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.resize(bytes.len() + data, 7);
        bytes
    }

    fn parsed(header: &str, data: usize) -> Result<Header> {
        let bytes = file(header, data).len() as u64;
        parse(header.as_bytes(), 8 + header.len() as u64, bytes, Path::new("m.safetensors"))
    }

    fn problem(header: &str, data: usize) -> String {
        parsed(header, data).unwrap_err().to_string()
    }

    #[test]
    fn the_vector_of_the_format() {
        let mut bytes = vec![0x38, 0, 0, 0, 0, 0, 0, 0];
        bytes.extend(br#"{"t":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}"#);
        bytes.resize(8 + 0x38, b' ');
        bytes.extend([1, 2]);
        let path = std::env::temp_dir().join(format!("strait-vector-{}.safetensors", std::process::id()));
        std::fs::write(&path, &bytes).unwrap();
        let header = read(&path);
        std::fs::remove_file(&path).unwrap();
        let tensor = Tensor { name: "t".into(), dtype: DType::U8, shape: vec![2], begin: 64, end: 66 };
        assert_eq!(header.unwrap(), Header { tensors: vec![tensor], metadata: BTreeMap::new(), data_start: 64 });
    }

    #[test]
    fn tensors_come_in_file_order_empty_ones_and_single_elements_too() {
        let header = r#"{"b":{"dtype":"F32","shape":[],"data_offsets":[4,8]},"__metadata__":{"k":"v"},
            "none":{"dtype":"BF16","shape":[0,7],"data_offsets":[4,4]},
            "a":{"dtype":"F4","shape":[2,4],"data_offsets":[0,4],"more":[{}]}}   "#;
        let three = parsed(header, 8).unwrap();
        let names: Vec<&str> = three.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        assert_eq!(names, ["a", "none", "b"]);
        assert_eq!(three.metadata["k"], "v");
        assert_eq!(parsed("{}", 0).unwrap().tensors, []);
        assert_eq!(parsed(r#"{"__metadata__":null}"#, 0).unwrap().metadata.len(), 0);
    }

    /// Each message says what is wrong; each error, at which byte.
    #[test]
    fn what_the_format_forbids() {
        let t = |dtype: &str, shape: &str, offsets: &str| {
            format!(r#"{{"t":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
        };
        let two = |name: &str, shape: &str, offsets: &str| {
            let second = t("U8", shape, offsets).replacen("{\"t\"", &format!(",\"{name}\""), 1);
            t("U8", "[2]", "[0,2]").replacen("}}", "}", 1) + &second
        };
        for (header, data, want) in [
            (String::new(), 0, "starts with `{`"),
            (" {}".into(), 0, "starts with `{`"),
            ("{".into(), 0, "EOF"),
            ("{}x".into(), 0, "trailing"),
            ("{\"\u{0}\":1}".into(), 0, "control character"),
            (two("t", "[0]", "[0,0]"), 2, "`t` is there twice"),
            (t("U8", "[2]", "[0,2],\"dtype\":\"U8\""), 2, "`dtype` twice"),
            (r#"{"__metadata__":{},"__metadata__":{}}"#.into(), 0, "twice"),
            (r#"{"__metadata__":{"a":"1","a":"1"}}"#.into(), 0, "`a` twice"),
            (r#"{"__metadata__":{"a":1}}"#.into(), 0, "string"),
            (r#"{"t":{"shape":[],"data_offsets":[0,1]}}"#.into(), 1, "no `dtype`"),
            (r#"{"t":[]}"#.into(), 0, "where tensor `t` is"),
            (t("f32", "[1]", "[0,4]"), 4, "unknown dtype `f32`"),
            (t("C128", "[1]", "[0,16]"), 16, "unknown dtype"),
            (t("F32", "[1.0]", "[0,4]"), 4, "invalid type"),
            (t("F32", "[-1]", "[0,4]"), 4, "invalid value"),
            (t("F32", "[1]", "[0,4,8]"), 4, "trailing"),
            (t("F32", "[1]", "[4,0]"), 4, "takes 4 bytes"),
            (t("F32", "[2]", "[0,4]"), 4, "takes 8 bytes"),
            (t("F4", "[3]", "[0,2]"), 2, "no whole number of bytes"),
            (t("F6_E2M3", "[3]", "[0,3]"), 3, "no whole number of bytes"),
            (t("F64", "[4294967296,4294967296]", "[0,8]"), 8, "more than there can be"),
            (t("U8", "[1]", "[18446744073709551614,18446744073709551615]"), 1, "which no file has"),
            (t("U8", "[1]", "[1,2]"), 2, "leave a hole"),
            (two("u", "[2]", "[1,3]"), 3, "overlap"),
            (t("U8", "[2]", "[0,2]"), 3, "1 bytes more"),
            (t("U8", "[2]", "[0,2]"), 1, "truncated: 1 of 2 bytes"),
        ] {
            let text = problem(&header, data);
            assert!(text.contains(want) && text.contains("m.safetensors"), "{header}: {text}");
        }
    }

    /// Names are compared with all before, in the order in which the header has them, which is not that of the bytes.
    /// Mutant that this catches: a name that is compared with the one before it.
    #[test]
    fn a_name_is_there_once_however_far_apart() {
        for last in ["a", "b", "c"] {
            let header = format!(
                r#"{{"a":{{"dtype":"U8","shape":[1],"data_offsets":[2,3]}},
                "b":{{"dtype":"U8","shape":[1],"data_offsets":[0,1]}},"__metadata__":{{}},
                "c":{{"dtype":"U8","shape":[1],"data_offsets":[1,2]}},
                "{last}":{{"dtype":"U8","shape":[1],"data_offsets":[3,4]}}}}"#
            );
            let text = problem(&header, 4);
            assert!(text.contains(&format!("`{last}` is there twice")), "{text}");
        }
    }

    #[test]
    fn errors_are_short_whatever_the_file_says() {
        let long = "x".repeat(1 << 20);
        let t = |name: &str, dtype: &str, shape: &str| {
            format!(r#"{{"{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[0,2]}}}}"#)
        };
        for header in [
            t("t", "U8", &format!("[3{}]", ",1".repeat(1 << 20))),
            t("t", "F4", &format!("[3{}]", ",1".repeat(1 << 20))),
            t(&long, "U8", "[3]"),
            t("t", &long, "[2]"),
            t("t", "U8", &format!("\"{long}\"")),
            t(&long, "U8", "[2]").replacen("[0,2]", "[1,3]", 1),
            format!(r#"{{"__metadata__":{{"{long}":"","{long}":""}}}}"#),
            format!(r#"{{"{long}":[]}}"#),
        ] {
            let text = problem(&header, 2);
            assert!(text.len() < 5000 && text.contains("..."), "{} bytes: {}", text.len(), &text[..100]);
        }
    }

    #[test]
    fn errors_say_at_which_byte() {
        let header = "{\n \"t\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,3]}}";
        let error = parsed(header, 3).unwrap_err();
        assert_eq!(error.offset(), Some(8 + header.len() as u64 - 2), "behind the tensor's entry: {error}");
        let error = parsed(r#"{"t":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}}"#, 3).unwrap_err();
        assert_eq!(error.offset(), Some(8 + 53), "the start of the hole: {error}");
    }
}
