//! The one owner of memory that a ring writes to.
//!
//! ```text
//!   open(lease) ---> Landing --- read() --- read() --- close() ---> reads all ended ---> Landed { lease, result }
//!                    the lease is in here: no value outside names its memory
//! ```
//!
//! Short reads are continued here, once for all rings; so are retries, fallbacks to buffered reads, deadlines, and
//! the drain: completions are counted to zero, and where they do not come the memory is leaked, never freed.

use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

use super::files::{Files, Opening, ShardFile};
use super::probe::Way;
use super::{Completion, Pread, REGISTER_FORBIDDEN, RawRead, Registered, Ring, Waker, wait_readable};
use crate::dataset::Extent;
use crate::error::{Error, Result};
use crate::sim::Clock;
use crate::stats::{Counters, Fallback};

/// Memory that reads may land in: a lease that moves into the queue and comes back with [`Landed`].
///
/// # Safety
/// `base()..base() + bytes()` is writable, belongs to this value alone, stays where it is when the value moves, and
/// stays valid if the value is forgotten.
pub unsafe trait Memory {
    /// First byte, 4096-aligned.
    fn base(&self) -> NonNull<u8>;
    /// Length.
    fn bytes(&self) -> usize;
    /// Whether `base` is an address of a device's memory, to which only a ring that says so may write.
    fn on_device(&self) -> bool {
        false
    }
}

/// One read into a landing.
#[derive(Debug, Clone, Copy)]
pub struct Want {
    /// Index of the shard.
    pub shard: u32,
    /// First byte in the shard, aligned.
    pub offset: u64,
    /// Bytes to ask for, aligned.
    pub len: u32,
    /// Bytes that must arrive; at most `len`.
    pub want: u32,
    /// Where in the landing the first byte goes, aligned.
    pub at: usize,
}

/// Where reads land. Valid until its [`Landed`] is reaped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LandingId(u32);

/// A landing whose reads have all ended.
#[derive(Debug)]
pub struct Landed<L> {
    /// The memory. On an error its contents are undefined.
    pub lease: L,
    /// The number that `open` was given.
    pub tag: u64,
    /// Whether every read delivered every byte; the first failure otherwise.
    pub result: Result<()>,
    /// The reads that failed, all of them.
    pub damages: Vec<Damage>,
}

/// A read that failed.
#[derive(Debug, Clone)]
pub struct Damage {
    /// What was to be read.
    pub extent: Extent,
    /// How it failed.
    pub error: Error,
}

/// What a new read met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    /// It is in the queue.
    Yes,
    /// No room: every read of the depth, or every file slot, is in use. Try again after a wait.
    Full,
}

/// What does not change after construction.
pub struct Options {
    /// Reads in flight at most.
    pub depth: usize,
    /// Bytes in flight at most, but one read always may be.
    pub bytes_in_flight_max: u64,
    /// Landings open at most.
    pub landings: usize,
    /// Files open at most.
    pub open_files_max: usize,
    /// After this long a read counts as stalled.
    pub deadline: Duration,
    /// How files are opened.
    pub opening: Opening,
    /// Where time comes from.
    pub clock: Clock,
}

struct Reading {
    want: Want,
    landing: u32,
    slot: u32,
    ring: usize,
    /// Bytes that have arrived, counted from the start of the read.
    got: u32,
    /// Where the attempt in flight started, counted from the start of the read.
    from: u32,
    retries: u32,
    started: Duration,
}

struct Landing<L> {
    lease: L,
    tag: u64,
    in_flight: u32,
    closed: bool,
    /// Allocates nothing as long as nothing fails.
    damages: Vec<Damage>,
}

