//! The sums that bound a loader's memory.
//!
//! ```text
//!  pinned bytes   staged  slabs x slab_bytes                         <= pinned_bytes_max
//!                 direct  region_bytes: the ring writes there        <= pinned_bytes_max
//!                         (0 where that is a device's memory: cuFile)
//!                 on top, on CUDA, where arrays are gathered: 1.5 MiB of tables (device/cuda/gather.rs)
//!  host bytes     staged  batches_max x kept_bytes, for small fields that are on the host too; kept_bytes <= 16 MiB
//!  device bytes   region_bytes                                       <= region_bytes_max
//!  in flight      reads <= reads_in_flight, bytes <= bytes_in_flight
//!  batches        batches_max = prefetch + hold; each is planned, being filled, waiting, or with the consumer
//!  open files     open_files_max; cuFile has a descriptor of its own for each
//! ```

use crate::config::Config;
use crate::dataset::{Dataset, Shard};
use crate::device::{Device, DeviceKind};
use crate::error::{Error, Result};
use crate::length::Length;
use crate::memory::Arena;
use crate::order::Policy;
use crate::plan::{Limits, PLACED_BYTES_MIN, Plan};
use crate::selection::{Dense, Selection};

/// A batch of up to so many samples may be larger than its dataset.
const BATCH_SIZE_ALWAYS: u64 = 1 << 20;
/// One is read while the next is planned, and one more evens out what reads take.
const PREFETCH_MIN: u64 = 3;
/// More batches ahead than this do not help: the reads in flight are bounded anyway.
const PREFETCH_MAX: u64 = 64;
/// More slabs than this are never in flight at once.
const SLABS_MAX: u64 = 64;

/// Pieces that every batch of windows has room for at most; where documents are so short, a batch allocates.
const PIECES_MAX: u64 = 1 << 16;

/// Small fields of a batch have this much room on the host at least and at most.
const KEPT_BYTES_MIN: u64 = 64 << 10;
const KEPT_BYTES_MAX: u64 = 16 << 20;

/// What the options come to for one dataset, one device and one path.
#[derive(Debug, Clone)]
pub(crate) struct Sizes {
    pub(crate) prefetch: usize,
    pub(crate) batches_max: usize,
    pub(crate) region_bytes: u64,
    /// 0 on the direct path.
    pub(crate) slabs: usize,
    /// Pieces of a batch of windows that there is room for before more is allocated; 0 where samples are no windows.
    pub(crate) pieces: usize,
    /// Host memory of a batch for small fields.
    pub(crate) kept_bytes: usize,
    pub(crate) limits: Limits,
}

impl Config {
    /// Sizes everything for batches of `dataset`'s samples.
    pub(crate) fn sizes(&self, dataset: &Dataset, device: &Device, direct: bool) -> Result<Sizes> {
        let batch_size_max = dataset.len().max(BATCH_SIZE_ALWAYS);
        if self.batch_size as u64 > batch_size_max {
            let problem = format!("{} of {} samples; give at most {batch_size_max}", self.batch_size, dataset.len());
            return Err(Error::config("batch_size", problem));
        }
        let batch = BatchBytes::of(dataset, self, direct)?;
        // Where the storage writes into a device's memory, no host memory is pinned for it.
        let (budget_name, budget) = match direct && device.kind() == DeviceKind::Host {
            true => ("pinned_bytes_max", self.pinned_bytes_max),
            false => ("region_bytes_max", self.region_bytes_max),
        };
        let hold = self.hold as u64;
        let prefetch = self.prefetch.map_or_else(|| self.ahead(&batch, budget), |n| n as u64);
        let typical = (prefetch + hold).saturating_mul(batch.typical);
        let region_bytes = match self.region_bytes {
            Some(bytes) => Arena::rounded(bytes),
            // Room for the largest batch too, as far as the budget goes; but never less than the batches asked for.
            None => Arena::rounded(typical.saturating_add(batch.largest - batch.typical).min(budget).max(typical)),
        };
        let region_bytes =
            if region_bytes > budget && typical <= budget { budget & !((2 << 20) - 1) } else { region_bytes };
        if batch.least > region_bytes {
            return Err(Error::BatchTooLarge { batch_bytes: batch.least, pool_bytes: region_bytes });
        }
        if region_bytes > budget {
            let problem = format!(
                "{} batches of {} bytes need {region_bytes} bytes of memory on {}, more than {budget}; lower batch_size, \
                 prefetch or hold, or raise {budget_name}",
                prefetch + hold,
                batch.typical,
                device.name(),
            );
            return Err(Error::config(budget_name, problem));
        }
        Ok(Sizes {
            prefetch: prefetch as usize,
            batches_max: (prefetch + hold) as usize,
            region_bytes,
            slabs: if direct { 0 } else { self.slabs()? },
            pieces: batch.pieces as usize,
            kept_bytes: if direct { 0 } else { self.kept_bytes(dataset)? as usize },
            limits: self.limits(direct),
        })
    }

