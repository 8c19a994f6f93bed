//! The options of a load, as people give them.

use std::any::Any;
use std::sync::Arc;

use super::{Checkpoint, Load, Manifest, Part, Selection, TensorInfo, Tensors, assembly};
use crate::config::{ReadOptions, read_options};
use crate::device::{Device, DevicePtr};
use crate::error::Result;
use crate::sim::Clock;
use crate::storage::Ring;

/// Options of a [`Load`]. Everything has a default; what cannot be met is an error of [`start`](Builder::start).
pub struct Builder {
    pub(super) checkpoint: Checkpoint,
    pub(super) devices: Vec<Device>,
    pub(super) selection: Selection,
    pub(super) part: Option<PartFn>,
    pub(super) place: Option<PlaceFn>,
    pub(super) blocks: Vec<(usize, Place)>,
    pub(super) manifest: Option<Manifest>,
    pub(super) reads: ReadOptions,
    pub(super) make_ring: Option<crate::assembly::MakeRing>,
}

type PartFn = Box<dyn Fn(&TensorInfo, usize) -> Part + Send>;
type PlaceFn = Box<dyn Fn(&TensorInfo, usize, u64) -> Option<Place> + Send>;

/// Memory of the caller's.
#[derive(Clone)]
pub struct Place {
    /// Its first byte on the device; on the host device a plain address.
    pub ptr: DevicePtr,
    /// How long it is.
    pub bytes: u64,
    /// What keeps it alive. A load holds this until nothing writes to the memory any more, and every tensor in it does.
    pub owner: Arc<dyn Any + Send + Sync>,
}

impl Builder {
    pub(super) fn new(checkpoint: Checkpoint) -> Builder {
        Builder {
            checkpoint,
            devices: Vec::new(),
            selection: Selection::default(),
            part: None,
            place: None,
            blocks: Vec::new(),
            manifest: None,
            reads: ReadOptions::with_gap(32 << 10),
            make_ring: None,
        }
    }

    read_options! {
        reads,
        gap_bytes: "Wanted bytes that are nearer to each other than this are read as one. Default 32 KiB: what a fast drive \
                    reads in the time that another read takes. At most `block_bytes`, or 1 MiB \
                    if that is more.",
        pinned_bytes_max: "Slabs at most, in bytes; where the ring can write into the tensors' own memory there are none. \
                           Default 256 MiB.",
        deadline: "Whatever takes longer than this is an error that names it. Default 30 s."
    }

    /// Where the tensors go. Default: [`Device::auto`].
    pub fn device(mut self, device: Device) -> Builder {
        self.devices = vec![device];
        self
    }

    /// Several devices, each of which gets every tensor, or the [part](Self::part) of it that is its own. What several of
    /// them want is read once, and copied to each from the same slab.
    pub fn devices(mut self, devices: Vec<Device>) -> Builder {
        self.devices = devices;
        self
    }

    /// Only tensors of these names, besides those that [`matching`](Self::matching) adds.
    pub fn names<S: AsRef<str>>(mut self, names: impl IntoIterator<Item = S>) -> Builder {
        self.selection.names.extend(names.into_iter().map(|name| name.as_ref().to_owned()));
        self
    }

    /// Only tensors whose names fit `pattern`, in which `*` stands for any characters and `?` for one, besides those that
    /// [`names`](Self::names) and other patterns add.
    pub fn matching(mut self, pattern: &str) -> Builder {
        self.selection.globs.push(pattern.to_owned());
        self
    }

    /// Of the chosen tensors, only those that `filter` wants.
    pub fn filter(mut self, filter: impl Fn(&TensorInfo) -> bool + Send + 'static) -> Builder {
        self.selection.filter = Some(Box::new(filter));
        self
    }

    /// Which part of a tensor each device gets, by its place in [`devices`](Self::devices). Default: all of it. Bytes that
    /// no device wants are not read, but for gaps that are not worth a read of their own.
    pub fn part(mut self, part: impl Fn(&TensorInfo, usize) -> Part + Send + 'static) -> Builder {
        self.part = Some(Box::new(part));
        self
    }

    /// Checks the bytes of every tensor against `manifest` before it is handed over, while they are in host memory anyway.
    /// Every tensor needs a digest, of its own or of its file.
    ///
    /// A tensor with a digest of its own is handed over after its own check, and read whole even if only a part is wanted.
    /// Where all that is wanted of a file has digests of its own, the file's digest is not compared. Of its header those
    /// tensors' names and places are compared, and their types and shapes, where the manifest has them. Else a file with a
    /// digest is read whole, header and all, and its tensors are handed over after its last byte. Of tensors without bytes
    /// there is nothing else to check: they are handed over at once, and a file of which nothing else is wanted is not read;
    /// only its size and what its header said are compared.
    ///
    /// The CPU has to see what it checks: cuFile, which goes past the host, is not used then.
    pub fn verify(mut self, manifest: Manifest) -> Builder {
        self.manifest = Some(manifest);
        self
    }

    /// Asks for memory for each tensor: `place` gets the tensor, the device's place in [`devices`](Self::devices), and the
    /// bytes of the part that it gets. Where it answers `None` memory is allocated.
    ///
    /// Bytes go through slabs then, on the host device too: a tensor's first byte rarely lies in the caller's memory as it
    /// does in a block of the file.
    ///
    /// # Safety
    /// Each place is memory of that device, writable, as long as it says, until its owner is dropped; if that never
    /// happens, for ever. Nobody else reads or writes it until the tensor is handed over, or until the owner has been
    /// given back by an unsuccessful load. Work on streams counts: what the caller has put on one for this memory has ended
    /// before the load starts, since neither the load's copies nor cuFile's reads wait for it.
    pub unsafe fn place(
        mut self,
        place: impl Fn(&TensorInfo, usize, u64) -> Option<Place> + Send + 'static,
    ) -> Builder {
        self.place = Some(Box::new(place));
        self
    }

    /// Puts all tensors of a device into one block of the caller's, in place of memory that is allocated. How long it has
    /// to be says [`block_sizes`](Self::block_sizes); it starts at a multiple of 4096.
    ///
    /// # Safety
    /// As for [`place`](Self::place).
    pub unsafe fn block(mut self, device: usize, block: Place) -> Builder {
        self.blocks.push((device, block));
        self
    }

    /// A storage backend of one's own, made on the engine's thread; it gets the number of reads in flight.
    pub fn custom_ring(mut self, make: impl FnOnce(usize) -> Result<Box<dyn Ring>> + Send + 'static) -> Builder {
        self.make_ring = Some(Box::new(make));
        self
    }

    /// The bytes that [`block`](Self::block) needs on each device: those of the tensors, and where they are read straight to
    /// their place (on the host device; by cuFile, which is tried for the answer) what is left of the blocks of the file at both
    /// ends of each stretch that is read: less than two blocks of `align_bytes` each. A block on a CUDA device that has room for
    /// the tensors alone is filled through slabs, unless cuFile was asked for.
    pub fn block_sizes(&self) -> Result<Vec<u64>> {
        assembly::block_sizes(self)
    }

    /// Plans, allocates all memory, starts the engine's thread, and returns once it reads.
    pub fn start(self) -> Result<Load> {
        assembly::start(self, Clock::real())
    }

    /// Loads everything, and waits for it.
    pub fn load_all(self) -> Result<Tensors> {
        self.start()?.load_all()
    }
}
