//! `index.json` of an MDS dataset: which shards there are, and what their columns are.

use std::fmt;

use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::dataset::parse::Problem;
use crate::dtype::DType;

/// The largest index that is read, in bytes: of a hundred thousand shards and more.
pub(in crate::dataset) const INDEX_BYTES_MAX: u64 = 256 << 20;

/// What is read of `index.json`; what it says besides does not matter here.
#[derive(Debug, Deserialize)]
pub(in crate::dataset) struct Index {
    version: u64,
    pub(in crate::dataset) shards: Vec<Shard>,
}

#[derive(Debug, Deserialize)]
pub(in crate::dataset) struct Shard {
    version: u64,
    format: String,
    #[serde(default)]
    column_names: Vec<String>,
    #[serde(default)]
    column_encodings: Vec<String>,
    #[serde(default)]
    column_sizes: Vec<Option<u64>>,
    /// `zstd`, or with a level, `zstd:7`.
    compression: Option<String>,
    pub(in crate::dataset) samples: u64,
    pub(in crate::dataset) raw_data: Stored,
    pub(in crate::dataset) zip_data: Option<Stored>,
}

/// A file, relative to the directory of the index.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(in crate::dataset) struct Stored {
    pub(in crate::dataset) basename: String,
    pub(in crate::dataset) bytes: u64,
    /// Names of algorithms, and what they make of the file, in hexadecimal digits.
    #[serde(default, deserialize_with = "each_once")]
    pub(in crate::dataset) hashes: Vec<(String, String)>,
}

/// A column of every sample in a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::dataset) struct Column {
    pub(in crate::dataset) name: String,
    /// Its size where all samples' are the same; else each sample has it in front.
    pub(in crate::dataset) bytes: Option<u64>,
    pub(in crate::dataset) dtype: Option<DType>,
    pub(in crate::dataset) shape: Option<Vec<u64>>,
    pub(in crate::dataset) text: bool,
}

impl Index {
    pub(in crate::dataset) fn parse(text: &[u8]) -> Result<Index, Problem> {
        let index: Index = serde_json::from_slice(text).map_err(|e| {
            Problem::new(byte_of(text, &e), format!("this is no index of an MDS dataset: {e}; copy it again"))
        })?;
        match index.version {
            2 => Ok(index),
            version => Err(Problem::new(0, format!("version {version} of the index; only 2 is known"))),
        }
    }
}

/// The byte of an error that serde_json names by line and column.
pub(in crate::dataset) fn byte_of(text: &[u8], e: &serde_json::Error) -> u64 {
    let lines = text.split_inclusive(|&b| b == b'\n').take(e.line().saturating_sub(1));
    lines.map(<[u8]>::len).sum::<usize>() as u64 + (e.column() as u64).saturating_sub(1)
}

impl Shard {
    /// The algorithm that compressed it, without the level.
    pub(in crate::dataset) fn compression(&self) -> Option<&str> {
        self.compression.as_deref().map(|name| name.split(':').next().unwrap_or(name))
    }

    /// What its samples consist of, in the order in which it is stored.
    pub(in crate::dataset) fn columns(&self) -> Result<Vec<Column>, Problem> {
        let refuse = |what: String| Problem::new(0, format!("{}: {what}", self.raw_data.basename));
        if self.format != "mds" {
            return Err(refuse(format!(
                "a shard of the format {:?}; only \"mds\" is read: write it with MDSWriter",
                self.format
            )));
        }
        if self.version != 2 {
            return Err(refuse(format!("version {} of the shard; only 2 is known", self.version)));
        }
        let (names, encodings, sizes) = (&self.column_names, &self.column_encodings, &self.column_sizes);
        if names.len() != encodings.len() || names.len() != sizes.len() || names.is_empty() {
            let problem = "its columns' names, encodings and sizes are not one each";
            return Err(refuse(problem.into()));
        }
        let columns = names.iter().zip(encodings).zip(sizes);
        columns
            .enumerate()
            .map(|(i, ((name, encoding), &bytes))| match names[..i].contains(name) {
                true => Err(refuse(format!("two columns are called {name:?}"))),
                false => column(name, encoding, bytes).map_err(|what| refuse(format!("column {name:?}: {what}"))),
            })
            .collect()
    }
}

