//! Host memory that an accelerator has pinned: batches that its streams copy from without a bounce.

use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

use strait::device::{DeviceKind, DevicePtr, Fence, HostDevice, RawDevice, RawMemory, RawStream, Stream};
use strait::{Device, Error};

use crate::device::{Named, give, strait_device};
use crate::dlpack::DLDevice;
use crate::error::strait_error;
use crate::handle::live;
use crate::status::strait_status;

type Result<T> = std::result::Result<T, Error>;

/// How long giving a batch back waits for a stream that still reads from it. The storage writes into such memory
/// directly, so no copy stream can wait in its stead.
const STREAM_WAIT_MAX: Duration = Duration::from_secs(30);

struct PinnedHost {
    host: HostDevice,
    accelerator: Device,
}

// SAFETY: memory and copies are the host device's, which keeps its promises; it is pinned while it is allocated. A fence is
// passed before `record` returns, so nobody has to wait for it.
unsafe impl RawDevice for PinnedHost {
    fn name(&self) -> String {
        format!("host, pinned for {}", self.accelerator.name())
    }

    fn kind(&self) -> DeviceKind {
        DeviceKind::Host
    }

    fn allocate(&self, bytes: usize) -> Result<RawMemory> {
        let memory = self.host.allocate(bytes)?;
        let Some(base) = memory.host else { return Ok(memory) };
        // SAFETY: it stays mapped until `free`, which unpins it first.
        if let Err(error) = unsafe { self.accelerator.raw().pin(base, memory.bytes) } {
            // SAFETY: allocated above, and used by nobody.
            unsafe { self.host.free(memory) };
            return Err(error);
        }
        Ok(memory)
    }

    unsafe fn free(&self, memory: RawMemory) {
        let Some(base) = memory.host else { return };
        // SAFETY: pinned in `allocate`; no copy from it is in flight: the caller's promise.
        match unsafe { self.accelerator.raw().unpin(base) } {
            // SAFETY: allocated by the host device; the caller's promise.
            Ok(()) => unsafe { self.host.free(memory) },
            Err(error) => tracing::warn!(%error, bytes = memory.bytes, "could not be unpinned: it stays mapped"),
        }
    }

    unsafe fn pin(&self, _base: NonNull<u8>, _bytes: usize) -> Result<()> {
        Ok(()) // slabs are copied from by the host
    }

    unsafe fn unpin(&self, _base: NonNull<u8>) -> Result<()> {
        Ok(())
    }

    fn stream(&self) -> Result<Box<dyn Stream>> {
        self.host.stream()
    }

    fn fence(&self) -> Result<Fence> {
        self.accelerator.raw().fence()
    }

    fn free_fence(&self, fence: Fence) {
        self.accelerator.raw().free_fence(fence);
    }

    unsafe fn record(&self, fence: Fence, consumer: RawStream) -> Result<()> {
        let raw = self.accelerator.raw();
        // SAFETY: a live stream of the accelerator: the caller's promise.
        unsafe { raw.record(fence, consumer) }?;
        let mut stream = raw.stream()?;
        stream.wait_fence(fence)?;
        let mark = stream.mark()?;
        if stream.wait(mark, STREAM_WAIT_MAX)? < mark {
            let what = format!("a stream of {} that reads from a batch in pinned memory", self.accelerator.name());
            return Err(Error::Timeout { what, waited: STREAM_WAIT_MAX });
        }
        Ok(())
    }

    unsafe fn read_back(&self, source: DevicePtr, target: &mut [u8]) -> Result<()> {
        // SAFETY: the caller's promise is the same.
        unsafe { self.host.read_back(source, target) }
    }
}

/// Host memory that `accelerator` has pinned, so that its streams copy from batches directly: `kDLCUDAHost` for a CUDA
/// device. The host addresses it too. Giving a batch back behind a stream (`strait_batch_release_on`, or a tensor's
/// deleter) waits on the host, since the storage writes into such memory without a stream in between.
#[unsafe(no_mangle)]
pub extern "C" fn strait_device_pinned_host(
    accelerator: *const strait_device,
    device: Option<&mut *mut strait_device>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    give(device, error, || {
        let accelerator = live::<Named>(accelerator, "accelerator")?;
        let device_type = match accelerator.dl.device_type {
            DLDevice::CUDA => DLDevice::CUDA_HOST,
            DLDevice::ROCM => DLDevice::ROCM_HOST,
            _ => DLDevice::CPU,
        };
        let pinned = PinnedHost { host: HostDevice::default(), accelerator: accelerator.device.clone() };
        Ok(Named::new(Device::new(Arc::new(pinned))).called(DLDevice { device_type, device_id: 0 }))
    })
}
