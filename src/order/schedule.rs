//! From positions to the batches of one rank.
//!
//! ```text
//!   positions of an epoch   | consumed |      step 0       |      step 1       |  step 2 ..
//!                                      | rank 0 | rank 1   | rank 0 | rank 1   |
//!                                       \ batch_size /  \ one global batch: batch_size * world
//! ```
//!
//! Ranks take slices of positions and never shards, so every rank has the same number of steps whatever the shards are.
//! Since nothing but the count of consumed positions says how far an epoch has come, any world and batch size can go on
//! from it.

use super::epoch::{Epoch, Order};
use super::rank::Rank;
use super::shuffle::SAMPLES_MAX;
use crate::error::{Error, Result};

/// The most samples of one rank's batch; [`Steps::batch`] writes them all down.
pub const BATCH_SIZE_MAX: u64 = 1 << 24;

/// What happens to the samples behind the last whole global batch. Every policy gives every rank the same number of
/// steps: ranks with unequal steps dead-lock collective operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// They are not delivered in this epoch. Nothing is repeated; a shuffle drops others in each epoch.
    Drop,
    /// They are delivered, and the free places hold the epoch's last sample, reported as padding so that a loss can
    /// mask them.
    Pad,
    /// They are delivered, and the free places hold samples from the start of the same epoch as ordinary samples: what
    /// PyTorch's `DistributedSampler` does.
    Wrap,
    /// They are delivered as a shorter batch. For world 1 only, where there is no other rank to fall out of step with.
    Short,
}

impl Policy {
    /// `Short` for a single process: nothing lost, nothing repeated. `Drop` for several: nothing repeated, and less than
    /// one global batch left out of each epoch.
    pub fn default_for(world: u32) -> Policy {
        if world == 1 { Policy::Short } else { Policy::Drop }
    }

    /// That several ranks do not ask for `Short`.
    pub(super) fn check(self, rank: Rank) -> Result<()> {
        if self == Policy::Short && rank.world() > 1 {
            let problem = format!("short needs world 1, and this is world {}; use drop, pad or wrap", rank.world());
            return Err(Error::config("policy", problem));
        }
        Ok(())
    }

    /// `"drop"`, `"pad"`, `"wrap"`, `"short"`.
    pub fn name(self) -> &'static str {
        match self {
            Policy::Drop => "drop",
            Policy::Pad => "pad",
            Policy::Wrap => "wrap",
            Policy::Short => "short",
        }
    }
}

impl std::str::FromStr for Policy {
    type Err = Error;

    fn from_str(name: &str) -> Result<Policy> {
        let all = [Policy::Drop, Policy::Pad, Policy::Wrap, Policy::Short];
        let unknown = || Error::config("policy", format!("{name:?} is none of drop, pad, wrap, short"));
        all.into_iter().find(|policy| policy.name() == name).ok_or_else(unknown)
    }
}

/// The batches of one rank, for every epoch of an order.
#[derive(Debug, Clone)]
pub struct Schedule {
    order: Order,
    batch_size: u64,
    rank: Rank,
    policy: Policy,
}

impl Schedule {
    /// Batches of `batch_size` samples on this rank.
    ///
    /// # Errors
    /// [`Error::Config`] if `batch_size` is 0 or exceeds [`BATCH_SIZE_MAX`], or the global batch [`SAMPLES_MAX`]; if `Short` is asked of several
    /// ranks; if `Drop` would drop everything because the order is shorter than one global batch.
    pub fn new(order: Order, batch_size: u64, rank: Rank, policy: Policy) -> Result<Schedule> {
        let global = batch_size.checked_mul(rank.world().into()).filter(|&global| global <= SAMPLES_MAX);
        let Some(global) = global.filter(|&global| global > 0) else {
            let problem = format!("{batch_size} samples on each of {} ranks; give 1 or more", rank.world());
            return Err(Error::config("batch_size", problem));
        };
        if batch_size > BATCH_SIZE_MAX {
            let problem = format!("{batch_size} samples a batch; give at most {BATCH_SIZE_MAX}");
            return Err(Error::config("batch_size", problem));
        }
        policy.check(rank)?;
        if policy == Policy::Drop && !order.is_empty() && order.len() < global {
            let problem = format!(
                "drop leaves nothing of {} samples with a global batch of {global}; lower batch_size, or use pad or wrap",
                order.len()
            );
            return Err(Error::config("policy", problem));
        }
        Ok(Schedule { order, batch_size, rank, policy })
    }

