//! Host memory that hardware writes to: the arena it is cut from, and the slabs of the staged path. And the mapping
//! through which indexes are read.

mod arena;
mod hugetlb;
mod map;
mod near;
mod slab;

pub use arena::{Arena, Pages};
pub use map::Mapping;
#[cfg(feature = "cuda")]
pub(crate) use near::node_of;
pub(crate) use near::stay_near;
pub use slab::{Slab, SlabPool};
