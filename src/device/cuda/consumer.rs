//! A consumer's side of the driver, for tests within the crate: a stream that reads what a loader has put on the device.

use std::ptr::NonNull;
use std::sync::Arc;

use cudarc::driver::sys::CUstream;

use super::super::{DevicePtr, RawStream};
use super::shared::{Failure, Shared};
use crate::error::Result;

/// A stream of a CUDA device.
pub(crate) struct Consumer {
    shared: Arc<Shared>,
    stream: CUstream,
}

impl Consumer {
    pub(crate) fn new(ordinal: u32) -> Result<Consumer> {
        let shared = Shared::open(ordinal, format!("cuda:{ordinal}")).map_err(|failure| match failure {
            Failure::Absent(reason) => panic!("{reason}"),
            Failure::Broken(error) => error,
        })?;
        let stream = shared.create_stream()?;
        Ok(Consumer { shared: Arc::new(shared), stream })
    }

    pub(crate) fn raw(&self) -> RawStream {
        RawStream(self.stream.cast())
    }

    /// Starts a copy to pinned host memory.
    ///
    /// # Safety
    /// Both sides are there until the stream has been [waited for](Consumer::wait); nobody else uses the target.
    pub(crate) unsafe fn read(&self, source: DevicePtr, target: NonNull<u8>, bytes: usize) -> Result<()> {
        let _entered = self.shared.enter()?;
        let (call, copy) = self.shared.driver.copy_to_host;
        // SAFETY: the caller's promise.
        self.shared.check(call, unsafe { copy(target.as_ptr().cast(), source, bytes, self.stream) })
    }

    /// Waits for all that is on the stream.
    pub(crate) fn wait(&self) -> Result<()> {
        let _entered = self.shared.enter()?;
        let (call, wait) = self.shared.driver.stream_synchronize;
        // SAFETY: the stream is ours.
        self.shared.check(call, unsafe { wait(self.stream) })
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        let _ = self.wait();
        // SAFETY: the stream is ours, and done.
        unsafe { self.shared.destroy(self.stream, &[]) };
    }
}