/// A fixed set of places, handed out by number.
pub(super) struct Places<T> {
    places: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Places<T> {
    pub(super) fn new(count: usize) -> Places<T> {
        Places { places: (0..count).map(|_| None).collect(), free: (0..count as u32).rev().collect() }
    }

    pub(super) fn put(&mut self, value: T) -> Option<u32> {
        let place = self.free.pop()?;
        self.places[place as usize] = Some(value);
        Some(place)
    }

    pub(super) fn get(&mut self, place: u32) -> &mut T {
        self.places[place as usize].as_mut().expect("a place in use")
    }

    pub(super) fn take(&mut self, place: u32) -> T {
        self.free.push(place);
        self.places[place as usize].take().expect("a place in use")
    }

    pub(super) fn used(&self) -> usize {
        self.places.len() - self.free.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.places.iter().flatten()
    }
}

/// Reads in flight, the memory they write to, the files they read from.
pub struct ReadQueue<L: Memory> {
    /// The ring that files take by choice; then the one that reads into device memory, if there are both, and, once some
    /// file needs them, the threads.
    rings: Vec<Box<dyn Ring>>,
    files: Files,
    reads: Places<Reading>,
    landings: Places<Landing<L>>,
    completions: Vec<Completion>,
    /// Landings whose reads have all ended, to be reaped.
    ended: Vec<u32>,
    /// Reads to start again: their ring had no room when they were to be continued.
    again: Vec<u32>,
    counters: Arc<Counters>,
    clock: Clock,
    depth: usize,
    bytes_in_flight: u64,
    bytes_in_flight_max: u64,
    deadline: Duration,
    /// Ends waits, where somebody asked for it.
    waker: Option<Arc<Waker>>,
}

/// How long a wait for two rings lasts if the end of a read on one of them wakes nobody.
const BLIND_WAIT: Duration = Duration::from_millis(1);
/// How often the other rings are looked at while one is waited for that writes to device memory: it wakes nobody.
const LOOK: Duration = Duration::from_micros(200);
/// A read or write that is answered EAGAIN or EINTR more often than this has failed.
pub(super) const RETRIES_MAX: u32 = 8;

impl<L: Memory> ReadQueue<L> {
    /// A queue over one ring; threads join it by themselves when a file needs them.
    pub(crate) fn new(
        ring: Box<dyn Ring>,
        shards: Arc<[ShardFile]>,
        options: Options,
        counters: Arc<Counters>,
    ) -> ReadQueue<L> {
        let depth = options.depth.min(ring.capacity()).max(1);
        ReadQueue {
            rings: vec![ring],
            files: Files::new(shards, options.opening, options.open_files_max.max(1)),
            reads: Places::new(depth),
            landings: Places::new(options.landings),
            completions: Vec::with_capacity(2 * depth),
            ended: Vec::with_capacity(options.landings),
            again: Vec::with_capacity(depth),
            counters,
            clock: options.clock,
            depth,
            bytes_in_flight: 0,
            bytes_in_flight_max: options.bytes_in_flight_max,
            deadline: options.deadline,
            waker: None,
        }
    }

    /// Adds the ring for landings in a device's memory; the others stay with the first.
    pub(crate) fn add_device_ring(&mut self, mut ring: Box<dyn Ring>) {
        debug_assert!(ring.writes_to_device() && !self.rings[0].writes_to_device(), "one of each kind");
        if let Some(waker) = &self.waker {
            ring.wake_by(waker.fd());
        }
        self.rings.push(ring);
    }

    /// What ends a [`wait`](Self::wait) from another thread. From here on a wait without reads in flight sleeps too, until
    /// somebody wakes it.
    pub(crate) fn waker(&mut self) -> Result<Arc<Waker>> {
        let waker = Arc::new(Waker::new()?);
        self.rings.iter_mut().for_each(|ring| ring.wake_by(waker.fd()));
        Ok(self.waker.insert(waker).clone())
    }

    /// Registers memory that landings will be cut from.
    ///
    /// # Safety
    /// The memory stays mapped until this queue is dropped.
    pub unsafe fn register_memory(&mut self, base: NonNull<u8>, bytes: usize) -> Registered {
        // SAFETY: passed on to the caller; the ring is dropped with this queue.
        unsafe { self.rings[0].register_memory(base, bytes) }
    }

    /// Whether a landing waits to be reaped.
    pub fn has_ended(&self) -> bool {
        !self.ended.is_empty()
    }

    /// Reads in flight.
    pub fn in_flight(&self) -> usize {
        self.reads.used()
    }

