//! From the samples of a batch to its plan: what is read, what comes out as arrays, what the CPU looks at.

use std::sync::Arc;

use super::Engine;
use crate::batch::Body;
use crate::error::{Error, Result};
use crate::plan::{Limits, Plan, Use};
use crate::selection::{Dense, Selection};
use crate::stats::Fallback;

impl Engine {
    /// Plans a batch anew. On an error it has no reads.
    pub(super) fn plan(&mut self, body: &mut Body) -> Result<()> {
        let mut limits = self.sizes.limits;
        if body.careful {
            limits.block_bytes = limits.align;
        }
        if body.careful || body.places.around_bad {
            limits.gap_bytes = 0; // what was left out may lie in a gap
        }
        self.lay_out(body, &limits)?;
        // Reading gaps along saves reads and costs room; where there is no room, do without.
        if limits.gap_bytes > 0 && body.plan.region_bytes() > self.regions.bytes() as u64 {
            limits.gap_bytes = 0;
            self.lay_out(body, &limits)?;
        }
        Ok(())
    }

    fn lay_out(&mut self, body: &mut Body, limits: &Limits) -> Result<()> {
        let Body { samples, pieces, plan, shapes, kept, .. } = body;
        let plan = Arc::get_mut(plan).expect("the worker has no job of this batch");
        let (dataset, selection) = (&*self.dataset, &self.selection);
        let shard_bytes = |shard: u32| dataset.shards()[shard as usize].bytes;
        let windows = pieces.are_there();
        if windows {
            plan.build(pieces.extents.iter().copied(), shard_bytes, limits);
        } else {
            plan.build(selection.extents(dataset, samples), shard_bytes, limits);
        }
        let (keeps, checks) = (kept.is_used() && !windows, self.verifier.is_some());
        if keeps {
            let over = kept.plan(plan, selection, samples.len());
            if over > 0 && !std::mem::replace(&mut self.state.crowded, true) {
                self.shared.counters.fall_back(crowded(over));
            }
        }
        if keeps || checks {
            let purpose = |view: usize| {
                let (field, sample) = (view / samples.len(), samples[view % samples.len()]);
                let keep = keeps && selection.on_host.contains(&field);
                Use { keep, check: checks && dataset.crc32c(sample, selection.numbers[field]).is_some() }
            };
            plan.part(purpose, limits);
        }
        for (dense, shape) in selection.dense.iter().zip(shapes) {
            shape[0] = samples.len() as u64;
            let views = match windows {
                true => 0..pieces.extents.len(),
                false => dense.field * samples.len()..(dense.field + 1) * samples.len(),
            };
            let fits = if windows { Ok(()) } else { fits(&plan.lengths()[views.clone()], samples, dense, selection) };
            if let Err(error) = fits {
                plan.build(std::iter::empty(), shard_bytes, limits);
                return Err(error);
            }
            match dense.cast {
                Some(cast) => plan.cast(views, cast, limits),
                None => plan.array(views, dense.dtype.bytes().unwrap_or(1), limits),
            }
        }
        if self.stage.is_some() {
            plan.place(limits);
        }
        Ok(())
    }
}

/// An array takes a batch whose every sample has the field, in the size that its shape says.
fn fits(lengths: &[u64], samples: &[u64], dense: &Dense, selection: &Selection) -> Result<()> {
    let Some(odd) = lengths.iter().position(|&len| len != dense.stored_bytes) else { return Ok(()) };
    let name = &selection.fields[dense.field].name;
    let has = match lengths[odd] {
        Plan::ABSENT => format!("no {name}"),
        len => format!("a {name} of {len} bytes"),
    };
    let (sample, bytes) = (samples[odd], dense.stored_bytes);
    let problem =
        format!("sample {sample} has {has}, not of {bytes}: it fits no array; leave {name} out of the tensors");
    Err(Error::config("tensors", problem))
}

fn crowded(over: u64) -> Fallback {
    Fallback {
        instead: "small fields that are only on the device instead of on the host too".into(),
        reason: format!("{over} bytes of a batch found no room there"),
        errno: None,
        remedy: "name the fields that you want on the host (`on_host`), and let them be small",
    }
}
