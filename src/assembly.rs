//! Puts an engine together: sums first, then memory, ring and stream, on the thread that will own them.

mod bodies;
mod ring;
pub(crate) mod way;

use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::{self, Receiver, Sender};

use crate::config::{Config, PathChoice, ReadOptions, Verify, Way};
use crate::dataset::Dataset;
use crate::device::Device;
use crate::engine::{Bad, Engine, Gate, Hold, Job, Message, Output, Shared, Stage, State, Verifier};
use crate::error::{Error, Result};
use crate::plan::Cast;
use crate::region::RegionPool;
use crate::selection::{Dense, Selection, Wanted};
use crate::sim::Clock;
use crate::sizes::Sizes;
use crate::source::Supply;
use crate::stats::Setup;
use crate::storage::{Cufile, Opening, Options, ReadQueue, Registered, Ring, ShardFile};
use crate::workers::Workers;

pub(crate) use ring::{MakeRing, choose_ring, no_uring, not_registered};
use way::{Wishes, stay_near};

/// An engine to be, and the consumer's ends of its channels.
pub(crate) struct Frame {
    pub(crate) engine: Parts,
    pub(crate) messages: Sender<Message>,
    pub(crate) output: Receiver<Output>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) supply: Supply,
}

/// What an engine is made of; nothing is allocated, opened or started yet.
pub(crate) struct Parts {
    pub(crate) sizes: Sizes,
    dataset: Arc<Dataset>,
    selection: Selection,
    config: Config,
    bad: Bad,
    way: Way,
    clock: Clock,
    shared: Arc<Shared>,
    messages: Receiver<Message>,
    output: Sender<Output>,
}

/// An engine with nothing to do looks this often whether its loader is gone.
const IDLE: Duration = Duration::from_millis(200);

/// Checks the options and sums up what they come to.
pub(crate) fn frame(dataset: Dataset, device: Device, config: Config, clock: Clock) -> Result<Frame> {
    config.check()?;
    let config = config.bounded(&dataset);
    if dataset.is_empty() {
        let shards = dataset.shards().len();
        return Err(Error::config("dataset", format!("no sample in its {shards} files; check the paths")));
    }
    let supply = config.supply(&dataset)?;
    let selection = config.selection(&dataset)?;
    config.check_verify(&dataset)?;
    let ReadOptions { ring, path, deadline, .. } = config.reads;
    let wishes = Wishes { ring, path, on_the_way: config.on_the_way(), deadline };
    let (way, refusal) = way::choose(&device, dataset.shards().iter().map(|shard| &shard.path), &wishes)?;
    let sizes = config.sizes(&dataset, &device, way)?;
    // Every batch may be on its way back at once, and an epoch, a stop, and a few more that the engine has not seen.
    let (messages, inbox) = channel::bounded(sizes.batches_max + 8);
    // Every batch, the end of this generation, and that of the one before.
    let (outbox, output) = channel::bounded(sizes.batches_max + 2);
    let shared = Arc::new(Shared::new(device, &dataset, &selection, &supply, config.reads.deadline));
    refusal.into_iter().for_each(|refusal| shared.counters.fall_back(refusal));
    dataset.fallbacks().iter().for_each(|fallback| shared.counters.fall_back(fallback.clone()));
    let dataset = Arc::new(dataset);
    let bad = Bad::new(&config, &supply, &dataset, &selection, &shared.counters)?;
    let engine = Parts {
        sizes,
        bad,
        dataset,
        selection,
        config,
        way,
        clock,
        shared: shared.clone(),
        messages: inbox,
        output: outbox,
    };
    Ok(Frame { engine, messages, output, shared, supply })
}

impl Parts {
    /// The same where the ring writes into the device's memory: what simulations do in cuFile's place.
    #[cfg(test)]
    pub(crate) fn in_place(mut self) -> Parts {
        self.way = Way::Cufile { compat: false };
        self.sizes = self.config.sizes(&self.dataset, &self.shared.device, self.way).unwrap();
        self
    }

