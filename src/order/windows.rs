//! Token windows over documents in the order in which they are stored.

use std::ops::Range;

use crate::error::{Error, Result};

/// Windows of a fixed number of tokens over the documents of a dataset, one after another as they are stored.
///
/// A window is a sample: an [`Order`](super::Order) over [`len`](Self::len) windows shuffles them, and each is one
/// range of the token file, found in O(1). What is shuffled is windows and not documents: a document longer than a window
/// comes in pieces at unrelated positions, and short neighbours stay together. To shuffle documents, see
/// [`Packer`](super::Packer).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenWindows {
    tokens: u64,
    window_tokens: u64,
    stride_tokens: u64,
}

impl TokenWindows {
    /// Windows of `window_tokens` over `tokens` tokens, each starting `stride_tokens` after the one before. A stride of one
    /// token less than the window lets each window hold its last target.
    ///
    /// # Errors
    /// [`Error::Config`] if the stride is 0 or exceeds the window (tokens would never be seen), or the window exceeds
    /// `u32::MAX`, which boundaries are counted in.
    pub fn new(tokens: u64, window_tokens: u64, stride_tokens: u64) -> Result<TokenWindows> {
        if stride_tokens == 0 || stride_tokens > window_tokens || window_tokens > u32::MAX.into() {
            let problem = format!(
                "windows of {window_tokens} tokens every {stride_tokens}; give 1 <= stride <= window <= {}",
                u32::MAX
            );
            return Err(Error::config("window_tokens", problem));
        }
        Ok(TokenWindows { tokens, window_tokens, stride_tokens })
    }

    /// Tokens of a window.
    pub fn window_tokens(&self) -> u64 {
        self.window_tokens
    }

    /// Tokens from the start of one window to that of the next.
    pub fn stride_tokens(&self) -> u64 {
        self.stride_tokens
    }

    /// The number of whole windows.
    pub fn len(&self) -> u64 {
        self.tokens.checked_sub(self.window_tokens).map_or(0, |rest| rest / self.stride_tokens + 1)
    }

    /// Whether there is no whole window.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tokens at the end that fill no window and are in none.
    pub fn tail_tokens(&self) -> u64 {
        match self.len() {
            0 => self.tokens,
            len => self.tokens - self.window_tokens - (len - 1) * self.stride_tokens,
        }
    }

    /// The tokens of a window, counted through all documents.
    ///
    /// # Panics
    /// If `window` is not below [`len`](Self::len).
    pub fn range(&self, window: u64) -> Range<u64> {
        assert!(window < self.len(), "window {window} of {}", self.len());
        let start = window * self.stride_tokens;
        start..start + self.window_tokens
    }

    /// Replaces `cu_seqlens` by the document boundaries inside a window, as attention kernels take them: 0, every place
    /// in the window where a document starts, the window's length. Binary search, then one call per boundary.
    ///
    /// `first_token(d)` is where document `d` of `documents` starts, counted through all documents; it must not decrease.
    /// Empty documents leave no boundary.
    ///
    /// # Panics
    /// If `window` is not below [`len`](Self::len).
    pub fn boundaries(&self, window: u64, documents: u64, first_token: impl Fn(u64) -> u64, cu_seqlens: &mut Vec<u32>) {
        let Range { start, end } = self.range(window);
        cu_seqlens.clear();
        cu_seqlens.push(0);
        // The first document that starts behind the window's first token.
        let (mut low, mut high) = (0, documents);
        while low < high {
            let middle = low + (high - low) / 2;
            if first_token(middle) <= start { low = middle + 1 } else { high = middle }
        }
        for first in (low..documents).map(first_token).take_while(|&first| first < end) {
            let place = (first - start) as u32;
            if cu_seqlens.last() != Some(&place) {
                cu_seqlens.push(place);
            }
        }
        cu_seqlens.push(self.window_tokens as u32);
    }
}
