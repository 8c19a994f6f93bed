//! Batches by budget: within it, every sample once, the same batches for every world.

use proptest::prelude::*;
use strait::order::{
    AtEnd, Bucketing, Budget, BudgetSchedule, BudgetSteps, Cost, Counts, Order, Part, Policy, Progress, Rank, Shuffle,
};

/// A length for every sample that no other part of the test knows: 1..=64, skewed to the short.
fn len_of(sample: u64) -> u64 {
    let x = sample.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 52;
    1 + x * x / (4096 * 4096 / 64)
}

fn cost(budget: Budget, batch: &[u64]) -> u64 {
    let lens = batch.iter().map(|&sample| len_of(sample));
    match budget.cost {
        Cost::Sum => lens.sum(),
        Cost::Padded => lens.max().unwrap_or(0) * batch.len() as u64,
    }
}

fn budgets() -> impl Strategy<Value = Budget> {
    let cost = prop_oneof![Just(Cost::Sum), Just(Cost::Padded)];
    (1u64..20, 64u64..300, cost).prop_map(|(samples_max, cost_max, cost)| Budget { samples_max, cost_max, cost })
}

fn bucketings() -> impl Strategy<Value = Bucketing> {
    prop_oneof![
        Just(Bucketing::NONE),
        (1u64..100, 1u64..20).prop_map(|(w, run)| Bucketing { window: w, run: run.min(w) })
    ]
}

fn orders() -> impl Strategy<Value = Order> {
    let parts = [Part { samples: 90, weight: 3 }, Part { samples: 40, weight: 2 }];
    prop_oneof![
        (1u64..400, any::<u64>()).prop_map(|(n, seed)| Order::new(Shuffle::Full, n, seed).unwrap()),
        any::<u64>().prop_map(move |seed| Order::mixture(&parts, Shuffle::Full, seed, AtEnd::Stop).unwrap()),
    ]
}

/// One step on every rank: the batches without their padding, or none at the epoch's end.
fn step(ranks: &mut [BudgetSteps], batches: &mut Vec<Vec<u64>>) -> bool {
    stepped(ranks, batches, &mut Vec::new())
}

