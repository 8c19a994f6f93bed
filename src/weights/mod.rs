//! Model weights: what a checkpoint's bytes must be, and how one is written.

mod digest;
mod manifest;

pub use digest::{Algorithm, Digest, Hasher};
pub use manifest::{FileDigests, Manifest, TensorDigest};