fn column(name: &str, encoding: &str, bytes: Option<u64>) -> Result<Column, String> {
    let text = encoding.starts_with("str") || encoding == "json";
    let plain = |_| Column { name: name.into(), bytes, dtype: None, shape: None, text };
    let of = |dtype: DType, shape: Vec<u64>| Column {
        name: name.into(),
        bytes,
        dtype: Some(dtype),
        shape: Some(shape),
        text: false,
    };
    let column = match encoding {
        "int" => of(DType::I64, vec![]),
        "pkl" => {
            let why = "pickled: a pickle can run any program when it is read, so strait reads none; write the column as json, \
                       ndarray or bytes";
            return Err(why.into());
        }
        "bytes" | "str" | "str_int" | "str_float" | "str_decimal" | "json" | "pil" | "jpeg" | "png" | "jpeg_array"
        | "jpegarray" | "list[pil]" | "list[jpeg]" | "list[png]" | "ndarray" => plain(()),
        other => match (number(other), other.strip_prefix("ndarray:")) {
            (Some(dtype), _) => of(dtype, vec![]),
            (None, Some(array)) => {
                let (dtype, shape) = array.split_once(':').map_or((array, None), |(dtype, shape)| (dtype, Some(shape)));
                let dtype = number(dtype).ok_or_else(|| format!("no array is made of {dtype:?}"))?;
                // Without a shape in the index, each array has its own in front, and is handed over with it.
                match shape {
                    None => plain(()),
                    Some(shape) => of(dtype, shape_of(shape)?),
                }
            }
            (None, None) => return Err(format!("the encoding {other:?} is unknown")),
        },
    };
    let own = column.dtype.zip(column.shape.as_ref()).map(|(dtype, shape)| dtype.array_bytes(shape));
    match own {
        Some(own) if own.is_none_or(|own| own == 0) || own != bytes => {
            Err(format!("{encoding} takes {own:?} bytes, and the index says {bytes:?}"))
        }
        None if bytes.is_some() => Err(format!("{encoding} is of no fixed size, and the index says {bytes:?} bytes")),
        _ => Ok(column),
    }
}

fn shape_of(text: &str) -> Result<Vec<u64>, String> {
    text.split(',').map(|len| len.parse().map_err(|_| format!("{text:?} is no shape"))).collect()
}

fn number(name: &str) -> Option<DType> {
    Some(match name {
        "uint8" => DType::U8,
        "uint16" => DType::U16,
        "uint32" => DType::U32,
        "uint64" => DType::U64,
        "int8" => DType::I8,
        "int16" => DType::I16,
        "int32" => DType::I32,
        "int64" => DType::I64,
        "float16" => DType::F16,
        "float32" => DType::F32,
        "float64" => DType::F64,
        _ => return None,
    })
}

