//! Puts a load together: the plan first, then memory, then, on the engine's thread, ring and streams.

mod direct;
mod frame;
mod staging;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam::channel::Sender;

use super::Builder;
use super::Digest;
use super::check::{Job, Sums};
use super::cursor::{Cursor, Limits};
use super::engine::{Engine, Shard, State};
use super::load::{Load, Output, Shared};
use super::memory::{Hold, Owner, Span, Spot};
use super::pages::Ahead;
use super::plan::{Check, Plan, Where};
use super::tensor::Home;
use crate::assembly::way::stay_near;
use crate::assembly::{MakeRing, not_registered};
use crate::config::{ReadOptions, Way};
use crate::device::{Device, Seq};
use crate::error::{Error, Result};
use crate::launch::{LAUNCH_WAIT_MIN, launch};
use crate::memory::SlabPool;
use crate::outlet::Outlet;
use crate::sim::Clock;
use crate::stats::Setup;
use crate::storage::{ReadQueue, Registered, ShardFile};
use crate::workers::Workers;

pub(super) use frame::{block_sizes, frame};
use staging::Staging;

/// A load to be: planned, its memory there, nothing started.
pub(super) struct Parts {
    plan: Plan,
    way: Way,
    reads: ReadOptions,
    devices: Vec<Device>,
    blocks: Vec<Option<Spot>>,
    files: Arc<[ShardFile]>,
    shared: Arc<Shared>,
    output: Sender<Output>,
    clock: Clock,
}

/// Shards that are read at once: several files, perhaps on several drives, are busy; more would only scatter the reads.
const SHARDS_AT_ONCE: usize = 8;
/// Threads that sum up bytes; each shard has one of them.
const CHECKERS_MAX: usize = 4;

/// The device to stay near, of several: one thread and one set of slabs serve all, so the first whose place is known.
fn placed(devices: &[Device]) -> Option<&Device> {
    devices.iter().find(|device| device.raw().numa_node().is_some())
}

/// No more than can be open: each would close the others' files.
fn shards_at_once(reads: &ReadOptions) -> usize {
    SHARDS_AT_ONCE.min(reads.open_files_max)
}

impl Parts {
    /// Makes the engine, with the ring that the options name or one of the caller's own.
    pub(super) fn assemble(mut self, make_ring: Option<MakeRing>) -> Result<Engine> {
        self.check_unread()?;
        let numa_node = placed(&self.devices).and_then(|device| stay_near(device, &self.shared.counters));
        let device_ring = self.device_ring()?;
        let slab_count = self.slab_count()?;
        let rings = self.rings(device_ring, make_ring, slab_count)?;
        let name = rings.device.as_ref().map_or(rings.ring.name(), |ring| ring.name());
        let Staging { copies, slabs, pinned } = self.staging(slab_count)?;
        let home = |(index, device): (usize, &Device)| {
            let timeline = copies.get(index).map(|copies| copies.queue.timeline());
            Arc::new(Home { device: device.clone(), timeline, deadline: self.reads.deadline })
        };
        let _ = self.shared.homes.set(self.devices.iter().enumerate().map(home).collect());
        let mut queue = self.queue(rings, slab_count);
        if let Some(slabs) = &slabs {
            let (base, bytes) = (slabs.arena().base(), slabs.arena().bytes());
            // SAFETY: the slabs are dropped after the queue (field order of `Engine`), or leaked with it.
            if let Registered::No(errno) = unsafe { queue.register_memory(base, bytes) } {
                self.shared.counters.fall_back(not_registered(bytes, errno));
            }
        }
        self.say_setup(slabs.as_ref(), name, numa_node);
        let checkers = self.checkers(&mut queue)?;
        let ReadOptions { align_bytes: align, block_bytes, gap_bytes, .. } = self.reads;
        let state = self.state();
        let mut engine = Engine {
            ahead: self.ahead(),
            queue,
            checkers,
            copies,
            slabs,
            _pinned: pinned,
            limits: Limits { align, block_bytes, gap_bytes },
            owners: Arc::new(self.owners()),
            plan: self.plan,
            shared: self.shared,
            output: self.output,
            clock: self.clock,
            state,
        };
        engine.hand_over_empty();
        Ok(engine)
    }

