//! From (version, seed, epoch, purpose) to a key, by a hash that is written down and never changes.

/// The version of every order this module makes. A change that moves any sample to another position must raise it.
///
/// It is hashed into every key and written into every [`Cursor`](super::Cursor), so that an old cursor is refused
/// and never silently continued in another order.
pub const ORDER_VERSION: u32 = 1;

/// What a key is for; two purposes never share one, even at the same seed and epoch.
#[derive(Debug, Clone, Copy)]
pub(super) enum Purpose {
    /// The permutation of all samples.
    Full = 1,
    /// The permutation of blocks.
    Blocks = 2,
    /// The permutations inside windows of blocks; the window's number is folded in last.
    Window = 3,
    /// The seed of one dataset of a mixture; the dataset's number stands in the epoch's place.
    Dataset = 4,
    /// The stand-ins for bad samples; position and attempt are folded in last.
    Replacement = 5,
    /// The runs of a bucketing window; the window's number is folded in last.
    Bucket = 6,
}

/// `fold(fold(fold(mix(version), seed), epoch), purpose)`.
pub(super) fn key(seed: u64, epoch: u64, purpose: Purpose) -> u64 {
    fold(fold(fold(mix(u64::from(ORDER_VERSION)), seed), epoch), purpose as u64)
}

/// `mix(key ^ word)`: a bijection of `word`, so two epochs of one seed never share a key.
pub(super) fn fold(key: u64, word: u64) -> u64 {
    mix(key ^ word)
}

/// One step of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
pub(super) const fn mix(word: u64) -> u64 {
    let mut z = word.wrapping_add(GOLDEN);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// `word` scaled to `0..n`.
pub(super) fn below(word: u64, n: u64) -> u64 {
    ((u128::from(word) * u128::from(n)) >> 64) as u64
}

/// 2^64 divided by the golden ratio: SplitMix64's increment.
pub(super) const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mix_is_splitmix64() {
        // The first outputs of SplitMix64 seeded with 0, as published with xoshiro.
        assert_eq!(mix(0), 0xE220_A839_7B1D_CDAF);
        assert_eq!(mix(GOLDEN), 0x6E78_9E6A_A1B9_65F4);
    }

    #[test]
    fn each_word_changes_the_key() {
        let base = key(1, 2, Purpose::Full);
        assert_ne!(base, key(2, 1, Purpose::Full));
        assert_ne!(base, key(1, 3, Purpose::Full));
        assert_ne!(base, key(1, 2, Purpose::Blocks));
    }
}