    /// Moves a lease in. `None` if as many landings are open as were announced; the lease comes back.
    pub fn open(&mut self, lease: L, tag: u64) -> Result<LandingId, L> {
        if self.landings.free.is_empty() {
            return Err(lease);
        }
        let landing = Landing { lease, tag, in_flight: 0, closed: false, damages: Vec::new() };
        Ok(LandingId(self.landings.put(landing).expect("checked")))
    }

    /// Starts a read into a landing. An error means that it was not started; the landing lives on.
    pub fn read(&mut self, landing: LandingId, want: Want) -> Result<Accepted> {
        let bytes_in_flight = self.bytes_in_flight + u64::from(want.len);
        let too_many = bytes_in_flight > self.bytes_in_flight_max && self.in_flight() > 0;
        if self.reads.free.is_empty() || too_many {
            return Ok(Accepted::Full);
        }
        let Landing { lease, closed, .. } = self.landings.get(landing.0);
        let on_device = lease.on_device();
        let end = want.at.checked_add(want.len as usize);
        let inside = end.is_some_and(|end| end <= lease.bytes()) && want.want <= want.len;
        assert!(inside && !*closed, "a read outside its landing, or into a closed one");
        let Some(opened) = self.files.open(want.shard)? else { return Ok(Accepted::Full) };
        if opened.fresh {
            self.file_opened(opened.slot, opened.fallback);
        }
        let ring = self.ring_for(opened.slot, on_device)?;
        let reading = Reading {
            want,
            landing: landing.0,
            slot: opened.slot,
            ring,
            got: 0,
            from: 0,
            retries: 0,
            started: self.clock.now(),
        };
        self.bytes_in_flight = bytes_in_flight;
        self.files.slot(opened.slot).reads += 1;
        self.landings.get(landing.0).in_flight += 1;
        let token = self.reads.put(reading).expect("checked");
        self.counters.reads.add(1);
        self.counters.reads_by_threads.add(u64::from(self.rings[ring].name() == "pread"));
        self.counters.reads_to_device.add(u64::from(self.rings[ring].writes_to_device()));
        self.counters.bytes_read.add(u64::from(want.len));
        self.counters.reads_in_flight_max.at_least(self.reads.used() as u64);
        self.start(token);
        Ok(Accepted::Yes)
    }

    /// No more reads will join this landing; it is reaped once those it has have ended.
    pub fn close(&mut self, landing: LandingId) {
        let state = self.landings.get(landing.0);
        assert!(!std::mem::replace(&mut state.closed, true), "a landing closed twice");
        if state.in_flight == 0 {
            self.ended.push(landing.0);
        }
    }

    /// Starts what was accepted and waits until `want` reads have ended, somebody wakes it, or `timeout` has passed.
    ///
    /// [`Error::Timeout`] names the read that has been in flight for longer than the deadline; it may still end.
    pub fn wait(&mut self, want: usize, timeout: Duration) -> Result<()> {
        self.restart();
        let mut ended = std::mem::take(&mut self.completions);
        let polled = self.poll(want, timeout, &mut ended);
        let none = ended.is_empty();
        for completion in ended.drain(..) {
            self.end(completion);
        }
        self.completions = ended;
        polled?;
        if none { self.check_deadline() } else { Ok(()) }
    }

    /// A landing whose reads have all ended, if there is one.
    pub fn reap(&mut self) -> Option<Landed<L>> {
        let Landing { lease, tag, damages, .. } = self.landings.take(self.ended.pop()?);
        let result = damages.first().map_or(Ok(()), |damage| Err(damage.error.clone()));
        Some(Landed { lease, tag, result, damages })
    }

    /// Waits until no read is in flight; false if that did not happen in `timeout`, or if a ring broke.
    pub fn drain(&mut self, timeout: Duration) -> bool {
        let end = self.clock.now() + timeout;
        while self.in_flight() > 0 {
            let left = end.saturating_sub(self.clock.now());
            let slice = left.min(Duration::from_millis(100));
            match self.wait(1, slice) {
                Ok(()) | Err(Error::Timeout { .. }) if !left.is_zero() => {}
                _ => return false,
            }
        }
        true
    }

