//! A keyed permutation of `0..n` in constant memory.
//!
//! A Feistel network over a grid that is barely larger than `n`:
//!
//! ```text
//!   index = left * 2^k + right        right in 0..2^k,  left in 0..rows,  rows = ceil(n / 2^k),  k = bits(n) / 2
//!
//!   four times:   left  += F(right, key)   modulo rows
//!                 right ^= F(left, key)
//!
//!   again while the result is >= n    (cycle walking)
//! ```
//!
//! Each half-step can be undone, so the network is a bijection of the grid, and walking each cycle on to its next
//! member below `n` makes it one of `0..n`. With a power of two in one half only, the grid exceeds `n` by less than
//! one row: a second walk comes once in about `sqrt(n)` positions, where the usual square of powers of two takes up
//! to four per position.

use super::key::{GOLDEN, mix};

/// Half-steps of the network. Four are what Luby and Rackoff ask of an ideal `F`; this cheap `F` shows its rows at
/// lag `2^k` with four, pairs of positions at n = 64 with six (chi-square over 4 M keys, z = 9), and nothing with
/// eight.
const ROUNDS: usize = 8;

/// The smallest grid is 8 x 8: below that the network has too few distinct rounds to reach every permutation evenly.
const BITS_MIN: u32 = 6;

/// A bijection of `0..n`, chosen by a key; 88 bytes, no allocation, about 25 ns a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permutation {
    n: u64,
    /// Bits of the right half.
    right_bits: u32,
    /// Values of the left half.
    rows: u64,
    keys: [u64; ROUNDS],
}

impl Permutation {
    /// The permutation of `0..n` that `key` selects. Any `n` will do, 0 and `u64::MAX` included.
    pub fn new(n: u64, key: u64) -> Permutation {
        let last = n.saturating_sub(1);
        let bits = (u64::BITS - last.leading_zeros()).max(BITS_MIN);
        let right_bits = bits / 2;
        let rows = ((last >> right_bits) + 1).max(1 << (BITS_MIN - BITS_MIN / 2));
        let keys = std::array::from_fn(|round| mix(key.wrapping_add(GOLDEN.wrapping_mul(round as u64))));
        Permutation { n, right_bits, rows, keys }
    }

    /// The number of values.
    pub fn len(&self) -> u64 {
        self.n
    }

    /// Whether there are no values at all.
    pub fn is_empty(&self) -> bool {
        self.n == 0
    }

    /// The value at `index`.
    ///
    /// # Panics
    /// If `index` is not below [`len`](Self::len).
    #[inline]
    pub fn at(&self, index: u64) -> u64 {
        assert!(index < self.n, "index {index} of a permutation of {}", self.n);
        let mut value = self.forward(index);
        while value >= self.n {
            value = self.forward(value);
        }
        value
    }

    /// The index at which `value` stands: the inverse of [`at`](Self::at).
    ///
    /// # Panics
    /// If `value` is not below [`len`](Self::len).
    #[inline]
    pub fn index_of(&self, value: u64) -> u64 {
        assert!(value < self.n, "value {value} of a permutation of {}", self.n);
        let mut index = self.backward(value);
        while index >= self.n {
            index = self.backward(index);
        }
        index
    }

    #[inline]
    fn forward(&self, index: u64) -> u64 {
        let (mut left, mut right) = self.split(index);
        for pair in self.keys.chunks_exact(2) {
            left += self.row(right, pair[0]);
            left -= if left >= self.rows { self.rows } else { 0 };
            right ^= self.column(left, pair[1]);
        }
        left << self.right_bits | right
    }

    #[inline]
    fn backward(&self, value: u64) -> u64 {
        let (mut left, mut right) = self.split(value);
        for pair in self.keys.chunks_exact(2).rev() {
            right ^= self.column(left, pair[1]);
            let row = self.row(right, pair[0]);
            left += if left < row { self.rows } else { 0 };
            left -= row;
        }
        left << self.right_bits | right
    }

    #[inline]
    fn split(&self, index: u64) -> (u64, u64) {
        (index >> self.right_bits, index & ((1 << self.right_bits) - 1))
    }

    /// `F` scaled to `0..rows` by its high bits; at most `2^32` rows make the bias smaller than `2^-32`.
    #[inline]
    fn row(&self, right: u64, key: u64) -> u64 {
        ((u128::from(scramble(right, key)) * u128::from(self.rows)) >> 64) as u64
    }

    /// The high bits of `F`.
    #[inline]
    fn column(&self, left: u64, key: u64) -> u64 {
        scramble(left, key) >> (u64::BITS - self.right_bits)
    }
}

/// `F`: two multiplications with a fold between them, so that the high bits depend on every bit of the half and the key.
#[inline]
fn scramble(half: u64, key: u64) -> u64 {
    let product = (half ^ key).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    (product ^ (product >> 32)).wrapping_mul(0x94D0_49BB_1331_11EB)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_small_n_is_a_bijection() {
        for n in 0..=600 {
            let permutation = Permutation::new(n, n * 31 + 7);
            let mut seen = vec![false; n as usize];
            for index in 0..n {
                let value = permutation.at(index);
                assert!(!std::mem::replace(&mut seen[value as usize], true), "{value} twice in {n}");
                assert_eq!(permutation.index_of(value), index, "n {n}");
            }
        }
    }

    #[test]
    fn the_largest_n_inverts() {
        let permutation = Permutation::new(u64::MAX, 1);
        for index in [0, 1, 1 << 32, u64::MAX / 3, u64::MAX - 1] {
            assert_eq!(permutation.index_of(permutation.at(index)), index);
        }
    }

    #[test]
    #[should_panic(expected = "index 0 of a permutation of 0")]
    fn nothing_has_no_first() {
        Permutation::new(0, 0).at(0);
    }
}
