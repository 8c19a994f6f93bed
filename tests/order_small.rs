//! All of the smallest cases, where ends, worlds and stops meet: fewer samples than ranks, none at all, one.

mod common;

use common::{disk_directory, write_shard};
use strait::order::{
    AtEnd, Bucketing, Budget, Cost, Counts, Cursor, IfChanged, Order, Part, Policy, Progress, Rank, Schedule, Shuffle,
    Steps, Stretch, audit,
};
use strait::{Builder, Dataset, Device, Loader, RingChoice};

const EPOCHS: u64 = 2;

fn orders(n: u64) -> Vec<Order> {
    let mut orders = Vec::new();
    for shuffle in [Shuffle::Full, Shuffle::Block { block_samples: 2, window: 2 }] {
        orders.push(Order::new(shuffle, n, n).unwrap());
        if n > 0 {
            let parts = [Part { samples: n, weight: 2 }, Part { samples: 1 + n / 2, weight: 1 }];
            orders.push(Order::mixture(&parts, shuffle, 1, AtEnd::Stop).unwrap());
            orders.push(Order::mixture(&parts, shuffle, 1, AtEnd::Repeat { positions: 2 * n - 1 }).unwrap());
        }
    }
    orders
}

fn ranks(order: &Order, world: u32, batch_size: u64, policy: Policy) -> strait::Result<Vec<Schedule>> {
    (0..world).map(|rank| Schedule::new(order.clone(), batch_size, Rank::new(rank, world)?, policy)).collect()
}

/// Runs stretches of (world, batch size, steps) and counts how often each position came. Where a schedule refuses (`Drop`
/// of too little, `Short` on several ranks) there is nothing to count.
fn run(order: &Order, policy: Policy, stretches: &[(u32, u64, u64)]) -> strait::Result<()> {
    let n = order.len();
    let mut seen = vec![0u64; (EPOCHS * n) as usize];
    let (mut at, mut padded, mut again, mut promised) = (Progress::default(), 0, 0, Counts::default());
    for &(world, batch_size, steps_max) in stretches {
        let ranks = ranks(order, world, batch_size, policy)?;
        let mut left = steps_max;
        while left > 0 && at.epoch < EPOCHS {
            let steps: Vec<Steps> = ranks.iter().map(|rank| rank.steps(at).unwrap()).collect();
            let (epoch, len, mut batch) = (at.epoch, steps[0].len(), Vec::new());
            assert!(steps.iter().all(|steps| steps.len() == len));
            for (step, steps) in (0..len.min(left)).flat_map(|step| steps.iter().map(move |steps| (step, steps))) {
                let padding = steps.batch(step, &mut batch);
                assert!(batch.len() as u64 == batch_size || policy == Policy::Short);
                padded += padding;
                batch.truncate(batch.len() - padding as usize);
                for (position, &sample) in (steps.position(step, 0)..).zip(&batch) {
                    assert_eq!(sample, order.sample_at(epoch, position % n));
                    again += u64::from(position >= n);
                    (position < n).then(|| seen[(epoch * n + position) as usize] += 1);
                }
                at = steps.progress_after(step);
            }
            if left >= len {
                let Counts { dropped, padded, wrapped } = steps[0].counts();
                promised.dropped += dropped;
                promised.padded += padded;
                promised.wrapped += wrapped;
                at = Progress { epoch: epoch + 1, consumed: 0 };
            }
            left = left.saturating_sub(len);
        }
    }
    assert!(seen.iter().all(|&count| count <= 1), "twice: {order:?} {policy:?} {stretches:?}");
    let dropped = seen.iter().filter(|&&count| count == 0).count() as u64;
    assert_eq!(Counts { dropped, padded, wrapped: again }, promised, "{order:?} {policy:?} {stretches:?}");
    Ok(())
}

#[test]
fn every_position_once_over_every_small_run() {
    let mut runs = 0;
    for (n, policy) in (0..7).flat_map(|n| [Policy::Drop, Policy::Pad, Policy::Wrap, Policy::Short].map(|p| (n, p))) {
        for order in orders(n) {
            for (world, batch_size) in [(1, 1), (1, 3), (2, 1), (3, 1), (3, 5), (7, 2)] {
                for (steps, second, more) in
                    [(0, (1, 4), 1), (1, (2, 3), 0), (1, (3, 1), 2), (2, (5, 7), 1), (3, (1, 1), 2)]
                {
                    for last in [(1, 2, u64::MAX), (2, 1, u64::MAX), (4, 3, u64::MAX)] {
                        let stretches = [(world, batch_size, steps), (second.0, second.1, more), last];
                        runs += u64::from(run(&order, policy, &stretches).is_ok());
                    }
                }
            }
        }
    }
    assert!(runs > 5_000, "{runs}");
}

