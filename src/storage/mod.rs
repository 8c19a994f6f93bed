//! How bytes get from a file into host memory and back: rings, and the queues that own memory while a ring uses it.
//!
//! A [`Ring`] is a narrow unsafe seam: it starts reads and writes and tells when they ended, nothing more. `ReadQueue` and
//! `WriteQueue` are the safe owners above it: they hold the memory in flight, continue what ended short, retry, and drain
//! by counting.

mod attempt;
mod awake;
mod cufile;
mod drain;
mod event;
mod files;
mod lease;
mod new_file;
mod places;
mod pread;
mod probe;
mod reads;
mod sim;
mod uring;
mod writes;

use awake::Awake;
pub use cufile::{Cufile, Enter, Surroundings};
use drain::drain;
pub(crate) use event::Waker;
use event::{Event, wait_readable};
pub(crate) use files::{Opening, ShardFile};
pub(crate) use lease::Memory;
pub(crate) use new_file::{DIRECT_ALIGN, NewFile, open_files_room, sync_directory};
pub use pread::Pread;
use probe::dio_align;
pub use probe::{Mode, Probed, Prober, Way};
pub(crate) use reads::{Accepted, Damage, Landed, LandingId, Options, ReadQueue, Want};
pub use sim::{Faults, SimRing};
pub use uring::Uring;
pub(crate) use writes::{Put, WriteFile, WriteQueue};

use std::os::fd::RawFd;
use std::ptr::NonNull;
use std::time::Duration;

use crate::error::{Error, Result};

/// One read, as a ring sees it.
#[derive(Debug, Clone, Copy)]
pub struct RawRead {
    /// The open file. It stays open until the completion.
    pub fd: RawFd,
    /// Where that file is registered with the ring ([`Ring::register_file`]), if it is.
    pub file_slot: Option<u32>,
    /// First byte, from the start of the file.
    pub offset: u64,
    /// Bytes to read.
    pub len: u32,
    /// Where the bytes go.
    pub target: NonNull<u8>,
    /// `preadv2` flags (`RWF_*` of `linux/fs.h`).
    pub rw_flags: i32,
    /// Comes back in the [`Completion`]. Any number but `u64::MAX`.
    pub token: u64,
}

// SAFETY: the pointer is an address handed to the kernel or to a pool thread; whoever submits a RawRead keeps the
// target valid and unshared until its completion (contract of `Ring::submit`), on whatever thread that happens.
unsafe impl Send for RawRead {}

/// One write, as a ring sees it.
#[derive(Debug, Clone, Copy)]
pub struct RawWrite {
    /// The open file. It stays open until the completion.
    pub fd: RawFd,
    /// Where the first byte goes, from the start of the file.
    pub offset: u64,
    /// Bytes to write.
    pub len: u32,
    /// Where the bytes are.
    pub source: NonNull<u8>,
    /// Comes back in the [`Completion`]. Any number but `u64::MAX`.
    pub token: u64,
}

// SAFETY: as for RawRead; the source is valid and nobody writes to it until the completion.
unsafe impl Send for RawWrite {}

/// The end of one read or write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completion {
    /// The token of the read or write.
    pub token: u64,
    /// Bytes read (0: at or past the end of the file) or written, or `-errno`; of cuFile also its own code, negated: -5001
    /// and below.
    pub result: i32,
}

/// Whether memory or a file could be registered with a ring; if not, reads work all the same and cost more CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registered {
    /// It is.
    Yes,
    /// The kernel refused, with this errno.
    No(i32),
    /// This ring has nothing to register.
    NotNeeded,
}

/// What to do where a filter answers `io_uring_register`.
pub(crate) const REGISTER_FORBIDDEN: &str =
    "allow io_uring_register in the container's seccomp profile; costs CPU per read, not correctness";

/// A storage backend: starts reads and writes, reports their ends.
///
/// # Safety
/// An implementation promises: every token accepted by [`submit`](Ring::submit) or [`submit_write`](Ring::submit_write)
/// comes out of [`poll`](Ring::poll) exactly once, and nothing writes to that read's target, or reads that write's
/// source, after that. Closing or dropping a ring is *not* a completion: reads may still land in memory afterwards.
pub unsafe trait Ring: Send {
    /// The name in stats and messages: `"uring"`, `"pread"`, `"cufile"`, `"sim"`.
    fn name(&self) -> &'static str;

    /// How many reads and writes may be in flight at once.
    fn capacity(&self) -> usize;

    /// Whether targets may be addresses of a device's memory. No other ring takes over the reads of one that does.
    fn writes_to_device(&self) -> bool {
        false
    }

    /// Announces memory that later reads and writes will use, for rings that register it. At most once per range.
    ///
    /// # Safety
    /// The memory stays mapped until the ring is dropped.
    unsafe fn register_memory(&mut self, _base: NonNull<u8>, _bytes: usize) -> Registered {
        Registered::NotNeeded
    }

    /// Registers `fd` in `slot`, in place of what was there; no read on that slot may be in flight.
    fn register_file(&mut self, _slot: u32, _fd: RawFd) -> Registered {
        Registered::NotNeeded
    }

    /// Accepts one read; it may start now or at the next [`poll`](Ring::poll). Fails only if `capacity` reads are in flight.
    ///
    /// # Safety
    /// Until the completion comes out of `poll`, `read.target` is valid for writes of `read.len` bytes and nothing
    /// else reads or writes it, and `read.fd` stays open.
    unsafe fn submit(&mut self, read: RawRead) -> Result<()>;

    /// Accepts one write, as [`submit`](Ring::submit) accepts a read. A ring that can only read refuses all.
    ///
    /// # Safety
    /// Until the completion comes out of `poll`, `write.source` is valid for reads of `write.len` bytes and nothing
    /// writes to it, and `write.fd` stays open.
    unsafe fn submit_write(&mut self, _write: RawWrite) -> Result<()> {
        Err(Error::Ring { ring: self.name(), problem: "this ring only reads".into(), errno: libc::EOPNOTSUPP })
    }

    /// Starts what was accepted, waits until `want` of it have ended or `timeout` has passed, and appends the ends to
    /// `out`. `want` 0 does not wait. Returning nothing after the timeout is not an error; an error means that the
    /// ring is broken and that reads in flight may never be reported.
    fn poll(&mut self, want: usize, timeout: Duration, out: &mut Vec<Completion>) -> Result<()>;

    /// A file descriptor that is readable once a read has ended since the last [`poll`](Ring::poll), for waiting on
    /// several rings at once. `None` if the ring has nothing of the kind.
    fn wait_fd(&mut self) -> Option<RawFd> {
        None
    }

    /// From here on a [`poll`](Ring::poll) that waits returns early, with what has ended by then, once `fd` is readable: so
    /// other threads end the wait. `fd` stays open as long as the ring is used, and it is the caller who reads it empty. A ring
    /// that cannot do that waits on; what is to be seen then is seen when its wait is over.
    fn wake_by(&mut self, _fd: RawFd) {}
}
