//! A stand-in for NVIDIA's cuFile, for strait's own tests.
//!
//! It reads files into host memory, or into the memory of the stand-in CUDA driver if that is loaded. Entries of a batch end
//! late, in any order, each on a thread of its own, and write in pieces. What the real library would leave undefined is
//! refused and noted as misuse: a handle or registration taken back while a read uses it, a batch used again too early, more
//! than 16 MiB at once, addresses off 4 KiB.
//!
//! ```text
//!  calls.rs, batches.rs   the functions of cufile.h       control.rs   what tests see and set (fakecufile_*)
//!             +-------------------- state.rs: everything there is --------+
//! ```

mod batches;
mod calls;
mod control;
mod state;
