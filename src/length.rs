//! How long samples are: in bytes, or in tokens of a field.

use std::ops::Range;
use std::sync::Arc;

use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::selection::{self, Selection};

/// What a sample's length is. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Length {
    /// The fields that are measured, together.
    fields: Arc<[usize]>,
    item_bytes: u64,
    in_tokens: bool,
}

/// Samples looked at to learn what is usual.
const LOOK_AT: u64 = 1024;

impl Length {
    /// In bytes of what is read, or in tokens: items of `item_bytes` in a field, which need not be read.
    pub(crate) fn new(dataset: &Dataset, selection: &Selection, tokens: Option<(&str, u64)>) -> Result<Length> {
        let Some((name, item_bytes)) = tokens else {
            return Ok(Length { fields: selection.numbers.clone(), item_bytes: 1, in_tokens: false });
        };
        if item_bytes == 0 {
            return Err(Error::config("tokens", "tokens of 0 bytes; give 1 or more"));
        }
        let field = selection::number(dataset.fields(), "tokens", name)?;
        Ok(Length { fields: [field].into(), item_bytes, in_tokens: true })
    }

    /// The field and the bytes of a token, where there are tokens.
    pub(crate) fn tokens(&self) -> Option<(usize, u64)> {
        self.in_tokens.then(|| (self.fields[0], self.item_bytes))
    }

    /// The fields that are measured in bytes, where they are not all of the dataset's.
    pub(crate) fn fields<'a>(&self, dataset: &'a Dataset) -> Option<impl Iterator<Item = &'a str> + use<'a>> {
        let some = !self.in_tokens && self.fields.len() < dataset.fields().len();
        let fields = self.fields.clone();
        some.then(|| (0..fields.len()).map(move |i| &*dataset.fields()[fields[i]].name))
    }

    /// The length of a sample; 0 if it lacks the field.
    pub(crate) fn of(&self, dataset: &Dataset, sample: u64) -> u64 {
        let bytes = |&field: &usize| dataset.extent(sample, field).map_or(0, |extent| extent.len);
        self.fields.iter().map(bytes).sum::<u64>().div_ceil(self.item_bytes)
    }

    /// The mean of samples all over the dataset; at least 1.
    pub(crate) fn mean(&self, dataset: &Dataset) -> u64 {
        self.mean_in(dataset, 0..dataset.len())
    }

    /// The mean of some of them.
    pub(crate) fn mean_in(&self, dataset: &Dataset, samples: Range<u64>) -> u64 {
        let len = samples.end - samples.start;
        let looks = len.min(LOOK_AT);
        let at = |look: u64| samples.start + (u128::from(look) * u128::from(len) / u128::from(looks)) as u64;
        let sum: u64 = (0..looks).map(|look| self.of(dataset, at(look))).sum();
        (sum / looks.max(1)).max(1)
    }

    /// The bytes that so much length can come to, where it says that: a field tells nothing of the others.
    pub(crate) fn bytes_max(&self, length: u64) -> u64 {
        length.saturating_mul(self.item_bytes)
    }
}
