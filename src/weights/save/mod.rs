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
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};
use std::marker::PhantomData;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use self::layout::Layout;
use self::pipeline::Pipeline;
use self::shards::Shards;
use super::{Algorithm, FileDigests, Manifest, Tensor};
use crate::config::RingChoice;
use crate::device::{Device, DevicePtr, RawStream};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::safetensors::{METADATA, dtype_name};
use crate::sim::Clock;
use crate::stats::Fallback;
use crate::storage::{NewFile, Ring};

/// A tensor to be saved: dense, in C order, little-endian.
#[derive(Debug, Clone)]
pub struct SaveTensor<'a> {
    name: &'a str,
    dtype: DType,
    shape: &'a [u64],
    /// What dtype and shape come to; `None` if that is nothing.
    array_bytes: Option<u64>,
    /// The length of what was given.
    bytes: u64,
    source: Source<'a>,
}

/// Where bytes come from.
#[derive(Debug, Clone)]
enum Source<'a> {
    Host(&'a [u8]),
    Device(DevicePtr, PhantomData<&'a [u8]>),
    /// A part of the header.
    Header(Range<usize>),
}

impl<'a> Source<'a> {
    fn part(&self, range: Range<u64>) -> Source<'a> {
        match self {
            Source::Host(bytes) => Source::Host(&bytes[range.start as usize..range.end as usize]),
            Source::Device(base, _) => Source::Device(base + range.start, PhantomData),
            Source::Header(whole) => {
                Source::Header(whole.start + range.start as usize..whole.start + range.end as usize)
            }
        }
    }
}

impl<'a> SaveTensor<'a> {
    /// A tensor in ordinary memory of the host.
    pub fn new(name: &'a str, dtype: DType, shape: &'a [u64], bytes: &'a [u8]) -> SaveTensor<'a> {
        let (array_bytes, source) = (dtype.array_bytes(shape), Source::Host(bytes));
        SaveTensor { name, dtype, shape, array_bytes, bytes: bytes.len() as u64, source }
    }

    /// A tensor in the memory of the device that is given to [`Save::new`].
    ///
    /// # Safety
    /// From `base` on, as many bytes as dtype and shape take are valid in that device's memory, and nobody writes to them
    /// or frees them, until the save returns; if it returns [`Error::Timeout`] or [`Error::Device`], until the device has
    /// come to rest. What is still on its way to them is on the stream given to [`Save::after`].
    pub unsafe fn on_device(name: &'a str, dtype: DType, shape: &'a [u64], base: DevicePtr) -> SaveTensor<'a> {
        let (array_bytes, source) = (dtype.array_bytes(shape), Source::Device(base, PhantomData));
        SaveTensor { name, dtype, shape, array_bytes, bytes: array_bytes.unwrap_or(0), source }
    }

    /// A tensor as it was loaded, under its own name; waits until it is there. It has to live on the device that is given
    /// to [`Save::new`].
    pub fn loaded(tensor: &'a Tensor) -> Result<SaveTensor<'a>> {
        tensor.wait()?;
        // SAFETY: the tensor holds its memory as long as it is borrowed, its copies have ended, and nothing writes to it.
        Ok(unsafe { SaveTensor::on_device(tensor.name(), tensor.dtype(), tensor.shape(), tensor.device_ptr()) })
    }

    /// Whether it can be saved: [`Error::Config`] as of [`Save::save`] where the format has no such name or type, or the
    /// bytes are not those of the shape.
    pub fn check(&self) -> Result<()> {
        let SaveTensor { name, dtype, shape, .. } = self;
        let bad = |problem: String| Err(Error::config("tensors", format!("tensor `{name}`: {problem}")));
        if *name == METADATA {
            return bad("the format keeps this name for itself; give it another".into());
        }
        if dtype_name(*dtype).is_none() {
            return bad(format!("safetensors has no type for {dtype}; convert it"));
        }
        match self.array_bytes {
            Some(bytes) if bytes == self.bytes => Ok(()),
            Some(bytes) => bad(format!("{dtype} {shape:?} takes {bytes} bytes, and {} were given", self.bytes)),
            None => bad(format!("{dtype} {shape:?} is no whole number of bytes, or too many")),
        }
    }
}

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

    /// The length of one write, and of one slab: a multiple of 4096. Default 4 MiB.
    pub fn block_bytes(mut self, bytes: usize) -> Save {
        self.block_bytes = bytes;
        self
    }

    /// Writes in flight at most. Default 8.
    pub fn writes_in_flight(mut self, writes: usize) -> Save {
        self.writes_in_flight = writes;
        self
    }

    /// Slabs at most, in bytes: twice the writes in flight if that is less. Default 256 MiB.
    pub fn pinned_bytes_max(mut self, bytes: u64) -> Save {
        self.pinned_bytes_max = bytes;
        self
    }

    /// Which storage backend. Default: io_uring for direct writes, threads for others.
    pub fn ring(mut self, ring: RingChoice) -> Save {
        self.ring = ring;
        self
    }

    /// Whatever takes longer than this is an error that names it. Default 30 s.
    pub fn deadline(mut self, deadline: Duration) -> Save {
        self.deadline = deadline;
        self
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
        let mut said = std::collections::HashSet::new();
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
