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

mod batch;
mod usual;

use crate::config::{Config, Way};
use crate::dataset::Dataset;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::memory::Arena;
use crate::order::Policy;
use crate::plan::Limits;

use batch::BatchBytes;
use usual::mean_bytes;

/// A batch of up to so many samples may be larger than its dataset.
const BATCH_SIZE_ALWAYS: u64 = 1 << 20;
/// One is read while the next is planned, and one more evens out what reads take.
const PREFETCH_MIN: u64 = 3;
/// More batches ahead than this do not help: the reads in flight are bounded anyway.
const PREFETCH_MAX: u64 = 64;
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
    pub(crate) fn sizes(&self, dataset: &Dataset, device: &Device, way: Way) -> Result<Sizes> {
        let batch_size_max = dataset.len().max(BATCH_SIZE_ALWAYS);
        if self.batch_size as u64 > batch_size_max {
            let problem = format!("{} of {} samples; give at most {batch_size_max}", self.batch_size, dataset.len());
            return Err(Error::config("batch_size", problem));
        }
        let batch = BatchBytes::of(dataset, self, way)?;
        // Where the storage writes into a device's memory, no host memory is pinned for it.
        let (budget_name, budget) = match way {
            Way::Host => ("pinned_bytes_max", self.reads.pinned_bytes_max),
            Way::Staged | Way::Cufile { .. } => ("region_bytes_max", self.region_bytes_max),
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
            slabs: if way.is_direct() { 0 } else { self.reads.slabs()? },
            pieces: batch.pieces as usize,
            kept_bytes: if way.is_direct() { 0 } else { self.kept_bytes(dataset)? as usize },
            limits: self.limits(way),
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

    fn limits(&self, way: Way) -> Limits {
        Limits {
            align: self.reads.align_bytes,
            block_bytes: self.reads.block_bytes,
            window_bytes: if way.is_direct() { 1 << 62 } else { self.reads.block_bytes },
            gap_bytes: self.reads.gap_bytes,
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
        let read = self.reads.block_bytes.min(batch.sample.max(1));
        let in_flight = self.reads.bytes_in_flight.min(self.reads.reads_in_flight as u64 * read);
        let wanted = in_flight.saturating_mul(2).div_ceil(batch.typical).clamp(PREFETCH_MIN, PREFETCH_MAX);
        let fitting = (budget / batch.typical).saturating_sub(self.hold as u64);
        wanted.min(fitting).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ReadOptions;

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
                for way in [Way::Host, Way::Staged, Way::Cufile { compat: false }] {
                    let config = Config { batch_size, ..Config::default() };
                    let sizes = config.sizes(&dataset, &device, way).unwrap();
                    let slab_bytes = sizes.slabs as u64 * config.reads.block_bytes;
                    let pinned = if way == Way::Host { sizes.region_bytes } else { slab_bytes };
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
            let BatchBytes { least, typical, largest, .. } = BatchBytes::of(&dataset, &config, Way::Host).unwrap();
            assert!(least >= (rows + 8) * 5000 && typical >= least && largest >= typical, "{policy:?}");
            assert!(largest < (rows + 8 * 6) * 5000, "{policy:?}: more room than is needed");
        }
    }

    #[test]
    fn what_cannot_be_met_names_the_option_that_would() {
        let (_file, dataset) = dataset(1 << 20, 4096);
        let sizes = |config: &Config| config.sizes(&dataset, &Device::host(), Way::Host).unwrap_err().to_string();
        let config = Config { batch_size: 200, ..Config::default() };
        let text = sizes(&config);
        assert!(text.contains("pinned_bytes_max") && text.contains("batch_size"), "{text}");
        let text = sizes(&Config { batch_size: 8, region_bytes: Some(1 << 20), ..Config::default() });
        assert!(text.contains("region_bytes"), "{text}");
        let reads = ReadOptions { block_bytes: 5000, ..Config::default().reads };
        let text = Config { reads, ..Config::default() }.check().unwrap_err().to_string();
        assert!(text.contains("block_bytes: 5000 is not a multiple of 4096"), "{text}");
        let text = Config { hold: 0, ..Config::default() }.check().unwrap_err().to_string();
        assert!(text.contains("hold: must be at least 1"), "{text}");
    }
}
