//! What reads land in, and the staged path's own parts.

use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

use super::ranges::range;
use crate::batch::Body;
use crate::device::{CopyQueue, Device, RawCopy, Seq};
use crate::error::Result;
use crate::memory::{Arena, Slab, SlabPool};
use crate::plan::{Limits, Move};
use crate::region::{DeviceMemory, Region};
use crate::stall::Stall;
use crate::storage::Memory;

/// Memory that reads land in: the batch's own, or a slab on the way to it.
pub(crate) enum Hold {
    Region(Region),
    Slab(Slab),
}

// SAFETY: both kinds own their range, keep it when moved, and keep it mapped when forgotten (an Arc of the arena or
// allocation is forgotten with them).
unsafe impl Memory for Hold {
    fn base(&self) -> NonNull<u8> {
        match self {
            Hold::Region(region) => Memory::base(region),
            Hold::Slab(slab) => slab.base(),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Hold::Region(region) => region.bytes(),
            Hold::Slab(slab) => slab.bytes(),
        }
    }

    fn on_device(&self) -> bool {
        matches!(self, Hold::Region(region) if region.on_device())
    }
}

/// What a copy holds: where it reads, and a share in the memory that it writes to. A copy whose end is never seen keeps
/// both for ever.
pub(crate) struct Copying {
    /// None where only device memory is used.
    pub(super) slab: Option<Slab>,
    _target: Arc<DeviceMemory>,
}

/// The staged path's own parts. Fields drop in order: copies drain before the slabs they read are let go.
pub(crate) struct Stage {
    pub(crate) copies: CopyQueue<Copying>,
    pub(crate) slabs: SlabPool,
    pub(super) stall: Stall,
    _pinned: Pinned,
}

/// The arena of slabs, pinned with devices.
pub(crate) struct Pinned {
    /// Those that have to take it back.
    devices: Vec<Device>,
    arena: Arc<Arena>,
}

impl Stage {
    /// Maps and pins slabs, and opens a copy stream for them, and for so many gathers and casts at once.
    pub(crate) fn new(
        device: &Device,
        slabs: usize,
        slab_bytes: usize,
        gathers: usize,
        deadline: Duration,
    ) -> Result<Stage> {
        // First, so that nothing is pinned when it fails.
        let stream = device.raw().stream()?;
        let pool = SlabPool::new(slabs, slab_bytes)?;
        let pinned = Pinned::new(std::slice::from_ref(device), pool.arena())?;
        Ok(Stage {
            copies: CopyQueue::new(stream, slabs + gathers).drop_wait(deadline),
            slabs: pool,
            stall: Stall::default(),
            _pinned: pinned,
        })
    }
}

impl Pinned {
    /// With each of them, but for those that one before it pins for too. Of no slab is anything in use yet: on an error
    /// nothing stays pinned.
    pub(crate) fn new(devices: &[Device], arena: &Arc<Arena>) -> Result<Pinned> {
        let mut pinned = Pinned { devices: Vec::with_capacity(devices.len()), arena: arena.clone() };
        for device in devices {
            let same = |other: &Device| std::ptr::addr_eq(other.raw(), device.raw());
            if !pinned.devices.iter().any(|other| same(other) || other.raw().pins_for(device.raw())) {
                // SAFETY: `pinned` keeps the mapping until it has unpinned it, or for ever.
                if let Err(error) = unsafe { device.raw().pin(arena.base(), arena.bytes()) } {
                    pinned.unpin(); // here, as the pool still holds the arena
                    return Err(error);
                }
                pinned.devices.push(device.clone());
            }
        }
        Ok(pinned)
    }

    /// With all of them, once nothing uses the slabs any more.
    fn unpin(&mut self) {
        for device in self.devices.drain(..) {
            // SAFETY: pinned in `new`; no copy reads the arena, as its slabs are all gone, or none was ever leased.
            if let Err(error) = unsafe { device.raw().unpin(self.arena.base()) } {
                let bytes = self.arena.bytes();
                tracing::warn!(%error, bytes, "pinned memory could not be taken back; it is leaked, not freed");
                std::mem::forget(self.arena.clone());
            }
        }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // Slabs that reads or copies never gave back hold the arena: it stays mapped then, and pinned.
        if Arc::strong_count(&self.arena) > 1 {
            return;
        }
        self.unpin();
    }
}

/// Puts what is wanted on the host out of a landed window, which starts at `at` among what is read; says how many bytes.
pub(super) fn keep(slab: &Slab, body: &mut Body, at: u64, limits: &Limits) -> u64 {
    let Body { plan, kept, .. } = body;
    let mut bytes = 0;
    for part in plan.parts_in(at, limits).iter().filter(|part| part.purpose.keep) {
        let from = part.at - at;
        assert!(from + part.bytes <= slab.bytes() as u64, "a part outside its slab");
        // SAFETY: inside the slab, by the check above. The ring has done with it, its copy has not begun, and the lease
        // that says so is borrowed.
        let part_bytes =
            unsafe { std::slice::from_raw_parts(slab.base().add(from as usize).as_ptr(), part.bytes as usize) };
        bytes += kept.put(part.view as usize, part.from, part_bytes);
    }
    bytes
}

