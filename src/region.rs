//! Device memory that batches live in, leased piece by piece.
//!
//! It is freed when the last of its users is gone: the pool, batches that outlive it, copies into it. A batch that was
//! given back behind a consumer's stream leaves its fence here, and the memory is freed behind that too.

use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::device::{Device, DevicePtr, Fence, RawMemory, RawStream};
use crate::error::{Error, Result};
use crate::storage::Memory;

/// Device memory, given back when its last user is gone.
pub(crate) struct DeviceMemory {
    device: Device,
    raw: Option<RawMemory>,
    /// A fence for every batch, or for every use that was given up behind a stream.
    fences: Mutex<Vec<Fence>>,
    /// Those behind which a consumer's stream may still use the memory.
    pending: Mutex<Vec<Fence>>,
    /// How long to wait for them.
    deadline: Duration,
}

impl DeviceMemory {
    /// Memory for `leases` batches at most, with a fence for each.
    fn allocate(device: &Device, bytes: usize, leases: usize, deadline: Duration) -> Result<DeviceMemory> {
        let raw = Some(device.raw().allocate(bytes.max(4096))?);
        let (fences, pending) = (Mutex::new(Vec::with_capacity(leases)), Mutex::new(Vec::with_capacity(leases)));
        let memory = DeviceMemory { device: device.clone(), raw, fences, pending, deadline };
        (0..leases).try_for_each(|_| memory.add_fence().map(drop))?;
        Ok(memory)
    }

    /// Memory that is not leased piece by piece; its pages may come when they are written to.
    pub(crate) fn reserve(device: &Device, bytes: usize, deadline: Duration) -> Result<DeviceMemory> {
        let raw = Some(device.raw().reserve(bytes.max(1))?);
        Ok(DeviceMemory { device: device.clone(), raw, fences: Mutex::default(), pending: Mutex::default(), deadline })
    }

    fn add_fence(&self) -> Result<Fence> {
        let fence = self.device.raw().fence()?;
        lock(&self.fences).push(fence);
        Ok(fence)
    }

    fn raw(&self) -> &RawMemory {
        self.raw.as_ref().expect("taken only by drop")
    }

    pub(crate) fn base(&self) -> DevicePtr {
        self.raw().base
    }

    /// The same memory as the host sees it, where it can.
    pub(crate) fn host(&self) -> Option<NonNull<u8>> {
        self.raw().host
    }

    /// What it is made of.
    pub(crate) fn pages(&self) -> &'static str {
        self.raw().pages
    }

    /// Children of a fork have a copy of it from now on, if it is the host's.
    ///
    /// # Safety
    /// No read and no copy writes to it any more.
    pub(crate) unsafe fn inherit(&self) {
        // SAFETY: allocated by this device, and freed only by drop; the caller's promise is the same.
        unsafe { self.device.raw().inherit(self.raw()) };
    }

    /// The memory may be freed only once everything that is on `consumer` now has ended.
    ///
    /// # Safety
    /// `consumer` is a live stream of this device.
    pub(crate) unsafe fn free_behind_stream(&self, consumer: RawStream) -> Result<()> {
        let fence = self.add_fence()?;
        // SAFETY: the caller's promise is the same.
        unsafe { self.device.raw().record(fence, consumer) }?;
        self.free_behind(fence);
        Ok(())
    }

    /// The memory may be freed only once `fence` as last recorded is passed.
    pub(crate) fn free_behind(&self, fence: Fence) {
        let mut pending = lock(&self.pending);
        if !pending.contains(&fence) {
            pending.push(fence);
        }
    }

    fn wait_for_consumers(&mut self) -> Result<()> {
        let pending = self.pending.get_mut().unwrap_or_else(PoisonError::into_inner);
        if pending.is_empty() {
            return Ok(());
        }
        let mut stream = self.device.raw().stream()?;
        pending.drain(..).try_for_each(|fence| stream.wait_fence(fence))?;
        let last = stream.mark()?;
        if stream.wait(last, self.deadline)? < last {
            let what = "the streams that batches were released on".into();
            return Err(Error::Timeout { what, waited: self.deadline });
        }
        Ok(())
    }
}

