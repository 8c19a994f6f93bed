//! Sums up bytes while others are read, in the order of the file.
//!
//! A window moves to a worker with its bytes and comes back when they have been added to their sums. One worker has all
//! windows of a shard, so they are added in order; several shards are summed up side by side.

use std::collections::HashMap;
use std::sync::Arc;

use super::memory::Hold;
use super::window::Window;
use super::{Digest, Hasher};
use crate::engine::ranges::range;
use crate::workers;

/// A window that has landed, and what in it is to be summed up.
pub(super) struct Job {
    pub(super) window: Window,
    pub(super) hold: Hold,
    pub(super) pieces: Vec<Piece>,
    /// The checks that ended in this window, and what their bytes sum up to.
    pub(super) ended: Vec<(usize, Digest)>,
}

/// Bytes that belong to a check.
pub(super) struct Piece {
    pub(super) check: usize,
    /// Where they are in the hold.
    pub(super) at: usize,
    pub(super) bytes: usize,
    /// No more bytes of this check follow.
    pub(super) last: bool,
}

/// The sums of some shards.
pub(super) struct Sums {
    expected: Arc<[Digest]>,
    open: HashMap<usize, Hasher>,
}

impl Sums {
    pub(super) fn new(expected: &Arc<[Digest]>) -> Sums {
        Sums { expected: expected.clone(), open: HashMap::new() }
    }
}

impl workers::Job for Job {
    type Kept = Sums;

    fn work(&mut self, sums: &mut Sums) {
        let _range = range(c"strait: digests");
        for piece in &self.pieces {
            #[cfg(test)]
            assert_ne!(sums.expected[piece.check], tests::panics(), "a test asked for this");
            let algorithm = sums.expected[piece.check].algorithm();
            let hasher = sums.open.entry(piece.check).or_insert_with(|| Hasher::new(algorithm));
            // SAFETY: the window's reads have all ended, and the hold is ours; the pieces lie in what was asked to arrive.
            hasher.update(unsafe { self.hold.landed(piece.at, piece.bytes) });
            if piece.last
                && let Some(hasher) = sums.open.remove(&piece.check)
            {
                self.ended.push((piece.check, hasher.finish()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::PathChoice;
    use crate::device::Device;
    use crate::sim::Rng;
    use crate::weights::checkpoints::{Made, write};
    use crate::weights::{Algorithm, Checkpoint, FileDigests, Manifest, TensorDigest};

    /// Who is to compare with this panics.
    pub(super) fn panics() -> Digest {
        Digest::new(Algorithm::Crc32c, b"boom").unwrap()
    }

    /// Mutant that this catches: a lost thread that nobody looks for; the load then waits for ever.
    #[test]
    fn a_lost_thread_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let made = [Made::new(&mut Rng::new(1), "w", crate::DType::U8, &[300_000])];
        let path = write(directory.path(), "m.safetensors", &made, 0);
        let checkpoint = Checkpoint::open(&path).unwrap();
        let info = &checkpoint.tensors()[0];
        let (name, offset, bytes) = (info.name.to_string(), info.offset, info.bytes);
        let tensor = TensorDigest { name, dtype: None, shape: None, offset, bytes, digest: panics() };
        let file = FileDigests { name: None, bytes: None, digest: None, tensors: vec![tensor] };
        let manifest = Manifest::new(vec![file]).unwrap();
        for way in [PathChoice::Auto, PathChoice::Staged] {
            let builder = checkpoint.load().device(Device::host()).path(way).block_bytes(16 << 10);
            let error = builder.verify(manifest.clone()).load_all().unwrap_err();
            assert!(error.to_string().contains("a thread that gathers and checks is gone"), "{error}");
        }
    }
}
