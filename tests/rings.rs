//! One conformance suite for every ring: what `trait Ring` promises, on real files.

mod common;
#[path = "stand_in/cufile.rs"]
mod cufile;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::time::{Duration, Instant};

use common::{bytes_of, disk_directory, write_shard};
use strait::memory::Arena;
use strait::sim::Clock;
use strait::storage::{Completion, Faults, Pread, RawRead, RawWrite, Registered, Ring, SimRing, Uring};

const DEPTH: usize = 8;
const BLOCK: usize = 4096;
const FILE_BYTES: u64 = 40 * BLOCK as u64 + 1000;

/// Memory for the reads of a test. Dropped after the ring: tests declare it first.
struct Bed {
    arena: Arena,
    file: File,
    _directory: tempfile::TempDir,
}

impl Bed {
    fn new() -> Bed {
        let directory = disk_directory();
        let file = File::open(write_shard(directory.path(), 5, FILE_BYTES)).unwrap();
        Bed { arena: Arena::map(4 << 20).unwrap(), file, _directory: directory }
    }

    fn target(&self, place: usize) -> NonNull<u8> {
        // SAFETY: tests use fewer than 1024 places of 4096 bytes.
        unsafe { self.arena.base().add(place * BLOCK) }
    }

    fn read(&self, place: usize, offset: u64) -> RawRead {
        RawRead {
            fd: self.file.as_raw_fd(),
            file_slot: None,
            offset,
            len: BLOCK as u32,
            target: self.target(place),
            rw_flags: 0,
            token: place as u64,
        }
    }

    fn bytes(&self, place: usize) -> &[u8] {
        // SAFETY: called when no read into this place is in flight.
        unsafe { std::slice::from_raw_parts(self.target(place).as_ptr(), BLOCK) }
    }
}

fn rings() -> Vec<Box<dyn Ring>> {
    let mut rings: Vec<Box<dyn Ring>> = vec![
        Box::new(Pread::new(DEPTH).unwrap()),
        Box::new(SimRing::new(1, Clock::simulated(), DEPTH, Faults::default())),
    ];
    drop(cufile::take());
    rings.push(Box::new(cufile::ring(DEPTH).unwrap()));
    match Uring::new(DEPTH, 4) {
        Ok(ring) => rings.push(Box::new(ring)),
        Err(error) => eprintln!("SKIPPED for uring: {error}"),
    }
    rings
}

/// Polls until `count` reads have ended.
fn collect(ring: &mut dyn Ring, count: usize) -> BTreeMap<u64, i32> {
    let mut out = Vec::new();
    let end = Instant::now() + Duration::from_secs(20);
    while out.len() < count {
        ring.poll(1, Duration::from_millis(100), &mut out).unwrap();
        assert!(Instant::now() < end, "{}: {} of {count} reads ended", ring.name(), out.len());
    }
    let ends: BTreeMap<u64, i32> = out.iter().map(|c| (c.token, c.result)).collect();
    assert_eq!(ends.len(), out.len(), "{}: a token came out twice", ring.name());
    ends
}

fn submit(ring: &mut dyn Ring, read: RawRead) -> strait::Result<()> {
    // SAFETY: the bed outlives the ring, every place is read into once at a time, and its file stays open.
    unsafe { ring.submit(read) }
}

#[test]
fn every_token_comes_out_once_with_its_bytes() {
    for registered in [false, true] {
        let bed = Bed::new();
        for mut ring in rings() {
            if registered {
                // SAFETY: the bed's memory outlives the ring.
                let answer = unsafe { ring.register_memory(bed.arena.base(), bed.arena.bytes()) };
                let file = ring.register_file(1, bed.file.as_raw_fd());
                if ring.name() == "uring" && !matches!((answer, file), (Registered::Yes, Registered::Yes)) {
                    eprintln!("registration refused ({answer:?}, {file:?}): reads go unregistered");
                }
            }
            for round in 0..5 {
                for place in 0..DEPTH {
                    let mut read = bed.read(place, ((round * DEPTH + place) * BLOCK) as u64);
                    read.file_slot = registered.then_some(1);
                    submit(&mut *ring, read).unwrap();
                }
                let ends = collect(&mut *ring, DEPTH);
                for place in 0..DEPTH {
                    assert_eq!(ends[&(place as u64)], BLOCK as i32, "{}", ring.name());
                    let from = ((round * DEPTH + place) * BLOCK) as u64;
                    assert_eq!(bed.bytes(place), bytes_of(5, from, BLOCK as u64), "{} at {from}", ring.name());
                }
            }
        }
    }
}

