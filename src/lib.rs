#![doc = include_str!("../README.md")]
//!
//! # In this crate
//!
//! [`Dataset`] says what lies where, and [`dataset::Options`] opens what files do not tell. [`Builder`] has all options of a
//! [`Loader`], whose [`Batch`]es have [`FieldView`]s, [`Tensor`]s and [`WindowView`]s. [`order`] is which sample comes when, and the
//! cursor to go on from. [`weights`] loads, saves and checks checkpoints. [`Device`] chooses where bytes go, [`Stats`] and
//! [`Fallback`] say which way they took, and [`Error`] what went wrong.
//!
//! Below these are the seams, for those who add a ring ([`storage::Ring`]) or a device ([`device::RawDevice`]).
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
mod file;
mod launch;
mod length;
mod loader;
#[doc(hidden)]
pub mod machine;
pub mod memory;
pub mod order;
mod outlet;
pub mod plan;
mod region;
pub mod safetensors;
mod selection;
pub mod sim;
#[cfg(test)]
mod sims;
mod sizes;
mod source;
mod stall;
pub mod stats;
pub mod storage;
pub mod weights;
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
