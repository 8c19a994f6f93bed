//! Where batches come from: the samples of each step, whatever a batch is cut by.
//!
//! ```text
//!   Supply   of a run:       a source for what is left of an epoch
//!   Source   of an epoch:    step by step, the sample ids of this rank's batch, or windows and their pieces
//! ```
//!
//! The engine sees nothing else of an order. Both are pure functions of where the run stands and of the samples' lengths.

use std::sync::Arc;

use crate::dataset::Dataset;
use crate::documents::{Documents, Pieces, StoredWindows};
use crate::error::Result;
use crate::length::Length;
use crate::order::{
    BudgetSchedule, BudgetSteps, Counts, Cursor, Order, Packer, PackerState, Packing, Progress, Schedule, Steps,
};

/// Packed windows that may stand in for one that cannot be read: the epoch's first.
const STAND_INS: u64 = 1024;
/// Samples that are looked at for one that is no longer than the one it stands in for.
const LOOK_FOR: u32 = 64;

/// Gives the source of every epoch.
#[derive(Debug, Clone)]
pub(crate) enum Supply {
    /// So many samples a batch.
    Samples(Schedule),
    /// As many samples as a budget of lengths holds.
    Budget(BudgetSchedule, Length),
    /// So many windows of tokens, over documents as they are stored.
    Windows(Schedule, Arc<StoredWindows>, Arc<Documents>),
    /// So many windows of tokens, over documents as they are shuffled.
    Packed(Schedule, Packer, Arc<Documents>),
}

impl Supply {
    pub(crate) fn order(&self) -> &Order {
        match self {
            Supply::Samples(schedule) | Supply::Windows(schedule, ..) | Supply::Packed(schedule, ..) => {
                schedule.order()
            }
            Supply::Budget(schedule, _) => schedule.order(),
        }
    }

    /// The cursor of a run that has not begun.
    pub(crate) fn start(&self, dataset: &Dataset) -> Cursor {
        let (fingerprint, at) = (dataset.fingerprint(), Progress::default());
        let start = |fingerprint| Cursor::new(self.order(), fingerprint, at);
        let tokens = |(field, bytes): (usize, u64)| (dataset.fields()[field].name.to_string(), bytes);
        match self {
            Supply::Samples(_) => start(fingerprint),
            Supply::Budget(schedule, length) => {
                let bucketing = schedule.bucketing();
                // Without bucketing, lengths say where batches end and not what comes next.
                let tokens = bucketing.and(length.tokens()).map(tokens);
                let fields = bucketing.and(length.fields(dataset)).map(|names| names.map(String::from).collect());
                Cursor { bucketing, tokens, fields, ..start(fingerprint) }
            }
            Supply::Windows(_, windows, documents) => {
                let cut = windows.cut();
                let windows = Some((cut.window_tokens(), Some(cut.stride_tokens())));
                Cursor { tokens: Some(tokens(documents.token())), windows, ..start(fingerprint) }
            }
            Supply::Packed(_, packer, documents) => {
                let windows = Some((packer.window_tokens(), None));
                let start = packer.cursor(fingerprint, at, PackerState::default());
                Cursor { tokens: Some(tokens(documents.token())), windows, ..start }
            }
        }
    }

    /// The steps of a whole epoch, where they can be known beforehand.
    pub(crate) fn steps(&self) -> Result<Option<u64>> {
        match self {
            Supply::Samples(schedule) | Supply::Windows(schedule, ..) | Supply::Packed(schedule, ..) => {
                Ok(Some(schedule.steps(Progress::default())?.len()))
            }
            Supply::Budget(..) => Ok(None),
        }
    }

    /// Where the next window starts, found from the epoch's start; `None` where nothing is packed.
    pub(crate) fn packer_state(&self, at: Progress) -> Result<Option<PackerState>> {
        let Supply::Packed(_, packer, documents) = self else { return Ok(None) };
        let start = Progress { consumed: 0, ..at };
        let mut packing = packer.resume(start, PackerState::default());
        packing.state_at(at.consumed, |document| documents.tokens_of(document)).map(Some)
    }

