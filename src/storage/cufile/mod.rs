//! The cuFile ring: reads that the storage writes into a device's memory by itself (GPUDirect Storage).
//!
//! ```text
//!  submit -> accepted -> an idle batch -> in flight -> the event of each entry -> poll
//!                        (a batch of cuFile's takes entries again once all it had have ended)
//! ```
//!
//! The library is loaded at run time. Targets are device addresses; host memory works too. What cuFile answers besides an
//! errno is its own code, 5001 and up, and comes out of `poll` in the errno's place: the two never meet.

mod disk;
mod driver;
mod file;
mod library;
mod surroundings;
mod trial;

use std::collections::VecDeque;
use std::ops::Range;
use std::os::fd::RawFd;
use std::ptr::NonNull;
use std::time::{Duration, Instant};

pub use self::driver::Enter;
use self::driver::{Driver, check};
use self::file::OpenFile;
use self::library::{Entry, Event, Handle, Library, MODE_BATCH, OPCODE_READ, status};
pub use self::surroundings::Surroundings;
use super::{Completion, RawRead, Registered, Ring, wait_readable};
use crate::error::{Error, Result};
use crate::stats::Fallback;

/// What cuFile reads at most in one go. A longer read ends short, and is continued.
const READ_BYTES_MAX: u32 = 16 << 20;
/// What offset, length and address of a direct read are multiples of.
const ALIGN: u64 = 4096;
/// Batches in flight at once: reads that end at different times free theirs one by one.
const BATCHES_MAX: usize = 16;
/// How long to sleep between looks: cuFile's own wait may return early, or not at all.
const POLL_SLEEP: Duration = Duration::from_micros(50);

/// Reads by cuFile's batch interface.
pub struct Cufile {
    library: &'static Library,
    depth: usize,
    reads: Vec<Option<Reading>>,
    free: Vec<u32>,
    /// Not with cuFile yet.
    accepted: VecDeque<u32>,
    /// Ended before they began.
    refused: Vec<Completion>,
    batches: Vec<Batch>,
    events: Box<[Event]>,
    /// By slot; where cuFile did not take the file, its answer.
    files: Vec<Option<Result<OpenFile, i32>>>,
    buffers: Vec<Range<usize>>,
    broken: Option<Error>,
    /// Ends waits; -1 for none.
    wake_fd: RawFd,
}

struct Reading {
    read: RawRead,
    /// Of a read whose file has no slot.
    own: Option<OpenFile>,
    /// Where it is in flight.
    batch: Option<usize>,
}

struct Batch {
    handle: Handle,
    in_flight: usize,
    /// cuFile may look at them until the entries have ended.
    entries: Box<[Entry]>,
}

// SAFETY: handles are names that cuFile accepts from any thread; the targets are addresses under the contract of
// `Ring::submit`; the entries are read by cuFile alone while it has them.
unsafe impl Send for Cufile {}

impl Cufile {
    /// Opens cuFile for `depth` reads in flight, or says why it is not used. `enter` makes the device current on the
    /// calling thread, if it has such a thing; the thread that uses the ring has done that too. In compatibility mode cuFile
    /// copies through host memory: it is taken only if `compat` says so. An open that takes longer than `deadline` is given
    /// up, for the rest of the process.
    pub fn new(depth: usize, compat: bool, enter: &Enter, deadline: Duration) -> Result<Cufile, Fallback> {
        let Driver { library, batch_max } = Driver::open(enter, compat, deadline)?;
        let depth = depth.max(1);
        let entries = depth.min(batch_max as usize);
        let entry = Entry {
            mode: MODE_BATCH,
            base: std::ptr::null_mut(),
            file_offset: 0,
            base_offset: 0,
            bytes: 0,
            file: std::ptr::null_mut(),
            opcode: OPCODE_READ,
            cookie: std::ptr::null_mut(),
        };
        let event = Event { cookie: std::ptr::null_mut(), status: 0, result: 0 };
        let mut ring = Cufile {
            library,
            depth,
            reads: (0..depth).map(|_| None).collect(),
            free: (0..depth as u32).rev().collect(),
            accepted: VecDeque::with_capacity(depth),
            refused: Vec::with_capacity(depth),
            batches: Vec::with_capacity(BATCHES_MAX),
            events: vec![event; entries].into(),
            files: Vec::new(),
            buffers: Vec::new(),
            broken: None,
            wake_fd: -1,
        };
        for _ in 0..depth.min(BATCHES_MAX) {
            let mut handle = std::ptr::null_mut();
            // SAFETY: `handle` is writable.
            check("cuFileBatchIOSetUp", unsafe { (library.batch_set_up)(&mut handle, entries as u32) })?;
            ring.batches.push(Batch { handle, in_flight: 0, entries: vec![entry; entries].into() });
        }
        Ok(ring)
    }

