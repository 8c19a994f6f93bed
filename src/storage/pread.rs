//! The pread ring: a few threads that call `preadv2` and `pwritev2`, where io_uring is refused or no better.

use std::io;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam::channel::{self, Receiver, Sender};

use super::{Completion, Event, RawRead, RawWrite, Ring, wait_readable};
use crate::error::{Error, NO_THREAD, Result};
use crate::stats::Fallback;

/// Threads beyond this give no more throughput to one consumer, and cost memory.
const THREADS_MAX: usize = 8;

/// A bounded pool of threads.
pub struct Pread {
    depth: usize,
    in_flight: usize,
    work: Option<Sender<Work>>,
    done: Arc<Done>,
    threads: Vec<JoinHandle<()>>,
    /// Ends waits; -1 for none.
    wake_fd: RawFd,
}

enum Work {
    Read(RawRead),
    Write(RawWrite),
}

/// Where threads leave completions. The event counter is readable while there are some.
struct Done {
    completions: Mutex<Vec<Completion>>,
    event: Event,
}

impl Pread {
    /// A pool for `depth` reads and writes in flight, on at most eight threads: those that are to be had, if it is only one.
    pub fn new(depth: usize) -> Result<Pread> {
        Ok(Pread::start(depth)?.0)
    }

    /// The same, and what is to be said where it got fewer threads than it wanted.
    pub(crate) fn start(depth: usize) -> Result<(Pread, Option<Fallback>)> {
        let spawn = |i: usize, life: Box<dyn FnOnce() + Send>| {
            thread::Builder::new().name(format!("strait-pread-{i}")).spawn(life)
        };
        Pread::start_with(depth, spawn)
    }

    fn start_with(
        depth: usize,
        spawn: impl Fn(usize, Box<dyn FnOnce() + Send>) -> io::Result<JoinHandle<()>>,
    ) -> Result<(Pread, Option<Fallback>)> {
        let depth = depth.max(1);
        let refused = |problem: &str, e: io::Error| Error::Ring {
            ring: "pread",
            problem: problem.into(),
            errno: e.raw_os_error().unwrap_or(libc::EAGAIN),
        };
        let event = Event::new().map_err(|e| refused("eventfd", e))?;
        let done = Arc::new(Done { completions: Mutex::new(Vec::with_capacity(depth)), event });
        let (sender, work) = channel::bounded(depth);
        let mut pool = Pread { depth, in_flight: 0, work: Some(sender), done, threads: Vec::new(), wake_fd: -1 };
        let wanted = depth.min(THREADS_MAX);
        for i in 0..wanted {
            let (work, done) = (work.clone(), pool.done.clone());
            match spawn(i, Box::new(move || serve(&work, &done))) {
                Ok(thread) => pool.threads.push(thread),
                Err(e) if i == 0 => return Err(refused(&format!("cannot start a thread ({NO_THREAD})"), e)),
                Err(e) => return Ok((pool, Some(fewer(i, wanted, &e)))),
            }
        }
        Ok((pool, None))
    }
}

fn fewer(threads: usize, wanted: usize, e: &io::Error) -> Fallback {
    Fallback {
        instead: format!("{threads} threads that read and write instead of {wanted}"),
        reason: "no more could be started".into(),
        errno: e.raw_os_error(),
        remedy: NO_THREAD,
    }
}

impl Pread {
    fn send(&mut self, work: Work) -> Result<()> {
        let full = || Error::Ring { ring: "pread", problem: "submit".into(), errno: libc::EBUSY };
        if self.in_flight == self.depth {
            return Err(full());
        }
        self.work.as_ref().expect("open until drop").try_send(work).map_err(|_| full())?;
        self.in_flight += 1;
        Ok(())
    }
}

