//! Runs over windows of tokens from one seed, on storage with blocks that cannot be read: exactly the windows that need
//! one are left out or replaced, on every rank, as they are stored and packed, and again after a resume.

mod bed;
mod run;

use std::collections::BTreeSet;
use std::ops::Range;

use self::bed::{Bed, Document};
use super::damaged::Answer;
use super::draw::Shards;
use super::for_seeds;
use super::machine::{Drawn, Over};
#[cfg(feature = "cuda")]
use super::over_cuda;
use super::rank::{Expected, Oracle, Ranked};
use crate::config::Windows;
use crate::order::{BadSamplePolicy, Cursor, Piece, Progress, Stretch};
use crate::sim::Rng;

const ALIGN: u64 = 4096;
const EPOCHS: u64 = 2;

/// Which windows cannot be read.
type IsBad<'a> = dyn Fn(&Bed<'_>, &[Piece]) -> bool + 'a;

impl Bed<'_> {
    /// Damages a few blocks, and sets the policy.
    fn damage(&mut self, rng: &mut Rng) {
        for _ in 0..1 + rng.below(3) {
            let shard = rng.below(self.files.len() as u64) as usize;
            let block = rng.below((self.files[shard].len() as u64).div_ceil(ALIGN)) * ALIGN;
            let answer = [Answer::Eio, Answer::End][rng.below(2) as usize];
            self.damages.push((shard, block..block + ALIGN * (1 + rng.below(2)), answer));
        }
        self.bad = match rng.one_in(2) && (0..EPOCHS).all(|epoch| self.few_are_damaged(epoch)) {
            true => BadSamplePolicy::Replace,
            false => BadSamplePolicy::Skip { budget: 1024, consecutive: 1 << 20 },
        };
    }

    /// Of each dataset of a mixture: stand-ins are of the place's own.
    fn few_are_damaged(&self, epoch: u64) -> bool {
        let pieces = self.pieces(epoch);
        let dataset = |pieces: &[Piece]| match self.mixture {
            Some(_) => self.documents[pieces[0].document as usize].shard,
            None => 0,
        };
        (0..self.files.len()).all(|number| {
            let own: Vec<_> = pieces.iter().filter(|pieces| dataset(pieces) == number).collect();
            4 * own.iter().filter(|pieces| self.damaged(pieces)).count() <= own.len()
        })
    }

    /// Whether a window needs a damaged block.
    fn damaged(&self, pieces: &[Piece]) -> bool {
        let hit = |piece: &Piece| {
            let (shard, bytes) = self.bytes(piece);
            let blocks = bytes.start / ALIGN * ALIGN..bytes.end.next_multiple_of(ALIGN);
            self.damages
                .iter()
                .any(|(s, damage, _)| *s == shard && damage.start < blocks.end && blocks.start < damage.end)
        };
        pieces.iter().any(hit)
    }

    /// Whether a window needs what a token stands for: the token, or the block that it lies in whole.
    fn needs(&self, pieces: &[Piece], token: u64) -> bool {
        let of_token = self.stored(token..token + 1)[0];
        let (_, Range { start, end }) = self.bytes(&of_token);
        let block = start / ALIGN * ALIGN;
        let whole = end <= block + ALIGN;
        let mut same = pieces.iter().filter(|piece| piece.document == of_token.document);
        same.any(|piece| {
            let (_, bytes) = self.bytes(piece);
            let own = bytes.start / ALIGN * ALIGN..bytes.end.next_multiple_of(ALIGN);
            (bytes.start <= start && end <= bytes.end) || (whole && own.contains(&block))
        })
    }
    /// What a rank should deliver of a stretch.
    fn expected(&self, stretch: Stretch, rank: u32, from: Progress, epochs: u64, bad: &IsBad) -> Expected {
        let bad = |epoch| self.pieces(epoch).iter().map(|pieces| bad(self, pieces)).collect();
        let near = matches!(self.windows, Windows::Packed { .. });
        let oracle = Oracle { order: &self.order(), policy: self.policy, bad_samples: self.bad, near, bad: &bad };
        oracle.expected(stretch, rank, from, epochs)
    }

    /// Documents and damaged blocks that have a part of each other.
    fn damaged_parts(&self) -> usize {
        let blocks: BTreeSet<(usize, u64)> = self
            .damages
            .iter()
            .flat_map(|(shard, bytes, _)| bytes.clone().step_by(ALIGN as usize).map(|block| (*shard, block)))
            .collect();
        let touches = |(shard, block): &(usize, u64), document: &&Document| {
            document.shard == *shard && document.start < block + ALIGN && *block < document.end
        };
        blocks.iter().map(|block| self.documents.iter().filter(|document| touches(block, document)).count()).sum()
    }

    /// Each token that is remembered lies in a damaged block; where tokens never lie in two, one for each block and document.
    fn check_remembered(&self, skipped: &[u64]) {
        let at = |&token: &u64| self.stored(token..token + 1);
        assert!(skipped.iter().all(|token| self.damaged(&at(token))), "{skipped:?}");
        let aligned =
            ALIGN.is_multiple_of(self.item) && self.documents.iter().all(|one| one.start.is_multiple_of(self.item));
        assert!(!aligned || skipped.len() <= self.damaged_parts(), "{} of {}", skipped.len(), self.damaged_parts());
    }
}

