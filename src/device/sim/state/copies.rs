//! What is put on a stream, and whether that may be.

use std::time::Duration;

use super::{Op, State};
use crate::device::DevicePtr;
use crate::device::sim::failure;
use crate::error::Result;
use crate::plan::{Cast, Move};

impl State {
    pub(in crate::device::sim) fn start_copy(
        &mut self,
        queue: usize,
        now: Duration,
        source: usize,
        target: DevicePtr,
        bytes: usize,
    ) -> Result<()> {
        let started_with = self.ends_of_copy("source", source, target, bytes)?;
        self.start(queue, now, Op::Copy { source, target, bytes, done: 0, started_with })
    }

    pub(in crate::device::sim) fn start_copy_out(
        &mut self,
        queue: usize,
        now: Duration,
        source: DevicePtr,
        target: usize,
        bytes: usize,
    ) -> Result<()> {
        let found = self.ends_of_copy("target", target, source, bytes)?;
        self.start(queue, now, Op::CopyOut { source, target, bytes, done: 0, found })
    }

    /// What lies in the host's end of a copy, which must be pinned; the device's must be live.
    fn ends_of_copy(&mut self, end: &str, host: usize, device: DevicePtr, bytes: usize) -> Result<Vec<u8>> {
        let Some(there) = self.memory.pinned(host, bytes).map(<[u8]>::to_vec) else {
            return Err(self.violation("copy", format!("the {end} of {bytes} bytes is not pinned")));
        };
        if self.memory.locate(device, bytes).is_none() {
            return Err(self.violation("copy", format!("{bytes} bytes at {device:#x} are outside live memory")));
        }
        Ok(there)
    }

    /// Starts some of the moves; says how many. None only where a cast is on its way already, if chance has it so.
    pub(in crate::device::sim) fn start_cast(
        &mut self,
        queue: usize,
        now: Duration,
        base: DevicePtr,
        cast: Cast,
        moves: &[Move],
    ) -> Result<usize> {
        let casting = self.queues[queue].ops.iter().any(|(_, op)| matches!(op, Op::Gather { cast: Some(_), .. }));
        if casting && self.rng.one_in(2) {
            return Ok(0);
        }
        let started = if self.rng.one_in(3) { 1 + self.rng.below(moves.len() as u64) as usize } else { moves.len() };
        let (from, to) = (cast.from().bits() / 8, cast.to().bits() / 8);
        if moves.iter().any(|one| !one.bytes.is_multiple_of(from) || !(base + one.target).is_multiple_of(to)) {
            return Err(self.violation("cast", "half an element, or a target where none may begin".into()));
        }
        self.start_gather(queue, now, base, &moves[..started], Some(cast))?;
        Ok(started)
    }

    /// Counts as one copy.
    pub(in crate::device::sim) fn start_gather(
        &mut self,
        queue: usize,
        now: Duration,
        base: DevicePtr,
        moves: &[Move],
        cast: Option<Cast>,
    ) -> Result<()> {
        let addresses = |at: &Move| Move { source: base + at.source, target: base + at.target, bytes: at.bytes };
        let moves: Vec<Move> = moves.iter().rev().map(addresses).collect();
        let inside = |at: DevicePtr, bytes: u64| self.memory.locate(at, bytes as usize).is_some();
        let wide = |at: &Move| bytes_of(cast, at.bytes);
        if !moves.iter().all(|at| at.bytes > 0 && inside(at.source, at.bytes) && inside(at.target, wide(at))) {
            return Err(self.violation("gather", "a move of nothing, or from or to what is not live memory".into()));
        }
        if overlap(&moves, cast) {
            return Err(self.violation("gather", "a target overlaps a source or another target".into()));
        }
        self.start(queue, now, Op::Gather { moves, cast })
    }

    fn start(&mut self, queue: usize, now: Duration, copy: Op) -> Result<()> {
        self.copies_started += 1;
        let fails = self.faults.copy_fails == Some(self.copies_started);
        if self.faults.mark_fails == Some(self.copies_started) {
            self.queues[queue].mark_fails = true;
        }
        if !fails || self.rng.one_in(2) {
            self.push(queue, now, copy);
        }
        self.check("copy")?;
        if fails { Err(failure("copy", "simulated failure")) } else { Ok(()) }
    }
}

/// What so many bytes of a source take at the target.
pub(super) fn bytes_of(cast: Option<Cast>, bytes: u64) -> u64 {
    cast.map_or(bytes, |cast| cast.bytes_of(bytes))
}

/// Whether a target meets a source or another target.
fn overlap(moves: &[Move], cast: Option<Cast>) -> bool {
    let ends = |at: u64, bytes: u64| (at, at + bytes);
    let mut targets: Vec<(u64, u64)> = moves.iter().map(|one| ends(one.target, bytes_of(cast, one.bytes))).collect();
    targets.sort_unstable();
    let meets = |(start, end): (u64, u64)| {
        let next = targets.partition_point(|&(_, target_end)| target_end <= start);
        targets.get(next).is_some_and(|&(target, _)| target < end)
    };
    targets.windows(2).any(|pair| pair[1].0 < pair[0].1) || moves.iter().any(|one| meets(ends(one.source, one.bytes)))
}
