//! Device memory that batches live in, leased piece by piece.

use std::ptr::NonNull;
use std::sync::Arc;

use crate::device::{Device, DevicePtr, RawMemory};
use crate::error::Result;
use crate::storage::Memory;

/// Device memory that is given back when its last user is gone: the pool, or a batch that outlives it.
struct DeviceMemory {
    device: Device,
    raw: Option<RawMemory>,
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        if let Some(raw) = self.raw.take() {
            // SAFETY: it came from this device. No read writes to it: regions in flight are leases that keep this
            // value alive. No copy does: the engine drains its copy queue before it lets its pool go.
            unsafe { self.device.raw().free(raw) };
        }
    }
}

/// The lease of a piece of device memory. It moves; it cannot be copied.
pub(crate) struct Region {
    start: usize,
    bytes: usize,
    base: DevicePtr,
    host: Option<NonNull<u8>>,
    /// Keeps the memory until the lease is gone.
    _memory: Arc<DeviceMemory>,
}

// SAFETY: the lease is the only right to its bytes, on whatever thread it is.
unsafe impl Send for Region {}
// SAFETY: a shared region only gives out addresses and shared views of bytes that nobody writes while it is leased out.
unsafe impl Sync for Region {}

impl Region {
    pub(crate) fn base(&self) -> DevicePtr {
        self.base
    }

    /// The same memory as the host sees it, where it can.
    pub(crate) fn host(&self) -> Option<NonNull<u8>> {
        self.host
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn overlaps(&self, start: usize, end: usize) -> bool {
        self.start < end && start < self.start + self.bytes
    }

    pub(crate) fn range(&self) -> (usize, usize) {
        (self.start, self.start + self.bytes)
    }
}

// SAFETY: only the direct path opens regions as landings, and only with host-addressable memory (`RegionPool::host`).
// The range is this lease's alone, and forgetting the lease forgets its share of the allocation: it stays mapped.
unsafe impl Memory for Region {
    fn base(&self) -> NonNull<u8> {
        self.host.expect("a landing in memory that the host cannot address")
    }

    fn bytes(&self) -> usize {
        self.bytes
    }
}

/// One allocation, leased first-fit. Batches differ in size and come back in any order; few are out at a time.
pub(crate) struct RegionPool {
    memory: Arc<DeviceMemory>,
    base: DevicePtr,
    host: Option<NonNull<u8>>,
    bytes: usize,
    pages: &'static str,
    /// What is leased, by start.
    live: Vec<(usize, usize)>,
}

// SAFETY: as `Region`: addresses only.
unsafe impl Send for RegionPool {}

impl RegionPool {
    /// Allocates `bytes` of device memory for at most `leases` regions at once.
    pub(crate) fn new(device: &Device, bytes: usize, leases: usize) -> Result<RegionPool> {
        let raw = device.raw().allocate(bytes.max(4096))?;
        let (base, host, bytes, pages) = (raw.base, raw.host, raw.bytes, raw.pages);
        let memory = Arc::new(DeviceMemory { device: device.clone(), raw: Some(raw) });
        Ok(RegionPool { memory, base, host, bytes, pages, live: Vec::with_capacity(leases + 1) })
    }

    /// A region of `bytes`, if there is a gap of that size.
    pub(crate) fn lease(&mut self, bytes: usize) -> Option<Region> {
        let bytes = bytes.max(1).next_multiple_of(4096);
        let mut start = 0;
        let mut place = 0;
        for &(from, to) in &self.live {
            if from - start >= bytes {
                break;
            }
            (start, place) = (to, place + 1);
        }
        if bytes > self.bytes - start {
            return None;
        }
        self.live.insert(place, (start, start + bytes));
        // SAFETY: `start` is inside the allocation that `host` points to.
        let host = self.host.map(|host| unsafe { host.add(start) });
        Some(Region { start, bytes, base: self.base + start as u64, host, _memory: self.memory.clone() })
    }

    pub(crate) fn give_back(&mut self, region: Region) {
        let place = self.live.binary_search(&region.range()).expect("a region of this pool");
        self.live.remove(place);
    }

    /// The whole pool as the host sees it, where it can.
    pub(crate) fn host(&self) -> Option<NonNull<u8>> {
        self.host
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// What the memory is made of.
    pub(crate) fn pages(&self) -> &'static str {
        self.pages
    }
}
