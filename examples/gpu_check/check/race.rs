//! Batches are given back while slow streams still have to read them, and their memory is used again at once.

use std::path::Path;

use strait::order::Shuffle;
use strait::sim::Rng;
use strait::{Device, Loader, RingChoice};

use super::Outcome;
use super::reader::{Reader, Release};
use super::shards::{Shards, Source};

/// What came of a race.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Tally {
    pub(crate) samples: usize,
    /// Samples with a byte that is not the shard's.
    pub(crate) wrong: usize,
    pub(crate) epochs: u64,
}

/// What is raced for: batches of `batch` records of `record` bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) record: usize,
    pub(crate) batch: usize,
    pub(crate) epochs: u64,
    pub(crate) ring: RingChoice,
}

/// Runs epochs of a loader with as little memory as it works with, whose batches go to the readers in turn.
pub(crate) fn turn_over(
    device: &Device,
    source: &Source,
    directory: &Path,
    readers: &mut [Reader],
    load: Load,
    release: Release,
) -> Outcome<Tally> {
    let directory = tempfile::tempdir_in(directory)?;
    let mut rng = Rng::new(11);
    let shards = Shards::records(source, directory.path(), &mut rng, load.record, source.len())?;
    let mut loader = Loader::builder(shards.dataset.clone())
        .device(device.clone())
        .batch_size(load.batch)
        .shuffle(Shuffle::Full)
        .prefetch(1)
        .hold(1)
        .ring(load.ring)
        .build()?;
    let mut tally = Tally { epochs: load.epochs, ..Tally::default() };
    let mut turn = 0;
    for epoch in 0..load.epochs {
        for batch in loader.epoch(epoch) {
            let batch = batch?;
            tally.samples += batch.len();
            turn = (turn + 1) % readers.len();
            let reader = &mut readers[turn];
            if !reader.has_room(&batch) {
                tally.wrong += reader.check(&shards)?;
            }
            reader.take(batch, release)?;
        }
    }
    for reader in readers {
        tally.wrong += reader.check(&shards)?;
    }
    Ok(tally)
}
