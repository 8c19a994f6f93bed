//! From tensors to writes: slabs are filled in file order, summed up, and written.
//!
//! ```text
//!  free slabs --fill: memcpy, copies out--> CopyQueue --seq--> ready, in file order --> WriteQueue --ended--> free slabs
//! ```

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::layout::Layout;
use super::sums::Sums;
use super::{MakeRing, Per, Save, Source};
use crate::config::RingChoice;
use crate::device::{CopyQueue, Device, Fence, RawCopyOut};
use crate::engine::Pinned;
use crate::error::{Error, Result};
use crate::memory::{Slab, SlabPool};
use crate::sim::Clock;
use crate::stall::Stall;
use crate::stats::Fallback;
use crate::storage::{DIRECT_ALIGN, Pread, Put, Registered, Ring, Uring, WriteFile, WriteQueue};
use crate::weights::Algorithm;

/// How long the pipeline sleeps at most without looking around.
const TURN_MAX: Duration = Duration::from_millis(20);
/// A copy of 4 MiB takes less; a write that ends meanwhile waits so long for being noticed.
const COPY_TURN_MAX: Duration = Duration::from_millis(1);

/// A window of the file, in a slab.
struct Filled {
    slab: Slab,
    window: u64,
}

/// The parts that all files of a save share. Fields drop in order: copies and writes drain before their slabs go.
pub(super) struct Pipeline {
    copies: CopyQueue<Filled>,
    writes: WriteQueue<Slab>,
    /// Windows that are filled and wait for their turn to be written.
    ready: VecDeque<Filled>,
    slabs: SlabPool,
    _pinned: Pinned,
    device: Device,
    /// Recorded on the stream that the tensors come from.
    fence: Option<Fence>,
    stall: Stall,
    block_bytes: usize,
    deadline: Duration,
    clock: Clock,
    ring_name: &'static str,
    fallbacks: Vec<Fallback>,
}

impl Pipeline {
    pub(super) fn new(save: &Save, direct: bool, make_ring: Option<MakeRing<'_>>) -> Result<Pipeline> {
        let depth = save.writes_in_flight;
        let fits = (save.pinned_bytes_max / save.block_bytes as u64) as usize;
        let slabs = (2 * depth).min(fits);
        if slabs == 0 {
            let problem = format!("{} holds no slab of {} bytes", save.pinned_bytes_max, save.block_bytes);
            return Err(Error::config("pinned_bytes_max", problem));
        }
        let mut fallbacks = Vec::new();
        let ring = match make_ring {
            Some(make) => make(depth)?,
            None => ring(save.ring, depth, direct, &mut fallbacks)?,
        };
        let stream = save.device.raw().stream()?;
        let pool = SlabPool::new(slabs, save.block_bytes)?;
        let pinned = Pinned::new(std::slice::from_ref(&save.device), pool.arena())?;
        // No share in the arena: whoever still has one when the pipeline goes keeps it from being unpinned.
        let (base, bytes) = (pool.arena().base(), pool.arena().bytes());
        let ring_name = ring.name();
        let mut writes = WriteQueue::new(ring, depth, save.deadline, save.clock.clone());
        // SAFETY: the arena is dropped after the queue (field order), or leaked with it.
        if let Registered::No(errno) = unsafe { writes.ring().register_memory(base, bytes) } {
            fallbacks.push(crate::assembly::not_registered(bytes, errno));
        }
        let mut pipeline = Pipeline {
            copies: CopyQueue::new(stream, slabs).drop_wait(save.deadline),
            writes,
            ready: VecDeque::with_capacity(slabs),
            slabs: pool,
            _pinned: pinned,
            device: save.device.clone(),
            fence: None,
            stall: Stall::default(),
            block_bytes: save.block_bytes,
            deadline: save.deadline,
            clock: save.clock.clone(),
            ring_name,
            fallbacks,
        };
        if let Some(stream) = save.after {
            let fence = save.device.raw().fence()?;
            pipeline.fence = Some(fence);
            // SAFETY: the stream lives until the save returns, which is the promise of `Save::after`.
            unsafe { save.device.raw().record(fence, stream) }?;
            pipeline.copies.wait_fence(fence)?;
        }
        Ok(pipeline)
    }

