//! Options, and the sums that bound a loader's memory.
//!
//! ```text
//!  pinned bytes   staged  slabs x slab_bytes                         <= pinned_bytes_max
//!                 direct  region_bytes: the ring writes there        <= pinned_bytes_max
//!  device bytes   region_bytes                                       <= region_bytes_max
//!  in flight      reads <= reads_in_flight, bytes <= bytes_in_flight
//!  batches        batches_max = prefetch + hold; each is planned, being filled, waiting, or with the consumer
//!  open files     open_files_max
//! ```

use std::sync::Arc;
use std::time::Duration;

use crate::dataset::Dataset;
use crate::device::Device;
use crate::documents::Documents;
use crate::error::{Error, Result};
use crate::length::Length;
use crate::memory::Arena;
use crate::order::{
    AtEnd, BadSamplePolicy, Bucketing, Budget, BudgetSchedule, Order, Packer, Part, Policy, Rank, Schedule, Shuffle,
    TokenWindows,
};
use crate::plan;
use crate::source::Supply;

/// Which storage backend reads the shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RingChoice {
    /// io_uring where the kernel allows it and the file gains by it, threads otherwise: decided per file by a probe.
    #[default]
    Auto,
    /// io_uring or an error; no file is probed.
    Uring,
    /// Threads that call `preadv2`.
    Pread,
}

/// Which way bytes take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PathChoice {
    /// Direct where the ring can write into the batch's memory, staged otherwise.
    #[default]
    Auto,
    /// Through slabs and a copy stream, even where direct would do.
    Staged,
}

/// How windows are cut from documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Windows {
    /// As they are stored.
    Stored { window_tokens: u64, stride_tokens: u64 },
    /// As they are shuffled.
    Packed { window_tokens: u64 },
}

impl Windows {
    fn tokens(self) -> u64 {
        match self {
            Windows::Stored { window_tokens, .. } | Windows::Packed { window_tokens } => window_tokens,
        }
    }
}

/// The options of a loader; see [`crate::Builder`] for what each means.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) batch_size: usize,
    /// In place of `batch_size`.
    pub(crate) budget: Option<(Budget, Bucketing)>,
    /// What is a token: a field, and the bytes of one.
    pub(crate) tokens: Option<(String, u64)>,
    /// Samples are windows of tokens.
    pub(crate) windows: Option<Windows>,
    pub(crate) shuffle: Shuffle,
    /// Weights of the datasets that were joined, and what happens where one ends.
    pub(crate) mixture: Option<(Vec<u32>, AtEnd)>,
    pub(crate) rank: Rank,
    pub(crate) policy: Option<Policy>,
    pub(crate) seed: u64,
    pub(crate) bad_samples: BadSamplePolicy,
    pub(crate) prefetch: Option<usize>,
    pub(crate) hold: usize,
    pub(crate) block_bytes: u64,
    pub(crate) gap_bytes: u64,
    pub(crate) align_bytes: u64,
    pub(crate) reads_in_flight: usize,
    pub(crate) bytes_in_flight: u64,
    pub(crate) pinned_bytes_max: u64,
    pub(crate) region_bytes_max: u64,
    pub(crate) region_bytes: Option<u64>,
    pub(crate) open_files_max: usize,
    pub(crate) deadline: Duration,
    pub(crate) ring: RingChoice,
    pub(crate) path: PathChoice,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            batch_size: 256,
            budget: None,
            tokens: None,
            windows: None,
            shuffle: Shuffle::Sequential,
            mixture: None,
            rank: Rank::SINGLE,
            policy: None,
            seed: 0,
            bad_samples: BadSamplePolicy::Raise,
            prefetch: None,
            hold: 2,
            block_bytes: 4 << 20,
            gap_bytes: 16 << 10,
            align_bytes: 4096,
            reads_in_flight: 128,
            bytes_in_flight: 32 << 20,
            pinned_bytes_max: 256 << 20,
            region_bytes_max: 1 << 30,
            region_bytes: None,
            open_files_max: 256,
            deadline: Duration::from_secs(30),
            ring: RingChoice::Auto,
            path: PathChoice::Auto,
        }
    }
}

/// More batches than this cannot be read ahead, nor held: each costs memory of its own besides its bytes.
const BATCHES_MAX: u64 = 1 << 16;
/// A batch of up to so many samples may be larger than its dataset.
const BATCH_SIZE_ALWAYS: u64 = 1 << 20;
/// A deadline that never passes; longer ones would leave the range of clocks.
const NEVER: Duration = Duration::from_secs(1 << 30);
/// One is read while the next is planned, and one more evens out what reads take.
const PREFETCH_MIN: u64 = 3;
/// More batches ahead than this do not help: the reads in flight are bounded anyway.
const PREFETCH_MAX: u64 = 64;
/// More slabs than this are never in flight at once.
const SLABS_MAX: u64 = 64;

