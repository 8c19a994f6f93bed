//! What happens when.

use std::sync::PoisonError;
use std::time::Duration;

use super::copies::bytes_of;
use super::{Op, State};
use crate::device::DevicePtr;
use crate::device::sim::SimRead;
use crate::plan::{Cast, Move};
use crate::sim::Rng;

impl State {
    /// Lets everything happen that is due by `now`, in the order of time.
    pub(in crate::device::sim) fn advance(&mut self, now: Duration) {
        loop {
            while (0..self.queues.len()).any(|queue| self.pass(queue)) {}
            let Some((due, queue)) = self.earliest().filter(|&(due, _)| due <= now) else { return };
            self.step(queue, due);
        }
    }

    /// When the next thing happens by itself.
    pub(in crate::device::sim) fn next_due(&self) -> Option<Duration> {
        self.earliest().map(|(due, _)| due)
    }

    fn earliest(&self) -> Option<(Duration, usize)> {
        let due = self.queues.iter().enumerate().filter_map(|(index, queue)| Some((queue.due?, index)));
        due.min()
    }

    /// Passes the first op of a queue if it takes no time and nothing holds it up; gives it a time if it takes some.
    fn pass(&mut self, queue: usize) -> bool {
        let stalled = self.faults.stalls.is_some_and(|n| self.copies_ended + 1 >= n);
        let Some((at, op)) = self.queues[queue].ops.front() else { return false };
        match *op {
            Op::Copy { .. } | Op::CopyOut { .. } | Op::Gather { .. } if stalled => {
                self.queues[queue].due = None;
                return false;
            }
            Op::Copy { .. } | Op::CopyOut { .. } | Op::Gather { .. } | Op::Read { .. } => {
                if self.queues[queue].due.is_none() {
                    let start = self.queues[queue].idle_since.max(*at);
                    self.queues[queue].due = Some(start + delay(&mut self.rng));
                }
                return false;
            }
            Op::Mark(seq) => self.queues[queue].reached = seq,
            Op::Record { record } => self.records[record] = true,
            Op::WaitFence { record } if !self.records[record] => return false,
            Op::WaitSeq { queue: other, seq } if self.queues[other].reached < seq => return false,
            Op::WaitFence { .. } | Op::WaitSeq { .. } => {}
        }
        self.queues[queue].ops.pop_front();
        true
    }

    /// One step of an op that takes time: a piece of a copy or gather, or a whole read.
    fn step(&mut self, queue: usize, now: Duration) {
        self.queues[queue].due = None;
        self.queues[queue].idle_since = now;
        let Some((at, mut op)) = self.queues[queue].ops.pop_front() else { return };
        let over = match &mut op {
            Op::Copy { source, target, bytes, done, started_with } => {
                self.copy(*source, *target, *bytes, done, started_with)
            }
            Op::CopyOut { source, target, bytes, done, found } => self.copy_out(*source, *target, *bytes, done, found),
            Op::Gather { moves, cast } => self.gather(moves, *cast),
            Op::Read { source, bytes, read } => {
                self.read(*source, *bytes, read);
                return;
            }
            Op::Mark(_) | Op::Record { .. } | Op::WaitFence { .. } | Op::WaitSeq { .. } => false,
        };
        if over {
            self.copies_ended += 1;
        } else {
            self.queues[queue].ops.push_front((at, op));
        }
    }

    /// How much of `left` bytes a step copies.
    fn piece(&mut self, left: usize) -> usize {
        if left == 0 { 0 } else { 1 + self.rng.below(left as u64) as usize }
    }

    /// A piece of a copy; true with the last.
    fn copy(&mut self, source: usize, target: DevicePtr, bytes: usize, done: &mut usize, started_with: &[u8]) -> bool {
        let piece = self.piece(bytes - *done);
        if !self.memory.copy(source + *done, target + *done as u64, piece) {
            self.violation("copy", "its memory was freed or unpinned while it was in flight".into());
        }
        *done += piece;
        let over = *done == bytes;
        if over && self.memory.pinned(source, bytes).is_some_and(|now| now != started_with) {
            self.violation("copy", "its source changed while it was in flight".into());
        }
        over
    }

    /// The other way.
    fn copy_out(&mut self, source: DevicePtr, target: usize, bytes: usize, done: &mut usize, found: &[u8]) -> bool {
        // What is not copied yet must be as it was found: the memory is the copy's alone.
        if self.memory.pinned(target + *done, bytes - *done).is_some_and(|now| now != &found[*done..]) {
            self.violation("copy", "its target was written to while it was in flight".into());
        }
        let piece = self.piece(bytes - *done);
        if !self.memory.copy_out(source + *done as u64, target + *done, piece) {
            self.violation("copy", "its memory was freed or unpinned while it was in flight".into());
        }
        *done += piece;
        *done == bytes
    }

    /// Some moves, and a piece of one more; true with the last.
    fn gather(&mut self, moves: &mut Vec<Move>, cast: Option<Cast>) -> bool {
        for _ in 0..self.rng.below(moves.len() as u64 + 1) {
            let Some(whole) = moves.pop() else { break };
            self.carry_out(whole, cast);
        }
        if let Some(Move { source, target, bytes }) = moves.pop() {
            let item = cast.map_or(1, |cast| cast.from().bits() / 8);
            let piece = self.piece((bytes / item) as usize) as u64 * item;
            self.carry_out(Move { source, target, bytes: piece }, cast);
            if piece < bytes {
                let target = target + bytes_of(cast, piece);
                moves.push(Move { source: source + piece, target, bytes: bytes - piece });
            }
        }
        moves.is_empty()
    }

    fn carry_out(&mut self, Move { source, target, bytes }: Move, cast: Option<Cast>) {
        let done = match cast {
            None => self.memory.copy_within(source, target, bytes as usize),
            Some(cast) => self.memory.cast_within(source, target, bytes as usize, cast),
        };
        if !done {
            self.violation("gather", "its memory was freed while it was in flight".into());
        }
    }

    fn read(&mut self, source: DevicePtr, bytes: usize, read: &SimRead) {
        let mut target = vec![0; bytes];
        if !self.memory.read(source, &mut target) {
            self.violation("consumer", format!("a read of {source:#x} is outside live memory"));
        }
        *read.0.lock().unwrap_or_else(PoisonError::into_inner) = (true, target);
    }
}

/// Mostly some microseconds, sometimes milliseconds.
fn delay(rng: &mut Rng) -> Duration {
    let range = if rng.one_in(16) { 5_000_000 } else { 100_000 };
    Duration::from_nanos(1 + rng.below(range))
}