    /// The documents that samples are windows of, where they are.
    pub(crate) fn documents(&self) -> Option<&Documents> {
        match self {
            Supply::Samples(_) | Supply::Budget(..) => None,
            Supply::Windows(_, _, documents) | Supply::Packed(_, _, documents) => Some(documents),
        }
    }

    /// The sample to try in a place whose own is bad, if there is one: see [`Order::replacement`]. In a budget it is no
    /// longer than the place's own.
    pub(crate) fn replacement(
        &self,
        dataset: &Dataset,
        place: u64,
        epoch: u64,
        position: u64,
        attempt: u32,
    ) -> Option<u64> {
        let sample = |attempt| self.order().replacement_of(place, epoch, position, attempt);
        match self {
            Supply::Samples(_) | Supply::Windows(..) => Some(sample(attempt)),
            Supply::Budget(_, length) => {
                let fits = |&sample: &u64| length.of(dataset, sample) <= length.of(dataset, place);
                (0..LOOK_FOR).map(|look| sample(attempt * LOOK_FOR + look)).find(fits)
            }
            // Finding a packed window is a walk from the epoch's start.
            Supply::Packed(_, packer, _) => {
                let near = packer.windows().min(STAND_INS);
                Some((u128::from(sample(attempt)) * u128::from(near) / u128::from(packer.windows())) as u64)
            }
        }
    }

    /// Puts a window of an epoch behind those of `pieces`, wherever it is.
    pub(crate) fn push_window(&self, dataset: &Dataset, epoch: u64, window: u64, pieces: &mut Pieces) -> Result<()> {
        match self {
            Supply::Samples(_) | Supply::Budget(..) => {}
            Supply::Windows(_, windows, documents) => {
                pieces.push_window(documents, dataset, documents.pieces(windows.range(window)));
            }
            Supply::Packed(_, packer, documents) => {
                let mut packing = packer.resume(Progress { epoch, consumed: 0 }, PackerState::default());
                let tokens_of = |document| documents.tokens_of(document);
                packing.window(window, tokens_of, &mut pieces.packed.0, &mut pieces.packed.1)?;
                pieces.push_packed(documents, dataset);
            }
        }
        Ok(())
    }

    /// What is left of an epoch. `packer` is where its first window starts, where that is known.
    pub(crate) fn source(&self, from: Progress, packer: Option<PackerState>) -> Result<Source> {
        let batches = match self {
            Supply::Samples(schedule) => Batches::Samples(schedule.steps(from)?),
            Supply::Budget(schedule, length) => Batches::Budget(schedule.steps(from)?, length.clone()),
            Supply::Windows(schedule, windows, documents) => {
                Batches::Windows(schedule.steps(from)?, windows.clone(), documents.clone())
            }
            Supply::Packed(schedule, cut, documents) => {
                let (start, known) = match packer {
                    Some(state) => (from, state),
                    None => (Progress { consumed: 0, ..from }, PackerState::default()),
                };
                let (steps, packing) = (schedule.steps(from)?, cut.resume(start, known));
                Batches::Packed(Packed { steps, packing, documents: documents.clone() })
            }
        };
        // An end that is known needs no free batch to show.
        let over = match &batches {
            Batches::Samples(steps) | Batches::Windows(steps, ..) | Batches::Packed(Packed { steps, .. }) => {
                steps.is_empty()
            }
            Batches::Budget(..) => from.consumed >= self.order().len(),
        };
        Ok(Source { batches, epoch: from.epoch, step: 0, over, counted: false })
    }
}

/// The batches of one epoch, or of the rest of one.
#[derive(Debug)]
pub(crate) struct Source {
    batches: Batches,
    epoch: u64,
    /// The next one.
    step: u64,
    over: bool,
    /// What the policy did has been asked for.
    counted: bool,
}

#[derive(Debug)]
enum Batches {
    Samples(Steps),
    Budget(BudgetSteps, Length),
    Windows(Steps, Arc<StoredWindows>, Arc<Documents>),
    Packed(Packed),
}

