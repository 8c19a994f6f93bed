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
//!
//! Where samples are windows, their numbers may belong to an epoch, and a damaged block may be a part of many. So what is
//! remembered is a token of that block, counted through all documents as they are stored: every window that needs the
//! block is bad, in every epoch, on every rank, and no other.

use std::sync::Arc;

use super::Filling;
use crate::batch::{Body, Places};
use crate::config::Config;
use crate::dataset::{Dataset, Extent};
use crate::documents::{Pieces, blocks};
use crate::error::{Error, Result};
use crate::order::{BadSamplePolicy, BadSamples, Piece, Standing, Verdict};
use crate::selection::Selection;
use crate::source::Supply;
use crate::stats::Counters;
use crate::storage::Damage;

/// A batch is read again at most so often more than it has places: each time, another sample of it turned out to be bad.
const RECALLS_OVER_PLACES: usize = 32;

/// The policy, and what it has come to up to the last batch that was handed over.
pub(crate) struct Bad {
    policy: BadSamplePolicy,
    samples: BadSamples,
    supply: Supply,
    dataset: Arc<Dataset>,
    selection: Selection,
    align: u64,
    /// `samples.skipped()`, as cursors share it.
    skipped: Arc<[u64]>,
    consecutive: u32,
    /// What the batch that is judged was planned with.
    planned: Vec<u64>,
    counters: Arc<Counters>,
}

impl Bad {
    pub(crate) fn new(
        config: &Config,
        supply: &Supply,
        dataset: &Arc<Dataset>,
        selection: &Selection,
        counters: &Arc<Counters>,
    ) -> Result<Bad> {
        let policy = config.bad_samples;
        Ok(Bad {
            policy,
            samples: BadSamples::new(policy)?,
            supply: supply.clone(),
            dataset: dataset.clone(),
            selection: selection.clone(),
            align: config.reads.align_bytes,
            skipped: Arc::default(),
            consecutive: 0,
            planned: Vec::with_capacity(if policy == BadSamplePolicy::Raise { 0 } else { config.samples_max() }),
            counters: counters.clone(),
        })
    }

