//! Streams of the simulated device, and what consumers see of them.

use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

use super::super::{DevicePtr, Fence, RawStream, Seq, Stream, Timeline};
use super::{Op, Shared, failure};
use crate::error::Result;
use crate::plan::{Cast, Move};

pub(super) struct SimStream(SimTimeline);

#[derive(Clone)]
struct SimTimeline {
    shared: Arc<Shared>,
    queue: usize,
}

impl SimStream {
    pub(super) fn new(shared: Arc<Shared>, queue: usize) -> SimStream {
        SimStream(SimTimeline { shared, queue })
    }
}

// SAFETY: a queue of `State` is in order, and a mark is reached only when the copies before it have been removed from
// the queue, after their last byte. Errors come from `faults` and never move `reached`.
unsafe impl Stream for SimStream {
    unsafe fn copy(&mut self, source: NonNull<u8>, target: DevicePtr, bytes: usize) -> Result<()> {
        let SimTimeline { shared, queue } = &self.0;
        let now = shared.clock.now();
        shared.current().start_copy(*queue, now, source.as_ptr() as usize, target, bytes)
    }

    unsafe fn copy_out(&mut self, source: DevicePtr, target: NonNull<u8>, bytes: usize) -> Result<()> {
        let SimTimeline { shared, queue } = &self.0;
        let now = shared.clock.now();
        shared.current().start_copy_out(*queue, now, source, target.as_ptr() as usize, bytes)
    }

    fn mark(&mut self) -> Result<Seq> {
        let SimTimeline { shared, queue } = &self.0;
        let now = shared.clock.now();
        shared.current().mark(*queue, now)
    }

    fn reached(&mut self) -> Result<Seq> {
        let state = self.0.shared.current();
        state.check("reached")?;
        Ok(state.reached(self.0.queue))
    }

    fn wait(&mut self, seq: Seq, timeout: Duration) -> Result<Seq> {
        Timeline::wait(&self.0, seq, timeout)?;
        self.reached()
    }

    fn wait_fence(&mut self, fence: Fence) -> Result<()> {
        let SimTimeline { shared, queue } = &self.0;
        let now = shared.clock.now();
        shared.current().wait_fence(*queue, fence, now)
    }

    unsafe fn gather(&mut self, base: DevicePtr, moves: &[Move]) -> Result<()> {
        let SimTimeline { shared, queue } = &self.0;
        let now = shared.clock.now();
        shared.current().start_gather(*queue, now, base, moves, None)
    }

    fn ready_to_cast(&mut self, _cast: Cast) -> Result<(), String> {
        Ok(())
    }

    unsafe fn cast(&mut self, base: DevicePtr, cast: Cast, moves: &[Move]) -> Result<usize> {
        let SimTimeline { shared, queue } = &self.0;
        let now = shared.clock.now();
        shared.current().start_cast(*queue, now, base, cast, moves)
    }

    fn timeline(&self) -> Arc<dyn Timeline> {
        Arc::new(self.0.clone())
    }
}

// SAFETY: true and the end of a consumer's wait both come from `reached` of the same queue; see SimStream.
unsafe impl Timeline for SimTimeline {
    fn wait(&self, seq: Seq, timeout: Duration) -> Result<bool> {
        let reached = self.shared.advance_until(timeout, |state| state.reached(self.queue) >= seq);
        self.shared.lock().check("wait")?;
        Ok(reached)
    }

    unsafe fn wait_on(&self, seq: Seq, consumer: RawStream) -> Result<()> {
        let now = self.shared.clock.now();
        let mut state = self.shared.current();
        state.check("wait_on")?;
        if seq > state.marked(self.queue) {
            return Err(failure("wait_on", "no such mark yet"));
        }
        let queue = state.consumer(consumer)?;
        state.push(queue, now, Op::WaitSeq { queue: self.queue, seq });
        Ok(())
    }
}
