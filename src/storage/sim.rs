//! The simulated ring: real bytes, simulated time, and every misfortune that a seed can draw.

use std::time::Duration;

use super::{Completion, RawRead, RawWrite, Ring};
use crate::error::{Error, Result};
use crate::sim::{Clock, Rng};

/// How often things go wrong: each number `n` means once in `n` reads or writes, 0 never.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// It ends early, at a multiple of 512 bytes.
    pub short: u64,
    /// EAGAIN or EINTR instead.
    pub again: u64,
    /// EIO instead. A write may have stored some of its bytes.
    pub io_error: u64,
    /// It takes an hour.
    pub stall: u64,
    /// The read delivers a wrong bit.
    pub flip: u64,
    /// The write of this number, counted from 1, and all after it get this errno.
    pub write_fails: Option<(u64, i32)>,
}

/// A ring that keeps reads and writes for a random time and ends them in random order. Bytes move at the end only, so
/// that memory used too early still holds what was there before, and memory reused too early is stored wrong.
pub struct SimRing {
    rng: Rng,
    clock: Clock,
    faults: Faults,
    depth: usize,
    waiting: Vec<(Duration, Work)>,
    writes: u64,
}

enum Work {
    Read(RawRead),
    Write(RawWrite),
}

const STALL: Duration = Duration::from_secs(3600);

impl SimRing {
    /// A ring of `depth` whose behaviour `seed` decides.
    pub fn new(seed: u64, clock: Clock, depth: usize, faults: Faults) -> SimRing {
        SimRing { rng: Rng::new(seed), clock, faults, depth, waiting: Vec::with_capacity(depth), writes: 0 }
    }

    fn strikes(&mut self, once_in: u64) -> bool {
        once_in > 0 && self.rng.one_in(once_in)
    }

    /// Does what is due, or a part of it; gives the token and the result.
    fn end(&mut self, work: &Work) -> Completion {
        let (token, offset, len, memory) = match work {
            Work::Read(read) => (read.token, read.offset, read.len, read.target),
            Work::Write(write) => (write.token, write.offset, write.len, write.source),
        };
        let fails = |errno: i32| Completion { token, result: -errno };
        if self.strikes(self.faults.again) {
            return fails(if self.rng.one_in(2) { libc::EAGAIN } else { libc::EINTR });
        }
        let io_error = self.strikes(self.faults.io_error);
        if io_error && (matches!(work, Work::Read(_)) || self.rng.one_in(2)) {
            return fails(libc::EIO);
        }
        if [offset, u64::from(len), memory.as_ptr() as u64].iter().any(|n| n % 512 != 0) {
            return fails(libc::EINVAL); // as O_DIRECT would
        }
        let mut bytes = len as usize;
        if io_error || self.strikes(self.faults.short) {
            bytes = (self.rng.below(u64::from(len) / 512) as usize + 1) * 512;
        }
        let moved = match work {
            // SAFETY: by the contract of `submit` target and file are valid and the target is ours until this read's
            // completion is handed out, which happens after this call.
            Work::Read(read) => unsafe { libc::pread(read.fd, read.target.as_ptr().cast(), bytes, offset as i64) },
            Work::Write(write) => {
                self.writes += 1;
                if let Some((_, errno)) = self.faults.write_fails.filter(|(number, _)| self.writes >= *number) {
                    return fails(errno);
                }
                // SAFETY: as above, by the contract of `submit_write`.
                unsafe { libc::pwrite(write.fd, write.source.as_ptr().cast(), bytes, offset as i64) }
            }
        };
        if let (Work::Read(read), 1..) = (work, moved)
            && self.strikes(self.faults.flip)
        {
            let at = self.rng.below(moved as u64) as usize;
            // SAFETY: inside what `pread` has just written, which is still ours.
            unsafe { *read.target.add(at).as_ptr() ^= 1 << self.rng.below(8) };
        }
        match moved {
            _ if io_error => fails(libc::EIO),
            -1 => fails(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)),
            moved => Completion { token, result: moved as i32 },
        }
    }

    fn accept(&mut self, work: Work) -> Result<()> {
        if self.waiting.len() == self.depth {
            return Err(Error::Ring { ring: "sim", problem: "submit".into(), errno: libc::EBUSY });
        }
        let latency = Duration::from_micros(self.rng.below(1000));
        let latency = if self.strikes(self.faults.stall) { STALL } else { latency };
        self.waiting.push((self.clock.now() + latency, work));
        Ok(())
    }

    /// A read or write that is due, chosen at random among those that are.
    fn due(&mut self) -> Option<Work> {
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

// SAFETY: a read or write sits in `waiting` until `poll` takes it out, moves its bytes and reports it, once.
unsafe impl Ring for SimRing {
    fn name(&self) -> &'static str {
        "sim"
    }

    fn capacity(&self) -> usize {
        self.depth
    }

    unsafe fn submit(&mut self, read: RawRead) -> Result<()> {
        self.accept(Work::Read(read))
    }

    unsafe fn submit_write(&mut self, write: RawWrite) -> Result<()> {
        self.accept(Work::Write(write))
    }

    fn poll(&mut self, want: usize, timeout: Duration, out: &mut Vec<Completion>) -> Result<()> {
        let want = want.min(self.waiting.len());
        let deadline = self.clock.now() + timeout;
        let mut ended = 0;
        loop {
            // Sometimes more than wanted is reported, as on real hardware.
            while ended < want || self.rng.one_in(3) {
                let Some(work) = self.due() else { break };
                let ended_as = self.end(&work);
                out.push(ended_as);
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
