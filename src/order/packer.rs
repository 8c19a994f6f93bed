//! Packing shuffled documents into windows of a fixed number of tokens.
//!
//! ```text
//!   documents as shuffled   |   d7    | d2 |        d9        |  d0  | ..
//!   windows                 |    w0     |     w1    |     w2     | ..
//!   pieces of w1                        |d2|   d9   |               cu_seqlens 0, 3, 12
//! ```
//!
//! Nothing is padded and no token is left out but the last of an epoch that fill no window. The number of windows does
//! not depend on the shuffle, so every rank knows it beforehand. Where a window starts does: finding window `w` from
//! scratch takes a walk over all documents before it. The walk goes on from the cursor's carry-over instead, which costs
//! one length and one position per document of a global batch, and constant memory; prefix sums of shuffled lengths
//! would take 8 bytes per document and a pass over all of them in every epoch.

use super::cursor::{Cursor, PackerState};
use super::epoch::{Epoch, Order};
use super::fingerprint::Fingerprint;
use super::schedule::Progress;
use crate::error::{Error, Result};

/// A run of tokens of one document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// The document's sample id.
    pub document: u64,
    /// Its first token in this window, counted from the document's start.
    pub start: u64,
    /// The number of tokens.
    pub tokens: u64,
}

/// Fixed windows over documents in shuffled order. Its windows are what a [`Schedule`](super::Schedule) over a
/// sequential order of [`windows`](Self::windows) hands out.
#[derive(Debug, Clone)]
pub struct Packer {
    order: Order,
    window_tokens: u64,
    tokens: u64,
}

impl Packer {
    /// Windows of `window_tokens` over the documents of `order`, which have `tokens` tokens together.
    ///
    /// # Errors
    /// [`Error::Config`] if `window_tokens` is 0 or exceeds `u32::MAX`, which boundaries are counted in; or if `order` is
    /// a mixture, whose epochs do not hold every document once.
    pub fn new(order: Order, window_tokens: u64, tokens: u64) -> Result<Packer> {
        if window_tokens == 0 || window_tokens > u32::MAX.into() {
            return Err(Error::config("window_tokens", format!("{window_tokens}; give 1 to {}", u32::MAX)));
        }
        if order.as_mixture().is_some() {
            let problem =
                "documents of a mixture cannot be packed: a window goes on from document to document of one dataset";
            return Err(Error::config("mixture", problem));
        }
        Ok(Packer { order, window_tokens, tokens })
    }

    /// Tokens of a window.
    pub fn window_tokens(&self) -> u64 {
        self.window_tokens
    }

    /// Windows of an epoch, the same in every epoch.
    pub fn windows(&self) -> u64 {
        self.tokens / self.window_tokens
    }

    /// Tokens at an epoch's end that fill no window; other documents' in each epoch.
    pub fn tail_tokens(&self) -> u64 {
        self.tokens % self.window_tokens
    }

    /// The cursor of a run over the windows: that of its documents' order, counting windows.
    pub fn cursor(&self, fingerprint: Fingerprint, progress: Progress, state: PackerState) -> Cursor {
        let cursor = Cursor::new(&self.order, fingerprint, progress);
        Cursor { positions: self.windows(), packer: Some(state), ..cursor }
    }

    /// Goes on in an epoch where `progress.consumed` windows are delivered and `state` is the carry-over behind them; both
    /// come from a cursor, or are the default.
    pub fn resume(&self, progress: Progress, state: PackerState) -> Packing {
        let order = self.order.epoch(progress.epoch);
        Packing {
            order,
            documents: self.order.len(),
            window_tokens: self.window_tokens,
            next: progress.consumed,
            state,
        }
    }
}

/// The windows of one epoch, cheapest in ascending order.
#[derive(Debug, Clone)]
pub struct Packing {
    order: Epoch,
    documents: u64,
    window_tokens: u64,
    /// The window that starts at `state`.
    next: u64,
    state: PackerState,
}

impl Packing {
    /// Replaces `pieces` by the pieces of a window, and `cu_seqlens` by their boundaries: 0, the end of each piece.
    /// `tokens_of` gives each document's length. A window before the last one asked for is found from the epoch's start.
    ///
    /// # Errors
    /// [`Error::Config`] if the documents end before the window does.
    pub fn window(
        &mut self,
        window: u64,
        tokens_of: impl Fn(u64) -> u64,
        pieces: &mut Vec<Piece>,
        cu_seqlens: &mut Vec<u32>,
    ) -> Result<()> {
        self.state_at(window, &tokens_of)?;
        pieces.clear();
        cu_seqlens.clear();
        cu_seqlens.push(0);
        let mut end = 0;
        self.walk(self.window_tokens, &tokens_of, |piece| {
            end += piece.tokens;
            pieces.push(piece);
            cu_seqlens.push(end as u32);
        })?;
        self.next += 1;
        Ok(())
    }

    /// The carry-over in front of a window: what the cursor holds when `window` windows of the epoch are delivered.
    ///
    /// # Errors
    /// [`Error::Config`] if the documents end before the window starts.
    pub fn state_at(&mut self, window: u64, tokens_of: impl Fn(u64) -> u64) -> Result<PackerState> {
        if window < self.next {
            (self.next, self.state) = (0, PackerState::default());
        }
        let tokens = (window - self.next).saturating_mul(self.window_tokens);
        self.walk(tokens, &tokens_of, |_| ())?;
        self.next = window;
        Ok(self.state)
    }

    /// Moves on by a number of tokens.
    fn walk(&mut self, tokens: u64, tokens_of: &impl Fn(u64) -> u64, mut visit: impl FnMut(Piece)) -> Result<()> {
        let mut left = tokens;
        while left > 0 {
            if self.state.document >= self.documents {
                let problem = format!("the documents end {left} tokens early: were their lengths added up wrongly?");
                return Err(Error::config("tokens", problem));
            }
            let document = self.order.sample_at(self.state.document);
            let start = self.state.token;
            let rest = tokens_of(document).saturating_sub(start);
            let tokens = rest.min(left);
            if tokens > 0 {
                visit(Piece { document, start, tokens });
            }
            left -= tokens;
            self.state = match tokens < rest {
                true => PackerState { token: start + tokens, ..self.state },
                false => PackerState { document: self.state.document + 1, token: 0 },
            };
        }
        Ok(())
    }
}
