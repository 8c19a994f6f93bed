//! Runs of several ranks from one seed, each a simulated pipeline with real bytes: they stop, go on in another world,
//! and meet blocks that cannot be read. What every rank delivers is compared with the order, batch by batch.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::damaged::{Answer, DamagedRing, Damages};
use super::draw::Shards;
use super::for_seeds;
use super::machine::{Drawn, Machine, Over};
#[cfg(feature = "cuda")]
use super::over_cuda;
use super::rank::{Delivered, Expected, Oracle, Ranked, drive, on_machines};
use crate::assembly;
use crate::batch::Batch;
use crate::config::{Config, ReadOptions, Verify};
use crate::dataset::{Dataset, Format, Indexing};
use crate::error::{Error, Result};
use crate::order::{AtEnd, BadSamplePolicy, Cursor, Order, Part, Policy, Progress, Rank, Shuffle, Stretch, audit};
use crate::sim::Rng;
use crate::stats::Stats;

/// One seed's dataset, and what its runs have in common.
struct Bed<'a> {
    over: &'a dyn Over,
    base: &'a [u8],
    record: u64,
    /// Where in `base` each shard starts, and its records.
    shards: Vec<(usize, u64)>,
    paths: Vec<PathBuf>,
    order: Order,
    /// Weights of the first two shards and of the others, where they are two datasets.
    mixture: Option<(Vec<u32>, AtEnd)>,
    policy: Policy,
    bad: BadSamplePolicy,
    damages: Damages,
    /// Shards are indexed with checksums.
    summed: bool,
}

