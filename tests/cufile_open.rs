//! cuFile that somebody else in the process has opened, and that takes few reads at once. A process of its own: the library is
//! opened once, and what it says then is kept.

#[path = "stand_in/cufile.rs"]
mod cufile;

use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use strait::memory::Arena;
use strait::storage::{RawRead, Ring};

/// Mutants that this catches: an open library that is an error; batches of any size.
#[test]
fn a_library_that_is_open_is_used_within_its_limits() {
    let (storage, _alone) = cufile::take();
    storage.set("open_error", 5026);
    storage.set("batch_max", 3);
    let file = tempfile::tempfile().unwrap();
    file.set_len(1 << 20).unwrap();
    let arena = Arena::map(1 << 20).unwrap();
    let mut ring = cufile::ring(40).unwrap();
    for place in 0..40 {
        // SAFETY: inside the arena.
        let target = unsafe { arena.base().add(place << 12) };
        let (fd, offset, token) = (file.as_raw_fd(), (place as u64) << 12, place as u64);
        let read = RawRead { fd, file_slot: None, offset, len: 4096, target, rw_flags: 0, token };
        // SAFETY: the arena and the file outlive the ring, and the reads do not overlap.
        unsafe { ring.submit(read) }.unwrap();
    }
    let (mut out, end) = (Vec::new(), Instant::now() + Duration::from_secs(20));
    while out.len() < 40 && Instant::now() < end {
        ring.poll(1, Duration::from_millis(100), &mut out).unwrap();
    }
    assert!(out.len() == 40 && out.iter().all(|read| read.result == 4096), "{} reads ended", out.len());
    drop(ring);
    assert_eq!(storage.misuse(), "");
}
