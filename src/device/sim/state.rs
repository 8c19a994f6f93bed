//! Everything a simulated device holds, and how it moves on in time.

use std::alloc::{self, Layout};
use std::collections::{BTreeMap, VecDeque};
use std::ptr::NonNull;
use std::time::Duration;

use super::super::{DevicePtr, Fence, RawStream, Seq};
use super::{SimFaults, SimRead, failure};
use crate::error::{Error, Result};
use crate::sim::Rng;

/// What fresh memory holds.
const POISON: u8 = 0xA5;
const ALIGN: usize = 4096;
/// Bit 62 makes device addresses non-canonical: a host that dereferences one faults at once.
const FIRST_ADDRESS: DevicePtr = 1 << 62;

#[derive(Debug)]
pub(super) struct State {
    pub(super) faults: SimFaults,
    pub(super) violations: Vec<String>,
    rng: Rng,
    memory: BTreeMap<DevicePtr, (NonNull<u8>, Layout)>,
    next_address: DevicePtr,
    pinned: BTreeMap<usize, usize>,
    queues: Vec<Queue>,
    fences: Vec<FenceState>,
    copies_started: u64,
    copies_ended: u64,
}

// SAFETY: the pointers in `memory` own their allocations, and whoever has the State has them alone.
unsafe impl Send for State {}

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
    recorded: u64,
    passed: u64,
}

#[derive(Debug)]
pub(super) enum Op {
    Copy { source: usize, target: DevicePtr, bytes: usize, done: usize, fingerprint: u64 },
    Read { source: DevicePtr, bytes: usize, read: SimRead },
    Mark(Seq),
    Record { fence: usize, generation: u64 },
    WaitFence { fence: usize, generation: u64 },
    WaitSeq { queue: usize, seq: Seq },
}

