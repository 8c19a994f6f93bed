//! Checks that every byte which a loader delivers on a CUDA device is the shard's, however a consumer reads it.
//!
//! ```text
//!  shards.rs   datasets whose every byte is known        cuda.rs    the consumer's side of the driver
//!      |                                                     |
//!      +--- exact.rs: many shapes, from one seed each        +--- reader.rs: batches on a consumer's own stream
//!      +--- race.rs: memory is used again behind slow streams +
//!      +--- gather.rs: arrays of rows at odd places
//!      +--- casts.rs: arrays of wider elements
//!      `--- weights.rs: tensors of a checkpoint
//! ```

pub(crate) mod casts;
pub(crate) mod cuda;
pub(crate) mod exact;
pub(crate) mod gather;
pub(crate) mod race;
pub(crate) mod reader;
pub(crate) mod shards;
pub(crate) mod weights;

/// The oracle of casts, which has the types from here.
#[path = "../../../tests/common/nearest.rs"]
pub(crate) mod nearest;

use strait::DType;

/// A check's answer: why it failed, for people.
pub(crate) type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;
