//! Which sample stands at which position: pure functions of (seed, epoch, position), without I/O, clock or threads.
//!
//! ```text
//!   Order      (seed, epoch, position) -> sample id              Sequential | Full | Block | mixture by weight
//!   Schedule   (epoch, step, rank)     -> sample ids of a batch  equal steps on every rank: drop | pad | wrap
//!   Cursor     samples consumed by all ranks, and what they were consumed from
//!   audit      runs the three above and counts what was seen once, twice, never
//!
//!   BudgetSchedule    in place of Schedule, where samples differ in length: as many as a budget holds, bucketed
//!   TokenWindows      samples that are windows of tokens, as documents are stored
//!   Packer            windows of tokens over shuffled documents; its carry-over is in the cursor
//!   BadSamples        what becomes of samples that cannot be read; remembered in the cursor
//! ```
//!
//! World size and batch size are in the schedule and never in the order or the cursor. So a run may stop after any
//! global batch and go on with another world, and still see every sample of the epoch as the policy promises.

mod audit;
mod bad_samples;
mod block;
mod bucket;
mod budget;
mod cursor;
mod cursor_text;
mod epoch;
mod fingerprint;
mod key;
mod mixture;
mod packer;
mod pattern;
mod permutation;
mod rank;
mod schedule;
mod shuffle;
mod windows;

pub use audit::{AUDIT_SAMPLES_MAX, Audit, Stretch, audit, audit_while};
pub use bad_samples::{BadSamplePolicy, BadSamples, SKIPPED_MAX, Verdict};
pub use bucket::Bucketing;
pub use budget::{Budget, BudgetSchedule, BudgetSteps, Cost};
pub(crate) use cursor::Standing;
pub use cursor::{CURSOR_VERSION, Cursor, IfChanged, PackerState};
pub use epoch::{Epoch, Order};
pub use fingerprint::Fingerprint;
pub use key::ORDER_VERSION;
pub use mixture::{AtEnd, Mixture, Part};
pub use packer::{Packer, Packing, Piece};
pub use permutation::Permutation;
pub use rank::Rank;
pub use schedule::{BATCH_SIZE_MAX, Counts, Policy, Progress, Schedule, Steps};
pub use shuffle::{SAMPLES_MAX, Shuffle};
pub use windows::TokenWindows;
