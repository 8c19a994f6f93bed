//! The options that a seed draws: which fields, which arrays, which batches, in which order.

use super::contents::Contents;
use crate::config::{Config, Verify, Windows};
use crate::dtype::DType;
use crate::order::{AtEnd, Bucketing, Budget, Cost, Policy, Rank, Shuffle};
use crate::selection::Wanted;
use crate::sim::Rng;
use crate::sims::draw::{draw_cast, draw_reads};

/// What a seed reads of its dataset, and how.
pub(super) struct Draw {
    pub(super) config: Config,
    /// Those that are read, in the dataset's order.
    pub(super) fields: Vec<&'static str>,
    /// Those that come out as arrays.
    pub(super) tensors: Vec<&'static str>,
    /// What elements are where they are stored and in the array, of those that change on the way.
    pub(super) casts: Vec<(&'static str, DType, Wanted)>,
    /// Those whose bytes are on the host too.
    pub(super) on_host: Vec<&'static str>,
    /// Bytes of a token, where batches are of windows.
    pub(super) item_bytes: Option<u64>,
}

impl Draw {
    pub(super) fn new(rng: &mut Rng, contents: &Contents, seed: u64) -> Draw {
        let mut config = Config { seed, ..Config::default() };
        let few = if contents.big_bytes > 0 { 12 } else { 40 };
        config.batch_size = 1 + rng.below(few) as usize;
        let world = 1 + rng.below(3) as u32;
        config.rank = Rank::new(rng.below(world.into()) as u32, world).unwrap();
        config.policy = Some([Policy::Pad, Policy::Wrap][rng.below(2) as usize]);
        let block = Shuffle::Block { block_samples: 1 + rng.below(9), window: 1 + rng.below(5) };
        config.shuffle = [Shuffle::Sequential, Shuffle::Full, block][rng.below(3) as usize];
        config.prefetch = Some(1 + rng.below(4) as usize);
        config.hold = 1 + rng.below(4) as usize;
        config.reads = draw_reads(rng);
        // A block is a multiple of that.
        let align = [4096, 4096, 8192, 16384][rng.below(4) as usize];
        config.reads.align_bytes = align.min(config.reads.block_bytes);
        let mut draw = Draw {
            config,
            fields: contents.fields.clone(),
            tensors: Vec::new(),
            casts: Vec::new(),
            on_host: Vec::new(),
            item_bytes: None,
        };
        if contents.dataset.parts().len() == 1 && rng.one_in(4) {
            draw.windows(rng, contents);
            return draw;
        }
        draw.fields(rng, contents);
        if contents.summed {
            draw.config.verify = Verify::Checksums;
        }
        if contents.dataset.parts().len() > 1 {
            let weights = contents.dataset.parts().iter().map(|_| 1 + rng.below(5) as u32).collect();
            let at_end = [AtEnd::Stop, AtEnd::Repeat { positions: 1 + rng.below(500) }][rng.below(2) as usize];
            draw.config.mixture = Some((weights, at_end));
        }
        if rng.one_in(3) {
            let largest = (0..contents.samples.len() as u64).map(|sample| draw.length(contents, sample)).max().unwrap();
            let cost = [Cost::Sum, Cost::Padded][rng.below(2) as usize];
            let cost_max = largest.max(1) * (1 + rng.below(if few == 12 { 5 } else { 30 }));
            let budget = Budget { samples_max: 1 + rng.below(few), cost_max, cost };
            let window = 1 + rng.below(50);
            draw.config.budget = Some((budget, Bucketing { window, run: 1 + rng.below(window) }));
        }
        draw
    }

    /// Some of the fields, some of those as arrays.
    fn fields(&mut self, rng: &mut Rng, contents: &Contents) {
        if contents.fields.len() > 1 && rng.one_in(2) {
            // Only what is large, once in a while: then the copies put it in its place.
            let large = rng.one_in(3);
            self.fields.retain(|&field| if large { field == "big" } else { rng.one_in(2) });
            if self.fields.is_empty() {
                self.fields.push("cls");
            }
            self.config.fields.names = Some(self.fields.iter().map(|&name| name.into()).collect());
        }
        let words = |bytes: u64| match bytes.is_multiple_of(4) {
            true => (DType::F32, vec![bytes / 4]),
            false => (DType::U8, vec![1, bytes]),
        };
        let wide = [DType::U8, DType::U16, DType::U32, DType::I32];
        for &name in &self.fields {
            let bytes = match name {
                "row" | "record" => contents.row_bytes,
                "big" => contents.big_bytes,
                _ => continue,
            };
            let (mut dtype, mut shape) = words(bytes);
            if rng.one_in(3) {
                let fit = wide.into_iter().filter(|dtype| bytes.is_multiple_of(dtype.bytes().unwrap()));
                dtype = fit.take(1 + rng.below(4) as usize).last().unwrap();
                shape = vec![bytes / dtype.bytes().unwrap()];
                self.casts.push((name, dtype, draw_cast(rng, name, dtype).unwrap()));
            }
            self.config.fields.arrays.push((name.into(), dtype, shape));
            self.tensors.push(name);
        }
        let usual =
            |name: &str| ["cls", "json"].contains(&name) || (name != "big" && name != "bin" && contents.row_bytes <= 8);
        self.on_host = self.fields.iter().copied().filter(|name| usual(name)).collect();
        if rng.one_in(2) {
            self.on_host = self.fields.iter().copied().filter(|_| rng.one_in(2)).collect();
            self.config.fields.on_host = Some(self.on_host.iter().map(|&name| name.into()).collect());
        }
        if rng.one_in(3) {
            self.tensors.retain(|_| rng.one_in(2));
            self.config.fields.tensors = Some(self.tensors.iter().map(|&name| name.into()).collect());
            self.casts.retain(|(name, ..)| self.tensors.contains(name));
        }
        self.config.fields.casts = self.casts.iter().map(|(.., wanted)| wanted.clone()).collect();
    }

    fn windows(&mut self, rng: &mut Rng, contents: &Contents) {
        let field = if contents.fields.len() == 1 { "record" } else { "row" };
        let items = [4, 2, 1].into_iter().filter(|item| contents.row_bytes.is_multiple_of(*item));
        let item_bytes = items.take(1 + rng.below(3) as usize).last().unwrap();
        let tokens = contents.samples.len() as u64 * contents.row_bytes / item_bytes;
        let window_tokens = 1 + rng.below((tokens / 4).clamp(1, 5000));
        self.config.tokens = Some((field.into(), item_bytes));
        self.config.windows = Some(match rng.one_in(2) {
            true => Windows::Stored { window_tokens, stride_tokens: 1 + rng.below(window_tokens) },
            false => Windows::Packed { window_tokens },
        });
        (self.fields, self.item_bytes) = (vec![field], Some(item_bytes));
        if rng.one_in(4) {
            self.config.fields.tensors = Some(Vec::new());
        } else {
            self.tensors = vec![field];
            if rng.one_in(2) {
                let of =
                    [DType::U8, DType::U16, DType::U32].into_iter().find(|of| of.bytes() == Some(item_bytes)).unwrap();
                self.casts.push((field, of, draw_cast(rng, field, of).unwrap()));
                self.config.fields.casts = vec![self.casts[0].2.clone()];
            }
        }
    }

    /// The bytes of a sample's fields that are read.
    pub(super) fn length(&self, contents: &Contents, sample: u64) -> u64 {
        self.fields.iter().filter_map(|field| contents.of(sample, field)).map(|range| range.len() as u64).sum()
    }
}
