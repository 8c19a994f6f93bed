//! MosaicML's MDS: `index.json` names the shards, each of which begins with the place of every sample.
//!
//! ```text
//! index.json   shards: names and sizes of files, columns, compression, hashes      see `index`
//! shard        u32 n, u32 offset[n + 1], a JSON text that the index has too, samples: see `sized`
//! ```
//! After `streaming/base/format/mds/writer.py` and `encodings.py`. Numbers, and arrays whose type and shape the encoding
//! gives (`ndarray:float32:3,224,224`), come with both; other arrays are handed over as stored, with their shape in
//! front, and everything else as the bytes that its decoder takes.
//!
//! A compressed shard has no place for a sample. It is decompressed once, by the processor, into a raw shard beside it
//! or in the directory of the indexes, and that is what is read as long as the compressed one stays as it was. See
//! `compressed` and `made`. A raw shard that is there already, as StreamingDataset leaves it, is read where it is newer.

mod compressed;
pub(super) mod index;
mod made;

use std::path::{Path, PathBuf};

use super::Field;
use super::beneath::beneath;
use super::format::{Format, Indexed, Look, Reader, Source, Verdict};
use super::options::Options;
use super::side_by_side::side_by_side;
use super::sized::{Parts, Size, place};
use crate::error::{Error, Result};
use crate::file::read_whole;
use crate::stats::Fallback;
use compressed::Zip;
use index::{Column, INDEX_BYTES_MAX, Index, Shard};

pub(super) const READER: Reader = Reader { format: Format::Mds, recognise, sources };

fn recognise(look: &Look) -> Verdict {
    if look.ends(&[".mds"]) || look.name.contains(".mds.") {
        return Verdict::Beside;
    }
    (look.name == "index.json" && says(&look.start, b"\"shards\"")).into()
}

/// Whether an index's start has that key: `MDSWriter` puts keys in order, so that the first shard's comes early.
fn says(start: &[u8], key: &[u8]) -> bool {
    start.windows(key.len()).any(|part| part == key)
}

/// The index, or the directory that it is in.
fn sources(path: &Path, options: &Options) -> Result<Vec<Source>> {
    let path = &match path.is_dir() {
        true => path.join("index.json"),
        false => path.to_owned(),
    };
    let index = Index::parse(&read_whole(path, INDEX_BYTES_MAX)?).map_err(|problem| problem.of(path))?;
    let root = path.parent().filter(|root| !root.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Side by side, since those that are compressed are decompressed here.
    side_by_side(&index.shards, |shard| source(root, path, shard, options))
}

fn source(root: &Path, index: &Path, shard: &Shard, options: &Options) -> Result<Source> {
    let columns = shard.columns().map_err(|problem| problem.of(index))?;
    let (samples, bytes) = (shard.samples, shard.raw_data.bytes);
    let raw = beneath(root, &shard.raw_data.basename, index);
    let (path, fallback) = match shard.compression() {
        None => (raw?, None),
        Some(compression) => raw_of(root, index, shard, compression, raw, options)?,
    };
    Ok(Source {
        path,
        beside: vec![index.to_owned()],
        hashes: shard.raw_data.hashes.clone(),
        fallback,
        index: Box::new(move |path, _| raw_shard(path, &columns, samples, bytes)),
    })
}

/// The raw form of a compressed shard: the one that the index names where that is there, else one that is made.
fn raw_of(
    root: &Path,
    index: &Path,
    shard: &Shard,
    compression: &str,
    raw: Result<PathBuf>,
    options: &Options,
) -> Result<(PathBuf, Option<Fallback>)> {
    let name = &shard.raw_data.basename;
    if !name.ends_with(".mds") {
        return Err(Error::format(index, None, format!("it calls a decompressed shard {name:?}, which is no .mds")));
    }
    let raw = match raw {
        Ok(raw) => Some(raw),
        Err(Error::Open { errno: libc::ENOENT, .. }) => None,
        Err(e) => return Err(e),
    };
    let zip = match (&shard.zip_data, &raw) {
        (Some(zip), _) => beneath(root, &zip.basename, index),
        (None, Some(raw)) => return Ok((raw.clone(), None)),
        (None, None) => return Err(Error::format(index, None, format!("{name} is neither there nor compressed"))),
    };
    let zip = match (zip, &raw) {
        (Err(Error::Open { errno: libc::ENOENT, .. }), Some(raw)) => return Ok((raw.clone(), None)),
        (zip, _) => zip?,
    };
    if let Some(raw) = raw.filter(|raw| is_newer(raw, shard.raw_data.bytes, &[&zip, index])) {
        return Ok((raw, None));
    }
    let stored = shard.zip_data.as_ref().unwrap_or(&shard.raw_data);
    let zip = Zip { path: &zip, compression, stored, raw: &shard.raw_data };
    zip.decompress(options).map(|(raw, fallback)| (raw, Some(fallback)))
}

/// Whether a file of so many bytes was written after these.
fn is_newer(raw: &Path, bytes: u64, than: &[&Path]) -> bool {
    let time = |path: &Path| std::fs::metadata(path).and_then(|meta| meta.modified()).ok();
    let whole = std::fs::metadata(raw).is_ok_and(|meta| meta.is_file() && meta.len() == bytes);
    whole && than.iter().all(|other| time(raw) >= time(other))
}

fn raw_shard(path: &Path, columns: &[Column], samples: u64, bytes: u64) -> Result<Indexed> {
    let sizes = columns.iter().map(|column| column.bytes.map_or(Size::Stored, Size::Fixed)).collect();
    let placed = place(path, samples, &Parts::new(sizes))?;
    if placed.bytes != bytes {
        let problem = format!("the index tells of {bytes} bytes, and the shard has {}: it is another's", placed.bytes);
        return Err(Error::format(path, None, problem));
    }
    let field = |(column, &fixed_bytes): (&Column, &Option<u64>)| Field {
        name: column.name.as_str().into(),
        fixed_bytes,
        dtype: column.dtype,
        shape: column.shape.as_deref().map(Into::into),
        varints: false,
        text: column.text,
    };
    let fields = columns.iter().zip(&placed.fixed_bytes).map(field).collect();
    Ok(Indexed { path: path.into(), bytes, fields, met_at: Vec::new(), table: placed.table })
}
