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
#![allow(clippy::missing_safety_doc, reason = "the header's conventions are the contract, the same for all")]

// The sections of the header, in its order. Calls:
mod error;
mod log;
mod status;
mod version;
// devices,
mod device;
mod pinned;
mod plugin;
// what is read,
mod dataset;
// how, and by whom,
mod builder;
mod loader;
// what comes of it,
mod batch;
mod tensor;
// and how far it is.
mod cursor;
mod stats;
// The same for checkpoints.
mod checkpoint;
mod load;
mod loaded;
mod save;
mod saved;

// What they rest on.
mod call;
mod dlpack;
mod handle;
mod held;

pub use batch::*;
pub use builder::*;
pub use checkpoint::*;
pub use cursor::*;
pub use dataset::*;
pub use device::*;
pub use dlpack::*;
pub use error::*;
pub use load::*;
pub use loaded::*;
pub use loader::*;
pub use log::*;
pub use pinned::*;
pub use plugin::*;
pub use save::*;
pub use saved::*;
pub use stats::*;
pub use status::*;
pub use tensor::*;
pub use version::*;
