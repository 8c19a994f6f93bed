//! A device for tests: its copies are late, in pieces and ordered, and one seed decides when they happen.

mod memory;
mod state;
mod stream;

use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use self::state::{Op, State};
use self::stream::SimStream;
use super::{DeviceKind, DevicePtr, Fence, RawDevice, RawMemory, RawStream, Stream};
use crate::error::{Error, Result};
use crate::sim::Clock;

/// Faults of a [`SimDevice`]; none by default. Copies are counted from 1, over all streams of the device.
#[derive(Debug, Clone, Copy, Default)]
pub struct SimFaults {
    /// The call that starts this copy fails; whether the copy happens all the same is left to chance.
    pub copy_fails: Option<u64>,
    /// The first mark behind this copy fails.
    pub mark_fails: Option<u64>,
    /// From this copy on, nothing ends.
    pub stalls: Option<u64>,
    /// From this copy on, every call fails as on a lost device. Copies still read their sources, late.
    pub lost: Option<u64>,
}

/// The simulated device.
///
/// A copy reads its source when it happens, not when it is started, so memory that is reused too early delivers wrong
/// bytes, as on hardware. Addresses are not those of the host and are never used twice. What the callers did against
/// the contracts of [`RawDevice`] and [`Stream`] is collected in [`violations`](SimDevice::violations).
///
/// On a simulated clock nothing sleeps: waits move the clock on.
#[derive(Debug)]
pub struct SimDevice {
    shared: Arc<Shared>,
    direct: bool,
    numa_node: Option<u32>,
}

#[derive(Debug)]
struct Shared {
    clock: Clock,
    state: Mutex<State>,
}

/// What a consumer read on the device; see [`SimDevice::consumer_read`].
#[derive(Debug, Clone, Default)]
pub struct SimRead(Arc<Mutex<(bool, Vec<u8>)>>);

impl SimRead {
    /// The bytes, once the read has happened.
    pub fn bytes(&self) -> Option<Vec<u8>> {
        let read = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        read.0.then(|| read.1.clone())
    }
}

impl SimDevice {
    /// A device whose delays and pieces come from `seed` and whose time is `clock`.
    pub fn new(seed: u64, clock: Clock) -> SimDevice {
        let shared = Arc::new(Shared { clock, state: Mutex::new(State::new(seed)) });
        SimDevice { shared, direct: false, numa_node: None }
    }

    /// The same on a NUMA node.
    pub fn on_node(mut self, node: u32) -> SimDevice {
        self.numa_node = Some(node);
        self
    }

    /// The same with memory that a ring can write into ([`RawMemory::host`]).
    pub fn direct(mut self) -> SimDevice {
        self.direct = true;
        self
    }

    /// Sets the faults from now on.
    pub fn set_faults(&self, faults: SimFaults) {
        self.shared.lock().faults = faults;
    }

    /// What callers did that hardware would punish, in words: empty after a correct run.
    pub fn violations(&self) -> Vec<String> {
        self.shared.lock().violations.clone()
    }

    /// Bytes of device memory that are allocated now.
    pub fn allocated_bytes(&self) -> usize {
        self.shared.lock().memory.allocated_bytes()
    }

    /// Bytes of host memory that are pinned now.
    pub fn pinned_bytes(&self) -> usize {
        self.shared.lock().memory.pinned_bytes()
    }

    /// How many copies have been started, over all streams.
    pub fn copies_started(&self) -> u64 {
        self.shared.lock().copies_started
    }

    /// Fences that were made and not given back.
    pub fn live_fences(&self) -> usize {
        self.shared.lock().live_fences()
    }

    /// A new stream of a consumer's own.
    pub fn consumer_stream(&self) -> RawStream {
        RawStream(std::ptr::without_provenance_mut(self.shared.lock().add_queue()))
    }

    /// Stores bytes in device memory at once, as a program would have computed them there.
    ///
    /// # Panics
    /// If they are outside live memory.
    pub fn store(&self, target: DevicePtr, bytes: &[u8]) {
        assert!(self.shared.lock().memory.store(target, bytes), "a store to {target:#x} is outside live memory");
    }