    /// A shard of which only tensors without bytes are wanted is never opened.
    fn check_unread(&self) -> Result<()> {
        let shards = self.plan.targets.iter().map(|target| self.shared.tensors[target.place].shard as usize);
        let unread: BTreeSet<usize> = shards.filter(|&shard| self.plan.shards[shard].is_empty()).collect();
        unread.into_iter().try_for_each(|shard| self.files[shard].check())
    }

    /// Threads that sum up what is checked. Where time is simulated all is to happen in one order, on one thread.
    fn checkers(&self, queue: &mut ReadQueue<Hold>) -> Result<Option<Workers<Job>>> {
        let expected: Arc<[Digest]> = self.plan.checks.iter().map(|check| check.digest).collect();
        if self.clock.is_simulated() {
            return Ok((!expected.is_empty()).then(|| Workers::simulated(Sums::new(&expected))));
        }
        let waker = queue.waker()?;
        let _ = self.shared.waker.set(waker.clone());
        if expected.is_empty() {
            return Ok(None);
        }
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let shards = self.plan.shards.iter().filter(|items| !items.is_empty()).count();
        let threads = cores.min(CHECKERS_MAX).min(shards.max(1));
        // As many jobs as windows, which slabs bound, and on the direct path the plan.
        Workers::start((0..threads).map(|_| Sums::new(&expected)).collect(), None, &waker).map(Some)
    }

    /// Has the pages of what was allocated faulted in; last, since it needs no thread as badly as others do.
    fn ahead(&self) -> Ahead {
        if self.clock.is_simulated() {
            return Ahead::default();
        }
        let own = self.blocks.iter().zip(&self.plan.block_bytes).filter_map(|(block, &bytes)| match block {
            Some(Spot { owner: Owner::Load(memory), .. }) => Some((memory.clone(), bytes)),
            _ => None,
        });
        Ahead::start(own.collect(), &self.plan.spans, shards_at_once(&self.reads))
    }

    fn say_setup(&self, slabs: Option<&SlabPool>, ring: &'static str, numa_node: Option<u32>) {
        let (path, reason) = self.path();
        let names: Vec<String> = self.devices.iter().map(Device::name).collect();
        let device = names.join(", ");
        let pages = match slabs {
            Some(slabs) => slabs.arena().pages().as_str(),
            None => self.blocks.iter().flatten().next().map_or("none", Spot::pages),
        };
        let setup = Setup {
            path,
            path_reason: format!("{reason} ({device})"),
            ring,
            device,
            numa_node,
            pages,
            pinned_bytes: slabs.map_or(0, |slabs| slabs.arena().bytes() as u64),
            region_bytes: self.plan.block_bytes.iter().sum(),
        };
        *self.shared.counters.setup.lock().unwrap_or_else(|e| e.into_inner()) = setup;
    }

    fn owners(&self) -> Vec<Owner> {
        let caller = self.plan.targets.iter().filter_map(|target| match &target.memory {
            Where::Caller(place) => Some(Owner::Caller(place.owner.clone())),
            Where::Block(_) => None,
        });
        caller.chain(self.blocks.iter().flatten().map(|block| block.owner.clone())).collect()
    }

    fn state(&self) -> State {
        let plan = &self.plan;
        let mut waiting: VecDeque<usize> = (0..plan.shards.len()).filter(|&i| !plan.shards[i].is_empty()).collect();
        let active = waiting.drain(..waiting.len().min(shards_at_once(&self.reads))).collect();
        let shards = plan.shards.iter().enumerate().map(|(index, items)| {
            let blocks = &plan.spans[index];
            let span = self.blocks.first().and_then(Option::as_ref).filter(|_| !blocks.is_empty()).map(|block| {
                // SAFETY: these blocks of the device's block are this shard's direct items' alone (`Plan::lay_out`), and
                // only this span gives them out. The block is there: it is as long as the plan says. Where it is not the
                // host's, there is a ring that writes to it (`device_ring`).
                unsafe { Span::new(block.at(blocks.start), blocks.end - blocks.start) }
            });
            Shard {
                cursor: Cursor::new(items.clone(), self.files[index].bytes),
                span,
                windows: 0,
                checked: plan.checks.iter().any(|check| check.shard == index),
                turn: 0,
                early: BTreeMap::new(),
            }
        });
        let mut left: Vec<(u64, Seq)> = plan.targets.iter().map(|target| (target.rows.bytes(), Seq(0))).collect();
        for target in plan.checks.iter().flat_map(|check| check.targets.clone()) {
            left[target].0 += 1;
        }
        State {
            shards: shards.collect(),
            active,
            waiting,
            filling: None,
            windows: HashMap::new(),
            next_tag: 0,
            left,
            unchecked: plan.checks.iter().map(|check| check.bytes).collect(),
            list: Vec::new(),
        }
    }
}

