//! The one owner of memory that a ring stores in files.
//!
//! ```text
//!   write(lease) ---> [ lease, file ] ---> every byte stored, or a failure ---> Written { lease, result }
//! ```
//!
//! Writes that end short are continued here, once for all rings, at the last aligned byte; so are retries and the fall
//! from direct to buffered writes. Memory whose writes do not end is leaked with its file, never freed.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::attempt::{Attempt, Progress};
use super::places::Places;
use super::{Awake, Completion, Memory, RawWrite, Ring, drain};
use crate::error::{Error, Result, errno_text};
use crate::sim::Clock;

/// A file that is written. It stays open until its last write has ended.
#[derive(Debug)]
pub(crate) struct WriteFile {
    /// What messages call it: the name that it is to have.
    pub(crate) path: Arc<Path>,
    file: File,
    align: u64,
    direct: AtomicBool,
}

impl WriteFile {
    /// An open file; offsets, lengths and addresses of its writes are multiples of `align` as long as it is `direct`.
    pub(crate) fn new(path: Arc<Path>, file: File, align: u64, direct: bool) -> WriteFile {
        WriteFile { path, file, align: align.max(1), direct: AtomicBool::new(direct) }
    }

    /// The file itself.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Whether the page cache is bypassed.
    pub(crate) fn is_direct(&self) -> bool {
        self.direct.load(Ordering::Relaxed)
    }

    /// A failure to do something with it.
    pub(crate) fn failure(&self, doing: impl Into<String>, offset: u64, errno: i32) -> Error {
        Error::Write { path: self.path.clone(), offset, doing: doing.into(), errno }
    }

    /// Through the page cache from here on. Writes in flight end either way. False if the file cannot change.
    pub(super) fn demote(&self) -> bool {
        // SAFETY: takes and gives flags of an open file; no memory is involved.
        let flags = unsafe { libc::fcntl(self.file.as_raw_fd(), libc::F_GETFL) };
        // SAFETY: as above.
        let set =
            flags >= 0 && unsafe { libc::fcntl(self.file.as_raw_fd(), libc::F_SETFL, flags & !libc::O_DIRECT) } == 0;
        self.direct.store(!set, Ordering::Relaxed);
        set
    }
}

/// One write out of a lease.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Put {
    /// Where the first byte goes, from the start of the file, aligned.
    pub(crate) offset: u64,
    /// Bytes to write, aligned.
    pub(crate) len: u32,
    /// Where in the lease the first byte is, aligned.
    pub(crate) at: usize,
}

/// A write that has ended.
#[derive(Debug)]
pub(crate) struct Written<L> {
    /// The memory, as it was.
    pub(crate) lease: L,
    /// Whether every byte was stored.
    pub(crate) result: Result<()>,
}

struct Writing<L> {
    lease: L,
    file: Arc<WriteFile>,
    put: Put,
    attempt: Attempt,
}

/// Writes in flight, the memory they read, the files they write to.
pub(crate) struct WriteQueue<L: Memory> {
    /// Taken out when it is leaked.
    ring: Option<Box<dyn Ring>>,
    writes: Places<Writing<L>>,
    ended: Vec<Written<L>>,
    completions: Vec<Completion>,
    /// Writes to start again: their ring had no room when they were to be continued.
    again: Vec<u32>,
    clock: Awake,
    depth: usize,
    deadline: Duration,
    /// A direct write that was refused, in words.
    pub(crate) demoted: Option<(Arc<Path>, i32)>,
}

impl<L: Memory> WriteQueue<L> {
    /// A queue of at most `depth` writes over one ring. After `deadline` a write counts as stalled.
    pub(crate) fn new(ring: Box<dyn Ring>, depth: usize, deadline: Duration, clock: Clock) -> WriteQueue<L> {
        let depth = depth.min(ring.capacity()).max(1);
        WriteQueue {
            ring: Some(ring),
            depth,
            writes: Places::new(depth),
            ended: Vec::with_capacity(depth),
            completions: Vec::with_capacity(2 * depth),
            again: Vec::with_capacity(depth),
            clock: Awake::new(clock),
            deadline,
            demoted: None,
        }
    }

    /// The ring below.
    pub(crate) fn ring(&mut self) -> &mut dyn Ring {
        &mut **self.ring.as_mut().expect("there until drop")
    }

    /// Writes in flight.
    pub(crate) fn in_flight(&self) -> usize {
        self.writes.used()
    }

    /// Starts a write out of `lease`, which moves in. It comes back if as many writes are in flight as there may be.
    ///
    /// # Panics
    /// If the write leaves the lease.
    pub(crate) fn write(&mut self, lease: L, file: &Arc<WriteFile>, put: Put) -> Result<(), L> {
        let end = put.at.checked_add(put.len as usize);
        assert!(end.is_some_and(|end| end <= lease.bytes()), "a write outside its lease");
        if self.in_flight() == self.depth {
            return Err(lease);
        }
        let writing = Writing { lease, file: file.clone(), put, attempt: Attempt::first(self.clock.now()) };
        let token = self.writes.put(writing).expect("checked");
        self.start(token);
        Ok(())
    }

    /// How many writes may be in flight.
    pub(crate) fn depth(&self) -> usize {
        self.depth
    }