    /// Whether a read that failed like this may be a bad sample's. Files that are missing or have changed are not.
    pub(super) fn forgives(&self, error: &Error) -> bool {
        match error {
            Error::Corrupt { .. } => true, // it is read again under every policy
            _ => !self.raises() && matches!(error, Error::Io { .. } | Error::Truncated { .. }),
        }
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
        body.recalls = 0;
        places.samples.clone_from(&body.samples);
        std::mem::swap(&mut places.pieces, &mut body.pieces);
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
            body.pieces.clear();
            body.padded = 0;
        }
    }

    /// The verdict on the oldest batch, whose reads have all ended: whether it can be handed over as it is, or has to be
    /// read again as it is now.
    pub(super) fn settle(&mut self, filling: &mut Filling) -> Result<bool> {
        let Filling { body, failure, damages, .. } = filling;
        let mut damages = std::mem::take(damages);
        if failure.take().is_some() && !std::mem::replace(&mut body.careful, true) {
            return Ok(false);
        }
        if self.raises() {
            if let Some(&sample) = body.samples.iter().find(|&&sample| self.cause(sample, &damages).is_some()) {
                let cause = self.cause(sample, &damages).map(|damage| Box::new(damage.error.clone()));
                return Err(Error::BadSample { sample, why: "what is stored is damaged".into(), cause });
            }
            if let Some(first) = damages.first() {
                return Err(first.error.clone()); // no sample is to blame
            }
        } else {
            damages.sort_unstable_by_key(|damage| (damage.extent.shard, damage.extent.offset));
            if !self.judge(body, &damages)? {
                return again(body).map(|()| false);
            }
            self.counters.samples_skipped.add(body.places.skipped);
            self.counters.samples_replaced.add(body.places.replaced);
        }
        body.standing.skipped = self.skipped.clone();
        body.standing.consecutive_bad = self.consecutive;
        Ok(true)
    }

    fn judge(&mut self, body: &mut Body, damages: &[Damage]) -> Result<bool> {
        let found = self.found(body, damages);
        if let (Some(first), true) = (damages.first(), found.is_empty()) {
            return Err(first.error.clone()); // no sample is to blame
        }
        std::mem::swap(&mut self.planned, &mut body.samples);
        let padded = body.padded;
        self.samples.rewind(self.consecutive);
        let known = self.samples.skipped().len();
        let walked = self.walk(body, &found);
        if self.samples.skipped().len() != known {
            self.learn(damages);
        }
        if let Err((sample, mut why)) = walked {
            if self.supply.documents().is_some() {
                why = format!("it is a token, counted through all documents, and a window needs its block; {why}");
            }
            let cause = self.cause(sample, damages).map(|damage| Box::new(damage.error.clone()));
            return Err(Error::BadSample { sample, why, cause });
        }
        if !found.is_empty() || body.samples != self.planned || body.padded != padded {
            return Ok(false);
        }
        self.consecutive = self.samples.consecutive();
        Ok(true)
    }

    /// What of a batch the damages make bad, ascending: samples; where they are windows, tokens.
    fn found(&self, body: &Body, damages: &[Damage]) -> Vec<u64> {
        let mut found: Vec<u64> = Vec::new(); // allocates nothing as long as nothing fails
        if damages.is_empty() {
            return found;
        }
        let hit = |extent: &Extent| damage_in(*extent, damages, self.align);
        match self.supply.documents() {
            None => found.extend(body.samples.iter().filter(|&&sample| self.cause(sample, damages).is_some())),
            Some(documents) => {
                let pieces = body.pieces.pieces.iter().zip(&body.pieces.extents);
                let token = |(&piece, extent): (&Piece, &Option<Extent>)| {
                    let extent = (*extent)?;
                    let from =
                        hit(&extent)?.extent.offset.max(blocks(extent, self.align).start) / self.align * self.align;
                    Some(documents.unreadable(&self.dataset, piece, from..from + self.align))
                };
                found.extend(pieces.filter_map(token));
            }
        }
        found.sort_unstable();
        found
    }

    /// Fills the batch from its places, asking for a verdict wherever a sample is known or `found` (ascending) to be bad.
    fn walk(&mut self, body: &mut Body, found: &[u64]) -> Result<(), (u64, String)> {
        let Body { samples, pieces, padded, places, epoch, .. } = body;
        let Places { samples: order, pieces: windows, padded: padding, position, .. } = places;
        samples.clear();
        *padded = 0;
        if windows.are_there() {
            pieces.begin();
        }
        let (mut skipped, mut replaced) = (0, 0);
        let real = order.len() - *padding as usize;
        for (index, &place) in order.iter().enumerate() {
            let position = (*position + index as u64) % self.supply.order().len();
            let mut stand_in = Some(place);
            // A stand-in is chosen by its place alone, however batches are cut. And padding is one sample over and over: it
            // has been counted where it is no padding.
            let before = self.samples.consecutive();
            if self.policy == BadSamplePolicy::Replace || index >= real {
                self.samples.rewind(0);
            }
            if windows.are_there() {
                pieces.push_from(windows, index);
            }
            while let Some(sample) = stand_in
                && let Some(blame) = self.blame(sample, pieces, found)
            {
                if windows.are_there() {
                    pieces.pop();
                }
                stand_in = match self.samples.bad(blame) {
                    Verdict::Skip => None,
                    Verdict::Replace(attempt) => self.stand_in(place, *epoch, position, attempt, pieces),
                    Verdict::Raise(why) => return Err((blame, why)),
                };
            }
            match stand_in {
                None if index >= real => self.samples.rewind(before),
                None => skipped += 1,
                Some(sample) => {
                    self.samples.good();
                    samples.push(sample);
                    replaced += u64::from(sample != place && index < real);
                    *padded += u64::from(index >= real);
                }
            }
        }
        if self.policy == BadSamplePolicy::Replace {
            self.samples.rewind(0); // attempts are no places
        }
        places.around_bad = samples != order;
        (places.skipped, places.replaced) = (skipped, replaced);
        Ok(())
    }

    /// What makes a sample bad, if anything known or `found` does: itself; where it is the last window of `pieces`, a token.
    fn blame(&self, sample: u64, pieces: &Pieces, found: &[u64]) -> Option<u64> {
        let known = self.samples.skipped();
        let Some(documents) = self.supply.documents() else {
            return (self.samples.contains(sample) || found.binary_search(&sample).is_ok()).then_some(sample);
        };
        if known.is_empty() && found.is_empty() {
            return None;
        }
        let needs = |tokens: &[u64]| {
            let pieces = pieces.last().iter();
            pieces.copied().find_map(|piece| documents.needs(&self.dataset, piece, tokens, self.align))
        };
        needs(known).or_else(|| needs(found))
    }

    /// The sample to try in a place, and its pieces where it is a window.
    fn stand_in(&self, place: u64, epoch: u64, position: u64, attempt: u32, pieces: &mut Pieces) -> Option<u64> {
        let sample = self.supply.replacement(&self.dataset, place, epoch, position, attempt)?;
        // Every window of an epoch can be found: so its pieces say.
        self.supply.push_window(&self.dataset, epoch, sample, pieces).ok()?;
        Some(sample)
    }

    fn learn(&mut self, damages: &[Damage]) {
        let what = self.supply.documents().map_or("sample", |_| "the block of token");
        for &sample in self.samples.skipped().iter().filter(|sample| !self.skipped.contains(sample)) {
            let error = self.cause(sample, damages).map_or(String::new(), |damage| format!(": {}", damage.error));
            tracing::warn!("{what} {sample} cannot be read{error}");
        }
        self.skipped = self.samples.skipped().into();
        self.counters.bad_samples(self.skipped.clone());
    }

    /// The damage that a sample's own blocks have part in; where samples are windows, a token's.
    fn cause<'a>(&self, sample: u64, damages: &'a [Damage]) -> Option<&'a Damage> {
        let hit = |extent: Extent| damage_in(extent, damages, self.align);
        match self.supply.documents() {
            Some(documents) => documents.token_extent(&self.dataset, sample).and_then(hit),
            None => {
                let extent = |&field: &usize| self.dataset.extent(sample, field);
                self.selection.numbers.iter().filter_map(extent).find_map(hit)
            }
        }
    }

    fn raises(&self) -> bool {
        self.policy == BadSamplePolicy::Raise
    }
}

