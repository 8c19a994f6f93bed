//! What becomes of a bad sample depends on its place alone: not on how batches are cut, and not on padding.

mod common;

use std::path::Path;
use std::time::Duration;

use common::damaged::Damaged;
use common::{disk_directory, write_shard};
use strait::order::{AtEnd, BadSamplePolicy, Bucketing, Budget, Cost, Cursor, IfChanged, Policy, Rank, Shuffle};
use strait::{Batch, Builder, Dataset, Device, Loader};

const RECORD: u64 = 4096;
/// The bytes of records 50 and 51.
const BAD: std::ops::Range<u64> = 50 * RECORD..52 * RECORD;

fn records(directory: &Path, samples: u64) -> Dataset {
    Dataset::records(&[write_shard(directory, 3, samples * RECORD)], RECORD).unwrap()
}

/// One field, `jpg`, of so many bytes each.
fn tar_of(directory: &Path, lens: impl IntoIterator<Item = u64>) -> Dataset {
    let path = directory.join("a.tar");
    let mut tar = tar::Builder::new(std::fs::File::create(&path).unwrap());
    for (sample, len) in lens.into_iter().enumerate() {
        let bytes = vec![7; len as usize];
        let mut header = tar::Header::new_ustar();
        header.set_size(len);
        tar.append_data(&mut header, format!("{sample:03}.jpg"), &bytes[..]).unwrap();
    }
    tar.finish().unwrap();
    Dataset::webdataset(&[&path]).unwrap()
}

/// A loader that would rather say that nothing comes than wait for long.
fn builder(dataset: &Dataset, bad: std::ops::Range<u64>, policy: BadSamplePolicy) -> Builder {
    let builder = Loader::builder(dataset.clone()).device(Device::host()).deadline(Duration::from_secs(10));
    builder.bad_samples(policy).custom_ring(Damaged::ring(bad))
}

fn samples(batch: strait::Result<Batch>) -> Vec<u64> {
    let batch = batch.unwrap();
    batch.samples()[..batch.len() - batch.padded() as usize].to_vec()
}

/// Padding repeats the last sample; where that is bad, it is one bad sample and not one more in each place.
#[test]
fn padding_of_a_bad_sample_is_no_run_of_bad_samples() {
    let directory = disk_directory();
    let dataset = records(directory.path(), 51);
    let policy = BadSamplePolicy::Skip { budget: 1, consecutive: 1 };
    for batch in [10, 25, 50] {
        for known in [false, true] {
            let build = || builder(&dataset, BAD, policy).batch_size(batch).policy(Policy::Pad).build().unwrap();
            let mut loader = build();
            if known {
                let cursor = Cursor { skipped: vec![50], ..loader.cursor() };
                loader.resume(&cursor, IfChanged::Refuse).unwrap();
            }
            let all: Vec<u64> = loader.rest_of_epoch().flat_map(samples).collect();
            assert_eq!(all, (0..50).collect::<Vec<_>>());
            let stats = loader.stats();
            assert_eq!((stats.samples_skipped, &stats.bad_samples[..]), (1, &[50][..]), "batch {batch}");
        }
    }
    // A rank that has nothing but padding finds the sample, and leaves out nothing that another rank does not.
    let ranks = [0, 1].map(|rank| {
        let builder = builder(&dataset, BAD, policy).batch_size(51).policy(Policy::Pad);
        let mut loader = builder.rank(Rank::new(rank, 2).unwrap()).build().unwrap();
        let delivered = loader.epoch(0).flat_map(samples).count();
        (delivered, loader.stats().samples_skipped, loader.cursor().skipped)
    });
    assert_eq!(ranks, [(50, 1, vec![50]), (0, 0, vec![50])]);
}

/// A batch whose first place is bad, behind one whose last place was bad too: planned and judged alike, or it would be read
/// again for ever.
#[test]
fn a_stand_in_does_not_depend_on_the_batch_before() {
    let directory = disk_directory();
    let dataset = records(directory.path(), 200);
    let skip = BadSamplePolicy::Skip { budget: 9, consecutive: 4 };
    let mut loader = builder(&dataset, BAD, skip).batch_size(51).build().unwrap();
    assert_eq!(loader.epoch(0).count(), 4);
    let cursor = loader.epoch(1).next().unwrap().unwrap().cursor();
    assert_eq!((&cursor.skipped[..], cursor.consecutive_bad), (&[50, 51][..], 1));
    let rest = |batch: usize| -> Vec<u64> {
        let mut loader = builder(&dataset, BAD, BadSamplePolicy::Replace).batch_size(batch).build().unwrap();
        loader.resume(&cursor, IfChanged::Refuse).unwrap();
        loader.rest_of_epoch().flat_map(samples).collect()
    };
    assert_eq!(rest(51).len(), 149);
    assert!([1, 2, 7].iter().all(|&batch| rest(batch) == rest(51)));
}

