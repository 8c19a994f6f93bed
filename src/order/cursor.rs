//! The resumable state of a run, as a few hundred bytes of JSON.
//!
//! It counts samples *delivered*, by all ranks together. World, batch size and prefetch are not in it, so it is the same
//! on every rank and any of them can go on from it. Only what a rank found unreadable is its own until
//! [`Cursor::merge`] puts it together.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::bad_samples::SKIPPED_MAX;
use super::bucket::Bucketing;
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
    /// Positions of an epoch, of which some are consumed.
    pub positions: u64,
    /// The dataset.
    pub fingerprint: Fingerprint,
    /// Weights and end of a mixture, where there is one.
    pub mixture: Option<(Vec<u32>, AtEnd)>,
    /// How samples are bucketed by length, where they are.
    pub bucketing: Option<Bucketing>,
    /// The field whose tokens are counted and the bytes of one, where they decide the order: windows, or bucketing by
    /// tokens.
    pub tokens: Option<(String, u64)>,
    /// The fields whose bytes are a sample's length, where bucketing goes by them and they are not all there are.
    pub fields: Option<Vec<String>>,
    /// Tokens of a window, and from the start of one to that of the next where documents are taken as they are stored.
    /// `None` where samples are no windows.
    pub windows: Option<(u64, Option<u64>)>,
    /// Where the next window of a [`Packer`](super::Packer) starts, where there is one.
    pub packer: Option<PackerState>,
    /// Samples found bad so far, ascending; at most [`SKIPPED_MAX`]. Where they are windows, tokens of blocks that cannot be
    /// read, counted through all documents.
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
    /// A difference that the [fingerprint](Fingerprint) shows is an error.
    #[default]
    Refuse,
    /// Go on at the same position, if there is one. Which samples were seen is then no longer known, and which were
    /// bad is forgotten: their numbers may mean others now.
    Allow,
}

impl Cursor {
    /// The state of a run that has come as far as `progress`, with no packer and nothing skipped.
    pub fn new(order: &Order, fingerprint: Fingerprint, progress: Progress) -> Cursor {
        Cursor {
            seed: order.seed(),
            shuffle: order.shuffle(),
            progress,
            positions: order.len(),
            fingerprint,
            mixture: order.as_mixture().map(|mixture| (mixture.weights(), mixture.at_end())),
            bucketing: None,
            tokens: None,
            fields: None,
            windows: None,
            packer: None,
            skipped: Vec::new(),
            consecutive_bad: 0,
        }
    }

    /// Where a run that would itself start with the cursor `start` has to go on, if it is the run this one was taken of.
    ///
    /// # Errors
    /// [`Error::Config`] naming what differs: seed, shuffle, mixture, bucketing, what lengths are measured in, packing,
    /// the tokens of a window and its stride, and (unless allowed) a field of the dataset or the number of positions.
    pub fn resume(&self, start: &Cursor, if_changed: IfChanged) -> Result<Progress> {
        if if_changed == IfChanged::Refuse {
            self.fingerprint.check(&start.fingerprint)?;
        }
        // The first cursors of packed windows did not say what the windows were.
        let silent = self.packer.is_some() && self.windows.is_none() && self.tokens.is_none();
        for ((field, was), (_, is)) in self.said().into_iter().zip(start.said()) {
            let may_differ = match field {
                "positions of an epoch" => if_changed == IfChanged::Allow,
                "token field" | "token bytes" | "window tokens" | "stride tokens" => silent,
                _ => false,
            };
            if was != is && !may_differ {
                let problem =
                    format!("{field} was {was} and is {is}; give the cursor's own, or start without a cursor");
                return Err(Error::config("cursor", problem));
            }
        }
        Ok(self.progress)
    }

    /// What must be the same in a run that goes on.
    fn said(&self) -> [(&'static str, String); 11] {
        let show = |value: Option<&dyn std::fmt::Display>| value.map_or("none".to_owned(), |value| value.to_string());
        let (field, bytes) = self.tokens.as_ref().map(|(field, bytes)| (field, bytes)).unzip();
        let (window, stride) = self.windows.unzip();
        [
            ("seed", self.seed.to_string()),
            ("shuffle", self.shuffle.to_string()),
            ("mixture", format!("{:?}", self.mixture)),
            ("bucketing", format!("{:?}", self.bucketing)),
            ("fields of lengths", show(self.fields.as_ref().map(|fields| fields.join(", ")).as_ref().map(|f| f as _))),
            ("token field", show(field.map(|field| field as _))),
            ("token bytes", show(bytes.map(|bytes| bytes as _))),
            ("packing", if self.packer.is_some() { "on" } else { "off" }.to_owned()),
            ("window tokens", show(window.as_ref().map(|window| window as _))),
            ("stride tokens", show(stride.flatten().as_ref().map(|stride| stride as _))),
            ("positions of an epoch", self.positions.to_string()),
        ]
    }

    /// Takes over what another rank of the same run and the same step has skipped.
    ///
    /// Each rank skips only what it was to deliver itself. Where ranks save one cursor together, one of them gathers
    /// those of all (they are text) and merges them; every rank then resumes from the result, and leaves out what any
    /// of them found. Where only one rank's cursor is saved, what others skipped is found, and counted, once more.
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

/// What changes in a cursor from batch to batch. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Standing {
    pub(crate) progress: Progress,
    /// Where the next window starts, where windows are packed. `None`: at the epoch's start.
    pub(crate) packer: Option<PackerState>,
    pub(crate) skipped: Arc<[u64]>,
    pub(crate) consecutive_bad: u32,
}

impl Standing {
    /// At `progress`, with nothing skipped.
    pub(crate) fn at(progress: Progress) -> Standing {
        Standing { progress, packer: None, skipped: Arc::default(), consecutive_bad: 0 }
    }

    /// Goes to the start of an epoch.
    pub(crate) fn start_epoch(&mut self, epoch: u64) {
        (self.progress, self.packer) = (Progress { epoch, consumed: 0 }, None);
    }

    /// Where a cursor says that its run stands.
    pub(crate) fn of(cursor: &Cursor) -> Standing {
        let Cursor { progress, packer, ref skipped, consecutive_bad, .. } = *cursor;
        Standing { progress, packer, skipped: skipped.as_slice().into(), consecutive_bad }
    }

    /// The cursor of a run that `start` is the first cursor of.
    pub(crate) fn cursor(&self, start: &Cursor) -> Cursor {
        let Standing { progress, packer, skipped, consecutive_bad } = self;
        let packer = start.packer.map(|at_start| packer.unwrap_or(at_start));
        Cursor {
            progress: *progress,
            packer,
            skipped: skipped.to_vec(),
            consecutive_bad: *consecutive_bad,
            ..start.clone()
        }
    }
}
