//! What the bytes of a checkpoint must be: a manifest of digests, in strait's own form or in one that others write.
//!
//! Strait's own form is JSON, written by `strait hash` and by saving. Offsets count from the start of the file; a digest
//! is `algorithm:hex`; types have their names in safetensors; `digest` and `tensors` of a file, `dtype` and `shape` of a
//! tensor may each be left out.
//!
//! ```json
//! {"format": "strait-manifest", "version": 1, "files": [
//!   {"name": "model.safetensors", "bytes": 4112, "digest": "xxh3-64:2d06800538d394c2", "tensors": [
//!     {"name": "w", "dtype": "F32", "shape": [2, 2], "offset": 4096, "bytes": 16, "digest": "xxh3-64:a9b2d84a5cf4b1c5"}]}]}
//! ```
//!
//! Read as well: the lines of `sha256sum` (text, binary, `--tag`, escaped names), a git-lfs pointer, and the listings of
//! files that the Hugging Face hub answers with (`lfs.oid` of the tree, `lfs.sha256` of a model's siblings).

mod json;
mod lines;

use std::path::{Component, Path};

use super::{Algorithm, Digest};
use crate::dtype::DType;
use crate::error::{Error, Result, short, short_shape};
use crate::file;

/// Digests of files, of their tensors, or both.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Manifest {
    files: Vec<FileDigests>,
}

/// What is known of one file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FileDigests {
    /// A path, relative to the manifest or not; `None` where the form names no file (a git-lfs pointer).
    pub name: Option<String>,
    /// The file's length, if the form gives it.
    pub bytes: Option<u64>,
    /// Of the whole file.
    pub digest: Option<Digest>,
    /// By name, each once.
    pub tensors: Vec<TensorDigest>,
}

/// What is known of one tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorDigest {
    /// Its name in the file.
    pub name: String,
    /// The type of its elements, if the manifest has it.
    pub dtype: Option<DType>,
    /// The length of each dimension, if the manifest has them.
    pub shape: Option<Vec<u64>>,
    /// Its first byte, from the start of the file.
    pub offset: u64,
    /// How many bytes it has.
    pub bytes: u64,
    /// Of those bytes.
    pub digest: Digest,
}

/// A manifest longer than this is none: 100,000 tensors take some 15 MB.
const BYTES_MAX: u64 = 256 << 20;

impl FileDigests {
    /// The digest of a tensor.
    pub fn tensor(&self, name: &str) -> Option<&TensorDigest> {
        self.tensors.binary_search_by(|tensor| (*tensor.name).cmp(name)).ok().map(|place| &self.tensors[place])
    }
}

impl TensorDigest {
    /// What is known of a tensor, and what a header says of it: where they differ, if they do.
    pub(super) fn differs(&self, dtype: DType, shape: &[u64], offset: u64, bytes: u64) -> Option<String> {
        let (header, own) = if (self.offset, self.bytes) != (offset, bytes) {
            (format!("{bytes} bytes at byte {offset}"), format!("{} bytes at byte {}", self.bytes, self.offset))
        } else if let Some(own) = self.dtype.filter(|own| *own != dtype) {
            (dtype.to_string(), own.to_string())
        } else {
            let own = self.shape.as_deref().filter(|own| *own != shape)?;
            (short_shape(shape), short_shape(own))
        };
        let name = short(&self.name);
        Some(format!("tensor `{name}` is {header} by the file's header, and {own} by the manifest"))
    }
}

impl Manifest {
    /// Reads a manifest of any form; the form is known from its first bytes.
    ///
    /// # Errors
    /// [`Error::Open`] where it cannot be opened, or is a directory; [`Error::Format`] where it is none, is longer than
    /// 256 MiB, or is no regular file: a pipe could keep one waiting for ever.
    pub fn open(path: impl AsRef<Path>) -> Result<Manifest> {
        let path = path.as_ref();
        Manifest::parse(path, &file::read_whole(path, BYTES_MAX)?)
    }

    /// The same from bytes; `path` is for messages.
    pub fn parse(path: &Path, text: &[u8]) -> Result<Manifest> {
        let files = match text.iter().find(|byte| !byte.is_ascii_whitespace()) {
            Some(b'{' | b'[') => json::parse(text),
            Some(_) if text.starts_with(b"version http") => lines::pointer(text).map(|file| vec![file]),
            _ => lines::sums(text),
        };
        let files = files.map_err(|Problem { offset, what }| Error::format(path, offset, what))?;
        Manifest::new(files).map_err(|what| Error::format(path, None, what))
    }

    /// A manifest of these files. Fails, and says why, if a name comes twice or a digest has no place.
    pub fn new(mut files: Vec<FileDigests>) -> Result<Manifest, String> {
        for file in &mut files {
            let own = file.name.as_deref().unwrap_or("the file");
            file.tensors.sort_by(|a, b| a.name.cmp(&b.name));
            if let Some(twins) = file.tensors.windows(2).find(|pair| pair[0].name == pair[1].name) {
                return Err(format!("{own}: tensor `{}` is named twice", twins[0].name));
            }
            let end = file.bytes.unwrap_or(u64::MAX);
            let outside = |t: &&TensorDigest| t.offset.checked_add(t.bytes).is_none_or(|last| last > end);
            if let Some(tensor) = file.tensors.iter().find(outside) {
                return Err(format!("{own}: tensor `{}` ends behind the end of the file", tensor.name));
            }
        }
        let mut names: Vec<_> = files.iter().map(|file| &file.name).collect();
        names.sort();
        if let Some(twins) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(format!("{} is named twice", twins[0].as_deref().unwrap_or("a file without name")));
        }
        Ok(Manifest { files })
    }

    /// All files, in the manifest's order.
    pub fn files(&self) -> &[FileDigests] {
        &self.files
    }

    /// What is known of the file at `path`: the entry whose name has the most components of all that `path` ends with.
    /// An entry without a name is about any file, if it is alone.
    pub fn file(&self, path: &Path) -> Option<&FileDigests> {
        if let [FileDigests { name: None, .. }] = &self.files[..] {
            return self.files.first();
        }
        let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let named = self.files.iter().filter_map(|file| Some((Path::new(file.name.as_ref()?), file)));
        let fits = named.filter(|(name, _)| whole.ends_with(plain(name)));
        fits.max_by_key(|(name, _)| plain(name).components().count()).map(|(_, file)| file)
    }

    /// Strait's own form, one line for each file and each tensor.
    pub fn to_json(&self) -> String {
        json::write(&self.files)
    }
}

/// Without `./` in front, which `ends_with` would take for a component.
fn plain(name: &Path) -> &Path {
    let mut components = name.components();
    while let Some(Component::CurDir) = components.clone().next() {
        components.next();
    }
    components.as_path()
}

/// What is wrong with a manifest, and at which byte.
struct Problem {
    offset: u64,
    what: String,
}

impl Problem {
    fn at(offset: usize, what: impl Into<String>) -> Problem {
        Problem { offset: offset as u64, what: what.into() }
    }
}

fn sha256(hex: &str) -> Option<Digest> {
    Digest::from_hex(Algorithm::Sha256, hex)
}

#[cfg(test)]
mod tests;
