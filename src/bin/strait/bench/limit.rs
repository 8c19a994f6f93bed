//! The limit: what a plain io_uring loop gets out of the same files. Deliberately simple; it is the yardstick.
//!
//! Buffers are plain 4 KiB pages, registered, as fio's are; files are registered; reads are O_DIRECT.

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::AsRawFd;
use std::thread;
use std::time::Duration;

use io_uring::{IoUring, opcode, squeue, types};

use super::blocks::{self, Blocks, Came, Files, is_busy, read_failure};
use super::limit_pread;
use super::measure::{Clock, Measure};
use super::progress::Watch;
use super::request::Request;
use crate::failure::{Failure, Result};
use crate::linux::pages::Pages;
use crate::linux::{errno, errno_name};

/// A kernel that has no request free for so long has none to give.
const BUSY_WAIT: Duration = Duration::from_millis(1);
const BUSY_WAITS_MAX: usize = 1000;

/// One run of the reference, and how it read.
pub(super) struct Limit {
    pub(super) measure: Measure,
    pub(super) how: String,
}

pub(super) fn run(request: &Request, watch: &mut Watch) -> Result<Limit> {
    let files = blocks::open(request)?;
    let block_bytes = request.reference_bytes();
    let blocks = Blocks::new(&files.bytes, block_bytes, request.shuffle.then_some(request.seed));
    let ring = match ring(request.depth) {
        Ok(ring) => ring,
        Err(error) => {
            let refused = errno_name(errno(&error));
            let (measure, threads) = limit_pread::run(request, &files, &blocks, watch)?;
            return Ok(Limit { measure, how: format!("{threads}, {} (io_uring: {refused})", files.mode) });
        }
    };
    let buffers = Pages::new(block_bytes as usize * request.depth).map_err(no_memory)?;
    let mut reader = Reader::new(ring, buffers, files, request, block_bytes as usize);
    watch.start();
    let clock = Clock::start();
    let bytes = reader.read_all(&blocks, watch)?;
    Ok(Limit { measure: clock.stop(bytes), how: reader.how.clone() })
}

pub(super) fn no_memory(error: io::Error) -> Failure {
    Failure::new("no memory for the buffers of the limit", error.to_string(), "lower --depth or --block-bytes")
}

/// With the flags that fio asks for, where the kernel has them.
fn ring(depth: usize) -> io::Result<IoUring> {
    let entries = (depth as u32).next_power_of_two();
    let mut builder = IoUring::builder();
    builder.setup_single_issuer().setup_defer_taskrun().build(entries).or_else(|_| IoUring::new(entries))
}

/// Owns the ring and the memory that its reads write to.
struct Reader<'a> {
    ring: IoUring,
    buffers: ManuallyDrop<Pages>,
    buffer_bytes: usize,
    files: Files,
    request: &'a Request,
    in_flight: usize,
    /// File and offset of the read that each buffer holds, and how often it was tried again.
    reads: Vec<(usize, u64, u32)>,
    fixed_buffers: bool,
    fixed_files: bool,
    how: String,
}

