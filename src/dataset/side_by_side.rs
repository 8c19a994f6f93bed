//! Going through many shards side by side.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::error::Result;

/// How many shards are looked at at a time: it waits for storage more than it computes, so this is not the number of
/// processors, and it bounds the open files.
const THREADS_MAX: usize = 16;

/// Does the same for each of `all`, side by side. The first that fails, in their order, is the error.
pub(super) fn side_by_side<S: Sync, T: Send>(all: &[S], each: impl Fn(&S) -> Result<T> + Sync) -> Result<Vec<T>> {
    side_by_side_with(0, all, each)
}

/// As [`side_by_side`], by at most so many threads; 0: as many as wait for storage well.
pub(super) fn side_by_side_with<S: Sync, T: Send>(
    threads: usize,
    all: &[S],
    each: impl Fn(&S) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let threads = if threads == 0 { THREADS_MAX } else { threads };
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    // They are begun in order and always finished, so nothing before the first failure is left undone.
    let work = || {
        let mut done = Vec::new();
        while !failed.load(Ordering::Relaxed) {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let Some(one) = all.get(i) else { break };
            let result = each(one);
            failed.fetch_or(result.is_err(), Ordering::Relaxed);
            done.push((i, result));
        }
        done
    };
    let mut results = std::thread::scope(|scope| {
        let spawn = |_| std::thread::Builder::new().name("strait-index".into()).spawn_scoped(scope, work);
        // This thread works too, so a machine that gives no more threads only takes longer.
        let others: Vec<_> = (1..all.len().min(threads)).map_while(|i| spawn(i).ok()).collect();
        let mut results = work();
        for other in others {
            results.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        results
    });
    results.sort_unstable_by_key(|&(i, _)| i);
    results.into_iter().map(|(_, result)| result).collect()
}
