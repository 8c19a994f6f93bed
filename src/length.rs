//! How long samples are: in bytes, or in tokens of a field.

use crate::dataset::Dataset;
use crate::error::{Error, Result};

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

    /// The field and the bytes of a token, where there are tokens.
    pub(crate) fn tokens(self) -> Option<(usize, u64)> {
        self.field.map(|field| (field, self.item_bytes))
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