    /// Starts what was accepted and waits until `want` writes have ended or `timeout` has passed.
    ///
    /// [`Error::Timeout`] names the write that has been in flight for longer than the deadline; it may still end.
    pub(crate) fn wait(&mut self, want: usize, timeout: Duration) -> Result<()> {
        for _ in 0..self.again.len() {
            let token = self.again.swap_remove(0);
            self.start(token);
        }
        let mut ended = std::mem::take(&mut self.completions);
        let start = self.clock.now();
        let polled = self.ring().poll(want, timeout, &mut ended);
        self.clock.waited(start, timeout);
        let none = ended.is_empty();
        for completion in ended.drain(..) {
            self.end(completion);
        }
        self.completions = ended;
        polled?;
        if none { self.check_deadline() } else { Ok(()) }
    }

    /// A write that has ended, if there is one.
    pub(crate) fn reap(&mut self) -> Option<Written<L>> {
        self.ended.pop()
    }

    /// Waits until no write is in flight; false if that did not happen in `timeout`, or if the ring broke.
    pub(crate) fn drain(&mut self, timeout: Duration) -> bool {
        drain(self, timeout, Self::in_flight, |queue| queue.clock.now(), |queue, slice| queue.wait(1, slice))
    }

    fn start(&mut self, token: u32) {
        let Writing { lease, file, put, attempt } = self.writes.get(token);
        let from = attempt.from();
        let raw = RawWrite {
            fd: file.file.as_raw_fd(),
            offset: put.offset + u64::from(from),
            len: put.len - from,
            // SAFETY: `write` checked that the whole write lies inside the lease; a rest is a part of it.
            source: unsafe { lease.base().add(put.at + from as usize) },
            token: u64::from(token),
        };
        // SAFETY: the place holds lease and file until this write's completion has come out of `poll`, and nobody can
        // name the lease meanwhile. On Drop both are leaked if it does not come.
        if unsafe { self.ring().submit_write(raw) }.is_err() {
            self.again.push(token);
        }
    }

    fn end(&mut self, completion: Completion) {
        let token = completion.token as u32;
        let result = match self.judge(token, completion.result) {
            Some(result) => result,
            None => return self.start(token),
        };
        let Writing { lease, .. } = self.writes.take(token);
        self.ended.push(Written { lease, result });
    }

    /// What a completion means for its write; nothing if it goes on.
    fn judge(&mut self, token: u32, result: i32) -> Option<Result<()>> {
        let Writing { file, put, attempt, .. } = self.writes.get_mut(token);
        let from = attempt.from();
        let (bytes, offset) = (put.len - from, put.offset + u64::from(from));
        let failure =
            |errno| Some(Err(file.failure(format!("write of {bytes} bytes at byte {offset}"), offset, errno)));
        match -result {
            libc::EAGAIN | libc::EINTR if attempt.may_retry() => None,
            errno @ (libc::EINVAL | libc::EOPNOTSUPP) if file.is_direct() && file.demote() => {
                tracing::debug!(path = %file.path.display(), "direct write: {}", errno_text(errno));
                self.demoted.get_or_insert((file.path.clone(), errno));
                None
            }
            // It was in flight when its file was demoted.
            libc::EINVAL if !file.is_direct() && attempt.may_retry() => None,
            errno if errno > 0 => failure(errno),
            _ => {
                let align = if file.is_direct() { file.align as u32 } else { 1 };
                match attempt.advance(result as u32, put.len, align) {
                    Progress::Whole => Some(Ok(())),
                    Progress::More => None,
                    // A storage that takes no more and gives no reason has none left.
                    Progress::Stuck => failure(libc::ENOSPC),
                }
            }
        }
    }

    fn check_deadline(&self) -> Result<()> {
        let Some(Writing { file, put, attempt, .. }) =
            self.writes.iter().min_by_key(|writing| writing.attempt.started())
        else {
            return Ok(());
        };
        let what = || format!("a write of {} bytes at byte {} of {}", put.len, put.offset, file.path.display());
        attempt.check(self.clock.now(), self.deadline, what)
    }
}

impl<L: Memory> Drop for WriteQueue<L> {
    fn drop(&mut self) {
        if self.drain(self.deadline) {
            return;
        }
        let writes = self.writes.used();
        tracing::warn!("{writes} writes did not end in time: their memory and files stay reserved for them");
        // The storage may read the memory at any time from now on.
        std::mem::forget(std::mem::replace(&mut self.writes, Places::new(0)));
        std::mem::forget(self.ring.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::SlabPool;
    use crate::storage::{Faults, SimRing};

    /// Mutants that this catches: a drop that does not wait for writes; one that frees what has not ended.
    #[test]
    fn memory_is_dropped_with_its_queue_only_if_its_writes_end() {
        for stall in [0, 1] {
            let (clock, faults) = (Clock::simulated(), Faults { stall, ..Faults::default() });
            let ring = SimRing::new(7, clock.clone(), 4, faults);
            let mut queue = WriteQueue::new(Box::new(ring), 4, Duration::from_secs(30), clock);
            let file = Arc::new(WriteFile::new(Path::new("x").into(), tempfile::tempfile().unwrap(), 1, false));
            let mut slabs = SlabPool::new(3, 4096).unwrap();
            let arena = slabs.arena().clone();
            for at in 0..3 {
                let put = Put { offset: 4096 * at, len: 4096, at: 0 };
                assert!(queue.write(slabs.lease().unwrap(), &file, put).is_ok());
            }
            drop((queue, slabs));
            let left = if stall > 0 { 3 } else { 0 };
            assert_eq!((Arc::strong_count(&arena), Arc::strong_count(&file)), (1 + left, 1 + left));
            assert!(stall > 0 || file.file().metadata().unwrap().len() == 3 * 4096);
        }
    }
}
