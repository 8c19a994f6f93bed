//! Everything a simulated device holds, and how it moves on in time.

use std::collections::VecDeque;
use std::time::Duration;

use super::super::{DevicePtr, Fence, RawStream, Seq};
use super::memory::Memory;
use super::{SimFaults, SimRead, failure};
use crate::error::{Error, Result};
use crate::plan::{Cast, Move};
use crate::sim::Rng;

#[derive(Debug)]
pub(super) struct State {
    pub(super) faults: SimFaults,
    pub(super) violations: Vec<String>,
    pub(super) memory: Memory,
    rng: Rng,
    queues: Vec<Queue>,
    fences: Vec<FenceState>,
    /// Whether each record of a fence has been passed.
    records: Vec<bool>,
    pub(super) copies_started: u64,
    copies_ended: u64,
}

#[derive(Debug, Default)]
struct Queue {
    ops: VecDeque<(Duration, Op)>,
    /// When the last op ended.
    idle_since: Duration,
    /// When the next step of the first op happens, if time alone decides that.
    due: Option<Duration>,
    marked: Seq,
    reached: Seq,
    /// Whether the next mark fails.
    mark_fails: bool,
}

#[derive(Debug, Default)]
struct FenceState {
    /// The last record, by its place in `State::records`.
    recorded: Option<usize>,
    freed: bool,
}

#[derive(Debug)]
pub(super) enum Op {
    Copy {
        source: usize,
        target: DevicePtr,
        bytes: usize,
        done: usize,
        started_with: Vec<u8>,
    },
    CopyOut {
        source: DevicePtr,
        target: usize,
        bytes: usize,
        done: usize,
        found: Vec<u8>,
    },
    /// What is left of the moves, the last one first, as addresses; and what becomes of their elements.
    Gather {
        moves: Vec<Move>,
        cast: Option<Cast>,
    },
    Read {
        source: DevicePtr,
        bytes: usize,
        read: SimRead,
    },
    Mark(Seq),
    Record {
        record: usize,
    },
    WaitFence {
        record: usize,
    },
    WaitSeq {
        queue: usize,
        seq: Seq,
    },
}

impl State {
    pub(super) fn new(seed: u64) -> State {
        State {
            faults: SimFaults::default(),
            violations: Vec::new(),
            memory: Memory::new(),
            rng: Rng::new(seed),
            // The first one stands for a consumer without a stream of its own (null).
            queues: vec![Queue::default()],
            fences: Vec::new(),
            records: Vec::new(),
            copies_started: 0,
            copies_ended: 0,
        }
    }

    /// Notes what the caller did wrong.
    pub(super) fn violation(&mut self, call: &'static str, what: String) -> Error {
        self.violations.push(format!("{call}: {what}"));
        failure(call, what)
    }

    /// Fails once the device is lost.
    pub(super) fn check(&self, call: &'static str) -> Result<()> {
        match self.faults.lost {
            Some(n) if self.copies_started >= n => Err(failure(call, "simulated loss of the device")),
            _ => Ok(()),
        }
    }

    // Queues and fences.

    pub(super) fn add_queue(&mut self) -> usize {
        self.queues.push(Queue::default());
        self.queues.len() - 1
    }

    pub(super) fn consumer(&mut self, stream: RawStream) -> Result<usize> {
        match stream.0 as usize {
            queue if queue < self.queues.len() => Ok(queue),
            other => Err(self.violation("consumer", format!("{other:#x} is no stream of this device"))),
        }
    }

    pub(super) fn push(&mut self, queue: usize, now: Duration, op: Op) {
        self.queues[queue].ops.push_back((now, op));
    }

    pub(super) fn marked(&self, queue: usize) -> Seq {
        self.queues[queue].marked
    }

    pub(super) fn reached(&self, queue: usize) -> Seq {
        self.queues[queue].reached
    }

    pub(super) fn mark(&mut self, queue: usize, now: Duration) -> Result<Seq> {
        self.check("mark")?;
        if std::mem::take(&mut self.queues[queue].mark_fails) {
            return Err(failure("mark", "simulated failure"));
        }
        let seq = Seq(self.queues[queue].marked.0 + 1);
        self.queues[queue].marked = seq;
        self.push(queue, now, Op::Mark(seq));
        Ok(seq)
    }

    pub(super) fn add_fence(&mut self) -> Fence {
        self.fences.push(FenceState::default());
        Fence(self.fences.len() as u64 - 1)
    }

