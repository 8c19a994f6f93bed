//! The consumer's side: build a loader, iterate its epochs.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam::channel::{self, Receiver, RecvTimeoutError, Sender};

use crate::assembly::{self, MakeRing};
use crate::batch::Batch;
use crate::config::{Config, PathChoice, RingChoice, Windows};
use crate::dataset::Dataset;
use crate::device::Device;
use crate::engine::{Message, Output, Shared};
use crate::error::{Error, Result};
use crate::order::{
    AtEnd, BadSamplePolicy, BadSamples, Bucketing, Budget, Cursor, IfChanged, Policy, Progress, Rank, Shuffle, Standing,
};
use crate::sim::Clock;
use crate::source::Supply;
use crate::stats::Stats;
use crate::storage::Ring;

/// Reads a dataset's samples in batches that lie in device memory.
///
/// A loader owns one engine thread, one ring, one copy stream, and all memory that its batches live in. Dropping it
/// stops the engine in bounded time; batches that are still held stay valid.
pub struct Loader {
    messages: Sender<Message>,
    output: Receiver<Output>,
    shared: Arc<Shared>,
    generation: u64,
    supply: Supply,
    /// After the last batch that the consumer was given.
    standing: Standing,
    steps: Option<u64>,
    batches_max: usize,
    /// Disconnected once the engine's thread is over.
    over: Receiver<()>,
}

impl Loader {
    /// Options for a loader of this dataset.
    pub fn builder(dataset: Dataset) -> Builder {
        let config = Config::default();
        Builder { dataset, device: None, config, rank: None, rank_from_env: false, make_ring: None }
    }

    /// The number of batches in an epoch, the same on every rank. `None` where batches are cut [by a
    /// budget](Builder::budget): how many there are then shows at the end.
    pub fn steps(&self) -> Option<u64> {
        self.steps
    }

    /// All batches of epoch `epoch`, in order. An epoch under way is given up.
    pub fn epoch(&mut self, epoch: u64) -> Epoch<'_> {
        self.standing.start_epoch(epoch);
        self.rest_of_epoch()
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
        self.generation += 1;
        while let Ok(stale) = self.output.try_recv() {
            self.give_back(stale);
        }
        let from = self.standing.progress;
        let failure = self.start().err();
        Epoch { loader: self, epoch: from.epoch, failure, over: false }
    }

    /// Where the run stands: after the last batch that the consumer was given; after the last of an epoch, at the start
    /// of the next. What was only read ahead does not count. See [`Batch::cursor`] for the one to save in a loop.
    pub fn cursor(&self) -> Cursor {
        self.standing.cursor(&self.shared.start)
    }

    /// Goes on where `cursor` was taken, in whatever world and with whatever batch size: the next batch of
    /// [`rest_of_epoch`](Self::rest_of_epoch) is the one behind it. Nothing is replayed. An epoch under way is given up.
    ///
    /// # Errors
    /// [`Error::Config`] naming what differs between this run and the cursor's: seed, shuffle, or, unless allowed, the
    /// dataset. The loader then stands where it stood.
    pub fn resume(&mut self, cursor: &Cursor, if_changed: IfChanged) -> Result<()> {
        let start = &self.shared.start;
        let progress = cursor.resume(start, if_changed)?;
        self.supply.source(progress, None)?;
        BadSamples::resume(BadSamplePolicy::Raise, &cursor.skipped, 0)?;
        let same = cursor.fingerprint == start.fingerprint;
        self.standing = match same {
            true => Standing::of(cursor),
            false => Standing { packer: self.supply.packer_state(progress)?, ..Standing::at(progress) },
        };
        Ok(())
    }

    /// What the loader has done so far, and which way its bytes took.
    pub fn stats(&self) -> Stats {
        self.shared.counters.snapshot()
    }

    fn start(&self) -> Result<()> {
        let source = self.supply.source(self.standing.progress, self.standing.packer)?;
        let message = Message::Epoch { generation: self.generation, source, standing: self.standing.clone() };
        self.messages.send_timeout(message, self.shared.deadline).map_err(|_| self.stopped())
    }

    fn give_back(&self, output: Output) {
        if let Output::Batch(body) = output {
            let _ = self.messages.send_timeout(Message::Release(body), self.shared.deadline);
        }
    }

    fn stopped(&self) -> Error {
        let reason = self.shared.stopped.get().cloned();
        Error::Stopped { reason: reason.unwrap_or_else(|| "its thread does not answer".into()) }
    }

    /// What keeps the next batch from coming.
    fn stalled(&self, waited: Duration) -> Error {
        let held = self.shared.held.load(Ordering::Relaxed);
        let what = match held {
            held if held < self.batches_max && !self.shared.starved.load(Ordering::Relaxed) => {
                "the next batch: the engine makes no progress (it may be opening a file that does not answer)"
                    .to_string()
            }
            _ => format!(
                "a free region: the consumer holds {held} of {} batches; drop some, or raise hold or region_bytes",
                self.batches_max
            ),
        };
        Error::Timeout { what, waited }
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        let _ = self.messages.send_timeout(Message::Stop, self.shared.deadline);
        // The engine drains reads, then copies, each within a deadline of its own, and is over.
        let bound = 3 * self.shared.deadline + Duration::from_secs(1);
        if self.over.recv_timeout(bound) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("the engine's thread did not end within {bound:?}; it is left to itself");
        }
    }
}