/// An object whose keys occur once, as the format has it.
fn each_once<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<(String, String)>, D::Error> {
    struct Pairs;
    impl<'de> Visitor<'de> for Pairs {
        type Value = Vec<(String, String)>;

        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("an object of texts")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut pairs: Self::Value = Vec::new();
            while let Some((key, value)) = map.next_entry::<String, String>()? {
                if pairs.iter().any(|(other, _)| *other == key) {
                    return Err(A::Error::custom(format_args!("the key {key:?} occurs twice")));
                }
                pairs.push((key, value));
            }
            Ok(pairs)
        }
    }
    deserializer.deserialize_map(Pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARD: &str = r#"{"column_encodings": ["int", "str"], "column_names": ["i", "s"], "column_sizes": [8, null],
        "compression": "zstd:7", "format": "mds", "hashes": ["xxh64"], "raw_data": {"basename": "shard.00000.mds",
        "bytes": 223, "hashes": {"xxh64": "00ff"}}, "samples": 2, "size_limit": 67108864, "version": 2,
        "zip_data": {"basename": "shard.00000.mds.zstd", "bytes": 99, "hashes": {}}}"#;

    fn index(shard: &str) -> Result<Index, Problem> {
        Index::parse(format!("{{\"version\": 2, \"shards\": [{shard}]}}").as_bytes())
    }

    fn with(from: &str, to: &str) -> String {
        assert!(SHARD.contains(from), "{from}");
        let index = index(&SHARD.replacen(from, to, 1));
        index.and_then(|index| index.shards[0].columns()).unwrap_err().what
    }

    #[test]
    fn shards_and_columns_are_read() {
        let index = index(SHARD).unwrap();
        let shard = &index.shards[0];
        assert_eq!((shard.samples, shard.compression()), (2, Some("zstd")));
        assert_eq!(shard.zip_data.as_ref().unwrap().basename, "shard.00000.mds.zstd");
        assert_eq!(shard.raw_data.hashes, [("xxh64".to_string(), "00ff".to_string())]);
        let columns = shard.columns().unwrap();
        let text = Column { name: "s".into(), bytes: None, dtype: None, shape: None, text: true };
        let number =
            Column { name: "i".into(), bytes: Some(8), dtype: Some(DType::I64), shape: Some(vec![]), text: false };
        assert_eq!(columns, [number, text]);
    }

    #[test]
    fn encodings_give_types_and_shapes() {
        let of = |encoding, bytes| column("x", encoding, bytes).map(|column| (column.dtype, column.shape));
        assert_eq!(of("ndarray:float16:3,4", Some(24)), Ok((Some(DType::F16), Some(vec![3, 4]))));
        assert_eq!(of("uint16", Some(2)), Ok((Some(DType::U16), Some(vec![]))));
        for plain in ["bytes", "json", "jpeg", "list[png]", "str_decimal", "ndarray", "ndarray:uint8"] {
            assert_eq!(of(plain, None), Ok((None, None)), "{plain}");
        }
        for (encoding, bytes) in [
            ("int", None),
            ("int", Some(4)),
            ("str", Some(3)),
            ("pkl", None),
            ("ndarray:float8:3", Some(3)),
            ("ndarray:uint8:3", Some(4)),
            ("ndarray:uint8:0", Some(0)),
            ("ndarray:uint8:-3", Some(3)),
            ("ndarray:float64:4294967296,4294967296", None),
            ("avif", None),
        ] {
            assert!(of(encoding, bytes).is_err(), "{encoding} {bytes:?}");
        }
    }

    #[test]
    fn an_index_that_lies_is_refused() {
        for (from, to, what) in [
            ("\"mds\"", "\"json\"", "MDSWriter"),
            ("\"version\": 2", "\"version\": 1", "version 1 of the shard"),
            ("[\"i\", \"s\"]", "[\"i\", \"i\"]", "two columns are called \"i\""),
            ("[\"i\", \"s\"]", "[\"i\"]", "one each"),
            ("\"str\"", "\"pkl\"", "pickle can run any program"),
            ("{\"xxh64\": \"00ff\"}", "{\"md5\": \"0\", \"md5\": \"1\"}", "\"md5\" occurs twice"),
            ("\"samples\": 2", "\"samples\": 2, \"samples\": 3", "duplicate field"),
            ("\"samples\": 2", "\"samples\": -2", "invalid value"),
        ] {
            let problem = with(from, to);
            assert!(problem.contains(what), "{problem}");
        }
        assert!(Index::parse(b"{\"version\": 1, \"shards\": []}").unwrap_err().what.contains("version 1"));
        let problem = Index::parse(b"{\n \"version\": 2,\n\"shards\": 7}").unwrap_err();
        assert_eq!(problem.at, 27, "{problem:?}");
        assert!(Index::parse(b"{\"version\": 2, \"shards\": [").is_err());
    }
}
