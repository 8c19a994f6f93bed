//! A stand-in for the CUDA driver library, for strait's own tests.
//!
//! It keeps the driver's promises and no more: calls return before their work is done, a stream's work is done in order
//! by a thread of its own, copies happen late and in pieces, and read pinned memory when they happen. Device addresses
//! fault when a host dereferences them. What a real driver would leave undefined is refused, and noted as misuse.
//!
//! ```text
//!  driver.rs copies.rs streams.rs capture.rs kernels.rs           control.rs   what tests see and set (fakecuda_*)
//!      |  the functions of cuda.h                                 |
//!      +----------------- machine.rs: everything there is --------+
//!                             |
//!                         worker.rs: one thread per stream     casts.rs: what kernels make of elements
//!                                                              visible.rs: which devices a process sees
//! ```

mod capture;
mod casts;
mod control;
mod copies;
mod driver;
mod kernels;
mod machine;
mod streams;
mod visible;
mod worker;
