//! Which tensor goes to which file, and what makes several files one checkpoint.

use std::collections::HashSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::SaveTensor;
use super::layout::text;
use crate::error::{Error, Result};
use crate::file::read_whole;
use crate::safetensors::HEADER_BYTES_MAX;
use crate::storage::{NewFile, open_files_room, sync_directory};
use crate::weights::checkpoint::sets::MARKS;

/// The files of one save.
pub(super) struct Shards<'t, 'a> {
    path: PathBuf,
    /// Tensors of each file, in the caller's order.
    parts: Vec<Vec<&'t SaveTensor<'a>>>,
    files: Vec<PathBuf>,
    /// What a sharded checkpoint of this name has.
    index: Option<PathBuf>,
    /// Shards that go once the new checkpoint is there.
    old: Vec<PathBuf>,
}

/// Shards of a save have five digits for their number.
const SHARDS_MAX: usize = 99_999;

impl<'t, 'a> Shards<'t, 'a> {
    /// Tensors in the order given fill one file after another up to `bytes_max`.
    pub(super) fn plan(path: &Path, tensors: &'t [SaveTensor<'a>], bytes_max: Option<u64>) -> Result<Shards<'t, 'a>> {
        let stem = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".safetensors"));
        let index = stem.map(|stem| path.with_file_name(format!("{stem}.safetensors.index.json")));
        if let Some(index) = index.as_deref().filter(|index| index.is_dir()) {
            return Err(Error::Open { path: index.into(), errno: libc::EISDIR });
        }
        let Some(bytes_max) = bytes_max else {
            let parts = vec![tensors.iter().collect()];
            return Ok(Shards { path: path.into(), parts, files: vec![path.into()], index, old: Vec::new() });
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
        if let Some((room, limit)) = open_files_room().filter(|(room, _)| parts.len() as u64 > *room) {
            let problem = format!(
                "{bytes_max} makes {} shards, each an open file until all are written, and of {limit} (`ulimit -n`) {room} are \
                 free; give a larger one, or raise that limit",
                parts.len()
            );
            return Err(Error::config("shard_bytes_max", problem));
        }
        if parts.len() > SHARDS_MAX {
            let problem = format!("{bytes_max} makes {} shards; at most {SHARDS_MAX} have names", parts.len());
            return Err(Error::config("shard_bytes_max", problem));
        }
        let (Some(stem), Some(index)) = (stem, index) else {
            let problem = format!("{} does not end in .safetensors, which shards' names are made from", path.display());
            return Err(Error::config("shard_bytes_max", problem));
        };
        let mut old = named_by(&index);
        let files = match parts.len() {
            1 => vec![path.to_owned()],
            count => {
                let names = MARKS.map(|mark| -> Vec<PathBuf> {
                    let name = |number| format!("{stem}{mark}-{number:05}-of-{count:05}.safetensors");
                    (1..=count).map(|number| path.with_file_name(name(number))).collect()
                });
                // None that is there is overwritten, if that can be: it may be of the checkpoint that is there now.
                let free = |files: &&Vec<PathBuf>| files.iter().all(|file| std::fs::symlink_metadata(file).is_err());
                let unused = |files: &&Vec<PathBuf>| !files.iter().any(|file| old.contains(file));
                let chosen = names.iter().find(|files| free(files) && unused(files)).or(names.iter().find(unused));
                let chosen = chosen.unwrap_or(&names[MARKS.len() - 1]).clone();
                old.extend(names.into_iter().flatten()); // what killed saves left under such names
                chosen
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
        match self.index() {
            Some(index) => {
                self.publish_shards(sealed, NewFile::small(index, self.index_text().as_bytes(), self.mode())?)?
            }
            None => self.publish_single(sealed)?,
        }
        self.remove_old();
        Ok(())
    }

    /// All shards, and when those are sure to stay, the index.
    fn publish_shards(&self, sealed: Vec<NewFile>, index: NewFile) -> Result<()> {
        let mut named = 0;
        let mut shards = sealed.into_iter();
        let shards = shards.try_for_each(|new| new.publish().map(|()| named += 1));
        let valid = shards.and_then(|()| sync_directory(&self.path)).and_then(|()| index.publish());
        if valid.is_err() {
            for file in &self.files[..named] {
                let _ = std::fs::remove_file(file); // without an index, nobody reads it
            }
        }
        valid?;
        sync_directory(&self.path)
    }

    /// The file; and where there was a sharded checkpoint, its index goes.
    fn publish_single(&self, sealed: Vec<NewFile>) -> Result<()> {
        sealed.into_iter().try_for_each(NewFile::publish)?;
        sync_directory(&self.path)?;
        let Some(index) = self.index.as_deref().filter(|index| std::fs::symlink_metadata(index).is_ok()) else {
            return Ok(());
        };
        std::fs::remove_file(index).map_err(|e| Error::Write {
            path: index.into(),
            offset: 0,
            doing: format!("{} is saved, but removing the index of the checkpoint before", self.path.display()),
            errno: e.raw_os_error().unwrap_or(libc::EIO),
        })?;
        tracing::info!(path = %index.display(), "removed the index of the sharded checkpoint before");
        sync_directory(&self.path)
    }

    /// Who may do what with the new files: what could be done with every file of the checkpoint that they replace.
    pub(super) fn mode(&self) -> Option<u32> {
        let files = [&self.path].into_iter().chain(&self.index).chain(&self.old);
        let found = files.filter_map(|file| std::fs::symlink_metadata(file).ok()).filter(|meta| meta.is_file());
        found.map(|meta| meta.permissions().mode() & 0o777).reduce(|all, mode| all & mode)
    }

    /// What the new checkpoint has replaced. Nobody needs it any more, so failing to remove it is no failure.
    fn remove_old(&self) {
        let kept: HashSet<&PathBuf> = self.files.iter().collect();
        let replaced = self.index().map(|_| &self.path);
        let old = replaced.into_iter().chain(&self.old).filter(|file| !kept.contains(file));
        for file in old.filter(|file| file.is_file()) {
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
    let Ok(bytes) = read_whole(index, HEADER_BYTES_MAX) else { return Vec::new() };
    let Ok(value) = serde_json::from_slice::<Value>(&bytes) else { return Vec::new() };
    let names = value["weight_map"].as_object().into_iter().flat_map(|map| map.values()).filter_map(Value::as_str);
    let is_shard = |name: &&str| name.ends_with(".safetensors") && name.contains("-of-") && !name.contains('/');
    let names: HashSet<&str> = names.filter(is_shard).collect();
    names.into_iter().map(|name| index.with_file_name(name)).collect()
}
