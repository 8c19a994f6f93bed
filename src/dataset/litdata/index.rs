//! `index.json` of a LitData dataset: its files, and what their items are made of.

use serde::Deserialize;
use serde_json::Value;

use crate::dataset::mds::index::byte_of;
use crate::dataset::parse::Problem;
use crate::dtype::DType;

/// The largest index that is read, in bytes.
pub(in crate::dataset) const INDEX_BYTES_MAX: u64 = 256 << 20;

/// What is read of `index.json`; what it says besides does not matter here.
#[derive(Debug, Deserialize)]
pub(in crate::dataset) struct Index {
    pub(in crate::dataset) chunks: Vec<File>,
    config: Config,
}

/// A file, which LitData calls a chunk, in the directory of the index.
#[derive(Debug, Deserialize)]
pub(in crate::dataset) struct File {
    pub(in crate::dataset) filename: String,
    /// How many items it has.
    pub(in crate::dataset) chunk_size: u64,
}

#[derive(Debug, Deserialize)]
struct Config {
    compression: Option<String>,
    #[serde(default)]
    encryption: Value,
    #[serde(default)]
    data_format: Vec<String>,
    #[serde(default)]
    data_spec: Value,
    item_loader: Option<String>,
}

/// A part of every item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::dataset) struct Leaf {
    pub(in crate::dataset) name: String,
    pub(in crate::dataset) kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::dataset) enum Kind {
    Number(DType),
    /// An array of one dimension.
    Row(DType),
    /// In UTF-8.
    Text,
    /// Bytes of anything else: a picture, an array with its shape in front.
    Plain,
}

/// How items are stored.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::dataset) enum Items {
    /// Leaves, each item with their sizes in front.
    Leaves(Vec<Leaf>),
    /// Tokens and nothing else.
    Tokens(DType),
}

impl Index {
    pub(in crate::dataset) fn parse(text: &[u8]) -> Result<Index, Problem> {
        serde_json::from_slice(text).map_err(|e| {
            Problem::new(byte_of(text, &e), format!("this is no index of a LitData dataset: {e}; copy it again"))
        })
    }

    /// How the items of all files are stored, or why they cannot be read.
    pub(in crate::dataset) fn items(&self) -> Result<Items, Problem> {
        let config = &self.config;
        if let Some(compression) = &config.compression {
            return Err(refuse(format!(
                "compressed with {compression}: samples have no place of their own in it; write the dataset again with \
                 compression=None"
            )));
        }
        if !config.encryption.is_null() {
            return Err(refuse("encrypted, and strait has no keys; write the dataset again without encryption"));
        }
        match config.item_loader.as_deref() {
            Some("PyTreeLoader") | None => self.leaves().map(Items::Leaves),
            Some("TokensLoader") => match config.data_format.as_slice() {
                [one] => match leaf(one, String::new())?.kind {
                    Kind::Row(dtype) => Ok(Items::Tokens(dtype)),
                    _ => Err(refuse(format!("items of TokensLoader that are no plain tokens but {one:?}"))),
                },
                other => Err(refuse(format!("items of TokensLoader with {} parts and not one", other.len()))),
            },
            Some(other) => Err(refuse(format!(
                "items of {other}, which strait does not know; write the dataset with PyTreeLoader or TokensLoader"
            ))),
        }
    }

    fn leaves(&self) -> Result<Vec<Leaf>, Problem> {
        let kinds = &self.config.data_format;
        if kinds.is_empty() {
            return Err(refuse("no data_format: the index does not say what items are made of"));
        }
        let names = names(&self.config.data_spec).filter(|names| names.len() == kinds.len());
        // Where the tree cannot be made out, leaves are numbered.
        let names = names.unwrap_or_else(|| (0..kinds.len()).map(|i| i.to_string()).collect());
        if let Some(twice) = names.iter().enumerate().find_map(|(i, name)| names[..i].contains(name).then_some(name)) {
            return Err(refuse(format!("two leaves are called {twice:?}; rename one")));
        }
        kinds.iter().zip(names).map(|(kind, name)| leaf(kind, name)).collect()
    }
}

fn leaf(kind: &str, name: String) -> Result<Leaf, Problem> {
    let (kind, code) = kind.split_once(':').map_or((kind, None), |(kind, code)| (kind, Some(code)));
    let typed = |of: fn(u64) -> Option<DType>| {
        let dtype = code.and_then(|code| code.parse().ok()).and_then(of);
        dtype.ok_or_else(|| refuse(format!("the leaf {name:?} is of the unknown type {kind}:{}", code.unwrap_or(""))))
    };
    let kind = match kind {
        "int" => Kind::Number(DType::I64),
        "float" => Kind::Number(DType::F64),
        "bool" => Kind::Number(DType::Bool),
        "str" => Kind::Text,
        "no_header_tensor" => Kind::Row(typed(torch)?),
        "no_header_numpy" => Kind::Row(typed(numpy)?),
        "pickle" | "graph" => {
            return Err(refuse(format!(
                "the leaf {name:?} is pickled ({kind}): a pickle can run any program when it is read, so strait reads none; \
                 write it as bytes, numbers or an array"
            )));
        }
        // An array of several dimensions has them in front, and is handed over with them.
        _ => Kind::Plain,
    };
    Ok(Leaf { name, kind })
}

/// The paths of a tree's leaves, joined by dots, as PyTorch's `treespec_dumps` tells of it:
/// `[1, {"type": "builtins.dict", "context": "[\"a\", \"b\"]", "children_spec": [..]}]`.
fn names(spec: &Value) -> Option<Vec<String>> {
    let parsed;
    let spec = match spec {
        Value::String(text) => {
            parsed = serde_json::from_str::<Value>(text).ok()?;
            &parsed
        }
        other => other,
    };
    let mut names = Vec::new();
    walk(spec.get(1)?, String::new(), &mut names)?;
    Some(names)
}