/// The batches of one epoch. Dropping it in the middle is fine.
///
/// After an error it ends; another epoch may be tried.
pub struct Epoch<'a> {
    loader: &'a mut Loader,
    epoch: u64,
    failure: Option<Error>,
    over: bool,
}

/// The consumer looks this often whether the engine still makes progress.
const LOOK: Duration = Duration::from_millis(100);

impl Iterator for Epoch<'_> {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Result<Batch>> {
        if self.over {
            return None;
        }
        let next = match self.failure.take() {
            Some(error) => Some(Err(error)),
            None => self.receive(),
        };
        self.over = !matches!(next, Some(Ok(_)));
        next
    }
}

impl Epoch<'_> {
    fn receive(&mut self) -> Option<Result<Batch>> {
        let loader = &mut *self.loader;
        let mut since = Instant::now();
        let mut progress = loader.shared.progress();
        loop {
            match loader.output.recv_timeout(LOOK) {
                Ok(Output::Batch(body)) if body.generation == loader.generation => {
                    loader.standing = body.standing.clone();
                    return Some(Ok(Batch::new(body, loader.messages.clone(), loader.shared.clone())));
                }
                Ok(Output::Failed(generation, error)) if generation == loader.generation => return Some(Err(error)),
                Ok(Output::End(generation)) if generation == loader.generation => {
                    // Known from the last batch, except where what was left of the epoch had none.
                    loader.standing.start_epoch(self.epoch + 1);
                    return None;
                }
                Ok(stale) => loader.give_back(stale),
                Err(RecvTimeoutError::Disconnected) => return Some(Err(loader.stopped())),
                Err(RecvTimeoutError::Timeout) => {
                    let now = loader.shared.progress();
                    if now != progress {
                        (progress, since) = (now, Instant::now());
                    }
                    // The engine reports a stalled read itself, and first: it knows which one.
                    if since.elapsed() > loader.shared.deadline + 10 * LOOK {
                        return Some(Err(loader.stalled(since.elapsed())));
                    }
                }
            }
        }
    }
}

/// Options of a [`Loader`]. Everything has a default; what cannot be met is an error of [`build`](Builder::build).
pub struct Builder {
    dataset: Dataset,
    device: Option<Device>,
    config: Config,
    rank: Option<Rank>,
    rank_from_env: bool,
    make_ring: Option<MakeRing>,
}

