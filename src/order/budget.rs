//! Batches of as many samples as a budget holds.
//!
//! Positions are cut greedily, batch after batch, and a step hands `world` consecutive batches to the ranks. Where a
//! batch ends depends on lengths alone, so another world goes on with the same batches, and every rank finds every other
//! rank's batches by the same arithmetic: one length per sample of the global batch.

use super::bucket::{Bucketing, Buckets};
use super::epoch::Order;
use super::rank::Rank;
use super::schedule::{Counts, Policy, Progress};
use crate::error::{Error, Result};

/// What a batch costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cost {
    /// The sum of its samples' lengths: ragged or packed batches.
    Sum,
    /// Its longest sample's length times its samples: batches padded to a rectangle.
    Padded,
}

/// When a batch is full: before the sample that would exceed either limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// The most samples; at least 1.
    pub samples_max: u64,
    /// The most cost, in the unit of the lengths (tokens, bytes).
    pub cost_max: u64,
    /// What is counted.
    pub cost: Cost,
}

/// The batches of one rank by budget; what [`Schedule`](super::Schedule) is for a fixed batch size.
#[derive(Debug, Clone)]
pub struct BudgetSchedule {
    order: Order,
    bucketing: Bucketing,
    budget: Budget,
    rank: Rank,
    policy: Policy,
}

impl BudgetSchedule {
    /// Batches within `budget` on this rank.
    ///
    /// # Errors
    /// [`Error::Config`] if a limit is 0, `bucketing` is out of range, or `Short` is asked of several ranks.
    pub fn new(
        order: Order,
        bucketing: Bucketing,
        budget: Budget,
        rank: Rank,
        policy: Policy,
    ) -> Result<BudgetSchedule> {
        bucketing.check()?;
        if budget.samples_max == 0 || budget.cost_max == 0 {
            let Budget { samples_max, cost_max, .. } = budget;
            let problem = format!("at most {samples_max} samples of cost {cost_max}; give 1 or more of each");
            return Err(Error::config("budget", problem));
        }
        policy.check(rank)?;
        Ok(BudgetSchedule { order, bucketing, budget, rank, policy })
    }

    /// The order the batches are cut from, before bucketing.
    pub fn order(&self) -> &Order {
        &self.order
    }

    /// How samples are bucketed, for the cursor; `None` where they are not.
    pub fn bucketing(&self) -> Option<Bucketing> {
        Some(self.bucketing).filter(|bucketing| *bucketing != Bucketing::NONE)
    }

    /// The steps of what is left of an epoch. How many they are shows at the end: only lengths say.
    ///
    /// # Errors
    /// [`Error::Config`] if more is consumed than the epoch has, or the epoch cannot be counted.
    pub fn steps(&self, from: Progress) -> Result<BudgetSteps> {
        self.order.check(from)?;
        let buckets = Buckets::new(&self.order, from.epoch, self.bucketing);
        let (n, budget, rank, policy) = (self.order.len(), self.budget, self.rank, self.policy);
        Ok(BudgetSteps { buckets, n, budget, rank, policy, at: from, first: from.consumed, counts: Counts::default() })
    }
}

/// The steps of one epoch, or of the rest of one, on one rank.
#[derive(Debug, Clone)]
pub struct BudgetSteps {
    buckets: Buckets,
    n: u64,
    budget: Budget,
    rank: Rank,
    policy: Policy,
    at: Progress,
    /// This rank's first position of the last step.
    first: u64,
    counts: Counts,
}

impl BudgetSteps {
    /// Replaces `out` by the sample ids of this rank's batch of the next step and returns how many of the last ones are
    /// padding; `None` at the epoch's end, on every rank at the same step. `len_of` gives each sample's length.
    ///
    /// Under `Pad` and `Wrap` the ranks that nothing is left for get one padding sample, or batches from the epoch's start.
    ///
    /// # Errors
    /// [`Error::Config`] naming a sample that exceeds the budget alone; if `Drop` would drop the whole epoch.
    pub fn next(&mut self, len_of: impl Fn(u64) -> u64, out: &mut Vec<u64>) -> Result<Option<u64>> {
        out.clear();
        let start = self.at.consumed;
        if start >= self.n {
            return Ok(None);
        }
        let (mut position, mut padded, mut counts) = (start, 0, self.counts);
        for rank in 0..self.rank.world() {
            let mine = rank == self.rank.rank();
            if position < self.n {
                self.first = if mine { position } else { self.first };
                position = self.cut(position, &len_of, mine.then_some(&mut *out))?;
                continue;
            }
            match self.policy {
                Policy::Drop | Policy::Short => {
                    out.clear();
                    if start == 0 {
                        let (n, world) = (self.n, self.rank.world());
                        let problem = format!(
                            "drop leaves nothing of {n} samples: they are fewer than {world} batches; lower the budget, \
                             or use pad or wrap"
                        );
                        return Err(Error::config("policy", problem));
                    }
                    self.counts.dropped = self.n - start;
                    self.at.consumed = self.n;
                    return Ok(None);
                }
                Policy::Pad => {
                    counts.padded += 1;
                    if mine {
                        self.first = self.n - 1;
                        out.push(self.buckets.at(self.n - 1, &len_of).0);
                        padded = 1;
                    }
                }
                Policy::Wrap => {
                    let from = counts.wrapped % self.n;
                    self.first = if mine { from } else { self.first };
                    counts.wrapped += self.cut(from, &len_of, mine.then_some(&mut *out))? - from;
                }
            }
        }
        (self.at.consumed, self.counts) = (position, counts);
        Ok(Some(padded))
    }

    /// The position of the first sample of this rank's batch of the last step.
    pub fn position(&self) -> u64 {
        self.first
    }

    /// Where the run stands once every rank has been given its batch of the last step: the next epoch's start at the end.
    pub fn progress(&self) -> Progress {
        if self.at.consumed >= self.n {
            return Progress { epoch: self.at.epoch + 1, consumed: 0 };
        }
        self.at
    }

    /// What the policy has dropped, padded or wrapped so far, on all ranks together.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// The end of the batch that starts at `position`, and its samples.
    fn cut(&mut self, position: u64, len_of: &impl Fn(u64) -> u64, mut out: Option<&mut Vec<u64>>) -> Result<u64> {
        let (mut longest, mut sum) = (0, 0u64);
        let until = position.saturating_add(self.budget.samples_max).min(self.n);
        for next in position..until {
            let (sample, len) = self.buckets.at(next, len_of);
            longest = len.max(longest);
            sum = sum.saturating_add(len);
            let cost = match self.budget.cost {
                Cost::Sum => sum,
                Cost::Padded => longest.saturating_mul(next - position + 1),
            };
            if cost > self.budget.cost_max {
                if next == position {
                    let problem = format!("sample {sample} has {len}, more than a batch's {}", self.budget.cost_max);
                    return Err(Error::config("budget", problem));
                }
                return Ok(next);
            }
            if let Some(out) = &mut out {
                out.push(sample);
            }
        }
        Ok(until)
    }
}
