//! Limits hold while a loader runs: bytes and reads in flight, and a pool with room for what is wanted and no gaps.

mod common;

use std::os::fd::RawFd;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use common::{bytes_of, disk_directory, write_shard};
use strait::order::Shuffle;
use strait::storage::{Completion, Pread, RawRead, Registered, Ring};
use strait::{Dataset, Device, Loader, PathChoice};

/// Threads that note how much they are given at once.
struct Watched {
    inner: Pread,
    sizes: Vec<(u64, u64)>,
    bytes_max: Arc<AtomicU64>,
    reads_max: Arc<AtomicU64>,
}

// SAFETY: every call goes to the inner ring, whose promise this is.
unsafe impl Ring for Watched {
    fn name(&self) -> &'static str {
        "watched"
    }

    fn capacity(&self) -> usize {
        self.inner.capacity()
    }

    unsafe fn register_memory(&mut self, base: NonNull<u8>, bytes: usize) -> Registered {
        // SAFETY: the caller's promise is passed on.
        unsafe { self.inner.register_memory(base, bytes) }
    }

    unsafe fn submit(&mut self, read: RawRead) -> strait::Result<()> {
        self.sizes.push((read.token, read.len.into()));
        self.bytes_max.fetch_max(self.sizes.iter().map(|(_, len)| len).sum(), Relaxed);
        self.reads_max.fetch_max(self.sizes.len() as u64, Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { self.inner.submit(read) }
    }

    fn poll(&mut self, want: usize, timeout: Duration, out: &mut Vec<Completion>) -> strait::Result<()> {
        let before = out.len();
        self.inner.poll(want, timeout, out)?;
        for ended in &out[before..] {
            self.sizes.retain(|(token, _)| *token != ended.token);
        }
        Ok(())
    }

    fn wait_fd(&mut self) -> Option<RawFd> {
        self.inner.wait_fd()
    }
}

/// Mutant that this catches: `bytes_in_flight_max` ignored.
#[test]
fn bytes_and_reads_in_flight_stay_within_their_limits() {
    let directory = disk_directory();
    let path = write_shard(directory.path(), 3, 16 << 20);
    for way in [PathChoice::Auto, PathChoice::Staged] {
        let (bytes_max, reads_max) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (bytes, reads) = (bytes_max.clone(), reads_max.clone());
        let make = move |depth| {
            let inner = Pread::new(depth)?;
            Ok(Box::new(Watched { inner, sizes: Vec::new(), bytes_max: bytes, reads_max: reads }) as Box<dyn Ring>)
        };
        let builder = Loader::builder(Dataset::records(&[&path], 64 << 10).unwrap()).device(Device::host());
        let builder = builder.batch_size(32).block_bytes(128 << 10).path(way).custom_ring(make);
        let mut loader = builder.bytes_in_flight(512 << 10).reads_in_flight(16).build().unwrap();
        assert_eq!(loader.epoch(0).map(|batch| batch.unwrap().len()).sum::<usize>(), 256);
        let (bytes, reads) = (bytes_max.load(Relaxed), reads_max.load(Relaxed));
        assert!((256 << 10..=512 << 10).contains(&bytes), "{way:?}: {bytes} bytes in flight");
        assert!((2..=16).contains(&reads), "{way:?}: {reads} reads in flight");
    }
}

/// Mutant that this catches: a batch whose gaps do not fit is an error although its samples do.
#[test]
fn a_pool_without_room_for_gaps_does_without_them() {
    let directory = disk_directory();
    let path = write_shard(directory.path(), 4, 1000 * 4096);
    let builder = Loader::builder(Dataset::records(&[&path], 4096).unwrap()).device(Device::host());
    let builder = builder.batch_size(64).shuffle(Shuffle::Full).gap_bytes(64 << 10).region_bytes(64 * 4096);
    let mut loader = builder.build().unwrap();
    let mut samples = 0;
    for batch in loader.epoch(0) {
        let batch = batch.unwrap();
        assert!(batch.region_bytes() <= 64 * 4096);
        let view = batch.field("record").unwrap();
        for (i, &sample) in batch.samples().iter().enumerate() {
            assert_eq!(view.host_bytes(i).unwrap().unwrap(), bytes_of(4, sample * 4096, 4096));
        }
        samples += batch.len();
    }
    assert_eq!(samples, 1000);
}

/// Mutant that this catches: a pool sized by the mean sample alone.
#[test]
fn one_large_sample_among_small_ones_fits() {
    let directory = disk_directory();
    let path = directory.path().join("skewed.tar");
    let mut tar = tar::Builder::new(std::fs::File::create(&path).unwrap());
    let large = vec![9u8; 8 << 20];
    for i in 0..200 {
        let body = if i == 77 { &large[..] } else { &large[..10 << 10] };
        let mut header = tar::Header::new_ustar();
        header.set_size(body.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, format!("{i:06}.bin"), body).unwrap();
    }
    tar.into_inner().unwrap();
    for batch_size in [1, 8, 64] {
        let builder = Loader::builder(Dataset::webdataset(&[&path]).unwrap()).device(Device::host());
        let mut loader = builder.batch_size(batch_size).shuffle(Shuffle::Full).build().unwrap();
        assert_eq!(loader.epoch(0).map(|batch| batch.unwrap().len()).sum::<usize>(), 200, "batches of {batch_size}");
        assert!(loader.stats().pinned_bytes_max <= 256 << 20);
    }
}

#[test]
fn pinned_memory_stays_within_odd_limits() {
    let directory = disk_directory();
    let path = write_shard(directory.path(), 5, 1 << 20);
    for limit in [3 << 20, (2 << 20) + 4096, 1 << 20, 900_000] {
        let builder = Loader::builder(Dataset::records(&[&path], 4096).unwrap()).device(Device::host());
        let mut loader = builder.batch_size(16).prefetch(8).pinned_bytes_max(limit).build().unwrap();
        assert_eq!(loader.epoch(0).map(|batch| batch.unwrap().len()).sum::<usize>(), 256);
        assert!(loader.stats().pinned_bytes_max <= limit, "{} of {limit}", loader.stats().pinned_bytes_max);
    }
}
