//! Which sample stands at which position: pure functions of (seed, epoch, position), without I/O or memory.

mod permutation;

pub use permutation::Permutation;