    /// Room on the host for the small fields of a batch: exact where sizes are fixed, else several times the usual.
    fn kept_bytes(&self, dataset: &Dataset) -> Result<u64> {
        let selection = self.selection(dataset)?;
        let of = |&place: &usize| match selection.fields[place].fixed_bytes {
            Some(bytes) => bytes,
            None => 4 * mean_bytes(dataset, selection.numbers[place]),
        };
        let sample: u64 = selection.on_host.iter().map(of).fold(0, u64::saturating_add);
        let least = if selection.on_host.is_empty() { 0 } else { KEPT_BYTES_MIN };
        Ok(sample.saturating_mul(self.samples_max() as u64).clamp(least, KEPT_BYTES_MAX))
    }

    fn limits(&self, direct: bool) -> Limits {
        Limits {
            align: self.align_bytes,
            block_bytes: self.block_bytes,
            window_bytes: if direct { 1 << 62 } else { self.block_bytes },
            gap_bytes: self.gap_bytes,
        }
    }

    /// Whether a sample may stand in several places of a batch.
    fn repeats_samples(&self) -> bool {
        let policy = self.policy.unwrap_or_else(|| Policy::default_for(self.rank.world()));
        self.mixture.is_some() || matches!(policy, Policy::Pad | Policy::Wrap)
    }

    /// The samples of an ordinary batch.
    fn samples_typical(&self, dataset: &Dataset) -> Result<u64> {
        let Some((budget, _)) = self.budget else { return Ok(self.batch_size as u64) };
        let samples = budget.cost_max.div_ceil(self.length(dataset)?.mean(dataset));
        Ok(samples.clamp(1, budget.samples_max.max(1)))
    }

    /// How many batches to read ahead: as many as hold twice the bytes in flight, if they fit.
    fn ahead(&self, batch: &BatchBytes, budget: u64) -> u64 {
        let read = self.block_bytes.min(batch.sample.max(1));
        let in_flight = self.bytes_in_flight.min(self.reads_in_flight as u64 * read);
        let wanted = in_flight.saturating_mul(2).div_ceil(batch.typical).clamp(PREFETCH_MIN, PREFETCH_MAX);
        let fitting = (budget / batch.typical).saturating_sub(self.hold as u64);
        wanted.min(fitting).max(1)
    }

    /// Slabs for the reads in flight and as many again for the copies behind them.
    fn slabs(&self) -> Result<usize> {
        let wanted = self.bytes_in_flight.saturating_mul(2).div_ceil(self.block_bytes).clamp(2, SLABS_MAX);
        let fits = |&count: &u64| Arena::rounded(count * self.block_bytes) <= self.pinned_bytes_max;
        let Some(slabs) = (2..=wanted).rev().find(fits) else {
            let problem = format!("{} does not hold two slabs of {} bytes", self.pinned_bytes_max, self.block_bytes);
            return Err(Error::config("pinned_bytes_max", problem));
        };
        Ok(slabs as usize)
    }
}

/// What batches of a dataset need in a region.
struct BatchBytes {
    /// One sample, aligned.
    sample: u64,
    /// A pool smaller than this cannot hold some batch.
    least: u64,
    /// A batch of average samples, far from each other; at least 1.
    typical: u64,
    /// No batch is larger than this.
    largest: u64,
    /// Pieces of documents, where the samples are windows.
    pieces: u64,
}

