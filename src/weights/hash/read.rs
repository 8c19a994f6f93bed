//! Reads a stretch in file order and sums it up, one block while others are on their way.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::stretch::{Stretch, Sum};
use super::{Hash, Shared};
use crate::assembly::{choose_ring, not_registered};
use crate::config::ReadOptions;
use crate::error::{Error, Result};
use crate::memory::{Slab, SlabPool};
use crate::sim::Clock;
use crate::stats::Counters;
use crate::storage::{Accepted, Options, ReadQueue, Registered, ShardFile, Want};
use crate::weights::{Digest, Hasher};

/// What direct reads are aligned to.
const ALIGN: u64 = 4096;
/// A thread reads so many blocks ahead at most.
const SLABS_MAX: u64 = 8;
const TURN_MAX: Duration = Duration::from_millis(20);

/// One thread's ring and slabs. Fields drop in order: reads end before their slabs go.
pub(super) struct Reader {
    queue: ReadQueue<Slab>,
    slabs: SlabPool,
    files: Arc<[ShardFile]>,
    block_bytes: u64,
}

impl Reader {
    pub(super) fn new(hash: &Hash, files: Arc<[ShardFile]>, threads: usize) -> Result<Reader> {
        let block_bytes = hash.block_bytes as u64;
        let share = hash.pinned_bytes_max / threads as u64 / block_bytes;
        let slabs = share.clamp(2, SLABS_MAX) as usize;
        let counters = Arc::new(Counters::default());
        let reads = ReadOptions {
            ring: hash.ring,
            reads_in_flight: slabs,
            open_files_max: 1,
            align_bytes: ALIGN,
            ..ReadOptions::with_gap(0)
        };
        let (ring, opening) = choose_ring(&reads, &counters)?;
        let options = Options {
            depth: slabs,
            bytes_in_flight_max: u64::MAX,
            landings: slabs,
            open_files_max: 1,
            deadline: hash.deadline,
            opening,
            clock: Clock::real(),
        };
        let mut queue = ReadQueue::new(ring, files.clone(), options, counters.clone());
        let slabs = SlabPool::new(slabs, hash.block_bytes)?;
        let (base, bytes) = (slabs.arena().base(), slabs.arena().bytes());
        // SAFETY: the arena is dropped after the queue (field order), or leaked with it.
        if let Registered::No(errno) = unsafe { queue.register_memory(base, bytes) } {
            counters.fall_back(not_registered(bytes, errno));
        }
        Ok(Reader { queue, slabs, files, block_bytes })
    }

    /// The sums of a stretch, by their number.
    pub(super) fn sum_up(&mut self, stretch: &Stretch, sums: &[Sum], shared: &Shared) -> Result<Vec<(usize, Digest)>> {
        let mut open = Open::new(stretch, sums);
        let begin = stretch.begin / self.block_bytes * self.block_bytes;
        let blocks = if stretch.begin == stretch.end { 0 } else { (stretch.end - begin).div_ceil(self.block_bytes) };
        // By number from `summed` on: a block that has landed before its turn waits for it here.
        let mut landed: VecDeque<Option<Slab>> = VecDeque::new();
        let (mut asked, mut summed) = (0, 0);
        while summed < blocks {
            if shared.stop.load(Ordering::Relaxed) {
                return Err(Error::Stopped { reason: "asked to".into() });
            }
            while asked < blocks && self.ask(stretch, begin, asked)? {
                landed.push_back(None);
                asked += 1;
            }
            self.queue.wait(1, TURN_MAX)?;
            while let Some(block) = self.queue.reap() {
                block.result?;
                landed[(block.tag - summed) as usize] = Some(block.lease);
            }
            while let Some(slab) = landed.front_mut().and_then(Option::take) {
                landed.pop_front();
                let range = self.range(stretch, begin, summed);
                open.add(&slab.contents()[..(range.end - range.start) as usize], range.clone());
                shared.bytes.fetch_add(range.end - range.start, Ordering::Relaxed);
                self.slabs.give_back(slab);
                summed += 1;
            }
        }
        Ok(open.finish())
    }

    /// Starts the read of a block; false if there is no room for it now.
    fn ask(&mut self, stretch: &Stretch, begin: u64, number: u64) -> Result<bool> {
        let Some(slab) = self.slabs.lease() else { return Ok(false) };
        let range = self.range(stretch, begin, number);
        let bytes = range.end - range.start;
        let landing = self.queue.open(slab, number).expect("as many landings as slabs");
        let (len, want) = (bytes.next_multiple_of(ALIGN) as u32, bytes as u32);
        let read = Want { shard: stretch.file as u32, offset: range.start, len, want, at: 0 };
        let accepted = self.queue.read(landing, read);
        self.queue.close(landing);
        match accepted? {
            Accepted::Yes => Ok(true),
            Accepted::Full => {
                Err(Error::Stopped { reason: format!("no read of {} can be started", self.path(stretch)) })
            }
        }
    }

    fn path(&self, stretch: &Stretch) -> std::path::Display<'_> {
        self.files[stretch.file].path.display()
    }

    /// The bytes of a block, as far as they are wanted behind its begin.
    fn range(&self, stretch: &Stretch, begin: u64, number: u64) -> Range<u64> {
        let from = begin + number * self.block_bytes;
        from..(from + self.block_bytes).min(stretch.end)
    }
}

/// The sums of a stretch that are not finished.
struct Open<'a> {
    sums: &'a [Sum],
    /// Those that have not begun, the next one last.
    waiting: Vec<usize>,
    running: Vec<(usize, Hasher)>,
    done: Vec<(usize, Digest)>,
}

impl<'a> Open<'a> {
    fn new(stretch: &Stretch, sums: &'a [Sum]) -> Open<'a> {
        Open { sums, waiting: stretch.sums.iter().rev().copied().collect(), running: Vec::new(), done: Vec::new() }
    }

    /// Adds the bytes `range` of the file to all sums that they are part of.
    fn add(&mut self, bytes: &[u8], range: Range<u64>) {
        while let Some(&next) = self.waiting.last()
            && self.sums[next].begin < range.end
        {
            self.waiting.pop();
            self.running.push((next, Hasher::new(self.sums[next].algorithm)));
        }
        let sums = self.sums;
        let done = &mut self.done;
        self.running.retain_mut(|(number, hasher)| {
            let Sum { begin, end, .. } = sums[*number];
            let part = begin.max(range.start)..end.min(range.end);
            if part.start < part.end {
                hasher.update(&bytes[(part.start - range.start) as usize..(part.end - range.start) as usize]);
            }
            let goes_on = end > range.end;
            if !goes_on {
                done.push((*number, hasher.clone().finish()));
            }
            goes_on
        });
    }

    /// What is left are sums of no bytes, at the end of the file.
    fn finish(mut self) -> Vec<(usize, Digest)> {
        let left = self.waiting.drain(..).chain(self.running.drain(..).map(|(number, _)| number));
        self.done.extend(left.map(|number| (number, Digest::of(self.sums[number].algorithm, &[]))));
        self.done
    }
}