/// As deep as serde_json lets a text nest, which is 128.
fn walk(node: &Value, path: String, names: &mut Vec<String>) -> Option<()> {
    let children = node.get("children_spec")?.as_array()?;
    let Some(kind) = node.get("type")?.as_str() else {
        names.push(if path.is_empty() { "0".into() } else { path });
        return Some(());
    };
    let keys: Option<Vec<Value>> = match kind {
        "builtins.dict" | "collections.OrderedDict" => serde_json::from_str(node.get("context")?.as_str()?).ok(),
        _ => None,
    };
    for (i, child) in children.iter().enumerate() {
        let key = match keys.as_ref().and_then(|keys| keys.get(i)) {
            Some(Value::String(key)) => key.clone(),
            Some(key) => key.to_string(),
            None => i.to_string(),
        };
        walk(child, if path.is_empty() { key } else { format!("{path}.{key}") }, names)?;
    }
    Some(())
}

/// `litdata/constants.py`, `_TORCH_DTYPES_MAPPING`.
fn torch(code: u64) -> Option<DType> {
    Some(match code {
        0 | 1 => DType::F32,
        2 | 3 => DType::F64,
        4 | 5 => DType::C64,
        6 | 7 => DType::C128,
        8 | 9 => DType::F16,
        10 => DType::BF16,
        11 => DType::U8,
        12 => DType::I8,
        13 | 14 => DType::I16,
        15 | 16 => DType::I32,
        17 | 18 => DType::I64,
        19 => DType::Bool,
        20 => DType::U16,
        _ => return None,
    })
}

/// `litdata/constants.py`, `_NUMPY_SCTYPES`.
fn numpy(code: u64) -> Option<DType> {
    const TYPES: [DType; 14] = [
        DType::I8,
        DType::I16,
        DType::I32,
        DType::I64,
        DType::U8,
        DType::U16,
        DType::U32,
        DType::U64,
        DType::F16,
        DType::F32,
        DType::F64,
        DType::C64,
        DType::C128,
        DType::Bool,
    ];
    TYPES.get(usize::try_from(code).ok()?).copied()
}

fn refuse(what: impl Into<String>) -> Problem {
    Problem::new(0, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(config: &str) -> Index {
        let text = format!(
            "{{\"chunks\": [{{\"chunk_bytes\": 40, \"chunk_size\": 2, \"dim\": null, \"filename\": \"chunk-0-0.bin\"}}], \
             \"config\": {{{config}}}}}"
        );
        Index::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn leaves_have_their_paths_for_names() {
        let spec = r#""[1, {\"type\": \"builtins.dict\", \"context\": \"[\\\"x\\\", \\\"y\\\"]\", \"children_spec\":
            [{\"type\": null, \"context\": null, \"children_spec\": []}, {\"type\": \"builtins.list\", \"context\": \"null\",
            \"children_spec\": [{\"type\": null, \"context\": null, \"children_spec\": []},
            {\"type\": null, \"context\": null, \"children_spec\": []}]}]}]""#.replace('\n', " ");
        let config = "\"compression\": null, \"data_format\": [\"jpeg\", \"int\", \"no_header_numpy:5\"], \"encryption\": null, \
                      \"item_loader\": \"PyTreeLoader\", \"data_spec\": ";
        let leaf = |name: &str, kind| Leaf { name: name.into(), kind };
        let want = |names: [&str; 3]| {
            Ok(Items::Leaves(vec![
                leaf(names[0], Kind::Plain),
                leaf(names[1], Kind::Number(DType::I64)),
                leaf(names[2], Kind::Row(DType::U16)),
            ]))
        };
        assert_eq!(index(&format!("{config}{spec}")).items(), want(["x", "y.0", "y.1"]));
        assert_eq!(index(&format!("{config}null")).items(), want(["0", "1", "2"]));
        assert_eq!(index(&format!("{config}\"[1, {{}}]\"")).items(), want(["0", "1", "2"]));
    }

    #[test]
    fn tokens_have_a_type() {
        let of = |format: &str| {
            index(&format!("\"compression\": null, \"data_format\": [{format}], \"item_loader\": \"TokensLoader\""))
                .items()
        };
        assert_eq!(of("\"no_header_tensor:20\""), Ok(Items::Tokens(DType::U16)));
        assert_eq!(of("\"no_header_numpy:2\""), Ok(Items::Tokens(DType::I32)));
        for bad in ["", "\"int\"", "\"no_header_tensor:99\"", "\"no_header_tensor\"", "\"int\", \"int\""] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_cannot_be_read_says_why() {
        for (config, word) in [
            ("\"compression\": \"zstd\", \"data_format\": [\"int\"]", "compression=None"),
            ("\"encryption\": {\"algorithm\": \"fernet\"}, \"data_format\": [\"int\"]", "encrypted"),
            ("\"data_format\": [\"int\", \"pickle\"]", "pickle can run any program"),
            ("\"data_format\": [\"graph:pickle\"]", "pickle can run any program"),
            ("\"data_format\": [\"int\"], \"item_loader\": \"ParquetLoader\"", "ParquetLoader"),
            ("\"data_format\": []", "data_format"),
        ] {
            let problem = index(config).items().unwrap_err();
            assert!(problem.what.contains(word), "{problem:?}");
        }
        for text in ["", "[]", "{\"chunks\": []}", "{\"chunks\": [], \"chunks\": [], \"config\": {}}"] {
            assert!(Index::parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
