//! Waiting for reads on all rings at once, and for whoever wakes the queue.
//!
//! ```text
//!  one ring                   its own wait, one system call
//!  with reads into a device   that ring, which wakes nobody, in slices; the others are looked at in between
//!  io_uring and threads       their descriptors together
//! ```

use std::sync::Arc;
use std::time::Duration;

use super::{Memory, ReadQueue};
use crate::error::Result;
use crate::storage::{Waker, wait_readable};

/// How long a wait for two rings lasts if the end of a read on one of them wakes nobody.
const BLIND_WAIT: Duration = Duration::from_millis(1);
/// How often the other rings are looked at while one is waited for that writes to device memory: it wakes nobody.
const LOOK: Duration = Duration::from_micros(200);

impl<L: Memory> ReadQueue<L> {
    /// What ends a [`wait`](Self::wait) from another thread. From here on a wait without reads in flight sleeps too, until
    /// somebody wakes it.
    pub(crate) fn waker(&mut self) -> Result<Arc<Waker>> {
        let waker = Arc::new(Waker::new()?);
        self.flight.rings_mut().for_each(|ring| ring.wake_by(waker.fd()));
        Ok(self.waker.insert(waker).clone())
    }

    /// Starts what was accepted; the ends of reads are in `flight` then.
    pub(super) fn poll(&mut self, want: usize, timeout: Duration) -> Result<()> {
        let Some(waker) = self.waker.clone().filter(|_| want > 0) else { return self.poll_rings(want, timeout) };
        if self.in_flight() == 0 {
            waker.sleep(timeout);
            return Ok(());
        }
        if !waker.sleeps() {
            return self.poll_rings(0, timeout);
        }
        let polled = self.poll_rings(want, timeout);
        waker.slept(self.flight.has_ends());
        polled
    }

    fn poll_rings(&mut self, want: usize, timeout: Duration) -> Result<()> {
        let rings = self.flight.rings();
        if rings.len() == 1 {
            return self.flight.poll(0, want, timeout);
        }
        let device = rings.iter().position(|ring| ring.writes_to_device());
        match device.filter(|&device| self.flight.reads().any(|reading| reading.ring == device)) {
            Some(device) => self.poll_device(device, want, timeout),
            None if device.is_some() && rings.len() == 2 => self.flight.poll(0, want, timeout),
            None => self.poll_both(want, timeout),
        }
    }

    /// With reads into device memory, and perhaps others, in flight.
    fn poll_device(&mut self, device: usize, want: usize, timeout: Duration) -> Result<()> {
        let alone = self.flight.reads().all(|reading| reading.ring == device);
        let mut left = timeout;
        loop {
            if !alone {
                self.poll_host_rings()?;
            }
            let (want, slice) = match (alone, self.flight.has_ends()) {
                (true, _) => (want, left),
                (false, false) => (want.min(1), left.min(LOOK)),
                (false, true) => (0, Duration::ZERO),
            };
            self.flight.poll(device, want, slice)?;
            left -= slice;
            let called = self.waker.as_ref().is_some_and(|waker| waker.is_called());
            if self.flight.has_ends() || left.is_zero() || want == 0 || called {
                return Ok(());
            }
        }
    }

    /// With files on both rings, waits for whichever ends a read first.
    fn poll_both(&mut self, want: usize, timeout: Duration) -> Result<()> {
        self.poll_host_rings()?;
        if want == 0 || self.flight.has_ends() || self.in_flight() == 0 {
            return Ok(());
        }
        let mut fds = [-1, -1, self.waker.as_ref().map_or(-1, |waker| waker.fd())];
        let mut blind = false;
        for (fd, ring) in fds.iter_mut().zip(self.flight.rings_mut().filter(|ring| !ring.writes_to_device())) {
            *fd = ring.wait_fd().unwrap_or(-1);
            blind |= *fd == -1;
        }
        // Where registering is forbidden the ring has no descriptor to wait on: look often.
        wait_readable(fds, if blind { timeout.min(BLIND_WAIT) } else { timeout });
        self.poll_host_rings()
    }

