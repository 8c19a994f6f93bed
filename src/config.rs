//! The options of a loader, and what they say of its order. What they come to in memory: `sizes.rs`.

mod reads;

use std::sync::Arc;

use crate::dataset::Dataset;
use crate::documents::{Documents, StoredWindows};
use crate::error::{Error, Result};
use crate::length::Length;
use crate::order::{
    AtEnd, BadSamplePolicy, Bucketing, Budget, BudgetSchedule, Order, Packer, Part, Policy, Rank, Schedule, Shuffle,
};
use crate::selection::{FieldOptions, Selection, Tokens};
use crate::source::Supply;

pub use reads::{PathChoice, RingChoice};
pub(crate) use reads::{ReadOptions, Way, options, read_options};

/// Whether samples are compared with their checksums as they are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verify {
    /// No: no byte of them passes through the CPU.
    #[default]
    Off,
    /// With the CRC32C of each field of each sample; every shard's index must have them (`strait index --checksums`).
    Checksums,
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
    pub(crate) fields: FieldOptions,
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
    pub(crate) verify: Verify,
    pub(crate) prefetch: Option<usize>,
    pub(crate) hold: usize,
    pub(crate) region_bytes_max: u64,
    pub(crate) region_bytes: Option<u64>,
    pub(crate) reads: ReadOptions,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            fields: FieldOptions::default(),
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
            verify: Verify::Off,
            prefetch: None,
            hold: 2,
            region_bytes_max: 1 << 30,
            region_bytes: None,
            reads: ReadOptions::with_gap(16 << 10),
        }
    }
}

/// More batches than this cannot be read ahead, nor held: each costs memory of its own besides its bytes.
const BATCHES_MAX: u64 = 1 << 16;
/// More samples than this in a batch are a mistake: every batch has room for so many.
const BATCH_SAMPLES_MAX: u64 = 1 << 20;

impl Config {
    pub(crate) fn check(&self) -> Result<()> {
        let at_least_1 = [
            ("batch_size", self.batch_size as u64),
            ("hold", self.hold as u64),
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
        self.reads.check()
    }

    /// The same options without those parts of them that this dataset cannot use up.
    pub(crate) fn bounded(self, dataset: &Dataset) -> Config {
        Config { reads: self.reads.bounded(dataset.shards().len()), ..self }
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
        self.length(dataset)?; // what is named as tokens exists, also where nothing is measured
        let order = self.order(dataset.parts())?;
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
        if self.budget.is_some() {
            return Err(Error::config("windows", "windows are all of one size, and no budget goes with them"));
        }
        let documents = Arc::new(Documents::new(dataset, &self.length(dataset)?)?);
        let filled = |windows: u64, tokens: u64| {
            let problem = || format!("{tokens} tokens fill no window of {}", self.window_tokens());
            if windows == 0 { Err(Error::config("window_tokens", problem())) } else { Ok(()) }
        };
        let schedule = |order| Schedule::new(order, self.batch_size as u64, self.rank, policy);
        match windows {
            Windows::Stored { window_tokens, stride_tokens } => {
                let parts = match self.mixture {
                    Some(_) => documents.parts(dataset),
                    None => std::iter::once(0..documents.tokens()).collect(),
                };
                let windows = StoredWindows::new(&parts, window_tokens, stride_tokens)?;
                let lens = windows.lens();
                parts.iter().zip(&lens).try_for_each(|(part, &len)| filled(len, part.end - part.start))?;
                Ok(Supply::Windows(schedule(self.order(&lens)?)?, Arc::new(windows), documents))
            }
            Windows::Packed { window_tokens } => {
                if self.mixture.is_some() {
                    let problem = "a packed window goes on from document to document of one dataset; give `windows` in place of `pack`";
                    return Err(Error::config("mixture", problem));
                }
                let order = Order::new(self.shuffle, documents.len(), self.seed)?;
                let packer = Packer::new(order, window_tokens, documents.tokens())?;
                filled(packer.windows(), documents.tokens())?;
                let windows = Order::new(Shuffle::Sequential, packer.windows(), self.seed)?;
                Ok(Supply::Packed(schedule(windows)?, packer, documents))
            }
        }
    }

    pub(crate) fn window_tokens(&self) -> u64 {
        self.windows.map_or(0, Windows::tokens)
    }

    /// Fills in what a token is where windows are asked for, and the dataset leaves one answer.
    pub(crate) fn with_tokens_of(mut self, dataset: &Dataset) -> Config {
        if let (Some(_), None, [field]) = (&self.windows, &self.tokens, dataset.fields())
            && let Some(dtype) = field.dtype.filter(|dtype| dtype.is_integer())
        {
            self.tokens = dtype.bytes().map(|bytes| (field.name.to_string(), bytes));
        }
        self
    }

    pub(crate) fn length(&self, dataset: &Dataset) -> Result<Length> {
        let tokens = self.tokens.as_ref().map(|(field, item_bytes)| (field.as_str(), *item_bytes));
        Length::new(dataset, &self.selection(dataset)?, tokens)
    }

    /// The option, if one was given, for which the CPU must see bytes on their way.
    pub(crate) fn on_the_way(&self) -> Option<&'static str> {
        let on_host = self.fields.on_host.as_ref().is_some_and(|names| !names.is_empty());
        if self.verify == Verify::Checksums { Some("verify") } else { on_host.then_some("on_host") }
    }

    /// That there is something to verify all samples by: a part of them verified would look like all.
    pub(crate) fn check_verify(&self, dataset: &Dataset) -> Result<()> {
        if self.verify == Verify::Off {
            return Ok(());
        }
        if self.windows.is_some() {
            let problem = "windows are parts of documents, and checksums are of the whole; leave verify out";
            return Err(Error::config("verify", problem));
        }
        match dataset.without_checksums().next() {
            None => Ok(()),
            Some(first) => {
                let problem = format!(
                    "{} of {} shards have no checksums in an index of theirs, the first of them {}; make them with \
                     `strait index --checksums`",
                    dataset.without_checksums().count(),
                    dataset.shards().len(),
                    first.path.display()
                );
                Err(Error::config("verify", problem))
            }
        }
    }

    /// What is read of each sample.
    pub(crate) fn selection(&self, dataset: &Dataset) -> Result<Selection> {
        let windows = self.windows.and(self.tokens.as_ref()).map(|(field, item_bytes)| Tokens {
            field,
            item_bytes: *item_bytes,
            window_tokens: self.window_tokens(),
        });
        Selection::new(dataset, &self.fields, windows)
    }

    /// The order of the samples of datasets that were joined.
    fn order(&self, parts: &[u64]) -> Result<Order> {
        let Some((weights, at_end)) = &self.mixture else {
            return Order::new(self.shuffle, parts.iter().sum(), self.seed);
        };
        if weights.len() != parts.len() {
            let problem = format!(
                "{} weights for {} datasets; join as many, in the order of their weights",
                weights.len(),
                parts.len()
            );
            return Err(Error::config("mixture", problem));
        }
        let part = |(&samples, &weight)| Part { samples, weight };
        let parts: Vec<Part> = parts.iter().zip(weights).map(part).collect();
        Order::mixture(&parts, self.shuffle, self.seed, *at_end)
    }
}
