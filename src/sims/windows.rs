//! Runs over windows of tokens from one seed, on storage with blocks that cannot be read: exactly the windows that need
//! one are left out or replaced, on every rank, as they are stored and packed, and again after a resume.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::PathBuf;

use super::damaged::{Answer, DamagedRing, Damages};
use super::draw::{Shards, draw_cast, draw_device, draw_reads};
use super::for_seeds;
use super::rank::{Delivered, Expected, Oracle, Ranked, drive};
use crate::assembly;
use crate::batch::Batch;
use crate::config::{Config, Windows};
use crate::dataset::{Dataset, Extent};
use crate::dtype::DType;
use crate::order::{
    AtEnd, BadSamplePolicy, Cursor, Order, Packer, PackerState, Part, Piece, Policy, Progress, Rank, Shuffle, Stretch,
    TokenWindows,
};
use crate::plan::nearest;
use crate::selection::{FieldOptions, Wanted};
use crate::sim::{Clock, Rng};

const ALIGN: u64 = 4096;

/// One document: its shard, and where its bytes start and end there.
#[derive(Debug, Clone, Copy)]
struct Document {
    shard: usize,
    start: u64,
    end: u64,
}

/// One seed's documents, and what its runs have in common.
struct Bed {
    paths: Vec<PathBuf>,
    files: Vec<Vec<u8>>,
    dataset: Dataset,
    field: &'static str,
    documents: Vec<Document>,
    item: u64,
    /// What the tokens are, and what they become in the array, if they change on the way.
    cast: Option<(DType, Wanted)>,
    windows: Windows,
    shuffle: Shuffle,
    /// Weights of the two shards, where they are two datasets.
    mixture: Option<(Vec<u32>, AtEnd)>,
    seed: u64,
    policy: Policy,
    bad: BadSamplePolicy,
    damages: Damages,
}

/// Which windows cannot be read.
type IsBad<'a> = dyn Fn(&Bed, &[Piece]) -> bool + 'a;

impl Bed {
    fn new(rng: &mut Rng, shards: &Shards, seed: u64) -> Bed {
        let item = [1, 2, 4, 6, 3001][rng.below(5) as usize];
        let raw = item < 8 && rng.one_in(3);
        let mixed = !raw && rng.one_in(2);
        let paths: Vec<PathBuf> = match raw {
            true => shards.write(rng, 600).0,
            false => (0..2).map(|number| tar(rng, shards, number, item)).collect(),
        };
        let dataset = match mixed {
            true => {
                let one = |path| Dataset::webdataset(&[path]).unwrap();
                Dataset::concat(paths.iter().map(one).collect()).unwrap()
            }
            false if raw => Dataset::records(&paths, 600).unwrap(),
            false => Dataset::webdataset(&paths).unwrap(),
        };
        let field = if raw { "record" } else { "txt" };
        let documents = documents(&dataset, field);
        let tokens: u64 = documents.iter().map(|document| (document.end - document.start) / item).sum();
        let window_tokens = 1 + rng.below((tokens / 8).clamp(1, 3000));
        let stride_tokens = window_tokens - rng.below(2).min(window_tokens - 1);
        let windows = match rng.one_in(2) {
            true => Windows::Stored { window_tokens, stride_tokens },
            false => Windows::Packed { window_tokens },
        };
        let shuffle = [Shuffle::Sequential, Shuffle::Full][rng.below(2) as usize];
        let policy = [Policy::Drop, Policy::Pad, Policy::Wrap][rng.below(3) as usize];
        let files = paths.iter().map(|path| std::fs::read(path).unwrap()).collect();
        let (bad, damages) = (BadSamplePolicy::Raise, Vec::new());
        let mut bed = Bed {
            paths,
            files,
            dataset,
            field,
            documents,
            item,
            cast: None,
            windows,
            shuffle,
            mixture: None,
            seed,
            policy,
            bad,
            damages,
        };
        if let (true, Some(of)) = (rng.one_in(2), bed.tokens_are()) {
            bed.cast = draw_cast(rng, field, of).map(|wanted| (of, wanted));
        }
        if mixed {
            bed.mix(rng);
        }
        bed
    }

