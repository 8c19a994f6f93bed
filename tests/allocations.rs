//! A loader that runs takes nothing more: no allocation after the first epoch, no memory, file or thread after many.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};

use common::{disk_directory, write_shard};
use strait::dataset::{Format, Indexing};
use strait::order::{BadSamplePolicy, Bucketing, Budget, Cost, Cursor, IfChanged, Shuffle};
use strait::storage::Uring;
use strait::{Builder, DType, Dataset, Device, Loader, PathChoice, RingChoice, Verify};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call goes to the system allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// One test only: the counters see every thread of the process.
#[test]
fn nothing_grows() {
    the_loop_does_not_allocate();
    a_budget_takes_one_window_an_epoch();
    a_thousand_epochs_leave_nothing_behind();
}

fn the_loop_does_not_allocate() {
    let directory = disk_directory();
    let paths = [1, 2, 3].map(|seed| write_shard(directory.path(), seed, 5000 * 128));
    let records = Dataset::options().format(Format::Records).record_bytes(5000);
    records.index(&paths, &Indexing { checksums: true, threads: 1, ..Indexing::default() }, &|_| true).unwrap();
    let uring = Uring::new(8, 4).map_err(|error| eprintln!("SKIPPED for uring: {error}")).is_ok();
    for (ring, way) in [
        (RingChoice::Uring, PathChoice::Auto),
        (RingChoice::Uring, PathChoice::Staged),
        (RingChoice::Pread, PathChoice::Auto),
    ]
    .into_iter()
    .filter(|(ring, _)| uring || *ring == RingChoice::Pread)
    {
        let dataset = Dataset::records(&paths, 5000).unwrap();
        let builder =
            || Loader::builder(dataset.clone()).device(Device::host()).shuffle(Shuffle::Full).ring(ring).path(way);
        let tokens = || builder().tokens("record", 4);
        for (made_of, builder) in [
            ("samples", builder().batch_size(16)),
            ("all but bad samples", builder().batch_size(16).bad_samples(BadSamplePolicy::Replace)),
            ("small samples on the host", builder().batch_size(16).on_host(&["record"])),
            ("verified", builder().batch_size(16).verify(Verify::Checksums)),
            ("arrays", builder().batch_size(16).array("record", DType::F32, &[1250])),
            (
                "numbers of bytes",
                builder().batch_size(16).array("record", DType::U8, &[5000]).scale("record", DType::F16, 0.5, 1.0),
            ),
            ("wide windows", tokens().windows(20_000, 20_000).widen("record", DType::I64).batch_size(1)),
            ("windows", tokens().windows(20_000, 20_000).batch_size(1)),
            ("packs", tokens().pack(20_000).batch_size(1)),
        ] {
            no_allocation(builder, &format!("{made_of}, {ring:?}, {way:?}"));
        }
    }
}

fn no_allocation(builder: Builder, what: &str) {
    let mut loader = builder.build().unwrap();
    if what.contains("bad") {
        let known = Cursor { skipped: vec![7, 300], ..loader.cursor() };
        loader.resume(&known, IfChanged::Refuse).unwrap();
    }
    let mut epochs = 0..;
    let mut ten_epochs = || {
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        epochs.by_ref().take(10).for_each(|epoch| loader.epoch(epoch).for_each(|batch| drop(batch.unwrap())));
        ALLOCATIONS.load(Ordering::Relaxed) - before
    };
    ten_epochs();
    // A thread's first sleep on a channel allocates, whenever that is: on a busy machine perhaps late, and once a thread.
    // What the loop allocates comes again.
    let allocations: Vec<u64> = (0..ONCE_MAX).map(|_| ten_epochs()).take_while(|&count| count > 0).collect();
    assert!(allocations.len() < ONCE_MAX, "{what}: {allocations:?} allocations, of ten epochs each");
}

/// Ten epochs without one allocation come at the latest after so many with one: there are fewer threads.
const ONCE_MAX: usize = 8;

fn a_budget_takes_one_window_an_epoch() {
    let directory = disk_directory();
    let path = write_shard(directory.path(), 1, 5000 * 512);
    let budget = Budget { samples_max: 20, cost_max: 80_000, cost: Cost::Padded };
    let builder = Loader::builder(Dataset::records(&[&path], 5000).unwrap()).device(Device::host());
    let builder = builder.shuffle(Shuffle::Full).budget(budget, Bucketing { window: 64, run: 16 });
    let mut loader = builder.build().unwrap();
    let mut epochs = 0..;
    let mut ten_epochs = || {
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        let ten = epochs.by_ref().take(10);
        ten.for_each(|epoch| loader.epoch(epoch).for_each(|batch| assert!(batch.unwrap().len() <= 16)));
        ALLOCATIONS.load(Ordering::Relaxed) - before
    };
    ten_epochs();
    let least = (0..ONCE_MAX).map(|_| ten_epochs()).min();
    assert!(least <= Some(10), "{least:?} allocations in ten epochs of 10 batches");
}

fn a_thousand_epochs_leave_nothing_behind() {
    let directory = disk_directory();
    let paths: Vec<_> = (0..8).map(|seed| write_shard(directory.path(), seed, 10 * 4096)).collect();
    let dataset = Dataset::records(&paths, 4096).unwrap();
    let builder = Loader::builder(dataset).device(Device::host()).batch_size(16).shuffle(Shuffle::Full);
    let mut loader = builder.open_files_max(3).build().unwrap();
    let mut epochs = |range: std::ops::Range<u64>| {
        range.for_each(|epoch| assert_eq!(loader.epoch(epoch).map(|b| b.unwrap().len()).sum::<usize>(), 80));
        (anonymous_bytes(), count("/proc/self/fd"), count("/proc/self/task"))
    };
    let (rss, fds, threads) = epochs(0..50);
    let (rss_after, fds_after, threads_after) = epochs(50..1050);
    assert!(rss_after < rss + (2 << 20), "resident memory grew from {rss} to {rss_after} bytes");
    assert!(fds_after <= fds + 1 && threads_after <= threads + 8, "{fds} -> {fds_after}, {threads} -> {threads_after}");
    assert!(loader.stats().open_files_max <= 3);
}

/// Memory that is no file's: pages of the program come and go as the kernel likes.
fn anonymous_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

fn count(directory: &str) -> usize {
    std::fs::read_dir(directory).unwrap().count()
}
