//! Faults in the pages of a load's host memory, ahead of the reads into them.
//!
//! Memory comes zeroed, and somebody has to zero it: 0.1 CPU-seconds per GiB on huge pages, several times that in a virtual
//! machine whose host has to find the memory first. Done by the engine's thread, when the kernel pins the memory of a read,
//! it would hold up all other reads. So threads do it, in the order in which the engine reads:
//!
//! ```text
//!  block of memory   |  shard 0   |  shard 1   |     shard 2      |packed|
//!  order              0  3  6  8   1  4  7  9   2  5  10  11  12   13         stretches, shard by shard in turn
//! ```
//!
//! Stretches that reads have come to already are passed over.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use crate::device::DevicePtr;
use crate::region::DeviceMemory;

/// What one call faults in: small enough that reads seldom wait for it, and whole huge pages.
const STRETCH: u64 = 4 << 20;
/// Two threads zero faster than one of today's drives reads, four faster than four.
const THREADS_MAX: usize = 4;
const PAGE: u64 = 4096;

/// Threads that fault in pages, until all are there or this is dropped: then each ends its stretch first.
#[derive(Default)]
pub(super) struct Ahead {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    order: Mutex<Order>,
    /// How far the reads into each shard's blocks have come, as addresses.
    reached: Vec<AtomicU64>,
    over: AtomicBool,
}

impl Ahead {
    /// Of each memory the first bytes, so many: of the first one `spans`, one of each shard, `at_once` of them in turn, then all
    /// that is left. Where threads cannot be started, or the kernel is older than 5.14, the reads fault in what they need.
    pub(super) fn start(memories: Vec<(Arc<DeviceMemory>, u64)>, spans: &[Range<u64>], at_once: usize) -> Ahead {
        let ranges = memories.iter().filter_map(|(memory, bytes)| {
            let base = memory.host()?.as_ptr().expose_provenance() as u64;
            Some(base..base + bytes)
        });
        let ranges: Vec<_> = ranges.collect();
        let Some(&Range { start: base, .. }) = ranges.first() else { return Ahead::default() };
        let shared = Arc::new(Shared {
            reached: spans.iter().map(|span| AtomicU64::new(base + span.start)).collect(),
            order: Mutex::new(Order::new(&ranges, spans, at_once)),
            over: AtomicBool::new(false),
        });
        let memories: Arc<[_]> = memories.into();
        let count = thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
        let start = |_| {
            let (shared, memories) = (shared.clone(), memories.clone());
            let work = move || {
                fault_in(&shared);
                drop(memories);
            };
            thread::Builder::new().name("strait-pages".into()).spawn(work).ok()
        };
        Ahead { threads: (0..count).map_while(start).collect(), shared }
    }

    /// The reads of the shard have been given all of its memory in front of `at`.
    pub(super) fn come_to(&self, shard: usize, at: DevicePtr) {
        if let Some(reached) = self.shared.reached.get(shard) {
            reached.store(at, Ordering::Relaxed); // a hint: nothing hangs on it but work done twice
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

fn fault_in(shared: &Shared) {
    let next = || shared.order.lock().unwrap_or_else(PoisonError::into_inner).next();
    while let Some((shard, stretch)) = next() {
        if shared.over.load(Ordering::Relaxed) {
            return;
        }
        if shard.is_some_and(|shard| shared.reached[shard].load(Ordering::Relaxed) >= stretch.end) {
            continue;
        }
        let begin = stretch.start & !(PAGE - 1);
        let first = std::ptr::with_exposed_provenance_mut::<libc::c_void>(begin as usize);
        // SAFETY: inside memory that this thread's share keeps until it ends. Faulting pages in changes no byte that has been
        // written.
        if unsafe { libc::madvise(first, (stretch.end - begin) as usize, libc::MADV_POPULATE_WRITE) } != 0 {
            return;
        }
    }
}

/// Stretches of memory in the order in which they are needed, with their shard.
#[derive(Default)]
struct Order {
    active: VecDeque<(Option<usize>, Range<u64>)>,
    waiting: VecDeque<(Option<usize>, Range<u64>)>,
}

impl Order {
    fn new(memories: &[Range<u64>], spans: &[Range<u64>], at_once: usize) -> Order {
        let first = memories[0].clone();
        let own = |span: &Range<u64>| first.start + span.start..first.start + span.end;
        let behind = spans.last().map_or(first.start, |last| own(last).end)..first.end;
        let shards = spans.iter().enumerate().map(|(shard, span)| (Some(shard), own(span)));
        let others = [behind].into_iter().chain(memories[1..].iter().cloned()).map(|range| (None, range));
        let mut waiting: VecDeque<_> = shards.chain(others).filter(|(_, range)| !range.is_empty()).collect();
        let active = waiting.drain(..waiting.len().min(at_once)).collect();
        Order { active, waiting }
    }
}

impl Iterator for Order {
    type Item = (Option<usize>, Range<u64>);

    /// Cut where huge pages are, so that no two threads fault in the same one.
    fn next(&mut self) -> Option<Self::Item> {
        let (shard, Range { start, end }) = self.active.pop_front()?;
        let cut = (start + 1).next_multiple_of(STRETCH).min(end);
        match cut < end {
            true => self.active.push_back((shard, cut..end)),
            false => self.active.extend(self.waiting.pop_front()),
        }
        Some((shard, start..cut))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mutants that this catches: shards one after another, bytes left out behind the last, a stretch given twice, cuts that
    /// are not where the memory has its pages.
    #[test]
    fn every_byte_is_in_one_stretch_and_shards_take_turns() {
        let spans = [0..10 << 20, 10 << 20..10 << 20, 10 << 20..31 << 20, 31 << 20..32 << 20];
        let (base, bytes) = (2 << 20, (32 << 20) + 5);
        let second = 1 << 30..(1 << 30) + 7;
        let mut stretches: Vec<_> = Order::new(&[base..base + bytes, second.clone()], &spans, 2).collect();
        let others = stretches.extract_if(.., |stretch| stretch.1 == second).count();
        assert_eq!(others, 1);
        let shards: Vec<_> = stretches.iter().map(|(shard, _)| *shard).collect();
        let (a, c, d) = (Some(0), Some(2), Some(3));
        assert_eq!(shards, [a, c, a, c, a, c, d, c, None, c, c]);
        let mut sorted: Vec<_> = stretches.into_iter().map(|(_, stretch)| stretch).collect();
        sorted.sort_by_key(|stretch| stretch.start);
        let mut end = base;
        for stretch in sorted {
            assert_eq!(stretch.start, end);
            end = stretch.end;
            let last = spans.iter().any(|span| base + span.end == end) || end == base + bytes;
            assert!(last || end.is_multiple_of(STRETCH), "{stretch:?}");
        }
        assert_eq!(end, base + bytes);
    }
}
