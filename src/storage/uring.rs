//! The io_uring ring: registered memory, registered files, one system call to start and to wait.

use std::io;
use std::os::fd::RawFd;
use std::ptr::NonNull;
use std::time::Duration;

use io_uring::types::{Fd, Fixed, SubmitArgs, Timespec};
use io_uring::{Builder, IoUring, opcode, squeue};

use super::{Completion, Event, RawRead, RawWrite, Registered, Ring};
use crate::error::{Error, Result};

/// io_uring on the thread that made it: the kernel binds the fastest set-up to one thread.
pub struct Uring {
    ring: IoUring,
    depth: usize,
    in_flight: usize,
    buffers: Vec<Buffer>,
    /// Places for registered files, or why there are none.
    file_slots: Result<u32, i32>,
    flags: &'static str,
    min_wait: bool,
    /// Set by the kernel at the end of each read, once somebody has asked for it.
    event: Option<Event>,
    /// Ends waits; -1 for none.
    wake_fd: RawFd,
    /// The kernel looks at it.
    watched: bool,
}

/// A registered range; its place in `Uring::buffers` is the kernel's index.
struct Buffer {
    start: usize,
    end: usize,
}

/// The largest buffer that the kernel registers (`io_uring/rsrc.c`).
const BUFFER_BYTES_MAX: usize = 1 << 30;
/// How long a wait for several reads may go on after the first of them. A wake-up counts as one of them.
const MIN_WAIT_US: u32 = 200;
/// The token of the entry that watches `wake_fd`.
const WAKE: u64 = u64::MAX;

