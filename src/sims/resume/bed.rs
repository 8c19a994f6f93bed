//! A seed's dataset, its ranks' runs, and what they should come to.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::assembly;
use crate::batch::Batch;
use crate::config::{Config, ReadOptions, Verify};
use crate::dataset::{Dataset, Format, Indexing};
use crate::error::Result;
use crate::order::{AtEnd, BadSamplePolicy, Order, Part, Policy, Progress, Rank, Shuffle, Stretch};
use crate::sim::Rng;
use crate::sims::damaged::{Answer, DamagedRing, Damages};
use crate::sims::draw::Shards;
use crate::sims::rank::{Delivered, Expected, Oracle, Ranked, drive, on_machines};
use crate::sims::{Machine, Over};

/// One seed's dataset, and what its runs have in common.
pub(super) struct Bed<'a> {
    pub(super) over: &'a dyn Over,
    pub(super) base: &'a [u8],
    pub(super) record: u64,
    /// Where in `base` each shard starts, and its records.
    pub(super) shards: Vec<(usize, u64)>,
    pub(super) paths: Vec<PathBuf>,
    pub(super) order: Order,
    /// Weights of the first two shards and of the others, where they are two datasets.
    pub(super) mixture: Option<(Vec<u32>, AtEnd)>,
    pub(super) policy: Policy,
    pub(super) bad: BadSamplePolicy,
    pub(super) damages: Damages,
    /// Shards are indexed with checksums.
    pub(super) summed: bool,
}

