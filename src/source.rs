//! Where batches come from: the samples of each step, whatever a batch is cut by.
//!
//! ```text
//!   Supply   of a run:       a source for what is left of an epoch
//!   Source   of an epoch:    step by step, the sample ids of this rank's batch
//! ```
//!
//! The engine sees nothing else of an order. Both are pure functions of where the run stands and of the samples' lengths.

use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::order::{BudgetSchedule, BudgetSteps, Cursor, Fingerprint, Order, Progress, Schedule, Steps};

/// Gives the source of every epoch.
#[derive(Debug, Clone)]
pub(crate) enum Supply {
    /// So many samples a batch.
    Samples(Schedule),
    /// As many samples as a budget of lengths holds.
    Budget(BudgetSchedule, Order, Length),
}

impl Supply {
    pub(crate) fn order(&self) -> &Order {
        match self {
            Supply::Samples(schedule) => schedule.order(),
            Supply::Budget(_, order, _) => order,
        }
    }

    /// The cursor of a run that has not begun.
    pub(crate) fn start(&self, fingerprint: Fingerprint) -> Cursor {
        let start = Cursor::new(self.order(), fingerprint, Progress::default());
        match self {
            Supply::Samples(_) => start,
            Supply::Budget(schedule, ..) => Cursor { bucketing: schedule.bucketing(), ..start },
        }
    }

    /// The steps of a whole epoch, where they can be known beforehand.
    pub(crate) fn steps(&self) -> Result<Option<u64>> {
        match self {
            Supply::Samples(schedule) => Ok(Some(schedule.steps(Progress::default())?.len())),
            Supply::Budget(..) => Ok(None),
        }
    }

    /// What is left of an epoch.
    pub(crate) fn source(&self, from: Progress) -> Result<Source> {
        let batches = match self {
            Supply::Samples(schedule) => Batches::Samples(schedule.steps(from)?),
            Supply::Budget(schedule, _, length) => Batches::Budget(schedule.steps(from)?, *length),
        };
        // An end that is known needs no free batch to show.
        let over = match &batches {
            Batches::Samples(steps) => steps.is_empty(),
            Batches::Budget(..) => from.consumed >= self.order().len(),
        };
        Ok(Source { batches, epoch: from.epoch, step: 0, over })
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
}

#[derive(Debug)]
enum Batches {
    Samples(Steps),
    Budget(BudgetSteps, Length),
}

/// One step's batch, besides its samples.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step {
    pub(crate) step: u64,
    /// Position of this rank's first sample; where a budget cuts batches, of the step's first.
    pub(crate) position: u64,
    /// Samples at the end that are padding.
    pub(crate) padded: u64,
    /// Where the run stands after it.
    pub(crate) progress: Progress,
}

impl Source {
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Nothing comes any more.
    pub(crate) fn is_over(&self) -> bool {
        self.over
    }

    /// Replaces `samples` by those of the next step; `None` at the end. Allocates nothing once they have room.
    pub(crate) fn next(&mut self, dataset: &Dataset, samples: &mut Vec<u64>) -> Result<Option<Step>> {
        samples.clear();
        let position = match &self.batches {
            Batches::Samples(steps) => steps.position(self.step, 0),
            Batches::Budget(steps, _) => steps.progress().consumed,
        };
        let next = match &mut self.batches {
            Batches::Samples(steps) if self.step >= steps.len() => Ok(None),
            Batches::Samples(steps) => Ok(Some((steps.batch(self.step, samples), steps.progress_after(self.step)))),
            Batches::Budget(steps, length) => {
                let padded = steps.next(|sample| length.of(dataset, sample), samples);
                padded.map(|padded| padded.map(|padded| (padded, steps.progress())))
            }
        };
        // The last step's progress is the next epoch's start; the end shows without asking for one more.
        self.over = !matches!(&next, Ok(Some((_, progress))) if progress.epoch == self.epoch);
        let step = self.step;
        self.step += 1;
        if next.is_err() {
            samples.clear();
        }
        Ok(next?.map(|(padded, progress)| Step { step, position, padded, progress }))
    }
}

/// What a sample's length is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Length {
    /// The field that is measured; `None`: all of them together.
    field: Option<usize>,
    item_bytes: u64,
}

/// Samples looked at to learn what is usual.
const LOOK_AT: u64 = 1024;

impl Length {
    /// In bytes, or in tokens: items of `item_bytes` in a field.
    pub(crate) fn new(dataset: &Dataset, tokens: Option<(&str, u64)>) -> Result<Length> {
        let Some((name, item_bytes)) = tokens else { return Ok(Length { field: None, item_bytes: 1 }) };
        if item_bytes == 0 {
            return Err(Error::config("tokens", "tokens of 0 bytes; give 1 or more"));
        }
        let field = dataset.fields().iter().position(|field| &*field.name == name).ok_or_else(|| {
            let names: Vec<&str> = dataset.fields().iter().map(|field| &*field.name).collect();
            Error::config("tokens", format!("there is no field {name:?}; the fields are {}", names.join(", ")))
        })?;
        Ok(Length { field: Some(field), item_bytes })
    }

    /// The length of a sample; 0 if it lacks the field.
    pub(crate) fn of(self, dataset: &Dataset, sample: u64) -> u64 {
        let bytes = |field| dataset.extent(sample, field).map_or(0, |extent| extent.len);
        match self.field {
            Some(field) => bytes(field).div_ceil(self.item_bytes),
            None => (0..dataset.fields().len()).map(bytes).sum(),
        }
    }

    /// The mean of samples all over the dataset; at least 1.
    pub(crate) fn mean(self, dataset: &Dataset) -> u64 {
        let looks = dataset.len().min(LOOK_AT);
        let at = |look: u64| (u128::from(look) * u128::from(dataset.len()) / u128::from(looks)) as u64;
        let sum: u64 = (0..looks).map(|look| self.of(dataset, at(look))).sum();
        (sum / looks.max(1)).max(1)
    }

    /// The bytes that so much length can come to, where it says that: a field tells nothing of the others.
    pub(crate) fn bytes_max(self, length: u64) -> u64 {
        length.saturating_mul(self.item_bytes)
    }
}
