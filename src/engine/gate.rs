//! Where the storage writes into a device's memory by itself: the device's own part of a batch.
//!
//! ```text
//!   landed: the region, whole ---> gather started, if there is something to gather ---> finished, handed over
//!   back from the consumer, or given up ---> gate: its fence, its gather ---> passed: the region may be written again
//! ```
//!
//! No stream orders what the storage writes: a region is free only once what was on streams when it came back is done.

use std::sync::Arc;
use std::time::Duration;

use super::stage::{Copying, cast, gather};
use crate::batch::Body;
use crate::device::{CopyQueue, Device, Seq, Timeline};
use crate::error::Result;
use crate::plan::Cast;
use crate::stats::Fallback;

/// A stream that carries gathers, and behind them and the consumers' fences the batches that come back.
pub(crate) struct Gate {
    queue: CopyQueue<Passing>,
    passed: Vec<Body>,
}

#[allow(clippy::large_enum_variant, reason = "the queue is allocated once; a box would be allocated for every batch")]
enum Passing {
    Gather(#[allow(dead_code, reason = "held, not used")] Copying),
    Body(Body),
}

impl From<Copying> for Passing {
    fn from(copying: Copying) -> Passing {
        Passing::Gather(copying)
    }
}

impl Gate {
    /// For at most `batches`, and as many gathers and casts. Dropping it waits until `deadline` for what is on the stream, then
    /// leaks it.
    pub(crate) fn new(device: &Device, batches: usize, gathers: usize, deadline: Duration) -> Result<Gate> {
        let queue = CopyQueue::new(device.raw().stream()?, batches + gathers).drop_wait(deadline);
        Ok(Gate { queue, passed: Vec::with_capacity(batches) })
    }

    pub(crate) fn timeline(&self) -> Arc<dyn Timeline> {
        self.queue.timeline()
    }

    pub(crate) fn ready_to_gather(&mut self) -> Option<Fallback> {
        self.queue.ready_to_gather()
    }

    pub(crate) fn ready_to_cast(&mut self, cast: Cast) -> Result<(), String> {
        self.queue.ready_to_cast(cast)
    }

    /// Nothing is on the stream.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.in_flight() == 0
    }

    /// What is on the stream waits for a consumer's.
    pub(super) fn is_held_up(&self) -> bool {
        self.queue.is_held_up()
    }

    /// Starts the gather of a batch whose reads have all ended; gives the point behind it.
    pub(super) fn gather(&mut self, body: &Body) -> Result<Seq> {
        gather(&mut self.queue, body)
    }

    /// Starts casts of a batch behind its gather, as far as there is room; see [`cast`].
    pub(super) fn cast(&mut self, body: &Body, at: &mut (usize, usize)) -> Result<(Seq, u64)> {
        cast(&mut self.queue, body, at)
    }

    /// Takes a batch that streams may still use: behind its fence, if there is one, and behind its gather.
    pub(super) fn put(&mut self, body: Body) -> Result<()> {
        if body.fenced {
            self.queue.wait_fence(body.fence)?; // failed: the body goes, its memory is freed behind the fence
        }
        // SAFETY: nothing is moved.
        unsafe { self.queue.gather(Passing::Body(body), 0, &[]) }.map(drop)
    }

    /// A batch that no stream uses any more, if there is one.
    pub(super) fn passed(&mut self) -> Result<Option<Body>> {
        if self.passed.is_empty() {
            let passed = &mut self.passed;
            self.queue.reap(|passing| {
                if let Passing::Body(mut body) = passing {
                    body.fenced = false;
                    passed.push(body);
                }
            })?;
        }
        Ok(self.passed.pop())
    }

    /// Waits for the oldest on the stream, no longer than `timeout`.
    pub(super) fn wait(&mut self, timeout: Duration) -> Result<()> {
        self.queue.wait_oldest(timeout).map(drop)
    }
}