/// Mutants that this catches: a window number remembered in place of a token; only the first piece of a window looked at;
/// pieces that stay when their window is left out; a known token not met where its block is another window's too.
fn left_out_or_replaced(seed: u64, rng: &mut Rng, over: &dyn Over, shards: &Shards) {
    let mut bed = Bed::new(rng, over, shards, seed);
    let windows = bed.order().len().min(bed.order().samples());
    bed.damage(rng);
    let mut saved: Option<Cursor> = None;
    for (number, steps_max) in [rng.below(8), u64::MAX].into_iter().enumerate() {
        let world = 1 + rng.below(windows.min(3)) as u32;
        let batch_size = 1 + rng.below((windows / 3).clamp(1, 12));
        let stretch = Stretch { world, batch_size, steps_max, from: None };
        let text = saved.as_ref().map(Cursor::to_json);
        let from = saved.as_ref().map_or(Progress::default(), |cursor| cursor.progress);
        let known: Vec<u64> = saved.iter().flat_map(|cursor| cursor.skipped.clone()).collect();
        let healed = number == 1 && rng.one_in(2);
        let damages = bed.damages.clone();
        if healed {
            bed.damages.clear();
        }
        let bad: &IsBad = match healed {
            true => &|bed, pieces| known.iter().any(|&token| bed.needs(pieces, token)),
            false => &|bed, pieces| bed.damaged(pieces),
        };
        let mut ranks: Vec<Ranked> = Vec::new();
        for rank in 0..world {
            let ranked = bed.run(rng, stretch, rank, text.as_deref(), EPOCHS);
            assert!(ranked.failure.is_none(), "{:?}", ranked.failure);
            let Expected { batches, met, places } = bed.expected(stretch, rank, from, EPOCHS, bad);
            assert_eq!(ranked.batches, batches, "rank {rank} of {stretch:?}, {:?} {:?}", bed.windows, bed.bad);
            let stats = &ranked.stats;
            if steps_max == u64::MAX {
                assert_eq!(stats.samples_skipped + stats.samples_replaced, places);
                assert!(batches.is_empty() || stats.bad_samples == ranked.cursor.skipped);
            }
            assert!(steps_max == 0 || ranked.cursor.skipped.is_empty() == (met.is_empty() && known.is_empty()));
            ranks.push(ranked);
        }
        bed.damages = damages;
        let mut cursor = ranks[0].cursor.clone();
        ranks.iter().for_each(|ranked| cursor.merge(&ranked.cursor).unwrap());
        bed.check_remembered(&cursor.skipped);
        saved = Some(cursor);
    }
}

#[test]
fn exactly_the_windows_that_need_a_damaged_block_are_left_out_or_replaced() {
    let shards = Shards::new();
    for_seeds(200, |seed, rng| left_out_or_replaced(seed, rng, &Drawn, &shards));
}

#[cfg(feature = "cuda")]
#[test]
fn the_same_windows_over_cuda() {
    let shards = Shards::new();
    over_cuda(8, |seed, rng, over| left_out_or_replaced(seed, rng, over, &shards));
}
