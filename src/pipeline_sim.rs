//! The whole pipeline from one seed: reads out of order, short, refused, stalled; copies late; consumers that stop.
//!
//! The oracle is the shards' bytes. A failure prints its seed; `STRAIT_SIM_SEED=n` runs that seed alone, and
//! `STRAIT_SIM_SEEDS=n` so many.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender};
use tempfile::TempDir;

use crate::assembly;
use crate::batch::Batch;
use crate::config::Config;
use crate::dataset::Dataset;
use crate::device::{Device, RawStream, SimDevice, SimFaults, SimRead};
use crate::engine::{Engine, Message, Output, Shared};
use crate::error::Error;
use crate::order::{AtEnd, Bucketing, Budget, Cost, Policy, Progress, Rank, Shuffle, Standing};
use crate::sim::{Clock, Rng};
use crate::source::Supply;
use crate::storage::{Faults, SimRing};

/// More turns than any seed needs: beyond, the pipeline hangs.
const TURNS_MAX: u64 = 200_000;

pub(crate) struct Shards {
    pub(crate) directory: TempDir,
    pub(crate) base: Vec<u8>,
}

impl Shards {
    pub(crate) fn new() -> Shards {
        let mut rng = Rng::new(7);
        let base = (0..1 << 17).flat_map(|_| rng.next_u64().to_le_bytes()).collect();
        Shards { directory: tempfile::tempdir().unwrap(), base }
    }

    /// Writes shards whose contents are slices of `base`; gives their paths and where in `base` each starts.
    pub(crate) fn write(&self, rng: &mut Rng, record: u64) -> (Vec<PathBuf>, Vec<(usize, u64)>) {
        let shard = |i: u64| {
            let records = rng.below((100_000 / record).max(3)) + 1;
            let start = rng.below(64) as usize * 8;
            let path = self.directory.path().join(format!("{i}.bin"));
            std::fs::write(&path, &self.base[start..start + (records * record) as usize]).unwrap();
            (path, (start, records))
        };
        (0..4).map(shard).unzip()
    }
}

/// One seed's pipeline and its consumer.
struct Run<'a> {
    rng: Rng,
    base: &'a [u8],
    record: u64,
    shards: Vec<(usize, u64)>,
    clock: Clock,
    sim: Option<Arc<SimDevice>>,
    /// The consumer's own streams; a batch uses one of them.
    streams: Vec<RawStream>,
    engine: Engine,
    output: Receiver<Output>,
    messages: Sender<Message>,
    shared: Arc<Shared>,
    supply: Supply,
    generation: u64,
    held: Vec<(Batch, usize)>,
    reads: Vec<(u64, SimRead)>,
    faults: Faults,
    device_faults: bool,
}