impl<'a> Reader<'a> {
    fn new(ring: IoUring, buffers: Pages, files: Files, request: &'a Request, buffer_bytes: usize) -> Reader<'a> {
        let part = |i: usize| libc::iovec {
            iov_base: buffers.base().as_ptr().wrapping_add(i * buffer_bytes).cast(),
            iov_len: buffer_bytes,
        };
        let parts: Vec<libc::iovec> = (0..request.depth).map(part).collect();
        // SAFETY: the parts lie inside `buffers`, which Drop frees only after the last read has completed; the ring,
        // which holds the registration, is dropped by the same Drop's caller right after.
        let registered = unsafe { ring.submitter().register_buffers(&parts) };
        let fds: Vec<i32> = files.files.iter().map(AsRawFd::as_raw_fd).collect();
        let fixed_files = ring.submitter().register_files(&fds).is_ok();
        let buffers_how = match &registered {
            Ok(()) => "registered buffers".to_owned(),
            Err(error) => format!("plain buffers ({})", errno_name(errno(error))),
        };
        let how = format!("io_uring, {}, {buffers_how}", files.mode);
        Reader {
            ring,
            buffers: ManuallyDrop::new(buffers),
            buffer_bytes,
            files,
            request,
            in_flight: 0,
            reads: vec![(0, 0, 0); request.depth],
            fixed_buffers: registered.is_ok(),
            fixed_files,
            how,
        }
    }

    /// Keeps `depth` reads in flight until every block was read or the time is up; gives the bytes read.
    fn read_all(&mut self, blocks: &Blocks, watch: &mut Watch) -> Result<u64> {
        let (mut next, mut bytes, mut last_tick) = (0, 0, 0);
        let mut free: Vec<usize> = (0..self.request.depth).collect();
        let mut go_on = true;
        while self.in_flight > 0 || (go_on && next < blocks.len()) {
            while go_on && next < blocks.len() {
                let Some(buffer) = free.pop() else { break };
                let (file, offset) = blocks.at(next);
                self.reads[buffer] = (file, offset, 0);
                self.submit(buffer);
                next += 1;
            }
            self.enter().map_err(|error| Failure::new("io_uring_enter failed", error.to_string(), ""))?;
            loop {
                let Some(completion) = self.ring.completion().next() else { break };
                self.in_flight -= 1;
                let buffer = completion.user_data() as usize;
                let (file, offset, tries) = &mut self.reads[buffer];
                match blocks::judge(completion.result(), tries) {
                    Came::Bytes(count) => {
                        bytes += count;
                        free.push(buffer);
                    }
                    Came::Again => self.submit(buffer),
                    Came::Failed(errno) => return Err(read_failure(&self.request.paths[*file], *offset, errno)),
                }
            }
            // Looking at the clock for every 4 KiB would be measured, too.
            if bytes - last_tick >= 4 << 20 || self.buffer_bytes >= 1 << 20 {
                last_tick = bytes;
                go_on = watch.tick(bytes)?;
            }
        }
        Ok(bytes)
    }

    /// Starts what was pushed, and waits until a read has ended. A kernel that is short of requests has some again soon, or
    /// once ended reads have been reaped.
    fn enter(&mut self) -> io::Result<()> {
        for _ in 0..BUSY_WAITS_MAX {
            match self.ring.submit_and_wait(1) {
                Err(error) if !is_busy(errno(&error)) => return Err(error),
                Err(error) if errno(&error) != libc::EINTR && self.ring.completion().is_empty() => {
                    thread::sleep(BUSY_WAIT);
                }
                _ => return Ok(()),
            }
        }
        Err(io::Error::from_raw_os_error(libc::EBUSY))
    }

    /// Pushes the read that is noted for this buffer.
    fn submit(&mut self, buffer: usize) {
        let (file, offset, _) = self.reads[buffer];
        let target = self.buffers.base().as_ptr().wrapping_add(buffer * self.buffer_bytes);
        let len = self.buffer_bytes as u32;
        let fd = self.files.files[file].as_raw_fd();
        let entry: squeue::Entry = match (self.fixed_buffers, self.fixed_files) {
            (true, true) => {
                opcode::ReadFixed::new(types::Fixed(file as u32), target, len, buffer as u16).offset(offset).build()
            }
            (true, false) => opcode::ReadFixed::new(types::Fd(fd), target, len, buffer as u16).offset(offset).build(),
            (false, _) => opcode::Read::new(types::Fd(fd), target, len).offset(offset).build(),
        };
        // SAFETY: the buffer is free (it came from the free list, or its read has ended), and Drop keeps it and the file until its
        // completion. The queue has at least `depth` entries and at most `depth` reads are in flight, so the push fits.
        unsafe { self.ring.submission().push(&entry.user_data(buffer as u64)) }.expect("a queue of `depth` entries");
        self.in_flight += 1;
    }
}

impl Drop for Reader<'_> {
    /// Closing a ring does not end its reads: count them home before their memory goes.
    fn drop(&mut self) {
        while self.in_flight > 0 {
            if self.enter().is_err() {
                return; // The memory is leaked, not freed.
            }
            self.in_flight -= self.ring.completion().count();
        }
        // SAFETY: dropped once, here; no read is in flight any more.
        unsafe { ManuallyDrop::drop(&mut self.buffers) }
    }
}