#[derive(Debug)]
struct Packed {
    steps: Steps,
    packing: Packing,
    documents: Arc<Documents>,
}

/// One step's batch, besides its samples.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step {
    pub(crate) step: u64,
    /// Position of this rank's first sample.
    pub(crate) position: u64,
    /// Samples at the end that are padding.
    pub(crate) padded: u64,
    /// Where the run stands after it.
    pub(crate) progress: Progress,
    /// Where the next window starts, where windows are packed.
    pub(crate) packer: Option<PackerState>,
}

impl Source {
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Nothing comes any more.
    pub(crate) fn is_over(&self) -> bool {
        self.over
    }

    /// What the policy did to the end of the epoch, once, and once nothing comes any more.
    pub(crate) fn take_counts(&mut self) -> Counts {
        if !self.over || std::mem::replace(&mut self.counted, true) {
            return Counts::default();
        }
        match &self.batches {
            Batches::Samples(steps) | Batches::Windows(steps, ..) | Batches::Packed(Packed { steps, .. }) => {
                steps.counts()
            }
            Batches::Budget(steps, _) => steps.counts(),
        }
    }

    /// Replaces `samples` by those of the next step, and `pieces` by theirs where samples are windows; `None` at the end.
    /// Allocates nothing once both have room.
    pub(crate) fn next(
        &mut self,
        dataset: &Dataset,
        samples: &mut Vec<u64>,
        pieces: &mut Pieces,
    ) -> Result<Option<Step>> {
        samples.clear();
        pieces.clear();
        let next = self.batch(dataset, samples, pieces);
        // The last step's progress is the next epoch's start; the end shows without asking for one more.
        self.over = !matches!(&next, Ok(Some(step)) if step.progress.epoch == self.epoch);
        self.step += 1;
        if next.is_err() {
            samples.clear();
            pieces.clear();
        }
        next
    }

    fn batch(&mut self, dataset: &Dataset, samples: &mut Vec<u64>, pieces: &mut Pieces) -> Result<Option<Step>> {
        let step = self.step;
        let fixed = match &mut self.batches {
            Batches::Budget(steps, length) => {
                let padded = steps.next(|sample| length.of(dataset, sample), samples)?;
                let (position, progress) = (steps.position(), steps.progress());
                return Ok(padded.map(|padded| Step { step, position, padded, progress, packer: None }));
            }
            Batches::Samples(steps) | Batches::Windows(steps, ..) | Batches::Packed(Packed { steps, .. }) => steps,
        };
        if step >= fixed.len() {
            return Ok(None);
        }
        let (padded, progress) = (fixed.batch(step, samples), fixed.progress_after(step));
        let position = fixed.position(step, 0);
        let packer = match &mut self.batches {
            Batches::Windows(_, windows, documents) => {
                for &window in &*samples {
                    pieces.push_window(documents, dataset, documents.pieces(windows.range(window)));
                }
                None
            }
            Batches::Packed(packed) => Some(packed.windows(dataset, samples, self.epoch, progress, pieces)?),
            Batches::Samples(_) | Batches::Budget(..) => None,
        };
        Ok(Some(Step { step, position, padded, progress, packer }))
    }
}

impl Packed {
    /// The pieces of a batch's windows, and where the first window behind the global batch starts.
    fn windows(
        &mut self,
        dataset: &Dataset,
        windows: &[u64],
        epoch: u64,
        after: Progress,
        pieces: &mut Pieces,
    ) -> Result<PackerState> {
        let Packed { packing, documents, .. } = self;
        let tokens_of = |document| documents.tokens_of(document);
        let mut last = None;
        for &window in windows {
            // Padding is the last window over and over: what was written for it is still there. Wrapped windows are the
            // epoch's first, and nothing comes after them.
            if last != Some(window) {
                packing.window(window, tokens_of, &mut pieces.packed.0, &mut pieces.packed.1)?;
                last = Some(window);
            }
            pieces.push_packed(documents, dataset);
        }
        match after.epoch == epoch {
            true => packing.state_at(after.consumed, tokens_of),
            false => Ok(PackerState::default()),
        }
    }
}
