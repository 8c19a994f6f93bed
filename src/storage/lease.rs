//! What memory has to be for a queue to own it while a ring uses it.

use std::ptr::NonNull;

use crate::memory::Slab;

/// Memory that a ring may use: a lease that moves into a queue and comes back when all that was started on it has ended.
///
/// # Safety
/// `base()..base() + bytes()` is writable, belongs to this value alone, stays where it is when the value moves, and
/// stays valid if the value is forgotten.
pub(crate) unsafe trait Memory {
    /// First byte, 4096-aligned.
    fn base(&self) -> NonNull<u8>;
    /// Length.
    fn bytes(&self) -> usize;
    /// Whether `base` is an address of a device's memory, to which only a ring that says so may write.
    fn on_device(&self) -> bool {
        false
    }
}

// SAFETY: a slab is the only right to its bytes, stays where it is when moved, and keeps its arena when forgotten.
unsafe impl Memory for Slab {
    fn base(&self) -> NonNull<u8> {
        Slab::base(self)
    }

    fn bytes(&self) -> usize {
        Slab::bytes(self)
    }
}
