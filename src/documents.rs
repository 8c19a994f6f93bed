//! Where tokens lie: documents one after another, and the pieces of them that windows are made of.
//!
//! ```text
//!   documents     |   d0    | d1 |      d2       |           first token of each: 8 bytes
//!   window        ......|--------------|....                 pieces: end of d0, d1, start of d2
//!   cu_seqlens          0   4    7     14                    in tokens
//! ```

use std::ops::Range;

use crate::dataset::{Dataset, Extent, Shard};
use crate::error::{Error, Result};
use crate::length::Length;
use crate::order::{Piece, TokenWindows};

/// The documents of a dataset, in the order in which they are stored.
#[derive(Debug)]
pub(crate) struct Documents {
    /// Of each document, and the total.
    first_token: Vec<u64>,
    /// Where each is, where some are whole shards of tokens. Else each is a sample's field.
    places: Option<Vec<Option<Extent>>>,
    field: usize,
    item_bytes: u64,
}

impl Documents {
    /// A document is a sample; in shards whose samples are no documents, the shard.
    pub(crate) fn new(dataset: &Dataset, length: &Length) -> Result<Documents> {
        let Some((field, item_bytes)) = length.tokens() else {
            return Err(Error::config("tokens", "windows need to know what a token is: give the option `tokens`"));
        };
        let places = dataset.shards().iter().any(Shard::is_one_document).then(|| places(dataset, field));
        let mut documents = Documents { first_token: vec![0], places, field, item_bytes };
        let count = documents.places.as_ref().map_or(dataset.len(), |places| places.len() as u64);
        documents.first_token.reserve_exact(count as usize);
        let mut total = 0;
        for document in 0..count {
            let bytes = documents.whole(dataset, document).map_or(0, |extent| extent.len);
            if !bytes.is_multiple_of(item_bytes) {
                let problem =
                    format!("document {document} has {bytes} bytes, no whole number of {item_bytes}-byte tokens");
                return Err(Error::config("tokens", problem));
            }
            total += bytes / item_bytes;
            documents.first_token.push(total);
        }
        dataset.check()?;
        Ok(documents)
    }

    /// The field that tokens are in, and the bytes of one.
    pub(crate) fn token(&self) -> (usize, u64) {
        (self.field, self.item_bytes)
    }

    pub(crate) fn len(&self) -> u64 {
        self.first_token.len() as u64 - 1
    }

    /// Tokens of all documents together.
    pub(crate) fn tokens(&self) -> u64 {
        self.first_token[self.first_token.len() - 1]
    }

    /// Tokens of one.
    pub(crate) fn tokens_of(&self, document: u64) -> u64 {
        self.first_token[document as usize + 1] - self.first_token[document as usize]
    }

    /// The tokens of each dataset that was joined.
    pub(crate) fn parts(&self, dataset: &Dataset) -> Vec<Range<u64>> {
        let (mut shards, mut document, mut start) = (dataset.shards().iter(), 0, 0);
        let part = |&samples: &u64| {
            let mut seen = 0;
            while let Some(shard) = shards.as_slice().first().filter(|_| seen < samples) {
                shards.next();
                seen += shard.samples();
                document += if shard.is_one_document() { shard.samples().min(1) } else { shard.samples() };
            }
            let end = self.first_token[document as usize];
            std::mem::replace(&mut start, end)..end
        };
        dataset.parts().iter().map(part).collect()
    }

    /// The pieces of a range of tokens, counted through all documents as they are stored. Empty documents have none.
    pub(crate) fn pieces(&self, range: Range<u64>) -> impl Iterator<Item = Piece> {
        let first = self.first_token.partition_point(|&first| first <= range.start) - 1;
        let piece = move |document: u64| {
            let (own, next) = (self.first_token[document as usize], self.first_token[document as usize + 1]);
            let start = own.max(range.start);
            (own < range.end).then(|| Piece { document, start: start - own, tokens: next.min(range.end) - start })
        };
        (first as u64..self.len()).map_while(piece).filter(|piece| piece.tokens > 0)
    }

