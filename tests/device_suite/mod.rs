//! One conformance suite for all devices. A test binary makes a [`Bed`] per device and calls [`run`].

mod casts;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
mod faults;
mod gather;
mod memory;
mod order;
mod out;

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use strait::device::{CopyQueue, DevicePtr, RawCopy, RawCopyOut, RawMemory, RawRows, RawStream, Seq};
use strait::{DType, Device};

#[path = "../common/nearest.rs"]
mod nearest;

/// Long enough for any copy here, on a busy machine.
pub(crate) const WAIT: Duration = Duration::from_secs(20);

/// A device, and what a test needs to know and do besides.
pub(crate) struct Bed {
    pub(crate) device: Device,
    /// A consumer with a stream of its own; the host has none.
    pub(crate) consumer: Option<Box<dyn Consumer>>,
    /// Whether memory that is reused too early is sure to show.
    pub(crate) late: bool,
    /// Whether pinning the same memory twice is refused.
    pub(crate) pins: bool,
    /// Makes the device misbehave from now on, where it can be made to.
    pub(crate) inject: Option<Box<dyn Fn(Fault)>>,
    /// The contracts that the device has seen broken since it was last asked, in words.
    pub(crate) objections: Box<dyn Fn() -> Vec<String>>,
    /// Whether a source that changes in flight is one of them.
    pub(crate) compares: bool,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    None,
    /// The next call that starts a copy to the device fails.
    CopyFails,
    /// The next call that gathers fails.
    GatherFails,
    /// The next call that starts a copy from the device fails.
    CopyOutFails,
    /// The next call that sets a mark fails.
    MarkFails,
    /// Nothing ends any more.
    Stalls,
    /// Every call fails.
    Lost,
}

/// The side that uses batches: a stream that runs slowly behind the host.
pub(crate) trait Consumer {
    fn stream(&self) -> RawStream;
    /// Puts `times` reads of the same device memory on the stream; the result waits for the last one and has its bytes.
    fn read(&self, source: DevicePtr, bytes: usize, times: usize) -> Box<dyn FnOnce() -> Vec<u8> + '_>;
}

type Test = (&'static str, fn(&Bed));

/// Runs every test that this bed allows.
pub(crate) fn run(make: &dyn Fn() -> Bed) {
    let tests: [Test; 26] = [
        ("memory: allocated, aligned, freed", memory::allocated_aligned_and_freed),
        ("memory: pinned once, and again after unpin", memory::pinned_once),
        ("memory: read back", memory::read_back),
        ("order: later copies win", order::later_copies_win),
        ("order: several copies under one lease", order::several_copies_under_one_lease),
        ("order: rows land one after another", order::rows_land_one_after_another),
        ("order: slabs are reused after their seq", order::slabs_are_reused_after_their_seq),
        ("order: a slab reused too early shows", order::a_slab_reused_too_early_shows),
        ("order: a fence holds the refill back", order::a_fence_holds_the_refill_back),
        ("order: a consumer's stream waits for a seq", order::a_consumer_waits_for_a_seq),
        ("order: another thread waits for a seq", order::another_thread_waits_for_a_seq),
        ("gather: between the copies before and behind it", gather::between_the_copies_before_and_behind_it),
        ("gather: a consumer's stream waits for its seq", gather::a_consumer_waits_for_its_seq),
        ("gather: one that fails gives its lease back", gather::one_that_fails_gives_its_lease_back),
        ("cast: every value of every kind", casts::every_value_of_every_kind),
        ("cast: between the copies before and behind it", casts::between_the_copies_before_and_behind_it),
        ("cast: a consumer's stream waits for its seq", casts::a_consumer_waits_for_its_seq),
        ("cast: one that fails gives its lease back", casts::one_that_fails_gives_its_lease_back),
        ("out: behind the copies in, at any offset", out::behind_the_copies_in),
        ("out: late, and the lease is inside until then", out::late_and_inside_until_then),
        ("out: a copy that fails gives its lease back", out::a_copy_that_fails),
        ("faults: a wait ends at its timeout", faults::a_wait_ends_at_its_timeout),
        ("faults: a copy that fails gives its lease back", faults::a_copy_that_fails),
        ("faults: a mark that fails gives its lease back", faults::a_mark_that_fails),
        ("faults: a lost device gives nothing back", faults::a_lost_device_gives_nothing_back),
        ("faults: drop waits for the copies", faults::drop_waits_for_the_copies),
    ];
    for (name, test) in tests {
        let bed = make();
        println!("{}: {name}", bed.device.name());
        test(&bed);
        assert_eq!((bed.objections)(), [""; 0], "{name}");
    }
}

/// Pinned memory cut into slabs. Unpinned and freed when the last lease is gone; a leaked lease keeps it.
pub(crate) struct Slabs {
    device: Device,
    base: NonNull<u8>,
    layout: std::alloc::Layout,
    pub(crate) slab_bytes: usize,
    back: AtomicUsize,
}

// SAFETY: only addresses; who touches the memory is ruled by the leases.
unsafe impl Send for Slabs {}
// SAFETY: as above.
unsafe impl Sync for Slabs {}

impl Slabs {
    pub(crate) fn new(device: &Device, count: usize, slab_bytes: usize) -> Arc<Slabs> {
        let layout = std::alloc::Layout::from_size_align(count * slab_bytes, 4096).unwrap();
        // SAFETY: the layout is not empty; zeroed, because devices copy whole slabs.
        let base = NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) }).unwrap();
        // SAFETY: the memory stays allocated until `drop`, which unpins it first.
        unsafe { device.raw().pin(base, layout.size()) }.unwrap();
        Arc::new(Slabs { device: device.clone(), base, layout, slab_bytes, back: AtomicUsize::new(0) })
    }

    pub(crate) fn lease(self: &Arc<Slabs>, index: usize) -> Lease {
        Lease { slabs: self.clone(), index }
    }

    /// How many leases have been dropped.
    pub(crate) fn back(&self) -> usize {
        self.back.load(Ordering::Relaxed)
    }

    pub(crate) fn address(&self, index: usize) -> NonNull<u8> {
        assert!((index + 1) * self.slab_bytes <= self.layout.size());
        // SAFETY: inside the allocation, by the check above.
        unsafe { self.base.add(index * self.slab_bytes) }
    }
}

