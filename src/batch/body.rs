//! What goes to the consumer and back: memory, arithmetic, and where the run stands.

use std::sync::Arc;

use crate::device::{Fence, Seq};
use crate::documents::Pieces;
use crate::order::Standing;
use crate::plan::Plan;
use crate::region::Region;
use crate::selection::Selection;

/// A batch's memory and arithmetic. It goes from the engine to the consumer and back, and is never allocated anew.
pub(crate) struct Body {
    pub(crate) slot: u32,
    pub(crate) generation: u64,
    pub(crate) epoch: u64,
    pub(crate) step: u64,
    pub(crate) samples: Vec<u64>,
    /// Where samples are windows.
    pub(crate) pieces: Pieces,
    pub(crate) padded: u64,
    /// What the order says, before bad samples are dealt with.
    pub(crate) places: Places,
    /// Read block by block and without gaps, since reads of this batch have failed.
    pub(crate) careful: bool,
    /// How often it was judged and had to be read again.
    pub(crate) recalls: u32,
    /// Where the run stands once every rank has its batch of this step.
    pub(crate) standing: Standing,
    /// Shared with the worker while it has a job of this batch.
    pub(crate) plan: Arc<Plan>,
    /// Of each array.
    pub(crate) shapes: Vec<Vec<u64>>,
    pub(crate) kept: Kept,
    pub(crate) region: Option<Region>,
    pub(crate) seq: Seq,
    pub(crate) fence: Fence,
    /// The consumer's stream may use the region until this body's fence.
    pub(crate) fenced: bool,
}

impl Drop for Body {
    fn drop(&mut self) {
        // No engine is left to refill the region behind the fence: its memory is freed behind it.
        if let (true, Some(region)) = (self.fenced, &self.region) {
            region.memory().free_behind(self.fence);
        }
    }
}

/// The places of a batch, where bad samples are not raised; empty otherwise.
#[derive(Default)]
pub(crate) struct Places {
    pub(crate) samples: Vec<u64>,
    /// Where they are windows.
    pub(crate) pieces: Pieces,
    pub(crate) padded: u64,
    /// Position of the first.
    pub(crate) position: u64,
    /// Without padding, as `replaced`.
    pub(crate) skipped: u64,
    pub(crate) replaced: u64,
    /// Something known to be bad was left out or replaced, padding too.
    pub(crate) around_bad: bool,
}

impl Places {
    /// No place.
    pub(crate) fn clear(&mut self) {
        self.samples.clear();
        self.pieces.clear();
        (self.padded, self.skipped, self.replaced, self.around_bad) = (0, 0, 0, false);
    }
}

/// Small fields whose bytes are on the host too; the room is allocated once. Without any where the host can address the
/// region anyway.
#[derive(Default)]
pub(crate) struct Kept {
    bytes: Box<[u8]>,
    /// Where the bytes of each view start.
    at: Vec<u64>,
}

impl Kept {
    /// Of views that are not kept, and those that found no room.
    const NOWHERE: u64 = u64::MAX;

    /// Room for so many bytes, of so many views.
    pub(crate) fn with_capacity(bytes: usize, views: usize) -> Kept {
        Kept { bytes: vec![0; bytes].into(), at: Vec::with_capacity(views) }
    }

    pub(crate) fn is_used(&self) -> bool {
        !self.bytes.is_empty()
    }

    /// Gives every view that is to be kept its place; says how many bytes found none.
    pub(crate) fn plan(&mut self, plan: &Plan, selection: &Selection, samples: usize) -> u64 {
        self.at.clear();
        let (mut end, mut over) = (0, 0);
        self.at.resize(plan.lengths().len(), Self::NOWHERE);
        for view in selection.on_host.iter().flat_map(|&field| field * samples..(field + 1) * samples) {
            let bytes = Some(plan.lengths()[view]).filter(|&len| len != Plan::ABSENT).unwrap_or(0);
            if bytes > self.bytes.len() as u64 - end {
                over += bytes;
                continue;
            }
            self.at[view] = end;
            end += bytes;
        }
        over
    }

    /// Takes part of a view, from byte `from` of it on; says how many bytes it took.
    pub(crate) fn put(&mut self, view: usize, from: u64, part: &[u8]) -> u64 {
        let at = self.at[view];
        if at == Self::NOWHERE {
            return 0;
        }
        let at = (at + from) as usize;
        self.bytes[at..at + part.len()].copy_from_slice(part);
        part.len() as u64
    }

    /// The bytes of a view, if they were kept.
    pub(crate) fn get(&self, view: usize, len: u64) -> Option<&[u8]> {
        let at = self.at.get(view).copied().filter(|&at| at != Self::NOWHERE)? as usize;
        Some(&self.bytes[at..at + len as usize])
    }
}
