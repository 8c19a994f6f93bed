//! The resumable state of a run, as a few hundred bytes of JSON.
//!
//! It counts samples *delivered*, by all ranks together. World, batch size and prefetch are not in it, so it is the same
//! on every rank and any of them can go on from it.

use serde::{Deserialize, Serialize};

use super::bad_samples::SKIPPED_MAX;
use super::epoch::Order;
use super::fingerprint::Fingerprint;
use super::mixture::AtEnd;
use super::schedule::Progress;
use super::shuffle::Shuffle;
use crate::error::{Error, Result};

/// The version of the text; one that is newer than the reader is refused.
pub const CURSOR_VERSION: u32 = 1;

/// Where a run stands, and what it is a run of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// The order's seed.
    pub seed: u64,
    /// The order's shuffle.
    pub shuffle: Shuffle,
    /// How far all ranks together have come.
    pub progress: Progress,
    /// The dataset.
    pub fingerprint: Fingerprint,
    /// Weights and end of a mixture, where there is one.
    pub mixture: Option<(Vec<u32>, AtEnd)>,
    /// Where the next window of a [`Packer`](super::Packer) starts, where there is one.
    pub packer: Option<PackerState>,
    /// Samples found bad so far, ascending; at most [`SKIPPED_MAX`].
    pub skipped: Vec<u64>,
    /// How many of the last places were bad.
    pub consecutive_bad: u32,
}

/// The carry-over of a packer: the first token that is not delivered yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackerState {
    /// Position of its document in the order.
    pub document: u64,
    /// Its place in that document, in tokens.
    pub token: u64,
}

/// Whether a cursor may be continued on a dataset that is not the one it was taken from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum IfChanged {
    /// A difference is an error.
    #[default]
    Refuse,
    /// Go on at the same position. Which samples were seen is then no longer known.
    Allow,
}

impl Cursor {
    /// The state of a run that has come as far as `progress`, with no packer and nothing skipped.
    pub fn new(order: &Order, fingerprint: Fingerprint, progress: Progress) -> Cursor {
        Cursor {
            seed: order.seed(),
            shuffle: order.shuffle(),
            progress,
            fingerprint,
            mixture: order.as_mixture().map(|mixture| (mixture.weights(), mixture.at_end())),
            packer: None,
            skipped: Vec::new(),
            consecutive_bad: 0,
        }
    }

    /// Where `order` over the dataset of `fingerprint` has to go on.
    ///
    /// # Errors
    /// [`Error::Config`] naming what differs: seed, shuffle, mixture, or (unless allowed) a field of the dataset; and if
    /// the dataset has become shorter than what was consumed of it.
    pub fn resume(&self, order: &Order, fingerprint: &Fingerprint, if_changed: IfChanged) -> Result<Progress> {
        let mixture = order.as_mixture().map(|mixture| (mixture.weights(), mixture.at_end()));
        for (field, was, is) in [
            ("seed", self.seed.to_string(), order.seed().to_string()),
            ("shuffle", self.shuffle.to_string(), order.shuffle().to_string()),
            ("mixture", format!("{:?}", self.mixture), format!("{mixture:?}")),
        ] {
            if was != is {
                let problem =
                    format!("{field} was {was} and is {is}; give the cursor's own, or start without a cursor");
                return Err(Error::config("cursor", problem));
            }
        }
        if if_changed == IfChanged::Refuse {
            self.fingerprint.check(fingerprint)?;
        }
        if self.progress.consumed > order.len() {
            let Progress { epoch, consumed } = self.progress;
            let problem = format!("{consumed} samples of epoch {epoch} consumed; the order now has {}", order.len());
            return Err(Error::config("cursor", problem));
        }
        Ok(self.progress)
    }

    /// Takes over what another rank of the same run and the same step has skipped.
    ///
    /// # Errors
    /// [`Error::Config`] if it is not a cursor of the same run at the same step, or both skipped too much together.
    pub fn merge(&mut self, other: &Cursor) -> Result<()> {
        let bare = |cursor: &Cursor| Cursor { skipped: Vec::new(), consecutive_bad: 0, ..cursor.clone() };
        if bare(self) != bare(other) {
            return Err(Error::config("cursor", "cursors of different runs or steps cannot be merged"));
        }
        let mut skipped = [&self.skipped[..], &other.skipped].concat();
        skipped.sort_unstable();
        skipped.dedup();
        if skipped.len() > SKIPPED_MAX {
            return Err(Error::config("cursor", format!("{} bad samples; at most {SKIPPED_MAX}", skipped.len())));
        }
        self.skipped = skipped;
        self.consecutive_bad = self.consecutive_bad.max(other.consecutive_bad);
        Ok(())
    }
}