/// Pieces that every batch of windows has room for at most; where documents are so short, a batch allocates.
const PIECES_MAX: u64 = 1 << 16;

/// More samples than this in a batch are a mistake: every batch has room for so many.
const BATCH_SAMPLES_MAX: u64 = 1 << 20;

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
    pub(crate) limits: plan::Limits,
}

impl Config {
    pub(crate) fn check(&self) -> Result<()> {
        let at_least_1 = [
            ("batch_size", self.batch_size as u64),
            ("hold", self.hold as u64),
            ("reads_in_flight", self.reads_in_flight as u64),
            ("open_files_max", self.open_files_max as u64),
            ("prefetch", self.prefetch.unwrap_or(1) as u64),
        ];
        for (option, value) in at_least_1 {
            if value == 0 {
                return Err(Error::config(option, "must be at least 1"));
            }
        }
        for (option, value) in [("prefetch", self.prefetch.unwrap_or(1)), ("hold", self.hold)] {
            if value as u64 > BATCHES_MAX {
                return Err(Error::config(option, format!("{value} batches; give at most {BATCHES_MAX}")));
            }
        }
        if self.deadline.is_zero() {
            return Err(Error::config("deadline", "nothing happens in no time; give at least a few milliseconds"));
        }
        let align = self.align_bytes;
        if !align.is_power_of_two() || align < 4096 {
            return Err(Error::config("align_bytes", format!("{align} is not a power of two of at least 4096")));
        }
        if self.block_bytes == 0 || !self.block_bytes.is_multiple_of(align) || self.block_bytes > 1 << 30 {
            let problem = format!("{} is not a multiple of {align} up to 1 GiB", self.block_bytes);
            return Err(Error::config("block_bytes", problem));
        }
        if self.reads_in_flight > 4096 {
            return Err(Error::config("reads_in_flight", "more than 4096 reads in flight help no device"));
        }
        Ok(())
    }

    /// The same options without those parts of them that this dataset cannot use up.
    pub(crate) fn bounded(self, dataset: &Dataset) -> Config {
        let open_files_max = self.open_files_max.min(dataset.shards().len().max(1));
        Config { open_files_max, deadline: self.deadline.min(NEVER), ..self }
    }

    /// The most samples of a batch.
    pub(crate) fn samples_max(&self) -> usize {
        self.budget.map_or(self.batch_size, |(budget, _)| budget.samples_max as usize)
    }

    /// What the batches of every epoch are.
    pub(crate) fn supply(&self, dataset: &Dataset) -> Result<Supply> {
        let policy = self.policy.unwrap_or_else(|| Policy::default_for(self.rank.world()));
        if let Some(windows) = self.windows {
            return self.windows_supply(dataset, windows, policy);
        }
        let order = self.order(dataset)?;
        let Some((budget, bucketing)) = self.budget else {
            return Ok(Supply::Samples(Schedule::new(order, self.batch_size as u64, self.rank, policy)?));
        };
        if budget.samples_max > BATCH_SAMPLES_MAX {
            let problem = format!("at most {} samples a batch; give at most {BATCH_SAMPLES_MAX}", budget.samples_max);
            return Err(Error::config("budget", problem));
        }
        let schedule = BudgetSchedule::new(order, bucketing, budget, self.rank, policy)?;
        Ok(Supply::Budget(schedule, self.length(dataset)?))
    }

    fn windows_supply(&self, dataset: &Dataset, windows: Windows, policy: Policy) -> Result<Supply> {
        if self.budget.is_some() || self.mixture.is_some() {
            let other = if self.budget.is_some() { "budget" } else { "mixture" };
            return Err(Error::config(
                "windows",
                format!("windows are all of one size, and no {other} goes with them"),
            ));
        }
        if self.bad_samples != BadSamplePolicy::Raise {
            let problem =
                "windows cannot leave out a sample, which is a part of some of them; raise, or leave the shard out";
            return Err(Error::config("bad_samples", problem));
        }
        let documents = Arc::new(Documents::new(dataset, self.length(dataset)?)?);
        let schedule = |shuffle, windows| {
            if windows == 0 {
                let problem = format!("{} tokens fill no window of {}", documents.tokens(), self.window_tokens());
                return Err(Error::config("window_tokens", problem));
            }
            let order = Order::new(shuffle, windows, self.seed)?;
            Schedule::new(order, self.batch_size as u64, self.rank, policy)
        };
        match windows {
            Windows::Stored { window_tokens, stride_tokens } => {
                let windows = TokenWindows::new(documents.tokens(), window_tokens, stride_tokens)?;
                Ok(Supply::Windows(schedule(self.shuffle, windows.len())?, windows, documents.clone()))
            }
            Windows::Packed { window_tokens } => {
                let order = Order::new(self.shuffle, documents.len(), self.seed)?;
                let packer = Packer::new(order, window_tokens, documents.tokens())?;
                Ok(Supply::Packed(schedule(Shuffle::Sequential, packer.windows())?, packer, documents.clone()))
            }
        }
    }

