//! Everything a simulated device holds, and how it moves on in time.

mod copies;
mod time;

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
