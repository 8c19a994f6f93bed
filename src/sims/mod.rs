//! Whole runs from one seed each, on simulated storage and devices with real bytes; tests only.
//!
//! A failure prints its seed: `STRAIT_SIM_SEED=n` runs that seed alone, and `STRAIT_SIM_SEEDS=n` so many, from
//! `STRAIT_SIM_FIRST` on.

#[cfg(feature = "cuda")]
mod cuda;
mod damaged;
mod draw;
mod machine;
mod pipeline;
mod rank;
mod resume;
mod side;
mod windows;

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

#[cfg(feature = "cuda")]
pub(crate) use cuda::{over_cuda, over_cufile};
pub(crate) use draw::draw_faults;
pub(crate) use machine::{Drawn, Machine, Over};

use crate::sim::Rng;

/// Runs a check for every seed; the seed of the first that fails is printed.
pub(crate) fn for_seeds(count: u64, check: impl Fn(u64, &mut Rng)) {
    for seed in seeds(count, 1000) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| check(seed, &mut Rng::new(seed)))) {
            eprintln!("seed {seed} failed; run it alone with STRAIT_SIM_SEED={seed}");
            resume_unwind(panic);
        }
    }
}

/// So many, or what the environment says: of so many that it wants, these thousandths.
fn seeds(count: u64, thousandths: u64) -> Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|text: String| text.parse::<u64>().ok());
    let (first, wanted) = (number("STRAIT_SIM_FIRST").unwrap_or(0), number("STRAIT_SIM_SEEDS"));
    match number("STRAIT_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => first..first + wanted.map_or(count, |wanted| (wanted * thousandths).div_ceil(1000)),
    }
}
