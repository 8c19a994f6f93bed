//! The memory of a simulated device, and the host memory that is pinned for it.

use std::alloc::{self, Layout};
use std::collections::BTreeMap;
use std::ptr::NonNull;

use super::super::DevicePtr;
use super::failure;
use crate::error::{Error, Result};
use crate::plan::Cast;

/// What fresh memory holds.
const POISON: u8 = 0xA5;
const ALIGN: usize = 4096;
/// Bit 62 makes device addresses non-canonical: a host that dereferences one faults at once.
const FIRST_ADDRESS: DevicePtr = 1 << 62;

#[derive(Debug)]
pub(super) struct Memory {
    live: BTreeMap<DevicePtr, (NonNull<u8>, Layout)>,
    next_address: DevicePtr,
    pinned: BTreeMap<usize, usize>,
}

// SAFETY: the pointers in `live` own their allocations, and whoever has the Memory has them alone.
unsafe impl Send for Memory {}

impl Memory {
    pub(super) fn new() -> Memory {
        Memory { live: BTreeMap::new(), next_address: FIRST_ADDRESS, pinned: BTreeMap::new() }
    }

    /// A fresh address for every allocation, so that a stale one never names another's memory.
    pub(super) fn allocate(&mut self, bytes: usize) -> Result<(DevicePtr, NonNull<u8>)> {
        let no_memory = || Error::Memory { what: "simulated device memory", bytes: bytes as u64, errno: libc::ENOMEM };
        let layout = Layout::from_size_align(bytes.max(1), ALIGN).map_err(|_| no_memory())?;
        // SAFETY: the layout's size is not zero.
        let host = NonNull::new(unsafe { alloc::alloc(layout) }).ok_or_else(no_memory)?;
        // SAFETY: `host` was allocated above with this size.
        unsafe { host.write_bytes(POISON, layout.size()) };
        let base = self.next_address;
        // A gap between allocations, so that a write past one's end never lands in another.
        self.next_address += (bytes as u64).next_multiple_of(ALIGN as u64) + ALIGN as u64;
        self.live.insert(base, (host, layout));
        Ok((base, host))
    }

    /// The length of what was freed, or nothing if `base` is not allocated.
    pub(super) fn free(&mut self, base: DevicePtr) -> Option<usize> {
        let (host, layout) = self.live.remove(&base)?;
        // SAFETY: it came from `alloc` with this layout and has just left the table, so it is freed once.
        unsafe { alloc::dealloc(host.as_ptr(), layout) };
        Some(layout.size())
    }

    pub(super) fn pinned_bytes(&self) -> usize {
        self.pinned.values().sum()
    }

    pub(super) fn allocated_bytes(&self) -> usize {
        self.live.values().map(|(_, layout)| layout.size()).sum()
    }

    /// The host's address of a piece of live device memory.
    pub(super) fn locate(&self, address: DevicePtr, bytes: usize) -> Option<NonNull<u8>> {
        let (base, (host, layout)) = self.live.range(..=address).next_back()?;
        let offset = (address - base) as usize;
        if bytes > layout.size().checked_sub(offset)? {
            return None;
        }
        // SAFETY: `offset` is within the allocation, by the check above.
        Some(unsafe { host.add(offset) })
    }

    /// False if the source is not live.
    pub(super) fn read(&self, source: DevicePtr, target: &mut [u8]) -> bool {
        let Some(source) = self.locate(source, target.len()) else { return false };
        // SAFETY: `locate` says that the source is live for this length, and all writes to it go through this Memory
        // or through a ring whose reads the caller of `read_back` has waited for.
        unsafe { source.as_ptr().copy_to(target.as_mut_ptr(), target.len()) };
        true
    }

    /// False if the target is not live.
    pub(super) fn store(&self, target: DevicePtr, bytes: &[u8]) -> bool {
        let Some(target) = self.locate(target, bytes.len()) else { return false };
        // SAFETY: `locate` says that the target is live for this length; device and host memory do not overlap.
        unsafe { target.as_ptr().copy_from(bytes.as_ptr(), bytes.len()) };
        true
    }

    /// False if the source is not pinned or the target not live: then nothing is copied.
    pub(super) fn copy(&self, source: usize, target: DevicePtr, bytes: usize) -> bool {
        let (Some(target), true) = (self.locate(target, bytes), self.is_pinned(source, bytes)) else { return false };
        // SAFETY: the source is pinned now, which keeps it mapped, and by the contract of `Stream::copy` nobody
        // writes to it; `locate` says that the target is live; device and host memory do not overlap.
        unsafe { std::ptr::copy_nonoverlapping(source as *const u8, target.as_ptr(), bytes) };
        true
    }

    /// False if either side is not live: then nothing is copied.
    pub(super) fn copy_within(&self, source: DevicePtr, target: DevicePtr, bytes: usize) -> bool {
        let (Some(source), Some(target)) = (self.locate(source, bytes), self.locate(target, bytes)) else {
            return false;
        };
        // SAFETY: `locate` says that both are live for this length; they may overlap where a caller breaks his promise.
        unsafe { std::ptr::copy(source.as_ptr(), target.as_ptr(), bytes) };
        true
    }

    /// The same of elements that change on the way. `bytes` is what they take at the source.
    pub(super) fn cast_within(&self, source: DevicePtr, target: DevicePtr, bytes: usize, cast: Cast) -> bool {
        let mut stored = vec![0; bytes];
        let mut wide = vec![0; cast.bytes_of(bytes as u64) as usize];
        if !self.read(source, &mut stored) {
            return false;
        }
        cast.caster().cast(&stored, &mut wide);
        self.store(target, &wide)
    }

    /// The other way. False if the source is not live or the target not pinned: then nothing is copied.
    pub(super) fn copy_out(&self, source: DevicePtr, target: usize, bytes: usize) -> bool {
        let (Some(source), true) = (self.locate(source, bytes), self.is_pinned(target, bytes)) else { return false };
        // SAFETY: the target is pinned now, which keeps it mapped, and by the contract of `Stream::copy_out` nobody else
        // touches it; `locate` says that the source is live; device and host memory do not overlap.
        unsafe { std::ptr::copy_nonoverlapping(source.as_ptr(), target as *mut u8, bytes) };
        true
    }

    pub(super) fn pin(&mut self, base: usize, bytes: usize) -> Result<()> {
        let neighbour = self.pinned.range(..base.saturating_add(bytes)).next_back();
        if neighbour.is_some_and(|(other, other_bytes)| other + other_bytes > base) {
            return Err(failure("pin", "already pinned"));
        }
        self.pinned.insert(base, bytes);
        Ok(())
    }

    /// The length of what was pinned, or nothing if `base` is not.
    pub(super) fn unpin(&mut self, base: usize) -> Option<usize> {
        self.pinned.remove(&base)
    }

    fn is_pinned(&self, source: usize, bytes: usize) -> bool {
        let range = self.pinned.range(..=source).next_back();
        range.is_some_and(|(base, pinned_bytes)| source.saturating_add(bytes) <= base + pinned_bytes)
    }

    /// What pinned memory holds now; nothing if it is not pinned.
    pub(super) fn pinned(&self, source: usize, bytes: usize) -> Option<&[u8]> {
        if !self.is_pinned(source, bytes) {
            return None;
        }
        // SAFETY: the memory is pinned, which keeps it mapped, and by the contracts of `Stream` nobody writes
        // to it. The slice does not outlive this call on the device's state.
        Some(unsafe { std::slice::from_raw_parts(source as *const u8, bytes) })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        while let Some((&base, _)) = self.live.first_key_value() {
            self.free(base);
        }
    }
}
