//! A tensor in device memory, and who owns it.

use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

use super::TensorInfo;
use super::memory::Owner;
use crate::device::{Device, DevicePtr, RawStream, Seq, Timeline};
use crate::dtype::DType;
use crate::error::{Error, Result};

/// One tensor, or one device's part of it, in device memory: dense, in C order, little-endian, its first byte at a
/// multiple of its elements' size.
///
/// It may be handed over before the last copy into it has ended: wait on its [seq](Tensor::seq) first, or have a stream
/// wait ([`Tensor::wait_on`]). It keeps its memory alive, also beyond the load that it came from; tensors of one load and
/// device share one allocation, which is freed with the last of them.
///
/// The child of a fork has a copy of tensors in host memory that the load allocated, if before the fork the load had handed
/// over its last tensor, or was dropped or failed and its reads ended within its deadline. As long as storage may write to
/// that memory children do not have it: where reads do not end, they never do.
pub struct Tensor {
    pub(super) tensors: Arc<[TensorInfo]>,
    pub(super) place: usize,
    pub(super) device_index: usize,
    pub(super) shape: Vec<u64>,
    pub(super) ptr: DevicePtr,
    pub(super) host: Option<NonNull<u8>>,
    pub(super) bytes: u64,
    pub(super) seq: Seq,
    pub(super) home: Arc<Home>,
    pub(super) owner: Owner,
}

/// What tensors of one device have in common.
pub(super) struct Home {
    pub(super) device: Device,
    /// Of the stream that copies to it, where there is one.
    pub(super) timeline: Option<Arc<dyn Timeline>>,
    pub(super) deadline: Duration,
}

// SAFETY: the tensor is an address and a share in what keeps it valid. After its seq nothing writes to its bytes: only
// shared reads of them are given out.
unsafe impl Send for Tensor {}
// SAFETY: as above.
unsafe impl Sync for Tensor {}

impl Tensor {
    /// What it is in the checkpoint: name, dtype, whole shape, file.
    pub fn info(&self) -> &TensorInfo {
        &self.tensors[self.place]
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.info().name
    }

    /// The type of its elements.
    pub fn dtype(&self) -> DType {
        self.info().dtype
    }

    /// The shape of what is here: the whole's, but for the dimension in which a [part](super::Part) was taken.
    pub fn shape(&self) -> &[u64] {
        &self.shape
    }

    /// How many bytes are here.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Its first byte. A tensor without elements has an address too, which means nothing.
    pub fn device_ptr(&self) -> DevicePtr {
        self.ptr
    }

    /// The device it lives on.
    pub fn device(&self) -> &Device {
        &self.home.device
    }

    /// That device's place among those of the load.
    pub fn device_index(&self) -> usize {
        self.device_index
    }

    /// The point of the copy stream's timeline from which on its bytes are there. `Seq(0)`: they are.
    pub fn seq(&self) -> Seq {
        self.seq
    }

    /// Waits until its bytes are there; [`Error::Timeout`] after the load's deadline.
    pub fn wait(&self) -> Result<()> {
        let Some(timeline) = self.home.timeline.as_ref().filter(|_| self.seq > Seq(0)) else { return Ok(()) };
        match timeline.wait(self.seq, self.home.deadline)? {
            true => Ok(()),
            false => {
                let what = format!("the copy of tensor `{}` to {}", self.name(), self.home.device.name());
                Err(Error::Timeout { what, waited: self.home.deadline })
            }
        }
    }

    /// Makes a consumer's stream wait for its bytes, without blocking the host.
    ///
    /// # Safety
    /// `consumer` is a live stream of this device.
    pub unsafe fn wait_on(&self, consumer: RawStream) -> Result<()> {
        let Some(timeline) = self.home.timeline.as_ref().filter(|_| self.seq > Seq(0)) else { return Ok(()) };
        // SAFETY: the caller's promise is the same.
        unsafe { timeline.wait_on(self.seq, consumer) }
    }

    /// Gives it up behind everything that is on `consumer` now: its memory is freed behind that. A tensor that is dropped
    /// is one whose consumers are done with it. If the stream cannot be asked, the memory is leaked rather than freed under
    /// its reader, and the error says why.
    ///
    /// # Safety
    /// `consumer` is a live stream of this device.
    pub unsafe fn release_on(self, consumer: RawStream) -> Result<()> {
        let Owner::Load(memory) = &self.owner else { return Ok(()) };
        // SAFETY: the caller's promise is the same.
        unsafe { memory.free_behind_stream(consumer) }.inspect_err(|_| std::mem::forget(memory.clone()))
    }

    /// Its bytes, once they are there. Only where the host can address the device's memory; elsewhere an error
    /// ([`Error::Config`]).
    pub fn host_bytes(&self) -> Result<&[u8]> {
        let Some(host) = self.host else {
            let device = self.home.device.name();
            let problem = format!("the memory of {device} is not the host's; use device_ptr, or copy it back");
            return Err(Error::config("host_bytes", problem));
        };
        self.wait()?;
        // SAFETY: the memory is valid for so many bytes as long as `owner` is held. They were written before the seq,
        // reached above, and nothing writes to them after it.
        Ok(unsafe { std::slice::from_raw_parts(host.as_ptr(), self.bytes as usize) })
    }

    /// Copies its bytes to the host, from whatever device they are on, and waits for it. For checks: this is not the data
    /// path.
    pub fn read_back(&self) -> Result<Vec<u8>> {
        self.wait()?;
        let mut bytes = vec![0; self.bytes as usize];
        if !bytes.is_empty() {
            // SAFETY: its memory is held by `owner`, its copies have ended, and nothing writes to it any more.
            unsafe { self.home.device.raw().read_back(self.ptr, &mut bytes) }?;
        }
        Ok(bytes)
    }
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (name, dtype, shape, device) = (self.name(), self.dtype(), &self.shape, self.home.device.kind());
        write!(f, "Tensor {{ {name}: {dtype} {shape:?} on {device} }}")
    }
}
