//! Slabs pinned with a device.

use std::sync::Arc;

use super::Device;
use crate::error::Result;
use crate::memory::Arena;

/// The arena of slabs, pinned with the device. Dropped after the slabs' pool: as long as some lease is somewhere, the
/// memory stays mapped and pinned.
pub(crate) struct Pinned {
    device: Device,
    arena: Arc<Arena>,
}

impl Pinned {
    pub(crate) fn new(device: &Device, arena: Arc<Arena>) -> Result<Pinned> {
        // SAFETY: `Pinned` keeps the mapping until it has unpinned it, or for ever.
        unsafe { device.raw().pin(arena.base(), arena.bytes()) }?;
        Ok(Pinned { device: device.clone(), arena })
    }

    pub(crate) fn bytes(&self) -> usize {
        self.arena.bytes()
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // Slabs that reads, writes or copies never gave back hold the arena: it stays mapped then, and pinned.
        if Arc::strong_count(&self.arena) == 1 {
            // SAFETY: pinned in `new`; every slab is gone, so no copy uses the arena any more.
            if let Err(error) = unsafe { self.device.raw().unpin(self.arena.base()) } {
                let bytes = self.arena.bytes();
                tracing::warn!(%error, bytes, "pinned memory could not be taken back; it is leaked, not freed");
                std::mem::forget(self.arena.clone());
            }
        }
    }
}
