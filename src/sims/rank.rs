//! What one rank of a run delivers on simulated storage, and what it should.

use std::collections::BTreeSet;

use super::damaged::DamagedRing;
use super::draw::draw_reads;
use super::machine::{Machine, Over};
use crate::assembly;
use crate::batch::Batch;
use crate::config::ReadOptions;
use crate::engine::{Message, Output};
use crate::error::{Error, Result};
use crate::order::{BadSamplePolicy, Cursor, IfChanged, Order, Policy, Progress, Rank, Schedule, Standing, Stretch};
use crate::sim::Rng;
use crate::stats::Stats;

/// More turns than any rank needs: beyond, the pipeline hangs.
const TURNS_MAX: u64 = 400_000;

/// What one rank came to.
pub(super) struct Ranked {
    pub(super) batches: Vec<Delivered>,
    pub(super) cursor: Cursor,
    pub(super) stats: Stats,
    pub(super) failure: Option<Error>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Delivered {
    pub(super) epoch: u64,
    pub(super) samples: Vec<u64>,
    pub(super) padded: u64,
}

/// Runs on a machine, and on another where that breaks: what it had come to by then is the beginning of the whole.
pub(super) fn on_machines(
    over: &dyn Over,
    rng: &mut Rng,
    mut run: impl FnMut(&mut Rng, &Machine, ReadOptions) -> Ranked,
) -> Ranked {
    let mut broken: Vec<Ranked> = Vec::new();
    loop {
        let machine = Machine::draw(rng, over, 1);
        let mut reads = draw_reads(rng);
        over.adapt(&mut reads, &machine);
        let ranked = run(rng, &machine, reads);
        let broke = ranked.failure.as_ref().is_some_and(|error| machine.broke(error));
        machine.close(false);
        if !broke {
            assert!(broken.iter().all(|other| ranked.batches.starts_with(&other.batches)), "not the same as before");
            return ranked;
        }
        broken.push(ranked);
    }
}

/// Runs a pipeline from a cursor, or from the start, to the end of its epochs or for so many steps.
pub(super) fn drive(
    frame: assembly::Frame,
    ring: DamagedRing,
    machine: &Machine,
    from: Option<&str>,
    epochs: u64,
    steps_max: u64,
    mut delivered: impl FnMut(&Batch) -> Result<Delivered>,
) -> Ranked {
    let assembly::Frame { engine, messages, output, shared, supply } = frame;
    let mut engine = engine.assemble(Some(Box::new(move |_| Ok(Box::new(ring) as _)))).unwrap();
    let mut standing = Standing::at(Progress::default());
    if let Some(text) = from {
        let cursor = Cursor::parse(text.as_bytes()).unwrap();
        assert_eq!(cursor.resume(&shared.start, IfChanged::Refuse).unwrap(), cursor.progress);
        standing = Standing::of(&cursor);
    }
    let (mut batches, mut failure, mut generation) = (Vec::new(), None, 0);
    while standing.progress.epoch < epochs && (batches.len() as u64) < steps_max && failure.is_none() {
        let (epoch, source) = (standing.progress.epoch, supply.source(standing.progress, standing.packer).unwrap());
        generation += 1;
        messages.send(Message::Epoch { generation, source, standing: standing.clone() }).unwrap();
        for turn in 0.. {
            assert!(turn < TURNS_MAX && engine.turn(), "no end of epoch {epoch}");
            machine.turn();
            match output.try_recv() {
                Ok(Output::Batch(body)) => {
                    let batch = Batch::new(body, messages.clone(), shared.clone());
                    match delivered(&batch) {
                        Ok(delivered) => batches.push(delivered),
                        Err(error) => {
                            failure = Some(error);
                            break;
                        }
                    }
                    standing = Standing::of(&batch.cursor());
                    if batches.len() as u64 == steps_max {
                        break;
                    }
                }
                Ok(Output::End(_)) => {
                    standing.start_epoch(epoch + 1);
                    break;
                }
                Ok(Output::Failed(_, error)) => {
                    failure = Some(error);
                    break;
                }
                Err(_) => {}
            }
        }
    }
    Ranked { batches, cursor: standing.cursor(&shared.start), stats: shared.counters.snapshot(), failure }
}

/// What is known of a run beforehand: nothing of what is read ahead, or in which order reads end.
pub(super) struct Oracle<'a> {
    pub(super) order: &'a Order,
    pub(super) policy: Policy,
    pub(super) bad_samples: BadSamplePolicy,
    /// Stand-ins are the first of an epoch.
    pub(super) near: bool,
    /// Of each sample, by number, whether it is bad in that epoch.
    pub(super) bad: &'a dyn Fn(u64) -> Vec<bool>,
}

/// What a rank should come to.
#[derive(Default)]
pub(super) struct Expected {
    pub(super) batches: Vec<Delivered>,
    /// Bad samples that were come upon.
    pub(super) met: BTreeSet<u64>,
    /// Places that bad samples had; of padding not.
    pub(super) places: u64,
}

impl Oracle<'_> {
    /// What a rank should deliver of a stretch.
    pub(super) fn expected(&self, stretch: Stretch, rank: u32, mut at: Progress, epochs: u64) -> Expected {
        let rank = Rank::new(rank, stretch.world).unwrap();
        let schedule = Schedule::new(self.order.clone(), stretch.batch_size, rank, self.policy).unwrap();
        let mut expected = Expected::default();
        while at.epoch < epochs && (expected.batches.len() as u64) < stretch.steps_max {
            let bad = (self.bad)(at.epoch);
            let steps = schedule.steps(at).unwrap();
            let left = stretch.steps_max - expected.batches.len() as u64;
            for step in 0..steps.len().min(left) {
                let mut places = Vec::new();
                let padded = steps.batch(step, &mut places) as usize;
                let real = places.len() - padded;
                let mut delivered = Delivered { epoch: at.epoch, samples: Vec::new(), padded: 0 };
                for (index, &place) in places.iter().enumerate() {
                    expected.places += u64::from(bad[place as usize] && index < real);
                    let position = steps.position(step, index as u64);
                    if let Some(sample) = self.stand_in(at.epoch, place, position, &bad, &mut expected.met) {
                        delivered.samples.push(sample);
                        delivered.padded += u64::from(index >= real);
                    }
                }
                expected.batches.push(delivered);
            }
            at = match steps.len() <= left {
                true => Progress { epoch: at.epoch + 1, consumed: 0 },
                false => steps.progress_after(left - 1),
            };
        }
        expected
    }
    /// What stands in a place in the end: its own sample, another in its stead, or nothing.
    fn stand_in(&self, epoch: u64, place: u64, position: u64, bad: &[bool], met: &mut BTreeSet<u64>) -> Option<u64> {
        let (mut sample, mut attempts) = (place, 0..);
        while bad[sample as usize] {
            met.insert(sample);
            if self.bad_samples != BadSamplePolicy::Replace {
                return None;
            }
            let len = self.order.len();
            sample = self.order.replacement_of(place, epoch, position % len, attempts.next()?);
            if self.near {
                sample = (u128::from(sample) * u128::from(len.min(1024)) / u128::from(len)) as u64;
            }
        }
        Some(sample)
    }
}
