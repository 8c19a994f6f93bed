//! What a loader did, and which way its bytes took.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::error::errno_text;

/// Something that was wanted and could not be had. Reads work without it, at a price.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fallback {
    /// What is done instead of what: `"pread threads instead of io_uring"`.
    pub instead: String,
    /// Why.
    pub reason: String,
    /// The operating system's answer, if it was one.
    pub errno: Option<i32>,
    /// What would change it.
    pub remedy: &'static str,
}

impl fmt::Display for Fallback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.instead, self.reason)?;
        if let Some(errno) = self.errno {
            write!(f, ": {}", errno_text(errno))?;
        }
        write!(f, "; {}", self.remedy)
    }
}

/// A snapshot of a loader's numbers. All counts are since the loader was built.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Stats {
    /// `"direct"`: the ring writes into the batch's own memory; `"staged"`: through slabs and a copy stream.
    pub path: &'static str,
    /// Why that path.
    pub path_reason: String,
    /// The ring that the reads took: `"uring"`, `"pread"`, `"cufile"`, or several where reads differ: `"uring and pread"`,
    /// `"cufile and uring"`. Before the first read, the one that is asked first.
    pub ring: &'static str,
    /// The device that batches live on.
    pub device: String,
    /// The NUMA node that the engine's threads and slabs are kept to: the device's, where it and others are known; of
    /// several devices' the first one's.
    pub numa_node: Option<u32>,
    /// What the memory that the storage writes to is made of.
    pub pages: &'static str,
    /// What could not be had, each once.
    pub fallbacks: Vec<Fallback>,
    /// Batches handed to the consumer.
    pub batches: u64,
    /// Samples in them.
    pub samples: u64,
    /// Tensors handed to the consumer, each once for every device; 0 where batches are loaded.
    pub tensors: u64,
    /// Payload bytes in them.
    pub bytes_wanted: u64,
    /// Bytes asked of the storage, alignment and gaps included.
    pub bytes_read: u64,
    /// Reads started, retries and continuations not counted.
    pub reads: u64,
    /// Of those, the ones that threads were given.
    pub reads_by_threads: u64,
    /// Reads that ended before their last byte and were continued.
    pub reads_continued: u64,
    /// Reads that were started again after EAGAIN or EINTR.
    pub reads_retried: u64,
    /// Most reads in flight at once.
    pub reads_in_flight_max: u64,
    /// Host memory that is pinned or registered, most at once.
    pub pinned_bytes_max: u64,
    /// Device memory for regions.
    pub region_bytes: u64,
    /// Most files open at once.
    pub open_files_max: u64,
    /// Bytes copied from slabs to regions.
    pub bytes_copied: u64,
    /// Bytes moved within regions to make arrays of them: on the device, or on the host by a thread.
    pub bytes_gathered: u64,
    /// Bytes of arrays whose elements were changed on the way, as they come out: on the device, or on the host by a thread.
    pub bytes_cast: u64,
    /// Bytes of small fields put on the host too, out of slabs.
    pub bytes_kept: u64,
    /// Bytes compared with their checksums.
    pub bytes_verified: u64,
    /// Fields of samples that failed that, each time that they were read; those that were right when read again, too.
    pub mismatches: u64,
    /// Places of batches left empty because their samples cannot be read.
    pub samples_skipped: u64,
    /// Places of batches that hold another sample because their own cannot be read.
    pub samples_replaced: u64,
    /// The samples that cannot be read, ascending; at most [`SKIPPED_MAX`](crate::order::SKIPPED_MAX). Where samples are
    /// windows, a token of each block that cannot be read, counted through all documents as they are stored.
    pub bad_samples: Vec<u64>,
    /// Samples behind the last whole global batch of an epoch that were not delivered
    /// ([`Policy::Drop`](crate::order::Policy::Drop)). This and the next two are of all ranks together, the same on each,
    /// and counted with the last batch of an epoch.
    pub samples_dropped: u64,
    /// Places of an epoch's last batches that held padding ([`Policy::Pad`](crate::order::Policy::Pad)).
    pub samples_padded: u64,
    /// Places of an epoch's last batches that held samples from its start again
    /// ([`Policy::Wrap`](crate::order::Policy::Wrap)).
    pub samples_wrapped: u64,
    /// Times a batch was planned and read anew because of samples that cannot be read.
    pub batches_read_again: u64,
    /// Times the engine had to stop reading because every region was in use or waiting for the consumer.
    pub waits_for_region: u64,
    /// Times the engine had to stop reading because every slab was in use.
    pub waits_for_slab: u64,
}

/// Reads the [`Stats`] of a loader from any thread; see [`Loader::stats_reader`](crate::Loader::stats_reader).
#[derive(Debug, Clone)]
pub struct StatsReader(pub(crate) Arc<Counters>);

impl StatsReader {
    /// What the loader has done so far.
    pub fn stats(&self) -> Stats {
        self.0.snapshot()
    }
}

