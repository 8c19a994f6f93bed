//! One mapping of host memory.

use std::mem::ManuallyDrop;
use std::ptr::NonNull;

use crate::error::{Error, Result};

/// Anonymous memory, page-aligned and zeroed. Unmapped on drop.
#[derive(Debug)]
pub struct Arena {
    base: NonNull<u8>,
    bytes: usize,
}

impl Arena {
    /// Maps at least `bytes`.
    pub fn map(bytes: usize) -> Result<Arena> {
        let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no existing memory.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), bytes.max(1), prot, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(Error::Memory { what: "host memory", bytes: bytes as u64, errno: libc::ENOMEM });
        }
        Ok(Arena { base: NonNull::new(base.cast()).expect("mmap gives no null"), bytes: bytes.max(1) })
    }

    /// First byte.
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Length.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What it is made of.
    pub fn pages(&self) -> &'static str {
        "plain pages"
    }

    /// Gives up ownership without unmapping.
    pub fn into_raw(self) -> (NonNull<u8>, usize) {
        let arena = ManuallyDrop::new(self);
        (arena.base, arena.bytes)
    }

    /// Takes back what `into_raw` gave up.
    ///
    /// # Safety
    /// Both values come from one `into_raw`, and are given back once.
    pub unsafe fn from_raw(base: NonNull<u8>, bytes: usize) -> Arena {
        Arena { base, bytes }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: the mapping is this arena's own (see `map` and `from_raw`), and nobody uses it any more.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}
