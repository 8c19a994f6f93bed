//! The consumer's side: a loader and its epochs.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam::channel::{SendTimeoutError, Sender};

use crate::assembly::{Frame, MakeRing};
use crate::batch::Batch;
use crate::builder::Builder;
use crate::dataset::Dataset;
use crate::device::Device;
use crate::engine::{Engine, Message, Output, Shared};
use crate::error::{Error, Result};
use crate::launch::{LAUNCH_WAIT_MIN, launch};
use crate::order::{BadSamplePolicy, BadSamples, Cursor, IfChanged, Progress, Standing};
use crate::outlet::Outlet;
use crate::source::Supply;
use crate::stall::HELD_UP;
use crate::stats::{Stats, StatsReader};

/// Reads a dataset's samples in batches that lie in device memory.
///
/// A loader owns one engine thread, one ring, one copy stream, and all memory that its batches live in. Dropping it
/// stops the engine in bounded time; batches that are still held stay valid.
pub struct Loader {
    messages: Sender<Message>,
    outlet: Outlet<Output>,
    shared: Arc<Shared>,
    generation: u64,
    supply: Supply,
    /// After the last batch that the consumer was given.
    standing: Standing,
    steps: Option<u64>,
    batches_max: usize,
    /// The epoch under way.
    under_way: Option<u64>,
    /// Why it could not be started; said at the first wait for a batch.
    failure: Option<Error>,
}

impl Loader {
    /// Options for a loader of this dataset.
    pub fn builder(dataset: Dataset) -> Builder {
        Builder::new(dataset)
    }

    /// Starts the engine's thread, which allocates all memory, and returns once it is ready to read.
    pub(crate) fn launch(frame: Frame, make_ring: Option<MakeRing>) -> Result<Loader> {
        let Frame { engine: parts, messages, output, shared, supply } = frame;
        let (steps, batches_max) = (supply.steps()?, parts.sizes.batches_max);
        let bound = shared.deadline.max(LAUNCH_WAIT_MIN);
        let device = shared.device.clone();
        let make = move || device.raw().make_current().and_then(|()| parts.assemble(make_ring));
        let over = launch(bound, &shared.stopped, make, Engine::run)?;
        let outlet = Outlet::new(output, over, shared.stopped.clone(), shared.deadline);
        let standing = Standing::at(Progress::default());
        Ok(Loader {
            messages,
            outlet,
            shared,
            generation: 0,
            supply,
            standing,
            steps,
            batches_max,
            under_way: None,
            failure: None,
        })
    }

    /// The number of batches in an epoch, the same on every rank. `None` where batches are cut [by a
    /// budget](Builder::budget): how many there are then shows at the end.
    pub fn steps(&self) -> Option<u64> {
        self.steps
    }