impl Run<'_> {
    fn new(seed: u64, shards: &Shards) -> Run<'_> {
        let mut rng = Rng::new(seed);
        let record = [1 + rng.below(600), 512, 4096, 1 + rng.below(20_000)][rng.below(4) as usize];
        let (paths, places) = shards.write(&mut rng, record);
        // Four shards of a dataset, or four datasets; sample ids are the same.
        let mixed = rng.one_in(3);
        let dataset = match mixed {
            true => {
                Dataset::concat(paths.iter().map(|path| Dataset::records(&[path], record).unwrap()).collect()).unwrap()
            }
            false => Dataset::records(&paths, record).unwrap(),
        };
        let clock = Clock::simulated();
        let staged = rng.one_in(2);
        let sim = staged.then(|| Arc::new(SimDevice::new(rng.next_u64(), clock.clone())));
        let device_faults = staged && rng.one_in(4);
        if let (Some(sim), true) = (&sim, device_faults) {
            let at = Some(1 + rng.below(20));
            let faults = [
                SimFaults { copy_fails: at, ..SimFaults::default() },
                SimFaults { mark_fails: at, ..SimFaults::default() },
                SimFaults { lost: at, ..SimFaults::default() },
                SimFaults { stalls: at, ..SimFaults::default() },
            ];
            sim.set_faults(faults[rng.below(4) as usize]);
        }
        let streams = sim.iter().flat_map(|sim| [sim.consumer_stream(), sim.consumer_stream()]).collect();
        let device = sim.clone().map_or_else(Device::host, |sim| Device::new(sim));
        let block_bytes = 4096 << rng.below(5);
        let world = 1 + rng.below(3) as u32;
        let rank = Rank::new(rng.below(world.into()) as u32, world).unwrap();
        let block = Shuffle::Block { block_samples: 1 + rng.below(9), window: 1 + rng.below(5) };
        let shuffle = [Shuffle::Sequential, Shuffle::Full, block][rng.below(3) as usize];
        let policy = [Policy::Pad, Policy::Wrap][rng.below(2) as usize];
        let weights = (0..4).map(|_| 1 + rng.below(5) as u32).collect();
        let at_end = [AtEnd::Stop, AtEnd::Repeat { positions: 1 + rng.below(500) }][rng.below(2) as usize];
        let samples_max = 1 + rng.below(40);
        let cost = [Cost::Sum, Cost::Padded][rng.below(2) as usize];
        let budget = Budget { samples_max, cost_max: record * (1 + rng.below(30)), cost };
        let window = 1 + rng.below(50);
        let bucketing = Bucketing { window, run: 1 + rng.below(window) };
        let config = Config {
            mixture: mixed.then_some((weights, at_end)),
            budget: rng.one_in(3).then_some((budget, bucketing)),
            policy: Some(policy),
            batch_size: 1 + rng.below(40) as usize,
            shuffle,
            rank,
            seed,
            prefetch: Some(1 + rng.below(4) as usize),
            hold: 2,
            block_bytes,
            gap_bytes: [0, 4096, 16 << 10][rng.below(3) as usize],
            reads_in_flight: 1 + rng.below(32) as usize,
            bytes_in_flight: block_bytes * (1 + rng.below(16)),
            open_files_max: 1 + rng.below(4) as usize,
            ..Config::default()
        };
        let depth = config.reads_in_flight;
        let rare = |rng: &mut Rng, n: u64| if rng.one_in(2) { n } else { 0 };
        let faults = Faults {
            short: rare(&mut rng, 5),
            again: rare(&mut rng, 10),
            io_error: if rng.one_in(4) { 50 } else { 0 },
            stall: if rng.one_in(10) { 100 } else { 0 },
            write_fails: None,
        };
        let frame = assembly::frame(dataset, device, config, clock.clone()).unwrap();
        let (ring_seed, ring_clock) = (rng.next_u64(), clock.clone());
        let make = move |_| Ok(Box::new(SimRing::new(ring_seed, ring_clock, depth, faults)) as _);
        let engine = frame.engine.assemble(Some(Box::new(make))).unwrap();
        let (output, messages, shared) = (frame.output, frame.messages, frame.shared);
        Run {
            rng,
            base: &shards.base,
            record,
            shards: places,
            clock,
            sim,
            streams,
            engine,
            output,
            messages,
            shared,
            supply: frame.supply,
            generation: 0,
            held: Vec::new(),
            reads: Vec::new(),
            faults,
            device_faults,
        }
    }

    fn oracle(&self, sample: u64) -> &[u8] {
        oracle(self.base, self.record, &self.shards, sample)
    }

    /// Runs a few epochs, some only in part.
    fn epochs(&mut self) {
        for epoch in 0..1 + self.rng.below(3) {
            self.generation += 1;
            while let Ok(stale) = self.output.try_recv() {
                if let Output::Batch(body) = stale {
                    self.messages.send(Message::Release(body)).unwrap();
                }
            }
            let consumed = if self.rng.one_in(3) { self.rng.below(self.supply.order().len() + 1) } else { 0 };
            let from = Progress { epoch, consumed };
            let (steps, source) = (self.steps(from), self.supply.source(from, None).unwrap());
            self.messages
                .send(Message::Epoch { generation: self.generation, source, standing: Standing::at(from) })
                .unwrap();
            let leave_at = if self.rng.one_in(3) { self.rng.below(10) } else { u64::MAX };
            if !self.epoch(epoch, &steps, leave_at) {
                return;
            }
        }
    }

    /// What the order says: the samples of each step and how many are padding, straight from the schedules.
    fn steps(&self, from: Progress) -> Vec<(Vec<u64>, u64)> {
        let mut all = Vec::new();
        let mut samples = Vec::new();
        match &self.supply {
            Supply::Samples(schedule) => {
                let steps = schedule.steps(from).unwrap();
                for step in 0..steps.len() {
                    let padded = steps.batch(step, &mut samples);
                    all.push((samples.clone(), padded));
                }
            }
            Supply::Budget(schedule, _) => {
                let mut steps = schedule.steps(from).unwrap();
                while let Some(padded) = steps.next(|_| self.record, &mut samples).unwrap() {
                    all.push((samples.clone(), padded));
                }
            }
            Supply::Windows(..) | Supply::Packed(..) => panic!("no windows were asked for"),
        }
        all
    }

    /// Consumes one epoch; false once the pipeline has reported that it is broken.
    fn epoch(&mut self, epoch: u64, steps: &[(Vec<u64>, u64)], leave_at: u64) -> bool {
        let mut step = 0;
        for _ in 0..TURNS_MAX {
            assert!(self.engine.turn());
            self.consume_some();
            if self.rng.one_in(2) {
                continue; // a slow consumer
            }
            match self.output.try_recv() {
                Ok(Output::Batch(body)) if body.generation == self.generation => {
                    let batch = Batch::new(body, self.messages.clone(), self.shared.clone());
                    assert_eq!((batch.epoch(), batch.step()), (epoch, step), "out of order");
                    let stream = self.rng.below(2) as usize;
                    self.check(&batch, &steps[step as usize], stream);
                    self.held.push((batch, stream));
                    step += 1;
                    if step >= leave_at {
                        return true;
                    }
                }
                Ok(Output::Batch(body)) => self.messages.send(Message::Release(body)).unwrap(),
                Ok(Output::Failed(generation, error)) if generation == self.generation => {
                    return self.check_error(&error);
                }
                Ok(Output::End(generation)) if generation == self.generation => {
                    assert_eq!(step, steps.len() as u64, "the end came early");
                    return true;
                }
                Ok(_) | Err(_) => {}
            }
        }
        panic!("no end after {TURNS_MAX} turns, at step {step}");
    }

    fn check(&mut self, batch: &Batch, (want, padded): &(Vec<u64>, u64), stream: usize) {
        assert_eq!((batch.samples(), batch.padded()), (want.as_slice(), *padded));
        let view = batch.field("record").unwrap();
        let Some(sim) = self.sim.clone() else {
            for (i, &sample) in want.iter().enumerate() {
                assert!(view.host_bytes(i).unwrap().unwrap() == self.oracle(sample), "wrong bytes in sample {sample}");
            }
            return;
        };
        // The consumer reads on its own stream, some time later.
        let stream = self.streams[stream];
        // SAFETY: a live stream of this device.
        if unsafe { batch.wait_on(stream) }.is_err() {
            return assert!(self.device_faults);
        }
        for (i, &sample) in want.iter().enumerate() {
            let source = view.device_ptr() + view.offsets()[i];
            if let Ok(read) = sim.consumer_read(stream, source, view.lengths()[i] as usize) {
                self.reads.push((sample, read));
            }
        }
    }

    /// Gives back some of the batches that are held; never holds more than two.
    fn consume_some(&mut self) {
        while self.held.len() > 1 || (!self.held.is_empty() && self.rng.one_in(3)) {
            let index = self.rng.below(self.held.len() as u64) as usize;
            let (batch, stream) = self.held.swap_remove(index);
            self.release(batch, stream);
        }
    }

    fn release(&self, batch: Batch, stream: usize) {
        let Some(&stream) = self.streams.get(stream) else { return drop(batch) };
        // SAFETY: a live stream of this device; all reads of the batch are on it.
        if unsafe { batch.release_on(stream) }.is_err() {
            assert!(self.device_faults);
        }
    }

    fn check_error(&self, error: &Error) -> bool {
        let text = error.to_string();
        match error {
            Error::Io { errno: libc::EIO, .. } => assert!(self.faults.io_error > 0 && text.contains(".bin"), "{text}"),
            Error::Io { errno: libc::EAGAIN | libc::EINTR, .. } => assert!(self.faults.again > 0, "{text}"),
            Error::Timeout { .. } => assert!(self.faults.stall > 0 || self.device_faults, "{text}"),
            Error::Device { .. } => assert!(self.device_faults, "{text}"),
            _ => panic!("unexpected: {text}"),
        }
        !matches!(error, Error::Device { .. }) && !self.device_faults
    }

    /// Lets everything go, in either order, and looks at what is left.
    fn finish(mut self) {
        let stats = self.shared.counters.snapshot();
        assert!(stats.fallbacks.is_empty(), "{:?}", stats.fallbacks);
        let late = std::mem::take(&mut self.held);
        let engine_first = self.rng.one_in(2);
        let (sim, reads) = (self.sim.take(), std::mem::take(&mut self.reads));
        let Run { engine, output, messages, shared, streams, base, record, shards, faults, device_faults, .. } = self;
        let release = |(batch, stream): (Batch, usize)| match streams.get(stream) {
            // SAFETY: a live stream of this device; all reads of the batch are on it.
            Some(&stream) => assert!(unsafe { batch.release_on(stream) }.is_ok() || device_faults),
            None => drop(batch),
        };
        // Consumers' streams still have reads to do: the memory must outlast them.
        if engine_first {
            drop((engine, output, messages, shared));
            late.into_iter().for_each(release);
        } else {
            late.into_iter().for_each(release);
            drop((engine, output, messages, shared));
        }
        let Some(sim) = sim else { return };
        let too_early = |text: &&String| text.contains("freed while") || text.contains("unpinned while");
        let violations = sim.violations();
        assert_eq!(violations.iter().find(too_early), None, "memory went before its last user");
        assert!(device_faults || violations.is_empty(), "{violations:?}");
        sim.settle();
        for (sample, read) in reads {
            match read.bytes() {
                Some(bytes) => {
                    assert!(bytes == oracle(base, record, &shards, sample), "wrong bytes in sample {sample}")
                }
                None => assert!(device_faults, "the consumer's read of sample {sample} never happened"),
            }
        }
        if faults.stall == 0 && !device_faults {
            assert_eq!((sim.allocated_bytes(), sim.live_fences()), (0, 0), "not everything was given back");
        }
    }
}

