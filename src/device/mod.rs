//! Where batches live: devices, their memory, and their copy queues.
//!
//! [`RawDevice`] and [`Stream`] are narrow unsafe seams; [`CopyQueue`] above them is the one safe owner of host memory
//! that a copy still reads. Nothing above this module names CUDA.

mod choose;
#[cfg(feature = "cuda")]
mod cuda;
mod host;
mod queue;
mod sim;

#[cfg(all(test, feature = "cuda"))]
pub(crate) use cuda::consumer::Consumer as CudaConsumer;
pub use host::HostDevice;
pub use queue::{CopyQueue, RawCopy, RawCopyOut, RawRows};
pub use sim::{SimDevice, SimFaults, SimRead};

use std::ffi::c_void;
use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::plan::{Cast, Move};
use crate::stats::Fallback;

/// An address in a device's memory; on the host device a plain pointer.
pub type DevicePtr = u64;

const NO_CAST: &str = "it changes no elements: leave `widen` and `scale` out, and change them where batches are used";

/// A point on a [`Stream`]'s timeline. `Seq(0)` is always reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Seq(pub u64);

/// A consumer's own copy or compute queue: a `CUstream` on CUDA, ignored by the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawStream(pub *mut c_void);

// SAFETY: a stream handle is an opaque name that drivers accept from any thread; nothing here dereferences it.
unsafe impl Send for RawStream {}

/// A place on a consumer's stream behind which memory may be refilled. Made once, recorded many times, given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fence(pub u64);

/// What kind of device this is, for people and for DLPack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DeviceKind {
    /// Host memory.
    Host,
    /// A CUDA device, by ordinal among the visible ones.
    Cuda(u32),
    /// The simulated device of tests.
    Sim,
    /// A vendor's own, by the numbers that DLPack has for it (`DLDeviceType`, `device_id`).
    Other {
        /// `DLDeviceType`.
        dlpack_type: i32,
        /// `device_id`.
        ordinal: i32,
    },
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceKind::Host => f.write_str("host"),
            DeviceKind::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
            DeviceKind::Sim => f.write_str("sim"),
            DeviceKind::Other { dlpack_type, ordinal } => write!(f, "dlpack:{dlpack_type}:{ordinal}"),
        }
    }
}

/// One piece of device memory, as [`RawDevice::allocate`] gives it.
#[derive(Debug)]
pub struct RawMemory {
    /// First byte, in the device's address space; a multiple of 4096.
    pub base: DevicePtr,
    /// Length.
    pub bytes: usize,
    /// The same memory in the host's address space, where a ring may write into it directly.
    pub host: Option<NonNull<u8>>,
    /// What it is made of, for the stats: `"huge pages"`, `"device"`.
    pub pages: &'static str,
}

// SAFETY: plain addresses; who may touch the memory is ruled by the contracts of RawDevice and Ring, not by threads.
unsafe impl Send for RawMemory {}
// SAFETY: as above; a shared RawMemory only gives out addresses.
unsafe impl Sync for RawMemory {}

/// A device's driver: memory, pinning, streams. Every call names its device; nothing depends on a thread's current device.
///
/// # Safety
/// An implementation promises: memory from `allocate` stays valid until `free`; pinned memory may be copied from
/// and to asynchronously until `unpin`. Streams, timelines and fences that it made keep what they need of the device alive.
pub unsafe trait RawDevice: Send + Sync {
    /// For people: `"cuda:0 (NVIDIA H200)"`.
    fn name(&self) -> String;

    /// For programs.
    fn kind(&self) -> DeviceKind;

    /// Allocates device memory, uninitialised or zero, 4096-aligned.
    fn allocate(&self, bytes: usize) -> Result<RawMemory>;

    /// The same, where pages may come only when they are first written to, in part perhaps never.
    fn reserve(&self, bytes: usize) -> Result<RawMemory> {
        self.allocate(bytes)
    }

    /// Gives memory back.
    ///
    /// # Safety
    /// `memory` came from `allocate` or `reserve` of this device; no copy or ring still writes to it and no consumer uses it.
    unsafe fn free(&self, memory: RawMemory);