type Rung = (&'static str, fn(&mut Builder));

/// Set-ups from the fastest to the plainest; EINVAL means that this kernel is too old for one.
const LADDER: [Rung; 4] = [
    ("single issuer, deferred task work, no sq array", |b| {
        b.setup_single_issuer().setup_defer_taskrun().setup_submit_all().setup_no_sqarray();
    }),
    ("single issuer, deferred task work", |b| {
        b.setup_single_issuer().setup_defer_taskrun().setup_submit_all();
    }),
    ("cooperative task work", |b| {
        b.setup_coop_taskrun().setup_submit_all();
    }),
    ("plain", |_| {}),
];

impl Uring {
    /// A ring for `depth` reads and writes in flight over `files` open files, to be used by the calling thread only.
    ///
    /// Fails with [`Error::Ring`] where io_uring is refused (EPERM, ENOSYS), where locked memory is short (ENOMEM),
    /// or where the kernel is older than 5.11 and cannot wait with a timeout (ENOSYS).
    pub fn new(depth: usize, files: usize) -> Result<Uring> {
        let refused = |e: io::Error| Error::Ring {
            ring: "uring",
            problem: "io_uring_setup".into(),
            errno: e.raw_os_error().unwrap_or(libc::EIO),
        };
        // One more, for what ends waits.
        let entries = (depth.max(1) + 1).next_power_of_two().min(32768) as u32;
        let mut last = io::Error::from_raw_os_error(libc::EINVAL);
        for (flags, set) in LADDER {
            let mut builder = IoUring::builder();
            set(&mut builder);
            builder.dontfork();
            match builder.build(entries) {
                Ok(ring) if !ring.params().is_feature_ext_arg() => {
                    return Err(refused(io::Error::from_raw_os_error(libc::ENOSYS)));
                }
                Ok(ring) => return Ok(Uring::with(ring, depth.max(1), files as u32, flags)),
                Err(e) if e.raw_os_error() == Some(libc::EINVAL) => last = e,
                Err(e) => return Err(refused(e)),
            }
        }
        Err(refused(last))
    }

    /// The set-up that this kernel took.
    pub fn flags(&self) -> &'static str {
        self.flags
    }

    fn with(ring: IoUring, depth: usize, files: u32, flags: &'static str) -> Uring {
        // Both only save time: a filter that forbids io_uring_register leaves a ring that works.
        let registered = ring.submitter().register_files_sparse(files);
        let file_slots = registered.map(|()| files).map_err(|e| e.raw_os_error().unwrap_or(libc::EIO));
        let _ = ring.submitter().register_ring_fd();
        let min_wait = ring.params().is_feature_min_timeout();
        Uring {
            ring,
            depth,
            in_flight: 0,
            buffers: Vec::new(),
            file_slots,
            flags,
            min_wait,
            event: None,
            wake_fd: -1,
            watched: false,
        }
    }

    /// The registered buffer that holds this memory.
    fn buffer(&self, base: NonNull<u8>, len: u32) -> Option<usize> {
        let start = base.as_ptr() as usize;
        let end = start + len as usize;
        self.buffers.iter().position(|b| b.start <= start && end <= b.end)
    }

    fn write_entry(&self, write: &RawWrite) -> squeue::Entry {
        let RawWrite { fd, offset, len, source, token } = *write;
        let entry = match self.buffer(source, len) {
            Some(index) => opcode::WriteFixed::new(Fd(fd), source.as_ptr(), len, index as u16).offset(offset).build(),
            None => opcode::Write::new(Fd(fd), source.as_ptr(), len).offset(offset).build(),
        };
        entry.user_data(token)
    }

    fn push(&mut self, entry: squeue::Entry) -> Result<()> {
        let full = || Error::Ring { ring: "uring", problem: "submit".into(), errno: libc::EBUSY };
        if self.in_flight == self.depth {
            return Err(full());
        }
        // SAFETY: the caller of `submit` or `submit_write` keeps memory and file alive until the completion; the entry
        // holds no other pointer.
        unsafe { self.ring.submission().push(&entry) }.map_err(|_| full())?;
        self.in_flight += 1;
        Ok(())
    }

    fn entry(&self, read: &RawRead) -> squeue::Entry {
        let buffer = self.buffer(read.target, read.len);
        let slot = read.file_slot.filter(|&slot| self.file_slots.is_ok_and(|slots| slot < slots));
        let (target, offset, flags) = (read.target.as_ptr(), read.offset, read.rw_flags);
        macro_rules! read {
            ($file:expr) => {
                match buffer {
                    Some(index) => opcode::ReadFixed::new($file, target, read.len, index as u16)
                        .offset(offset)
                        .rw_flags(flags)
                        .build(),
                    None => opcode::Read::new($file, target, read.len).offset(offset).rw_flags(flags).build(),
                }
            };
        }
        let entry = match slot {
            Some(slot) => read!(Fixed(slot)),
            None => read!(Fd(read.fd)),
        };
        entry.user_data(read.token)
    }

    /// Has the kernel look at `wake_fd`, unless it does. It answers once, so nothing is left to do while nobody wakes.
    fn watch(&mut self) {
        if self.wake_fd >= 0 && !self.watched {
            let entry = opcode::PollAdd::new(Fd(self.wake_fd), libc::POLLIN as u32).build().user_data(WAKE);
            // SAFETY: the entry holds no pointer.
            self.watched = unsafe { self.ring.submission().push(&entry) }.is_ok();
        }
    }

    fn reap(&mut self, out: &mut Vec<Completion>) {
        for entry in self.ring.completion() {
            if entry.user_data() == WAKE {
                self.watched = false;
                continue;
            }
            self.in_flight -= 1;
            out.push(Completion { token: entry.user_data(), result: entry.result() });
        }
    }
}

