//! A ring that writes into a simulated device's memory, as cuFile does into a GPU's.

use std::time::Duration;

use crate::error::Result;
use crate::storage::{Completion, RawRead, Ring};

/// The ring inside, whose targets are device memory: the host's address of it.
pub(super) struct InPlace(pub(super) Box<dyn Ring>);

// SAFETY: as the ring inside.
unsafe impl Ring for InPlace {
    fn name(&self) -> &'static str {
        "in place"
    }

    fn capacity(&self) -> usize {
        self.0.capacity()
    }

    fn writes_to_device(&self) -> bool {
        true
    }

    unsafe fn submit(&mut self, read: RawRead) -> Result<()> {
        // SAFETY: the caller's promises are passed on.
        unsafe { self.0.submit(read) }
    }

    fn poll(&mut self, want: usize, timeout: Duration, out: &mut Vec<Completion>) -> Result<()> {
        self.0.poll(want, timeout, out)
    }
}