impl Drop for Slabs {
    fn drop(&mut self) {
        // SAFETY: pinned in `new`; no lease is left, so no copy is in flight, and the memory is this value's own.
        unsafe {
            if self.device.raw().unpin(self.base).is_ok() {
                std::alloc::dealloc(self.base.as_ptr(), self.layout);
            }
        }
    }
}

pub(crate) struct Lease {
    slabs: Arc<Slabs>,
    pub(crate) index: usize,
}

impl Lease {
    pub(crate) fn fill(&mut self, value: u8) {
        // SAFETY: this lease is the only one of its slab (tests take each index once) and no copy reads it: it would
        // be inside the queue.
        unsafe { self.slabs.address(self.index).write_bytes(value, self.slabs.slab_bytes) };
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        assert_eq!(bytes.len(), self.slabs.slab_bytes);
        // SAFETY: as in `fill`.
        unsafe { self.slabs.address(self.index).copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) };
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: as for `fill`: whoever has the lease has its memory alone.
        unsafe { std::slice::from_raw_parts(self.slabs.address(self.index).as_ptr(), self.slabs.slab_bytes) }
    }

    /// A copy of `bytes` from `source` to byte `at` of the slab.
    pub(crate) fn from(&self, source: DevicePtr, at: usize, bytes: usize) -> RawCopyOut {
        assert!(at + bytes <= self.slabs.slab_bytes);
        // SAFETY: inside the slab, by the check above.
        RawCopyOut { source, target: unsafe { self.slabs.address(self.index).add(at) }, bytes }
    }

    /// The copy of the whole slab.
    pub(crate) fn to(&self, target: DevicePtr) -> RawCopy {
        RawCopy { source: self.slabs.address(self.index), target, bytes: self.slabs.slab_bytes }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.slabs.back.fetch_add(1, Ordering::Relaxed);
    }
}

/// Device memory that is freed at the end.
pub(crate) struct Region {
    device: Device,
    memory: Option<RawMemory>,
}

impl Region {
    pub(crate) fn new(device: &Device, bytes: usize) -> Region {
        Region { device: device.clone(), memory: Some(device.raw().allocate(bytes).unwrap()) }
    }

    pub(crate) fn at(&self, offset: usize) -> DevicePtr {
        self.memory.as_ref().unwrap().base + offset as u64
    }

    pub(crate) fn read(&self, offset: usize, bytes: usize) -> Vec<u8> {
        let mut target = vec![0; bytes];
        // SAFETY: inside the region; tests read what no copy writes at that time.
        unsafe { self.device.raw().read_back(self.at(offset), &mut target) }.unwrap();
        target
    }

    /// Leaks the memory: copies into it may never end.
    pub(crate) fn leak(mut self) {
        self.memory = None;
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        if let Some(memory) = self.memory.take() {
            // SAFETY: tests drop regions after their queues, whose copies have ended by then.
            unsafe { self.device.raw().free(memory) };
        }
    }
}

pub(crate) fn queue(bed: &Bed, capacity: usize) -> CopyQueue<Lease> {
    CopyQueue::new(bed.device.raw().stream().unwrap(), capacity)
}

/// Copies a whole slab.
pub(crate) fn copy(queue: &mut CopyQueue<Lease>, lease: Lease, target: DevicePtr) -> strait::Result<Seq> {
    let copy = lease.to(target);
    // SAFETY: the slabs stay allocated and pinned while a lease lives, and only its owner writes to one. Tests keep
    // the target's region until the queue is empty, or leak it.
    unsafe { queue.copy(lease, copy) }
}

/// Copies pieces of device memory into a slab.
pub(crate) fn copy_out(
    queue: &mut CopyQueue<Lease>,
    lease: Lease,
    pieces: impl IntoIterator<Item = RawCopyOut>,
) -> strait::Result<Seq> {
    // SAFETY: as for `copy`: only its owner touches a slab, and the source's region outlives the queue, or is leaked.
    unsafe { queue.copy_out_all(lease, pieces) }
}

pub(crate) fn all(bytes: &[u8], value: u8) -> bool {
    bytes == vec![value; bytes.len()]
}