    pub(super) fn free_fence(&mut self, fence: Fence) {
        match self.fences.get_mut(fence.0 as usize) {
            Some(state) if !state.freed => state.freed = true,
            _ => drop(self.violation("free_fence", format!("{fence:?} is no fence of this device"))),
        }
    }

    /// Fences that were not given back.
    pub(super) fn live_fences(&self) -> usize {
        self.fences.iter().filter(|state| !state.freed).count()
    }

    pub(super) fn record(&mut self, fence: Fence, queue: usize, now: Duration) -> Result<()> {
        let Some(state) = self.fences.get_mut(fence.0 as usize).filter(|state| !state.freed) else {
            return Err(self.violation("record", format!("{fence:?} is no fence of this device")));
        };
        // A wait is for the record that it saw, whatever is recorded later on whatever stream.
        let record = self.records.len();
        state.recorded = Some(record);
        self.records.push(false);
        self.push(queue, now, Op::Record { record });
        Ok(())
    }

    pub(super) fn wait_fence(&mut self, queue: usize, fence: Fence, now: Duration) -> Result<()> {
        self.check("wait_fence")?;
        let Some(state) = self.fences.get(fence.0 as usize).filter(|state| !state.freed) else {
            return Err(self.violation("wait_fence", format!("{fence:?} is no fence of this device")));
        };
        if let Some(record) = state.recorded {
            self.push(queue, now, Op::WaitFence { record });
        }
        Ok(())
    }

    // Memory.

    pub(super) fn free(&mut self, base: DevicePtr) {
        let Some(bytes) = self.memory.free(base) else {
            self.violation("free", format!("{base:#x} is not allocated"));
            return;
        };
        if self.ops().any(|op| op.device_address().is_some_and(|at| (base..base + bytes as u64).contains(&at))) {
            self.violation("free", format!("{base:#x} is freed while a stream still uses it"));
        }
    }

    pub(super) fn unpin(&mut self, base: usize) {
        let Some(bytes) = self.memory.unpin(base) else {
            self.violation("unpin", "this memory is not pinned".into());
            return;
        };
        if self.ops().any(|op| op.host_address().is_some_and(|at| (base..base + bytes).contains(&at))) {
            self.violation("unpin", "memory is unpinned while a copy still uses it".into());
        }
    }

    fn ops(&self) -> impl Iterator<Item = &Op> {
        self.queues.iter().flat_map(|queue| &queue.ops).map(|(_, op)| op)
    }

    // Copies.

    pub(super) fn start_copy(
        &mut self,
        queue: usize,
        now: Duration,
        source: usize,
        target: DevicePtr,
        bytes: usize,
    ) -> Result<()> {
        let Some(started_with) = self.memory.pinned(source, bytes).map(<[u8]>::to_vec) else {
            return Err(self.violation("copy", format!("the source of {bytes} bytes is not pinned")));
        };
        if self.memory.locate(target, bytes).is_none() {
            return Err(self.violation("copy", format!("{bytes} bytes at {target:#x} are outside live memory")));
        }
        self.start(queue, now, Op::Copy { source, target, bytes, done: 0, started_with })
    }

    pub(super) fn start_copy_out(
        &mut self,
        queue: usize,
        now: Duration,
        source: DevicePtr,
        target: usize,
        bytes: usize,
    ) -> Result<()> {
        let Some(found) = self.memory.pinned(target, bytes).map(<[u8]>::to_vec) else {
            return Err(self.violation("copy", format!("the target of {bytes} bytes is not pinned")));
        };
        if self.memory.locate(source, bytes).is_none() {
            return Err(self.violation("copy", format!("{bytes} bytes at {source:#x} are outside live memory")));
        }
        self.start(queue, now, Op::CopyOut { source, target, bytes, done: 0, found })
    }

