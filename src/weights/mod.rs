//! Model weights: safetensors checkpoints into device memory at storage speed, and back.
//!
//! ```no_run
//! use strait::weights::{Checkpoint, Part};
//! use strait::Device;
//!
//! # fn main() -> strait::Result<()> {
//! let checkpoint = Checkpoint::open("llama-3-8b/")?; // headers only
//! for tensor in checkpoint.load().device(Device::cuda(0)?).start()? {
//!     let tensor = tensor?; // in the order in which they finish
//!     println!("{} {} {:?} at {:#x}", tensor.name(), tensor.dtype(), tensor.shape(), tensor.device_ptr());
//!     tensor.wait()?; // or tensor.wait_on(stream)
//! }
//!
//! // Rank 1 of 4, tensor parallel: reads what it needs.
//! let mine = checkpoint.load().matching("model.layers.*").part(|tensor, _| match &*tensor.name {
//!     name if name.ends_with("down_proj.weight") => Part::share(tensor, 1, 1, 4),
//!     name if name.ends_with("_proj.weight") => Part::share(tensor, 0, 1, 4),
//!     _ => Part::Whole,
//! });
//! let tensors = mine.device(Device::host()).load_all()?;
//! # drop(tensors);
//! # Ok(())
//! # }
//! ```

mod assembly;
mod builder;
mod check;
mod checkpoint;
#[cfg(test)]
#[path = "../../tests/checkpoints/mod.rs"]
mod checkpoints;
mod cursor;
mod digest;
mod engine;
mod extents;
mod hash;
mod load;
#[cfg(test)]
mod load_sim;
mod manifest;
mod memory;
mod pages;
mod plan;
mod rows;
mod save;
mod select;
mod tensor;
mod window;

pub use builder::{Builder, Place};
pub use checkpoint::{Checkpoint, CheckpointFile, TensorInfo};
pub use digest::{Algorithm, Digest, Hasher};
pub use hash::{Hash, HashProgress};
pub use load::{Load, Tensors};
pub use manifest::{FileDigests, Manifest, TensorDigest};
pub use save::{Per, Save, SaveTensor, Saved, save};
pub use select::Part;
use select::Selection;
pub use tensor::Tensor;
