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
mod gate;
mod land;
mod layout;
pub(crate) mod ranges;
mod refill;
mod stage;
mod verify;
mod work;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, TrySendError};

use crate::batch::Body;
use crate::dataset::{Dataset, Field};
use crate::device::{Device, Fence, Seq, Timeline};
use crate::error::{Error, Result};
use crate::order::{Counts, Cursor, Order, Standing};
use crate::region::RegionPool;
use crate::selection::{Dense, Selection};
use crate::sim::Clock;
use crate::sizes::Sizes;
use crate::source::Source;
use crate::stats::Counters;
use crate::storage::{Damage, LandingId, ReadQueue, Waker};
use crate::workers::Workers;

pub(crate) use bad::Bad;
pub(crate) use gate::Gate;
use ranges::range;
pub(crate) use stage::{Hold, Pinned, Stage};
pub(crate) use verify::Verifier;
pub(crate) use work::Job;

/// What the consumer tells the engine.
#[allow(clippy::large_enum_variant, reason = "the queue is allocated once; a box would be allocated in every epoch")]
pub(crate) enum Message {
    /// Deliver these batches; what is under way for earlier generations is dropped.
    Epoch { generation: u64, source: Source, standing: Standing },
    /// A batch comes back.
    Release(Body),
    /// The loader is going away.
    Stop,
}

/// What the engine tells the consumer, each for one generation.
#[allow(clippy::large_enum_variant, reason = "nearly all of them are batches")]
pub(crate) enum Output {
    Batch(Body),
    Failed(u64, Error),
    End(u64),
}

/// What engine, loader and batches have in common.
pub(crate) struct Shared {
    pub(crate) device: Device,
    pub(crate) fields: Arc<[Field]>,
    /// Those that come out as arrays.
    pub(crate) dense: Arc<[Dense]>,
    /// Those whose bytes are on the host too.
    pub(crate) on_host: Arc<[usize]>,
    /// The number of samples of each dataset that was joined.
    pub(crate) parts: Arc<[u64]>,
    pub(crate) order: Order,
    /// The cursor of a run that has not begun.
    pub(crate) start: Cursor,
    pub(crate) counters: Arc<Counters>,
    pub(crate) timeline: OnceLock<Arc<dyn Timeline>>,
    pub(crate) deadline: Duration,
    /// Batches with the consumer.
    pub(crate) held: AtomicUsize,
    /// The engine waits for a batch to come back: without one it cannot go on.
    pub(crate) starved: AtomicBool,
    /// Ends the engine's wait for reads, if it waits for real.
    pub(crate) waker: OnceLock<Arc<Waker>>,
    /// Why the engine is gone, if it is.
    pub(crate) stopped: Arc<OnceLock<String>>,
}

/// A batch on its way.
struct Filling {
    body: Body,
    next_read: usize,
    open: Option<(LandingId, u64)>,
    landings: usize,
    /// Leases with the worker.
    working: usize,
    /// The worker has had the whole batch.
    worked: bool,
    /// It has been compared with its checksums, and its gather has been started.
    gathered: bool,
    /// The casts that have been started: whole ones, and moves of the next.
    cast: (usize, usize),
    /// Everything that was to be done has been done or, on the copy stream, started; or has failed.
    finished: bool,
    failure: Option<Error>,
    damages: Vec<Damage>,
}

/// A wait without news is never longer than this, so that messages and deadlines are seen.
const SLICE: Duration = Duration::from_millis(20);
/// Reads shorter than this are waited for several at a time: their wake-ups would cost more than they bring.
const SHORT_READ: u32 = 64 << 10;

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

