//! A storage with bytes that cannot be read.

use std::ops::Range;
use std::time::Duration;

use strait::sim::Clock;
use strait::storage::{Completion, Faults, RawRead, Ring, SimRing};

/// Every read that touches one of these bytes of its file fails, whichever file it is.
pub struct Damaged {
    ring: SimRing,
    bytes: Range<u64>,
    struck: Vec<u64>,
}

impl Damaged {
    /// What a loader makes its ring with.
    pub fn ring(bytes: Range<u64>) -> impl FnOnce(usize) -> strait::Result<Box<dyn Ring>> + Send + 'static {
        |depth| {
            let ring = SimRing::new(1, Clock::simulated(), depth, Faults::default());
            Ok(Box::new(Damaged { ring, bytes, struck: Vec::new() }) as Box<dyn Ring>)
        }
    }
}

// SAFETY: as the ring inside; some completions are errors instead.
unsafe impl Ring for Damaged {
    fn name(&self) -> &'static str {
        "damaged"
    }

    fn capacity(&self) -> usize {
        self.ring.capacity()
    }

    unsafe fn submit(&mut self, read: RawRead) -> strait::Result<()> {
        self.struck.retain(|&token| token != read.token);
        if read.offset < self.bytes.end && read.offset + u64::from(read.len) > self.bytes.start {
            self.struck.push(read.token);
        }
        // SAFETY: the caller's promises are passed on.
        unsafe { self.ring.submit(read) }
    }

    fn poll(&mut self, want: usize, timeout: Duration, out: &mut Vec<Completion>) -> strait::Result<()> {
        let before = out.len();
        self.ring.poll(want, timeout, out)?;
        for completion in &mut out[before..] {
            if self.struck.contains(&completion.token) {
                completion.result = -libc::EIO;
            }
        }
        Ok(())
    }
}
