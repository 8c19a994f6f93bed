//! Puts an engine together: sums first, then memory, ring and stream, on the thread that will own them.

pub(crate) mod way;

use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::{self, Receiver, Sender};

use crate::batch::{Body, Kept, Places};
use crate::config::{Config, PathChoice, RingChoice, Verify};
use crate::dataset::Dataset;
use crate::device::{Device, Seq};
use crate::documents::Pieces;
use crate::engine::{Bad, Engine, Gate, Message, Output, Shared, Stage, State, Verifier};
use crate::error::{Error, Result};
use crate::order::{BadSamplePolicy, Progress, Standing};
use crate::plan::Plan;
use crate::region::RegionPool;
use crate::selection::{Selection, Wanted};
use crate::sim::Clock;
use crate::sizes::Sizes;
use crate::source::Supply;
use crate::stats::{Counters, Fallback, Setup};
use crate::storage::{
    Cufile, Opening, Options, Pread, Prober, REGISTER_FORBIDDEN, ReadQueue, Registered, Ring, ShardFile, Uring,
};
use crate::workers::Workers;

use way::{Way, Wishes, stay_near};

/// Makes a ring for so many reads in flight.
pub(crate) type MakeRing = Box<dyn FnOnce(usize) -> Result<Box<dyn Ring>> + Send>;

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
    let Config { ring, path, deadline, .. } = config;
    let wishes = Wishes { ring, path, on_the_way: config.on_the_way(), deadline };
    let (way, refusal) = way::choose(&device, dataset.shards().iter().map(|shard| &shard.path), &wishes)?;
    let sizes = config.sizes(&dataset, &device, way.is_direct())?;
    // Every batch may be on its way back at once, and an epoch, a stop, and a few more that the engine has not seen.
    let (messages, inbox) = channel::bounded(sizes.batches_max + 8);
    // Every batch, the end of this generation, and that of the one before.
    let (outbox, output) = channel::bounded(sizes.batches_max + 2);
    let shared = Arc::new(Shared::new(device, &dataset, &selection, &supply, config.deadline));
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
    /// Makes the engine, with the ring that the options name or one of the caller's own.
    pub(crate) fn assemble(self, make_ring: Option<MakeRing>) -> Result<Engine> {
        let numa_node = stay_near(&self.shared.device, &self.shared.counters);
        // Where time is simulated nobody waits for real.
        let idle = if self.clock.is_simulated() { Duration::ZERO } else { IDLE };
        let (ring, opening) = match make_ring {
            Some(make) => (make(self.config.reads_in_flight)?, Opening::Ring { direct: false }),
            None => self.ring()?,
        };
        let device = self.shared.device.clone();
        let in_place = ring.writes_to_device();
        let region_bytes = self.sizes.region_bytes as usize;
        let regions = RegionPool::new(
            &device,
            region_bytes,
            self.config.align_bytes as usize,
            self.sizes.batches_max,
            self.config.deadline,
        )?;
        let slab_bytes = self.sizes.limits.block_bytes as usize;
        // Of each batch a gather and its casts, some of which may take several calls.
        let casts = self.selection.dense.iter().filter(|dense| dense.cast.is_some()).count();
        let gathers = (1 + 2 * casts) * self.sizes.batches_max;
        let verifies = self.config.verify == Verify::Checksums;
        let verifier = verifies.then(|| Verifier::new(self.config.samples_max() * self.selection.len()));
        let mut stage = match self.way.is_direct() {
            true => None,
            false => Some(Stage::new(&device, self.sizes.slabs, slab_bytes, gathers, self.config.deadline)?),
        };
        if let Some(stage) = &stage {
            let _ = self.shared.timeline.set(stage.copies.timeline());
        }
        let mut gate = match in_place {
            true => Some(Gate::new(&device, self.sizes.batches_max, gathers, self.config.deadline)?),
            false => None,
        };
        if let Some(gate) = &gate {
            let _ = self.shared.timeline.set(gate.timeline());
        }
        if !self.selection.dense.is_empty() {
            let slower = match (&mut stage, &mut gate) {
                (Some(stage), _) => stage.copies.ready_to_gather(),
                (None, Some(gate)) => gate.ready_to_gather(),
                (None, None) => None,
            };
            slower.into_iter().for_each(|fallback| self.shared.counters.fall_back(fallback));
        }
        for (dense, cast) in self.selection.dense.iter().filter_map(|dense| Some((dense, dense.cast?))) {
            let ready = match (&mut stage, &mut gate) {
                (Some(stage), _) => stage.copies.ready_to_cast(cast),
                (None, Some(gate)) => gate.ready_to_cast(cast),
                (None, None) => Ok(()),
            };
            let name = &*self.selection.fields[dense.field].name;
            ready.map_err(|why| {
                let asked = self.config.fields.casts.iter().find(|wanted| wanted.field == name);
                let problem = format!("{} makes no {} of {name}: {why}", device.name(), cast.to());
                Error::config(asked.map_or("widen", Wanted::option), problem)
            })?;
        }
        let name = ring.name();
        let mut queue = self.queue(ring, opening);
        self.register(&mut queue, &stage, &regions, name);
        // Into the host's memory nobody else gathers.
        let works = verifies || self.way == Way::Host && !self.selection.dense.is_empty();
        let worker = match self.clock.is_simulated() {
            true => works.then(|| Workers::simulated(())),
            false => {
                let waker = queue.waker()?;
                let _ = self.shared.waker.set(waker.clone());
                let jobs = self.sizes.slabs.max(self.sizes.batches_max);
                works.then(|| Workers::start(vec![()], Some(jobs), &waker)).transpose()?
            }
        };
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

    fn ring(&self) -> Result<(Box<dyn Ring>, Opening)> {
        if let Way::Cufile { compat } = self.way {
            self.shared.device.raw().make_current()?;
            let enter = way::enter(&self.shared.device);
            // It is open by now: a read has been tried.
            let ring = Cufile::new(self.config.reads_in_flight, compat, &enter, self.config.deadline);
            return Ok((Box::new(ring.map_err(way::broken)?), Opening::Ring { direct: true }));
        }
        let Config { ring, reads_in_flight, open_files_max, align_bytes, .. } = self.config;
        choose_ring(ring, reads_in_flight, open_files_max, align_bytes, &self.shared.counters)
    }

    fn queue<L: crate::storage::Memory>(&self, ring: Box<dyn Ring>, opening: Opening) -> ReadQueue<L> {
        let shards = self.dataset.shards().iter();
        let shards = shards.map(|shard| ShardFile { path: shard.path.clone(), bytes: shard.bytes }).collect();
        let options = Options {
            depth: self.config.reads_in_flight,
            bytes_in_flight_max: self.config.bytes_in_flight,
            landings: self.sizes.slabs.max(self.sizes.batches_max),
            open_files_max: self.config.open_files_max,
            deadline: self.config.deadline,
            opening,
            clock: self.clock.clone(),
        };
        ReadQueue::new(ring, shards, options, self.shared.counters.clone())
    }

    /// Registers the memory that reads land in, and says what was set up.
    fn register<L: crate::storage::Memory>(
        &self,
        queue: &mut ReadQueue<L>,
        stage: &Option<Stage>,
        regions: &RegionPool,
        ring: &'static str,
    ) {
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
        let (path, path_reason) = match (stage.is_some(), self.config.path) {
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

    fn batches(&self, regions: &RegionPool) -> Vec<Body> {
        let samples = self.config.samples_max();
        let (fields, pieces) = (self.selection.len(), self.sizes.pieces);
        let views = (samples * fields).max(pieces);
        let (dense, on_host) = (&self.selection.dense, self.selection.on_host.len());
        let casts = dense.iter().filter(|dense| dense.cast.is_some()).count();
        // Where the host can address the regions, everything is there; where the storage writes past it, nothing.
        let keeps = self.way == Way::Staged && regions.memory().host().is_none();
        let parts = match self.config.verify {
            Verify::Checksums => samples * fields,
            Verify::Off if keeps => samples * on_host,
            Verify::Off => 0,
        };
        let windows = |pieces| Pieces::with_capacity(if pieces > 0 { samples } else { 0 }, pieces);
        let raises = self.config.bad_samples == BadSamplePolicy::Raise;
        let cuts = (self.sizes.region_bytes / self.config.block_bytes) as usize;
        let batch = |slot| Body {
            slot: slot as u32,
            generation: 0,
            epoch: 0,
            step: 0,
            samples: Vec::with_capacity(samples),
            pieces: windows(pieces),
            padded: 0,
            places: Places {
                samples: Vec::with_capacity(samples),
                pieces: windows(if raises { 0 } else { pieces }),
                ..Places::default()
            },
            careful: false,
            recalls: 0,
            standing: Standing::at(Progress::default()),
            kept: match keeps {
                true => Kept::with_capacity(self.sizes.kept_bytes, views),
                false => Kept::default(),
            },
            plan: Arc::new(
                Plan::with_capacity(views, cuts)
                    .with_arrays(dense.len(), views, cuts)
                    .with_casts(casts, views)
                    .with_parts(parts, cuts),
            ),
            shapes: dense.iter().map(|dense| [&[0], dense.shape.as_slice()].concat()).collect(),
            region: None,
            seq: Seq(0),
            fence: regions.fence(slot),
            fenced: false,
        };
        (0..self.sizes.batches_max).map(batch).collect()
    }
}

/// The ring of that choice for `depth` reads in flight over `files` open files, and how files are opened for it.
pub(crate) fn choose_ring(
    choice: RingChoice,
    depth: usize,
    files: usize,
    align: u64,
    counters: &Counters,
) -> Result<(Box<dyn Ring>, Opening)> {
    let threads = || -> Result<(Box<dyn Ring>, Opening)> {
        Ok((Box::new(Pread::new(depth)?), Opening::Probed(Prober::new(false, align))))
    };
    if choice == RingChoice::Pread {
        return threads();
    }
    if choice == RingChoice::Cufile {
        return Err(Error::config("ring", "cuFile reads into the memory of CUDA devices; leave the ring to be chosen"));
    }
    match (choice, Uring::new(depth, files)) {
        (RingChoice::Auto, Ok(ring)) => Ok((Box::new(ring), Opening::Probed(Prober::new(true, align)))),
        (_, Ok(ring)) => Ok((Box::new(ring), Opening::Ring { direct: true })),
        (RingChoice::Auto, Err(Error::Ring { errno, .. })) => {
            counters.fall_back(no_uring(errno));
            threads()
        }
        (_, Err(error)) => Err(error),
    }
}

/// Memory could not be registered with the ring.
pub(crate) fn not_registered(bytes: usize, errno: i32) -> Fallback {
    Fallback {
        instead: "memory pinned at each read instead of registered".into(),
        reason: format!("{bytes} bytes with io_uring_register"),
        errno: Some(errno),
        remedy: match errno {
            libc::EPERM | libc::EACCES => REGISTER_FORBIDDEN,
            _ => "raise `ulimit -l`, or lower pinned_bytes_max; costs CPU per read, not correctness",
        },
    }
}

pub(crate) fn no_uring(errno: i32) -> Fallback {
    let (reason, remedy) = match errno {
        libc::EPERM | libc::EACCES => (
            "io_uring is forbidden here, by sysctl kernel.io_uring_disabled or by the container's seccomp profile",
            "allow it (`sysctl kernel.io_uring_disabled=0`, `--security-opt seccomp=unconfined`)",
        ),
        libc::ENOSYS => (
            "this kernel or container runtime has no io_uring, or the kernel is older than 5.11",
            "use a newer kernel, or a container runtime that passes io_uring through",
        ),
        libc::ENOMEM => ("locked memory is short", "raise `ulimit -l`"),
        _ => ("io_uring cannot be set up", "run `strait doctor`"),
    };
    Fallback { instead: "pread threads instead of io_uring".into(), reason: reason.into(), errno: Some(errno), remedy }
}
