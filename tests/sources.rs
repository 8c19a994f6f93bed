//! What batches are made of, on real files: every byte of every sample, from wherever it comes.

mod common;

use std::collections::HashMap;
use std::path::PathBuf;

use common::{disk_directory, write_shard};
use strait::order::{
    AtEnd, Bucketing, Budget, BudgetSchedule, Cost, Cursor, IfChanged, Order, Policy, Progress, Rank, Shuffle,
};
use strait::{Batch, Builder, Dataset, Device, Loader, RingChoice};

/// The files as they are: what every delivered byte is compared with.
struct Oracle {
    dataset: Dataset,
    files: HashMap<PathBuf, Vec<u8>>,
}

impl Oracle {
    fn new(dataset: &Dataset) -> Oracle {
        let paths = dataset.shards().iter().map(|shard| shard.path.to_path_buf());
        let files = paths.map(|path| (path.clone(), std::fs::read(path).unwrap())).collect();
        Oracle { dataset: dataset.clone(), files }
    }

    fn sample(&self, sample: u64, field: usize) -> Option<&[u8]> {
        let extent = self.dataset.extent(sample, field)?;
        let file = &self.files[&*self.dataset.shards()[extent.shard as usize].path];
        Some(&file[extent.offset as usize..][..extent.len as usize])
    }

    fn check(&self, batch: &Batch) {
        for (number, field) in self.dataset.fields().iter().enumerate() {
            let view = batch.field(&field.name).unwrap();
            for (i, &sample) in batch.samples().iter().enumerate() {
                let got = view.host_bytes(i).unwrap();
                assert!(got == self.sample(sample, number), "wrong bytes in {} of sample {sample}", field.name);
            }
        }
    }
}

fn builder(dataset: &Dataset) -> Builder {
    Loader::builder(dataset.clone()).device(Device::host()).block_bytes(64 << 10).seed(5)
}

/// A tar shard of samples with a `jpg` of changing length and a `cls`, which every third sample lacks.
fn write_tar(directory: &std::path::Path, name: &str, samples: u64) -> PathBuf {
    let path = directory.join(name);
    let members = (0..samples).flat_map(|sample| {
        let class = (sample % 3 > 0).then(|| ("cls", sample.to_string().into_bytes()));
        let fields = [("jpg", common::bytes_of(sample, 0, 1 + sample * sample * 37 % 9_000))];
        fields.into_iter().chain(class).map(move |(field, bytes)| (format!("{sample:05}.{field}"), bytes))
    });
    common::write_tar(&path, members);
    path
}

/// Three datasets of two formats, 50, 40 and 30 samples.
fn three(directory: &std::path::Path) -> Dataset {
    let small = [write_shard(directory, 1, 20 * 100), write_shard(directory, 2, 30 * 100)];
    let large = [write_shard(directory, 3, 40 * 5000)];
    let images = [write_tar(directory, "images.tar", 30)];
    let datasets = [Dataset::records(&small, 100), Dataset::records(&large, 5000), Dataset::webdataset(&images)];
    Dataset::concat(datasets.map(Result::unwrap).into()).unwrap()
}

#[test]
fn joined_datasets_keep_every_sample_and_field() {
    let directory = disk_directory();
    let joined = three(directory.path());
    let names: Vec<_> = joined.fields().iter().map(|field| (&*field.name, field.fixed_bytes)).collect();
    assert_eq!(names, [("record", None), ("jpg", None), ("cls", None)]);
    assert_eq!((joined.parts(), joined.len(), joined.format()), (&[50, 40, 30][..], 120, "mixed"));
    let oracle = Oracle::new(&joined);
    assert_eq!(oracle.sample(20, 0).unwrap(), common::bytes_of(2, 0, 100));
    assert_eq!(oracle.sample(51, 0).unwrap(), common::bytes_of(3, 5000, 5000));
    assert_eq!(oracle.sample(94, 1).unwrap(), common::bytes_of(4, 0, 1 + 16 * 37));
    assert_eq!(oracle.sample(94, 2).unwrap(), b"4");
    let lacks = [(0, 1), (49, 2), (89, 1), (90, 0), (93, 2), (119, 0)];
    assert!(lacks.into_iter().all(|(sample, field)| oracle.sample(sample, field).is_none()));
    let mut seen = Vec::new();
    for batch in builder(&joined).shuffle(Shuffle::Full).batch_size(16).build().unwrap().epoch(0) {
        let batch = batch.unwrap();
        oracle.check(&batch);
        for (i, &sample) in batch.samples().iter().enumerate() {
            let (dataset, number) = batch.origin(i);
            assert_eq!([0, 50, 90][dataset] + number, sample);
            seen.push(sample);
        }
        assert!(batch.datasets().is_empty());
    }
    seen.sort_unstable();
    assert!(seen.into_iter().eq(0..120));
    // Where one dataset ends and the next begins decides what a mixture draws.
    let files = || joined.shards()[..3].iter().map(|shard| &*shard.path).collect::<Vec<_>>();
    let halves = |middle| {
        let halves = [Dataset::records(&files()[..middle], 100), Dataset::records(&files()[middle..], 100)];
        Dataset::concat(halves.map(Result::unwrap).into()).unwrap().fingerprint()
    };
    assert_eq!(halves(1), halves(1));
    assert_ne!(halves(1), halves(2));
    // A joined dataset is a dataset like any other.
    let again = Dataset::concat(vec![three(directory.path()), joined]).unwrap();
    assert_eq!((again.parts(), again.fields().len()), (&[120, 120][..], 3));
    assert!(Dataset::concat(Vec::new()).is_err());
}