#[test]
fn audits_of_small_runs_hold() {
    let mut audits = 0;
    for (n, policy) in (1..9).flat_map(|n| [Policy::Drop, Policy::Pad, Policy::Wrap].map(|policy| (n, policy))) {
        for order in orders(n) {
            for (world, batch_size, steps_max) in [(1, 1, 0), (1, 2, 5), (2, 1, 1), (2, 7, 1), (5, 2, 2), (5, 7, 1)] {
                for (last_world, last_batch) in [(1, 1), (1, 20), (3, 3), (4, 1)] {
                    let stretch = |world, batch_size, steps_max| Stretch { world, batch_size, steps_max, from: None };
                    let stretches = [stretch(world, batch_size, steps_max), stretch(last_world, last_batch, u64::MAX)];
                    let Ok(audit) = audit(&order, policy, 3, &stretches) else { continue };
                    assert!(audit.holds(), "{audit}: {order:?} {policy:?} {stretches:?}");
                    audits += 1;
                }
            }
        }
    }
    assert!(audits > 1_500, "{audits}");
}

/// Loaders over 1 to 3 samples, on up to 4 ranks, stopped and gone on with on others, whatever batches are made of.
#[test]
fn loaders_of_a_few_samples_deliver_each_once() {
    let directory = disk_directory();
    for n in 1..=3u64 {
        let records = Dataset::records(&[write_shard(directory.path(), n, n * 100)], 100).unwrap();
        let path = directory.path().join(format!("{n}.tar"));
        let mut tar = tar::Builder::new(std::fs::File::create(&path).unwrap());
        for document in 0..n {
            let bytes = vec![document as u8; 4 * (3 + 5 * document as usize)];
            let mut header = tar::Header::new_ustar();
            header.set_size(bytes.len() as u64);
            tar.append_data(&mut header, format!("{document}.txt"), &bytes[..]).unwrap();
        }
        tar.finish().unwrap();
        let texts = Dataset::webdataset(&[&path]).unwrap();
        let builder = |dataset: &Dataset| {
            let builder = Loader::builder(dataset.clone()).device(Device::host()).ring(RingChoice::Pread);
            builder.reads_in_flight(2).prefetch(1).hold(1).block_bytes(4096).seed(3).shuffle(Shuffle::Full)
        };
        let tokens = || builder(&texts).tokens("txt", 4);
        let budget = |samples_max| Budget { samples_max, cost_max: 20, cost: Cost::Padded };
        let kinds: [&dyn Fn(usize) -> Builder; 4] = [
            &|batch| builder(&records).batch_size(batch),
            &|batch| tokens().pack(3).batch_size(batch),
            &|batch| tokens().windows(3, 2).batch_size(batch),
            &|batch| tokens().budget(budget(batch as u64), Bucketing { window: 3, run: 1 }),
        ];
        for (kind, build) in kinds.into_iter().enumerate() {
            for policy in [Policy::Pad, Policy::Wrap] {
                for [first, second] in [[(1, 1, 1), (3, 2, 99)], [(2, 1, 1), (4, 1, 99)], [(2, 5, 1), (3, 3, 99)]] {
                    let build = |rank, batch| build(batch).policy(policy).rank(rank).build().unwrap();
                    let positions = build(Rank::SINGLE, 1).cursor().positions;
                    let (mut all, mut from): (Vec<u64>, Option<Cursor>) = (Vec::new(), None);
                    for (world, batch, steps) in [first, second] {
                        if from.as_ref().is_some_and(|cursor| cursor.progress.epoch > 0) {
                            break;
                        }
                        let mut ends = Vec::new();
                        let mut by_rank: Vec<Vec<Vec<u64>>> = Vec::new();
                        for rank in 0..world {
                            let mut loader = build(Rank::new(rank, world).unwrap(), batch);
                            from.iter().for_each(|cursor| loader.resume(cursor, IfChanged::Refuse).unwrap());
                            let real = |batch: strait::Result<strait::Batch>| {
                                let batch = batch.unwrap();
                                batch.samples()[..batch.len() - batch.padded() as usize].to_vec()
                            };
                            by_rank.push(loader.rest_of_epoch().take(steps).map(real).collect());
                            ends.push(loader.cursor());
                        }
                        assert!(
                            ends.iter().all(|end| *end == ends[0])
                                && by_rank.iter().all(|r| r.len() == by_rank[0].len())
                        );
                        (0..by_rank[0].len()).for_each(|step| all.extend(by_rank.iter().flat_map(|rank| &rank[step])));
                        from = ends.pop();
                    }
                    // Wrap begins anew once all have come.
                    assert!(policy == Policy::Wrap || all.len() as u64 == positions);
                    let mut once = all[..positions as usize].to_vec();
                    once.sort_unstable();
                    assert!(
                        once.into_iter().eq(0..positions),
                        "kind {kind}, {n} samples, {policy:?}, {first:?}: {all:?}"
                    );
                }
            }
        }
    }
}
