//! The whole path on real files: every byte of every sample, whatever the ring, the path and the shape.

mod common;

use std::collections::BTreeSet;

use common::{bytes_of, disk_directory, write_shard};
use strait::order::Shuffle;
use strait::{Dataset, Device, Loader, PathChoice, RingChoice};

const RINGS: [RingChoice; 3] = [RingChoice::Auto, RingChoice::Uring, RingChoice::Pread];

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
        for ring in RINGS {
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