fn serve(work: &Receiver<Work>, done: &Done) {
    for work in work {
        let (token, got) = match work {
            Work::Read(read) => {
                let vector = libc::iovec { iov_base: read.target.as_ptr().cast(), iov_len: read.len as usize };
                // SAFETY: by the contract of `Ring::submit` target and file stay valid, and the target is ours alone,
                // until the completion is pushed below.
                let got = unsafe { libc::preadv2(read.fd, &raw const vector, 1, read.offset as i64, read.rw_flags) };
                (read.token, got)
            }
            Work::Write(write) => {
                let vector = libc::iovec { iov_base: write.source.as_ptr().cast(), iov_len: write.len as usize };
                // SAFETY: by the contract of `Ring::submit_write` source and file stay valid, and nobody writes to the
                // source, until the completion is pushed below.
                let put = unsafe { libc::pwritev2(write.fd, &raw const vector, 1, write.offset as i64, 0) };
                (write.token, put)
            }
        };
        let result = match got {
            -1 => -io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO),
            got => got as i32,
        };
        let mut completions = done.completions.lock().unwrap_or_else(|e| e.into_inner());
        completions.push(Completion { token, result });
        if completions.len() == 1 {
            done.event.set();
        }
    }
}

impl Done {
    /// Takes what there is, and with it the event.
    fn take(&self, out: &mut Vec<Completion>) -> usize {
        let mut completions = self.completions.lock().unwrap_or_else(|e| e.into_inner());
        let taken = completions.len();
        if taken > 0 {
            self.event.clear();
            out.append(&mut completions);
        }
        taken
    }
}

// SAFETY: a read or write goes through the channel to one thread, which pushes its completion once, after the system
// call that uses the memory has returned. Dropping with some in flight leaves the threads to finish them.
unsafe impl Ring for Pread {
    fn name(&self) -> &'static str {
        "pread"
    }

    fn capacity(&self) -> usize {
        self.depth
    }

    unsafe fn submit(&mut self, read: RawRead) -> Result<()> {
        self.send(Work::Read(read))
    }

    unsafe fn submit_write(&mut self, write: RawWrite) -> Result<()> {
        self.send(Work::Write(write))
    }

    fn poll(&mut self, want: usize, timeout: Duration, out: &mut Vec<Completion>) -> Result<()> {
        let want = want.min(self.in_flight);
        let deadline = Instant::now() + timeout;
        let mut taken = self.done.take(out);
        while taken < want {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let [_, woken, _] = wait_readable([self.done.event.fd(), self.wake_fd, -1], left);
            taken += self.done.take(out);
            if woken {
                break;
            }
        }
        self.in_flight -= taken;
        Ok(())
    }

    fn wait_fd(&mut self) -> Option<RawFd> {
        Some(self.done.event.fd())
    }

    fn wake_by(&mut self, fd: RawFd) {
        self.wake_fd = fd;
    }
}

impl Drop for Pread {
    fn drop(&mut self) {
        self.work = None; // threads end after what they have accepted
        if self.in_flight == 0 {
            for thread in self.threads.drain(..) {
                let _ = thread.join();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ptr::NonNull;

    use super::*;

    /// Mutants that this catches: all threads or an error; fewer of them, and nobody is told; none, and no error.
    #[test]
    fn it_goes_on_with_the_threads_that_there_are() {
        let limited = |most: usize| {
            let spawn = move |i, life: Box<dyn FnOnce() + Send>| match i < most {
                true => thread::Builder::new().spawn(life),
                false => Err(io::Error::from_raw_os_error(libc::EAGAIN)),
            };
            Pread::start_with(4, spawn)
        };
        assert!(limited(4).unwrap().1.is_none());
        let error = limited(0).err().unwrap().to_string();
        assert!(error.contains("cannot start a thread") && error.contains("ulimit -u"), "{error}");
        let (mut pool, fallback) = limited(1).unwrap();
        let text = fallback.unwrap().to_string();
        assert!(text.contains("1 threads") && text.contains("of 4") && text.contains("ulimit -u"), "{text}");
        let file = std::fs::File::open(std::env::current_exe().unwrap()).unwrap();
        let mut bytes = [[0u8; 64]; 4];
        for (token, target) in (0..).zip(&mut bytes) {
            let (fd, target) = (std::os::fd::AsRawFd::as_raw_fd(&file), NonNull::from(target).cast());
            let read = RawRead { fd, file_slot: None, offset: 0, len: 64, target, rw_flags: 0, token };
            // SAFETY: file and bytes outlive the pool, which is waited for below.
            unsafe { pool.submit(read) }.unwrap();
        }
        let mut ends = Vec::new();
        while ends.len() < 4 {
            pool.poll(1, Duration::from_secs(20), &mut ends).unwrap();
        }
        assert!(ends.iter().all(|end| end.result == 64) && bytes.iter().all(|own| own.starts_with(b"\x7fELF")));
    }
}
