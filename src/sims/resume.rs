//! Runs of several ranks from one seed, each a simulated pipeline with real bytes: they stop, go on in another world,
//! and meet blocks that cannot be read. What every rank delivers is compared with the order, batch by batch.

mod bed;

use std::collections::BTreeSet;

use self::bed::{Bed, damage};
use super::damaged::Answer;
use super::draw::Shards;
use super::for_seeds;
use super::machine::{Drawn, Over};
#[cfg(feature = "cuda")]
use super::over_cuda;
use super::rank::Ranked;
use crate::error::Error;
use crate::order::{BadSamplePolicy, Cursor, Order, Policy, Progress, Shuffle, Stretch, audit};
use crate::sim::Rng;
use crate::stats::Stats;

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