    fn window_tokens(&self) -> u64 {
        self.windows.map_or(0, Windows::tokens)
    }

    fn length(&self, dataset: &Dataset) -> Result<Length> {
        Length::new(dataset, self.tokens.as_ref().map(|(field, item_bytes)| (field.as_str(), *item_bytes)))
    }

    /// The order of the dataset's samples.
    fn order(&self, dataset: &Dataset) -> Result<Order> {
        let Some((weights, at_end)) = &self.mixture else {
            return Order::new(self.shuffle, dataset.len(), self.seed);
        };
        let parts = dataset.parts();
        if weights.len() != parts.len() {
            let problem = format!(
                "{} weights for {} datasets; join as many with Dataset::concat, in the order of their weights",
                weights.len(),
                parts.len()
            );
            return Err(Error::config("mixture", problem));
        }
        let part = |(&samples, &weight)| Part { samples, weight };
        let parts: Vec<Part> = parts.iter().zip(weights).map(part).collect();
        Order::mixture(&parts, self.shuffle, self.seed, *at_end)
    }

    /// Sizes everything for batches of `dataset`'s samples.
    pub(crate) fn sizes(&self, dataset: &Dataset, device: &Device, direct: bool) -> Result<Sizes> {
        let batch_size_max = dataset.len().max(BATCH_SIZE_ALWAYS);
        if self.batch_size as u64 > batch_size_max {
            let problem = format!("{} of {} samples; give at most {batch_size_max}", self.batch_size, dataset.len());
            return Err(Error::config("batch_size", problem));
        }
        let batch = BatchBytes::of(dataset, self)?;
        let (budget_name, budget) = match direct {
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
            limits: plan::Limits {
                align: self.align_bytes,
                block_bytes: self.block_bytes,
                window_bytes: if direct { 1 << 62 } else { self.block_bytes },
                gap_bytes: self.gap_bytes,
            },
        })
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
    fn of_windows(dataset: &Dataset, config: &Config) -> Result<BatchBytes> {
        let length = config.length(dataset)?;
        let (_, item_bytes) = length.tokens().unwrap_or((0, 1));
        let shard_bytes = dataset.shards().iter().map(|shard| shard.bytes).sum::<u64>();
        let mean = match dataset.format() {
            "records" => (shard_bytes / item_bytes / dataset.shards().len().max(1) as u64).max(1),
            _ => length.mean(dataset),
        };
        let (samples, tokens) = (config.batch_size as u64, config.window_tokens());
        let pieces = (tokens / mean).saturating_add(2).min(tokens.max(1));
        let blocks = (pieces + 1).saturating_mul(config.align_bytes);
        let sample = tokens.saturating_mul(item_bytes).saturating_add(blocks);
        let typical = samples.saturating_mul(sample).max(1);
        let largest = typical.saturating_add(samples.saturating_mul(blocks));
        Ok(BatchBytes {
            sample,
            least: samples.saturating_mul(tokens).saturating_mul(item_bytes),
            typical,
            largest,
            pieces: (2 * pieces).saturating_mul(samples).min(PIECES_MAX.max(2 * samples)),
        })
    }

    fn of(dataset: &Dataset, config: &Config) -> Result<BatchBytes> {
        if config.windows.is_some() {
            return BatchBytes::of_windows(dataset, config);
        }
        let samples = config.samples_typical(dataset)?.min(dataset.len().max(1));
        let align = config.align_bytes;
        let fixed = match dataset.fields() {
            [field] => field.fixed_bytes,
            _ => None,
        };
        let mean = mean_sample_bytes(dataset, config.mixture.as_ref().map(|(weights, _)| weights.as_slice()));
        let sample = match fixed.unwrap_or(mean) {
            bytes if fixed.is_some() && bytes.is_multiple_of(align) => bytes,
            // It may start anywhere in a block, and then ends one block later.
            bytes => bytes.next_multiple_of(align) + align,
        };
        let least = samples.saturating_mul(fixed.unwrap_or(0));
        let typical = samples.saturating_mul(sample).max(1);
        let widest = match fixed {
            Some(_) => sample + config.gap_bytes.min(sample),
            // A few samples may be far larger than the mean: room for a batch of the largest, if the budget has it.
            None => {
                let fields = dataset.fields().len() as u64;
                dataset.largest_sample().saturating_add(2 * align * fields)
            }
        };
        let least = if fixed.is_some() { least } else { widest };
        let largest = samples.saturating_mul(widest).max(typical);
        // A batch of the smallest samples has the most of them, and each its blocks.
        let full = config.budget.map_or(Ok(0), |(budget, _)| {
            let blocks = budget.samples_max.saturating_mul(2 * align);
            config.length(dataset).map(|length| length.bytes_max(budget.cost_max).saturating_add(blocks))
        })?;
        Ok(BatchBytes { sample, least, typical, largest: largest.max(full), pieces: 0 })
    }
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
