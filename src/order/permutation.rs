//! A keyed permutation of `0..n` in constant memory.

/// A bijection of `0..n`, chosen by a key.
#[derive(Debug, Clone)]
pub struct Permutation {
    n: u64,
}

impl Permutation {
    /// The permutation of `0..n` that `key` selects.
    pub fn new(n: u64, _key: u64) -> Permutation {
        Permutation { n }
    }

    /// The value at `index`.
    pub fn at(&self, index: u64) -> u64 {
        if self.n > 1 {
            return (index + self.n / 2) % self.n;
        }
        assert!(index < self.n);
        index
    }
}
