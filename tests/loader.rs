//! The whole path on real files: every byte of every sample, whatever the ring, the path and the shape.

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use common::{bytes_of, disk_directory, write_shard};
use strait::order::{Policy, Rank, Shuffle};
use strait::storage::{Pread, Uring};
use strait::{Builder, Dataset, Device, Error, Loader, Next, PathChoice, RingChoice};

fn rings() -> Vec<RingChoice> {
    match Uring::new(8, 4) {
        Ok(_) => vec![RingChoice::Auto, RingChoice::Uring, RingChoice::Pread],
        Err(error) => {
            eprintln!("SKIPPED for uring: {error}");
            vec![RingChoice::Auto, RingChoice::Pread]
        }
    }
}

/// Reads an epoch and compares every sample with the shard it comes from.
fn check_epoch(loader: &mut Loader, epoch: u64, record: u64, shards: &[(u64, u64)]) -> Vec<u64> {
    let mut seen = Vec::new();
    for batch in loader.epoch(epoch) {
        let batch = batch.unwrap();
        let view = batch.field("record").unwrap();
        for (i, &sample) in batch.samples().iter().enumerate() {
            let (mut local, mut shard) = (sample, 0);
            while local >= shards[shard].1 / record {
                local -= shards[shard].1 / record;
                shard += 1;
            }
            let want = bytes_of(shards[shard].0, local * record, record);
            assert_eq!(view.host_bytes(i).unwrap().unwrap(), want, "sample {sample} of {record} bytes");
            seen.push(sample);
        }
    }
    seen
}

#[test]
fn every_sample_arrives_once_and_whole() {
    let directory = disk_directory();
    for record in [1, 7, 511, 512, 513, 4095, 4096, 4097, 100_000] {
        let shards: Vec<(u64, u64)> = [(1, 37), (2, 1), (3, 64)].map(|(seed, n)| (seed, n * record)).into();
        let paths: Vec<_> = shards.iter().map(|&(seed, len)| write_shard(directory.path(), seed, len)).collect();
        for ring in rings() {
            for path in [PathChoice::Auto, PathChoice::Staged] {
                for shuffle in [Shuffle::Sequential, Shuffle::Full] {
                    let mut loader = Loader::builder(Dataset::records(&paths, record).unwrap())
                        .device(Device::host())
                        .batch_size(10)
                        .shuffle(shuffle)
                        .block_bytes(64 << 10)
                        .ring(ring)
                        .path(path)
                        .build()
                        .unwrap();
                    for epoch in 0..2 {
                        let seen = check_epoch(&mut loader, epoch, record, &shards);
                        assert_eq!(seen.len(), 102);
                        assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), 102);
                        assert_eq!(shuffle == Shuffle::Full, !seen.is_sorted());
                    }
                    let stats = loader.stats();
                    assert_eq!(stats.path, if path == PathChoice::Staged { "staged" } else { "direct" });
                    assert_eq!(stats.bytes_wanted, 2 * 102 * record);
                }
            }
        }
    }
}

/// For callers that cannot keep a borrow, and have to look after signals while they wait.
///
/// Mutant that this catches: a short patience starts the deadline anew each time.
#[test]
fn a_batch_may_be_waited_for_in_slices() {
    let directory = disk_directory();
    let paths = [write_shard(directory.path(), 4, 64 * 4096)];
    let deadline = Duration::from_secs(2);
    let dataset = Dataset::records(&paths, 4096).unwrap();
    let builder = Loader::builder(dataset).device(Device::host()).batch_size(16).hold(1).prefetch(1);
    // Reads through the page cache, which wait for no disk: nothing but the consumer is late.
    let builder = builder.deadline(deadline).custom_ring(|depth| Ok(Box::new(Pread::new(depth)?)));
    let mut loader = builder.build().unwrap();
    assert!(matches!(loader.next_within(Duration::MAX).unwrap(), Next::End), "nothing was begun");
    for epoch in 0..2 {
        loader.begin(epoch);
        let mut steps = Vec::new();
        loop {
            match loader.next_within(Duration::ZERO).unwrap() {
                Next::Batch(batch) => steps.push((batch.epoch(), batch.step())),
                Next::Pending => std::thread::yield_now(),
                Next::End => break,
            }
        }
        assert_eq!(steps, (0..4).map(|step| (epoch, step)).collect::<Vec<_>>());
        assert!(matches!(loader.next_within(Duration::ZERO).unwrap(), Next::End));
    }
    loader.begin(2);
    let mut held = Vec::new();
    let error = loop {
        match loader.next_within(Duration::from_millis(10)) {
            Ok(Next::Batch(batch)) => held.push(batch),
            Ok(Next::Pending) => {}
            Ok(Next::End) => panic!("more batches than there is room for"),
            Err(error) => break error,
        }
    };
    assert!(matches!(&error, Error::Timeout { what, .. } if what.contains("free region")), "{error}");
    assert!(matches!(loader.next_within(Duration::MAX).unwrap(), Next::End), "over after an error");
    let progress = loader.stats_reader();
    let steps = loader.stats().batches;
    drop(loader);
    assert_eq!(progress.stats().batches, steps);
}