    /// Waits until no read is in flight; false if that did not happen by the deadline: then their memory is never given back.
    pub fn drained(mut self) -> bool {
        let ended = self.drain(self.deadline);
        self.deadline = Duration::ZERO; // dropped now, without waiting again
        ended
    }

    fn poll(&mut self, want: usize, timeout: Duration, out: &mut Vec<Completion>) -> Result<()> {
        let Some(waker) = self.waker.clone().filter(|_| want > 0) else { return self.poll_rings(want, timeout, out) };
        if self.in_flight() == 0 {
            waker.sleep(timeout);
            return Ok(());
        }
        if !waker.sleeps() {
            return self.poll_rings(0, timeout, out);
        }
        let polled = self.poll_rings(want, timeout, out);
        waker.slept(!out.is_empty());
        polled
    }

    fn poll_rings(&mut self, want: usize, timeout: Duration, out: &mut Vec<Completion>) -> Result<()> {
        if let [ring] = &mut self.rings[..] {
            return ring.poll(want, timeout, out);
        }
        let device = self.rings.iter().position(|ring| ring.writes_to_device());
        let busy = |place: &usize| self.reads.iter().any(|reading| reading.ring == *place);
        match (device.filter(busy), device) {
            (Some(device), _) => self.poll_device(device, want, timeout, out),
            (None, Some(_)) if self.rings.len() == 2 => self.rings[0].poll(want, timeout, out),
            (None, _) => self.poll_both(want, timeout, out),
        }
    }

    /// With reads into device memory, and perhaps others, in flight.
    fn poll_device(&mut self, device: usize, want: usize, timeout: Duration, out: &mut Vec<Completion>) -> Result<()> {
        let alone = self.reads.iter().all(|reading| reading.ring == device);
        let mut left = timeout;
        loop {
            for (_, ring) in self.rings.iter_mut().enumerate().filter(|(place, _)| *place != device && !alone) {
                ring.poll(0, Duration::ZERO, out)?;
            }
            let (want, slice) = match (alone, out.is_empty()) {
                (true, _) => (want, left),
                (false, true) => (want.min(1), left.min(LOOK)),
                (false, false) => (0, Duration::ZERO),
            };
            self.rings[device].poll(want, slice, out)?;
            left -= slice;
            let called = self.waker.as_ref().is_some_and(|waker| waker.is_called());
            if !out.is_empty() || left.is_zero() || want == 0 || called {
                return Ok(());
            }
        }
    }

    /// With files on both rings, waits for whichever ends a read first.
    fn poll_both(&mut self, want: usize, timeout: Duration, out: &mut Vec<Completion>) -> Result<()> {
        let host = |ring: &&mut Box<dyn Ring>| !ring.writes_to_device(); // or it has nothing in flight
        for ring in self.rings.iter_mut().filter(host) {
            ring.poll(0, Duration::ZERO, out)?;
        }
        if want == 0 || !out.is_empty() || self.in_flight() == 0 {
            return Ok(());
        }
        let mut fds = [-1, -1, self.waker.as_ref().map_or(-1, |waker| waker.fd())];
        let mut blind = false;
        for (fd, ring) in fds.iter_mut().zip(self.rings.iter_mut().filter(host)) {
            *fd = ring.wait_fd().unwrap_or(-1);
            blind |= *fd == -1;
        }
        // Where registering is forbidden the ring has no descriptor to wait on: look often.
        wait_readable(fds, if blind { timeout.min(BLIND_WAIT) } else { timeout });
        for ring in self.rings.iter_mut().filter(host) {
            ring.poll(0, Duration::ZERO, out)?;
        }
        Ok(())
    }

