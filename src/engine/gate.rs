//! Batches that consumers' streams still use, where the storage writes into their memory by itself.
//!
//! No copy stream orders those writes behind the consumers': a region is free only once its fence is passed.

use std::collections::VecDeque;
use std::time::Duration;

use crate::batch::Body;
use crate::device::{Device, Seq, Stream};
use crate::error::Result;

/// The way back of released batches, in order.
pub(crate) struct Gate {
    /// Carries nothing but waits for fences, and marks.
    stream: Box<dyn Stream>,
    waiting: VecDeque<(Seq, Body)>,
}

/// Of a fence that the device did not take: its batch stays here, and its memory is freed behind the fence, or leaked.
const NEVER: Seq = Seq(u64::MAX);

impl Gate {
    /// For at most `batches`.
    pub(crate) fn new(device: &Device, batches: usize) -> Result<Gate> {
        Ok(Gate { stream: device.raw().stream()?, waiting: VecDeque::with_capacity(batches) })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Takes a batch whose fence is recorded.
    pub(super) fn put(&mut self, body: Body) -> Result<()> {
        let seq = self.stream.wait_fence(body.fence).and_then(|()| self.stream.mark());
        self.waiting.push_back((*seq.as_ref().unwrap_or(&NEVER), body));
        seq.map(drop)
    }

    /// The oldest batch, if its fence is passed.
    pub(super) fn passed(&mut self) -> Result<Option<Body>> {
        let Some(&(seq, _)) = self.waiting.front() else { return Ok(None) };
        if self.stream.reached()? < seq {
            return Ok(None);
        }
        let (_, mut body) = self.waiting.pop_front().expect("looked at above");
        body.fenced = false;
        Ok(Some(body))
    }

    /// Waits for the oldest fence, no longer than `timeout`.
    pub(super) fn wait(&mut self, timeout: Duration) -> Result<()> {
        let Some(&(seq, _)) = self.waiting.front() else { return Ok(()) };
        self.stream.wait(seq, timeout).map(drop)
    }
}
