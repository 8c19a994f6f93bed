//! A batch, or a tensor of a checkpoint, that C holds: by its handle, by DLPack tensors, or by both. It is given back when
//! the last of them is gone, behind every stream that was named on the way.
//!
//! ```text
//!   strait_batch  ----.
//!   DLPack tensor ----+--> Held { Batch, streams }   last one gone:   no stream   dropped
//!   DLPack tensor ----'                                               one         released on it
//!                                                                     several     the last waits for the others on the
//!                                                                                 device, then released on the last
//! ```

use std::sync::{Arc, Mutex, PoisonError};

use strait::device::RawStream;
use strait::{Batch, Device, Error, weights};

use crate::call::{call, lock};
use crate::dlpack::DLDevice;
use crate::error::{Failure, strait_error};
use crate::handle::{Kind, forks, live, take};
use crate::status::strait_status;

/// The legacy default stream of CUDA.
const LEGACY: i64 = 1;
/// The default stream of the calling thread, on CUDA.
const PER_THREAD: i64 = 2;

/// Memory of strait's that is lent until it is given back.
pub(crate) trait Lent: Send + Sync + 'static {
    fn wait(&self) -> Result<(), Error>;

    /// # Safety
    /// A live stream of the memory's device.
    unsafe fn wait_on(&self, stream: RawStream) -> Result<(), Error>;

    /// # Safety
    /// The same, and only work that is on it uses the memory.
    unsafe fn release_on(self, stream: RawStream) -> Result<(), Error>;
}

macro_rules! lent {
    ($($what:ty)*) => {
        $(impl Lent for $what {
            fn wait(&self) -> Result<(), Error> {
                self.wait()
            }

            unsafe fn wait_on(&self, stream: RawStream) -> Result<(), Error> {
                // SAFETY: the caller's promise is the same.
                unsafe { self.wait_on(stream) }
            }

            unsafe fn release_on(self, stream: RawStream) -> Result<(), Error> {
                // SAFETY: the caller's promise is the same.
                unsafe { self.release_on(stream) }
            }
        })*
    };
}

lent! { Batch weights::Tensor }

pub(crate) struct Held<T: Lent> {
    lent: Option<T>,
    device: Device,
    pub(crate) dl: DLDevice,
    /// The streams that use it, each once.
    streams: Mutex<Vec<RawStream>>,
    forks: u8,
}

impl<T: Lent> Held<T> {
    pub(crate) fn new(lent: T, device: Device, dl: DLDevice) -> Held<T> {
        Held { lent: Some(lent), device, dl, streams: Mutex::default(), forks: forks() }
    }

    pub(crate) fn get(&self) -> &T {
        self.lent.as_ref().expect("taken only when it is given back")
    }

    /// Makes the bytes ready for a consumer on `stream`, and has them come back behind that stream.
    pub(crate) fn ready_on(&self, stream: i64) -> Result<(), Failure> {
        let cpu = self.dl.device_type == DLDevice::CPU;
        match stream {
            crate::STRAIT_STREAM_NONE if cpu => return Ok(self.get().wait()?),
            crate::STRAIT_STREAM_NONE => return Ok(()),
            _ => {}
        }
        let raw = self.stream(stream)?;
        // SAFETY: a live stream of its device, as the header says of this argument.
        unsafe { self.get().wait_on(raw) }?;
        self.behind(stream)
    }

    /// Has it come back behind what is on `stream` by then.
    pub(crate) fn behind(&self, stream: i64) -> Result<(), Failure> {
        let cuda = [DLDevice::CUDA, DLDevice::CUDA_HOST].contains(&self.dl.device_type);
        // By then another thread may be the calling one; the legacy stream waits for those of all threads.
        let raw = self.stream(if cuda && stream == PER_THREAD { LEGACY } else { stream })?;
        let mut streams = lock(&self.streams);
        if !streams.contains(&raw) {
            streams.push(raw);
        }
        Ok(())
    }