    /// The order the batches are cut from.
    pub fn order(&self) -> &Order {
        &self.order
    }

    /// Samples of one step on all ranks together.
    pub fn global_batch(&self) -> u64 {
        self.batch_size * u64::from(self.rank.world())
    }

    /// The steps of what is left of an epoch; of all of it where nothing is consumed.
    ///
    /// # Errors
    /// [`Error::Config`] if more is consumed than the epoch has, or the epoch cannot be counted.
    pub fn steps(&self, from: Progress) -> Result<Steps> {
        let Progress { epoch, consumed } = from;
        let n = self.order.len();
        self.order.check(from)?;
        let (left, global) = (n - consumed, self.global_batch());
        let len = match self.policy {
            Policy::Drop => left / global,
            Policy::Pad | Policy::Wrap | Policy::Short => left.div_ceil(global),
        };
        let places = len * global;
        let (dropped, filled) = (left.saturating_sub(places), places.saturating_sub(left));
        let counts = match self.policy {
            Policy::Drop => Counts { dropped, ..Counts::default() },
            Policy::Pad => Counts { padded: filled, ..Counts::default() },
            Policy::Wrap => Counts { wrapped: filled, ..Counts::default() },
            Policy::Short => Counts::default(),
        };
        let first = consumed + u64::from(self.rank.rank()) * self.batch_size;
        let (batch_size, policy) = (self.batch_size, self.policy);
        Ok(Steps { order: self.order.epoch(epoch), from, n, first, global, batch_size, len, policy, counts })
    }
}

/// How far a run has come: all there is to know in order to go on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Progress {
    /// The epoch.
    pub epoch: u64,
    /// Positions of it that all ranks together have been given.
    pub consumed: u64,
}

/// What a policy did to the end of an epoch, on all ranks together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Samples not delivered.
    pub dropped: u64,
    /// Places that hold padding.
    pub padded: u64,
    /// Places that hold a sample for the second time.
    pub wrapped: u64,
}

/// The steps of one epoch, or of the rest of one, on one rank.
#[derive(Debug, Clone)]
pub struct Steps {
    order: Epoch,
    from: Progress,
    n: u64,
    /// This rank's first position of step 0.
    first: u64,
    global: u64,
    batch_size: u64,
    len: u64,
    policy: Policy,
    counts: Counts,
}

impl Steps {
    /// The number of steps, the same on every rank.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// The epoch that these steps belong to.
    pub fn epoch(&self) -> u64 {
        self.from.epoch
    }

    /// Whether the epoch is over.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What the policy drops, pads or wraps at the end, on all ranks together.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Replaces `out` by the sample ids of this rank's batch of a step and returns how many of the last ones are padding.
    /// Allocates nothing once `out` has room for a batch.
    ///
    /// # Panics
    /// If `step` is not below [`len`](Self::len).
    pub fn batch(&self, step: u64, out: &mut Vec<u64>) -> u64 {
        assert!(step < self.len, "step {step} of {}", self.len);
        out.clear();
        let start = self.first + step * self.global;
        let end = start + self.batch_size;
        self.order.extend(start.min(self.n)..end.min(self.n), out);
        let behind = start.max(self.n)..end.max(self.n);
        let padded = behind.end - behind.start;
        match self.policy {
            Policy::Pad if padded > 0 => {
                let last = self.order.sample_at(self.n - 1);
                out.extend(behind.map(|_| last));
                padded
            }
            Policy::Wrap => {
                out.extend(behind.map(|position| self.order.sample_at(position % self.n)));
                0
            }
            Policy::Pad | Policy::Drop | Policy::Short => 0,
        }
    }

    /// The position of place `index` of this rank's batch of a step; behind the order's length for padded and wrapped places.
    pub fn position(&self, step: u64, index: u64) -> u64 {
        self.first + step * self.global + index
    }

    /// Where the run stands once every rank has been given its batch of `step`: the next epoch's start after the last.
    pub fn progress_after(&self, step: u64) -> Progress {
        if step + 1 >= self.len {
            return Progress { epoch: self.from.epoch + 1, consumed: 0 };
        }
        Progress { epoch: self.from.epoch, consumed: self.from.consumed + (step + 1) * self.global }
    }
}
