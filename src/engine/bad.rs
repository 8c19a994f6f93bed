//! Samples that cannot be read: found block by block, judged in the order of delivery, left out or replaced.
//!
//! ```text
//!   oldest batch:  a read failed --> read again block by block --> whole: nothing is bad, hand over
//!                                       ^                     `--> blocks failed again: their samples are bad
//!                                       |                                   |
//!                                       `---- planned without them, or with others in their places; or raised
//! ```
//!
//! Only the oldest batch is judged, after all its reads have ended, so what becomes of a sample depends on the samples
//! before it and on nothing that was read ahead. Batches behind it are planned without what is known to be bad by then;
//! when they are the oldest, they are judged anew.

use std::sync::Arc;

use super::Filling;
use crate::batch::{Body, Places};
use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::order::{BadSamplePolicy, BadSamples, Order, Standing, Verdict};
use crate::selection::Selection;
use crate::stats::Counters;
use crate::storage::Damage;

/// The policy, and what it has come to up to the last batch that was handed over.
pub(crate) struct Bad {
    policy: BadSamplePolicy,
    samples: BadSamples,
    order: Order,
    /// `samples.skipped()`, as cursors share it.
    skipped: Arc<[u64]>,
    consecutive: u32,
    /// What the batch that is judged was planned with.
    planned: Vec<u64>,
    counters: Arc<Counters>,
}

impl Bad {
    pub(crate) fn new(policy: BadSamplePolicy, order: Order, samples: usize, counters: Arc<Counters>) -> Result<Bad> {
        Ok(Bad {
            policy,
            samples: BadSamples::new(policy)?,
            order,
            skipped: Arc::default(),
            consecutive: 0,
            planned: Vec::with_capacity(if policy == BadSamplePolicy::Raise { 0 } else { samples }),
            counters,
        })
    }

    /// Whether a read that failed like this may be a bad sample's. Files that are missing or have changed are not.
    pub(super) fn forgives(&self, error: &Error) -> bool {
        !self.raises() && matches!(error, Error::Io { .. } | Error::Truncated { .. })
    }

    /// Goes on with what was bad up to some cursor.
    pub(super) fn stand(&mut self, at: Standing) -> Result<()> {
        self.consecutive = at.consecutive_bad;
        if self.skipped != at.skipped {
            self.samples = BadSamples::resume(self.policy, &at.skipped, at.consecutive_bad)?;
            self.skipped = at.skipped;
            self.counters.bad_samples(self.skipped.clone());
        }
        Ok(())
    }

    /// Takes down what the order says of a batch, whose first place is at `position`, and plans without what is known.
    pub(super) fn place(&mut self, body: &mut Body, position: u64) {
        if self.raises() {
            return;
        }
        let places = &mut body.places;
        places.samples.clone_from(&body.samples);
        (places.padded, places.position) = (body.padded, position);
        self.leave_out(body);
    }

    /// Puts into the batch what it will come to if nothing new is bad.
    pub(super) fn leave_out(&mut self, body: &mut Body) {
        if self.raises() {
            return;
        }
        self.samples.rewind(0);
        if self.walk(body, &[]).is_err() {
            // So it will end when it is the oldest: it need not be read at all.
            body.samples.clear();
            body.padded = 0;
        }
    }

    /// The verdict on the oldest batch, whose reads have all ended: whether it can be handed over as it is, or has to be
    /// read again as it is now.
    pub(super) fn settle(
        &mut self,
        filling: &mut Filling,
        dataset: &Dataset,
        selection: &Selection,
        align: u64,
    ) -> Result<bool> {
        let Filling { body, failure, damages, .. } = filling;
        if !self.raises() {
            let mut damages = std::mem::take(damages);
            if failure.take().is_some() && !std::mem::replace(&mut body.careful, true) {
                return Ok(false);
            }
            damages.sort_unstable_by_key(|damage| (damage.extent.shard, damage.extent.offset));
            if !self.judge(body, &damages, dataset, selection, align)? {
                return Ok(false);
            }
            self.counters.samples_skipped.add(body.places.skipped);
            self.counters.samples_replaced.add(body.places.replaced);
        }
        body.standing.skipped = self.skipped.clone();
        body.standing.consecutive_bad = self.consecutive;
        Ok(true)
    }