    /// The numbers of the Python DLPack specification.
    pub(crate) fn stream(&self, stream: i64) -> Result<RawStream, Failure> {
        let problem = match (self.dl.device_type, stream) {
            (DLDevice::CPU, _) => "it is in host memory, which has no streams; give -1, which is none",
            (_, ..0) => "not a stream; give a stream's handle, or -1 for none",
            (DLDevice::CUDA | DLDevice::CUDA_HOST, 0) => {
                "0 may mean two streams on CUDA; give 1 for the legacy default stream, 2 for the thread's own"
            }
            _ => return Ok(RawStream(std::ptr::with_exposed_provenance_mut(stream as usize))),
        };
        Err(Failure::new(strait_status::Config, format!("stream {stream}: {problem}")))
    }

    /// Gives up one share; what is lent goes back with the last.
    pub(crate) fn let_go(held: Arc<Held<T>>) -> Result<(), Error> {
        Arc::into_inner(held).map_or(Ok(()), |mut last| last.give_back())
    }

    /// Gives it back, and says how that went.
    fn give_back(&mut self) -> Result<(), Error> {
        let Some(lent) = self.lent.take() else { return Ok(()) };
        if self.forks != forks() {
            // The engine and the memory are the parent's.
            std::mem::forget((lent, self.device.clone()));
            return Ok(());
        }
        let streams = std::mem::take(self.streams.get_mut().unwrap_or_else(PoisonError::into_inner));
        let Some((&last, others)) = streams.split_last() else { return Ok(()) };
        if let Err(error) = others.iter().try_for_each(|&other| self.wait_for(other, last)) {
            std::mem::forget(lent);
            return Err(error);
        }
        // SAFETY: those who named the streams promised that they live until now (the header says so), and work that uses
        // it is on one of them.
        unsafe { lent.release_on(last) }
    }

    /// Makes the stream `last` wait for what is on `other` now, on the device.
    fn wait_for(&self, other: RawStream, last: RawStream) -> Result<(), Error> {
        let raw = self.device.raw();
        let mut between = raw.stream()?;
        let fence = raw.fence()?;
        // SAFETY: both are live streams of the device, as in `give_back`.
        let ordered = unsafe { raw.record(fence, other) }
            .and_then(|()| between.wait_fence(fence))
            .and_then(|()| between.mark())
            // SAFETY: as above.
            .and_then(|seq| unsafe { between.timeline().wait_on(seq, last) });
        raw.free_fence(fence);
        ordered
    }
}

/// A handle that stands for what is held.
pub(crate) trait Holds: Kind {
    type Lent: Lent;

    fn held(&self) -> &Arc<Held<Self::Lent>>;
}

/// Waits, on the host, until its bytes are there.
pub(crate) fn wait<K: Holds>(handle: *const K::Handle, error: Option<&mut *mut strait_error>) -> strait_status {
    call(error, || Ok(live::<K>(handle, K::NAME)?.held().get().wait()?))
}

/// Makes a stream wait for them.
///
/// # Safety
/// `stream` is a live stream of its device.
pub(crate) unsafe fn wait_on<K: Holds>(
    handle: *const K::Handle,
    stream: i64,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let held = live::<K>(handle, K::NAME)?.held().clone();
        // SAFETY: the caller's promise is the same.
        Ok(unsafe { held.get().wait_on(held.stream(stream)?) }?)
    })
}

/// Gives a handle back, and what it holds behind what is on a stream.
///
/// # Safety
/// `stream` is a live stream of its device, until the last DLPack tensor of it is gone.
pub(crate) unsafe fn release_on<K: Holds>(
    handle: *mut K::Handle,
    stream: i64,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let held = live::<K>(handle, K::NAME)?.held().clone();
        held.behind(stream)?;
        drop(take::<K>(handle, K::NAME)?);
        Ok(Held::let_go(held)?)
    })
}

impl<T: Lent> Drop for Held<T> {
    fn drop(&mut self) {
        if let Err(error) = self.give_back() {
            tracing::error!(%error, "memory could not be given back behind its streams: it is leaked");
        }
    }
}
