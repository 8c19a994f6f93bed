//! The C ABI of strait: `libstrait.so`, `libstrait.a`, `strait.h`.
//!
//! The header is made of this crate: `cargo xtask header`. What is written here with three slashes is what its readers
//! see, and each file is a section of it, introduced by the file's own text.
//!
//! ```text
//!   C                      a handle: kind, fork, generation, index         never an address
//!    |  every function:    call()   panic -> status, failure -> strait_error
//!    v                     live()   handle -> Arc of the value, or an error: freed, wrong kind, poisoned, forked
//!   handle table   --->    Dataset, Builder, Mutex<Loader>, Held(Batch), Cursor, Stats, Device, Failure
//! ```
//!
//! Since a handle is looked up and not followed, no misuse of one reaches memory, and one that is freed while another
//! thread uses it ends when that thread is through.
#![allow(non_camel_case_types, reason = "the names that C sees")]

mod batch;
mod call;
mod cursor;
mod dataset;
mod device;
mod dlpack;
mod error;
mod handle;
mod held;
mod loader;
mod loader_builder;
mod plugin;
mod stats;
mod status;
mod tensor;
mod version;

pub use batch::*;
pub use cursor::*;
pub use dataset::*;
pub use device::*;
pub use dlpack::*;
pub use error::*;
pub use loader::*;
pub use loader_builder::*;
pub use plugin::*;
pub use stats::*;
pub use status::*;
pub use tensor::*;
pub use version::*;