impl BatchBytes {
    /// Windows of documents of the mean length; there is room for twice as many pieces, and their blocks.
    fn of_windows(dataset: &Dataset, config: &Config, direct: bool) -> Result<BatchBytes> {
        let length = config.length(dataset)?;
        let arrays = array_bytes(&config.selection(dataset)?, direct);
        let (_, item_bytes) = length.tokens().unwrap_or((0, 1));
        let mean = document_tokens(dataset, &length, item_bytes);
        let (samples, tokens) = (config.batch_size as u64, config.window_tokens());
        let pieces = (tokens / mean).saturating_add(2).min(tokens.max(1));
        let blocks = (pieces + 1).saturating_mul(config.align_bytes);
        let sample = tokens.saturating_mul(item_bytes).saturating_add(blocks).saturating_add(arrays);
        let typical = samples.saturating_mul(sample).saturating_add(config.align_bytes);
        let largest = typical.saturating_add(samples.saturating_mul(blocks));
        Ok(BatchBytes {
            sample,
            least: samples.saturating_mul(tokens.saturating_mul(item_bytes).saturating_add(arrays)),
            typical,
            largest,
            pieces: (2 * pieces).saturating_mul(samples).min(PIECES_MAX.max(2 * samples)),
        })
    }

    fn of(dataset: &Dataset, config: &Config, direct: bool) -> Result<BatchBytes> {
        if config.windows.is_some() {
            return BatchBytes::of_windows(dataset, config, direct);
        }
        let positions = config.samples_typical(dataset)?;
        let samples = positions.min(dataset.len().max(1));
        // Of an array each position has a row of its own, whatever sample stands there.
        let rows = if config.repeats_samples() { positions } else { samples };
        let align = config.align_bytes;
        let selection = config.selection(dataset)?;
        let fixed = match &*selection.fields {
            [field] => field.fixed_bytes,
            _ => None,
        };
        let weights = config.mixture.as_ref().map(|(weights, _)| weights.as_slice());
        let all = selection.len() == dataset.fields().len();
        let extents = match fixed {
            Some(bytes) if bytes.is_multiple_of(align) && starts_aligned(dataset, &selection, align) => bytes,
            // It may start anywhere in a block, and then ends one block later.
            Some(bytes) => bytes.next_multiple_of(align) + align,
            None if all => mean_sample_bytes(dataset, weights).next_multiple_of(align) + align,
            None => mean_room(dataset, &selection, weights, config) + align,
        };
        let (arrays, ends) = (array_bytes(&selection, direct), align * selection.dense.len() as u64);
        let around = rows.saturating_mul(arrays).saturating_add(ends);
        let least = samples.saturating_mul(fixed.unwrap_or(0)).saturating_add(rows.saturating_mul(arrays));
        let sample = extents.saturating_add(arrays);
        let typical = samples.saturating_mul(extents).saturating_add(around).max(1);
        let widest = match fixed {
            Some(_) => extents + config.gap_bytes.min(extents),
            // A few samples may be far larger than the mean: room for a batch of the largest, if the budget has it.
            None => {
                let (fields, blocks) = (selection.len() as u64, 2 * align);
                let gaps = fields.saturating_mul(blocks.saturating_add(if all { 0 } else { config.gap_bytes }));
                dataset.largest_sample_of(&selection.numbers).saturating_add(gaps)
            }
        };
        let least = if fixed.is_some() { least } else { widest.saturating_add(arrays) };
        let largest = samples.saturating_mul(widest).saturating_add(around).max(typical);
        // A batch of the smallest samples has the most of them, and each its blocks.
        let full = config.budget.map_or(Ok(0), |(budget, _)| {
            let blocks = budget.samples_max.saturating_mul((2 * align).saturating_add(arrays)).saturating_add(ends);
            config.length(dataset).map(|length| length.bytes_max(budget.cost_max).saturating_add(blocks))
        })?;
        Ok(BatchBytes { sample, least, typical, largest: largest.max(full), pieces: 0 })
    }
}

/// What arrays take for each sample besides what is read, in the types that they come out in. Where the copies put all of it
/// in its place, that is nothing.
fn array_bytes(selection: &Selection, direct: bool) -> u64 {
    let rows = || selection.dense.iter().map(|dense| dense.row_bytes);
    let large = |dense: &Dense| dense.cast.is_none() && dense.row_bytes >= PLACED_BYTES_MIN;
    let placed = !direct && selection.dense.len() == selection.len() && selection.dense.iter().all(large);
    if placed { 0 } else { rows().fold(0, u64::saturating_add) }
}

