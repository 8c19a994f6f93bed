//! The slabs of the staged path: one pinned arena cut into equal pieces.

use std::ptr::NonNull;
use std::sync::Arc;

use super::Arena;
use crate::error::Result;

/// The lease of one slab: the right to let hardware write to it and read from it. It moves; it cannot be copied.
#[derive(Debug)]
pub struct Slab {
    base: NonNull<u8>,
    bytes: usize,
    arena: Arc<Arena>,
}

// SAFETY: the lease is the only right to its bytes, wherever it is; the arena behind it is Send.
unsafe impl Send for Slab {}
// SAFETY: a shared lease gives out addresses and shared views of bytes that nobody writes as long as it is shared.
unsafe impl Sync for Slab {}

impl Slab {
    /// First byte.
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Length.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The byte at `offset`.
    ///
    /// # Panics
    /// If it is outside.
    pub fn at(&self, offset: usize) -> NonNull<u8> {
        assert!(offset <= self.bytes, "outside the slab");
        // SAFETY: inside the slab, or one past its end.
        unsafe { self.base.add(offset) }
    }

    /// What is in it. Whoever holds a slab has it alone: one that hardware uses is inside a queue.
    pub fn contents(&self) -> &[u8] {
        // SAFETY: the arena is mapped, and was written to when it was populated; nobody writes meanwhile, see above.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.bytes) }
    }

    /// The same, to be written to.
    pub fn contents_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.bytes) }
    }
}

/// Equal slabs of one arena: those that are not leased.
#[derive(Debug)]
pub struct SlabPool {
    arena: Arc<Arena>,
    free: Vec<Slab>,
}

impl SlabPool {
    /// Maps `count` slabs of `slab_bytes` (a multiple of 4096).
    pub fn new(count: usize, slab_bytes: usize) -> Result<SlabPool> {
        let arena = Arc::new(Arena::map(count * slab_bytes)?);
        let slab = |i: usize| Slab {
            // SAFETY: slab `i` ends at or before the end of the arena, which holds `count` of them.
            base: unsafe { arena.base().add(i * slab_bytes) },
            bytes: slab_bytes,
            arena: arena.clone(),
        };
        let free = (0..count).rev().map(slab).collect();
        Ok(SlabPool { free, arena })
    }

    /// The memory behind all slabs, to pin and register.
    pub fn arena(&self) -> &Arc<Arena> {
        &self.arena
    }

    /// Takes a slab, if one is free.
    pub fn lease(&mut self) -> Option<Slab> {
        self.free.pop()
    }

    /// Gives a slab back.
    ///
    /// # Panics
    /// If the slab is another pool's.
    pub fn give_back(&mut self, slab: Slab) {
        assert!(Arc::ptr_eq(&slab.arena, &self.arena), "slab of another pool");
        self.free.push(slab);
    }
}