    /// What stands in cuFile's way, as far as it shows without loading it.
    pub fn obstacle(compat: bool) -> Option<Fallback> {
        Surroundings::look().obstacle(compat).or_else(|| Library::get().err().map(driver::no_library))
    }

    /// Why cuFile is not used, for those who tried it.
    pub(crate) fn refusal(reason: impl Into<String>, remedy: &'static str) -> Fallback {
        driver::refusal(reason, remedy, None)
    }

    fn in_flight(&self) -> usize {
        self.depth - self.free.len() + self.refused.len()
    }

    /// The file of a read, as cuFile knows it.
    fn file(&self, index: u32) -> Handle {
        let reading = self.reads[index as usize].as_ref().expect("a read in use");
        match (&reading.own, reading.read.file_slot) {
            (Some(own), _) => own.handle(),
            (None, slot) => match &self.files[slot.expect("a slot or its own") as usize] {
                Some(Ok(file)) => file.handle(),
                _ => unreachable!("refused when it was submitted"),
            },
        }
    }

    fn entry(&self, index: u32) -> Entry {
        let RawRead { offset, len, target, .. } = self.reads[index as usize].as_ref().expect("a read in use").read;
        let at = target.addr().get();
        let bytes = len.min(READ_BYTES_MAX) as usize;
        // Of registered memory cuFile wants the first byte and a distance.
        let buffer = self.buffers.iter().find(|buffer| buffer.start <= at && at + bytes <= buffer.end);
        let base = buffer.map_or(at, |buffer| buffer.start);
        Entry {
            mode: MODE_BATCH,
            base: target.as_ptr().with_addr(base).cast(),
            file_offset: offset as i64,
            base_offset: (at - base) as i64,
            bytes,
            file: self.file(index),
            opcode: OPCODE_READ,
            cookie: std::ptr::without_provenance_mut(index as usize + 1),
        }
    }

    /// Hands what was accepted to idle batches.
    fn start(&mut self) -> Result<()> {
        while let (false, Some(idle)) = (self.accepted.is_empty(), self.batches.iter().position(|b| b.in_flight == 0)) {
            let count = self.accepted.len().min(self.events.len());
            for place in 0..count {
                let index = self.accepted.pop_front().expect("counted");
                self.batches[idle].entries[place] = self.entry(index);
                self.reads[index as usize].as_mut().expect("a read in use").batch = Some(idle);
            }
            let Batch { handle, in_flight, entries } = &mut self.batches[idle];
            *in_flight = count;
            // SAFETY: by the contract of `submit` targets and files stay valid until each entry has ended; the entries
            // live as long as this ring, or for ever.
            let answer = unsafe { (self.library.batch_submit)(*handle, count as u32, entries.as_mut_ptr(), 0) };
            // Some may have been started: none is given back.
            check("cuFileBatchIOSubmit", answer).map_err(|refusal| self.breaks(refusal.to_string(), refusal.errno))?;
        }
        Ok(())
    }

    fn breaks(&mut self, problem: String, code: Option<i32>) -> Error {
        let error = Error::Ring { ring: "cufile", problem, errno: code.unwrap_or(libc::EIO) };
        self.broken.get_or_insert(error).clone()
    }

    /// Asks every batch in flight for its events.
    fn reap(&mut self, out: &mut Vec<Completion>) -> Result<()> {
        out.append(&mut self.refused);
        for batch in 0..self.batches.len() {
            let Batch { handle, in_flight, .. } = self.batches[batch];
            if in_flight == 0 {
                continue;
            }
            let mut count = in_flight as u32;
            let mut no_wait = libc::timespec { tv_sec: 0, tv_nsec: 0 };
            let events = self.events.as_mut_ptr();
            // SAFETY: there is room for as many events as a batch has entries; cuFile keeps no pointer.
            let answer = unsafe { (self.library.batch_status)(handle, 0, &mut count, events, &mut no_wait) };
            check("cuFileBatchIOGetStatus", answer)
                .map_err(|refusal| self.breaks(refusal.to_string(), refusal.errno))?;
            for place in 0..(count as usize).min(in_flight) {
                let event = self.events[place];
                out.extend(self.end(batch, event)?);
            }
        }
        Ok(())
    }