#[test]
fn a_mixture_draws_by_weight_and_goes_on_exactly() {
    let directory = disk_directory();
    let joined = three(directory.path());
    let oracle = Oracle::new(&joined);
    let build = |world: u32, rank: u32, batch_size| {
        let mixed = builder(&joined).mixture(&[3, 1, 2], AtEnd::Repeat { positions: 240 }).shuffle(Shuffle::Full);
        let mixed = mixed.rank(Rank::new(rank, world).unwrap()).policy(Policy::Drop).batch_size(batch_size);
        mixed.build().unwrap()
    };
    let mut loader = build(1, 0, 12);
    let (mut counts, mut all, mut middle) = ([0u64; 3], Vec::new(), None);
    for epoch in 0..2 {
        for batch in loader.epoch(epoch) {
            let batch = batch.unwrap();
            oracle.check(&batch);
            (0..batch.len()).for_each(|i| counts[batch.origin(i).0] += 1);
            all.extend_from_slice(batch.samples());
            // Twelve positions are two periods of the weights: the shares are exact after each batch.
            let p = all.len() as u64;
            assert_eq!(counts, [p / 2, p / 6, p / 3]);
            let own = [(counts[0], 50), (counts[1], 40), (counts[2], 30)];
            let own = own.map(|(draws, len)| Progress { epoch: draws / len, consumed: draws % len });
            assert_eq!(batch.datasets(), own, "after {p} positions");
            if p == 240 + 96 {
                middle = Some(batch.cursor());
            }
        }
    }
    assert_eq!(all.len(), 480);
    // Every pass through a dataset holds each of its samples once.
    let mut first: Vec<u64> = all.iter().copied().filter(|&sample| sample < 50).take(50).collect();
    first.sort_unstable();
    assert!(first.into_iter().eq(0..50));
    // Two ranks of another batch size go on behind the middle.
    let mut ranks = [build(2, 0, 9), build(2, 1, 9)];
    let middle = middle.unwrap();
    let [zero, one] = ranks.each_mut().map(|loader| {
        loader.resume(&middle, IfChanged::Refuse).unwrap();
        loader.rest_of_epoch().map(Result::unwrap)
    });
    let rest: Vec<u64> = zero.zip(one).flat_map(|(a, b)| [a.samples(), b.samples()].concat()).collect();
    assert_eq!(rest, all[240 + 96..]);
}

#[test]
fn a_mixture_that_cannot_be_is_an_error() {
    let directory = disk_directory();
    let joined = three(directory.path());
    let error = |builder: Builder| builder.build().err().unwrap().to_string();
    let text = error(builder(&joined).mixture(&[1, 1], AtEnd::Stop));
    assert!(text.contains("2 weights for 3 datasets"), "{text}");
    let text = error(builder(&joined).mixture(&[1, 1, 0], AtEnd::Stop));
    assert!(text.contains("dataset 2 has 30 samples and weight 0"), "{text}");
}

/// Memory is planned for what comes: a small dataset of large samples may be most of a mixture.
#[test]
fn regions_are_sized_by_the_mixture_s_weights() {
    let directory = disk_directory();
    let small = [write_shard(directory.path(), 4, 10_000 * 64)];
    let large = [write_shard(directory.path(), 5, 8 * 300_000)];
    let datasets = vec![Dataset::records(&small, 64).unwrap(), Dataset::records(&large, 300_000).unwrap()];
    let joined = Dataset::concat(datasets).unwrap();
    let oracle = Oracle::new(&joined);
    let mixed = builder(&joined).mixture(&[1, 9], AtEnd::Repeat { positions: 200 }).batch_size(20);
    let mut loader = mixed.ring(RingChoice::Pread).build().unwrap();
    loader.epoch(0).for_each(|batch| oracle.check(&batch.unwrap()));
    assert!(loader.stats().region_bytes > 20 * 250_000, "{}", loader.stats().region_bytes);
}

/// The samples of every batch that is left of an epoch, all bytes compared.
fn batches(loader: &mut Loader, oracle: &Oracle) -> Vec<(Vec<u64>, Cursor)> {
    let take = |batch: strait::Result<Batch>| {
        let batch = batch.unwrap();
        oracle.check(&batch);
        (batch.samples().to_vec(), batch.cursor())
    };
    loader.rest_of_epoch().map(take).collect()
}