#[test]
fn the_end_of_a_file_is_a_short_count_then_zero() {
    let bed = Bed::new();
    for mut ring in rings() {
        submit(&mut *ring, bed.read(0, 40 * BLOCK as u64)).unwrap();
        submit(&mut *ring, bed.read(1, 80 * BLOCK as u64)).unwrap();
        let ends = collect(&mut *ring, 2);
        assert_eq!((ends[&0], ends[&1]), (1000, 0), "{}", ring.name());
        assert_eq!(bed.bytes(0)[..1000], bytes_of(5, 40 * BLOCK as u64, 1000));
    }
}

#[test]
fn errors_are_negative_error_numbers() {
    let bed = Bed::new();
    let directory = File::open(bed._directory.path()).unwrap();
    for mut ring in rings() {
        let closed = RawRead { fd: 1_000_000, ..bed.read(0, 0) };
        let folder = RawRead { fd: directory.as_raw_fd(), ..bed.read(1, 0) };
        submit(&mut *ring, closed).unwrap();
        submit(&mut *ring, folder).unwrap();
        let ends = collect(&mut *ring, 2);
        assert_eq!((ends[&0], ends[&1]), (-libc::EBADF, -libc::EISDIR), "{}", ring.name());
    }
}

#[test]
fn a_full_ring_refuses_and_goes_on() {
    let bed = Bed::new();
    for mut ring in rings() {
        assert_eq!(ring.capacity(), DEPTH);
        for place in 0..DEPTH {
            submit(&mut *ring, bed.read(place, 0)).unwrap();
        }
        let error = submit(&mut *ring, bed.read(DEPTH, 0)).unwrap_err();
        assert_eq!(error.errno(), Some(libc::EBUSY), "{}: {error}", ring.name());
        collect(&mut *ring, DEPTH);
        submit(&mut *ring, bed.read(0, 0)).unwrap();
        collect(&mut *ring, 1);
    }
}

#[test]
fn an_idle_ring_waits_for_nothing() {
    for mut ring in rings() {
        let start = Instant::now();
        let mut out: Vec<Completion> = Vec::new();
        ring.poll(1, Duration::from_secs(60), &mut out).unwrap();
        ring.poll(0, Duration::from_secs(60), &mut out).unwrap();
        assert!(out.is_empty() && start.elapsed() < Duration::from_secs(10), "{}", ring.name());
    }
}

/// A read that ends only when the test says so: of a pipe, at no offset.
fn pipe_read(bed: &Bed, pipe: &impl AsRawFd) -> RawRead {
    RawRead { fd: pipe.as_raw_fd(), offset: u64::MAX, ..bed.read(0, 0) }
}

#[test]
fn a_wait_ends_with_its_timeout() {
    let bed = Bed::new();
    let (quiet, speak) = std::io::pipe().unwrap();
    let Ok(mut ring) = Uring::new(DEPTH, 4) else { return eprintln!("SKIPPED: no io_uring") };
    submit(&mut ring, pipe_read(&bed, &quiet)).unwrap();
    let mut out = Vec::new();
    let start = Instant::now();
    ring.poll(1, Duration::from_millis(50), &mut out).unwrap();
    assert!(out.is_empty() && start.elapsed() >= Duration::from_millis(49));
    drop(speak); // the end of the file ends the read
    assert_eq!(collect(&mut ring, 1)[&0], 0);
}

/// Mutants that this catches, for each ring: it does not look at the descriptor; it looks once only.
#[test]
fn a_wait_ends_when_somebody_wakes_it() {
    for ring in rings().into_iter().filter(|ring| ["pread", "uring"].contains(&ring.name())) {
        // The first wait ends with what was there before, the next ones by what comes while they wait.
        let (bed, mut ring) = (Bed::new(), ring);
        let (quiet, speak) = std::io::pipe().unwrap();
        let (wakes, mut wake) = std::io::pipe().unwrap();
        ring.wake_by(wakes.as_raw_fd());
        submit(&mut *ring, pipe_read(&bed, &quiet)).unwrap();
        for round in 0..4 {
            let mut later = wake.try_clone().unwrap();
            let mut call = move || later.write_all(b"x").unwrap();
            let caller = match round {
                0 => std::thread::spawn(call),
                _ => std::thread::spawn(move || {
                    std::thread::sleep(Duration::from_millis(30));
                    call();
                }),
            };
            let (start, mut out) = (Instant::now(), Vec::new());
            ring.poll(1, Duration::from_secs(60), &mut out).unwrap();
            assert!(out.is_empty() && start.elapsed() < Duration::from_secs(30), "{} sleeps on", ring.name());
            caller.join().unwrap();
            (&wakes).read_exact(&mut [0]).unwrap();
        }
        // What was called for and is over keeps nothing awake for long.
        let (start, mut out) = (Instant::now(), Vec::new());
        for _ in 0..2 {
            ring.poll(1, Duration::from_millis(30), &mut out).unwrap();
        }
        assert!(out.is_empty() && start.elapsed() >= Duration::from_millis(29), "{}", ring.name());
        drop(speak);
        assert_eq!(collect(&mut *ring, 1).len(), 1, "{}", ring.name());
        wake.write_all(b"x").unwrap();
        ring.poll(1, Duration::from_secs(60), &mut out).unwrap(); // nothing to wait for
        for place in 0..DEPTH {
            submit(&mut *ring, bed.read(place, 0)).unwrap();
        }
        assert_eq!(collect(&mut *ring, DEPTH).len(), DEPTH, "{}: a wake-up takes no read's place", ring.name());
    }
}

