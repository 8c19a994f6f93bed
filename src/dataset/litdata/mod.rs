//! LitData: `index.json` names the files (its chunks), each of which begins with the place of every item.
//!
//! ```text
//! index.json   chunks: names, items; config: what items are made of              see `index`
//! file         u32 n, u32 offset[n + 1], items: see `sized`
//! item         PyTreeLoader: u32 size of each leaf, the leaves      TokensLoader: tokens
//! ```
//! After `litdata/streaming/writer.py` and `serializers.py`. An item is a sample, a leaf a field; where items are
//! tokens, each is a document. Numbers and one-dimensional arrays come with their type; arrays of more dimensions are
//! handed over as stored, with type and shape in front.

pub(super) mod index;

use std::path::Path;
use std::sync::Arc;

use super::Field;
use super::beneath::beneath;
use super::format::{Format, Indexed, Look, Reader, Source, Verdict};
use super::options::Options;
use super::sized::{Parts, Size, place};
use crate::error::{Error, Result};
use crate::file::{open_file, read_at, read_whole};
use index::{INDEX_BYTES_MAX, Index, Items, Kind, Leaf};

pub(super) const READER: Reader = Reader { format: Format::LitData, recognise, sources };

fn recognise(look: &Look) -> Verdict {
    if look.name.starts_with("chunk-") && look.ends(&[".bin"]) {
        return Verdict::Beside;
    }
    let key = b"\"chunks\"";
    (look.name == "index.json" && look.start.windows(key.len()).any(|part| part == key)).into()
}

/// The index, or the directory that it is in.
fn sources(path: &Path, _: &Options) -> Result<Vec<Source>> {
    let path = &match path.is_dir() {
        true => path.join("index.json"),
        false => path.to_owned(),
    };
    let index = Index::parse(&read_whole(path, INDEX_BYTES_MAX)?).map_err(|problem| problem.of(path))?;
    let items = index.items().map_err(|problem| problem.of(path))?;
    let whole = matches!(items, Items::Tokens(_));
    let leaves = match items {
        Items::Leaves(leaves) => leaves,
        Items::Tokens(dtype) => vec![Leaf { name: "tokens".into(), kind: Kind::Row(dtype) }],
    };
    let leaves: Arc<[Leaf]> = leaves.into();
    let root = path.parent().filter(|root| !root.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let source = |file: &index::File| {
        let (leaves, samples) = (leaves.clone(), file.chunk_size);
        Ok(Source {
            path: beneath(root, &file.filename, path)?,
            beside: vec![path.clone()],
            hashes: Vec::new(),
            fallback: None,
            index: Box::new(move |path, _| file_of(path, &leaves, whole, samples)),
        })
    };
    index.chunks.iter().map(source).collect()
}

/// What newer versions put behind items that they also write as Arrow tables; the items themselves are then empty.
const ARROW_FOOTER: &[u8; 8] = b"LDARW01\0";

/// Items of `leaves`, with their sizes in front unless an item is `whole` one leaf.
fn file_of(path: &Path, leaves: &[Leaf], whole: bool, samples: u64) -> Result<Indexed> {
    let (file, bytes) = open_file(path)?;
    let mut end = [0; 8];
    read_at(&file, path, bytes.saturating_sub(8), &mut end)?;
    if &end == ARROW_FOOTER {
        let problem = "items stored as an Arrow table; write the dataset with leaves of bytes, numbers or arrays, which are \
                       stored as they are";
        return Err(Error::format(path, bytes - 8, problem));
    }
    let size = |leaf: &Leaf| match leaf.kind {
        _ if whole => Size::Whole,
        Kind::Number(dtype) => dtype.bytes().map_or(Size::Stored, Size::StoredFixed),
        Kind::Row(_) | Kind::Text | Kind::Plain => Size::Stored,
    };
    let placed = place(path, samples, &Parts::new(leaves.iter().map(size).collect()))?;
    let fields = leaves.iter().zip(&placed.fixed_bytes).map(|(leaf, &fixed)| field(leaf, fixed)).collect();
    Ok(Indexed { path: path.into(), bytes: placed.bytes, fields, met_at: Vec::new(), table: placed.table })
}

fn field(leaf: &Leaf, fixed_bytes: Option<u64>) -> Field {
    let (dtype, shape) = match leaf.kind {
        Kind::Text | Kind::Plain => (None, None),
        Kind::Number(dtype) => (Some(dtype), Some(Arc::default())),
        Kind::Row(dtype) => {
            let len = |bytes: u64| Some(bytes / dtype.bytes()?);
            let len = fixed_bytes.and_then(len).filter(|&len| dtype.array_bytes(&[len]) == fixed_bytes);
            (Some(dtype), len.map(|len| Arc::from([len])))
        }
    };
    Field { name: leaf.name.as_str().into(), fixed_bytes, dtype, shape, text: leaf.kind == Kind::Text, varints: false }
}
