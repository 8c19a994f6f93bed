//! Which tensor goes to which file, and what makes several files one checkpoint.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::SaveTensor;
use super::layout::text;
use crate::error::{Error, Result};
use crate::storage::{NewFile, sync_directory, write_small};

/// The files of one save.
pub(super) struct Shards<'t, 'a> {
    path: PathBuf,
    /// Tensors of each file, in the caller's order.
    parts: Vec<Vec<&'t SaveTensor<'a>>>,
    files: Vec<PathBuf>,
    /// If there may be several files.
    index: Option<PathBuf>,
    /// What an earlier save into the same index wrote.
    old: Vec<PathBuf>,
}

/// Shards of a save have five digits for their number.
const SHARDS_MAX: usize = 99_999;
/// What distinguishes the names of a save from those of the one before.
const OTHER: &str = "-b";

impl<'t, 'a> Shards<'t, 'a> {
    /// Tensors in the order given fill one file after another up to `bytes_max`.
    pub(super) fn plan(path: &Path, tensors: &'t [SaveTensor<'a>], bytes_max: Option<u64>) -> Result<Shards<'t, 'a>> {
        let Some(bytes_max) = bytes_max else {
            let parts = vec![tensors.iter().collect()];
            return Ok(Shards { path: path.into(), parts, files: vec![path.into()], index: None, old: Vec::new() });
        };
        let mut parts: Vec<Vec<&SaveTensor<'a>>> = vec![Vec::new()];
        let mut bytes = 0u64;
        for tensor in tensors {
            let part = parts.last_mut().expect("starts with one");
            if !part.is_empty() && bytes.saturating_add(tensor.bytes) > bytes_max {
                (bytes, _) = (0, parts.push(Vec::new()));
            }
            bytes = bytes.saturating_add(tensor.bytes);
            parts.last_mut().expect("starts with one").push(tensor);
        }
        if parts.len() > SHARDS_MAX {
            let problem = format!("{bytes_max} makes {} shards; at most {SHARDS_MAX} have names", parts.len());
            return Err(Error::config("shard_bytes_max", problem));
        }
        let Some(stem) = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_suffix(".safetensors")) else {
            let problem = format!("{} does not end in .safetensors, which shards' names are made from", path.display());
            return Err(Error::config("shard_bytes_max", problem));
        };
        let index = path.with_file_name(format!("{stem}.safetensors.index.json"));
        let old = named_by(&index);
        let files = match parts.len() {
            1 => vec![path.to_owned()],
            count => {
                let names = |mark: &str| -> Vec<PathBuf> {
                    let name = |number| format!("{stem}{mark}-{number:05}-of-{count:05}.safetensors");
                    (1..=count).map(|number| path.with_file_name(name(number))).collect()
                };
                let taken = |files: &[PathBuf]| files.iter().any(|file| old.contains(file));
                [names(""), names(OTHER)].into_iter().find(|files| !taken(files)).unwrap_or_else(|| names("-c"))
            }
        };
        Ok(Shards { path: path.into(), parts, files, index: Some(index), old })
    }

    pub(super) fn parts(&self) -> impl Iterator<Item = Vec<&'t SaveTensor<'a>>> {
        self.parts.iter().cloned()
    }

    pub(super) fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// The index, if this checkpoint has one.
    pub(super) fn index(&self) -> Option<&Path> {
        self.index.as_deref().filter(|_| self.files.len() > 1)
    }

    /// Gives every file its name; the last step is the one that makes the new checkpoint the valid one.
    pub(super) fn publish(&self, sealed: Vec<NewFile>) -> Result<()> {
        sealed.into_iter().try_for_each(NewFile::publish)?;
        sync_directory(&self.path)?;
        if let Some(index) = self.index() {
            write_small(index, self.index_text().as_bytes())?;
            sync_directory(&self.path)?;
        }
        self.remove_old();
        Ok(())
    }

    /// What the new checkpoint has replaced. Nobody needs it any more, so failing to remove it is no failure.
    fn remove_old(&self) {
        let Some(index) = &self.index else { return };
        let sharded = self.files.len() > 1;
        let replaced = if sharded { self.path.clone() } else { index.clone() };
        let kept: HashSet<&PathBuf> = self.files.iter().collect();
        let old = self.old.iter().filter(|file| !kept.contains(file));
        for file in [&replaced].into_iter().chain(old).filter(|file| file.is_file()) {
            match std::fs::remove_file(file) {
                Ok(()) => tracing::debug!(path = %file.display(), "removed a file of the checkpoint before"),
                Err(error) => tracing::warn!(path = %file.display(), %error, "an old shard could not be removed"),
            }
        }
    }

    fn index_text(&self) -> String {
        let mut entries: Vec<(&str, &Path)> = Vec::new();
        for (part, file) in self.parts.iter().zip(&self.files) {
            entries.extend(part.iter().map(|tensor| (tensor.name, file.as_path())));
        }
        entries.sort();
        let name = |file: &Path| text(&file.file_name().unwrap_or_default().to_string_lossy());
        let entries: Vec<String> =
            entries.into_iter().map(|(tensor, file)| format!("    {}: {}", text(tensor), name(file))).collect();
        let total: u64 = self.parts.iter().flatten().map(|tensor| tensor.bytes).sum();
        format!(
            "{{\n  \"metadata\": {{\"total_size\": {total}}},\n  \"weight_map\": {{\n{}\n  }}\n}}\n",
            entries.join(",\n")
        )
    }
}

/// The shards that an index names, those beside it with names of shards only: nothing else is ever removed.
fn named_by(index: &Path) -> Vec<PathBuf> {
    let Ok(bytes) = std::fs::read(index) else { return Vec::new() };
    let Ok(value) = serde_json::from_slice::<Value>(&bytes) else { return Vec::new() };
    let names = value["weight_map"].as_object().into_iter().flat_map(|map| map.values()).filter_map(Value::as_str);
    let is_shard = |name: &&str| name.ends_with(".safetensors") && name.contains("-of-") && !name.contains('/');
    let names: HashSet<&str> = names.filter(is_shard).collect();
    names.into_iter().map(|name| index.with_file_name(name)).collect()
}