macro_rules! options {
    ($($(#[$doc:meta])* $name:ident: $type:ty => $field:ident = $value:expr;)*) => {
        $($(#[$doc])*
        pub fn $name(mut self, $name: $type) -> Builder {
            self.config.$field = $value;
            self
        })*
    };
}

impl Builder {
    options! {
        /// Samples per batch. Default 256.
        batch_size: usize => batch_size = batch_size;
        /// The order of samples, anew in every epoch. Default: sequential.
        shuffle: Shuffle => shuffle = shuffle;
        /// What happens behind the last whole global batch. Default: [`Policy::default_for`] the world.
        policy: Policy => policy = Some(policy);
        /// What decides the random order. Default 0.
        seed: u64 => seed = seed;
        /// What becomes of samples that cannot be read, because the storage fails ([`Error::Io`]) or a shard is cut
        /// short ([`Error::Truncated`]). Default: the error goes to the consumer.
        ///
        /// A batch with a failed read is read again block by block; a sample is bad if one of its own blocks fails then
        /// too. Each sample's fate is decided in the order of delivery, whatever is read ahead, and travels in the
        /// cursor. A shard that is missing or has changed is an error under every policy.
        /// [Windows](Self::windows) of tokens are always raised.
        bad_samples: BadSamplePolicy => bad_samples = bad_samples;
        /// Batches read ahead. Default: as many as keep the storage busy.
        prefetch: usize => prefetch = Some(prefetch);
        /// Batches that the consumer may hold at once while others are read. Default 2.
        hold: usize => hold = hold;
        /// The longest read, and the size of a slab: a multiple of 4096. Default 4 MiB.
        block_bytes: u64 => block_bytes = block_bytes;
        /// Extents of a batch that are nearer to each other than this are read as one. Default 16 KiB.
        gap_bytes: u64 => gap_bytes = gap_bytes;
        /// Alignment of direct reads: a power of two, at least 4096. Default 4096.
        align_bytes: u64 => align_bytes = align_bytes;
        /// Reads in flight at most. Default 128.
        reads_in_flight: usize => reads_in_flight = reads_in_flight;
        /// Bytes in flight at most. Default 32 MiB.
        bytes_in_flight: u64 => bytes_in_flight = bytes_in_flight;
        /// Pinned or registered host memory at most. Default 256 MiB.
        pinned_bytes_max: u64 => pinned_bytes_max = pinned_bytes_max;
        /// Memory for batches on a device other than the host, at most. Default 1 GiB.
        region_bytes_max: u64 => region_bytes_max = region_bytes_max;
        /// Memory for batches. Default: room for the batches read ahead and held.
        region_bytes: u64 => region_bytes = Some(region_bytes);
        /// Files open at most. Default 256.
        open_files_max: usize => open_files_max = open_files_max;
        /// Whatever takes longer than this is an error that names it. Default 30 s.
        deadline: Duration => deadline = deadline;
        /// Which storage backend. Default: decided by a probe.
        ring: RingChoice => ring = ring;
        /// Which way bytes take. Default: direct where possible.
        path: PathChoice => path = path;
    }

    /// Which slice of every global batch is this process's. Default: all of it.
    pub fn rank(mut self, rank: Rank) -> Builder {
        (self.config.rank, self.rank) = (rank, Some(rank));
        self
    }

    /// Takes the [rank](Self::rank) from the launcher's environment variables ([`Rank::from_env`]): torchrun, Slurm,
    /// Open MPI, PMI. Without a launcher this is the only process. Launchers that contradict each other, or a rank that was
    /// given, are an error of [`build`](Self::build). The local rank then chooses the [device](Device::for_rank), unless one is
    /// given.
    pub fn rank_from_env(mut self) -> Builder {
        self.rank_from_env = true;
        self
    }

    /// Mixes the datasets that [`Dataset::concat`] joined: each gives its weight's share of the positions of an epoch,
    /// without drift, and is shuffled by itself. Default: the samples of all of them are one dataset's.
    pub fn mixture(mut self, weights: &[u32], at_end: AtEnd) -> Builder {
        self.config.mixture = Some((weights.to_vec(), at_end));
        self
    }

    /// Cuts batches by length in place of [`batch_size`](Self::batch_size): as many samples as the budget holds, and of
    /// similar length if `bucketing` says so. A sample's length is the bytes of all its fields, or
    /// [tokens](Self::tokens).
    ///
    /// Every rank works out the batches of all ranks, which takes a look at the index per sample of the global batch;
    /// bucketing sorts a window of samples whenever it comes to the next. A sample that exceeds the budget alone is an
    /// error of the batch that it would be in.
    pub fn budget(mut self, budget: Budget, bucketing: Bucketing) -> Builder {
        self.config.budget = Some((budget, bucketing));
        self
    }

    /// Makes batches of windows of `window_tokens` [tokens](Self::tokens), each starting `stride_tokens` after the one
    /// before, over the documents one after another as they are stored. [`batch_size`](Self::batch_size) counts windows,
    /// [`shuffle`](Self::shuffle) shuffles windows. See [`Batch::window`].
    ///
    /// Documents that cannot be read are [raised](Self::bad_samples). A document is a sample; in raw files
    /// ([`Dataset::records`]) it is a whole shard. Takes 8 bytes per document. Tokens at the very end that fill no window
    /// are in none.
    pub fn windows(mut self, window_tokens: u64, stride_tokens: u64) -> Builder {
        self.config.windows = Some(Windows::Stored { window_tokens, stride_tokens });
        self
    }

    /// Makes batches of windows of `window_tokens` [tokens](Self::tokens) over the documents in shuffled order, one after
    /// another, none padded. [`batch_size`](Self::batch_size) counts windows, [`shuffle`](Self::shuffle) shuffles documents.
    /// See [`Batch::window`], and [`windows`](Self::windows) for what a document is.
    ///
    /// An epoch has every token once, but for those at its end that fill no window: other documents' in each epoch. Every
    /// rank walks over the documents of all ranks, one look at a table each; the place reached is in the cursor.
    pub fn pack(mut self, window_tokens: u64) -> Builder {
        self.config.windows = Some(Windows::Packed { window_tokens });
        self
    }

    /// Measures samples in tokens: items of `item_bytes` bytes in `field`. A sample without that field has none.
    pub fn tokens(mut self, field: &str, item_bytes: u64) -> Builder {
        self.config.tokens = Some((field.into(), item_bytes));
        self
    }

    /// Where batches live. Default: [`Device::auto`], or that of the [launcher's](Self::rank_from_env) local rank.
    pub fn device(mut self, device: Device) -> Builder {
        self.device = Some(device);
        self
    }

    /// A storage backend of one's own, made on the engine's thread; it gets the number of reads in flight.
    pub fn custom_ring(mut self, make: impl FnOnce(usize) -> Result<Box<dyn Ring>> + Send + 'static) -> Builder {
        self.make_ring = Some(Box::new(make));
        self
    }

    /// Allocates all memory, starts the engine's thread, and returns once it is ready to read.
    pub fn build(self) -> Result<Loader> {
        let Builder { dataset, device, mut config, rank, rank_from_env, make_ring } = self;
        let environment = |name: &str| std::env::var(name).ok();
        if rank_from_env {
            config.rank = Rank::given_or_from_env(rank, environment)?;
        } else if let (None, Ok(Some(said))) = (rank, Rank::from_env(environment))
            && said.world() > 1
        {
            let (rank, world) = (said.rank(), said.world());
            tracing::warn!("this is rank {rank} of {world}, and reads what every other rank reads: see rank_from_env");
        }
        let device = device.map_or_else(|| Device::for_rank(config.rank), Ok)?;
        let frame = assembly::frame(dataset, device, config, Clock::real())?;
        let (ready, answer) = channel::bounded(1);
        let (alive, over) = channel::bounded(0);
        let assembly::Frame { engine: parts, messages, output, shared, supply } = frame;
        let (steps, batches_max) = (supply.steps()?, parts.sizes.batches_max);
        let engine_shared = shared.clone();
        let body = move || {
            let _alive = alive;
            let life = AssertUnwindSafe(|| match parts.assemble(make_ring) {
                Ok(engine) => {
                    let _ = ready.send(Ok(()));
                    engine.run();
                }
                Err(error) => drop(ready.send(Err(error))),
            });
            if let Err(panic) = catch_unwind(life) {
                let text = panic.downcast_ref::<&str>().map(|s| s.to_string());
                let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
                let _ = engine_shared.stopped.set(format!("it panicked: {text}"));
            }
        };
        let no_thread = |e: std::io::Error| Error::Memory {
            what: "the engine's thread",
            bytes: 0,
            errno: e.raw_os_error().unwrap_or(libc::EAGAIN),
        };
        thread::Builder::new().name("strait-engine".into()).spawn(body).map_err(no_thread)?;
        let start = Instant::now();
        let bound = shared.deadline.max(Duration::from_secs(60)); // a driver may take seconds to wake a GPU
        match answer.recv_timeout(bound) {
            Ok(ready) => ready?,
            Err(RecvTimeoutError::Timeout) => {
                return Err(Error::Timeout {
                    what: "the engine to allocate its memory".into(),
                    waited: start.elapsed(),
                });
            }
            Err(RecvTimeoutError::Disconnected) => {
                let reason = shared.stopped.get().cloned().unwrap_or_default();
                return Err(Error::Stopped { reason });
            }
        }
        let standing = Standing::at(Progress::default());
        Ok(Loader { messages, output, shared, generation: 0, supply, standing, steps, batches_max, over })
    }
}

impl Shared {
    pub(crate) fn new(device: Device, dataset: &Dataset, supply: &Supply, deadline: Duration) -> Shared {
        Shared {
            device,
            fields: dataset.fields().into(),
            parts: dataset.parts().into(),
            order: supply.order().clone(),
            start: supply.start(dataset),
            counters: Arc::default(),
            timeline: OnceLock::new(),
            deadline,
            held: AtomicUsize::new(0),
            starved: AtomicBool::new(false),
            stopped: OnceLock::new(),
        }
    }

    /// A number that changes as long as bytes arrive or batches go out.
    fn progress(&self) -> u64 {
        self.counters.reads_ended.get().wrapping_add(self.counters.batches.get())
    }
}