impl Shared {
    pub(super) fn device_name(&self, index: usize) -> String {
        self.homes.get().map_or_else(String::new, |homes| homes[index].device.name())
    }

    pub(super) fn corrupt(&self, check: &Check, digest: &Digest) -> Error {
        let what = match check.place {
            Some(place) => format!("tensor `{}`", self.tensors[place].name),
            None => "the file".into(),
        };
        let problem = format!("{what} has the {digest}, and should have {}", check.digest.hex());
        let path = self.paths[check.shard].clone();
        Error::Corrupt { path, offset: check.offset, bytes: check.bytes, problem }
    }
}

/// Starts a load on a thread of its own.
pub(super) fn start(builder: Builder, clock: Clock) -> Result<Load> {
    let bound = builder.reads.deadline.max(LAUNCH_WAIT_MIN);
    start_within(bound, builder, clock)
}

fn start_within(bound: Duration, mut builder: Builder, clock: Clock) -> Result<Load> {
    let make_ring = builder.make_ring.take();
    let (parts, output, shared) = frame(&builder, clock)?;
    let make = move || {
        // Of several, the calls to the others change it back and forth.
        parts.devices.first().map_or(Ok(()), |first| first.raw().make_current())?;
        parts.assemble(make_ring)
    };
    let over = launch(bound, &shared.stopped, make, Engine::run)?;
    let outlet = Outlet::new(output, over, shared.stopped.clone(), shared.deadline);
    let left = shared.targets.len();
    Ok(Load { outlet, shared, left })
}

#[cfg(test)]
mod tests {
    use crossbeam::channel;

    use super::*;
    use crate::device::SimDevice;
    use crate::sim::Rng;
    use crate::storage::{Completion, RawRead, Ring};
    use crate::weights::Checkpoint;
    use crate::weights::checkpoints::{Made, write};

    /// Says how many reads it was asked for when it goes.
    struct Asked(u64, Sender<u64>);

    // SAFETY: it starts nothing.
    unsafe impl Ring for Asked {
        fn name(&self) -> &'static str {
            "asked"
        }

        fn capacity(&self) -> usize {
            1
        }

        unsafe fn submit(&mut self, _: RawRead) -> Result<()> {
            self.0 += 1;
            Err(Error::Stopped { reason: "this ring reads nothing".into() })
        }

        fn poll(&mut self, _: usize, _: Duration, _: &mut Vec<Completion>) -> Result<()> {
            Ok(())
        }
    }

    impl Drop for Asked {
        fn drop(&mut self) {
            let _ = self.1.send(self.0);
        }
    }

    /// Mutants that this catches: near no device where there are several; near the last of them.
    #[test]
    fn an_engine_stays_near_the_first_device_whose_place_is_known() {
        let on = |node: u32| Device::new(Arc::new(SimDevice::new(node.into(), Clock::real()).on_node(node)));
        let nowhere = Device::host();
        let node = |devices: &[Device]| placed(devices).and_then(|device| device.raw().numa_node());
        assert_eq!(node(&[]), None);
        assert_eq!(node(&[on(3)]), Some(3));
        assert_eq!(node(&[nowhere, on(1), on(0), on(2)]), Some(1));
    }

    /// Mutant that this catches: an engine that runs though nobody waits for it any more.
    #[test]
    fn an_engine_that_comes_too_late_reads_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let made = [Made::new(&mut Rng::new(1), "w", crate::DType::U8, &[300_000])];
        let checkpoint = Checkpoint::open(write(directory.path(), "m.safetensors", &made, 0)).unwrap();
        let (go, wait) = channel::bounded::<()>(0);
        let (asked, reads) = channel::bounded(1);
        let builder = checkpoint.load().device(Device::host()).custom_ring(move |_| {
            let _ = wait.recv(); // until the start has failed
            Ok(Box::new(Asked(0, asked)))
        });
        let error = start_within(Duration::from_millis(1), builder, Clock::real()).err().expect("no engine yet");
        assert!(matches!(error, Error::Timeout { .. }), "{error}");
        drop(go);
        assert_eq!(reads.recv_timeout(Duration::from_secs(20)), Ok(0));
    }
}