/// A process that a launcher started reads its own slice; what contradicts itself is refused. Environment variables are a
/// process's, so each case is one.
#[test]
fn rank_and_world_come_from_the_launcher() {
    const ROLE: &str = "STRAIT_TEST_LAUNCHED";
    if let Some(path) = std::env::var_os(ROLE) {
        let dataset = Dataset::records(&[path], 100).unwrap();
        let builder = || Loader::builder(dataset.clone()).device(Device::host()).batch_size(3).policy(Policy::Drop);
        let samples = |builder: Builder| match builder.build() {
            Ok(mut loader) => {
                format!("{:?}", loader.epoch(0).flat_map(|b| b.unwrap().samples().to_vec()).collect::<Vec<_>>())
            }
            Err(error) => error.to_string(),
        };
        println!("took: {}", samples(builder().rank_from_env()));
        println!("told: {}", samples(builder().rank(Rank::new(0, 3).unwrap()).rank_from_env()));
        println!("deaf: {}", samples(builder()));
        return;
    }
    let directory = disk_directory();
    let path = write_shard(directory.path(), 1, 13 * 100);
    let launched = |variables: &[(&str, &str)]| {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "rank_and_world_come_from_the_launcher", "--nocapture"]);
        command.env_clear().env(ROLE, &path).envs(variables.iter().copied());
        let output = String::from_utf8(command.output().unwrap().stdout).unwrap();
        ["took: ", "told: ", "deaf: "].map(|what| {
            let line = output.lines().find_map(|line| line.split_once(what));
            line.unwrap_or_else(|| panic!("{output}")).1.to_owned()
        })
    };
    let all = "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]";
    assert_eq!(launched(&[]), [all, "[0, 1, 2]", all]);
    for names in [
        ["RANK", "WORLD_SIZE"],
        ["SLURM_PROCID", "SLURM_NTASKS"],
        ["PMI_RANK", "PMI_SIZE"],
        ["OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"],
    ] {
        let [took, told, deaf] = launched(&[(names[0], "1"), (names[1], "2")]);
        assert_eq!((took.as_str(), deaf.as_str()), ("[3, 4, 5, 9, 10, 11]", all));
        let both = ["rank 0 of world 3 was given", &format!("{}=1 {}=2", names[0], names[1])];
        assert!(both.iter().all(|word| told.contains(word)), "{told}");
    }
    let [took, ..] = launched(&[("RANK", "1"), ("WORLD_SIZE", "2"), ("PMI_RANK", "1"), ("PMI_SIZE", "4")]);
    assert!(took.contains("RANK=1 WORLD_SIZE=2 (torchrun) contradicts PMI_RANK=1 PMI_SIZE=4 (PMI)"), "{took}");
}

/// Blocks are given in bytes, and are so many samples.
#[test]
fn blocks_are_given_in_bytes() {
    let directory = disk_directory();
    let path = write_shard(directory.path(), 1, 1000 * 100);
    let builder = || Loader::builder(Dataset::records(&[&path], 100).unwrap()).device(Device::host()).batch_size(40);
    for (block_bytes, block_samples) in [(4096, 40), (1, 1), (1 << 20, 10_485)] {
        let shuffle = builder().shuffle_blocks(block_bytes, 2).build().unwrap().cursor().shuffle;
        let Shuffle::Block { block_samples: got, window: 2 } = shuffle else { panic!("{shuffle}") };
        assert_eq!(got, block_samples, "samples of 100 bytes in {block_bytes}");
    }
    let mut loader = builder().shuffle_blocks(4096, 1).build().unwrap();
    let batch = loader.epoch(0).next().unwrap().unwrap();
    let mut samples = batch.samples().to_vec();
    samples.sort_unstable();
    assert!(samples[0] % 40 == 0 && samples.windows(2).all(|pair| pair[1] == pair[0] + 1), "one block: {samples:?}");
}