    fn file_opened(&mut self, slot: u32, fallback: Option<Fallback>) {
        self.counters.open_files_max.at_least(self.files.descriptors() as u64);
        if let Some(fallback) = fallback {
            self.counters.fall_back(fallback);
        }
        let fd = self.files.slot(slot).fd();
        for ring in &mut self.rings {
            // Why a file is not registered with cuFile its reads say.
            let Registered::No(errno) = ring.register_file(slot, fd) else { continue };
            if ring.writes_to_device() {
                continue;
            }
            self.counters.fall_back(Fallback {
                instead: "files looked up at each read instead of registered".into(),
                reason: "io_uring_register".into(),
                errno: Some(errno),
                remedy: match errno {
                    libc::EPERM | libc::EACCES => REGISTER_FORBIDDEN,
                    _ => "raise `ulimit -n`; costs a little CPU per read",
                },
            });
        }
    }

    /// The ring that this open file takes. Starts the threads when the first file needs them.
    fn ring_for(&mut self, slot: u32, on_device: bool) -> Result<usize> {
        if let (true, Some(place)) = (on_device, self.rings.iter().position(|ring| ring.writes_to_device())) {
            return Ok(place);
        }
        let threads = self.files.slot(slot).mode.way == Way::Threads;
        if !threads || self.rings[0].writes_to_device() {
            return Ok(0);
        }
        if let Some(place) = self.rings.iter().position(|ring| ring.name() == "pread") {
            return Ok(place);
        }
        self.rings.push(Box::new(Pread::new(self.depth)?));
        Ok(self.rings.len() - 1)
    }

    /// Hands a read, or what is left of it, to its ring.
    fn start(&mut self, token: u32) {
        let reading = self.reads.get(token);
        let file = self.files.slot(reading.slot);
        let base = self.landings.get(reading.landing).lease.base();
        let raw = RawRead {
            fd: file.fd(),
            // A ring that writes to device memory keeps a file of its own.
            file_slot: (file.registered() || self.rings[reading.ring].writes_to_device()).then_some(reading.slot),
            offset: reading.want.offset + u64::from(reading.from),
            len: reading.want.len - reading.from,
            // `read` checked that the whole read lies inside the landing's memory; `from` <= `len`. It may be a device's.
            target: base.map_addr(|addr| addr.saturating_add(reading.want.at + reading.from as usize)),
            rw_flags: file.mode.rw_flags,
            token: u64::from(token),
        };
        // SAFETY: the landing owns its lease until `in_flight` is zero again, and the file its slot until `reads` is:
        // both are counted down only by this read's completion. On Drop they are leaked if it does not come.
        if unsafe { self.rings[reading.ring].submit(raw) }.is_err() {
            self.again.push(token);
        }
    }

    fn restart(&mut self) {
        for _ in 0..self.again.len() {
            let token = self.again.swap_remove(0);
            self.start(token);
        }
    }

    fn end(&mut self, completion: Completion) {
        let token = completion.token as u32;
        match self.judge(token, completion.result) {
            Verdict::Whole => self.finish(token, None),
            Verdict::Failed(error) => self.finish(token, Some(error)),
            Verdict::Continue => self.start(token),
        }
    }

    /// What a completion means for its read.
    fn judge(&mut self, token: u32, result: i32) -> Verdict {
        let reading = self.reads.get(token);
        let path = || self.files.shard(reading.want.shard).path.clone();
        if result < 0 {
            return self.judge_error(token, -result);
        }
        let Want { offset, want, .. } = reading.want;
        let got = reading.from + result as u32;
        if got >= want {
            return Verdict::Whole;
        }
        // The end of the file inside a block answers the same count again and again; a busy storage does not.
        reading.retries += u32::from(got <= reading.got);
        reading.got = reading.got.max(got);
        if result == 0 || reading.retries > RETRIES_MAX {
            let got = reading.got.into();
            return Verdict::Failed(Error::Truncated { path: path(), offset, want: want.into(), got });
        }
        let align = self.files.slot(reading.slot).mode.align as u32;
        reading.from = reading.got / align * align;
        self.counters.reads_continued.add(1);
        Verdict::Continue
    }