/// As [`step`], with the position that each batch starts at and its places.
fn stepped(ranks: &mut [BudgetSteps], batches: &mut Vec<Vec<u64>>, places: &mut Vec<(u64, Vec<u64>)>) -> bool {
    let mut going = Vec::new();
    for rank in ranks {
        let mut batch = Vec::new();
        let padded = rank.next(len_of, &mut batch).unwrap();
        going.push(padded.is_some());
        if let Some(padded) = padded {
            assert!(!batch.is_empty(), "a rank has a step and no samples");
            places.push((rank.position(), batch.clone()));
            batch.truncate(batch.len() - padded as usize);
            batches.push(batch);
        }
    }
    assert!(going.iter().all(|&one| one == going[0]), "ranks end at different steps");
    going[0]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn once_within_budget_over_worlds(
        order in orders(), bucketing in bucketings(), budget in budgets(), epoch in 0u64..3,
        policy in prop_oneof![Just(Policy::Drop), Just(Policy::Pad), Just(Policy::Wrap)],
        stretches in prop::collection::vec((1u32..6, 0usize..6), 1..4),
    ) {
        let ranks = |world: u32, at| -> Vec<BudgetSteps> {
            let rank = |rank| Rank::new(rank, world).unwrap();
            let schedule = |r| BudgetSchedule::new(order.clone(), bucketing, budget, rank(r), policy).unwrap();
            (0..world).map(|r| schedule(r).steps(at).unwrap()).collect()
        };
        // The same batches one by one: what world 1 would be given.
        let mut single = ranks(1, Progress { epoch, consumed: 0 });
        let mut all = Vec::new();
        while step(&mut single, &mut all) {}
        for batch in &all {
            prop_assert!(batch.len() as u64 <= budget.samples_max && cost(budget, batch) <= budget.cost_max);
        }
        // No batch could have taken the next one's first sample.
        for pair in all.windows(2) {
            let more = [&pair[0][..], &pair[1][..1]].concat();
            prop_assert!(more.len() as u64 > budget.samples_max || cost(budget, &more) > budget.cost_max);
        }
        let mut samples = all.concat();
        samples.sort_unstable();
        let mut expected: Vec<u64> = (0..order.len()).map(|position| order.sample_at(epoch, position)).collect();
        expected.sort_unstable();
        prop_assert_eq!(samples, expected);

        let mut at = Progress { epoch, consumed: 0 };
        let mut delivered = Vec::new();
        let mut counts = Counts::default();
        for (number, &(world, steps_max)) in stretches.iter().enumerate() {
            let mut steps = ranks(world, at);
            let steps_max = if number + 1 == stretches.len() { usize::MAX } else { steps_max };
            if policy == Policy::Drop && at.consumed == 0 && all.len() < world as usize {
                for rank in &mut steps {
                    let error = rank.next(len_of, &mut Vec::new()).unwrap_err().to_string();
                    prop_assert!(error.contains("drop leaves nothing"), "{error}");
                }
                return Ok(());
            }
            let mut places = Vec::new();
            let ended = !(0..steps_max).all(|_| stepped(&mut steps, &mut delivered, &mut places));
            if bucketing == Bucketing::NONE {
                for (first, batch) in places {
                    let want = (first..).take(batch.len()).map(|position| order.sample_at(epoch, position));
                    prop_assert!(want.eq(batch), "the place of a batch is not where its samples are");
                }
            }
            prop_assert!(steps.iter().all(|rank| rank.progress() == steps[0].progress()));
            (at, counts) = (steps[0].progress(), steps[0].counts());
            if ended || at.epoch > epoch {
                break;
            }
        }
        prop_assert_eq!(at, Progress { epoch: epoch + 1, consumed: 0 });
        let (whole, rest) = delivered.split_at(delivered.len().min(all.len()));
        prop_assert_eq!(whole, &all[..whole.len()]);
        let dropped: usize = all[whole.len()..].iter().map(Vec::len).sum();
        match policy {
            Policy::Drop => prop_assert_eq!((counts.dropped, rest.len()), (dropped as u64, 0)),
            Policy::Pad => prop_assert!(dropped == 0 && rest.iter().all(Vec::is_empty) && rest.len() as u64 == counts.padded),
            _ => {
                prop_assert_eq!(rest.concat().len() as u64, counts.wrapped);
                let again = all.iter().cycle();
                prop_assert!(dropped == 0 && rest.iter().zip(again).all(|(one, other)| one == other));
            }
        }
    }
}

/// What bucketing is for: padded batches waste less.
#[test]
fn bucketing_makes_batches_alike() {
    let waste = |bucketing| {
        let order = Order::new(Shuffle::Full, 20_000, 1).unwrap();
        let budget = Budget { samples_max: 64, cost_max: 1_024, cost: Cost::Padded };
        let schedule = BudgetSchedule::new(order, bucketing, budget, Rank::SINGLE, Policy::Short).unwrap();
        let mut steps = schedule.steps(Progress::default()).unwrap();
        let (mut used, mut paid, mut batch) = (0, 0, Vec::new());
        while steps.next(len_of, &mut batch).unwrap().is_some() {
            used += batch.iter().map(|&sample| len_of(sample)).sum::<u64>();
            paid += cost(budget, &batch);
        }
        1.0 - used as f64 / paid as f64
    };
    let (plain, bucketed) = (waste(Bucketing::NONE), waste(Bucketing { window: 4_096, run: 256 }));
    println!("padding: {:.1} % of a batch without bucketing, {:.1} % with", plain * 100.0, bucketed * 100.0);
    assert!(plain > 0.4 && bucketed < 0.1, "{plain} {bucketed}");
}

