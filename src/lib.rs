#![doc = include_str!("../README.md")]
#![warn(missing_docs)]

#[cfg(test)]
extern crate self as strait; // for what the tests of both sides share

mod assembly;
mod batch;
mod builder;
mod config;
pub mod dataset;
pub mod device;
mod documents;
mod dtype;
mod engine;
pub mod error;
mod length;
mod loader;
pub mod memory;
pub mod order;
#[cfg(test)]
mod pipeline_sim;
pub mod plan;
mod region;
#[cfg(test)]
mod resume_sim;
pub mod safetensors;
mod selection;
pub mod sim;
mod sizes;
mod source;
pub mod stats;
pub mod storage;
pub mod weights;
#[cfg(test)]
mod windows_sim;
mod workers;

pub use batch::{Batch, FieldView, Tensor, WindowView};
pub use builder::Builder;
pub use config::{PathChoice, RingChoice, Verify};
pub use dataset::Dataset;
pub use device::Device;
pub use dtype::DType;
pub use error::{Error, Result};
pub use loader::{Epoch, Loader, Next};
pub use stats::{Fallback, Stats, StatsReader};
