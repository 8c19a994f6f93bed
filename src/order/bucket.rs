//! Samples of similar length next to each other, inside windows of an order.
//!
//! ```text
//!   positions    | window 0           | window 1           | ..         as the order has them
//!   sorted       | 1 1 2 | 2 3 5 | 8 9 9 |  ..                          by length, cut into runs
//!   delivered    | 2 3 5 | 1 1 2 | 8 9 9 |  ..                          runs permuted; a short last one stays last
//! ```
//!
//! It permutes positions inside each window and knows nothing of batches, so a count of consumed samples still says
//! everything: batches cut from it may have any size, budget and world.

use serde::{Deserialize, Serialize};

use super::epoch::{Epoch, Order};
use super::key::{Purpose, fold, key};
use super::permutation::Permutation;
use crate::error::{Error, Result};

/// How samples are bucketed by length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bucketing {
    /// Samples sorted together; the larger, the more alike the samples of a batch and the less uniform the order. Costs 24
    /// bytes each, and a sort per window.
    pub window: u64,
    /// Neighbours by length that stay together: a few batches of them, as a batch that takes from two runs is less alike.
    pub run: u64,
}

impl Bucketing {
    /// No bucketing: the order as it is.
    pub const NONE: Bucketing = Bucketing { window: 1, run: 1 };

    /// The most samples of a window: 24 MiB.
    pub const WINDOW_MAX: u64 = 1 << 20;

    pub(super) fn check(self) -> Result<()> {
        if self.run == 0 || self.run > self.window || self.window > Bucketing::WINDOW_MAX {
            let problem = format!(
                "runs of {} in windows of {} samples; give 1 <= run <= window <= {}",
                self.run,
                self.window,
                Bucketing::WINDOW_MAX
            );
            return Err(Error::config("bucketing", problem));
        }
        Ok(())
    }
}

/// One epoch of an order, bucketed. Holds one window; moving inside it is cheap.
#[derive(Debug, Clone)]
pub(super) struct Buckets {
    epoch: Epoch,
    n: u64,
    bucketing: Bucketing,
    key: u64,
    window: Option<u64>,
    /// Length, position in the window (which keeps ties in the order's sequence), sample.
    sorted: Vec<(u64, u64, u64)>,
    runs: Permutation,
}

impl Buckets {
    pub(super) fn new(order: &Order, epoch: u64, bucketing: Bucketing) -> Buckets {
        Buckets {
            epoch: order.epoch(epoch),
            n: order.len(),
            bucketing,
            key: key(order.seed(), epoch, Purpose::Bucket),
            window: None,
            sorted: Vec::with_capacity(bucketing.window.min(order.len()) as usize),
            runs: Permutation::new(0, 0),
        }
    }

    /// The sample delivered at `position`, and its length.
    pub(super) fn at(&mut self, position: u64, len_of: &impl Fn(u64) -> u64) -> (u64, u64) {
        let (window, place) = (position / self.bucketing.window, position % self.bucketing.window);
        if self.window != Some(window) {
            self.load(window, len_of);
        }
        let run = self.bucketing.run;
        let place = match place / run {
            number if number < self.runs.len() => self.runs.at(number) * run + place % run,
            _ => place,
        };
        let (len, _, sample) = self.sorted[place as usize];
        (sample, len)
    }

    fn load(&mut self, window: u64, len_of: &impl Fn(u64) -> u64) {
        let start = window * self.bucketing.window;
        let count = self.bucketing.window.min(self.n - start);
        let entry = |place| {
            let sample = self.epoch.sample_at(start + place);
            (len_of(sample), place, sample)
        };
        self.sorted.clear();
        self.sorted.extend((0..count).map(entry));
        self.sorted.sort_unstable();
        self.runs = Permutation::new(count / self.bucketing.run, fold(self.key, window));
        self.window = Some(window);
    }
}