/// Whether the first sample starts with a block; records are all alike then.
fn starts_aligned(dataset: &Dataset, selection: &Selection, align: u64) -> bool {
    let first = selection.numbers.first().and_then(|&field| dataset.extent(0, field));
    first.is_none_or(|extent| extent.offset.is_multiple_of(align))
}

/// Samples looked at to learn what is usual.
const LOOK_AT: u64 = 1024;

/// The mean size of a field, of samples all over the dataset.
fn mean_bytes(dataset: &Dataset, field: usize) -> u64 {
    let looks = dataset.len().min(LOOK_AT);
    let at = |look: u64| (u128::from(look) * u128::from(dataset.len()) / u128::from(looks)) as u64;
    let sum: u64 = (0..looks).filter_map(|look| dataset.extent(at(look), field)).map(|extent| extent.len).sum();
    (sum / looks.max(1)).max(1)
}

/// The mean room that a sample takes in a region, far from others: samples all over the dataset, each planned alone.
fn mean_room(dataset: &Dataset, selection: &Selection, weights: Option<&[u32]>, config: &Config) -> u64 {
    let limits = config.limits(true);
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
fn document_tokens(dataset: &Dataset, length: &Length, item_bytes: u64) -> u64 {
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
fn mean_sample_bytes(dataset: &Dataset, weights: Option<&[u32]>) -> u64 {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn dataset(record_bytes: u64, records: u64) -> (tempfile::NamedTempFile, Dataset) {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(record_bytes * records).unwrap();
        let dataset = Dataset::records(&[file.path()], record_bytes).unwrap();
        (file, dataset)
    }

    #[test]
    fn defaults_stay_within_their_budgets() {
        let device = Device::host();
        for (record_bytes, records) in [(1, 10), (512, 100_000), (4096, 1 << 20), (100_000, 5000), (1 << 20, 4096)] {
            let (_file, dataset) = dataset(record_bytes, records);
            for batch_size in [1, 8, 64] {
                for direct in [true, false] {
                    let config = Config { batch_size, ..Config::default() };
                    let sizes = config.sizes(&dataset, &device, direct).unwrap();
                    let pinned = if direct { sizes.region_bytes } else { sizes.slabs as u64 * config.block_bytes };
                    assert!(pinned <= 256 << 20, "{record_bytes} x {batch_size}: {pinned} bytes pinned");
                    assert!(sizes.region_bytes <= 1 << 30);
                    assert_eq!(sizes.batches_max, sizes.prefetch + config.hold);
                }
            }
        }
    }

    /// Mutant that this catches: rows counted by the samples of a dataset that is smaller than a batch.
    #[test]
    fn arrays_of_padded_batches_have_a_row_for_each_place() {
        let (_file, dataset) = dataset(5000, 8);
        let mut config = Config { batch_size: 40, prefetch: Some(1), hold: 1, ..Config::default() };
        config.fields.arrays.push(("record".into(), crate::DType::U8, vec![5000]));
        for (policy, rows) in [(Policy::Short, 8), (Policy::Pad, 40), (Policy::Wrap, 40)] {
            config.policy = Some(policy);
            let BatchBytes { least, typical, largest, .. } = BatchBytes::of(&dataset, &config, true).unwrap();
            assert!(least >= (rows + 8) * 5000 && typical >= least && largest >= typical, "{policy:?}");
            assert!(largest < (rows + 8 * 6) * 5000, "{policy:?}: more room than is needed");
        }
    }

    #[test]
    fn what_cannot_be_met_names_the_option_that_would() {
        let (_file, dataset) = dataset(1 << 20, 4096);
        let sizes = |config: &Config| config.sizes(&dataset, &Device::host(), true).unwrap_err().to_string();
        let config = Config { batch_size: 200, ..Config::default() };
        let text = sizes(&config);
        assert!(text.contains("pinned_bytes_max") && text.contains("batch_size"), "{text}");
        let text = sizes(&Config { batch_size: 8, region_bytes: Some(1 << 20), ..Config::default() });
        assert!(text.contains("region_bytes"), "{text}");
        let text = Config { block_bytes: 5000, ..Config::default() }.check().unwrap_err().to_string();
        assert!(text.contains("block_bytes: 5000 is not a multiple of 4096"), "{text}");
        let text = Config { hold: 0, ..Config::default() }.check().unwrap_err().to_string();
        assert!(text.contains("hold: must be at least 1"), "{text}");
    }
}