    fn judge(
        &mut self,
        body: &mut Body,
        damages: &[Damage],
        dataset: &Dataset,
        selection: &Selection,
        align: u64,
    ) -> Result<bool> {
        let cause = |sample: u64| cause(sample, damages, dataset, selection, align);
        let mut found: Vec<u64> = Vec::new();
        if let Some(first) = damages.first() {
            found.extend(body.samples.iter().copied().filter(|&sample| cause(sample).is_some()));
            found.sort_unstable();
            if found.is_empty() {
                return Err(first.error.clone()); // no sample is to blame
            }
        }
        std::mem::swap(&mut self.planned, &mut body.samples);
        let padded = body.padded;
        self.samples.rewind(self.consecutive);
        let known = self.samples.skipped().len();
        let walked = self.walk(body, &found);
        if self.samples.skipped().len() != known {
            self.learn(cause);
        }
        if let Err((sample, why)) = walked {
            let cause = cause(sample).map(|damage| Box::new(damage.error.clone()));
            return Err(Error::BadSample { sample, why, cause });
        }
        if !found.is_empty() || body.samples != self.planned || body.padded != padded {
            return Ok(false);
        }
        self.consecutive = self.samples.consecutive();
        Ok(true)
    }

    /// Fills the batch from its places, asking for a verdict wherever a sample is known or `found` (ascending) to be bad.
    fn walk(&mut self, body: &mut Body, found: &[u64]) -> Result<(), (u64, String)> {
        let Places { samples: places, padded, position, .. } = &body.places;
        body.samples.clear();
        body.padded = 0;
        let (mut skipped, mut replaced) = (0, 0);
        for (index, &place) in places.iter().enumerate() {
            let position = (position + index as u64) % self.order.len();
            let mut stand_in = Some(place);
            while let Some(sample) = stand_in
                && (self.samples.contains(sample) || found.binary_search(&sample).is_ok())
            {
                stand_in = match self.samples.bad(sample) {
                    Verdict::Skip => None,
                    Verdict::Replace(attempt) => Some(self.order.replacement(body.epoch, position, attempt)),
                    Verdict::Raise(why) => return Err((sample, why)),
                };
            }
            let Some(sample) = stand_in else {
                skipped += 1;
                continue;
            };
            self.samples.good();
            replaced += u64::from(sample != place);
            body.samples.push(sample);
            body.padded += u64::from(index as u64 >= places.len() as u64 - padded);
        }
        (body.places.skipped, body.places.replaced) = (skipped, replaced);
        Ok(())
    }

    fn learn<'a>(&mut self, cause: impl Fn(u64) -> Option<&'a Damage>) {
        for &sample in self.samples.skipped().iter().filter(|sample| !self.skipped.contains(sample)) {
            let error = cause(sample).map_or(String::new(), |damage| format!(": {}", damage.error));
            tracing::warn!("sample {sample} cannot be read{error}");
        }
        self.skipped = self.samples.skipped().into();
        self.counters.bad_samples(self.skipped.clone());
    }

    fn raises(&self) -> bool {
        self.policy == BadSamplePolicy::Raise
    }
}

/// The damage, of those in file order and apart from each other, that a sample's own blocks have part in.
fn cause<'a>(
    sample: u64,
    damages: &'a [Damage],
    dataset: &Dataset,
    selection: &Selection,
    align: u64,
) -> Option<&'a Damage> {
    let extents = selection.numbers.iter().filter_map(|&field| dataset.extent(sample, field));
    extents.filter(|extent| extent.len > 0).find_map(|extent| {
        let begin = extent.offset / align * align;
        let end = (extent.offset + extent.len).next_multiple_of(align);
        let before = |damage: &Damage| {
            let damaged = damage.extent;
            (damaged.shard, damaged.offset + damaged.len) <= (extent.shard, begin)
        };
        let damage = damages.get(damages.partition_point(before))?;
        (damage.extent.shard == extent.shard && damage.extent.offset < end).then_some(damage)
    })
}
