//! Writes checkpoints: from device memory through slabs to files, all or nothing.
//!
//! ```text
//!  tensors in device memory --copies out--> slab = 4 MiB of the file --sum--> O_DIRECT writes --> unnamed file
//!  header in front           (or memcpy)    in file order                     by a ring              |
//!                                                               fsync, name it, rename it, fsync its directory
//! ```
//!
//! Until the rename the old file is there under its name; from the rename on the new one is, whole. A crash in between
//! leaves no third thing: the file has no name before it is complete, where the file system can do that (`O_TMPFILE`),
//! and else a name (`.strait-save-*.tmp`) that the next save into this directory recognises and removes.

mod layout;
mod pipeline;
mod shards;
mod sums;
mod tensor;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use self::layout::Layout;
use self::pipeline::Pipeline;
use self::shards::Shards;
use self::tensor::Source;
use super::{Algorithm, FileDigests, Manifest};
use crate::config::{RingChoice, options};
use crate::device::{Device, RawStream};
use crate::error::{Error, Result};
use crate::sim::Clock;
use crate::stats::Fallback;
use crate::storage::{NewFile, Ring};

pub use self::tensor::SaveTensor;

/// What is summed up in a [`Manifest`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Per {
    /// Every file as a whole.
    File,
    /// Every tensor.
    Tensor,
    /// Both.
    Both,
}

/// What was saved.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Saved {
    /// The files, in order of their shard.
    pub files: Vec<PathBuf>,
    /// `model.safetensors.index.json`, where there are several shards.
    pub index: Option<PathBuf>,
    /// Length of all files, headers included, in bytes.
    pub bytes: u64,
    /// Digests of what was written, if they were asked for. Names are relative to the files' directory.
    pub manifest: Option<Manifest>,
    /// `"uring"`, `"pread"`.
    pub ring: &'static str,
    /// Whether the writes bypassed the page cache.
    pub direct: bool,
    /// Host memory that was pinned, in bytes.
    pub pinned_bytes: u64,
    /// What could not be had, each once.
    pub fallbacks: Vec<Fallback>,
}

/// Options of a save. Everything has a default.
#[derive(Debug, Clone)]
pub struct Save {
    device: Device,
    metadata: BTreeMap<String, String>,
    digests: Option<(Algorithm, Per)>,
    shard_bytes_max: Option<u64>,
    after: Option<RawStream>,
    block_bytes: usize,
    writes_in_flight: usize,
    pinned_bytes_max: u64,
    ring: RingChoice,
    deadline: Duration,
    clock: Clock,
}

/// Makes a ring for so many writes in flight, once for each file that is tried.
type MakeRing<'m> = &'m mut dyn FnMut(usize) -> Result<Box<dyn Ring>>;

impl Save {
    /// A save of tensors that live on `device`, or in the host's memory.
    pub fn new(device: &Device) -> Save {
        Save {
            device: device.clone(),
            metadata: BTreeMap::new(),
            digests: None,
            shard_bytes_max: None,
            after: None,
            block_bytes: 4 << 20,
            writes_in_flight: 8,
            pinned_bytes_max: 256 << 20,
            ring: RingChoice::Auto,
            deadline: Duration::from_secs(30),
            clock: Clock::real(),
        }
    }

    /// Adds an entry of `__metadata__`. `("format", "pt")` is what libraries for PyTorch look for.
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Save {
        self.metadata.insert(key.into(), value.into());
        self
    }

    /// Sums up what is written, on the way, for [`Saved::manifest`].
    pub fn digests(mut self, algorithm: Algorithm, per: Per) -> Save {
        self.digests = Some((algorithm, per));
        self
    }

    /// Several files where one would be longer: `model.safetensors` becomes `model-00001-of-00003.safetensors` and so on,
    /// with `model.safetensors.index.json`. A tensor longer than this has a file of its own.
    ///
    /// The index is what makes a sharded checkpoint valid, and it is written last. Shards that the old index names are not
    /// overwritten: where names would meet, the new ones have `-b` in them; once the new index is there, the shards of the
    /// old one are removed. Every shard is an open file until all are written: see `ulimit -n`.
    pub fn shard_bytes_max(mut self, bytes: u64) -> Save {
        self.shard_bytes_max = Some(bytes);
        self
    }

    /// Reads tensors behind everything that is on `stream` now.
    ///
    /// # Safety
    /// `stream` is a live stream of the device until the save returns.
    pub unsafe fn after(mut self, stream: RawStream) -> Save {
        self.after = Some(stream);
        self
    }