    fn judge_error(&mut self, token: u32, errno: i32) -> Verdict {
        let reading = self.reads.get(token);
        let Want { shard, offset, len, .. } = reading.want;
        let path = self.files.shard(shard).path.clone();
        let error =
            Error::Io { path, offset: offset + u64::from(reading.from), bytes: (len - reading.from).into(), errno };
        // Not yet by threads through the page cache: that way is still open, but not into a device's memory.
        let by_threads = !self.rings[reading.ring].writes_to_device();
        let refused =
            by_threads && (self.files.slot(reading.slot).mode.direct || self.rings[reading.ring].name() != "pread");
        match errno {
            libc::EAGAIN | libc::EINTR if reading.retries < RETRIES_MAX => {
                reading.retries += 1;
                self.counters.reads_retried.add(1);
                Verdict::Continue
            }
            libc::EINVAL | libc::EOPNOTSUPP if refused => match self.read_by_threads(token, errno) {
                Ok(()) => Verdict::Continue,
                Err(cause) => {
                    tracing::warn!(%cause, "reading through the page cache instead failed too");
                    Verdict::Failed(error)
                }
            },
            _ => Verdict::Failed(error),
        }
    }

    /// Direct reads of this file are refused after all: buffered ones by threads from here on.
    fn read_by_threads(&mut self, token: u32, errno: i32) -> Result<()> {
        let slot = self.reads.get(token).slot;
        if self.files.slot(slot).mode.direct {
            // Its place in the ring's table stays as it is: reads on it may be in flight, and new ones do not use it.
            let fallback = self.files.demote(slot, errno)?;
            self.counters.fall_back(fallback);
            self.counters.open_files_max.at_least(self.files.descriptors() as u64);
        }
        let ring = self.ring_for(slot, false)?;
        self.reads.get(token).ring = ring;
        Ok(())
    }

    fn finish(&mut self, token: u32, failure: Option<Error>) {
        let Reading { landing: id, slot, want, .. } = self.reads.take(token);
        self.bytes_in_flight -= u64::from(want.len);
        self.counters.reads_ended.add(1);
        self.files.slot(slot).reads -= 1;
        let landing = self.landings.get(id);
        landing.in_flight -= 1;
        if let Some(error) = failure {
            let extent = Extent { shard: want.shard, offset: want.offset, len: want.want.into() };
            landing.damages.push(Damage { extent, error });
        }
        if landing.closed && landing.in_flight == 0 {
            self.ended.push(id);
        }
    }

    fn check_deadline(&self) -> Result<()> {
        let Some(oldest) = self.reads.iter().min_by_key(|reading| reading.started) else { return Ok(()) };
        let waited = self.clock.now().saturating_sub(oldest.started);
        if waited < self.deadline {
            return Ok(());
        }
        let Want { shard, offset, len, .. } = oldest.want;
        let path = self.files.shard(shard).path.display();
        let what =
            format!("a read of {len} bytes at byte {offset} of {path}: the storage does not answer; see `dmesg`");
        Err(Error::Timeout { what, waited })
    }
}

enum Verdict {
    Whole,
    Continue,
    Failed(Error),
}

impl<L: Memory> Drop for ReadQueue<L> {
    fn drop(&mut self) {
        if self.drain(self.deadline) {
            return;
        }
        let (reads, landings) = (self.reads.used(), self.landings.used());
        tracing::warn!("{reads} reads did not end in time: {landings} pieces of memory stay reserved for them");
        // Reads may land at any time from now on: their memory, files and rings must outlive this process.
        std::mem::forget(std::mem::replace(&mut self.landings, Places::new(0)));
        std::mem::forget(std::mem::take(&mut self.rings));
        self.files.leak();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Slab;
    use crate::storage::Uring;

    const MINUTE: Duration = Duration::from_secs(20);
    const MOMENT: Duration = Duration::from_millis(30);

    fn queue_over(ring: Box<dyn Ring>) -> ReadQueue<Slab> {
        let options = Options {
            depth: 4,
            bytes_in_flight_max: 1 << 20,
            landings: 1,
            open_files_max: 1,
            deadline: Duration::from_secs(3600),
            opening: Opening::Ring { direct: false },
            clock: Clock::real(),
        };
        ReadQueue::new(ring, Arc::new([]), options, Arc::default())
    }

    /// A read that is in flight on that ring for the queue alone.
    fn put_read(queue: &mut ReadQueue<Slab>, ring: usize) -> u32 {
        let want = Want { shard: 0, offset: 0, len: 0, want: 0, at: 0 };
        let (retries, started) = (0, queue.clock.now());
        queue.reads.put(Reading { want, landing: 0, slot: 0, ring, got: 0, from: 0, retries, started }).unwrap()
    }

    /// Whether a call, before the wait or during it, ends it.
    fn woken(queue: &mut ReadQueue<Slab>, waker: &Arc<Waker>, later: bool) -> bool {
        let start = std::time::Instant::now();
        let waker = waker.clone();
        let call = move || {
            std::thread::sleep(if later { MOMENT } else { Duration::ZERO });
            waker.wake();
        };
        let caller = std::thread::spawn(call);
        if !later {
            caller.join().unwrap();
            queue.wait(1, MINUTE).unwrap();
        } else {
            queue.wait(1, MINUTE).unwrap();
            caller.join().unwrap();
        }
        start.elapsed() < MINUTE / 2
    }

    /// A device's ring: its reads do not end, and nobody wakes it.
    struct Deaf;

    // SAFETY: it starts nothing.
    unsafe impl Ring for Deaf {
        fn name(&self) -> &'static str {
            "deaf"
        }

        fn capacity(&self) -> usize {
            4
        }

        fn writes_to_device(&self) -> bool {
            true
        }

        unsafe fn submit(&mut self, _: RawRead) -> Result<()> {
            Err(Error::Stopped { reason: "this ring reads nothing".into() })
        }

        fn poll(&mut self, want: usize, timeout: Duration, _: &mut Vec<Completion>) -> Result<()> {
            std::thread::sleep(if want > 0 { timeout } else { Duration::ZERO });
            Ok(())
        }
    }