    pub(super) fn ring_name(&self) -> &'static str {
        self.ring_name
    }

    pub(super) fn pinned_bytes(&self) -> u64 {
        self.slabs.arena().bytes() as u64
    }

    /// What could not be had.
    pub(super) fn fallbacks(&self) -> Vec<Fallback> {
        let demoted = self.writes.demoted.as_ref().map(|(path, errno)| Fallback {
            instead: "buffered writes instead of direct writes".into(),
            reason: format!("{}: direct write", path.display()),
            errno: Some(*errno),
            remedy: "save to a file system with O_DIRECT (ext4, XFS) to keep the page cache out of it",
        });
        self.fallbacks.iter().cloned().chain(demoted).collect()
    }

    /// Writes one file; when it returns no copy and no write of it is in flight, unless that failed.
    pub(super) fn write(
        &mut self,
        file: &Arc<WriteFile>,
        layout: &Layout<'_, '_>,
        digests: Option<(Algorithm, Per)>,
    ) -> Result<Option<Sums>> {
        let mut sums = digests.map(|(algorithm, per)| Sums::new(algorithm, per, layout.tensors.len()));
        let windows = layout.total_bytes.div_ceil(self.block_bytes as u64);
        let (mut next, mut written) = (0, 0);
        while written < windows {
            self.reap_copies(file)?;
            self.start_writes(file, layout, &mut sums);
            written += self.reap_writes()?;
            if next < windows
                && let Some(slab) = self.slabs.lease()
            {
                self.fill(slab, next, layout)?;
                next += 1;
                // Starts what was filled before while this one is on its way.
                self.writes.wait(0, Duration::ZERO)?;
                continue;
            }
            self.wait()?;
        }
        Ok(sums)
    }

    /// Fills a slab with a window: at once what the host has, by copies what the device has.
    fn fill(&mut self, mut slab: Slab, window: u64, layout: &Layout<'_, '_>) -> Result<()> {
        let range = self.range(window);
        let mut copies = Vec::new();
        for piece in layout.pieces(range) {
            let inside = piece.at..piece.at + piece.bytes;
            match piece.from {
                Source::Header(part) => slab.contents_mut()[inside].copy_from_slice(&layout.header[part]),
                Source::Host(bytes) => slab.contents_mut()[inside].copy_from_slice(bytes),
                Source::Device(source, _) => {
                    copies.push(RawCopyOut { source, target: slab.at(piece.at), bytes: piece.bytes });
                }
            }
        }
        // SAFETY: the targets lie in the slab, which is pinned as long as it lives and moves into the queue. The sources
        // are valid and unchanged until the save returns, which is the promise of `SaveTensor::on_device`; before it
        // returns the queue is drained, or its error says that the device may still be reading.
        unsafe { self.copies.copy_out_all(Filled { slab, window }, copies) }.map(drop)
    }

    fn start_writes(&mut self, file: &Arc<WriteFile>, layout: &Layout<'_, '_>, sums: &mut Option<Sums>) {
        while self.writes.in_flight() < self.writes.depth()
            && let Some(filled) = self.ready.pop_front()
        {
            let range = self.range(filled.window);
            let bytes = layout.total_bytes.min(range.end) - range.start;
            if let Some(sums) = sums {
                sums.window(&filled.slab.contents()[..bytes as usize], layout.pieces(range.clone()));
            }
            let len = if file.is_direct() { bytes.next_multiple_of(DIRECT_ALIGN) } else { bytes };
            let put = Put { offset: range.start, len: len as u32, at: 0 };
            self.writes.write(filled.slab, file, put).map_err(drop).expect("there is room");
        }
    }

    /// Moves what the device has filled to what is ready; an error if it has not for too long.
    fn reap_copies(&mut self, file: &WriteFile) -> Result<()> {
        let ready = &mut self.ready;
        let ended = self.copies.reap(|filled| ready.push_back(filled))?;
        let (left, held_up) = (self.copies.in_flight(), self.copies.is_held_up());
        let host = || format!("the host, for {}, from {}", file.path.display(), self.device.name());
        let looked = self.stall.look_at_copies(ended, (left, held_up), self.clock.now(), self.deadline, host);
        looked.map_err(|error| match error {
            Error::Timeout { waited, .. } if held_up => {
                let why = "the stream that the save was to come behind has not come to its end";
                let what = format!("{left} copies for {}: {why}; it may wait for other ranks", file.path.display());
                Error::Timeout { what, waited }
            }
            error => error,
        })
    }

    /// How many windows have been written since the last time.
    fn reap_writes(&mut self) -> Result<u64> {
        let mut count = 0;
        while let Some(written) = self.writes.reap() {
            self.slabs.give_back(written.lease);
            written.result?;
            count += 1;
        }
        Ok(count)
    }

    fn wait(&mut self) -> Result<()> {
        if self.copies.in_flight() == 0 {
            return self.writes.wait(1, TURN_MAX);
        }
        self.copies.wait_oldest(COPY_TURN_MAX)?;
        self.writes.wait(0, Duration::ZERO)
    }

    fn range(&self, window: u64) -> std::ops::Range<u64> {
        let block = self.block_bytes as u64;
        window * block..(window + 1) * block
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        if let Some(fence) = self.fence.take() {
            self.device.raw().free_fence(fence); // waits for it that are under way still hold
        }
    }
}

fn ring(choice: RingChoice, depth: usize, direct: bool, fallbacks: &mut Vec<Fallback>) -> Result<Box<dyn Ring>> {
    let threads = |fallbacks: &mut Vec<Fallback>| -> Result<Box<dyn Ring>> {
        let (threads, fewer) = Pread::start(depth)?;
        fallbacks.extend(fewer);
        Ok(Box::new(threads))
    };
    match (choice, direct) {
        (RingChoice::Pread, _) | (RingChoice::Auto, false) => threads(fallbacks),
        (RingChoice::Cufile, _) => Err(Error::config("ring", "cuFile only reads; leave the ring to be chosen")),
        (RingChoice::Uring, _) => Ok(Box::new(Uring::new(depth, 1)?)),
        (RingChoice::Auto, true) => match Uring::new(depth, 1) {
            Ok(ring) => Ok(Box::new(ring)),
            Err(Error::Ring { errno, .. }) => {
                fallbacks.push(crate::assembly::no_uring(errno));
                threads(fallbacks)
            }
            Err(error) => Err(error),
        },
    }
}
