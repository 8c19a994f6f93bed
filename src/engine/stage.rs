//! What reads land in, and the staged path's own parts.

use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

use crate::batch::Body;
use crate::device::{CopyQueue, Device, RawCopy, Seq};
use crate::error::Result;
use crate::memory::{Arena, Slab, SlabPool};
use crate::region::{DeviceMemory, Region};
use crate::storage::Memory;

/// Memory that reads land in: the batch's own, or a slab on the way to it.
pub(crate) enum Hold {
    Region(Region),
    Slab(Slab),
}

// SAFETY: both kinds own their range, keep it when moved, and keep it mapped when forgotten (an Arc of the arena or
// allocation is forgotten with them).
unsafe impl Memory for Hold {
    fn base(&self) -> NonNull<u8> {
        match self {
            Hold::Region(region) => Memory::base(region),
            Hold::Slab(slab) => slab.base(),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Hold::Region(region) => region.bytes(),
            Hold::Slab(slab) => slab.bytes(),
        }
    }
}

/// What a copy holds: where it reads, and a share in the memory that it writes to. A copy whose end is never seen keeps
/// both for ever.
pub(crate) struct Copying {
    pub(super) slab: Slab,
    _target: Arc<DeviceMemory>,
}

/// The staged path's own parts. Fields drop in order: copies drain before the slabs they read are let go.
pub(crate) struct Stage {
    pub(crate) copies: CopyQueue<Copying>,
    pub(crate) slabs: SlabPool,
    /// When a copy last ended, or there was none.
    pub(super) moved: Duration,
    _pinned: Pinned,
}

/// The arena of slabs, pinned with a device.
pub(crate) struct Pinned {
    device: Device,
    arena: Arc<Arena>,
}

impl Stage {
    /// Maps and pins slabs, and opens a copy stream for them.
    pub(crate) fn new(device: &Device, slabs: usize, slab_bytes: usize, deadline: Duration) -> Result<Stage> {
        // First, so that nothing is pinned when it fails.
        let stream = device.raw().stream()?;
        let pool = SlabPool::new(slabs, slab_bytes)?;
        let pinned = Pinned::new(device, pool.arena())?;
        Ok(Stage {
            copies: CopyQueue::new(stream, slabs).drop_wait(deadline),
            slabs: pool,
            moved: Duration::ZERO,
            _pinned: pinned,
        })
    }
}

impl Pinned {
    pub(crate) fn new(device: &Device, arena: &Arc<Arena>) -> Result<Pinned> {
        // SAFETY: this value keeps the mapping until it has unpinned it, or for ever.
        unsafe { device.raw().pin(arena.base(), arena.bytes()) }?;
        Ok(Pinned { device: device.clone(), arena: arena.clone() })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // Slabs that reads or copies never gave back hold the arena: it stays mapped then, and pinned.
        if Arc::strong_count(&self.arena) == 1 {
            // SAFETY: pinned in `new`; every slab is gone, so no copy reads the arena any more.
            if let Err(error) = unsafe { self.device.raw().unpin(self.arena.base()) } {
                let bytes = self.arena.bytes();
                tracing::warn!(%error, bytes, "pinned memory could not be taken back; it is leaked, not freed");
                std::mem::forget(self.arena.clone());
            }
        }
    }
}

/// Starts the copy of one landed window; gives the point behind it and the bytes.
pub(super) fn copy_window(copies: &mut CopyQueue<Copying>, slab: Slab, body: &Body, at: u64) -> Result<(Seq, u64)> {
    let region = body.region.as_ref().expect("staged batches keep their region");
    let bytes = (body.plan.region_bytes() - at).min(slab.bytes() as u64);
    let copy = RawCopy { source: slab.base(), target: region.base() + at, bytes: bytes as usize };
    let copying = Copying { slab, _target: region.memory().clone() };
    // SAFETY: the slab is pinned for as long as it lives (`Pinned`), and moves into the queue. The target lies in the
    // body's region: its memory is not freed before the copy has ended, as a share in it moves into the queue too, and
    // whoever gets the region next writes to it through the same stream.
    let seq = unsafe { copies.copy(copying, copy) }?;
    Ok((seq, bytes))
}