impl Bed<'_> {
    pub(super) fn new<'a>(rng: &mut Rng, over: &'a dyn Over, shards: &'a Shards, seed: u64) -> Bed<'a> {
        let record = [300 + rng.below(600), 512, 4096, 1 + rng.below(20_000).max(400)][rng.below(4) as usize];
        let (paths, places) = shards.write(rng, record);
        let n = places.iter().map(|(_, records)| records).sum();
        let block = Shuffle::Block { block_samples: 1 + rng.below(9), window: 1 + rng.below(5) };
        let shuffle = [Shuffle::Sequential, Shuffle::Full, block][rng.below(3) as usize];
        let mixture = rng.one_in(3).then(|| {
            let at_end = [AtEnd::Stop, AtEnd::Repeat { positions: 3 + rng.below(2 * n) }][rng.below(2) as usize];
            (vec![1 + rng.below(9) as u32, 1 + rng.below(9) as u32], at_end)
        });
        let first = places[..2].iter().map(|(_, records)| records).sum();
        let mixed = mixture.as_ref().map(|(weights, at_end)| {
            let parts =
                [(first, weights[0]), (n - first, weights[1])].map(|(samples, weight)| Part { samples, weight });
            Order::mixture(&parts, shuffle, seed, *at_end).unwrap()
        });
        // Too short for a step of three ranks: not mixed.
        let mixed = mixed.filter(|order| order.len() >= 3);
        let mixture = mixture.filter(|_| mixed.is_some());
        let order = mixed.unwrap_or_else(|| Order::new(shuffle, n, seed).unwrap());
        let policy = [Policy::Drop, Policy::Pad, Policy::Wrap][rng.below(3) as usize];
        let (bad, damages) = (BadSamplePolicy::Raise, Vec::new());
        let base = &shards.base;
        Bed { over, base, record, shards: places, paths, order, mixture, policy, bad, damages, summed: false }
    }

    /// A stretch of a run that the order has at least one step of.
    pub(super) fn stretch(&self, rng: &mut Rng, steps_max: u64) -> Stretch {
        let world = 1 + rng.below(3) as u32;
        Stretch { world, batch_size: 1 + rng.below((self.order.len() / 3).clamp(1, 40)), steps_max, from: None }
    }

    fn oracle(&self, mut sample: u64) -> &[u8] {
        for &(start, records) in &self.shards {
            if sample < records {
                let at = start + (sample * self.record) as usize;
                return &self.base[at..at + self.record as usize];
            }
            sample -= records;
        }
        panic!("sample past the end");
    }

    pub(super) fn sum(&mut self) {
        let indexing = Indexing { checksums: true, threads: 1, ..Indexing::default() };
        let options = Dataset::options().format(Format::Records).record_bytes(self.record);
        options.index(&self.paths, &indexing, &|_| true).unwrap();
        self.summed = true;
    }

    /// Samples that share a block with damage, or are not what their checksum says.
    pub(super) fn bad_samples(&self) -> BTreeSet<u64> {
        let mut first = 0;
        let mut bad = BTreeSet::new();
        for (shard, &(_, records)) in self.shards.iter().enumerate() {
            for (_, bytes, answer) in self.damages.iter().filter(|(damaged, ..)| *damaged == shard) {
                let touches = |local: &u64| {
                    let (start, end) = (local * self.record, (local + 1) * self.record);
                    if matches!(answer, Answer::Flip) {
                        return (start..end).contains(&bytes.start);
                    }
                    start / 4096 * 4096 < bytes.end && bytes.start < end.next_multiple_of(4096)
                };
                bad.extend((0..records).filter(touches).map(|local| first + local));
            }
            first += records;
        }
        bad
    }

    /// What a loader does, for one rank, on simulated storage.
    pub(super) fn run(&self, rng: &mut Rng, stretch: Stretch, rank: u32, from: Option<&str>, epochs: u64) -> Ranked {
        on_machines(self.over, rng, |rng, machine, reads| {
            let ring = DamagedRing::new(rng, &machine.clock, reads.reads_in_flight, &self.paths, &self.damages);
            let frame = self.frame(rng, machine, reads, stretch, rank);
            machine.strike(rng, true);
            drive(frame, ring, machine, from, epochs, stretch.steps_max, |batch| self.delivered(batch))
        })
    }

    fn frame(
        &self,
        rng: &mut Rng,
        machine: &Machine,
        reads: ReadOptions,
        stretch: Stretch,
        rank: u32,
    ) -> assembly::Frame {
        let config = Config {
            policy: Some(self.policy),
            bad_samples: self.bad,
            verify: if self.summed { Verify::Checksums } else { Verify::Off },
            batch_size: stretch.batch_size as usize,
            shuffle: self.order.shuffle(),
            mixture: self.mixture.clone(),
            seed: self.order.seed(),
            rank: Rank::new(rank, stretch.world).unwrap(),
            prefetch: Some(1 + rng.below(4) as usize),
            reads,
            ..Config::default()
        };
        let (first, others) = self.paths.split_at(if self.mixture.is_some() { 2 } else { self.paths.len() });
        let datasets = [first, others].into_iter().filter(|paths| !paths.is_empty());
        let datasets = datasets.map(|paths| Dataset::records(paths, self.record).unwrap()).collect();
        let dataset = Dataset::concat(datasets).unwrap();
        assembly::frame(dataset, machine.devices().remove(0), config, machine.clock.clone()).unwrap()
    }

    fn delivered(&self, batch: &Batch) -> Result<Delivered> {
        let (view, mut bytes) = (batch.field("record").unwrap(), Vec::new());
        for (i, &sample) in batch.samples().iter().enumerate() {
            assert!(view.read_back(i, &mut bytes)?);
            assert!(bytes == self.oracle(sample), "wrong bytes in sample {sample}");
        }
        Ok(Delivered { epoch: batch.epoch(), samples: batch.samples().to_vec(), padded: batch.padded() })
    }

    /// What a rank should deliver of a stretch, if these samples are bad.
    pub(super) fn expected(
        &self,
        stretch: Stretch,
        rank: u32,
        from: Progress,
        epochs: u64,
        bad: &BTreeSet<u64>,
    ) -> Expected {
        let bad = |_| (0..self.order.samples()).map(|sample| bad.contains(&sample)).collect();
        let Bed { order, policy, bad: bad_samples, .. } = self;
        let oracle = Oracle { order, policy: *policy, bad_samples: *bad_samples, near: false, bad: &bad };
        oracle.expected(stretch, rank, from, epochs)
    }

    /// What the policy does to the ends of epochs that a stretch comes to, counted from world and batch size alone.
    pub(super) fn promised(&self, stretch: Stretch, mut at: Progress, epochs: u64) -> [u64; 3] {
        let (mut counts, mut steps_left) = ([0; 3], stretch.steps_max);
        let global = u64::from(stretch.world) * stretch.batch_size;
        while at.epoch < epochs && steps_left > 0 {
            let rest = self.order.len() - at.consumed;
            let (steps, filled) = match self.policy {
                Policy::Drop => (rest / global, rest % global),
                _ => (rest.div_ceil(global), (global - rest % global) % global),
            };
            if steps_left < steps {
                break;
            }
            let which = [Policy::Drop, Policy::Pad, Policy::Wrap].iter().position(|&policy| policy == self.policy);
            counts[which.unwrap()] += filled;
            steps_left -= steps;
            at = Progress { epoch: at.epoch + 1, consumed: 0 };
        }
        counts
    }
}

/// Draws a few damaged blocks.
pub(super) fn damage(rng: &mut Rng, bed: &Bed) -> Damages {
    let count = 1 + rng.below(3);
    let draw = |_| {
        let shard = rng.below(bed.shards.len() as u64) as usize;
        let blocks = (bed.shards[shard].1 * bed.record).div_ceil(4096);
        let start = rng.below(blocks) * 4096;
        (shard, start..start + 4096 * (1 + rng.below(2)), [Answer::Eio, Answer::End][rng.below(2) as usize])
    };
    (0..count).map(draw).collect()
}