    /// What an event means for its read.
    fn end(&mut self, batch: usize, event: Event) -> Result<Option<Completion>> {
        let index = event.cookie.addr().wrapping_sub(1);
        let reading = self.reads.get(index).and_then(Option::as_ref).filter(|reading| reading.batch == Some(batch));
        let Some(&Reading { read: RawRead { token, len, .. }, .. }) = reading else {
            return Err(self.breaks("cuFile told of a read that is not in flight".into(), None));
        };
        let result = match (event.status, event.result as isize) {
            (status::WAITING | status::PENDING, _) => return Ok(None),
            (status::COMPLETE, bytes @ 0..) if bytes <= len as isize => bytes as i32,
            (status::COMPLETE | status::FAILED | status::INVALID, code @ -9999..0) => code as i32,
            (status::COMPLETE | status::FAILED | status::INVALID, _) => -libc::EIO,
            // Given up or cancelled: its bytes may still come.
            (given_up, _) => {
                let problem = format!("cuFile gave up on a read (status {given_up:#x})");
                return Err(self.breaks(problem, Some(libc::ETIMEDOUT)));
            }
        };
        self.reads[index] = None; // and with it the file that is its own
        self.free.push(index as u32);
        self.batches[batch].in_flight -= 1;
        Ok(Some(Completion { token, result }))
    }
}

// SAFETY: an entry is given to one batch once, and its completion goes out when cuFile has told of its end, which is after
// its last write. What it gave up or never told of does not go out. Dropping with reads in flight leaves all to cuFile.
unsafe impl Ring for Cufile {
    fn name(&self) -> &'static str {
        "cufile"
    }

    fn capacity(&self) -> usize {
        self.depth
    }

    fn writes_to_device(&self) -> bool {
        true
    }

    unsafe fn register_memory(&mut self, base: NonNull<u8>, bytes: usize) -> Registered {
        // SAFETY: the caller keeps the memory until this ring is dropped, which takes the registration back, or for ever.
        let answer = unsafe { (self.library.buffer_register)(base.as_ptr().cast(), bytes, 0) };
        if answer.code != 0 {
            return Registered::No(answer.code);
        }
        let start = base.addr().get();
        self.buffers.push(start..start + bytes);
        Registered::Yes
    }

    fn register_file(&mut self, slot: u32, fd: RawFd) -> Registered {
        let slot = slot as usize;
        if self.files.len() <= slot {
            self.files.resize_with(slot + 1, || None);
        }
        self.files[slot] = None; // the old one first
        let file = OpenFile::new(self.library, fd);
        let answer = file.as_ref().map_or_else(|&code| Registered::No(code), |_| Registered::Yes);
        self.files[slot] = Some(file);
        answer
    }

    unsafe fn submit(&mut self, read: RawRead) -> Result<()> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        if self.in_flight() == self.depth {
            return Err(Error::Ring { ring: "cufile", problem: "submit".into(), errno: libc::EBUSY });
        }
        let together = read.offset | u64::from(read.len) | read.target.addr().get() as u64;
        let unaligned = !together.is_multiple_of(ALIGN);
        let registered = read.file_slot.and_then(|slot| self.files.get(slot as usize)).and_then(Option::as_ref);
        let own = match registered {
            _ if unaligned => Err(libc::EINVAL),
            Some(file) => file.as_ref().map(|_| None).map_err(|&code| code),
            None => OpenFile::new(self.library, read.fd).map(Some),
        };
        match own {
            Ok(own) => {
                let index = self.free.pop().expect("fewer in flight than the depth");
                self.reads[index as usize] = Some(Reading { read, own, batch: None });
                self.accepted.push_back(index);
            }
            Err(code) => self.refused.push(Completion { token: read.token, result: -code }),
        }
        Ok(())
    }

    fn poll(&mut self, want: usize, timeout: Duration, out: &mut Vec<Completion>) -> Result<()> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        let want = out.len() + want.min(self.in_flight());
        let deadline = Instant::now() + timeout;
        loop {
            self.start()?;
            self.reap(out)?;
            let left = deadline.saturating_duration_since(Instant::now());
            if out.len() >= want || left.is_zero() {
                return self.start(); // in the batches that became idle
            }
            if wait_readable([self.wake_fd, -1, -1], left.min(POLL_SLEEP))[0] {
                self.reap(out)?;
                return self.start();
            }
        }
    }

    fn wake_by(&mut self, fd: RawFd) {
        self.wake_fd = fd;
    }
}

impl Drop for Cufile {
    fn drop(&mut self) {
        if self.batches.iter().any(|batch| batch.in_flight > 0) {
            // cuFile still writes: it keeps files, entries and registrations.
            std::mem::forget(std::mem::take(&mut self.files));
            std::mem::forget(std::mem::take(&mut self.reads));
            return std::mem::forget(std::mem::take(&mut self.batches));
        }
        for batch in &self.batches {
            // SAFETY: set up in `new`, idle, and not used again.
            unsafe { (self.library.batch_destroy)(batch.handle) };
        }
        for buffer in &self.buffers {
            // SAFETY: registered in `register_memory`; nothing is in flight, and the memory is still there.
            let answer = unsafe { (self.library.buffer_deregister)(std::ptr::without_provenance(buffer.start)) };
            if answer.code != 0 {
                tracing::warn!(code = answer.code, "cuFile did not take a registration back");
            }
        }
    }
}
