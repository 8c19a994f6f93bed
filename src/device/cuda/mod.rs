//! CUDA devices: memory, pinning and streams in the device's primary context.
//!
//! The context is the one that PyTorch and the CUDA runtime use. It is pushed for the length of each call and popped
//! again, so no thread's current context changes; on an engine's own thread it stays. Device memory is given back by
//! `cuMemFree`, which may wait for all that the device is doing: so does whoever drops the last of it.

mod batch;
mod code;
#[cfg(test)]
pub(crate) mod consumer;
mod driver;
mod gather;
mod shared;
mod stream;

use std::ptr::NonNull;
use std::sync::{Arc, PoisonError};

use self::driver::{Driver, HOST_REGISTER_PORTABLE};
use self::shared::{Failure, Shared};
use self::stream::CudaStream;
use super::{DeviceKind, DevicePtr, Fence, RawDevice, RawMemory, RawStream, Stream};
use crate::error::{Error, Result};

/// What [`RawMemory::base`] is a multiple of; the driver itself promises 256 bytes.
const ALIGN: usize = 4096;

/// One CUDA device.
pub(super) struct CudaDevice(Arc<Shared>);

impl CudaDevice {
    pub(super) fn new(ordinal: u32) -> Result<CudaDevice> {
        let label = format!("cuda:{ordinal}");
        Shared::open(ordinal, label.clone()).map(|shared| CudaDevice(Arc::new(shared))).map_err(|failure| match failure
        {
            Failure::Absent(reason) => Error::NoDevice { device: label, reason },
            Failure::Broken(error) => error,
        })
    }
}

// SAFETY: memory is the driver's, kept from `allocate` to `free`; the driver reads pinned memory until `unpin`; every
// stream, timeline and fence holds the Shared that holds the context.
unsafe impl RawDevice for CudaDevice {
    fn name(&self) -> String {
        format!("{} ({})", self.0.label, self.0.model)
    }

    fn kind(&self) -> DeviceKind {
        DeviceKind::Cuda(self.0.ordinal)
    }

    fn allocate(&self, bytes: usize) -> Result<RawMemory> {
        let shared = &*self.0;
        let _entered = shared.enter()?;
        let asked = bytes.max(1).next_multiple_of(ALIGN);
        let mut base = shared.allocate_bytes(asked)?;
        if base % ALIGN as u64 != 0 {
            // Small allocations only: large ones begin on the driver's own pages of 2 MiB.
            shared.free_bytes(base);
            let begin = shared.allocate_bytes(asked + ALIGN)?;
            base = begin.next_multiple_of(ALIGN as u64);
            shared.unaligned.lock().unwrap_or_else(PoisonError::into_inner).insert(base, begin);
        }
        Ok(RawMemory { base, bytes, host: None, pages: "device" })
    }

    unsafe fn free(&self, memory: RawMemory) {
        let shared = &*self.0;
        let Ok(_entered) = shared.enter() else { return };
        let begin = shared.unaligned.lock().unwrap_or_else(PoisonError::into_inner).remove(&memory.base);
        shared.free_bytes(begin.unwrap_or(memory.base));
    }

    unsafe fn pin(&self, base: NonNull<u8>, bytes: usize) -> Result<()> {
        let _entered = self.0.enter()?;
        let (call, register) = self.0.driver.host_register;
        // SAFETY: the caller promises that the memory stays mapped until `unpin`.
        self.0.check(call, unsafe { register(base.as_ptr().cast(), bytes, HOST_REGISTER_PORTABLE) })
    }

    /// Registered as portable: for the contexts of all CUDA devices.
    fn pins_for(&self, other: &dyn RawDevice) -> bool {
        matches!(other.kind(), DeviceKind::Cuda(_))
    }

    unsafe fn unpin(&self, base: NonNull<u8>) -> Result<()> {
        let _entered = self.0.enter()?;
        let (call, unregister) = self.0.driver.host_unregister;
        // SAFETY: the caller promises that it was pinned and that no copy from it is in flight.
        match unsafe { unregister(base.as_ptr().cast()) } {
            code::DEINITIALIZED => Ok(()),
            failed => self.0.check(call, failed),
        }
    }

    fn numa_node(&self) -> Option<u32> {
        self.0.numa_node()
    }

    fn make_current(&self) -> Result<()> {
        // Never popped: it goes with the thread, and so does its way with captures, which libraries' calls count on.
        self.0.stay()
    }

    fn stream(&self) -> Result<Box<dyn Stream>> {
        Ok(Box::new(CudaStream::new(self.0.clone())?))
    }

    fn fence(&self) -> Result<Fence> {
        let event = self.0.create_event()?;
        let mut fences = self.0.fences.write().unwrap_or_else(PoisonError::into_inner);
        let place = fences.iter().position(|event| event.is_null()).unwrap_or(fences.len());
        match fences.get_mut(place) {
            Some(free) => *free = event,
            None => fences.push(event),
        }
        Ok(Fence(place as u64))
    }

    fn free_fence(&self, fence: Fence) {
        let mut fences = self.0.fences.write().unwrap_or_else(PoisonError::into_inner);
        let Some(place) = fences.get_mut(fence.0 as usize) else { return };
        let event = std::mem::replace(place, std::ptr::null_mut());
        if !event.is_null() {
            // SAFETY: made in `fence` of this device, and taken out of the table just now.
            unsafe { self.0.destroy(std::ptr::null_mut(), &[event]) };
        }
    }

    unsafe fn record(&self, fence: Fence, consumer: RawStream) -> Result<()> {
        let event = self.0.fence_event(fence)?;
        let _entered = self.0.enter()?;
        // Else whoever waits for the fence would be drawn into the graph.
        // SAFETY: the caller's promise.
        unsafe { self.0.driver.check_capture(&self.0.label, consumer.0.cast()) }?;
        let (call, record) = self.0.driver.event_record;
        // SAFETY: the event lives as long as the Shared; the stream is the caller's promise.
        self.0.check(call, unsafe { record(event, consumer.0.cast()) })
    }

    unsafe fn read_back(&self, source: DevicePtr, target: &mut [u8]) -> Result<()> {
        let shared = &*self.0;
        if target.is_empty() {
            return Ok(());
        }
        let _entered = shared.enter()?;
        let Driver { copy_to_host: (copy_call, copy), stream_synchronize: (wait_call, wait), .. } = *shared.driver;
        // SAFETY: the caller promises a valid source that nothing writes to. `target` is ours until we return, which
        // is behind the synchronisation below: where that fails the device is lost and writes nothing more.
        let copied = unsafe { copy(target.as_mut_ptr().cast(), source, target.len(), shared.read_stream) };
        // SAFETY: the stream lives as long as the Shared. It holds nothing but reads like this one, so this does not
        // wait for anybody else; it has no deadline because the borrowed target could not be leaked.
        let waited = unsafe { wait(shared.read_stream) };
        shared.check(copy_call, copied)?;
        shared.check(wait_call, waited)
    }
}