    options! {
        /// The length of one write, and of one slab: a multiple of 4096. Default 4 MiB.
        block_bytes: usize => block_bytes = block_bytes;
        /// Writes in flight at most. Default 8.
        writes_in_flight: usize => writes_in_flight = writes_in_flight;
        /// Slabs at most, in bytes: twice the writes in flight if that is less. Default 256 MiB.
        pinned_bytes_max: u64 => pinned_bytes_max = pinned_bytes_max;
        /// Which storage backend. Default: io_uring for direct writes, threads for others.
        ring: RingChoice => ring = ring;
        /// Whatever takes longer than this is an error that names it; the stream of [`Save::after`] has sixty times as long,
        /// since it may wait for other ranks. Default 30 s.
        deadline: Duration => deadline = deadline;
    }

    /// Writes the tensors to `path`, in place of what is there, and with its permissions. A symbolic link is replaced, not
    /// followed. If there is a `model.safetensors.index.json` for a new `model.safetensors`, that index is removed last: else
    /// the directory would still be the sharded checkpoint before. Its shards stay, unless [`Save::shard_bytes_max`] is set.
    ///
    /// On an error nothing has changed under that name; but for one that says that all is written and the directory could
    /// not be brought to stable storage, or the index before could not be removed.
    pub fn save(&self, path: impl AsRef<Path>, tensors: &[SaveTensor<'_>]) -> Result<Saved> {
        self.save_with(path.as_ref(), tensors, None)
    }

    fn save_with(&self, path: &Path, tensors: &[SaveTensor<'_>], make_ring: Option<MakeRing<'_>>) -> Result<Saved> {
        self.check(tensors)?;
        let shards = Shards::plan(path, tensors, self.shard_bytes_max)?;
        let layouts: Vec<Layout<'_, '_>> =
            shards.parts().map(|part| Layout::new(part, &self.metadata)).collect::<Result<_>>()?;
        let mode = shards.mode();
        let mut pipeline: Option<Pipeline> = None;
        let mut make_ring = make_ring;
        let (mut sealed, mut digests) = (Vec::new(), Vec::new());
        for (path, layout) in shards.files().iter().zip(&layouts) {
            let new = NewFile::create(path, mode)?;
            new.reserve(layout.total_bytes)?;
            let pipeline = match &mut pipeline {
                Some(pipeline) => pipeline,
                None => pipeline.insert(Pipeline::new(self, new.takes_ring(), make_ring.take())?),
            };
            let written = pipeline.write(new.file(), layout, self.digests);
            let sums = written.map_err(|error| new.explain(error, layout.total_bytes))?;
            new.seal(layout.total_bytes)?;
            digests.extend(sums.map(|sums| sums.finish(path, layout)));
            sealed.push(new);
        }
        let direct = sealed.iter().all(NewFile::is_direct);
        let fallbacks = sealed.iter().filter_map(NewFile::fallback);
        let mut fallbacks: Vec<Fallback> = fallbacks.collect();
        let pipeline = pipeline.expect("there is at least one file");
        fallbacks.extend(pipeline.fallbacks());
        let mut said = HashSet::new();
        fallbacks.retain(|fallback| said.insert(fallback.instead.clone()));
        let (ring, pinned_bytes) = (pipeline.ring_name(), pipeline.pinned_bytes());
        drop(pipeline);
        shards.publish(sealed)?;
        Ok(Saved {
            files: shards.files().to_vec(),
            index: shards.index().map(Path::to_owned),
            bytes: layouts.iter().map(|layout| layout.total_bytes).sum(),
            manifest: self.digests.map(|_| manifest(digests)).transpose()?,
            ring,
            direct,
            pinned_bytes,
            fallbacks,
        })
    }

    fn check(&self, tensors: &[SaveTensor<'_>]) -> Result<()> {
        let block = self.block_bytes;
        if block == 0 || !block.is_multiple_of(4096) || block > 1 << 30 {
            return Err(Error::config("block_bytes", format!("{block} is not a multiple of 4096 up to 1 GiB")));
        }
        if self.writes_in_flight == 0 || self.writes_in_flight > 4096 {
            let problem = format!("{} writes; give 1 to 4096", self.writes_in_flight);
            return Err(Error::config("writes_in_flight", problem));
        }
        if self.deadline.is_zero() {
            return Err(Error::config("deadline", "nothing happens in no time; give at least a few milliseconds"));
        }
        let mut names = HashSet::new();
        for tensor in tensors {
            tensor.check()?;
            if !names.insert(tensor.name) {
                return Err(Error::config("tensors", format!("two are called `{}`", tensor.name)));
            }
        }
        Ok(())
    }
}

fn manifest(files: Vec<FileDigests>) -> Result<Manifest> {
    Manifest::new(files).map_err(|problem| Error::config("tensors", problem))
}

/// Writes tensors of the host's memory to `path`, in place of what is there, with default options. See [`Save`].
pub fn save(path: impl AsRef<Path>, tensors: &[SaveTensor<'_>]) -> Result<Saved> {
    Save::new(&Device::host()).save(path, tensors)
}