    /// Lets children of a `fork` have a copy of `memory` as it is when they are forked, if the device kept it from them for
    /// as long as storage could write to it. By default it changes nothing.
    ///
    /// # Safety
    /// `memory` came from `allocate` or `reserve` of this device, and was not freed; no ring or copy writes to it any more.
    unsafe fn inherit(&self, _memory: &RawMemory) {}

    /// Pins host memory so that streams copy from it and to it asynchronously.
    ///
    /// # Safety
    /// The memory stays mapped until [`unpin`](RawDevice::unpin).
    unsafe fn pin(&self, base: NonNull<u8>, bytes: usize) -> Result<()>;

    /// Whether what this device has pinned is pinned for `other` too, which then does not pin it again.
    fn pins_for(&self, _other: &dyn RawDevice) -> bool {
        false
    }

    /// Takes [`pin`](RawDevice::pin) back. On error the driver may still hold the memory: it must stay mapped, or the
    /// next thing to be mapped there would pass for pinned.
    ///
    /// # Safety
    /// `base` was pinned by this device and no copy from it or to it is in flight.
    unsafe fn unpin(&self, base: NonNull<u8>) -> Result<()>;

    /// The NUMA node that the device hangs on, if that is known.
    fn numa_node(&self) -> Option<u32> {
        None
    }

    /// Makes the device current on the calling thread for good, which spares each call that, and is where libraries look for
    /// it. For threads of strait's own.
    fn make_current(&self) -> Result<()> {
        Ok(())
    }

    /// A new copy queue, for use by one thread at a time.
    fn stream(&self) -> Result<Box<dyn Stream>>;

    /// A new fence, not yet recorded.
    fn fence(&self) -> Result<Fence>;

    /// Gives a fence back; waits for it that are under way still hold. It is not used again.
    fn free_fence(&self, fence: Fence);

    /// Records the fence behind everything that is on `consumer` now.
    ///
    /// # Safety
    /// `consumer` is a live stream of this device.
    unsafe fn record(&self, fence: Fence, consumer: RawStream) -> Result<()>;

    /// Copies device memory to the host and waits: for checks and small host-side reads, not for the data path.
    ///
    /// # Safety
    /// `source` is valid for `target.len()` bytes and nothing writes to it meanwhile.
    unsafe fn read_back(&self, source: DevicePtr, target: &mut [u8]) -> Result<()>;
}

/// A device's ordered queue of copies between pinned host memory and device memory.
///
/// # Safety
/// An implementation promises: copies take effect in order, whichever way they go; `reached() >= s` means that every
/// copy issued before [`mark`](Stream::mark) returned `s` has finished reading its source and that its bytes are visible
/// to work ordered after `s`, and to the host if they were copied there. An error is never reported as completion.
/// Dropping a stream does not stop its copies.
pub unsafe trait Stream: Send {
    /// Starts a copy of `bytes` from pinned host memory to device memory.
    ///
    /// # Safety
    /// The source stays valid and unchanged, and the target is not freed, until a later mark is reached.
    unsafe fn copy(&mut self, source: NonNull<u8>, target: DevicePtr, bytes: usize) -> Result<()>;

    /// Starts copies of equal length at equal distances; by default one after another.
    ///
    /// # Safety
    /// As for [`copy`](Stream::copy), of each row.
    unsafe fn copy_rows(&mut self, rows: RawRows) -> Result<()> {
        (0..rows.rows).try_for_each(|row| {
            let target = rows.target + (row * rows.row_bytes) as u64;
            // SAFETY: by the caller's promise the row's source is in one piece of host memory with the first's, and the
            // rest is the promise for each row.
            unsafe { self.copy(rows.source.add(row * rows.source_stride), target, rows.row_bytes) }
        })
    }

    /// Starts a copy of `bytes` from device memory to pinned host memory.
    ///
    /// # Safety
    /// The source is not freed and nothing else writes to it, and nothing else reads or writes the target, until a
    /// later mark is reached.
    unsafe fn copy_out(&mut self, source: DevicePtr, target: NonNull<u8>, bytes: usize) -> Result<()>;

    /// Starts several copies, as [`copy`](Stream::copy) does one, in any order among themselves.
    ///
    /// # Safety
    /// As for [`copy`](Stream::copy), of each; no target overlaps another.
    unsafe fn copy_many(&mut self, copies: &[RawCopy]) -> Result<()> {
        // SAFETY: the caller's promise, one by one.
        copies.iter().try_for_each(|one| unsafe { self.copy(one.source, one.target, one.bytes) })
    }

