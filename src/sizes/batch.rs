//! What a batch needs in a region.

use super::usual::{document_tokens, mean_room, mean_sample_bytes};
use crate::config::{Config, Way};
use crate::dataset::Dataset;
use crate::error::Result;
use crate::plan::PLACED_BYTES_MIN;
use crate::selection::{Dense, Selection};

/// Pieces that every batch of windows has room for at most; where documents are so short, a batch allocates.
const PIECES_MAX: u64 = 1 << 16;

/// What batches of a dataset need in a region.
pub(super) struct BatchBytes {
    /// One sample, aligned.
    pub(super) sample: u64,
    /// A pool smaller than this cannot hold some batch.
    pub(super) least: u64,
    /// A batch of average samples, far from each other; at least 1.
    pub(super) typical: u64,
    /// No batch is larger than this.
    pub(super) largest: u64,
    /// Pieces of documents, where the samples are windows.
    pub(super) pieces: u64,
}

impl BatchBytes {
    pub(super) fn of(dataset: &Dataset, config: &Config, way: Way) -> Result<BatchBytes> {
        if config.windows.is_some() {
            return BatchBytes::of_windows(dataset, config, way);
        }
        let positions = config.samples_typical(dataset)?;
        let samples = positions.min(dataset.len().max(1));
        // Of an array each position has a row of its own, whatever sample stands there.
        let rows = if config.repeats_samples() { positions } else { samples };
        let align = config.reads.align_bytes;
        let selection = config.selection(dataset)?;
        let fixed = match &*selection.fields {
            [field] => field.fixed_bytes,
            _ => None,
        };
        let weights = config.mixture.as_ref().map(|(weights, _)| weights.as_slice());
        let all = selection.len() == dataset.fields().len();
        let extents = match fixed {
            Some(bytes) if bytes.is_multiple_of(align) && starts_aligned(dataset, &selection, align) => bytes,
            // It may start anywhere in a block, and then ends one block later.
            Some(bytes) => bytes.next_multiple_of(align) + align,
            None if all => mean_sample_bytes(dataset, weights).next_multiple_of(align) + align,
            None => mean_room(dataset, &selection, weights, config) + align,
        };
        let (arrays, ends) = (array_bytes(&selection, way), align * selection.dense.len() as u64);
        let around = rows.saturating_mul(arrays).saturating_add(ends);
        let least = samples.saturating_mul(fixed.unwrap_or(0)).saturating_add(rows.saturating_mul(arrays));
        let sample = extents.saturating_add(arrays);
        let typical = samples.saturating_mul(extents).saturating_add(around).max(1);
        let fields = selection.len() as u64;
        // A few samples may be far larger than the mean: room for a batch of the largest, if the budget has it. Gaps are read
        // along where there is room.
        let (widest, gaps) = match fixed {
            Some(_) => (extents, config.reads.gap_bytes.min(extents)),
            None => {
                let blocks = fields.saturating_mul(2 * align);
                let gaps = if all { 0 } else { fields.saturating_mul(config.reads.gap_bytes) };
                (dataset.largest_sample_of(&selection.numbers).saturating_add(blocks), gaps)
            }
        };
        let least = if fixed.is_some() { least } else { widest.saturating_add(arrays) };
        let widest = widest.saturating_add(gaps);
        let largest = samples.saturating_mul(widest).saturating_add(around).max(typical);
        // A batch of the smallest samples has the most of them, and each its blocks.
        let full = config.budget.map_or(Ok(0), |(budget, _)| {
            let blocks = budget.samples_max.saturating_mul((2 * align).saturating_add(arrays)).saturating_add(ends);
            config.length(dataset).map(|length| length.bytes_max(budget.cost_max).saturating_add(blocks))
        })?;
        Ok(BatchBytes { sample, least, typical, largest: largest.max(full), pieces: 0 })
    }

    /// Windows of documents of the mean length; there is room for twice as many pieces, and their blocks.
    fn of_windows(dataset: &Dataset, config: &Config, way: Way) -> Result<BatchBytes> {
        let length = config.length(dataset)?;
        let arrays = array_bytes(&config.selection(dataset)?, way);
        let (_, item_bytes) = length.tokens().unwrap_or((0, 1));
        let mean = document_tokens(dataset, &length, item_bytes);
        let (samples, tokens) = (config.batch_size as u64, config.window_tokens());
        let pieces = (tokens / mean).saturating_add(2).min(tokens.max(1));
        let blocks = (pieces + 1).saturating_mul(config.reads.align_bytes);
        let sample = tokens.saturating_mul(item_bytes).saturating_add(blocks).saturating_add(arrays);
        let typical = samples.saturating_mul(sample).saturating_add(config.reads.align_bytes);
        let largest = typical.saturating_add(samples.saturating_mul(blocks));
        Ok(BatchBytes {
            sample,
            least: samples.saturating_mul(tokens.saturating_mul(item_bytes).saturating_add(arrays)),
            typical,
            largest,
            pieces: (2 * pieces).saturating_mul(samples).min(PIECES_MAX.max(2 * samples)),
        })
    }
}

/// What arrays take for each sample besides what is read, in the types that they come out in. Where the copies put all of it
/// in its place, that is nothing.
fn array_bytes(selection: &Selection, way: Way) -> u64 {
    let rows = || selection.dense.iter().map(|dense| dense.row_bytes);
    let large = |dense: &Dense| dense.cast.is_none() && dense.row_bytes >= PLACED_BYTES_MIN;
    let placed = way == Way::Staged && selection.dense.len() == selection.len() && selection.dense.iter().all(large);
    if placed { 0 } else { rows().fold(0, u64::saturating_add) }
}

/// Whether the first sample starts with a block; records are all alike then.
fn starts_aligned(dataset: &Dataset, selection: &Selection, align: u64) -> bool {
    let first = selection.numbers.first().and_then(|&field| dataset.extent(0, field));
    first.is_none_or(|extent| extent.offset.is_multiple_of(align))
}
