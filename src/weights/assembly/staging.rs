//! What a load's bytes go through: rings, one queue over them, and, where not all is direct, slabs and streams.

use super::Parts;
use crate::assembly::{MakeRing, choose_ring};
use crate::config::RingChoice;
use crate::device::CopyQueue;
use crate::engine::Pinned;
use crate::error::Result;
use crate::memory::SlabPool;
use crate::stall::Stall;
use crate::storage::{Opening, Options, ReadQueue, Ring};
use crate::weights::engine::Copies;
use crate::weights::memory::Hold;

/// Rings of a load, in one queue.
pub(super) struct Rings {
    /// Of what goes through slabs, or of everything.
    pub(super) ring: Box<dyn Ring>,
    pub(super) opening: Opening,
    /// Into a device's memory, beside the other.
    pub(super) device: Option<Box<dyn Ring>>,
}

/// What goes through slabs goes through these; all empty where nothing does.
pub(super) struct Staging {
    pub(super) copies: Vec<Copies>,
    pub(super) slabs: Option<SlabPool>,
    pub(super) pinned: Option<Pinned>,
}

impl Parts {
    /// None where all is direct.
    pub(super) fn slab_count(&self) -> Result<usize> {
        if self.plan.items.iter().all(|item| item.direct) {
            return Ok(0);
        }
        self.reads.slabs()
    }

    pub(super) fn rings(
        &mut self,
        mut device: Option<Box<dyn Ring>>,
        make_ring: Option<MakeRing>,
        slab_count: usize,
    ) -> Result<Rings> {
        // What cuFile does not read into device memory is read into slabs, by the best ring for that.
        if self.reads.ring == RingChoice::Cufile {
            self.reads.ring = RingChoice::Auto;
        }
        let alone = device.take_if(|_| slab_count == 0);
        let (ring, opening) = match (make_ring, alone) {
            (Some(make), _) => (make(self.reads.reads_in_flight)?, Opening::Ring { direct: false }),
            (None, Some(ring)) => (ring, Opening::Ring { direct: true }),
            (None, None) => choose_ring(&self.reads, &self.shared.counters)?,
        };
        Ok(Rings { ring, opening, device })
    }

    /// Streams first, so that nothing is pinned when one cannot be had.
    pub(super) fn staging(&self, slab_count: usize) -> Result<Staging> {
        let mut staging = Staging { copies: Vec::new(), slabs: None, pinned: None };
        if slab_count == 0 {
            return Ok(staging);
        }
        for device in &self.devices {
            let queue = CopyQueue::new(device.raw().stream()?, slab_count).drop_wait(self.reads.deadline);
            staging.copies.push(Copies { queue, stall: Stall::default() });
        }
        let slabs = staging.slabs.insert(SlabPool::new(slab_count, self.reads.block_bytes as usize)?);
        staging.pinned = Some(Pinned::new(&self.devices, slabs.arena())?);
        Ok(staging)
    }

    pub(super) fn queue(&self, Rings { ring, opening, device }: Rings, slab_count: usize) -> ReadQueue<Hold> {
        let options = Options {
            depth: self.reads.reads_in_flight,
            bytes_in_flight_max: self.reads.bytes_in_flight,
            // Those that fill, and the one whose reads are being started.
            landings: slab_count + self.reads.reads_in_flight + 1,
            open_files_max: self.reads.open_files_max,
            deadline: self.reads.deadline,
            opening,
            clock: self.clock.clone(),
        };
        let mut queue = ReadQueue::new(ring, self.files.clone(), options, self.shared.counters.clone());
        if let Some(ring) = device {
            queue.add_device_ring(ring);
        }
        queue
    }
}
