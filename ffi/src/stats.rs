//! Stats
//!
//! A snapshot of what a loader did and which way its bytes took. Numbers and texts go by name, so that a new one needs no
//! new function. Texts live as long as the stats' handle.

use std::ffi::{CString, c_char};

use strait::Stats;

use crate::call::{call, free, nth, out, text};
use crate::dataset::STRAIT_UNKNOWN;
use crate::error::{Failure, c_string, strait_error};
use crate::handle::{Kind, live};
use crate::status::strait_status;

/// A snapshot of a loader's numbers. Threads: any, at once.
pub struct strait_stats(());

pub(crate) struct Snapshot {
    numbers: Vec<(&'static str, u64)>,
    texts: [(&'static str, CString); 5],
    fallbacks: Vec<CString>,
    bad_samples: Vec<u64>,
}

impl Kind for Snapshot {
    type Handle = strait_stats;
    const NAME: &'static str = "stats";
    const NUMBER: u8 = 6;
}

/// What is a number for C.
trait Number {
    fn number(self) -> u64;
}

impl Number for u64 {
    fn number(self) -> u64 {
        self
    }
}

impl Number for Option<u32> {
    fn number(self) -> u64 {
        self.map_or(STRAIT_UNKNOWN, u64::from)
    }
}

macro_rules! numbers {
    ($($name:ident)*) => {
        /// The names end with a NUL: C reads them too.
        const NAMES: &[&str] = &[$(concat!(stringify!($name), "\0")),*];

        fn numbers(stats: &Stats) -> Vec<(&'static str, u64)> {
            vec![$((stringify!($name), stats.$name.number())),*]
        }
    };
}

numbers! {
    batches samples tensors bytes_wanted bytes_read reads reads_by_threads reads_continued reads_retried reads_in_flight_max
    pinned_bytes_max region_bytes open_files_max bytes_copied bytes_gathered bytes_cast bytes_kept samples_skipped samples_replaced samples_dropped
    bytes_verified mismatches samples_padded samples_wrapped batches_read_again waits_for_region waits_for_slab numa_node
}

impl From<Stats> for Snapshot {
    fn from(stats: Stats) -> Snapshot {
        Snapshot {
            numbers: numbers(&stats),
            texts: [
                ("path", c_string(stats.path)),
                ("path_reason", c_string(stats.path_reason)),
                ("ring", c_string(stats.ring)),
                ("device", c_string(stats.device)),
                ("pages", c_string(stats.pages)),
            ],
            fallbacks: stats.fallbacks.iter().map(|fallback| c_string(fallback.to_string())).collect(),
            bad_samples: stats.bad_samples,
        }
    }
}

/// Gives stats back. NULL is fine; those that are not live are `STRAIT_STATUS_BAD_HANDLE`.
#[unsafe(no_mangle)]
pub extern "C" fn strait_stats_free(stats: *mut strait_stats) -> strait_status {
    free::<Snapshot>(stats)
}

/// The name of number `index`, from 0, or NULL behind the last. Names live for ever.
#[unsafe(no_mangle)]
pub extern "C" fn strait_stats_name(index: usize) -> *const c_char {
    NAMES.get(index).map_or(std::ptr::null(), |name| name.as_ptr().cast())
}

/// A number, counted since the loader was built: `"batches"`, `"samples"`, `"bytes_wanted"` (payload bytes delivered),
/// `"bytes_read"` (asked of the storage), `"reads"`, `"bytes_copied"`, `"pinned_bytes_max"` and others; `"numa_node"` that the
/// engine keeps to, or `STRAIT_UNKNOWN`. `strait_stats_name` lists all.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strait_stats_number(
    stats: *const strait_stats,
    name: *const c_char,
    number: Option<&mut u64>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let number = out(number, "number")?;
        let stats = live::<Snapshot>(stats, "stats")?;
        // SAFETY: a C string, as the header's conventions say.
        let name = unsafe { text(name, "name") }?;
        let found = stats.numbers.iter().find(|(own, _)| *own == name);
        *number = found.ok_or_else(|| unknown(name, stats.numbers.iter().map(|(own, _)| *own)))?.1;
        Ok(())
    })
}

/// A text: `"path"` (`"direct"` or `"staged"`), `"path_reason"`, `"ring"` (`"uring"`, `"pread"`, `"cufile"`), `"device"`, `"pages"`
/// (what the memory that the storage writes to is made of).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strait_stats_text(
    stats: *const strait_stats,
    name: *const c_char,
    value: Option<&mut *const c_char>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let value = out(value, "value")?;
        let stats = live::<Snapshot>(stats, "stats")?;
        // SAFETY: a C string, as the header's conventions say.
        let name = unsafe { text(name, "name") }?;
        let found = stats.texts.iter().find(|(own, _)| *own == name);
        *value = found.ok_or_else(|| unknown(name, stats.texts.iter().map(|(own, _)| *own)))?.1.as_ptr();
        Ok(())
    })
}

/// How many things were wanted and could not be had (io_uring, huge pages ..). Reads work without them, at a price.
#[unsafe(no_mangle)]
pub extern "C" fn strait_stats_fallbacks(
    stats: *const strait_stats,
    fallbacks: Option<&mut usize>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let fallbacks = out(fallbacks, "fallbacks")?;
        *fallbacks = live::<Snapshot>(stats, "stats")?.fallbacks.len();
        Ok(())
    })
}

/// One of them: what is done instead, why, and what would change it.
#[unsafe(no_mangle)]
pub extern "C" fn strait_stats_fallback(
    stats: *const strait_stats,
    fallback: usize,
    value: Option<&mut *const c_char>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let value = out(value, "value")?;
        let stats = live::<Snapshot>(stats, "stats")?;
        *value = nth(&stats.fallbacks, fallback, "fallback")?.as_ptr();
        Ok(())
    })
}

/// The ids of the samples that cannot be read, ascending: `count` of them at `samples`.
#[unsafe(no_mangle)]
pub extern "C" fn strait_stats_bad_samples(
    stats: *const strait_stats,
    samples: Option<&mut *const u64>,
    count: Option<&mut usize>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let (samples, count) = (out(samples, "samples")?, out(count, "count")?);
        let stats = live::<Snapshot>(stats, "stats")?;
        (*samples, *count) = (stats.bad_samples.as_ptr(), stats.bad_samples.len());
        Ok(())
    })
}

pub(crate) fn unknown<'a>(name: &str, all: impl Iterator<Item = &'a str>) -> Failure {
    let all: Vec<&str> = all.collect();
    Failure::new(strait_status::NotFound, format!("name: {name:?} is none of {}", all.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mutant that this catches: a counter of strait's that C does not see.
    #[test]
    fn every_number_and_text_of_strait_is_there() {
        let snapshot = Snapshot::from(Stats::default());
        let debug = format!("{:?}", Stats::default());
        let body = debug.trim_start_matches("Stats { ").trim_end_matches(" }");
        for field in body.split(", ").filter_map(|pair| pair.split_once(": ")).map(|(name, _)| name) {
            let number = snapshot.numbers.iter().any(|(name, _)| *name == field);
            let text = snapshot.texts.iter().any(|(name, _)| *name == field);
            assert!(number || text || ["fallbacks", "bad_samples"].contains(&field), "{field}");
        }
        assert!(NAMES.iter().zip(&snapshot.numbers).all(|(name, (own, _))| name.trim_end_matches('\0') == *own));
    }
}
