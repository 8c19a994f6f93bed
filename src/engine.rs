//! The one place where stages meet: one thread, one ring, one copy stream.
//!
//! ```text
//!   turn:  messages -> reap copies -> reap reads, start their copies -> gather and cast what is all there
//!          -> hand over whole batches, oldest first -> refill from the plan -> hand over the end, if that was all -> wait
//! ```
//!
//! It waits in one place: on the ring if reads are in flight, else on the worker, else on the oldest copy, else for a
//! message. The worker ends the first two of those waits, and so does a message that it cannot go on without. What holds it
//! back is the lack of a slab, of a region, or of a free batch. Nothing is allocated once it runs.

mod bad;
mod filling;
mod gate;
mod give_up;
mod hand_over;
mod land;
mod layout;
pub(crate) mod ranges;
mod refill;
mod shared;
mod stage;
mod state;
mod verify;
mod work;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender};

use crate::dataset::Dataset;
use crate::error::Result;
use crate::region::RegionPool;
use crate::selection::Selection;
use crate::sim::Clock;
use crate::sizes::Sizes;
use crate::storage::ReadQueue;
use crate::workers::Workers;

pub(crate) use bad::Bad;
use filling::Filling;
pub(crate) use gate::Gate;
use ranges::range;
pub(crate) use shared::{Message, Output, Shared};
pub(crate) use stage::{Hold, Pinned, Stage};
pub(crate) use state::State;
pub(crate) use verify::Verifier;
pub(crate) use work::Job;

/// A wait without news is never longer than this, so that messages, deadlines, and a consumer that has gone are seen.
pub(crate) const SLICE: Duration = Duration::from_millis(20);
/// Reads shorter than this are waited for a few at a time: their wake-ups would cost more than they bring. More than a few leave
/// the storage with less than its depth.
const SHORT_READ: u64 = 64 << 10;

/// How many of the reads in flight are waited for at a time.
pub(crate) fn reads_together(in_flight: usize, read_bytes: Option<u64>) -> usize {
    let short = read_bytes.is_some_and(|bytes| bytes < SHORT_READ);
    if short { (in_flight / 16).clamp(1, 4) } else { 1 }
}

/// The engine. Fields drop in order: reads and copies drain before their memory is let go.
pub(crate) struct Engine {
    pub(crate) queue: ReadQueue<Hold>,
    /// Where there may be something for it to do.
    pub(crate) worker: Option<Workers<Job>>,
    /// Where checksums are compared.
    pub(crate) verifier: Option<Verifier>,
    pub(crate) stage: Option<Stage>,
    /// Of the direct path into a device's memory.
    pub(crate) gate: Option<Gate>,
    pub(crate) regions: RegionPool,
    pub(crate) dataset: Arc<Dataset>,
    pub(crate) selection: Selection,
    pub(crate) bad: Bad,
    pub(crate) sizes: Sizes,
    pub(crate) shared: Arc<Shared>,
    pub(crate) messages: Receiver<Message>,
    pub(crate) output: Sender<Output>,
    pub(crate) clock: Clock,
    /// How long to wait for a message when there is nothing else to wait for.
    pub(crate) idle: Duration,
    pub(crate) state: State,
}

impl Engine {
    /// Turns until the loader goes away.
    pub(crate) fn run(mut self) {
        while self.turn() {}
    }

    /// One turn; false once the loader has gone away.
    pub(crate) fn turn(&mut self) -> bool {
        self.shared.turns.fetch_add(1, Ordering::Relaxed);
        while let Ok(message) = self.messages.try_recv() {
            self.take(message);
        }
        if !self.state.stopped
            && let Err(error) = self.advance()
        {
            self.fail(error);
            self.wait_for_message(); // what is broken stays broken: do not spin on it
        }
        !self.state.stopped
    }

    fn advance(&mut self) -> Result<()> {
        {
            let _range = range(c"strait: copies that ended");
            self.reap_copies()?;
            self.reap_gate()?;
        }
        {
            let _range = range(c"strait: reads that ended");
            self.reap_reads()?;
            self.reap_work()?;
            self.finish()?;
        }
        self.replan();
        self.hand_over(); // makes room for more
        self.refill();
        self.hand_over(); // the end, if that was all
        let _range = range(c"strait: wait");
        self.wait()
    }

    // ---- messages -------------------------------------------------------------------------------------------------

    fn take(&mut self, message: Message) {
        match message {
            Message::Epoch { generation, source, standing } => {
                self.doom();
                let state = &mut self.state;
                state.unsaid = None;
                (state.generation, state.source, state.running) = (generation, Some(source), true);
                if let Some(error) = self.bad.stand(standing).err().or(self.state.broken.clone()) {
                    self.fail(error);
                }
            }
            Message::Release(body) => self.recycle(body),
            Message::Stop => self.state.stopped = true,
        }
    }

    /// Takes back the batches that no stream uses any more.
    fn reap_gate(&mut self) -> Result<()> {
        while let Some(gate) = &mut self.gate
            && let Some(body) = gate.passed()?
        {
            self.free(body);
        }
        if let Some(gate) = &self.gate {
            self.shared.held_up.store(gate.is_held_up(), Ordering::Relaxed);
        }
        Ok(())
    }

    // ---- wait -------------------------------------------------------------------------------------------------------

    fn wait(&mut self) -> Result<()> {
        // Who sent a batch before it could see that the engine starves has not woken it.
        if self.shared.starved.load(Ordering::SeqCst) && !self.messages.is_empty() {
            return Ok(());
        }
        let in_flight = self.queue.in_flight();
        let working = self.worker.as_ref().is_some_and(|worker| worker.out() > 0);
        if in_flight > 0 || working && !self.queue.has_ended() {
            let read_bytes = self.state.filling.back().and_then(Filling::read_bytes);
            return self.queue.wait(reads_together(in_flight, read_bytes), SLICE);
        }
        if self.queue.has_ended() {
            return Ok(());
        }
        if let Some(gate) = self.gate.as_mut().filter(|gate| !gate.is_empty()) {
            return gate.wait(SLICE);
        }
        if self.state.recalling {
            return Ok(());
        }
        if let Some(stage) = &mut self.stage
            && stage.copies.in_flight() > 0
        {
            return stage.copies.wait_oldest(SLICE).map(drop);
        }
        self.wait_for_message();
        Ok(())
    }

    fn wait_for_message(&mut self) {
        match self.messages.recv_timeout(self.idle) {
            Ok(message) => self.take(message),
            Err(RecvTimeoutError::Timeout) => {}
            // The loader says Stop before it goes; without it and without batches nobody is left to serve.
            Err(RecvTimeoutError::Disconnected) => self.state.stopped = true,
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // Nobody looks at the streams any more: who still waits for copies has one deadline for them.
        self.shared.held_up.store(false, Ordering::Relaxed);
        for &(_, fence) in &self.state.fences {
            self.regions.memory().free_behind(fence);
        }
    }
}
