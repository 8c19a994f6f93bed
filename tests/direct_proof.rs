//! Proof by the kernel's own books that payload goes past the page cache: this file is a binary of its own, so that
//! nobody else's reads are counted.

mod common;

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use common::mount::Kind;
use common::process::Within;
use common::{bytes_of, disk_directory};
use strait::{Dataset, Device, Loader, PathChoice, RingChoice};

/// `struct cachestat` of linux/mman.h (6.5).
#[repr(C)]
#[derive(Default)]
struct CacheStat {
    cached: u64,
    dirty: u64,
    writeback: u64,
    evicted: u64,
    recently_evicted: u64,
}

const SYS_CACHESTAT: libc::c_long = 451;

/// How many pages of a file are in the page cache.
fn cached_pages(file: &File) -> io::Result<u64> {
    let whole = [0u64; 2]; // offset and length; 0: to the end
    let mut stat = CacheStat::default();
    // SAFETY: the range and the result outlive the call, and have the layout of the system call's structures.
    match unsafe { libc::syscall(SYS_CACHESTAT, file.as_raw_fd(), whole.as_ptr(), &raw mut stat, 0) } {
        0 => Ok(stat.cached),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Bytes that this process has caused to be fetched from storage.
fn fetched_bytes() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/self/io")?;
    let line = text.lines().find_map(|line| line.strip_prefix("read_bytes: "));
    line.and_then(|n| n.parse().ok()).ok_or_else(|| io::Error::other("no read_bytes in /proc/self/io"))
}

/// Writes the file to storage and drops what the page cache has of it.
fn drop_cache(file: &File) {
    file.sync_all().unwrap();
    // SAFETY: takes no pointer.
    assert_eq!(unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) }, 0);
}

const RECORD: u64 = 100_000;
const RECORDS: u64 = 700;
const BYTES: u64 = RECORD * RECORDS;

fn read(path: &Path, content: &[u8], ring: RingChoice, way: PathChoice) {
    let dataset = Dataset::records(&[path], RECORD).unwrap();
    let builder = Loader::builder(dataset).device(Device::host()).batch_size(40).ring(ring).path(way);
    let mut loader = builder.build().unwrap();
    for batch in loader.epoch(0) {
        let batch = batch.unwrap();
        let view = batch.field("record").unwrap();
        for (i, &sample) in batch.samples().iter().enumerate() {
            let want = &content[(sample * RECORD) as usize..][..RECORD as usize];
            assert!(view.host_bytes(i).unwrap().unwrap() == want, "sample {sample}");
        }
    }
    let stats = loader.stats();
    assert_eq!(stats.bytes_wanted, BYTES);
    assert!(stats.reads <= 2 * stats.batches, "{} reads for {} batches of 4 MB", stats.reads, stats.batches);
    // Sequential batches share at most a block with their neighbours.
    let blocks = 2 * 4096 * stats.batches;
    assert!(stats.bytes_read <= BYTES + blocks, "{} bytes asked for, of {BYTES}", stats.bytes_read);
}

#[test]
fn an_epoch_leaves_no_page_in_the_cache_and_fetches_every_byte_once() {
    let _within = Within::seconds(300);
    let directory = disk_directory();
    if Kind::of(directory.path()) != Kind::Direct {
        return eprintln!("SKIPPED: the build is on no file system known to take direct reads");
    }
    let path = directory.path().join("shard.bin");
    let content = bytes_of(3, 0, BYTES);
    fs::write(&path, &content).unwrap();
    let file = File::open(&path).unwrap();
    let books = cached_pages(&file).map_err(|e| format!("cachestat: {e}"));
    if let Err(why) = books.and(fetched_bytes().map_err(|e| format!("/proc/self/io: {e}"))) {
        return eprintln!("SKIPPED: {why}");
    }
    read(&path, &content, RingChoice::Auto, PathChoice::Staged); // pages the program in
    for ring in [RingChoice::Auto, RingChoice::Pread] {
        for way in [PathChoice::Auto, PathChoice::Staged] {
            let fetched = || {
                drop_cache(&file);
                assert_eq!(cached_pages(&file).unwrap(), 0, "the cache was not dropped");
                let before = fetched_bytes().unwrap();
                read(&path, &content, ring, way);
                let fetched = fetched_bytes().unwrap() - before;
                assert_eq!(cached_pages(&file).unwrap(), 0, "{ring:?} {way:?}: pages in the cache");
                fetched
            };
            // And a little, for the rest of the program; more where memory is short and its pages come and go. Whatever a
            // loader fetches twice it fetches twice each time.
            let most = BYTES + BYTES / 16;
            let least = (0..5).map(|_| fetched()).find(|&bytes| bytes < most);
            assert!(least.is_some_and(|bytes| bytes >= BYTES), "{ring:?} {way:?}: {least:?} bytes fetched of {BYTES}");
        }
    }
    // The books would tell: an ordinary read of the same file does fill the cache.
    assert_eq!(fs::read(&path).unwrap().len() as u64, BYTES);
    assert!(cached_pages(&file).unwrap() >= BYTES / 4096 / 2);
}