impl State {
    pub(super) fn new(seed: u64) -> State {
        State {
            faults: SimFaults::default(),
            violations: Vec::new(),
            rng: Rng::new(seed),
            memory: BTreeMap::new(),
            next_address: FIRST_ADDRESS,
            pinned: BTreeMap::new(),
            // The first one stands for a consumer without a stream of its own (null).
            queues: vec![Queue::default()],
            fences: Vec::new(),
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

    pub(super) fn record(&mut self, fence: Fence, queue: usize, now: Duration) -> Result<()> {
        let Some(state) = self.fences.get_mut(fence.0 as usize) else {
            return Err(self.violation("record", format!("{fence:?} is no fence of this device")));
        };
        state.recorded += 1;
        let generation = state.recorded;
        self.push(queue, now, Op::Record { fence: fence.0 as usize, generation });
        Ok(())
    }

    pub(super) fn wait_fence(&mut self, queue: usize, fence: Fence, now: Duration) -> Result<()> {
        self.check("wait_fence")?;
        let Some(state) = self.fences.get(fence.0 as usize) else {
            return Err(self.violation("wait_fence", format!("{fence:?} is no fence of this device")));
        };
        let generation = state.recorded;
        self.push(queue, now, Op::WaitFence { fence: fence.0 as usize, generation });
        Ok(())
    }

    // Memory.

    pub(super) fn allocate(&mut self, bytes: usize) -> Result<(DevicePtr, NonNull<u8>)> {
        let no_memory = || Error::Memory { what: "simulated device memory", bytes: bytes as u64, errno: libc::ENOMEM };
        let layout = Layout::from_size_align(bytes.max(1), ALIGN).map_err(|_| no_memory())?;
        // SAFETY: the layout's size is not zero.
        let host = NonNull::new(unsafe { alloc::alloc(layout) }).ok_or_else(no_memory)?;
        // SAFETY: `host` was allocated above with this size.
        unsafe { host.write_bytes(POISON, layout.size()) };
        let base = self.next_address;
        // A gap between allocations, so that a write past one's end never lands in another.
        self.next_address += (bytes as u64).next_multiple_of(ALIGN as u64) + ALIGN as u64;
        self.memory.insert(base, (host, layout));
        Ok((base, host))
    }

    pub(super) fn allocated_bytes(&self) -> usize {
        self.memory.values().map(|(_, layout)| layout.size()).sum()
    }

    pub(super) fn free(&mut self, base: DevicePtr) {
        let Some((host, layout)) = self.memory.remove(&base) else {
            self.violation("free", format!("{base:#x} is not allocated"));
            return;
        };
        let inside = |&at: &DevicePtr| (base..base + layout.size() as u64).contains(&at);
        if self
            .queues
            .iter()
            .flat_map(|queue| &queue.ops)
            .any(|(_, op)| op.device_address().as_ref().is_some_and(inside))
        {
            self.violation("free", format!("{base:#x} is freed while a stream still uses it"));
        }
        // SAFETY: it came from `alloc` with this layout and has just left the table, so it is freed once.
        unsafe { alloc::dealloc(host.as_ptr(), layout) };
    }

    /// The host's address of a piece of live device memory.
    fn locate(&self, address: DevicePtr, bytes: usize) -> Option<NonNull<u8>> {
        let (base, (host, layout)) = self.memory.range(..=address).next_back()?;
        let offset = (address - base) as usize;
        if bytes > layout.size().checked_sub(offset)? {
            return None;
        }
        // SAFETY: `offset` is within the allocation, by the check above.
        Some(unsafe { host.add(offset) })
    }

    pub(super) fn read(&self, source: DevicePtr, target: &mut [u8]) -> bool {
        let Some(source) = self.locate(source, target.len()) else { return false };
        // SAFETY: `locate` says that the source is live for this length; all writes to it go through this State.
        unsafe { source.as_ptr().copy_to(target.as_mut_ptr(), target.len()) };
        true
    }

    pub(super) fn pin(&mut self, base: usize, bytes: usize) -> Result<()> {
        let neighbour = self.pinned.range(..base.saturating_add(bytes)).next_back();
        if neighbour.is_some_and(|(other, other_bytes)| other + other_bytes > base) {
            return Err(failure("pin", "already pinned"));
        }
        self.pinned.insert(base, bytes);
        Ok(())
    }

    pub(super) fn unpin(&mut self, base: usize) {
        let Some(bytes) = self.pinned.remove(&base) else {
            self.violation("unpin", "this memory is not pinned".into());
            return;
        };
        let reads = |op: &Op| matches!(op, Op::Copy { source, .. } if (base..base + bytes).contains(source));
        if self.queues.iter().flat_map(|queue| &queue.ops).any(|(_, op)| reads(op)) {
            self.violation("unpin", "memory is unpinned while a copy still reads it".into());
        }
    }

    fn is_pinned(&self, source: usize, bytes: usize) -> bool {
        let range = self.pinned.range(..=source).next_back();
        range.is_some_and(|(base, pinned_bytes)| source.saturating_add(bytes) <= base + pinned_bytes)
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
        if !self.is_pinned(source, bytes) {
            return Err(self.violation("copy", format!("the source of {bytes} bytes is not pinned")));
        }
        if self.locate(target, bytes).is_none() {
            return Err(self.violation("copy", format!("{bytes} bytes at {target:#x} are outside live memory")));
        }
        self.copies_started += 1;
        let fails = self.faults.copy_fails == Some(self.copies_started);
        if self.faults.mark_fails == Some(self.copies_started) {
            self.queues[queue].mark_fails = true;
        }
        if !fails || self.rng.one_in(2) {
            let fingerprint = fingerprint(source, bytes);
            self.push(queue, now, Op::Copy { source, target, bytes, done: 0, fingerprint });
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
            Op::Copy { .. } if stalled => {
                self.queues[queue].due = None;
                return false;
            }
            Op::Copy { .. } | Op::Read { .. } => {
                if self.queues[queue].due.is_none() {
                    let start = self.queues[queue].idle_since.max(*at);
                    self.queues[queue].due = Some(start + delay(&mut self.rng));
                }
                return false;
            }
            Op::Mark(seq) => self.queues[queue].reached = seq,
            Op::Record { fence, generation } => self.fences[fence].passed = generation,
            Op::WaitFence { fence, generation } if self.fences[fence].passed < generation => return false,
            Op::WaitSeq { queue: other, seq } if self.queues[other].reached < seq => return false,
            Op::WaitFence { .. } | Op::WaitSeq { .. } => {}
        }
        self.queues[queue].ops.pop_front();
        true
    }

    /// One step of an op that takes time: a piece of a copy, or a whole read.
    fn step(&mut self, queue: usize, now: Duration) {
        self.queues[queue].due = None;
        self.queues[queue].idle_since = now;
        let Some((at, op)) = self.queues[queue].ops.pop_front() else { return };
        match op {
            Op::Copy { source, target, bytes, done, fingerprint: before } => {
                let piece = if bytes == done { 0 } else { 1 + self.rng.below((bytes - done) as u64) as usize };
                self.copy_piece(source + done, target + done as u64, piece);
                let done = done + piece;
                if done < bytes {
                    let rest = Op::Copy { source, target, bytes, done, fingerprint: before };
                    self.queues[queue].ops.push_front((at, rest));
                    return;
                }
                self.copies_ended += 1;
                if self.is_pinned(source, bytes) && fingerprint(source, bytes) != before {
                    self.violation("copy", "its source changed while it was in flight".into());
                }
            }
            Op::Read { source, bytes, read } => {
                let mut target = vec![0; bytes];
                if !self.read(source, &mut target) {
                    self.violation("consumer", format!("a read of {source:#x} is outside live memory"));
                }
                *read.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = (true, target);
            }
            other => self.queues[queue].ops.push_front((at, other)),
        }
    }

    fn copy_piece(&mut self, source: usize, target: DevicePtr, bytes: usize) {
        let located = self.locate(target, bytes);
        let (Some(target), true) = (located, self.is_pinned(source, bytes)) else {
            self.violation("copy", "its memory was freed or unpinned while it was in flight".into());
            return;
        };
        // SAFETY: the source is pinned now, which keeps it mapped, and by the contract of `Stream::copy` nobody
        // writes to it; `locate` says that the target is live; device and host memory do not overlap.
        unsafe { std::ptr::copy_nonoverlapping(source as *const u8, target.as_ptr(), bytes) };
    }
}

impl Op {
    fn device_address(&self) -> Option<DevicePtr> {
        match self {
            Op::Copy { target, .. } => Some(*target),
            Op::Read { source, .. } => Some(*source),
            _ => None,
        }
    }
}

impl Drop for State {
    fn drop(&mut self) {
        for (host, layout) in self.memory.values() {
            // SAFETY: what is still in the table was allocated with this layout and not freed.
            unsafe { alloc::dealloc(host.as_ptr(), *layout) };
        }
    }
}

/// Mostly some microseconds, sometimes milliseconds.
fn delay(rng: &mut Rng) -> Duration {
    let range = if rng.one_in(16) { 5_000_000 } else { 100_000 };
    Duration::from_nanos(1 + rng.below(range))
}

/// FNV-1a over 8 bytes at a time.
fn fingerprint(source: usize, bytes: usize) -> u64 {
    // SAFETY: the callers have checked that the source is pinned, which keeps it mapped, and by the contract of
    // `Stream::copy` nobody writes to it.
    let source = unsafe { std::slice::from_raw_parts(source as *const u8, bytes) };
    let mix = |hash: u64, word: u64| (hash ^ word).wrapping_mul(0x0000_0100_0000_01B3);
    let words = source.chunks(8).map(|part| part.iter().fold(0, |word, &byte| word << 8 | u64::from(byte)));
    words.fold(0xCBF2_9CE4_8422_2325, mix)
}