#[test]
fn budgets_are_respected_and_every_sample_comes_once() {
    let directory = disk_directory();
    let dataset = Dataset::webdataset(&[write_tar(directory.path(), "a.tar", 300)]).unwrap();
    let oracle = Oracle::new(&dataset);
    let bytes = |sample| (0..2).filter_map(|field| oracle.sample(sample, field)).map(<[u8]>::len).sum::<usize>() as u64;
    // Coarse tokens in one field, the last of them not whole.
    let tokens = |sample| oracle.sample(sample, 0).unwrap().len().div_ceil(1000) as u64;
    for (cost, in_tokens, bucketing) in [
        (Cost::Sum, false, Bucketing::NONE),
        (Cost::Padded, false, Bucketing { window: 64, run: 8 }),
        (Cost::Padded, true, Bucketing { window: 100, run: 20 }),
    ] {
        let budget = Budget { samples_max: 6, cost_max: if in_tokens { 24 } else { 24_000 }, cost };
        let of = |sample| if in_tokens { tokens(sample) } else { bytes(sample) };
        let build = |rank, world| {
            let rank = Rank::new(rank, world).unwrap();
            let cut = builder(&dataset).shuffle(Shuffle::Full).budget(budget, bucketing);
            let cut = if in_tokens { cut.tokens("jpg", 1000) } else { cut };
            cut.rank(rank).policy(Policy::Pad).build().unwrap()
        };
        let mut loader = build(0, 1);
        assert_eq!(loader.steps(), None);
        loader.epoch(1);
        let all = batches(&mut loader, &oracle);
        for (batch, _) in &all {
            let cost = match cost {
                Cost::Sum => batch.iter().map(|&sample| of(sample)).sum::<u64>(),
                Cost::Padded => batch.iter().map(|&sample| of(sample)).max().unwrap() * batch.len() as u64,
            };
            assert!(cost <= budget.cost_max && batch.len() <= 6 && !batch.is_empty(), "{cost} {batch:?}");
        }
        assert!(all.iter().any(|(batch, _)| batch.len() == 6) && all.iter().any(|(batch, _)| batch.len() < 6));
        let mut seen: Vec<u64> = all.iter().flat_map(|(batch, _)| batch).copied().collect();
        seen.sort_unstable();
        assert!(seen.into_iter().eq(0..300));
        // The order's own arithmetic says the same.
        let order = Order::new(Shuffle::Full, 300, 5).unwrap();
        let schedule = BudgetSchedule::new(order, bucketing, budget, Rank::SINGLE, Policy::Pad).unwrap();
        let (mut steps, mut want) = (schedule.steps(Progress { epoch: 1, consumed: 0 }).unwrap(), Vec::new());
        for (batch, cursor) in &all {
            assert!(steps.next(of, &mut want).unwrap().is_some());
            assert_eq!((batch, cursor.progress), (&want, steps.progress()));
        }
        // Two ranks go on behind the fifth batch, each with every other one.
        let (mut one, mut two) = (build(0, 2), build(1, 2));
        let [one, two] = [&mut one, &mut two].map(|rank| {
            rank.resume(&all[4].1, IfChanged::Refuse).unwrap();
            batches(rank, &oracle)
        });
        let rest: Vec<_> = one.iter().zip(&two).flat_map(|(a, b)| [&a.0, &b.0]).collect();
        let left = all.len() - 5;
        assert!(rest[..left].iter().copied().eq(all[5..].iter().map(|(batch, _)| batch)));
        assert!(one.len() == two.len() && rest.len() - left <= 1 && one.last().unwrap().1.progress.epoch == 2);
    }
}

#[test]
fn a_sample_that_exceeds_the_budget_is_an_error_after_the_batches_before_it() {
    let directory = disk_directory();
    let dataset = Dataset::webdataset(&[write_tar(directory.path(), "a.tar", 40)]).unwrap();
    let oracle = Oracle::new(&dataset);
    let budget = Budget { samples_max: 2, cost_max: 5_000, cost: Cost::Sum };
    let mut loader = builder(&dataset).budget(budget, Bucketing::NONE).build().unwrap();
    for _ in 0..2 {
        let all: Vec<_> = loader.epoch(0).collect();
        let (error, good) = all.split_last().unwrap();
        // The length of sample 12 is 1 + 12 * 12 * 37 and two digits.
        let text = error.as_ref().unwrap_err().to_string();
        assert!(text.contains("sample 12 has 5329, more than a batch's 5000"), "{text}");
        good.iter().for_each(|batch| oracle.check(batch.as_ref().unwrap()));
        assert_eq!(good.last().unwrap().as_ref().unwrap().samples().last(), Some(&11));
    }
    let error = |builder: Builder| builder.build().err().unwrap().to_string();
    let text = error(builder(&dataset).budget(budget, Bucketing::NONE).tokens("txt", 4));
    assert!(text.contains("no field \"txt\"; the fields are jpg, cls"), "{text}");
    assert!(error(builder(&dataset).budget(budget, Bucketing::NONE).tokens("jpg", 0)).contains("0 bytes"));
    let many = Budget { samples_max: 1 << 21, ..budget };
    assert!(error(builder(&dataset).budget(many, Bucketing::NONE)).contains("at most 2097152 samples"));
}
