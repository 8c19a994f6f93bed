//! The whole pipeline from one seed: reads out of order, short, refused, stalled; copies late; consumers that stop.
//!
//! The oracle is the shards' bytes.

mod batch;
mod contents;
mod damage;
mod given_up;
mod in_place;
mod made;
mod options;
#[cfg(feature = "nvtx")]
mod ranges;

use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender};

use self::contents::Contents;
use self::damage::Damaged;
use self::options::Draw;
use super::draw::Shards;
use super::for_seeds;
use super::machine::{Drawn, Machine};
#[cfg(feature = "cuda")]
use super::{over_cuda, over_cufile};
use crate::batch::Batch;
use crate::engine::{Engine, Message, Output, Shared};
use crate::error::Error;
use crate::order::{Progress, Standing};
use crate::sim::Rng;
use crate::source::Supply;
use crate::stall::Signs;
use crate::stats::Fallback;
use crate::storage::Faults;

/// More turns than any seed needs: beyond, the pipeline hangs.
const TURNS_MAX: u64 = 200_000;

/// One seed's pipeline and its consumer.
struct Run<'a> {
    rng: Rng,
    base: &'a [u8],
    contents: Contents,
    draw: Draw,
    machine: Machine,
    engine: Engine,
    output: Receiver<Output>,
    messages: Sender<Message>,
    shared: Arc<Shared>,
    supply: Supply,
    generation: u64,
    /// Batches, and which of the consumer's streams each is used on.
    held: Vec<(Batch, usize)>,
    faults: Faults,
    damaged: Damaged,
}