    /// All batches of epoch `epoch`, in order. An epoch under way is given up.
    pub fn epoch(&mut self, epoch: u64) -> Epoch<'_> {
        self.begin(epoch);
        Epoch { loader: self }
    }

    /// The batches from where the run stands to the end of that epoch, in order: behind the last batch that the
    /// consumer was given, or behind the cursor that was [resumed](Self::resume). Where an epoch has ended, all of the
    /// next.
    ///
    /// ```no_run
    /// # fn train(mut loader: strait::Loader, saved: Option<&[u8]>) -> strait::Result<()> {
    /// use strait::order::{Cursor, IfChanged};
    ///
    /// if let Some(text) = saved {
    ///     loader.resume(&Cursor::parse(text)?, IfChanged::Refuse)?;
    /// }
    /// while loader.cursor().progress.epoch < 10 {
    ///     for batch in loader.rest_of_epoch() {
    ///         let batch = batch?;
    ///         // .. use it, and save this once every rank has used its own:
    ///         let text = batch.cursor().to_json();
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn rest_of_epoch(&mut self) -> Epoch<'_> {
        self.begin_rest();
        Epoch { loader: self }
    }

    /// Starts what [`epoch`](Self::epoch) iterates over, for callers that keep the loader and cannot keep a borrow of it:
    /// ask for its batches with [`next_within`](Self::next_within).
    pub fn begin(&mut self, epoch: u64) {
        self.standing.start_epoch(epoch);
        self.begin_rest();
    }

    /// The same for [`rest_of_epoch`](Self::rest_of_epoch).
    pub fn begin_rest(&mut self) {
        self.generation += 1;
        while let Some(stale) = self.outlet.stale() {
            self.give_back(stale);
        }
        self.under_way = Some(self.standing.progress.epoch);
        self.failure = self.start().err();
    }

    /// The next batch of the epoch that was begun, if it comes within `patience`; else [`Next::Pending`], and it may be
    /// asked for again. So a caller can look after other things, such as signals, while it waits.
    ///
    /// # Errors
    /// Those of the epoch, which then is over. A batch that does not come within the loader's deadline is one, however
    /// short the patience; between two calls no more than a second is counted.
    pub fn next_within(&mut self, patience: Duration) -> Result<Next> {
        let Some(epoch) = self.under_way else { return Ok(Next::End) };
        let next = match self.failure.take() {
            Some(error) => Err(error),
            None => self.receive(epoch, patience),
        };
        if !matches!(next, Ok(Next::Batch(_) | Next::Pending)) {
            self.under_way = None;
        }
        next
    }

    /// Where the run stands: after the last batch that the consumer was given; after the last of an epoch, at the start
    /// of the next. What was only read ahead does not count. See [`Batch::cursor`] for the one to save in a loop.
    pub fn cursor(&self) -> Cursor {
        self.standing.cursor(&self.shared.start)
    }

    /// Goes on where `cursor` was taken, in whatever world and with whatever batch size: the next batch of
    /// [`rest_of_epoch`](Self::rest_of_epoch) is the one behind it. Nothing is replayed: that takes what a start takes. (But for
    /// packed windows of a changed dataset, whose place is found by a walk over the documents before it.) An epoch under way is
    /// given up.
    ///
    /// # Errors
    /// [`Error::Config`] naming what differs between this run and the cursor's: seed, shuffle, mixture, what bucketing and
    /// windows are made of, or, unless allowed, the dataset. The loader then stands where it stood.
    pub fn resume(&mut self, cursor: &Cursor, if_changed: IfChanged) -> Result<()> {
        let start = &self.shared.start;
        let progress = cursor.resume(start, if_changed)?;
        self.supply.source(progress, None)?;
        BadSamples::resume(BadSamplePolicy::Raise, &cursor.skipped, 0)?;
        let same = cursor.fingerprint.check(&start.fingerprint).is_ok();
        self.under_way = None;
        self.standing = match same {
            true => Standing::of(cursor),
            false => Standing { packer: self.supply.packer_state(progress)?, ..Standing::at(progress) },
        };
        Ok(())
    }

    /// Where its batches live.
    pub fn device(&self) -> &Device {
        &self.shared.device
    }

    /// What the loader has done so far, and which way its bytes took.
    pub fn stats(&self) -> Stats {
        self.shared.counters.snapshot()
    }

    /// The same for other threads, while this one waits for a batch. It outlives the loader.
    pub fn stats_reader(&self) -> StatsReader {
        StatsReader(self.shared.counters.clone())
    }

    fn start(&self) -> Result<()> {
        let source = self.supply.source(self.standing.progress, self.standing.packer)?;
        let message = Message::Epoch { generation: self.generation, source, standing: self.standing.clone() };
        let sent = self.messages.send_timeout(message, self.shared.deadline).map_err(|error| match error {
            SendTimeoutError::Timeout(_) => Error::Stopped { reason: "its thread does not answer".into() },
            SendTimeoutError::Disconnected(_) => self.outlet.stopped(),
        });
        self.shared.wake();
        sent
    }

    fn give_back(&self, output: Output) {
        if let Output::Batch(body) = output {
            let _ = self.messages.send_timeout(Message::Release(body), self.shared.deadline);
        }
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        let _ = self.messages.send_timeout(Message::Stop, self.shared.deadline);
        self.shared.wake();
    }
}

/// What came of waiting for a batch.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "a box would be an allocation for each batch")]
pub enum Next {
    /// The next batch of the epoch.
    Batch(Batch),
    /// The epoch is over, or none was begun.
    End,
    /// No batch so far.
    Pending,
}

/// The batches of one epoch. Dropping it in the middle is fine.
///
/// After an error it ends; another epoch may be tried.
pub struct Epoch<'a> {
    loader: &'a mut Loader,
}

impl Iterator for Epoch<'_> {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Result<Batch>> {
        loop {
            match self.loader.next_within(Duration::MAX) {
                Ok(Next::Batch(batch)) => return Some(Ok(batch)),
                Ok(Next::End) => return None,
                Ok(Next::Pending) => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

impl Loader {
    fn receive(&mut self, epoch: u64, patience: Duration) -> Result<Next> {
        let from = Instant::now();
        loop {
            let left = patience.saturating_sub(from.elapsed());
            let (shared, batches_max) = (&self.shared, self.batches_max);
            let what = |held_up| awaited(shared, batches_max, held_up);
            match self.outlet.within(left, || shared.signs(), what)? {
                None => return Ok(Next::Pending),
                Some(Output::Batch(body)) if body.generation == self.generation => {
                    self.standing = body.standing.clone();
                    return Ok(Next::Batch(Batch::new(body, self.messages.clone(), self.shared.clone())));
                }
                Some(Output::Failed(generation, error)) if generation == self.generation => return Err(error),
                Some(Output::End(generation)) if generation == self.generation => {
                    // Known from the last batch, except where what was left of the epoch had none.
                    self.standing.start_epoch(epoch + 1);
                    return Ok(Next::End);
                }
                Some(stale) => self.give_back(stale),
            }
        }
    }
}

/// What keeps the next batch from coming: a consumer's stream, or what can be seen.
fn awaited(shared: &Shared, batches_max: usize, held_up: bool) -> String {
    if held_up {
        return format!("the next batch: {HELD_UP}");
    }
    let held = shared.held.load(Ordering::Relaxed);
    if held < batches_max && !shared.starved.load(Ordering::Relaxed) {
        return "the next batch: the engine makes no progress (it may be opening a file that does not answer)".into();
    }
    format!(
        "a free region: the consumer holds {held} of {batches_max} batches, and its streams may still use some that it \
         released; drop some, or raise hold or region_bytes"
    )
}
