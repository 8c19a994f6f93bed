//! Model weights: what a checkpoint's bytes must be, and how one is written.

mod digest;
mod manifest;
mod save;

pub use digest::{Algorithm, Digest, Hasher};
pub use manifest::{FileDigests, Manifest, TensorDigest};
pub use save::{Per, Save, SaveTensor, Saved, save};
