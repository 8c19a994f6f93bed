//! Host memory that hardware writes to: the arena it is cut from, and the slabs of the staged path.

mod arena;
mod slab;

pub use arena::{Arena, Pages};
pub use slab::{Slab, SlabPool};