    /// Puts a read of device memory on a consumer's stream, as a kernel that uses a batch would read it: late.
    pub fn consumer_read(&self, consumer: RawStream, source: DevicePtr, bytes: usize) -> Result<SimRead> {
        let read = SimRead::default();
        let now = self.shared.clock.now();
        let mut state = self.shared.lock();
        let queue = state.consumer(consumer)?;
        state.push(queue, now, Op::Read { source, bytes, read: read.clone() });
        Ok(read)
    }

    /// Lets time pass until nothing more happens by itself.
    pub fn settle(&self) {
        self.shared.advance_until(Duration::MAX, |_| false);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything that has happened by now.
    fn current(&self) -> MutexGuard<'_, State> {
        let now = self.clock.now();
        let mut state = self.lock();
        state.advance(now);
        state
    }

    /// Moves time on, event by event, until `done`, the deadline, or the end of all events; true if `done`.
    fn advance_until(&self, timeout: Duration, done: impl Fn(&State) -> bool) -> bool {
        let deadline = self.clock.now().saturating_add(timeout);
        loop {
            let now = self.clock.now();
            let mut state = self.lock();
            state.advance(now);
            if done(&state) {
                return true;
            }
            let next = match state.next_due() {
                Some(due) => due.min(deadline),
                None if deadline == Duration::MAX => return false,
                None => deadline,
            };
            drop(state);
            if now >= deadline {
                return false;
            }
            self.clock.advance(next.saturating_sub(now));
            if self.clock.now() == now {
                std::thread::yield_now();
            }
        }
    }
}

// SAFETY: memory lives in `State` from `allocate` to `free`. Every copy goes through `State`, which reads only sources
// that are pinned at that moment and writes only to targets that are allocated at that moment.
unsafe impl RawDevice for SimDevice {
    fn name(&self) -> String {
        "sim".into()
    }

    fn kind(&self) -> DeviceKind {
        DeviceKind::Sim
    }

    fn allocate(&self, bytes: usize) -> Result<RawMemory> {
        let (base, host) = self.shared.lock().memory.allocate(bytes)?;
        Ok(RawMemory { base, bytes, host: self.direct.then_some(host), pages: "simulated" })
    }

    unsafe fn free(&self, memory: RawMemory) {
        self.shared.current().free(memory.base);
    }

    unsafe fn pin(&self, base: NonNull<u8>, bytes: usize) -> Result<()> {
        self.shared.lock().memory.pin(base.as_ptr() as usize, bytes)
    }

    unsafe fn unpin(&self, base: NonNull<u8>) -> Result<()> {
        self.shared.current().unpin(base.as_ptr() as usize);
        Ok(())
    }

    fn numa_node(&self) -> Option<u32> {
        self.numa_node
    }

    fn stream(&self) -> Result<Box<dyn Stream>> {
        let queue = self.shared.lock().add_queue();
        Ok(Box::new(SimStream::new(self.shared.clone(), queue)))
    }

    fn fence(&self) -> Result<Fence> {
        Ok(self.shared.lock().add_fence())
    }

    fn free_fence(&self, fence: Fence) {
        self.shared.lock().free_fence(fence);
    }

    unsafe fn record(&self, fence: Fence, consumer: RawStream) -> Result<()> {
        let mut state = self.shared.current();
        let queue = state.consumer(consumer)?;
        state.record(fence, queue, self.shared.clock.now())
    }

    unsafe fn read_back(&self, source: DevicePtr, target: &mut [u8]) -> Result<()> {
        let mut state = self.shared.current();
        if !state.memory.read(source, target) {
            return Err(state.violation("read_back", format!("read of {source:#x} outside live memory")));
        }
        Ok(())
    }
}

fn failure(call: &'static str, name: impl Into<String>) -> Error {
    Error::Device { device: "sim".into(), call, code: 1, name: name.into(), remedy: String::new() }
}