    /// Makes the engine, with the ring that the options name or one of the caller's own.
    pub(crate) fn assemble(self, make_ring: Option<MakeRing>) -> Result<Engine> {
        let numa_node = stay_near(&self.shared.device, &self.shared.counters);
        // Where time is simulated nobody waits for real.
        let idle = if self.clock.is_simulated() { Duration::ZERO } else { IDLE };
        let (ring, opening) = match make_ring {
            Some(make) => (make(self.config.reads.reads_in_flight)?, Opening::Ring { direct: false }),
            None => self.ring()?,
        };
        let regions = RegionPool::new(
            &self.shared.device,
            self.sizes.region_bytes as usize,
            self.config.reads.align_bytes as usize,
            self.sizes.batches_max,
            self.config.reads.deadline,
        )?;
        let (mut stage, mut gate) = self.streams(ring.writes_to_device())?;
        self.ready_for_arrays(&mut stage, &mut gate)?;
        let name = ring.name();
        let mut queue = self.queue(ring, opening);
        self.register(&mut queue, &stage, &regions, name);
        let worker = self.worker(&mut queue)?;
        let verifies = self.config.verify == Verify::Checksums;
        let verifier = verifies.then(|| Verifier::new(self.config.samples_max() * self.selection.len()));
        self.shared.counters.setup.lock().unwrap_or_else(|e| e.into_inner()).numa_node = numa_node;
        let batches = self.batches(&regions);
        Ok(Engine {
            queue,
            worker,
            verifier,
            stage,
            gate,
            regions,
            dataset: self.dataset,
            selection: self.selection,
            sizes: self.sizes,
            bad: self.bad,
            shared: self.shared,
            messages: self.messages,
            output: self.output,
            clock: self.clock,
            idle,
            state: State::new(batches),
        })
    }

    /// What device memory is reached by: slabs with a stream of copies, or, where the ring does that, a gate.
    fn streams(&self, in_place: bool) -> Result<(Option<Stage>, Option<Gate>)> {
        let (device, sizes, deadline) = (&self.shared.device, &self.sizes, self.config.reads.deadline);
        // Of each batch a gather and its casts, some of which may take several calls.
        let gathers = (1 + 2 * self.casts().count()) * sizes.batches_max;
        let slab_bytes = sizes.limits.block_bytes as usize;
        let stage = (!self.way.is_direct()).then(|| Stage::new(device, sizes.slabs, slab_bytes, gathers, deadline));
        let gate = in_place.then(|| Gate::new(device, sizes.batches_max, gathers, deadline));
        let (stage, gate) = (stage.transpose()?, gate.transpose()?);
        let timeline = stage.as_ref().map(|stage| stage.copies.timeline());
        if let Some(timeline) = timeline.or(gate.as_ref().map(Gate::timeline)) {
            let _ = self.shared.timeline.set(timeline);
        }
        Ok((stage, gate))
    }

    fn casts(&self) -> impl Iterator<Item = (&Dense, Cast)> {
        self.selection.dense.iter().filter_map(|dense| Some((dense, dense.cast?)))
    }

    /// Gets what gathers and casts need from the device.
    fn ready_for_arrays(&self, stage: &mut Option<Stage>, gate: &mut Option<Gate>) -> Result<()> {
        if !self.selection.dense.is_empty() {
            let slower = match (&mut *stage, &mut *gate) {
                (Some(stage), _) => stage.copies.ready_to_gather(),
                (None, Some(gate)) => gate.ready_to_gather(),
                (None, None) => None,
            };
            slower.into_iter().for_each(|fallback| self.shared.counters.fall_back(fallback));
        }
        for (dense, cast) in self.casts() {
            let ready = match (&mut *stage, &mut *gate) {
                (Some(stage), _) => stage.copies.ready_to_cast(cast),
                (None, Some(gate)) => gate.ready_to_cast(cast),
                (None, None) => Ok(()),
            };
            let name = &*self.selection.fields[dense.field].name;
            ready.map_err(|why| {
                let asked = self.config.fields.casts.iter().find(|wanted| wanted.field == name);
                let problem = format!("{} makes no {} of {name}: {why}", self.shared.device.name(), cast.to());
                Error::config(asked.map_or("widen", Wanted::option), problem)
            })?;
        }
        Ok(())
    }