impl Run<'_> {
    fn run(mut self) {
        self.epochs();
        self.finish();
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
            Supply::Samples(schedule) | Supply::Windows(schedule, ..) | Supply::Packed(schedule, ..) => {
                let steps = schedule.steps(from).unwrap();
                for step in 0..steps.len() {
                    let padded = steps.batch(step, &mut samples);
                    all.push(self.come_to(from.epoch, (samples.clone(), padded), steps.position(step, 0)));
                }
            }
            Supply::Budget(schedule, _) => {
                let mut steps = schedule.steps(from).unwrap();
                while let Some(padded) =
                    steps.next(|sample| self.draw.length(&self.contents, sample), &mut samples).unwrap()
                {
                    all.push(self.come_to(from.epoch, (samples.clone(), padded), 0));
                }
            }
        }
        all
    }

    /// The batch without those of its samples that are bad, or with others in their places.
    fn come_to(&self, epoch: u64, step: (Vec<u64>, u64), position: u64) -> (Vec<u64>, u64) {
        let policy = self.draw.config.bad_samples;
        self.damaged.leave_out(self.supply.order(), epoch, &step, position, policy)
    }

    /// Consumes one epoch; false once the pipeline has reported that it is broken.
    fn epoch(&mut self, epoch: u64, steps: &[(Vec<u64>, u64)], leave_at: u64) -> bool {
        let mut step = 0;
        let shared = self.shared.clone();
        let signs = || Signs { turns: 0, ..shared.signs() };
        let mut since = (0, self.machine.clock.now(), signs());
        for turn in 0..TURNS_MAX {
            assert!(self.engine.turn());
            self.machine.turn();
            let now = self.machine.clock.now();
            if since.2 != signs() {
                since = (turn, now, signs());
            }
            if turn - since.0 > 100 && now - since.1 > 2 * self.shared.deadline {
                assert!(self.machine.may_stand(since.2.held_up), "no error at step {step}");
                return false;
            }
            self.consume_some();
            if self.rng.one_in(2) {
                continue; // a slow consumer
            }
            match self.output.try_recv() {
                Ok(Output::Batch(body)) if body.generation == self.generation => {
                    let batch = Batch::new(body, self.messages.clone(), self.shared.clone());
                    assert_eq!((batch.epoch(), batch.step()), (epoch, step), "out of order");
                    // One that nobody looks at goes back at once: what fills it may be under way.
                    if !self.rng.one_in(6) {
                        let stream = self.rng.below(2) as usize;
                        self.check(&batch, &steps[step as usize], stream);
                        self.held.push((batch, stream));
                    }
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

    /// Gives back some of the batches that are held; never holds more than it said.
    fn consume_some(&mut self) {
        while self.held.len() >= self.draw.config.hold || (!self.held.is_empty() && self.rng.one_in(3)) {
            let index = self.rng.below(self.held.len() as u64) as usize;
            let (batch, stream) = self.held.swap_remove(index);
            release(&self.machine, batch, stream);
        }
    }

    fn check_error(&self, error: &Error) -> bool {
        let text = error.to_string();
        match error {
            Error::Io { errno: libc::EIO, .. } => {
                assert!(self.faults.io_error > 0 && (text.contains(".bin") || text.contains(".tar")), "{text}")
            }
            Error::Io { errno: libc::EAGAIN | libc::EINTR, .. } => assert!(self.faults.again > 0, "{text}"),
            Error::Timeout { .. } => assert!(self.faults.stall > 0 || self.machine.struck, "{text}"),
            Error::BadSample { cause: Some(cause), .. } => {
                assert!(self.faults.flip > 0 && matches!(**cause, Error::Corrupt { .. }), "{text}");
                assert!(text.contains("of sample") && text.contains("CRC32C") && text.contains("at byte"), "{text}");
            }
            error if self.machine.broke(error) => {}
            _ => panic!("unexpected: {text}"),
        }
        !self.machine.struck
    }

    /// Lets everything go, in either order, and looks at what is left.
    fn finish(mut self) {
        let stats = self.shared.counters.snapshot();
        // Sizes may differ so much that the small ones of a batch find no room on the host.
        let crowded = |fallback: &Fallback| !self.draw.on_host.is_empty() && fallback.remedy.contains("`on_host`");
        let refused = |fallback: &Fallback| self.machine.struck && fallback.reason.contains("cuMemcpyBatchAsync");
        let expected = |fallback: &Fallback| crowded(fallback) || refused(fallback);
        assert!(stats.fallbacks.iter().all(expected), "{:?}", stats.fallbacks);
        let late = std::mem::take(&mut self.held);
        let engine_first = self.rng.one_in(2);
        let Run { engine, output, messages, shared, machine, faults, .. } = self;
        let release = |(batch, stream): (Batch, usize)| release(&machine, batch, stream);
        // Consumers' streams still have reads to do: the memory must outlast them.
        if engine_first {
            drop((engine, output, messages, shared));
            late.into_iter().for_each(release);
        } else {
            late.into_iter().for_each(release);
            drop((engine, output, messages, shared));
        }
        machine.close(faults.stall > 0);
    }
}

/// Gives a batch back behind one of the consumer's streams, which all its reads are on.
fn release(machine: &Machine, batch: Batch, stream: usize) {
    let Some(side) = machine.sides.first() else { return drop(batch) };
    // SAFETY: a live stream of this device; all reads of the batch are on it.
    if let Err(error) = unsafe { batch.release_on(side.streams()[stream]) } {
        assert!(machine.broke(&error), "{error}");
    }
}

#[test]
fn every_seed_delivers_exact_bytes_or_says_why_not() {
    let shards = Shards::new();
    for_seeds(300, |seed, _| Run::new(seed, &shards, &Drawn).run());
}

/// Mutants that this catches: a batch that does not wait for the fence of its region, or of its own; a fence dropped as its
/// batch comes back, or as its body or its engine goes; an event that is not done taken for done; a table of moves that is
/// filled again too early; a mark that counts though its record failed.
#[cfg(feature = "cuda")]
#[test]
fn every_seed_over_cuda() {
    let shards = Shards::new();
    over_cuda(50, |seed, _, over| Run::new(seed, &shards, over).run());
}

/// Mutants that this catches: an event's status that is not read; an entry that is given up taken for failed; no offset into
/// registered memory; a short read taken for whole; a batch used again while entries are in flight; only the first of several
/// events looked at; a handle of another file; a region that comes back past the gate, or past its fence.
#[cfg(feature = "cuda")]
#[test]
fn every_seed_over_cufile() {
    let shards = Shards::new();
    over_cufile(25, |seed, _, over| Run::new(seed, &shards, over).run());
}

#[test]
fn a_dropped_engine_drains_in_bounded_time() {
    let shards = Shards::new();
    for seed in 0..50 {
        let mut run = Run::new(seed, &shards, &Drawn);
        let source = run.supply.source(Progress::default(), None).unwrap();
        run.messages
            .send(Message::Epoch { generation: 1, source, standing: Standing::at(Progress::default()) })
            .unwrap();
        for _ in 0..run.rng.below(5) {
            run.engine.turn();
        }
        let (clock, before) = (run.machine.clock.clone(), run.machine.clock.now());
        drop(run.engine);
        assert!(clock.now() - before < Duration::from_secs(70), "seed {seed}: {:?}", clock.now() - before);
    }
}