    /// Mixes the two shards' windows, unless one has none, or both are too short for a step of three ranks.
    fn mix(&mut self, rng: &mut Rng) {
        let Windows::Stored { window_tokens, .. } = self.windows else { return };
        let at_end = [AtEnd::Stop, AtEnd::Repeat { positions: 3 + rng.below(60) }][rng.below(2) as usize];
        self.mixture = Some((vec![1 + rng.below(5) as u32, 1 + rng.below(5) as u32], at_end));
        let whole = self.parts().iter().all(|part| part.end - part.start >= window_tokens);
        if !whole || self.order().len() < 3 {
            self.mixture = None;
        }
    }

    /// What an array of tokens is made of, if there is one.
    fn tokens_are(&self) -> Option<DType> {
        [DType::U8, DType::U16, DType::U32].into_iter().find(|of| of.bytes() == Some(self.item))
    }

    /// The tokens of each dataset that is mixed, or of all.
    fn parts(&self) -> Vec<Range<u64>> {
        let of_shard = |shard: usize| {
            let own = |&document: &u64| self.documents[document as usize].shard == shard;
            (0..self.documents.len() as u64).filter(own).map(|document| self.tokens_of(document)).sum::<u64>()
        };
        match self.mixture {
            Some(_) => vec![0..of_shard(0), of_shard(0)..of_shard(0) + of_shard(1)],
            None => std::iter::once(0..self.tokens()).collect(),
        }
    }

    fn tokens_of(&self, document: u64) -> u64 {
        let Document { start, end, .. } = self.documents[document as usize];
        (end - start) / self.item
    }

    fn tokens(&self) -> u64 {
        (0..self.documents.len() as u64).map(|document| self.tokens_of(document)).sum()
    }

    /// The order of windows, which is what batches are cut from.
    fn order(&self) -> Order {
        match self.windows {
            Windows::Stored { window_tokens, stride_tokens } => {
                let len = |part: Range<u64>| {
                    TokenWindows::new(part.end - part.start, window_tokens, stride_tokens).unwrap().len()
                };
                let lens: Vec<u64> = self.parts().into_iter().map(len).collect();
                let Some((weights, at_end)) = &self.mixture else {
                    return Order::new(self.shuffle, lens[0], self.seed).unwrap();
                };
                let part = |(&samples, &weight)| Part { samples, weight };
                let parts: Vec<Part> = lens.iter().zip(weights).map(part).collect();
                Order::mixture(&parts, self.shuffle, self.seed, *at_end).unwrap()
            }
            Windows::Packed { window_tokens } => {
                Order::new(Shuffle::Sequential, self.tokens() / window_tokens, self.seed).unwrap()
            }
        }
    }

    /// The pieces of every window of an epoch, by number.
    fn pieces(&self, epoch: u64) -> Vec<Vec<Piece>> {
        match self.windows {
            Windows::Stored { window_tokens, stride_tokens } => {
                let of_part = |part: Range<u64>| {
                    let cut = TokenWindows::new(part.end - part.start, window_tokens, stride_tokens).unwrap();
                    let tokens = move |window| part.start + cut.range(window).start..part.start + cut.range(window).end;
                    (0..cut.len()).map(tokens).map(|tokens| self.stored(tokens)).collect::<Vec<_>>()
                };
                self.parts().into_iter().flat_map(of_part).collect()
            }
            Windows::Packed { window_tokens } => {
                let order = Order::new(self.shuffle, self.documents.len() as u64, self.seed).unwrap();
                let packer = Packer::new(order, window_tokens, self.tokens()).unwrap();
                let mut packing = packer.resume(Progress { epoch, consumed: 0 }, PackerState::default());
                let mut window = |number| {
                    let mut pieces = Vec::new();
                    packing.window(number, |document| self.tokens_of(document), &mut pieces, &mut Vec::new()).unwrap();
                    pieces
                };
                (0..packer.windows()).map(&mut window).collect()
            }
        }
    }