/// That a batch which has to be read again has not been so for ever.
fn again(body: &mut Body) -> Result<()> {
    body.recalls += 1;
    let (recalls, places) = (body.recalls as usize, &body.places.samples);
    if recalls <= places.len() + RECALLS_OVER_PLACES {
        return Ok(());
    }
    let sample = places.first().copied().unwrap_or_default();
    let why = format!("its batch was read {recalls} times and is still not whole; this is strait's mistake: report it");
    Err(Error::BadSample { sample, why, cause: None })
}

/// The damage, of those in file order and apart from each other, that the blocks of an extent have part in. Bytes that
/// failed their checksum are one extent's and not their blocks'.
fn damage_in(extent: Extent, damages: &[Damage], align: u64) -> Option<&Damage> {
    if extent.len == 0 {
        return None;
    }
    if damages.first().is_some_and(|damage| matches!(damage.error, Error::Corrupt { .. })) {
        return damages.iter().find(|damage| damage.extent == extent);
    }
    let own = blocks(extent, align);
    let before = |damage: &Damage| {
        let damaged = damage.extent;
        (damaged.shard, damaged.offset + damaged.len) <= (extent.shard, own.start)
    };
    let damage = damages.get(damages.partition_point(before))?;
    (damage.extent.shard == extent.shard && damage.extent.offset < own.end).then_some(damage)
}