// SAFETY: a token is pushed to the submission queue once and the kernel answers each entry with exactly one
// completion, after its last use of the memory; the completion queue is never smaller than twice what is accepted, so none is lost. Dropping closes the ring without waiting, as the contract allows.
unsafe impl Ring for Uring {
    fn name(&self) -> &'static str {
        "uring"
    }

    fn capacity(&self) -> usize {
        self.depth
    }

    unsafe fn register_memory(&mut self, base: NonNull<u8>, bytes: usize) -> Registered {
        if !self.buffers.is_empty() {
            return Registered::No(libc::EBUSY); // the kernel takes one table; the engine registers one arena
        }
        let start = base.as_ptr() as usize;
        let buffers: Vec<Buffer> = (0..bytes)
            .step_by(BUFFER_BYTES_MAX)
            .map(|at| Buffer { start: start + at, end: start + bytes.min(at + BUFFER_BYTES_MAX) })
            .collect();
        let vectors: Vec<libc::iovec> = buffers
            .iter()
            .map(|b| libc::iovec { iov_base: b.start as *mut libc::c_void, iov_len: b.end - b.start })
            .collect();
        // SAFETY: the caller keeps the memory mapped until this ring is dropped.
        match unsafe { self.ring.submitter().register_buffers(&vectors) } {
            Ok(()) => {
                self.buffers = buffers;
                Registered::Yes
            }
            Err(e) => Registered::No(e.raw_os_error().unwrap_or(libc::EIO)),
        }
    }

    fn register_file(&mut self, slot: u32, fd: RawFd) -> Registered {
        let answer = match self.file_slots {
            Ok(slots) if slot >= slots => return Registered::NotNeeded,
            Ok(_) => self.ring.submitter().register_files_update(slot, &[fd]).map(drop),
            Err(errno) => return Registered::No(errno),
        };
        match answer.map_err(|e| e.raw_os_error().unwrap_or(libc::EIO)) {
            Ok(()) => Registered::Yes,
            Err(errno) => {
                self.file_slots = Err(errno); // from here on by descriptor
                Registered::No(errno)
            }
        }
    }

    unsafe fn submit(&mut self, read: RawRead) -> Result<()> {
        self.push(self.entry(&read))
    }

    unsafe fn submit_write(&mut self, write: RawWrite) -> Result<()> {
        self.push(self.write_entry(&write))
    }

    fn poll(&mut self, want: usize, timeout: Duration, out: &mut Vec<Completion>) -> Result<()> {
        if let Some(event) = &self.event {
            event.clear(); // before looking: what ends afterwards sets it again
        }
        let want = want.min(self.in_flight);
        if want > 0 {
            self.watch();
        }
        let time = Timespec::from(timeout);
        let mut args = SubmitArgs::new().timespec(&time);
        if self.min_wait && want > 1 {
            args = args.min_wait_usec(MIN_WAIT_US);
        }
        // Without want, one entry into the kernel starts what was submitted and runs deferred completions.
        let entered = if want > 0 {
            self.ring.submitter().submit_with_args(want, &args)
        } else {
            let to_submit = self.ring.submission().len() as u32;
            // SAFETY: no argument structure is passed; IORING_ENTER_GETEVENTS (1) waits for nothing here.
            unsafe { self.ring.submitter().enter::<libc::sigset_t>(to_submit, 0, 1, None) }
        };
        self.reap(out);
        match entered.map_err(|e| e.raw_os_error().unwrap_or(libc::EIO)) {
            // ETIME: the timeout. EINTR: a signal. EAGAIN, EBUSY: the kernel is short of requests until some are
            // reaped, which has just happened; the next poll submits the rest.
            Ok(_) | Err(libc::ETIME | libc::EINTR | libc::EAGAIN | libc::EBUSY) => Ok(()),
            Err(errno) => Err(Error::Ring { ring: "uring", problem: "io_uring_enter".into(), errno }),
        }
    }

    /// Not the ring's own descriptor: with deferred task work, the end of a read does not wake poll(2) on that one.
    fn wait_fd(&mut self) -> Option<RawFd> {
        if self.event.is_none() {
            let event = Event::new().ok()?;
            self.ring.submitter().register_eventfd(event.fd()).ok()?;
            self.event = Some(event);
        }
        self.event.as_ref().map(Event::fd)
    }

    fn wake_by(&mut self, fd: RawFd) {
        self.wake_fd = fd;
    }
}
