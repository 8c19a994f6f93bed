//! The batches that an engine has, each with room for the largest: what they hold is allocated here, once.

use std::sync::Arc;

use super::Parts;
use crate::batch::{Body, Kept, Places};
use crate::config::{Verify, Way};
use crate::device::Seq;
use crate::documents::Pieces;
use crate::order::{BadSamplePolicy, Progress, Standing};
use crate::plan::Plan;
use crate::region::RegionPool;

impl Parts {
    pub(super) fn batches(&self, regions: &RegionPool) -> Vec<Body> {
        let samples = self.config.samples_max();
        let (fields, pieces) = (self.selection.len(), self.sizes.pieces);
        let views = (samples * fields).max(pieces);
        let (dense, on_host) = (&self.selection.dense, self.selection.on_host.len());
        let casts = dense.iter().filter(|dense| dense.cast.is_some()).count();
        // Where the host can address the regions, everything is there; where the storage writes past it, nothing.
        let keeps = self.way == Way::Staged && regions.memory().host().is_none();
        let parts = match self.config.verify {
            Verify::Checksums => samples * fields,
            Verify::Off if keeps => samples * on_host,
            Verify::Off => 0,
        };
        let windows = |pieces| Pieces::with_capacity(if pieces > 0 { samples } else { 0 }, pieces);
        let raises = self.config.bad_samples == BadSamplePolicy::Raise;
        let cuts = (self.sizes.region_bytes / self.config.reads.block_bytes) as usize;
        let batch = |slot| Body {
            slot: slot as u32,
            generation: 0,
            epoch: 0,
            step: 0,
            samples: Vec::with_capacity(samples),
            pieces: windows(pieces),
            padded: 0,
            places: Places {
                samples: Vec::with_capacity(samples),
                pieces: windows(if raises { 0 } else { pieces }),
                ..Places::default()
            },
            careful: false,
            recalls: 0,
            standing: Standing::at(Progress::default()),
            kept: match keeps {
                true => Kept::with_capacity(self.sizes.kept_bytes, views),
                false => Kept::default(),
            },
            plan: Arc::new(
                Plan::with_capacity(views, cuts)
                    .with_arrays(dense.len(), views, cuts)
                    .with_casts(casts, views)
                    .with_parts(parts, cuts),
            ),
            shapes: dense.iter().map(|dense| [&[0], dense.shape.as_slice()].concat()).collect(),
            region: None,
            seq: Seq(0),
            fence: regions.fence(slot),
            fenced: false,
        };
        (0..self.sizes.batches_max).map(batch).collect()
    }
}