    /// Puts a point on the timeline behind all copies so far, also behind those whose call failed: a driver may have
    /// started them all the same. On error there is no new point, and a later mark stands in for it.
    fn mark(&mut self) -> Result<Seq>;

    /// The latest point that has been reached. Does not block.
    fn reached(&mut self) -> Result<Seq>;

    /// Waits until `seq` is reached or `timeout` has passed; says which by returning [`reached`](Stream::reached).
    fn wait(&mut self, seq: Seq, timeout: Duration) -> Result<Seq>;

    /// Orders all later copies behind `fence` as last recorded.
    fn wait_fence(&mut self, fence: Fence) -> Result<()>;

    /// What a copy met with that others will not be tried with, once.
    fn fallback(&mut self) -> Option<Fallback> {
        None
    }

    /// Gets what gathers are quicker with. They work without it too; what could not be had is the answer.
    fn ready_to_gather(&mut self) -> Option<Fallback> {
        None
    }

    /// Starts moves of bytes within one piece of device memory, whose first byte is `base`, ordered like a copy. The
    /// table is read before the call returns.
    ///
    /// # Safety
    /// Every source and target lies in that memory, which is not freed until a later mark is reached. No target
    /// overlaps a source or another target.
    unsafe fn gather(&mut self, base: DevicePtr, moves: &[Move]) -> Result<()>;

    /// Gets what a [`cast`](Stream::cast) of this kind needs. Where it cannot be had the answer is why, and what to do. By
    /// default no kind of cast is offered.
    fn ready_to_cast(&mut self, _cast: Cast) -> Result<(), String> {
        Err(NO_CAST.into())
    }

    /// Starts moves as [`gather`](Stream::gather) does, of whole elements that change on the way: [`Move::bytes`] is what they
    /// take at the source, [`Cast::bytes_of`] that at the target. Says how many of the moves were started, in order: all of
    /// them but for a lack of room. There is some again once casts have ended.
    ///
    /// Kinds for which [`ready_to_cast`](Stream::ready_to_cast) has not said yes may be errors.
    ///
    /// # Safety
    /// As for [`gather`](Stream::gather), of sources and targets of those lengths. Targets begin at multiples of their
    /// elements' size; sources begin anywhere.
    unsafe fn cast(&mut self, _base: DevicePtr, _cast: Cast, _moves: &[Move]) -> Result<usize> {
        Err(Error::config("widen", NO_CAST))
    }

    /// The consumer's view of this stream, for other threads.
    fn timeline(&self) -> Arc<dyn Timeline>;
}

/// A stream's timeline as consumers see it: shareable, and unable to start copies.
///
/// # Safety
/// As [`Stream`]: an error is never reported as completion, and a consumer stream that was made to wait runs nothing
/// more until `seq` is reached.
pub unsafe trait Timeline: Send + Sync {
    /// Waits until `seq` is reached or `timeout` has passed; true if it is reached. One that no mark has given out is
    /// not reached, and need not be waited for.
    fn wait(&self, seq: Seq, timeout: Duration) -> Result<bool>;

    /// Makes `consumer` wait for `seq` on the device, without blocking the host.
    ///
    /// # Safety
    /// `consumer` is a live stream of this timeline's device.
    unsafe fn wait_on(&self, seq: Seq, consumer: RawStream) -> Result<()>;
}

/// A device that batches can live on. Cheap to clone.
#[derive(Clone)]
pub struct Device(Arc<dyn RawDevice>);

impl Device {
    /// Any implementation of [`RawDevice`], for instance a vendor's own.
    pub fn new(raw: Arc<dyn RawDevice>) -> Device {
        Device(raw)
    }

    /// The driver behind this device.
    pub fn raw(&self) -> &dyn RawDevice {
        &*self.0
    }

    /// For people: `"cuda:0 (NVIDIA H200)"`.
    pub fn name(&self) -> String {
        self.0.name()
    }

    /// For programs.
    pub fn kind(&self) -> DeviceKind {
        self.0.kind()
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({})", self.name())
    }
}
