//! MosaicML's MDS.

pub(super) mod index;
pub(super) mod shard;