    /// Who looks at bytes that have landed; and what ends the engine's waits, where time is not simulated.
    fn worker(&self, queue: &mut ReadQueue<Hold>) -> Result<Option<Workers<Job>>> {
        // Into the host's memory nobody else gathers.
        let gathers = self.way == Way::Host && !self.selection.dense.is_empty();
        let works = gathers || self.config.verify == Verify::Checksums;
        if self.clock.is_simulated() {
            return Ok(works.then(|| Workers::simulated(())));
        }
        let waker = queue.waker()?;
        let _ = self.shared.waker.set(waker.clone());
        let jobs = self.sizes.slabs.max(self.sizes.batches_max);
        works.then(|| Workers::start(vec![()], Some(jobs), &waker)).transpose()
    }

    fn ring(&self) -> Result<(Box<dyn Ring>, Opening)> {
        if let Way::Cufile { compat } = self.way {
            self.shared.device.raw().make_current()?;
            let enter = way::enter(&self.shared.device);
            // It is open by now: a read has been tried.
            let ring = Cufile::new(self.config.reads.reads_in_flight, compat, &enter, self.config.reads.deadline);
            return Ok((Box::new(ring.map_err(way::broken)?), Opening::Ring { direct: true }));
        }
        choose_ring(&self.config.reads, &self.shared.counters)
    }

    fn queue(&self, ring: Box<dyn Ring>, opening: Opening) -> ReadQueue<Hold> {
        let shards = self.dataset.shards().iter();
        let shards = shards.map(|shard| ShardFile { path: shard.path.clone(), bytes: shard.bytes }).collect();
        let options = Options {
            depth: self.config.reads.reads_in_flight,
            bytes_in_flight_max: self.config.reads.bytes_in_flight,
            landings: self.sizes.slabs.max(self.sizes.batches_max),
            open_files_max: self.config.reads.open_files_max,
            deadline: self.config.reads.deadline,
            opening,
            clock: self.clock.clone(),
        };
        ReadQueue::new(ring, shards, options, self.shared.counters.clone())
    }

    /// Registers the memory that reads land in, and says what was set up.
    fn register(&self, queue: &mut ReadQueue<Hold>, stage: &Option<Stage>, regions: &RegionPool, ring: &'static str) {
        let (base, bytes, pages) = match stage {
            Some(stage) => {
                (stage.slabs.arena().base(), stage.slabs.arena().bytes(), stage.slabs.arena().pages().as_str())
            }
            None => (regions.first_byte(), regions.bytes(), regions.pages()),
        };
        // SAFETY: slabs and regions are dropped after the queue (field order of `Engine`), or leaked with it.
        if let Registered::No(errno) = unsafe { queue.register_memory(base, bytes) } {
            let unregistered = if ring == "cufile" { way::unregistered } else { not_registered };
            self.shared.counters.fall_back(unregistered(bytes, errno));
        }
        let (path, path_reason) = match (stage.is_some(), self.config.reads.path) {
            (false, _) => ("direct", self.way.reason("the batch's")),
            (true, PathChoice::Staged) => ("staged", "asked for".into()),
            (true, PathChoice::Auto) => ("staged", self.way.reason("the batch's")),
        };
        let device = self.shared.device.name();
        let path_reason = format!("{path_reason} ({device})");
        let region_bytes = regions.bytes() as u64;
        // Where cuFile writes, no host memory is pinned.
        let pinned_bytes = if matches!(self.way, Way::Cufile { .. }) { 0 } else { bytes as u64 };
        let setup = Setup { path, path_reason, ring, device, numa_node: None, pages, pinned_bytes, region_bytes };
        *self.shared.counters.setup.lock().unwrap_or_else(|e| e.into_inner()) = setup;
    }
}
