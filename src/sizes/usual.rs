//! What samples and documents of a dataset usually are like: by its tables, and by a look at samples all over it.

use crate::config::{Config, Way};
use crate::dataset::{Dataset, Shard};
use crate::length::Length;
use crate::plan::Plan;
use crate::selection::Selection;

/// Samples looked at to learn what is usual.
const LOOK_AT: u64 = 1024;

/// The mean size of a field, of samples all over the dataset.
pub(super) fn mean_bytes(dataset: &Dataset, field: usize) -> u64 {
    let looks = dataset.len().min(LOOK_AT);
    let at = |look: u64| (u128::from(look) * u128::from(dataset.len()) / u128::from(looks)) as u64;
    let sum: u64 = (0..looks).filter_map(|look| dataset.extent(at(look), field)).map(|extent| extent.len).sum();
    (sum / looks.max(1)).max(1)
}

/// The mean room that a sample takes in a region, far from others: samples all over the dataset, each planned alone.
pub(super) fn mean_room(dataset: &Dataset, selection: &Selection, weights: Option<&[u32]>, config: &Config) -> u64 {
    let limits = config.limits(Way::Host);
    let mut plan = Plan::default();
    let mut room = |sample: u64| {
        let shard_bytes = |shard: u32| dataset.shards()[shard as usize].bytes;
        plan.build(selection.extents(dataset, &[sample]), shard_bytes, &limits);
        u128::from(plan.region_bytes())
    };
    let whole = [dataset.len()];
    let (parts, weights) = match weights.filter(|weights| weights.len() == dataset.parts().len()) {
        Some(weights) => (dataset.parts(), weights),
        None => (&whole[..], &[1][..]),
    };
    let looks = (LOOK_AT / parts.len() as u64).max(1);
    let (mut first, mut weighted, mut total) = (0, 0u128, 0u128);
    for (&samples, &weight) in parts.iter().zip(weights) {
        let looks = looks.min(samples);
        let at = |look: u64| first + (u128::from(look) * u128::from(samples) / u128::from(looks)) as u64;
        let rooms: u128 = (0..looks).map(|look| room(at(look))).sum();
        weighted += rooms / u128::from(looks.max(1)) * u128::from(weight);
        total += u128::from(weight);
        first += samples;
    }
    (weighted / total.max(1)) as u64
}

/// The mean length of documents, in the one of the joined datasets whose are the shortest: batches may be all of them.
pub(super) fn document_tokens(dataset: &Dataset, length: &Length, item_bytes: u64) -> u64 {
    let (mut shards, mut first) = (dataset.shards(), 0);
    let part = |&samples: &u64| {
        let (mut seen, mut own) = (0, 0);
        while seen < samples && own < shards.len() {
            (seen, own) = (seen + shards[own].samples(), own + 1);
        }
        let (own, others) = shards.split_at(own);
        shards = others;
        let samples = first..first + samples;
        first = samples.end;
        match own.iter().any(Shard::is_one_document) {
            true => own.iter().map(|shard| shard.bytes).sum::<u64>() / item_bytes / own.len().max(1) as u64,
            false => length.mean_in(dataset, samples),
        }
    };
    dataset.parts().iter().map(part).min().unwrap_or(1).max(1)
}

/// The mean size of the samples that come, with what lies between them. A mixture's small dataset may be most of it.
pub(super) fn mean_sample_bytes(dataset: &Dataset, weights: Option<&[u32]>) -> u64 {
    let mean = |bytes: u64, samples: u64| bytes / samples.max(1);
    let Some(weights) = weights.filter(|weights| weights.len() == dataset.parts().len()) else {
        return mean(dataset.shards().iter().map(|shard| shard.bytes).sum(), dataset.len());
    };
    let mut shards = dataset.shards().iter();
    let (mut weighted, mut total) = (0u128, 0u128);
    for (&samples, &weight) in dataset.parts().iter().zip(weights) {
        let (mut bytes, mut seen) = (0, 0);
        while seen < samples {
            let Some(shard) = shards.next() else { break };
            (bytes, seen) = (bytes + shard.bytes, seen + shard.samples());
        }
        weighted += u128::from(mean(bytes, samples)) * u128::from(weight);
        total += u128::from(weight);
    }
    (weighted / total.max(1)) as u64
}