#[test]
fn what_cannot_be_met_is_an_error() {
    let order = Order::new(Shuffle::Sequential, 10, 1).unwrap();
    let budget = |samples_max, cost_max| Budget { samples_max, cost_max, cost: Cost::Sum };
    let new = |bucketing, budget, rank, policy| BudgetSchedule::new(order.clone(), bucketing, budget, rank, policy);
    assert!(new(Bucketing::NONE, budget(0, 1), Rank::SINGLE, Policy::Drop).is_err());
    assert!(new(Bucketing::NONE, budget(1, 0), Rank::SINGLE, Policy::Drop).is_err());
    assert!(new(Bucketing { window: 4, run: 5 }, budget(1, 1), Rank::SINGLE, Policy::Drop).is_err());
    assert!(new(Bucketing { window: 1 << 21, run: 5 }, budget(1, 1), Rank::SINGLE, Policy::Drop).is_err());
    assert!(new(Bucketing::NONE, budget(1, 1), Rank::new(0, 2).unwrap(), Policy::Short).is_err());
    let mut steps = new(Bucketing::NONE, budget(4, 5), Rank::SINGLE, Policy::Short).unwrap().steps(Progress::default());
    let mut batch = Vec::new();
    let mut next = || steps.as_mut().unwrap().next(|sample| 2 * sample, &mut batch).map(|_| batch.clone());
    assert_eq!(next().unwrap(), [0, 1]);
    assert_eq!(next().unwrap(), [2]);
    let error = next().unwrap_err().to_string();
    assert!(error.contains("sample 3 has 6, more than a batch's 5"), "{error}");
}

/// A promise to every saved cursor: a change here is a new order version. The numbers come from a second implementation,
/// in Python.
#[test]
fn golden_bucketing_of_version_1() {
    let order = Order::new(Shuffle::Full, 40, 9).unwrap();
    let budget = Budget { samples_max: 40, cost_max: u64::MAX, cost: Cost::Sum };
    let bucketing = Bucketing { window: 16, run: 3 };
    let schedule = BudgetSchedule::new(order, bucketing, budget, Rank::SINGLE, Policy::Short).unwrap();
    let mut samples = Vec::new();
    let mut steps = schedule.steps(Progress { epoch: 2, consumed: 0 }).unwrap();
    steps.next(|sample| sample * sample % 17, &mut samples).unwrap();
    let golden = [
        20, 14, 37, 36, 12, 39, 7, 10, 30, 0, 16, 35, 1, 23, 2, 4, 18, 11, 32, 26, 9, 27, 22, 3, 8, 17, 34, 33, 19, 15,
        5, 21, 31, 25, 24, 28, 6, 29, 38, 13,
    ];
    assert_eq!(samples, golden);
}

/// Going on looks at the samples of the next step, and of the bucketing window they are in, and at no others.
#[test]
fn going_on_takes_no_walk() {
    let order = Order::new(Shuffle::Full, 1 << 40, 1).unwrap();
    let budget = Budget { samples_max: 20, cost_max: 100, cost: Cost::Sum };
    for (bucketing, most) in [(Bucketing::NONE, 2 * 21), (Bucketing { window: 1 << 10, run: 64 }, 2 << 10)] {
        let rank = Rank::new(1, 2).unwrap();
        let schedule = BudgetSchedule::new(order.clone(), bucketing, budget, rank, Policy::Drop).unwrap();
        for consumed in [0, 1 << 39, (1 << 40) - 50] {
            let looks = std::cell::Cell::new(0);
            let len_of = |_| {
                looks.set(looks.get() + 1);
                9
            };
            let mut steps = schedule.steps(Progress { epoch: 3, consumed }).unwrap();
            let mut samples = Vec::new();
            assert_eq!((steps.next(len_of, &mut samples).unwrap(), samples.len()), (Some(0), 11));
            assert!(looks.get() <= most, "{} looks at {consumed}, {bucketing:?}", looks.get());
        }
    }
}