/// Where nothing is short enough to stand in, a place stays empty, and the next one is not the worse for it.
#[test]
fn a_place_that_nothing_fits_stays_empty() {
    let directory = disk_directory();
    // A member takes two blocks of the tar: the damage is that of samples 200 to 207, and 200 is the shortest of all.
    let dataset = tar_of(directory.path(), (0..400).map(|sample| if sample == 200 { 1 } else { 100 + sample % 300 }));
    let good = (0..400).filter(|sample| !(200..208).contains(sample));
    let run = |samples_max| -> Vec<u64> {
        let budget = Budget { samples_max, cost_max: 2000, cost: Cost::Sum };
        let builder = builder(&dataset, BAD, BadSamplePolicy::Replace).budget(budget, Bucketing::NONE);
        let mut loader = builder.build().unwrap();
        let all = loader.epoch(0).flat_map(samples).collect();
        assert_eq!((loader.stats().samples_skipped, loader.stats().samples_replaced), (1, 7));
        all
    };
    let all = run(1);
    assert!(all.len() == 399 && good.clone().all(|sample| all.contains(&sample)));
    assert_eq!(run(3), all);
}

/// Damage anywhere, under every policy, over resumes on other worlds, with batches cut by a budget: every good sample comes
/// once, and the ranks end.
#[test]
fn good_samples_come_once_whatever_is_damaged() {
    let directory = disk_directory();
    let dataset = tar_of(directory.path(), (0..150).map(|sample| 1 + sample * 2477 % 3000));
    for seed in 0..12 {
        let start = seed % 10 * 2 * RECORD;
        let bad = start..start + 2 * RECORD;
        let needs = |sample: u64| {
            let extent = dataset.extent(sample, 0).unwrap();
            extent.offset / RECORD * RECORD < bad.end
                && (extent.offset + extent.len).next_multiple_of(RECORD) > bad.start
        };
        let good: Vec<u64> = (0..150).filter(|&sample| !needs(sample)).collect();
        for bucketing in [Bucketing::NONE, Bucketing { window: 40, run: 4 }] {
            for policy in [BadSamplePolicy::Replace, BadSamplePolicy::Skip { budget: 100, consecutive: 100 }] {
                let budget = Budget { samples_max: 3, cost_max: 4000, cost: Cost::Padded };
                let build = |rank| {
                    let builder = builder(&dataset, bad.clone(), policy).shuffle(Shuffle::Full).seed(seed);
                    builder.budget(budget, bucketing).policy(Policy::Pad).rank(rank).build().unwrap()
                };
                let (mut all, mut from): (Vec<u64>, Option<Cursor>) = (Vec::new(), None);
                for (world, steps) in [(2, 9), (3, 5), (1, usize::MAX)] {
                    let mut saved: Option<Cursor> = None;
                    for rank in 0..world {
                        let mut loader = build(Rank::new(rank, world).unwrap());
                        from.iter().for_each(|cursor| loader.resume(cursor, IfChanged::Refuse).unwrap());
                        all.extend(loader.rest_of_epoch().take(steps).flat_map(samples));
                        match &mut saved {
                            Some(saved) => saved.merge(&loader.cursor()).unwrap(),
                            None => saved = Some(loader.cursor()),
                        }
                    }
                    from = saved;
                }
                all.sort_unstable();
                match policy {
                    BadSamplePolicy::Replace => {
                        assert!(good.iter().all(|sample| all.contains(sample)) && !all.iter().any(|&s| needs(s)));
                    }
                    _ => assert_eq!(all, good, "seed {seed} {bucketing:?}"),
                }
            }
        }
    }
}

/// In a mixture, bucketing gives a place's position to a sample of another dataset; a stand-in is of the place's own.
#[test]
fn stand_ins_are_of_the_dataset_that_they_stand_in_for() {
    let directories = [disk_directory(), disk_directory()];
    let parts = directories
        .each_ref()
        .map(|directory| tar_of(directory.path(), (0..60).map(|sample| 1 + sample * 2477 % 3000)));
    let dataset = Dataset::concat(parts.into()).unwrap();
    let budget = Budget { samples_max: 1, cost_max: 4000, cost: Cost::Sum };
    let (mut replaced, bucketing) = (0, Bucketing { window: 50, run: 5 });
    for seed in 0..10 {
        let build = |policy, bad| {
            let builder = builder(&dataset, bad, policy).shuffle(Shuffle::Full).seed(seed).budget(budget, bucketing);
            builder.mixture(&[1, 1], AtEnd::Stop).build().unwrap()
        };
        let mut whole = build(BadSamplePolicy::Raise, 0..0);
        let mut loader = build(BadSamplePolicy::Replace, 10 * RECORD..20 * RECORD);
        let of = |loader: &mut Loader| -> Vec<Option<u64>> {
            loader.epoch(0).map(|batch| samples(batch).first().map(|sample| sample / 60)).collect()
        };
        let (want, got) = (of(&mut whole), of(&mut loader));
        assert!(want.iter().zip(&got).all(|(want, got)| got.is_none() || want == got), "seed {seed}: {want:?} {got:?}");
        replaced += loader.stats().samples_replaced;
    }
    assert!(replaced > 50, "{replaced}");
}