/// The kernel runs deferred completions only for a thread that asks; poll(2) on the ring must hear of them all the same,
/// or a wait on two rings would sleep through the end of a read.
#[test]
fn the_end_of_a_read_wakes_poll() {
    let bed = Bed::new();
    let (quiet, speak) = std::io::pipe().unwrap();
    let Ok(mut ring) = Uring::new(DEPTH, 4) else { return eprintln!("SKIPPED: no io_uring") };
    let fd = ring.wait_fd().unwrap();
    submit(&mut ring, pipe_read(&bed, &quiet)).unwrap();
    ring.poll(0, Duration::ZERO, &mut Vec::new()).unwrap();
    let later = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        drop(speak);
    });
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one pollfd that outlives the call.
    let ready = unsafe { libc::poll(&raw mut poll, 1, 20_000) };
    assert!(ready == 1, "the end of a read did not wake poll(2)");
    later.join().unwrap();
    collect(&mut ring, 1);
}

fn write(bed: &Bed, place: usize, file: &File, offset: u64) -> RawWrite {
    let (fd, source) = (file.as_raw_fd(), bed.target(place));
    RawWrite { fd, offset, len: BLOCK as u32, source, token: place as u64 }
}

fn submit_write(ring: &mut dyn Ring, write: RawWrite) -> strait::Result<()> {
    // SAFETY: as for `submit`; nobody writes to a place while it is written from.
    unsafe { ring.submit_write(write) }
}

#[test]
fn writes_land_in_the_file_and_share_the_depth_with_reads() {
    for registered in [false, true] {
        let bed = Bed::new();
        for mut ring in rings().into_iter().filter(|ring| ring.name() != "cufile") {
            let path = bed._directory.path().join("written");
            let options = std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path);
            let file = options.unwrap();
            if registered {
                // SAFETY: the bed's memory outlives the ring.
                unsafe { ring.register_memory(bed.arena.base(), bed.arena.bytes()) };
            }
            for place in 0..DEPTH {
                let bytes = bytes_of(9, (place * BLOCK) as u64, BLOCK as u64);
                // SAFETY: the place is inside the arena, and no write from it is in flight.
                unsafe { bed.target(place).copy_from(NonNull::from(&bytes[..]).cast(), BLOCK) };
                submit_write(&mut *ring, write(&bed, place, &file, (place * BLOCK) as u64)).unwrap();
            }
            let error = submit(&mut *ring, bed.read(DEPTH, 0)).unwrap_err();
            assert_eq!(error.errno(), Some(libc::EBUSY), "{}: {error}", ring.name());
            let ends = collect(&mut *ring, DEPTH);
            assert!(ends.values().all(|&result| result == BLOCK as i32), "{}: {ends:?}", ring.name());
            assert_eq!(std::fs::read(&path).unwrap(), bytes_of(9, 0, (DEPTH * BLOCK) as u64), "{}", ring.name());
            // Of a file that is open for reading only; with a read beside it.
            submit_write(&mut *ring, write(&bed, 0, &bed.file, 0)).unwrap();
            submit(&mut *ring, bed.read(1, 0)).unwrap();
            let ends = collect(&mut *ring, 2);
            assert_eq!((ends[&0], ends[&1]), (-libc::EBADF, BLOCK as i32), "{}", ring.name());
            assert_eq!(bed.bytes(1), bytes_of(5, 0, BLOCK as u64), "{}", ring.name());
        }
    }
}