    /// What stands for a block that cannot be read and that a piece needs: a token, counted through all documents. The same
    /// for all pieces of a document, if there is a token that lies in the block whole: its first such. Else the piece's
    /// first that is in it in part.
    pub(crate) fn unreadable(&self, dataset: &Dataset, piece: Piece, block: Range<u64>) -> u64 {
        let start = self.whole(dataset, piece.document).map_or(0, |whole| whole.offset);
        let (before, behind) = (block.start.saturating_sub(start), block.end.saturating_sub(start));
        let first = before.div_ceil(self.item_bytes);
        let whole = first < self.tokens_of(piece.document) && (first + 1) * self.item_bytes <= behind;
        let token = if whole { first } else { piece.start.max(before / self.item_bytes) };
        self.first_token[piece.document as usize] + token
    }

    /// The first of `unreadable` tokens (ascending) that a piece cannot be read for: it holds that token, or the block
    /// that the token lies in whole.
    pub(crate) fn needs(&self, dataset: &Dataset, piece: Piece, unreadable: &[u64], align: u64) -> Option<u64> {
        let (first, next) = (self.first_token[piece.document as usize], self.first_token[piece.document as usize + 1]);
        let of_document = &unreadable[unreadable.partition_point(|&token| token < first)..];
        let of_document = &of_document[..of_document.partition_point(|&token| token < next)];
        if of_document.is_empty() {
            return None;
        }
        let own = blocks(self.extent(dataset, piece)?, align);
        let needs = |token: &&u64| {
            let start = **token - first;
            let lies_in = blocks(self.extent(dataset, Piece { start, tokens: 1, ..piece })?, align);
            let whole = lies_in.end - lies_in.start == align && lies_in.start < own.end && own.start < lies_in.end;
            (whole || (piece.start..piece.start + piece.tokens).contains(&start)).then_some(())
        };
        of_document.iter().find(|token| needs(token).is_some()).copied()
    }

    /// Where a token lies, counted through all documents.
    pub(crate) fn token_extent(&self, dataset: &Dataset, token: u64) -> Option<Extent> {
        let document = self.first_token.partition_point(|&first| first <= token).checked_sub(1)? as u64;
        let start = token - self.first_token[document as usize];
        (document < self.len()).then(|| self.extent(dataset, Piece { document, start, tokens: 1 }))?
    }

    fn whole(&self, dataset: &Dataset, document: u64) -> Option<Extent> {
        match &self.places {
            Some(places) => places[document as usize],
            None => dataset.extent(document, self.field),
        }
    }

    fn extent(&self, dataset: &Dataset, piece: Piece) -> Option<Extent> {
        let whole = self.whole(dataset, piece.document)?;
        let (offset, len) = (whole.offset + piece.start * self.item_bytes, piece.tokens * self.item_bytes);
        Some(Extent { offset, len, ..whole })
    }
}

/// Windows over documents as they are stored, numbered through the datasets that are mixed; where none are, all documents
/// are one dataset's.
#[derive(Debug)]
pub(crate) struct StoredWindows {
    /// Of each dataset: its first window, its first token, and how it is cut.
    parts: Vec<(u64, u64, TokenWindows)>,
}

impl StoredWindows {
    pub(crate) fn new(parts: &[Range<u64>], window_tokens: u64, stride_tokens: u64) -> Result<StoredWindows> {
        let mut first = 0;
        let cut = |tokens: &Range<u64>| {
            let windows = TokenWindows::new(tokens.end - tokens.start, window_tokens, stride_tokens)?;
            let part = (first, tokens.start, windows);
            first += windows.len();
            Ok(part)
        };
        Ok(StoredWindows { parts: parts.iter().map(cut).collect::<Result<_>>()? })
    }

    /// The windows of each dataset.
    pub(crate) fn lens(&self) -> Vec<u64> {
        self.parts.iter().map(|(.., windows)| windows.len()).collect()
    }

    /// How each dataset is cut.
    pub(crate) fn cut(&self) -> TokenWindows {
        self.parts[0].2
    }

    /// The tokens of a window, counted through all documents.
    pub(crate) fn range(&self, window: u64) -> Range<u64> {
        let part = self.parts.partition_point(|(first, ..)| *first <= window) - 1;
        let (first, start, windows) = &self.parts[part];
        let tokens = windows.range(window - first);
        start + tokens.start..start + tokens.end
    }
}

/// The blocks that an extent lies in.
pub(crate) fn blocks(extent: Extent, align: u64) -> Range<u64> {
    extent.offset / align * align..(extent.offset + extent.len).next_multiple_of(align)
}