/// The engine's side of [`Stats`]: written by one thread, read by any.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) batches: Counter,
    pub(crate) samples: Counter,
    pub(crate) tensors: Counter,
    pub(crate) bytes_wanted: Counter,
    pub(crate) bytes_read: Counter,
    pub(crate) reads: Counter,
    pub(crate) reads_by_threads: Counter,
    /// Those that the storage wrote into a device's memory.
    pub(crate) reads_to_device: Counter,
    pub(crate) reads_ended: Counter,
    pub(crate) reads_continued: Counter,
    pub(crate) reads_retried: Counter,
    pub(crate) reads_in_flight_max: Counter,
    pub(crate) open_files_max: Counter,
    pub(crate) bytes_copied: Counter,
    pub(crate) bytes_gathered: Counter,
    pub(crate) bytes_cast: Counter,
    pub(crate) bytes_kept: Counter,
    pub(crate) bytes_verified: Counter,
    pub(crate) mismatches: Counter,
    pub(crate) samples_skipped: Counter,
    pub(crate) samples_replaced: Counter,
    pub(crate) samples_dropped: Counter,
    pub(crate) samples_padded: Counter,
    pub(crate) samples_wrapped: Counter,
    pub(crate) batches_read_again: Counter,
    pub(crate) waits_for_region: Counter,
    pub(crate) waits_for_slab: Counter,
    pub(crate) setup: Mutex<Setup>,
    fallbacks: Mutex<Vec<Fallback>>,
    bad_samples: Mutex<Arc<[u64]>>,
}

/// What is known once the engine is built.
#[derive(Debug, Default, Clone)]
pub(crate) struct Setup {
    pub(crate) path: &'static str,
    pub(crate) path_reason: String,
    pub(crate) ring: &'static str,
    pub(crate) device: String,
    pub(crate) numa_node: Option<u32>,
    pub(crate) pages: &'static str,
    pub(crate) pinned_bytes: u64,
    pub(crate) region_bytes: u64,
}

/// Fallbacks kept; more kinds than this do not exist, but shards can be many.
const FALLBACKS_MAX: usize = 16;

impl Counters {
    /// Notes a fallback and logs it, once for each reason.
    pub(crate) fn fall_back(&self, fallback: Fallback) {
        let mut known = self.fallbacks.lock().unwrap_or_else(|e| e.into_inner());
        let twin = |f: &Fallback| f.instead == fallback.instead && f.errno == fallback.errno;
        if known.len() < FALLBACKS_MAX && !known.iter().any(twin) {
            known.push(fallback.clone());
            drop(known); // whoever is told may ask for the stats
            tracing::warn!("{fallback}");
        }
    }

    /// Notes the samples that are known to be unreadable.
    pub(crate) fn bad_samples(&self, skipped: Arc<[u64]>) {
        *self.bad_samples.lock().unwrap_or_else(|e| e.into_inner()) = skipped;
    }

    /// The rings that reads took; `first` is the one asked first.
    fn ring(&self, first: &'static str) -> &'static str {
        let (threads, to_device, all) = (self.reads_by_threads.get(), self.reads_to_device.get(), self.reads.get());
        match (to_device > 0, threads > 0, threads + to_device < all) {
            (_, false, false) | (false, false, true) => first,
            (false, true, false) => "pread",
            (false, true, true) => "uring and pread",
            (true, false, true) => "cufile and uring",
            (true, true, false) => "cufile and pread",
            (true, true, true) => "cufile, uring and pread",
        }
    }

    pub(crate) fn snapshot(&self) -> Stats {
        let setup = self.setup.lock().unwrap_or_else(|e| e.into_inner()).clone();
        Stats {
            path: setup.path,
            path_reason: setup.path_reason,
            ring: self.ring(setup.ring),
            device: setup.device,
            numa_node: setup.numa_node,
            pages: setup.pages,
            pinned_bytes_max: setup.pinned_bytes,
            region_bytes: setup.region_bytes,
            fallbacks: self.fallbacks.lock().unwrap_or_else(|e| e.into_inner()).clone(),
            batches: self.batches.get(),
            samples: self.samples.get(),
            tensors: self.tensors.get(),
            bytes_wanted: self.bytes_wanted.get(),
            bytes_read: self.bytes_read.get(),
            reads: self.reads.get(),
            reads_by_threads: self.reads_by_threads.get(),
            reads_continued: self.reads_continued.get(),
            reads_retried: self.reads_retried.get(),
            reads_in_flight_max: self.reads_in_flight_max.get(),
            open_files_max: self.open_files_max.get(),
            bytes_copied: self.bytes_copied.get(),
            bytes_gathered: self.bytes_gathered.get(),
            bytes_cast: self.bytes_cast.get(),
            bytes_kept: self.bytes_kept.get(),
            bytes_verified: self.bytes_verified.get(),
            mismatches: self.mismatches.get(),
            samples_skipped: self.samples_skipped.get(),
            samples_replaced: self.samples_replaced.get(),
            bad_samples: self.bad_samples.lock().unwrap_or_else(|e| e.into_inner()).to_vec(),
            samples_dropped: self.samples_dropped.get(),
            samples_padded: self.samples_padded.get(),
            samples_wrapped: self.samples_wrapped.get(),
            batches_read_again: self.batches_read_again.get(),
            waits_for_region: self.waits_for_region.get(),
            waits_for_slab: self.waits_for_slab.get(),
        }
    }
}

/// A number with one writer: no locked instruction on the data path.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.store(self.get().wrapping_add(n), Ordering::Relaxed);
    }

    pub(crate) fn at_least(&self, n: u64) {
        if n > self.get() {
            self.0.store(n, Ordering::Relaxed);
        }
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
