//! strait streams training shards and model weights from NVMe straight into GPU memory.
#![warn(missing_docs)]

pub mod dataset;
pub mod device;
pub mod error;
pub mod memory;
pub mod order;
pub mod sim;
pub mod storage;

pub use dataset::Dataset;
pub use device::Device;
pub use error::{Error, Result};