/// Of every document, some of which are shards.
fn places(dataset: &Dataset, field: usize) -> Vec<Option<Extent>> {
    let mut places = Vec::new();
    let mut sample = 0;
    for shard in dataset.shards() {
        let samples = sample..sample + shard.samples();
        sample = samples.end;
        if !shard.is_one_document() {
            places.extend(samples.map(|sample| dataset.extent(sample, field)));
        } else if !samples.is_empty() {
            // Its samples lie one behind another.
            let first = dataset.extent(samples.start, field);
            places.push(first.map(|first| Extent { len: first.len * shard.samples(), ..first }));
        }
    }
    places
}

/// The pieces of a batch's windows. Reused from batch to batch.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    /// One view each.
    pub(crate) extents: Vec<Option<Extent>>,
    pub(crate) pieces: Vec<Piece>,
    /// The first piece of each window, and the end; empty where a batch is not of windows.
    pub(crate) first: Vec<usize>,
    /// One more than pieces for each window.
    pub(crate) cu_seqlens: Vec<u32>,
    /// What a packer writes to.
    pub(crate) packed: (Vec<Piece>, Vec<u32>),
}

impl Pieces {
    /// Room for so many windows and pieces before anything is allocated again.
    pub(crate) fn with_capacity(windows: usize, pieces: usize) -> Pieces {
        Pieces {
            extents: Vec::with_capacity(pieces),
            pieces: Vec::with_capacity(pieces),
            first: Vec::with_capacity(windows + 1),
            cu_seqlens: Vec::with_capacity(pieces + windows),
            packed: (Vec::with_capacity(pieces), Vec::with_capacity(pieces + 1)),
        }
    }

    /// Whether the batch is one of windows.
    pub(crate) fn are_there(&self) -> bool {
        !self.first.is_empty()
    }

    /// No window yet, and none but windows to come.
    pub(crate) fn begin(&mut self) {
        self.clear();
        self.first.push(0);
    }

    /// The last window's pieces.
    pub(crate) fn last(&self) -> &[Piece] {
        &self.pieces[self.first[self.first.len() - 2]..]
    }

    /// Takes the last window away.
    pub(crate) fn pop(&mut self) {
        self.first.pop();
        let pieces = self.first[self.first.len() - 1];
        self.pieces.truncate(pieces);
        self.extents.truncate(pieces);
        self.cu_seqlens.truncate(pieces + self.first.len() - 1);
    }

    /// Puts another batch's window behind the last.
    pub(crate) fn push_from(&mut self, other: &Pieces, window: usize) {
        let (pieces, boundaries) = other.of_window(window);
        self.pieces.extend_from_slice(&other.pieces[pieces.clone()]);
        self.extents.extend_from_slice(&other.extents[pieces]);
        self.cu_seqlens.extend_from_slice(boundaries);
        self.first.push(self.pieces.len());
    }

    /// The pieces of a window, by number, and its boundaries.
    pub(crate) fn of_window(&self, window: usize) -> (std::ops::Range<usize>, &[u32]) {
        let pieces = self.first[window]..self.first[window + 1];
        let boundaries = &self.cu_seqlens[pieces.start + window..pieces.end + window + 1];
        (pieces, boundaries)
    }

    pub(crate) fn clear(&mut self) {
        self.extents.clear();
        self.pieces.clear();
        self.first.clear();
        self.cu_seqlens.clear();
    }

    pub(crate) fn push_window(
        &mut self,
        documents: &Documents,
        dataset: &Dataset,
        pieces: impl Iterator<Item = Piece>,
    ) {
        if self.first.is_empty() {
            self.first.push(0);
        }
        self.cu_seqlens.push(0);
        let mut end = 0;
        for piece in pieces {
            end += piece.tokens as u32;
            self.cu_seqlens.push(end);
            self.extents.push(documents.extent(dataset, piece));
            self.pieces.push(piece);
        }
        self.first.push(self.pieces.len());
    }

    /// As [`push_window`](Self::push_window), what the packer has written.
    pub(crate) fn push_packed(&mut self, documents: &Documents, dataset: &Dataset) {
        let packed = std::mem::take(&mut self.packed.0);
        self.push_window(documents, dataset, packed.iter().copied());
        self.packed.0 = packed;
    }
}
