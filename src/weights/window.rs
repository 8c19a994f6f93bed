//! What lands in one piece of memory.

use super::cursor::Read;

/// Reads of one shard that land in one slab, or the one read that lands in a stretch of the tensors' own memory.
pub(super) struct Window {
    pub(super) shard: usize,
    /// Counted from 0 in each shard, in the order of the file.
    pub(super) number: u64,
    pub(super) reads: Vec<Landing>,
}

/// A read, and where in the memory its first byte goes.
pub(super) struct Landing {
    pub(super) read: Read,
    pub(super) at: usize,
}
