//! A simulated ring whose storage has damaged blocks.

use std::collections::HashMap;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::Result;
use crate::sim::{Clock, Rng};
use crate::storage::{Completion, Faults, RawRead, Ring, SimRing};

/// What reading a damaged block gives.
#[derive(Debug, Clone, Copy)]
pub(super) enum Answer {
    Eio,
    /// As if the file ended there.
    End,
    /// The first of the bytes is wrong, as their sample's checksum says.
    Flip,
}

/// Blocks that cannot be read, now or later: shard, bytes, answer.
pub(super) type Damages = Vec<(usize, Range<u64>, Answer)>;

pub(super) struct DamagedRing {
    ring: SimRing,
    /// By the file's inode.
    damages: Vec<(u64, Range<u64>, Answer)>,
    /// Reads that touch damage: the bytes before it, and what then.
    struck: HashMap<u64, (u64, Answer)>,
    /// Where reads get a wrong byte: address of the first byte read, and how far behind it.
    flips: HashMap<u64, Vec<(usize, u64)>>,
}

impl DamagedRing {
    /// With some short reads and refusals besides.
    pub(super) fn new(rng: &mut Rng, clock: &Clock, depth: usize, paths: &[PathBuf], damages: &Damages) -> DamagedRing {
        let (short, again) = (rng.below(2) * 5, rng.below(2) * 10);
        let faults = Faults { short, again, io_error: 0, stall: 0, write_fails: None, flip: 0 };
        let ring = SimRing::new(rng.next_u64(), clock.clone(), depth, faults);
        let inode = |shard: usize| std::fs::metadata(&paths[shard]).unwrap().ino();
        let damages = damages.iter().map(|(shard, bytes, answer)| (inode(*shard), bytes.clone(), *answer));
        DamagedRing { ring, damages: damages.collect(), struck: HashMap::new(), flips: HashMap::new() }
    }
}

// SAFETY: as the ring inside, whose completions are only given other results: fewer bytes, or an error.
unsafe impl Ring for DamagedRing {
    fn name(&self) -> &'static str {
        "damaged"
    }

    fn capacity(&self) -> usize {
        self.ring.capacity()
    }

    unsafe fn submit(&mut self, read: RawRead) -> Result<()> {
        let inode = std::fs::metadata(format!("/proc/self/fd/{}", read.fd)).unwrap().ino();
        let end = read.offset + u64::from(read.len);
        let strikes = |(file, bytes, _): &&(u64, Range<u64>, Answer)| {
            *file == inode && bytes.start < end && read.offset < bytes.end
        };
        let strikes = |damage: &&(u64, Range<u64>, Answer)| !matches!(damage.2, Answer::Flip) && strikes(damage);
        self.struck.remove(&read.token);
        let flips = |(_, bytes, answer): &(u64, Range<u64>, Answer)| {
            let inside = bytes.start.checked_sub(read.offset).filter(|&at| at < read.len.into())?;
            matches!(answer, Answer::Flip).then_some((read.target.as_ptr() as usize, inside))
        };
        let flips = self.damages.iter().filter(|damage| damage.0 == inode).filter_map(flips).collect();
        self.flips.insert(read.token, flips);
        if let Some((_, bytes, answer)) = self.damages.iter().filter(strikes).min_by_key(|(_, bytes, _)| bytes.start) {
            self.struck.insert(read.token, (bytes.start.saturating_sub(read.offset), *answer));
        }
        // SAFETY: the caller's promises are passed on.
        unsafe { self.ring.submit(read) }
    }

    fn poll(&mut self, want: usize, timeout: Duration, out: &mut Vec<Completion>) -> Result<()> {
        let before = out.len();
        self.ring.poll(want, timeout, out)?;
        for Completion { token, result } in &mut out[before..] {
            for &(target, at) in self.flips.get(token).into_iter().flatten() {
                if i64::from(*result) > at as i64 {
                    // SAFETY: the read has ended and delivered this byte, and who asked for it has not been told.
                    unsafe { *(target as *mut u8).add(at as usize) ^= 0x40 };
                }
            }
            let Some(&(whole, answer)) = self.struck.get(token) else { continue };
            if *result > 0 && i64::from(*result) > whole as i64 {
                *result = match (whole, answer) {
                    (0, Answer::Eio) => -libc::EIO,
                    (0, Answer::End | Answer::Flip) => 0,
                    // A drive may fail the whole command, or give what it could read.
                    (_, Answer::Eio) if token.is_multiple_of(2) => -libc::EIO,
                    (whole, _) => whole as i32,
                };
            }
        }
        Ok(())
    }
}