    fn stored(&self, range: Range<u64>) -> Vec<Piece> {
        let (mut pieces, mut first) = (Vec::new(), 0);
        for document in 0..self.documents.len() as u64 {
            let next = first + self.tokens_of(document);
            let (start, end) = (range.start.clamp(first, next), range.end.clamp(first, next));
            if start < end {
                pieces.push(Piece { document, start: start - first, tokens: end - start });
            }
            first = next;
        }
        pieces
    }

    /// Shard and bytes of a piece.
    fn bytes(&self, piece: &Piece) -> (usize, Range<u64>) {
        let Document { shard, start, .. } = self.documents[piece.document as usize];
        let start = start + piece.start * self.item;
        (shard, start..start + piece.tokens * self.item)
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

    fn run(&self, rng: &mut Rng, stretch: Stretch, rank: u32, from: Option<&str>, epochs: u64) -> Ranked {
        let clock = Clock::simulated();
        let device = draw_device(rng, &clock);
        let casts = self.cast.iter().map(|(_, wanted)| wanted.clone()).collect();
        let config = Config {
            fields: FieldOptions { casts, ..FieldOptions::default() },
            policy: Some(self.policy),
            bad_samples: self.bad,
            batch_size: stretch.batch_size as usize,
            tokens: Some((self.field.into(), self.item)),
            windows: Some(self.windows),
            shuffle: self.shuffle,
            mixture: self.mixture.clone(),
            seed: self.seed,
            rank: Rank::new(rank, stretch.world).unwrap(),
            prefetch: Some(1 + rng.below(4) as usize),
            reads: draw_reads(rng),
            ..Config::default()
        };
        let ring = DamagedRing::new(rng, &clock, config.reads.reads_in_flight, &self.paths, &self.damages);
        let frame = assembly::frame(self.dataset.clone(), device, config, clock).unwrap();
        let mut pieces: Option<(u64, Vec<Vec<Piece>>)> = None;
        drive(frame, ring, from, epochs, stretch.steps_max, |batch| {
            let known = pieces.take().filter(|(epoch, _)| *epoch == batch.epoch());
            let (_, of_epoch) = pieces.insert(known.unwrap_or_else(|| (batch.epoch(), self.pieces(batch.epoch()))));
            self.delivered(batch, of_epoch)
        })
    }

    /// Compares every window with the documents.
    fn delivered(&self, batch: &Batch, of_epoch: &[Vec<Piece>]) -> Delivered {
        let (mut bytes, mut tokens) = (Vec::new(), Vec::new());
        for (i, &window) in batch.samples().iter().enumerate() {
            let view = batch.window(i).unwrap();
            assert_eq!(view.pieces, of_epoch[window as usize], "window {window}");
            let mut boundaries = vec![0];
            view.pieces
                .iter()
                .for_each(|piece| boundaries.push(boundaries[boundaries.len() - 1] + piece.tokens as u32));
            assert_eq!(view.cu_seqlens, boundaries);
            for (number, piece) in view.pieces.iter().enumerate() {
                assert!(view.bytes.read_back(number, &mut bytes).unwrap());
                let (shard, want) = self.bytes(piece);
                assert!(bytes == self.files[shard][want.start as usize..want.end as usize], "wrong bytes in {window}");
                tokens.extend_from_slice(&bytes);
            }
        }
        match (batch.tensor(self.field), &self.cast) {
            (Some(array), Some((of, Wanted { dtype, scale, .. }))) => {
                array.read_back(&mut bytes).unwrap();
                assert!(array.dtype() == *dtype && bytes == nearest::cast(*of, *dtype, *scale, &tokens), "wrong array");
            }
            (Some(array), None) => {
                array.read_back(&mut bytes).unwrap();
                assert!(Some(array.dtype()) == self.tokens_are() && bytes == tokens, "wrong array");
            }
            (None, _) => assert_eq!(self.tokens_are(), None),
        }
        Delivered { epoch: batch.epoch(), samples: batch.samples().to_vec(), padded: batch.padded() }
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
}

/// Samples, or, where those are records, whole shards.
fn documents(dataset: &Dataset, field: &str) -> Vec<Document> {
    if field == "record" {
        let shards = dataset.shards().iter().enumerate();
        return shards.map(|(shard, one)| Document { shard, start: 0, end: one.bytes }).collect();
    }
    let number = dataset.fields().iter().position(|one| &*one.name == field).unwrap();
    let document = |sample| match dataset.extent(sample, number) {
        Some(Extent { shard, offset, len }) => Document { shard: shard as usize, start: offset, end: offset + len },
        None => Document { shard: 0, start: 0, end: 0 },
    };
    (0..dataset.len()).map(document).collect()
}

/// A shard of documents of `item`-byte tokens, some empty, some of many blocks; every fifth sample has none.
fn tar(rng: &mut Rng, shards: &Shards, number: u64, item: u64) -> PathBuf {
    let path = shards.directory.path().join(format!("{number}.tar"));
    let mut tar = ::tar::Builder::new(std::fs::File::create(&path).unwrap());
    for sample in 0..1 + rng.below(40) {
        let most = 36_000 / item;
        let tokens = [rng.below(most / 40 + 3), 0, rng.below(20), rng.below(most), 1][rng.below(5) as usize];
        let from = rng.below(4096) as usize;
        for (field, bytes) in [("txt", &shards.base[from..from + (tokens * item) as usize]), ("cls", b"x")] {
            if field == "cls" || !rng.one_in(5) {
                let mut header = ::tar::Header::new_ustar();
                header.set_size(bytes.len() as u64);
                tar.append_data(&mut header, format!("{number}-{sample:05}.{field}"), bytes).unwrap();
            }
        }
    }
    // So that there is something to read in any case.
    let mut header = ::tar::Header::new_ustar();
    header.set_size(50 * item);
    tar.append_data(&mut header, format!("{number}-z.txt"), &shards.base[..(50 * item) as usize]).unwrap();
    tar.finish().unwrap();
    path
}

/// Mutants that this catches: a window number remembered in place of a token; only the first piece of a window looked at;
/// pieces that stay when their window is left out; a known token not met where its block is another window's too.
#[test]
fn exactly_the_windows_that_need_a_damaged_block_are_left_out_or_replaced() {
    const EPOCHS: u64 = 2;
    let shards = Shards::new();
    for_seeds(200, |seed, rng| {
        let mut bed = Bed::new(rng, &shards, seed);
        let windows = bed.order().len().min(bed.order().samples());
        for _ in 0..1 + rng.below(3) {
            let shard = rng.below(bed.files.len() as u64) as usize;
            let block = rng.below((bed.files[shard].len() as u64).div_ceil(ALIGN)) * ALIGN;
            let answer = [Answer::Eio, Answer::End][rng.below(2) as usize];
            bed.damages.push((shard, block..block + ALIGN * (1 + rng.below(2)), answer));
        }
        let parts = bed.damaged_parts();
        // Of each dataset of a mixture: stand-ins are of the place's own.
        let few = (0..EPOCHS).all(|epoch| {
            let pieces = bed.pieces(epoch);
            let dataset = |pieces: &[Piece]| match bed.mixture {
                Some(_) => bed.documents[pieces[0].document as usize].shard,
                None => 0,
            };
            (0..bed.files.len()).all(|number| {
                let own: Vec<_> = pieces.iter().filter(|pieces| dataset(pieces) == number).collect();
                4 * own.iter().filter(|pieces| bed.damaged(pieces)).count() <= own.len()
            })
        });
        bed.bad = match rng.one_in(2) && few {
            true => BadSamplePolicy::Replace,
            false => BadSamplePolicy::Skip { budget: 1024, consecutive: 1 << 20 },
        };
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
            // Each token that is remembered lies in a damaged block; where tokens never lie in two, one for each block
            // and document.
            let at = |&token: &u64| bed.stored(token..token + 1);
            assert!(cursor.skipped.iter().all(|token| bed.damaged(&at(token))), "{:?}", cursor.skipped);
            let aligned =
                ALIGN.is_multiple_of(bed.item) && bed.documents.iter().all(|one| one.start.is_multiple_of(bed.item));
            assert!(!aligned || cursor.skipped.len() <= parts, "{} of {parts}", cursor.skipped.len());
            saved = Some(cursor);
        }
    });
}
