//! The one owner of memory that rings write to.
//!
//! ```text
//!   open(lease) ---> landing --- read() --- read() --- close() ---> reads all ended ---> Landed { lease, result }
//!                    the lease is in here: no value outside names its memory
//! ```
//!
//! `flight` holds what rings use, and is the proof that nobody else uses it. Around it: `way` says which ring reads a file,
//! `wait` waits for all of them, `judge` says what the end of a read means: whole, to be continued, to be tried again or
//! another way, failed. All that once, for every ring.

mod flight;
mod judge;
mod wait;
mod way;

use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use flight::LandingId;
use flight::{Flight, Resting};

use super::files::{Files, Opening, ShardFile};
use super::{Awake, Memory, Registered, Ring, Waker, drain};
use crate::dataset::Extent;
use crate::error::{Error, Result};
use crate::sim::Clock;
use crate::stats::Counters;

/// One read into a landing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Want {
    /// Index of the shard.
    pub(crate) shard: u32,
    /// First byte in the shard, aligned.
    pub(crate) offset: u64,
    /// Bytes to ask for, aligned.
    pub(crate) len: u32,
    /// Bytes that must arrive; at most `len`.
    pub(crate) want: u32,
    /// Where in the landing the first byte goes, aligned.
    pub(crate) at: usize,
}

/// A landing whose reads have all ended.
#[derive(Debug)]
pub(crate) struct Landed<L> {
    /// The memory. On an error its contents are undefined.
    pub(crate) lease: L,
    /// The number that `open` was given.
    pub(crate) tag: u64,
    /// Whether every read delivered every byte; the first failure otherwise.
    pub(crate) result: Result<()>,
    /// The reads that failed, all of them.
    pub(crate) damages: Vec<Damage>,
}

/// A read that failed.
#[derive(Debug, Clone)]
pub(crate) struct Damage {
    /// What was to be read.
    pub(crate) extent: Extent,
    /// How it failed.
    pub(crate) error: Error,
}

/// What a new read met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accepted {
    /// It is in the queue.
    Yes,
    /// No room: every read of the depth, or every file slot, is in use. Try again after a wait.
    Full,
}

/// What does not change after construction.
pub(crate) struct Options {
    /// Reads in flight at most.
    pub(crate) depth: usize,
    /// Bytes in flight at most, but one read always may be.
    pub(crate) bytes_in_flight_max: u64,
    /// Landings open at most.
    pub(crate) landings: usize,
    /// Files open at most.
    pub(crate) open_files_max: usize,
    /// After this long a read counts as stalled.
    pub(crate) deadline: Duration,
    /// How files are opened.
    pub(crate) opening: Opening,
    /// Where time comes from.
    pub(crate) clock: Clock,
}

/// Reads in flight, the memory they write to, the files they read from.
pub(crate) struct ReadQueue<L: Memory> {
    flight: Flight<L>,
    /// Reads to start again: their ring had no room when they were to be continued.
    again: Vec<Resting>,
    counters: Arc<Counters>,
    clock: Awake,
    depth: usize,
    bytes_in_flight: u64,
    bytes_in_flight_max: u64,
    deadline: Duration,
    /// Ends waits, where somebody asked for it.
    waker: Option<Arc<Waker>>,
}

impl<L: Memory> ReadQueue<L> {
    /// A queue over one ring; threads join it by themselves when a file needs them.
    pub(crate) fn new(
        ring: Box<dyn Ring>,
        shards: Arc<[ShardFile]>,
        options: Options,
        counters: Arc<Counters>,
    ) -> ReadQueue<L> {
        let depth = options.depth.min(ring.capacity()).max(1);
        let files = Files::new(shards, options.opening, options.open_files_max.max(1));
        ReadQueue {
            flight: Flight::new(ring, files, depth, options.landings),
            again: Vec::with_capacity(depth),
            counters,
            clock: Awake::new(options.clock),
            depth,
            bytes_in_flight: 0,
            bytes_in_flight_max: options.bytes_in_flight_max,
            deadline: options.deadline,
            waker: None,
        }
    }