/// Where the engine stands.
pub(crate) struct State {
    generation: u64,
    source: Option<Source>,
    /// The end of this generation, or its failure, has not been said yet.
    running: bool,
    /// The loader is going away.
    stopped: bool,
    /// A failure of this generation that the consumer has not been told of.
    unsaid: Option<Error>,
    /// A ring or stream broke: every later epoch fails with this.
    broken: Option<Error>,
    /// Batches that nobody uses.
    idle: Vec<Body>,
    /// Planned, or known to fail, and waiting for a region, in order. More than one only where batches were recalled.
    planned: VecDeque<(Body, Option<Error>)>,
    /// The oldest batch must be read again: nothing is read until all reads have ended and all batches are planned anew.
    recalling: bool,
    /// In order.
    filling: VecDeque<Filling>,
    /// Of earlier generations; they only wait for their reads to end.
    doomed: Vec<Filling>,
    /// It has been said that batches have more small bytes than there is room for on the host.
    crowded: bool,
    /// Regions given back behind a consumer's stream; whoever gets their memory next waits for the fence first.
    fences: Vec<((usize, usize), Fence)>,
}

impl State {
    pub(crate) fn new(batches: Vec<Body>) -> State {
        let count = batches.len();
        State {
            generation: 0,
            source: None,
            running: false,
            stopped: false,
            unsaid: None,
            broken: None,
            idle: batches,
            planned: VecDeque::with_capacity(count),
            recalling: false,
            filling: VecDeque::with_capacity(count),
            doomed: Vec::with_capacity(count),
            crowded: false,
            fences: Vec::with_capacity(count),
        }
    }
}

impl State {
    /// A batch on its way that something comes back of.
    fn of(&mut self, slot: u32) -> &mut Filling {
        let mut batches = self.filling.iter_mut().chain(&mut self.doomed);
        batches.find(|filling| filling.body.slot == slot).expect("it belongs to a batch on its way")
    }
}

impl Engine {
    /// Turns until the loader goes away.
    pub(crate) fn run(mut self) {
        while self.turn() {}
    }

    /// One turn; false once the loader has gone away.
    pub(crate) fn turn(&mut self) -> bool {
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
        {
            let _range = range(c"strait: hand over, plan, read");
            self.replan();
            self.hand_over(); // makes room for more
            self.refill();
            self.hand_over(); // the end, if that was all
        }
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
        Ok(())
    }

    /// A batch comes back, perhaps with streams still at its region.
    fn recycle(&mut self, body: Body) {
        match &mut self.gate {
            Some(gate) if body.fenced || body.seq > Seq(0) => {
                if let Err(error) = gate.put(body) {
                    self.state.broken.get_or_insert(error);
                }
            }
            _ => self.free(body),
        }
    }

    /// A body becomes free, and with it its region.
    fn free(&mut self, mut body: Body) {
        if let Some(region) = body.region.take() {
            if std::mem::take(&mut body.fenced) {
                self.state.fences.push((region.range(), body.fence));
            }
            self.regions.give_back(region);
        }
        self.state.idle.push(body);
    }

    // ---- hand over --------------------------------------------------------------------------------------------------

    /// Tells the consumer of a failure. Only a queue full of stale outputs refuses it, and then it is told later.
    fn say(&mut self) {
        if let Some(error) = self.state.unsaid.take() {
            let failed = Output::Failed(self.state.generation, error);
            if let Err(TrySendError::Full(Output::Failed(_, error))) = self.output.try_send(failed) {
                self.state.unsaid = Some(error);
            }
        }
    }

    fn hand_over(&mut self) {
        self.say();
        while let Some(filling) = self.state.filling.front_mut() {
            if let Some(error) = filling.failure.as_ref().filter(|error| !self.bad.forgives(error)) {
                let error = error.clone();
                return self.fail(error);
            }
            if self.state.recalling || !filling.finished || self.output.is_full() {
                return;
            }
            match self.bad.settle(filling) {
                Ok(true) => {}
                Ok(false) => return self.recall(),
                Err(error) => return self.fail(error),
            }
            let filling = self.state.filling.pop_front().expect("looked at above");
            self.over(); // whoever holds an epoch's last batch finds its end counted
            let counters = &self.shared.counters;
            counters.batches.add(1);
            counters.samples.add(filling.body.samples.len() as u64);
            counters.bytes_wanted.add(filling.body.plan.wanted_bytes());
            let _ = self.output.try_send(Output::Batch(filling.body));
        }
        if self.state.running && self.over() && self.output.try_send(Output::End(self.state.generation)).is_ok() {
            self.state.running = false;
        }
    }

