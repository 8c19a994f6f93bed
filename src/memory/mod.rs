//! Host memory.

mod arena;

pub use arena::Arena;