    fn poll_host_rings(&mut self) -> Result<()> {
        for ring in 0..self.flight.rings().len() {
            if !self.flight.rings()[ring].writes_to_device() {
                self.flight.poll(ring, 0, Duration::ZERO)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::error::Error;
    use crate::memory::{Slab, SlabPool};
    use crate::sim::Clock;
    use crate::storage::reads::flight::{LandingId, Resting};
    use crate::storage::{Completion, Opening, Options, Pread, RawRead, Ring, ShardFile, Uring, Want};

    const MINUTE: Duration = Duration::from_secs(20);
    const MOMENT: Duration = Duration::from_millis(30);

    struct Bed {
        queue: ReadQueue<Slab>,
        waker: Arc<Waker>,
        landing: LandingId,
    }

    impl Bed {
        fn new(ring: Box<dyn Ring>) -> Bed {
            let options = Options {
                depth: 4,
                bytes_in_flight_max: 1 << 20,
                landings: 1,
                open_files_max: 1,
                deadline: Duration::from_secs(3600),
                opening: Opening::Ring { direct: false },
                clock: Clock::real(),
            };
            let path = std::env::current_exe().unwrap();
            let shard = ShardFile { bytes: path.metadata().unwrap().len(), path: path.into() };
            let mut queue = ReadQueue::new(ring, Arc::new([shard]), options, Arc::default());
            let waker = queue.waker().unwrap();
            let landing = queue.open(SlabPool::new(1, 4096).unwrap().lease().unwrap(), 0).unwrap();
            Bed { queue, waker, landing }
        }

        /// A read that is there for the queue, and that no ring ever ends.
        fn begin(&mut self, ring: usize) -> Resting {
            let want = Want { shard: 0, offset: 0, len: 0, want: 0, at: 0 };
            let slot = self.queue.open_file(0).unwrap().unwrap();
            self.queue.flight.begin(self.landing, want, slot, ring, self.queue.clock.now())
        }

        /// Whether a call, before the wait or during it, ends it.
        fn wakes(&mut self, later: bool) -> bool {
            let start = Instant::now();
            let waker = self.waker.clone();
            let caller = std::thread::spawn(move || {
                std::thread::sleep(if later { MOMENT } else { Duration::ZERO });
                waker.wake();
            });
            if later {
                self.queue.wait(1, MINUTE).unwrap();
                caller.join().unwrap();
            } else {
                caller.join().unwrap();
                self.queue.wait(1, MINUTE).unwrap();
            }
            start.elapsed() < MINUTE / 2
        }

        /// With a read on each of these rings.
        fn check(&mut self, rings: &[usize]) {
            let reads: Vec<_> = rings.iter().map(|&ring| self.begin(ring)).collect();
            let woken = (0..6).all(|round| self.wakes(round % 3 > 0));
            let start = Instant::now();
            (0..2).for_each(|_| self.queue.wait(1, MOMENT).unwrap());
            let slept = start.elapsed() >= MOMENT;
            // First: a queue that drops with a read waits for it.
            reads.into_iter().for_each(|read| self.queue.flight.finish(read, None));
            assert!(woken, "it sleeps on");
            assert!(slept, "nobody called");
        }
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
        let mut bed = Bed::new(Box::new(Pread::new(4).unwrap()));
        bed.queue.add_device_ring(Box::new(Deaf));
        bed.check(&[0, 1]);
    }

    /// Two rings are waited for by their descriptors, and who wakes is one more. Mutants that this catches: it is not; a
    /// call before the wait that is lost; one that keeps the next wait from beginning, again and again.
    #[test]
    fn a_wait_for_two_rings_ends_when_somebody_wakes_it() {
        let Ok(ring) = Uring::new(4, 4) else { return eprintln!("SKIPPED: no io_uring") };
        let mut bed = Bed::new(Box::new(ring));
        bed.check(&[]);
        bed.queue.flight.add_ring(Box::new(Pread::new(4).unwrap()));
        bed.check(&[]);
        bed.check(&[0]);
    }
}