    /// Whether every batch of this generation has been handed over; then what the policy did to its end is counted.
    fn over(&mut self) -> bool {
        let state = &mut self.state;
        let all = state.source.as_ref().is_none_or(Source::is_over);
        let over = all && state.planned.is_empty() && state.filling.is_empty();
        if let Some(source) = state.source.as_mut().filter(|_| over) {
            let Counts { dropped, padded, wrapped } = source.take_counts();
            let counters = &self.shared.counters;
            counters.samples_dropped.add(dropped);
            counters.samples_padded.add(padded);
            counters.samples_wrapped.add(wrapped);
        }
        over
    }

    /// Ends this generation with an error, once.
    fn fail(&mut self, error: Error) {
        if matches!(error, Error::Ring { .. } | Error::Device { .. } | Error::Stopped { .. }) {
            self.state.broken.get_or_insert(error.clone());
        }
        if std::mem::take(&mut self.state.running) {
            self.state.unsaid = Some(error);
            self.say();
        }
        self.doom();
    }

    /// What is under way is not wanted any more. Its memory comes back when its reads have ended.
    fn doom(&mut self) {
        let state = &mut self.state;
        state.recalling = false;
        state.idle.extend(state.planned.drain(..).map(|(body, _)| body));
        for mut filling in state.filling.drain(..) {
            filling.close(&mut self.queue);
            filling.next_read = filling.body.plan.reads().len();
            filling.body.generation = 0;
            state.doomed.push(filling);
        }
        self.bury();
    }

    /// Takes back the batches of earlier generations whose reads have all ended.
    fn bury(&mut self) {
        let mut i = 0;
        while i < self.state.doomed.len() {
            if self.state.doomed[i].is_idle() {
                let filling = self.state.doomed.swap_remove(i);
                self.recycle(filling.body);
            } else {
                i += 1;
            }
        }
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
            let short = self.state.filling.back().is_some_and(Filling::reads_are_short);
            let want = if short { (in_flight / 4).clamp(1, 16) } else { 1 };
            return self.queue.wait(want, SLICE);
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
        for &(_, fence) in &self.state.fences {
            self.regions.memory().free_behind(fence);
        }
    }
}

impl Filling {
    /// A batch to be read, or one that only waits for its turn to say what failed.
    fn new(body: Body, failure: Option<Error>) -> Filling {
        let next_read = if failure.is_some() { body.plan.reads().len() } else { 0 };
        let damages = Vec::new(); // allocates nothing as long as nothing fails
        Filling {
            body,
            next_read,
            open: None,
            landings: 0,
            working: 0,
            worked: false,
            gathered: false,
            cast: (0, 0),
            finished: false,
            failure,
            damages,
        }
    }

    fn close(&mut self, queue: &mut ReadQueue<Hold>) {
        if let Some((landing, _)) = self.open.take() {
            queue.close(landing);
        }
    }

    /// Nothing of it is with the ring or the worker.
    fn is_idle(&self) -> bool {
        self.landings == 0 && self.working == 0
    }

    /// Every read has ended, every copy has been started, and the worker has done its part.
    fn is_there(&self) -> bool {
        self.next_read == self.body.plan.reads().len() && self.open.is_none() && self.is_idle()
    }

    /// The worker has something to do with it, once it is all there.
    fn wants_work(&self) -> bool {
        let plan = &self.body.plan;
        let arrays = !plan.gather().is_empty() || plan.cast_moves(0).is_some();
        let work = arrays || plan.parts().iter().any(|part| part.purpose.check);
        work && !self.worked && self.failure.is_none()
    }

    fn reads_are_short(&self) -> bool {
        self.body.plan.reads().first().is_some_and(|read| read.len < SHORT_READ)
    }
}
