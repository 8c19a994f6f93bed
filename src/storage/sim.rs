//! The simulated ring: real bytes, simulated time, and every misfortune that a seed can draw.

use std::time::Duration;

use super::{Completion, RawRead, Ring};
use crate::error::{Error, Result};
use crate::sim::{Clock, Rng};

/// How often things go wrong: each number `n` means once in `n` reads, 0 never.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// The read ends early, at a multiple of 512 bytes.
    pub short: u64,
    /// EAGAIN or EINTR instead of a read.
    pub again: u64,
    /// EIO instead of a read.
    pub io_error: u64,
    /// The read takes an hour.
    pub stall: u64,
}

/// A ring that keeps reads for a random time and ends them in random order. Bytes land at the end only, so that
/// memory used too early still holds what was there before.
pub struct SimRing {
    rng: Rng,
    clock: Clock,
    faults: Faults,
    depth: usize,
    waiting: Vec<(Duration, RawRead)>,
}

const STALL: Duration = Duration::from_secs(3600);

impl SimRing {
    /// A ring of `depth` whose behaviour `seed` decides.
    pub fn new(seed: u64, clock: Clock, depth: usize, faults: Faults) -> SimRing {
        SimRing { rng: Rng::new(seed), clock, faults, depth, waiting: Vec::with_capacity(depth) }
    }

    fn strikes(&mut self, once_in: u64) -> bool {
        once_in > 0 && self.rng.one_in(once_in)
    }

    fn end(&mut self, read: &RawRead) -> i32 {
        if self.strikes(self.faults.again) {
            return if self.rng.one_in(2) { -libc::EAGAIN } else { -libc::EINTR };
        }
        if self.strikes(self.faults.io_error) {
            return -libc::EIO;
        }
        let aligned = [read.offset, u64::from(read.len), read.target.as_ptr() as u64].iter().all(|n| n % 512 == 0);
        if !aligned {
            return -libc::EINVAL; // as O_DIRECT would
        }
        let mut len = u64::from(read.len);
        if self.strikes(self.faults.short) {
            len = (self.rng.below(len / 512) + 1) * 512;
        }
        // SAFETY: by the contract of `submit` target and file are valid and the target is ours until this read's
        // completion is handed out, which happens after this call.
        let got = unsafe { libc::pread(read.fd, read.target.as_ptr().cast(), len as usize, read.offset as i64) };
        if got < 0 { -std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO) } else { got as i32 }
    }

    /// A read that is due, chosen at random among those that are.
    fn due(&mut self) -> Option<RawRead> {
        let now = self.clock.now();
        let due = self.waiting.iter().filter(|(at, _)| *at <= now).count() as u64;
        if due == 0 {
            return None;
        }
        let pick = self.rng.below(due) as usize;
        let index = (0..self.waiting.len()).filter(|&i| self.waiting[i].0 <= now).nth(pick)?;
        Some(self.waiting.swap_remove(index).1)
    }
}

// SAFETY: a read sits in `waiting` from `submit` until `poll` takes it out, writes its bytes and reports it, once.
unsafe impl Ring for SimRing {
    fn name(&self) -> &'static str {
        "sim"
    }

    fn capacity(&self) -> usize {
        self.depth
    }

    unsafe fn submit(&mut self, read: RawRead) -> Result<()> {
        if self.waiting.len() == self.depth {
            return Err(Error::Ring { ring: "sim", problem: "submit".into(), errno: libc::EBUSY });
        }
        let latency = Duration::from_micros(self.rng.below(1000));
        let latency = if self.strikes(self.faults.stall) { STALL } else { latency };
        self.waiting.push((self.clock.now() + latency, read));
        Ok(())
    }

    fn poll(&mut self, want: usize, timeout: Duration, out: &mut Vec<Completion>) -> Result<()> {
        let want = want.min(self.waiting.len());
        let deadline = self.clock.now() + timeout;
        let mut ended = 0;
        loop {
            // Sometimes more than wanted is reported, as on real hardware.
            while ended < want || self.rng.one_in(3) {
                let Some(read) = self.due() else { break };
                let result = self.end(&read);
                out.push(Completion { token: read.token, result });
                ended += 1;
            }
            let Some(next) = self.waiting.iter().map(|(at, _)| *at).min() else { return Ok(()) };
            if ended >= want {
                return Ok(());
            }
            let now = self.clock.now();
            self.clock.advance(next.min(deadline).saturating_sub(now));
            if next > deadline {
                return Ok(());
            }
        }
    }
}
