//! Documents that a seed draws, and the windows that they come to.

use std::ops::Range;
use std::path::PathBuf;

use crate::config::Windows;
use crate::dataset::{Dataset, Extent};
use crate::dtype::DType;
use crate::order::{
    AtEnd, BadSamplePolicy, Order, Packer, PackerState, Part, Piece, Policy, Progress, Shuffle, TokenWindows,
};
use crate::selection::Wanted;
use crate::sim::Rng;
use crate::sims::Over;
use crate::sims::damaged::Damages;
use crate::sims::draw::{Shards, draw_cast};

/// One document: its shard, and where its bytes start and end there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Document {
    pub(super) shard: usize,
    pub(super) start: u64,
    pub(super) end: u64,
}

/// One seed's documents, and what its runs have in common.
pub(super) struct Bed<'a> {
    pub(super) over: &'a dyn Over,
    pub(super) paths: Vec<PathBuf>,
    pub(super) files: Vec<Vec<u8>>,
    pub(super) dataset: Dataset,
    pub(super) field: &'static str,
    pub(super) documents: Vec<Document>,
    pub(super) item: u64,
    /// What the tokens are, and what they become in the array, if they change on the way.
    pub(super) cast: Option<(DType, Wanted)>,
    pub(super) windows: Windows,
    pub(super) shuffle: Shuffle,
    /// Weights of the two shards, where they are two datasets.
    pub(super) mixture: Option<(Vec<u32>, AtEnd)>,
    pub(super) seed: u64,
    pub(super) policy: Policy,
    pub(super) bad: BadSamplePolicy,
    pub(super) damages: Damages,
}

impl Bed<'_> {
    pub(super) fn new<'a>(rng: &mut Rng, over: &'a dyn Over, shards: &Shards, seed: u64) -> Bed<'a> {
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
            over,
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
    pub(super) fn mix(&mut self, rng: &mut Rng) {
        let Windows::Stored { window_tokens, .. } = self.windows else { return };
        let at_end = [AtEnd::Stop, AtEnd::Repeat { positions: 3 + rng.below(60) }][rng.below(2) as usize];
        self.mixture = Some((vec![1 + rng.below(5) as u32, 1 + rng.below(5) as u32], at_end));
        let whole = self.parts().iter().all(|part| part.end - part.start >= window_tokens);
        if !whole || self.order().len() < 3 {
            self.mixture = None;
        }
    }

    /// What an array of tokens is made of, if there is one.
    pub(super) fn tokens_are(&self) -> Option<DType> {
        [DType::U8, DType::U16, DType::U32].into_iter().find(|of| of.bytes() == Some(self.item))
    }

    /// The tokens of each dataset that is mixed, or of all.
    pub(super) fn parts(&self) -> Vec<Range<u64>> {
        let of_shard = |shard: usize| {
            let own = |&document: &u64| self.documents[document as usize].shard == shard;
            (0..self.documents.len() as u64).filter(own).map(|document| self.tokens_of(document)).sum::<u64>()
        };
        match self.mixture {
            Some(_) => vec![0..of_shard(0), of_shard(0)..of_shard(0) + of_shard(1)],
            None => std::iter::once(0..self.tokens()).collect(),
        }
    }

    pub(super) fn tokens_of(&self, document: u64) -> u64 {
        let Document { start, end, .. } = self.documents[document as usize];
        (end - start) / self.item
    }

    pub(super) fn tokens(&self) -> u64 {
        (0..self.documents.len() as u64).map(|document| self.tokens_of(document)).sum()
    }

    /// The order of windows, which is what batches are cut from.
    pub(super) fn order(&self) -> Order {
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
    pub(super) fn pieces(&self, epoch: u64) -> Vec<Vec<Piece>> {
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

    pub(super) fn stored(&self, range: Range<u64>) -> Vec<Piece> {
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
    pub(super) fn bytes(&self, piece: &Piece) -> (usize, Range<u64>) {
        let Document { shard, start, .. } = self.documents[piece.document as usize];
        let start = start + piece.start * self.item;
        (shard, start..start + piece.tokens * self.item)
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