/// Starts the copies of one landed window, which starts at `at` among what is read; gives the point behind them and their
/// bytes.
pub(super) fn copy_window(
    copies: &mut CopyQueue<Copying>,
    slab: Slab,
    body: &Body,
    at: u64,
    limits: &Limits,
) -> Result<(Seq, u64)> {
    let _range = range(c"strait: start copies");
    let region = body.region.as_ref().expect("staged batches keep their region");
    let (source, room, target) = (slab.base(), slab.bytes() as u64, region.base());
    let copying = Copying { slab: Some(slab), _target: region.memory().clone() };
    let copy = |piece: &Move| {
        let from = piece.source - at;
        assert!(from + piece.bytes <= room && piece.target + piece.bytes <= region.bytes() as u64);
        // SAFETY: `from` is inside the slab, by the check above.
        let source = unsafe { source.add(from as usize) };
        RawCopy { source, target: target + piece.target, bytes: piece.bytes as usize }
    };
    let whole = [Move { source: at, target: at, bytes: (body.plan.read_bytes() - at).min(room) }];
    let pieces = body.plan.pieces(at, limits).unwrap_or(&whole);
    // SAFETY: the slab is pinned for as long as it lives (`Pinned`), and moves into the queue. The targets lie in the
    // body's region: its memory is not freed before the copies have ended, as a share in it moves into the queue too, and
    // whoever gets the region next writes to it through the same stream.
    let seq = unsafe { copies.copy_all(copying, pieces.iter().map(copy)) }?;
    Ok((seq, pieces.iter().map(|piece| piece.bytes).sum()))
}

/// Starts the gather of a batch whose copies have all been started; gives the point behind it.
pub(super) fn gather<L: From<Copying>>(copies: &mut CopyQueue<L>, body: &Body) -> Result<Seq> {
    let _range = range(c"strait: gather");
    let region = body.region.as_ref().expect("staged batches keep their region");
    let (bytes, moves) = (region.bytes() as u64, body.plan.gather());
    assert!(moves.iter().all(|one| one.source + one.bytes <= bytes && one.target + one.bytes <= bytes));
    let copying = Copying { slab: None, _target: region.memory().clone() };
    // SAFETY: the moves stay within the body's region, by the check above, and a plan's targets lie behind all that is
    // read. As for the copies, a share in the memory moves into the queue, and whoever gets the region next writes to it
    // through the same stream, or has waited for it at the gate.
    unsafe { copies.gather(copying.into(), region.base(), moves) }
}

/// Starts the casts of a batch behind those in `at`, as far as the stream has room; gives the point behind them, and the
/// bytes that they make.
pub(super) fn cast<L: From<Copying>>(
    copies: &mut CopyQueue<L>,
    body: &Body,
    at: &mut (usize, usize),
) -> Result<(Seq, u64)> {
    let _range = range(c"strait: cast");
    let region = body.region.as_ref().expect("staged batches keep their region");
    let (end, mut seq, mut bytes) = (region.bytes() as u64, body.seq, 0);
    while let Some((cast, moves)) = body.plan.cast_moves(at.0) {
        let left = &moves[at.1..];
        assert!(
            left.iter().all(|one| one.source + one.bytes <= one.target && one.target + cast.bytes_of(one.bytes) <= end)
        );
        let copying = Copying { slab: None, _target: region.memory().clone() };
        // SAFETY: the moves stay within the body's region, by the check above, and a plan's targets lie behind all that is
        // read, each at a multiple of its elements' size. The rest is as for a gather.
        let Some((point, started)) = unsafe { copies.cast(copying.into(), region.base(), cast, left) }? else {
            break; // the engine comes back when something has ended
        };
        seq = point;
        bytes += left[..started].iter().map(|one| cast.bytes_of(one.bytes)).sum::<u64>();
        *at = if started < left.len() { (at.0, at.1 + started) } else { (at.0 + 1, 0) };
    }
    Ok((seq, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::SimDevice;
    use crate::sim::Clock;

    /// Mutants that this catches: memory that only one of them takes back; that is taken back while a slab is out.
    #[test]
    fn every_device_takes_back_what_it_has_pinned_unless_a_slab_is_out() {
        for out in [0, 1] {
            let sims = [1, 2].map(|seed| Arc::new(SimDevice::new(seed, Clock::simulated())));
            let devices = sims.each_ref().map(|sim| Device::new(sim.clone()));
            let mut slabs = SlabPool::new(2, 4096).unwrap();
            let pinned = Pinned::new(&devices, slabs.arena()).unwrap();
            assert_eq!(sims.each_ref().map(|sim| sim.pinned_bytes()), [8192; 2]);
            let never_back: Vec<Slab> = (0..out).filter_map(|_| slabs.lease()).collect();
            drop(slabs);
            drop(pinned);
            assert_eq!(sims.map(|sim| sim.pinned_bytes()), [8192 * out; 2]);
            std::mem::forget(never_back);
        }
    }

    /// Mutant that this catches: what one has pinned stays pinned when the next one refuses.
    #[test]
    fn a_device_that_refuses_leaves_nothing_pinned() {
        let sims = [1, 2].map(|seed| Arc::new(SimDevice::new(seed, Clock::simulated())));
        let devices = sims.each_ref().map(|sim| Device::new(sim.clone()));
        let slabs = SlabPool::new(2, 4096).unwrap();
        // SAFETY: unpinned below, before the slabs go.
        unsafe { devices[1].raw().pin(slabs.arena().base(), 4096) }.unwrap();
        assert!(Pinned::new(&devices, slabs.arena()).is_err(), "one device pins the same memory twice");
        assert_eq!(sims.map(|sim| sim.pinned_bytes()), [0, 4096]);
        // SAFETY: pinned above, and no copy reads it.
        unsafe { devices[1].raw().unpin(slabs.arena().base()) }.unwrap();
    }
}