/// The bytes of a sample, from what the shards were written from.
fn oracle<'a>(base: &'a [u8], record: u64, shards: &[(usize, u64)], mut sample: u64) -> &'a [u8] {
    for &(start, records) in shards {
        if sample < records {
            let at = start + (sample * record) as usize;
            return &base[at..at + record as usize];
        }
        sample -= records;
    }
    panic!("sample past the end");
}

#[test]
fn every_seed_delivers_exact_bytes_or_says_why_not() {
    let number = |name| std::env::var(name).ok().and_then(|text: String| text.parse().ok());
    let seeds = match number("STRAIT_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("STRAIT_SIM_SEEDS").unwrap_or(1000),
    };
    let shards = Shards::new();
    for seed in seeds {
        let run = AssertUnwindSafe(|| {
            let mut run = Run::new(seed, &shards);
            run.epochs();
            run.finish();
        });
        if let Err(panic) = catch_unwind(run) {
            eprintln!("seed {seed} failed; run it alone with STRAIT_SIM_SEED={seed}");
            resume_unwind(panic);
        }
    }
}

#[test]
fn a_dropped_engine_drains_in_bounded_time() {
    let shards = Shards::new();
    for seed in 0..50 {
        let mut run = Run::new(seed, &shards);
        let source = run.supply.source(Progress::default(), None).unwrap();
        run.messages
            .send(Message::Epoch { generation: 1, source, standing: Standing::at(Progress::default()) })
            .unwrap();
        for _ in 0..run.rng.below(5) {
            run.engine.turn();
        }
        let (clock, before) = (run.clock.clone(), run.clock.now());
        drop(run.engine);
        assert!(clock.now() - before < Duration::from_secs(70), "seed {seed}: {:?}", clock.now() - before);
    }
}
