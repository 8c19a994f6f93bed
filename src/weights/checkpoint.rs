//! What a checkpoint holds, from its headers alone.
//!
//! ```text
//!  path ---> a file          m.safetensors                       its header
//!       |--> an index        model.safetensors.index.json        the headers of the files that it names, checked
//!       '--> a directory     the index in it, or without one     the headers of all *.safetensors in it: see `sets`
//! ```
//!
//! An index comes with the files, from wherever they came from, so it may not name a file outside its directory.

mod index;
pub(super) mod sets;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use index::open_index;

use super::Builder;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::safetensors;

/// A checkpoint: one or more safetensors files whose tensors have distinct names. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Checkpoint(Arc<Contents>);

#[derive(Debug)]
struct Contents {
    files: Vec<CheckpointFile>,
    tensors: Arc<[TensorInfo]>,
    by_name: HashMap<Arc<str>, usize>,
}

/// One file of a checkpoint.
#[derive(Debug, Clone)]
pub struct CheckpointFile {
    /// Where it is.
    pub path: Arc<Path>,
    /// Its size.
    pub bytes: u64,
    /// Where its tensors start, in bytes from its start.
    pub data_start: u64,
    /// What its writer had to say (`__metadata__`).
    pub metadata: BTreeMap<String, String>,
}

/// A tensor of a checkpoint: what it is, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name, which no other tensor of the checkpoint has.
    pub name: Arc<str>,
    /// The type of its elements.
    pub dtype: DType,
    /// The length of each dimension; none for a single element.
    pub shape: Vec<u64>,
    /// Index of its file.
    pub shard: u32,
    /// Its first byte, from the start of the file.
    pub offset: u64,
    /// How many bytes it has.
    pub bytes: u64,
}

impl Checkpoint {
    /// Opens a safetensors file, an index (`model.safetensors.index.json`), or a directory with one or the other.
    ///
    /// Reads headers only. Every file is checked to be as long as its header says, an index to agree with its files; but
    /// for its `metadata.total_size`, which many writers get wrong: [`Checkpoint::bytes`] says what there is.
    ///
    /// In a directory without an index, `model.safetensors` goes before `model-00001-of-00003.safetensors` and so on, which
    /// an interrupted save may have left there; without it, all shards of a set must be there.
    pub fn open(path: impl AsRef<Path>) -> Result<Checkpoint> {
        let path = path.as_ref();
        let meta = std::fs::metadata(path).map_err(|e| Error::open(path, &e))?;
        if meta.is_dir() {
            return open_directory(path);
        }
        match path.extension() {
            Some(extension) if extension == "json" => open_index(path),
            _ => Checkpoint::open_files(&[path]),
        }
    }

    /// Opens these files as one checkpoint, without an index.
    pub fn open_files(paths: &[impl AsRef<Path>]) -> Result<Checkpoint> {
        let mut files = Vec::with_capacity(paths.len());
        let mut tensors = Vec::new();
        for (shard, path) in paths.iter().enumerate() {
            let path: Arc<Path> = path.as_ref().into();
            let header = safetensors::read(&path)?;
            let bytes = header.tensors.last().map_or(header.data_start, |last| last.end);
            files.push(CheckpointFile { path, bytes, data_start: header.data_start, metadata: header.metadata });
            tensors.extend(header.tensors.into_iter().map(|tensor| TensorInfo {
                bytes: tensor.bytes(),
                name: tensor.name.into(),
                dtype: tensor.dtype,
                shape: tensor.shape,
                shard: shard as u32,
                offset: tensor.begin,
            }));
        }
        let mut by_name = HashMap::with_capacity(tensors.len());
        for (place, tensor) in tensors.iter().enumerate() {
            if let Some(first) = by_name.insert(tensor.name.clone(), place) {
                let other = files[tensors[first].shard as usize].path.display();
                let problem = format!("tensor `{}` is in {other} too; open one of the two files only", tensor.name);
                return Err(Error::format(&*files[tensor.shard as usize].path, tensor.offset, problem));
            }
        }
        Ok(Checkpoint(Arc::new(Contents { files, tensors: tensors.into(), by_name })))
    }

    /// Every tensor, file by file, in the order in which they lie there.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.0.tensors
    }

    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.0.by_name.get(name).map(|&place| &self.0.tensors[place])
    }

    /// Its files.
    pub fn files(&self) -> &[CheckpointFile] {
        &self.0.files
    }

    /// The bytes of all tensors.
    pub fn bytes(&self) -> u64 {
        self.0.tensors.iter().map(|tensor| tensor.bytes).sum()
    }

    /// Sets out to load it.
    pub fn load(&self) -> Builder {
        Builder::new(self.clone())
    }

    pub(super) fn shared_tensors(&self) -> Arc<[TensorInfo]> {
        self.0.tensors.clone()
    }

    pub(super) fn place(&self, name: &str) -> Option<usize> {
        self.0.by_name.get(name).copied()
    }
}

/// What indexes are called: by transformers, and by those who follow it.
const INDEX_END: &str = ".safetensors.index.json";

fn open_directory(directory: &Path) -> Result<Checkpoint> {
    let failed = |e: std::io::Error| Error::open(directory, &e);
    let mut names: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        names.push(entry.map_err(failed)?.file_name().into());
    }
    names.sort();
    let ends = |end: &str| names.iter().filter(|name| name.to_string_lossy().ends_with(end)).collect::<Vec<_>>();
    let indexes = ends(INDEX_END);
    if let [index] = indexes[..] {
        return open_index(&directory.join(index));
    }
    if let [first, second, ..] = indexes[..] {
        let problem = format!("has {} and {}; name the one to open", first.display(), second.display());
        return Err(Error::format(directory, None, problem));
    }
    let files = ends(".safetensors");
    if files.is_empty() {
        return Err(Error::format(directory, None, "a directory without *.safetensors; check the path"));
    }
    let lossy: Vec<String> = files.iter().map(|name| name.to_string_lossy().into_owned()).collect();
    let chosen = sets::chosen(&lossy).map_err(|problem| Error::format(directory, None, problem))?;
    let chosen = files.iter().zip(&lossy).filter(|(_, name)| chosen.contains(&name.as_str()));
    let paths = chosen.map(|(name, _)| inside(directory, name));
    Checkpoint::open_files(&paths.collect::<Result<Vec<_>>>()?)
}

/// The path of a file of `directory`. Links may not lead out of it, but for those of the Hugging Face cache, whose
/// `snapshots/<revision>/` has links to the `blobs/` of the same repository.
fn inside(directory: &Path, name: &Path) -> Result<PathBuf> {
    let path = directory.join(name);
    let resolve = |path: &Path| std::fs::canonicalize(path).map_err(|e| Error::open(path, &e));
    let own = resolve(if directory.as_os_str().is_empty() { Path::new(".") } else { directory })?;
    let target = resolve(&path)?;
    let snapshots = own.parent().filter(|parent| parent.file_name().is_some_and(|name| name == "snapshots"));
    let blobs = snapshots.and_then(Path::parent).map(|repository| repository.join("blobs"));
    if target.starts_with(&own) || blobs.is_some_and(|blobs| target.starts_with(blobs)) {
        return Ok(path);
    }
    let problem = format!("a link that leads out of its directory, to {}; open that file itself", target.display());
    Err(Error::format(path, None, problem))
}
