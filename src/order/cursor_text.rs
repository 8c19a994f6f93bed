//! The JSON of a cursor: its fields as they are written, and their ranges.

use serde::{Deserialize, Serialize};

use super::bad_samples::SKIPPED_MAX;
use super::bucket::Bucketing;
use super::cursor::{CURSOR_VERSION, Cursor, PackerState};
use super::fingerprint::Fingerprint;
use super::key::ORDER_VERSION;
use super::mixture::{AtEnd, PARTS_MAX};
use super::schedule::Progress;
use super::shuffle::SAMPLES_MAX;
use crate::error::{Error, Result};

/// The longest text that is parsed: room for every skipped sample and weight there may be.
const TEXT_BYTES_MAX: usize = 64 << 10;

impl Cursor {
    /// One line of JSON.
    pub fn to_json(&self) -> String {
        // Numbers, strings and lists only: nothing that serde_json can refuse.
        serde_json::to_string(&Text::from(self)).unwrap_or_default()
    }

    /// Reads what [`to_json`](Self::to_json) wrote.
    ///
    /// # Errors
    /// [`Error::Config`] for anything else: other bytes, an unknown field, a value out of range, a format or order
    /// version that this build does not speak.
    pub fn parse(text: &[u8]) -> Result<Cursor> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(bad(format!("{} bytes; a cursor has at most {TEXT_BYTES_MAX}", text.len())));
        }
        // The versions first: a newer format may have fields that this build does not know.
        let versions: Versions = serde_json::from_slice(text).map_err(|e| bad(format!("not a cursor: {e}")))?;
        if versions.strait_cursor != CURSOR_VERSION || versions.order_version != ORDER_VERSION {
            return Err(bad(format!(
                "cursor format {} of order version {}; this build speaks {CURSOR_VERSION} and {ORDER_VERSION}: use the \
                 release that wrote it, or start an epoch anew",
                versions.strait_cursor, versions.order_version
            )));
        }
        let text: Text = serde_json::from_slice(text).map_err(|e| bad(e.to_string()))?;
        text.check()
    }
}

fn bad(problem: impl Into<String>) -> Error {
    Error::config("cursor", problem)
}

#[derive(Deserialize)]
struct Versions {
    strait_cursor: u32,
    order_version: u32,
}

/// The JSON object, field by field in the order it is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Text {
    strait_cursor: u32,
    order_version: u32,
    seed: u64,
    shuffle: String,
    epoch: u64,
    consumed: u64,
    positions: u64,
    dataset: DatasetText,
    mixture: Option<MixtureText>,
    bucketing: Option<Bucketing>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tokens: Option<TokensText>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fields: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    windows: Option<WindowsText>,
    packer: Option<PackerState>,
    skipped: Vec<u64>,
    consecutive_bad: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DatasetText {
    format: String,
    shards: u64,
    samples: u64,
    bytes: u64,
    /// Sixteen hexadecimal digits: as a number it would not survive readers that keep numbers as floats.
    layout: String,
    /// As `layout`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    places: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MixtureText {
    weights: Vec<u32>,
    /// `null` for stop.
    repeat_positions: Option<u64>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TokensText {
    field: String,
    bytes: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WindowsText {
    tokens: u64,
    /// `null` where they are packed.
    stride: Option<u64>,
}

impl From<&Cursor> for Text {
    fn from(cursor: &Cursor) -> Text {
        let Fingerprint { format, shards, samples, bytes, layout, places } = &cursor.fingerprint;
        let hex = |hash: &u64| format!("{hash:016x}");
        let repeat = |at_end: AtEnd| match at_end {
            AtEnd::Stop => None,
            AtEnd::Repeat { positions } => Some(positions),
        };
        let mixture = cursor
            .mixture
            .as_ref()
            .map(|(weights, at_end)| MixtureText { weights: weights.clone(), repeat_positions: repeat(*at_end) });
        Text {
            strait_cursor: CURSOR_VERSION,
            order_version: ORDER_VERSION,
            seed: cursor.seed,
            shuffle: cursor.shuffle.to_string(),
            epoch: cursor.progress.epoch,
            consumed: cursor.progress.consumed,
            positions: cursor.positions,
            dataset: DatasetText {
                format: format.clone(),
                shards: *shards,
                samples: *samples,
                bytes: *bytes,
                layout: hex(layout),
                places: places.as_ref().map(hex),
            },
            mixture,
            bucketing: cursor.bucketing,
            tokens: cursor.tokens.clone().map(|(field, bytes)| TokensText { field, bytes }),
            fields: cursor.fields.clone(),
            windows: cursor.windows.map(|(tokens, stride)| WindowsText { tokens, stride }),
            packer: cursor.packer,
            skipped: cursor.skipped.clone(),
            consecutive_bad: cursor.consecutive_bad,
        }
    }
}

impl Text {
    /// Every value in its range.
    pub(super) fn check(self) -> Result<Cursor> {
        let DatasetText { format, shards, samples, bytes, layout, places } = self.dataset;
        let hash = |name: &str, text: String| match u64::from_str_radix(&text, 16) {
            Ok(number) if format!("{number:016x}") == text => Ok(number),
            _ => Err(bad(format!("{name} is not sixteen lower-case hexadecimal digits"))),
        };
        let layout = hash("layout", layout)?;
        let places = places.map(|places| hash("places", places)).transpose()?;
        if samples > SAMPLES_MAX || self.positions > SAMPLES_MAX || self.consumed > self.positions {
            let Text { consumed, positions, .. } = self;
            return Err(bad(format!("{consumed} of {positions} positions consumed, {samples} samples: out of range")));
        }
        if let Some(bucketing) = self.bucketing {
            bucketing.check()?;
        }
        let ascending = self.skipped.windows(2).all(|pair| pair[0] < pair[1]);
        // Where samples are windows, tokens are skipped: no more than bytes.
        let below = if self.windows.is_some() || self.packer.is_some() { bytes } else { samples };
        if self.skipped.len() > SKIPPED_MAX || !ascending || self.skipped.last().is_some_and(|&last| last >= below) {
            return Err(bad(format!("skipped is not ascending, or not below {below}, or longer than {SKIPPED_MAX}")));
        }
        let mixture = match self.mixture {
            Some(text) if text.weights.is_empty() || text.weights.len() > PARTS_MAX || text.weights.contains(&0) => {
                return Err(bad(format!("weights: give 1 to {PARTS_MAX}, each at least 1")));
            }
            Some(text) => {
                let at_end = text.repeat_positions.map_or(AtEnd::Stop, |positions| AtEnd::Repeat { positions });
                Some((text.weights, at_end))
            }
            None => None,
        };
        Ok(Cursor {
            seed: self.seed,
            shuffle: self.shuffle.parse()?,
            progress: Progress { epoch: self.epoch, consumed: self.consumed },
            positions: self.positions,
            fingerprint: Fingerprint { format, shards, samples, bytes, layout, places },
            mixture,
            bucketing: self.bucketing,
            tokens: self.tokens.map(|TokensText { field, bytes }| (field, bytes)),
            fields: self.fields,
            windows: self.windows.map(|WindowsText { tokens, stride }| (tokens, stride)),
            packer: self.packer,
            skipped: self.skipped,
            consecutive_bad: self.consecutive_bad,
        })
    }
}
