//! Checksums of files and tensors.

use std::fmt;

use sha2::Digest as _;

/// How bytes are summed up. All three use the processor's own instructions where it has some.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Algorithm {
    /// CRC-32C (Castagnoli), 4 bytes: finds damage, not intent.
    Crc32c,
    /// XXH3 of 64 bits, without a seed: finds damage, at memory speed.
    Xxh3_64,
    /// SHA-256 (FIPS 180-4): what `sha256sum` and git-lfs use. The slowest; one core may not keep up with a disk.
    Sha256,
}

/// Each with its name and the bytes of its digests.
const ALL: [(Algorithm, &str, usize); 3] =
    [(Algorithm::Crc32c, "crc32c", 4), (Algorithm::Xxh3_64, "xxh3-64", 8), (Algorithm::Sha256, "sha256", 32)];

impl Algorithm {
    /// Every algorithm there is.
    pub fn all() -> impl Iterator<Item = Algorithm> {
        ALL.into_iter().map(|(algorithm, ..)| algorithm)
    }

    /// `"crc32c"`, `"xxh3-64"`, `"sha256"`.
    pub fn name(self) -> &'static str {
        ALL[self as usize].1
    }

    /// The algorithm of that [name](Self::name).
    pub fn from_name(name: &str) -> Option<Algorithm> {
        ALL.into_iter().find(|(_, own, _)| *own == name).map(|(algorithm, ..)| algorithm)
    }

    /// Bytes of a digest.
    pub fn bytes(self) -> usize {
        ALL[self as usize].2
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The sum of some bytes. Two are equal if the algorithm is the same and every byte of the sum is.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest {
    algorithm: Algorithm,
    /// The first `algorithm.bytes()` of them; the others are 0.
    bytes: [u8; 32],
}

impl Digest {
    /// A sum that was made elsewhere, big-endian as it is written; `None` if its length is not the algorithm's.
    pub fn new(algorithm: Algorithm, sum: &[u8]) -> Option<Digest> {
        let mut bytes = [0; 32];
        (sum.len() == algorithm.bytes()).then(|| bytes[..sum.len()].copy_from_slice(sum))?;
        Some(Digest { algorithm, bytes })
    }

    /// The sum of `bytes`.
    pub fn of(algorithm: Algorithm, bytes: &[u8]) -> Digest {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(bytes);
        hasher.finish()
    }

    /// Reads hexadecimal digits of either case; `None` if they are not as many as the algorithm's sum has.
    pub fn from_hex(algorithm: Algorithm, text: &str) -> Option<Digest> {
        let digits = text.as_bytes();
        if digits.len() != 2 * algorithm.bytes() {
            return None;
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let [high, low] = [pair[0], pair[1]].map(|digit| char::from(digit).to_digit(16));
            *byte = (high? << 4 | low?) as u8;
        }
        Some(Digest { algorithm, bytes })
    }

    /// Which algorithm's.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The sum, big-endian.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.algorithm.bytes()]
    }

    /// Lower-case hexadecimal digits, as `sha256sum`, `xxhsum` and manifests write them.
    pub fn hex(&self) -> String {
        self.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.algorithm, self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

/// Sums up bytes piece by piece.
#[derive(Clone)]
pub struct Hasher(State);

#[derive(Clone)]
enum State {
    Crc32c(u32),
    Xxh3(Box<xxhash_rust::xxh3::Xxh3>),
    Sha256(sha2::Sha256),
}

impl Hasher {
    /// Of no bytes yet.
    pub fn new(algorithm: Algorithm) -> Hasher {
        Hasher(match algorithm {
            Algorithm::Crc32c => State::Crc32c(0),
            Algorithm::Xxh3_64 => State::Xxh3(Box::default()),
            Algorithm::Sha256 => State::Sha256(sha2::Sha256::new()),
        })
    }

    /// Adds the bytes that follow.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Crc32c(sum) => *sum = crc32c::crc32c_append(*sum, bytes),
            State::Xxh3(state) => state.update(bytes),
            State::Sha256(state) => state.update(bytes),
        }
    }

    /// The sum of all of them.
    pub fn finish(self) -> Digest {
        let (algorithm, mut bytes) = (self.algorithm(), [0; 32]);
        match self.0 {
            State::Crc32c(sum) => bytes[..4].copy_from_slice(&sum.to_be_bytes()),
            State::Xxh3(state) => bytes[..8].copy_from_slice(&state.digest().to_be_bytes()),
            State::Sha256(state) => bytes.copy_from_slice(&state.finalize()),
        }
        Digest { algorithm, bytes }
    }

    fn algorithm(&self) -> Algorithm {
        match self.0 {
            State::Crc32c(_) => Algorithm::Crc32c,
            State::Xxh3(_) => Algorithm::Xxh3_64,
            State::Sha256(_) => Algorithm::Sha256,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Check values that the algorithms' own publications give.
    #[test]
    fn sums_are_those_that_others_print() {
        for (algorithm, bytes, hex) in [
            (Algorithm::Crc32c, &b"123456789"[..], "e3069283"),
            (Algorithm::Crc32c, b"", "00000000"),
            (Algorithm::Xxh3_64, b"", "2d06800538d394c2"),
            (Algorithm::Sha256, b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        ] {
            assert_eq!(Digest::of(algorithm, bytes).hex(), hex, "{algorithm}");
            assert_eq!(Digest::from_hex(algorithm, &hex.to_uppercase()), Some(Digest::of(algorithm, bytes)));
        }
    }

    #[test]
    fn pieces_sum_up_to_the_whole() {
        let bytes: Vec<u8> = (0..100_000u32).map(|i| (i.wrapping_mul(i) >> 5) as u8).collect();
        for (row, algorithm) in Algorithm::all().enumerate() {
            assert_eq!((algorithm as usize, Algorithm::from_name(algorithm.name())), (row, Some(algorithm)));
            let mut hasher = Hasher::new(algorithm);
            bytes.chunks(777).for_each(|piece| hasher.update(piece));
            assert_eq!(hasher.finish(), Digest::of(algorithm, &bytes));
            assert_ne!(Digest::of(algorithm, &bytes[1..]), Digest::of(algorithm, &bytes));
        }
    }

    #[test]
    fn no_other_text_is_a_digest() {
        for text in ["", "0", "e306928", "e30692833", "e306928g", "+3069283", "e3 69283", "é306928"] {
            assert_eq!(Digest::from_hex(Algorithm::Crc32c, text), None, "{text}");
        }
    }
}