    /// Starts some of the moves; says how many. None only where a cast is on its way already, if chance has it so.
    pub(super) fn start_cast(
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
    pub(super) fn start_gather(
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

    // Time.

    /// Lets everything happen that is due by `now`, in the order of time.
    pub(super) fn advance(&mut self, now: Duration) {
        loop {
            while (0..self.queues.len()).any(|queue| self.pass(queue)) {}
            let Some((due, queue)) = self.earliest().filter(|&(due, _)| due <= now) else { return };
            self.step(queue, due);
        }
    }

    /// When the next thing happens by itself.
    pub(super) fn next_due(&self) -> Option<Duration> {
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

    /// How much of `left` bytes a step copies.
    fn piece(&mut self, left: usize) -> usize {
        if left == 0 { 0 } else { 1 + self.rng.below(left as u64) as usize }
    }

    fn gather(&mut self, Move { source, target, bytes }: Move, cast: Option<Cast>) {
        let done = match cast {
            None => self.memory.copy_within(source, target, bytes as usize),
            Some(cast) => self.memory.cast_within(source, target, bytes as usize, cast),
        };
        if !done {
            self.violation("gather", "its memory was freed while it was in flight".into());
        }
    }

    /// One step of an op that takes time: a piece of a copy or gather, or a whole read.
    fn step(&mut self, queue: usize, now: Duration) {
        self.queues[queue].due = None;
        self.queues[queue].idle_since = now;
        let Some((at, op)) = self.queues[queue].ops.pop_front() else { return };
        match op {
            Op::Copy { source, target, bytes, done, started_with } => {
                let piece = self.piece(bytes - done);
                if !self.memory.copy(source + done, target + done as u64, piece) {
                    self.violation("copy", "its memory was freed or unpinned while it was in flight".into());
                }
                let done = done + piece;
                if done < bytes {
                    let rest = Op::Copy { source, target, bytes, done, started_with };
                    self.queues[queue].ops.push_front((at, rest));
                    return;
                }
                self.copies_ended += 1;
                if self.memory.pinned(source, bytes).is_some_and(|now| now != started_with) {
                    self.violation("copy", "its source changed while it was in flight".into());
                }
            }
            Op::CopyOut { source, target, bytes, done, found } => {
                // What is not copied yet must be as it was found: the memory is the copy's alone.
                if self.memory.pinned(target + done, bytes - done).is_some_and(|now| now != &found[done..]) {
                    self.violation("copy", "its target was written to while it was in flight".into());
                }
                let piece = self.piece(bytes - done);
                if !self.memory.copy_out(source + done as u64, target + done, piece) {
                    self.violation("copy", "its memory was freed or unpinned while it was in flight".into());
                }
                let done = done + piece;
                if done < bytes {
                    let rest = Op::CopyOut { source, target, bytes, done, found };
                    self.queues[queue].ops.push_front((at, rest));
                    return;
                }
                self.copies_ended += 1;
            }
            Op::Gather { mut moves, cast } => {
                // Some moves and a piece of one more.
                for _ in 0..self.rng.below(moves.len() as u64 + 1) {
                    let Some(whole) = moves.pop() else { break };
                    self.gather(whole, cast);
                }
                if let Some(Move { source, target, bytes }) = moves.pop() {
                    let item = cast.map_or(1, |cast| cast.from().bits() / 8);
                    let piece = self.piece((bytes / item) as usize) as u64 * item;
                    self.gather(Move { source, target, bytes: piece }, cast);
                    if piece < bytes {
                        let target = target + bytes_of(cast, piece);
                        moves.push(Move { source: source + piece, target, bytes: bytes - piece });
                    }
                }
                if !moves.is_empty() {
                    self.queues[queue].ops.push_front((at, Op::Gather { moves, cast }));
                    return;
                }
                self.copies_ended += 1;
            }
            Op::Read { source, bytes, read } => {
                let mut target = vec![0; bytes];
                if !self.memory.read(source, &mut target) {
                    self.violation("consumer", format!("a read of {source:#x} is outside live memory"));
                }
                *read.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = (true, target);
            }
            other => self.queues[queue].ops.push_front((at, other)),
        }
    }
}

/// What so many bytes of a source take at the target.
fn bytes_of(cast: Option<Cast>, bytes: u64) -> u64 {
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

impl Op {
    fn device_address(&self) -> Option<DevicePtr> {
        match self {
            Op::Copy { target, .. } => Some(*target),
            Op::CopyOut { source, .. } | Op::Read { source, .. } => Some(*source),
            // All of them lie in one allocation.
            Op::Gather { moves, .. } => moves.last().map(|last| last.target),
            _ => None,
        }
    }

    fn host_address(&self) -> Option<usize> {
        match self {
            Op::Copy { source, .. } => Some(*source),
            Op::CopyOut { target, .. } => Some(*target),
            _ => None,
        }
    }
}

/// Mostly some microseconds, sometimes milliseconds.
fn delay(rng: &mut Rng) -> Duration {
    let range = if rng.one_in(16) { 5_000_000 } else { 100_000 };
    Duration::from_nanos(1 + rng.below(range))
}