    /// Registers memory that landings will be cut from.
    ///
    /// # Safety
    /// The memory stays mapped until this queue is dropped.
    pub(crate) unsafe fn register_memory(&mut self, base: NonNull<u8>, bytes: usize) -> Registered {
        // SAFETY: passed on to the caller; the ring is dropped with this queue.
        unsafe { self.flight.rings_mut().next().expect("the first").register_memory(base, bytes) }
    }

    /// Whether a landing waits to be reaped.
    pub(crate) fn has_ended(&self) -> bool {
        self.flight.has_landed()
    }

    /// Reads in flight.
    pub(crate) fn in_flight(&self) -> usize {
        self.flight.count()
    }

    /// Moves a lease in. `None` if as many landings are open as were announced; the lease comes back.
    pub(crate) fn open(&mut self, lease: L, tag: u64) -> Result<LandingId, L> {
        self.flight.open(lease, tag)
    }

    /// Starts a read into a landing. An error means that it was not started; the landing lives on.
    ///
    /// # Panics
    /// If the read leaves the landing, or that is closed.
    pub(crate) fn read(&mut self, landing: LandingId, want: Want) -> Result<Accepted> {
        let bytes_in_flight = self.bytes_in_flight + u64::from(want.len);
        let too_many = bytes_in_flight > self.bytes_in_flight_max && self.in_flight() > 0;
        if self.flight.is_full() || too_many {
            return Ok(Accepted::Full);
        }
        let Some(slot) = self.open_file(want.shard)? else { return Ok(Accepted::Full) };
        let ring = self.ring_for(slot, self.flight.on_device(landing))?;
        let read = self.flight.begin(landing, want, slot, ring, self.clock.now());
        self.bytes_in_flight = bytes_in_flight;
        self.count(ring, want.len);
        self.start(read);
        Ok(Accepted::Yes)
    }

    /// No more reads will join this landing; it is reaped once those it has have ended.
    pub(crate) fn close(&mut self, landing: LandingId) {
        self.flight.close(landing);
    }

    /// Starts what was accepted and waits until `want` reads have ended, somebody wakes it, or `timeout` has passed.
    ///
    /// [`Error::Timeout`] names the read that has been in flight for longer than the deadline; it may still end.
    pub(crate) fn wait(&mut self, want: usize, timeout: Duration) -> Result<()> {
        for _ in 0..self.again.len() {
            let read = self.again.swap_remove(0);
            self.start(read);
        }
        let start = self.clock.now();
        let polled = self.poll(want, timeout);
        self.clock.waited(start, timeout);
        let none = !self.flight.has_ends();
        while let Some((read, result)) = self.flight.next_end() {
            self.end(read, result);
        }
        polled?;
        if none { self.check_deadline() } else { Ok(()) }
    }

    /// A landing whose reads have all ended, if there is one.
    pub(crate) fn reap(&mut self) -> Option<Landed<L>> {
        self.flight.reap()
    }

    /// Waits until no read is in flight; false if that did not happen in `timeout`, or if a ring broke.
    pub(crate) fn drain(&mut self, timeout: Duration) -> bool {
        drain(self, timeout, Self::in_flight, |queue| queue.clock.now(), |queue, slice| queue.wait(1, slice))
    }

    /// Waits until no read is in flight; false if that did not happen by the deadline: then their memory is never given back.
    pub(crate) fn drained(mut self) -> bool {
        let ended = self.drain(self.deadline);
        self.deadline = Duration::ZERO; // dropped now, without waiting again
        ended
    }

    fn start(&mut self, read: Resting) {
        if let Err(read) = self.flight.start(read) {
            self.again.push(read);
        }
    }

    fn count(&self, ring: usize, bytes: u32) {
        let (counters, ring) = (&self.counters, &self.flight.rings()[ring]);
        counters.reads.add(1);
        counters.reads_by_threads.add(u64::from(ring.name() == "pread"));
        counters.reads_to_device.add(u64::from(ring.writes_to_device()));
        counters.bytes_read.add(u64::from(bytes));
        counters.reads_in_flight_max.at_least(self.flight.count() as u64);
    }
}

impl<L: Memory> Drop for ReadQueue<L> {
    /// What does not end by the deadline `Flight` leaks.
    fn drop(&mut self) {
        self.drain(self.deadline);
    }
}