    /// Where reads of both kinds are in flight, the ring of the device is looked at again and again. Mutants that this
    /// catches: a call that is not looked for in between; one ring that is waited for to the end.
    #[test]
    fn a_wait_for_a_device_and_the_host_ends_when_somebody_wakes_it() {
        let mut queue = queue_over(Box::new(Pread::new(4).unwrap()));
        let waker = queue.waker().unwrap();
        queue.add_device_ring(Box::new(Deaf));
        let reads = [put_read(&mut queue, 0), put_read(&mut queue, 1)];
        let woken = (0..6).all(|round| woken(&mut queue, &waker, round % 3 > 0));
        let start = std::time::Instant::now();
        (0..2).for_each(|_| queue.wait(1, MOMENT).unwrap());
        let slept = start.elapsed() >= MOMENT;
        // First: a queue that drops with a read waits for it.
        reads.into_iter().for_each(|token| _ = queue.reads.take(token));
        assert!(woken, "it sleeps on");
        assert!(slept, "nobody called");
    }

    /// Two rings are waited for by their descriptors, and who wakes is one more. Mutants that this catches: it is not; a
    /// call before the wait that is lost; one that keeps the next wait from beginning, again and again.
    #[test]
    fn a_wait_for_two_rings_ends_when_somebody_wakes_it() {
        let Ok(ring) = Uring::new(4, 4) else { return eprintln!("SKIPPED: no io_uring") };
        let mut queue = queue_over(Box::new(ring));
        let waker = queue.waker().unwrap();
        for rings in [1, 2] {
            if rings == 2 {
                queue.rings.push(Box::new(Pread::new(4).unwrap()));
            }
            for reading in [false, true] {
                // A read that no ring has does not end.
                let token = reading.then(|| put_read(&mut queue, 0));
                if rings == 2 || !reading {
                    let woken = (0..6).all(|round| woken(&mut queue, &waker, round % 3 > 0));
                    let start = std::time::Instant::now();
                    (0..2).for_each(|_| queue.wait(1, MOMENT).unwrap());
                    let slept = start.elapsed() >= MOMENT;
                    // First: a queue that drops with a read waits for it.
                    token.into_iter().for_each(|token| _ = queue.reads.take(token));
                    assert!(woken, "it sleeps on");
                    assert!(slept, "nobody called");
                } else {
                    token.into_iter().for_each(|token| _ = queue.reads.take(token));
                }
            }
        }
    }
}
