//! Which ring reads a file: the one that the loader chose, the one that reaches device memory, or threads.

use super::flight::Resting;
use super::{Memory, ReadQueue};
use crate::error::Result;
use crate::stats::Fallback;
use crate::storage::files::Opened;
use crate::storage::probe::Way;
use crate::storage::{Pread, REGISTER_FORBIDDEN, Registered, Ring};

/// The ring that files take by choice is the first; the one that reads into device memory comes behind it, if there are
/// both, and, once some file needs them, the threads.
const CHOSEN: usize = 0;

impl<L: Memory> ReadQueue<L> {
    /// Adds the ring for landings in a device's memory; the others stay with the first.
    pub(crate) fn add_device_ring(&mut self, mut ring: Box<dyn Ring>) {
        let chosen = &self.flight.rings()[CHOSEN];
        debug_assert!(ring.writes_to_device() && !chosen.writes_to_device(), "one of each kind");
        if let Some(waker) = &self.waker {
            ring.wake_by(waker.fd());
        }
        self.flight.add_ring(ring);
    }

    /// The slot of a shard's open file. `None`: every slot has reads in flight.
    pub(super) fn open_file(&mut self, shard: u32) -> Result<Option<u32>> {
        let Some(Opened { slot, fresh, fallback }) = self.flight.open_file(shard)? else { return Ok(None) };
        if fresh {
            self.counters.open_files_max.at_least(self.flight.descriptors() as u64);
            fallback.into_iter().for_each(|fallback| self.counters.fall_back(fallback));
            self.register_file(slot);
        }
        Ok(Some(slot))
    }

    fn register_file(&mut self, slot: u32) {
        let fd = self.flight.file(slot).fd();
        for ring in self.flight.rings_mut() {
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
    pub(super) fn ring_for(&mut self, slot: u32, on_device: bool) -> Result<usize> {
        let rings = self.flight.rings();
        if let (true, Some(place)) = (on_device, rings.iter().position(|ring| ring.writes_to_device())) {
            return Ok(place);
        }
        let threads = self.flight.file(slot).mode.way == Way::Threads;
        if !threads || rings[CHOSEN].writes_to_device() {
            return Ok(CHOSEN);
        }
        if let Some(place) = rings.iter().position(|ring| ring.name() == "pread") {
            return Ok(place);
        }
        let (threads, fewer) = Pread::start(self.depth)?;
        fewer.into_iter().for_each(|fallback| self.counters.fall_back(fallback));
        self.flight.add_ring(Box::new(threads));
        Ok(self.flight.rings().len() - 1)
    }

    /// Direct reads of this read's file are refused after all: buffered ones by threads from here on.
    pub(super) fn read_by_threads(&mut self, read: &Resting, errno: i32) -> Result<()> {
        let slot = self.flight.reading(read).slot;
        if self.flight.file(slot).mode.direct {
            // Its place in the ring's table stays as it is: reads on it may be in flight, and new ones do not use it.
            let fallback = self.flight.demote_file(slot, errno)?;
            self.counters.fall_back(fallback);
            self.counters.open_files_max.at_least(self.flight.descriptors() as u64);
        }
        let ring = self.ring_for(slot, false)?;
        self.flight.change_ring(read, ring);
        Ok(())
    }
}