fn lock(fences: &Mutex<Vec<Fence>>) -> MutexGuard<'_, Vec<Fence>> {
    fences.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        let waited = self.wait_for_consumers();
        let Some(raw) = self.raw.take() else { return };
        if let Err(error) = waited {
            let bytes = raw.bytes;
            std::mem::forget(self.device.clone());
            return tracing::warn!(%error, bytes, "consumers may still use the batches' memory: leaked, not freed");
        }
        // SAFETY: it came from this device. No read and no copy writes to it: regions that reads land in are leases,
        // and copies hold a share, both of which keep this value alive. Consumers have done with it: a batch that is
        // held keeps this value alive, and those that were released on a stream were waited for.
        unsafe { self.device.raw().free(raw) };
        let fences = self.fences.get_mut().unwrap_or_else(PoisonError::into_inner);
        fences.drain(..).for_each(|fence| self.device.raw().free_fence(fence));
    }
}

/// The lease of a piece of device memory. It moves; it cannot be copied.
pub(crate) struct Region {
    start: usize,
    bytes: usize,
    base: DevicePtr,
    host: Option<NonNull<u8>>,
    /// Keeps the memory until the lease is gone.
    memory: Arc<DeviceMemory>,
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

    /// A share in the memory, which is not freed before it is dropped.
    pub(crate) fn memory(&self) -> &Arc<DeviceMemory> {
        &self.memory
    }

    pub(crate) fn overlaps(&self, start: usize, end: usize) -> bool {
        self.start < end && start < self.start + self.bytes
    }

    pub(crate) fn range(&self) -> (usize, usize) {
        (self.start, self.start + self.bytes)
    }
}

// SAFETY: only the direct path opens regions as landings: in the host's memory, or, where the ring writes to device memory
// (`Ring::writes_to_device`), by device address. The range is this lease's alone, and forgetting the lease forgets its share of the allocation: it stays mapped.
unsafe impl Memory for Region {
    fn base(&self) -> NonNull<u8> {
        self.host.unwrap_or_else(|| address(self.base))
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn on_device(&self) -> bool {
        self.host.is_none()
    }
}

/// A device address in a pointer's place, for rings that write there; nobody dereferences it.
pub(crate) fn address(at: DevicePtr) -> NonNull<u8> {
    NonNull::new(std::ptr::without_provenance_mut(at as usize)).expect("memory at an address")
}

/// One allocation, leased first-fit. Batches differ in size and come back in any order; few are out at a time.
pub(crate) struct RegionPool {
    memory: Arc<DeviceMemory>,
    base: DevicePtr,
    host: Option<NonNull<u8>>,
    bytes: usize,
    /// Where regions start, and how long they are, is a multiple of this.
    align: usize,
    pages: &'static str,
    /// What is leased, by start.
    live: Vec<(usize, usize)>,
}

// SAFETY: as `Region`: addresses only.
unsafe impl Send for RegionPool {}

impl RegionPool {
    /// Allocates `bytes` of device memory for at most `leases` regions at once, each aligned to `align`. Before it is freed, consumers' streams
    /// are waited for until `deadline`.
    pub(crate) fn new(
        device: &Device,
        bytes: usize,
        align: usize,
        leases: usize,
        deadline: Duration,
    ) -> Result<RegionPool> {
        let memory = Arc::new(DeviceMemory::allocate(device, bytes, leases, deadline)?);
        let &RawMemory { base, host, bytes, pages } = memory.raw();
        Ok(RegionPool { memory, base, host, bytes, align, pages, live: Vec::with_capacity(leases + 1) })
    }

    /// A region of `bytes`, if there is a gap of that size.
    pub(crate) fn lease(&mut self, bytes: usize) -> Option<Region> {
        let bytes = bytes.max(1).next_multiple_of(self.align);
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
        Some(Region { start, bytes, base: self.base + start as u64, host, memory: self.memory.clone() })
    }

    pub(crate) fn give_back(&mut self, region: Region) {
        let place = self.live.binary_search(&region.range()).expect("a region of this pool");
        self.live.remove(place);
    }

    /// The fence of a batch, by its place among the leases.
    pub(crate) fn fence(&self, place: usize) -> Fence {
        lock(&self.memory.fences)[place]
    }

    /// The memory of all regions.
    pub(crate) fn memory(&self) -> &Arc<DeviceMemory> {
        &self.memory
    }

    /// The whole pool as a ring sees it: as the host does, where it can, else by device address.
    pub(crate) fn first_byte(&self) -> NonNull<u8> {
        self.host.unwrap_or_else(|| address(self.base))
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// What the memory is made of.
    pub(crate) fn pages(&self) -> &'static str {
        self.pages
    }
}