impl Bed<'_> {
    fn new<'a>(rng: &mut Rng, over: &'a dyn Over, shards: &'a Shards, seed: u64) -> Bed<'a> {
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
    fn stretch(&self, rng: &mut Rng, steps_max: u64) -> Stretch {
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

    fn sum(&mut self) {
        let indexing = Indexing { checksums: true, threads: 1, ..Indexing::default() };
        let options = Dataset::options().format(Format::Records).record_bytes(self.record);
        options.index(&self.paths, &indexing, &|_| true).unwrap();
        self.summed = true;
    }

    /// Samples that share a block with damage, or are not what their checksum says.
    fn bad_samples(&self) -> BTreeSet<u64> {
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
    fn run(&self, rng: &mut Rng, stretch: Stretch, rank: u32, from: Option<&str>, epochs: u64) -> Ranked {
        on_machines(self.over, rng, |rng, machine, reads| {
            let ring = DamagedRing::new(rng, &machine.clock, reads.reads_in_flight, &self.paths, &self.damages);
            let frame = self.frame(rng, machine, reads, stretch, rank);
            machine.strike(rng);
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
    fn expected(&self, stretch: Stretch, rank: u32, from: Progress, epochs: u64, bad: &BTreeSet<u64>) -> Expected {
        let bad = |_| (0..self.order.samples()).map(|sample| bad.contains(&sample)).collect();
        let Bed { order, policy, bad: bad_samples, .. } = self;
        let oracle = Oracle { order, policy: *policy, bad_samples: *bad_samples, near: false, bad: &bad };
        oracle.expected(stretch, rank, from, epochs)
    }

    /// What the policy does to the ends of epochs that a stretch comes to, counted from world and batch size alone.
    fn promised(&self, stretch: Stretch, mut at: Progress, epochs: u64) -> [u64; 3] {
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

/// Three worlds, two epochs: every sample is delivered as often as the policy promises, with all its bytes.
///
/// Mutants that this catches: a cursor that is a step ahead; ranks that start at the same position.
fn exactly_once(seed: u64, rng: &mut Rng, over: &dyn Over, shards: &Shards) {
    const EPOCHS: u64 = 2;
    let bed = Bed::new(rng, over, shards, seed);
    let stops = [rng.below(12), rng.below(12), u64::MAX];
    let stretches = stops.map(|steps_max| bed.stretch(rng, steps_max));
    let n = bed.order.samples() as usize;
    let mut times = vec![vec![0u64; n]; EPOCHS as usize];
    let (mut saved, mut padded): (Option<String>, u64) = (None, 0);
    for stretch in stretches {
        let from = saved.as_ref().map_or(Progress::default(), |text| Cursor::parse(text.as_bytes()).unwrap().progress);
        let run = |rank| bed.run(rng, stretch, rank, saved.as_deref(), EPOCHS);
        let ranks: Vec<Ranked> = (0..stretch.world).map(run).collect();
        for (rank, Ranked { batches, cursor, failure, stats }) in (0..).zip(&ranks) {
            assert!(failure.is_none(), "{failure:?}");
            assert_eq!(*batches, bed.expected(stretch, rank, from, EPOCHS, &BTreeSet::new()).batches);
            assert_eq!(cursor, &ranks[0].cursor, "ranks disagree");
            assert_eq!(batches.len(), ranks[0].batches.len(), "unequal steps");
            let promised = bed.promised(stretch, from, EPOCHS);
            let counted = [stats.samples_dropped, stats.samples_padded, stats.samples_wrapped];
            // Where a run stops, an epoch's last batch may be ready and not taken.
            assert!(counted == promised || (stretch.steps_max < u64::MAX && counted > promised), "{counted:?}");
            for batch in batches {
                let real = batch.samples.len() - batch.padded as usize;
                batch.samples[..real].iter().for_each(|&id| times[batch.epoch as usize][id as usize] += 1);
                padded += batch.padded;
            }
        }
        saved = Some(ranks[0].cursor.to_json());
    }
    let promise = audit(&bed.order, bed.policy, EPOCHS, &stretches).unwrap();
    assert!(promise.holds(), "{promise}");
    if bed.mixture.is_some() {
        return; // passes through its datasets are no epochs: that the order's batches came is what there is to see
    }
    let count = |of: fn(u64) -> u64| times.iter().flatten().map(|&times| of(times)).sum::<u64>();
    let (missing, repeated) = (count(|times| u64::from(times == 0)), count(|times| times.saturating_sub(1)));
    assert_eq!((missing, repeated, padded), (promise.missing, promise.repeated, promise.padded));
}

#[test]
fn every_sample_comes_exactly_once_over_three_worlds() {
    let shards = Shards::new();
    for_seeds(150, |seed, rng| exactly_once(seed, rng, &Drawn, &shards));
}

#[cfg(feature = "cuda")]
#[test]
fn every_sample_comes_exactly_once_over_cuda() {
    let shards = Shards::new();
    over_cuda(8, |seed, rng, over| exactly_once(seed, rng, over, &shards));
}

/// Draws a few damaged blocks.
fn damage(rng: &mut Rng, bed: &Bed) -> Damages {
    let count = 1 + rng.below(3);
    let draw = |_| {
        let shard = rng.below(bed.shards.len() as u64) as usize;
        let blocks = (bed.shards[shard].1 * bed.record).div_ceil(4096);
        let start = rng.below(blocks) * 4096;
        (shard, start..start + 4096 * (1 + rng.below(2)), [Answer::Eio, Answer::End][rng.below(2) as usize])
    };
    (0..count).map(draw).collect()
}

/// Damaged blocks, two worlds: exactly their samples are left out or replaced, at every place, and a resumed run does the
/// same even where the storage has recovered.
///
/// Mutants that this catches: samples that share a read with a damaged block taken for bad; known samples not left out
/// after a resume; a stand-in that stays the same however often it is bad; a batch planned anew while reads still land.
fn left_out_or_replaced(seed: u64, rng: &mut Rng, over: &dyn Over, shards: &Shards) {
    const EPOCHS: u64 = 2;
    let mut bed = Bed::new(rng, over, shards, seed);
    bed.damages = damage(rng, &bed);
    if rng.one_in(2) {
        let flips = damage(rng, &bed).into_iter();
        bed.damages
            .extend(flips.map(|(shard, bytes, _)| (shard, bytes.start + rng.below(1000)..bytes.end, Answer::Flip)));
        bed.sum();
    }
    let mut bad = bed.bad_samples();
    let few = bad.len() as u64 * 4 < bed.order.len() && bed.mixture.is_none();
    bed.bad = match rng.one_in(2) && few {
        true => BadSamplePolicy::Replace,
        false => BadSamplePolicy::Skip { budget: 1024, consecutive: 1000 },
    };
    let stretches = [rng.below(12), u64::MAX].map(|steps_max| bed.stretch(rng, steps_max));
    let mut saved: Option<Cursor> = None;
    for (number, stretch) in stretches.into_iter().enumerate() {
        let mut ranks: Vec<Ranked> = Vec::new();
        let text = saved.as_ref().map(Cursor::to_json);
        let from = saved.as_ref().map_or(Progress::default(), |cursor| cursor.progress);
        let known: BTreeSet<u64> = saved.iter().flat_map(|cursor| cursor.skipped.clone()).collect();
        if number == 1 && rng.one_in(2) {
            (bed.damages, bad) = (Vec::new(), known.clone()); // the storage has recovered
        }
        for rank in 0..stretch.world {
            let ranked = bed.run(rng, stretch, rank, text.as_deref(), EPOCHS);
            assert!(ranked.failure.is_none(), "{:?}", ranked.failure);
            let expected = bed.expected(stretch, rank, from, EPOCHS, &bad);
            assert_eq!(ranked.batches, expected.batches, "rank {rank} of {stretch:?}");
            // Batches behind the last one may have been judged and not delivered.
            let skipped: BTreeSet<u64> = ranked.cursor.skipped.iter().copied().collect();
            assert_eq!(skipped, &expected.met | &known);
            if stretch.steps_max == u64::MAX && !expected.batches.is_empty() {
                let Stats { samples_skipped, samples_replaced, bad_samples, .. } = &ranked.stats;
                assert_eq!(samples_skipped + samples_replaced, expected.places);
                assert_eq!(*bad_samples, ranked.cursor.skipped);
            }
            ranks.push(ranked);
        }
        let mut cursor = ranks[0].cursor.clone();
        ranks.iter().for_each(|ranked| cursor.merge(&ranked.cursor).unwrap());
        saved = Some(cursor);
    }
}

#[test]
fn exactly_the_unreadable_samples_are_left_out_or_replaced() {
    let shards = Shards::new();
    for_seeds(150, |seed, rng| left_out_or_replaced(seed, rng, &Drawn, &shards));
}

#[cfg(feature = "cuda")]
#[test]
fn the_unreadable_samples_are_left_out_or_replaced_over_cuda() {
    let shards = Shards::new();
    over_cuda(8, |seed, rng, over| left_out_or_replaced(seed, rng, over, &shards));
}

/// A budget that is used up ends the run at the same sample every time, whatever was read ahead; a lost shard ends it by
/// the run of bad samples.
///
/// Mutants that this catches: a batch judged from what its reads cover; a run of bad samples that is not counted anew when
/// a batch is judged again.
fn ends_at_the_budget(seed: u64, rng: &mut Rng, over: &dyn Over, shards: &Shards) {
    let mut bed = Bed::new(rng, over, shards, seed);
    bed.policy = Policy::Short;
    bed.damages = damage(rng, &bed);
    let bad = bed.bad_samples();
    let budget = rng.below(bad.len() as u64 + 1);
    bed.bad = BadSamplePolicy::Skip { budget: budget as u32, consecutive: 1000 };
    let delivery: Vec<u64> = (0..bed.order.len()).map(|position| bed.order.sample_at(0, position)).collect();
    let mut met = BTreeSet::new();
    // One that comes again does not count again.
    let last = delivery.iter().filter(|&&sample| bad.contains(&sample) && met.insert(sample)).nth(budget as usize);
    let stretch = Stretch { world: 1, ..bed.stretch(rng, u64::MAX) };
    for _ in 0..2 {
        let ranked = bed.run(rng, stretch, 0, None, 1);
        let all = bed.expected(stretch, 0, Progress::default(), 1, &bad).batches;
        let Some(&last) = last else {
            assert!(ranked.failure.is_none() && ranked.batches == all);
            continue;
        };
        let Some(Error::BadSample { sample, why, cause }) = ranked.failure else { panic!("{:?}", ranked.failure) };
        assert_eq!((sample, why.contains(&format!("budget of {budget}"))), (last, true), "{why}");
        let text = cause.expect("it was read").to_string();
        assert!(text.contains(".bin") && text.contains("byte"), "{text}");
        let step = delivery.iter().position(|&sample| sample == last).unwrap() as u64 / stretch.batch_size;
        assert_eq!(ranked.batches, all[..step as usize], "batches before it are whole");
    }
    // A lost shard.
    let bytes = bed.shards[1].1 * bed.record;
    bed.damages = vec![(1, 0..bytes.next_multiple_of(4096), Answer::Eio)];
    (bed.order, bed.mixture) = (Order::new(Shuffle::Sequential, bed.order.samples(), seed).unwrap(), None);
    let run = bed.shards[1].1 - 1;
    bed.bad = BadSamplePolicy::Skip { budget: 1024, consecutive: run as u32 };
    let failure = bed.run(rng, stretch, 0, None, 1).failure.expect("a shard is lost").to_string();
    assert!(failure.contains(&format!("{run} bad samples follow each other")), "{failure}");
}

#[test]
fn a_budget_ends_the_run_at_the_same_sample_every_time() {
    let shards = Shards::new();
    for_seeds(60, |seed, rng| ends_at_the_budget(seed, rng, &Drawn, &shards));
}

#[cfg(feature = "cuda")]
#[test]
fn a_budget_ends_the_run_at_the_same_sample_over_cuda() {
    let shards = Shards::new();
    over_cuda(8, |seed, rng, over| ends_at_the_budget(seed, rng, over, &shards));
}
