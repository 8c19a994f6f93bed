//! From reads that have ended to batches that are all there: copies, the worker's part, gathers and casts.
//!
//! ```text
//!   direct   landed: the region, whole ---> worker checks, gathers, casts ---> finished
//!   gated    landed: the region, whole ---> gather started, see gate.rs ---> finished
//!   staged   landed: a slab ---> worker checks ---> copy started                   all of them ---> gather started ---> finished
//! ```
//!
//! Casts follow the gather on its stream, as many at a time as the stream has room for.

use std::sync::atomic::Ordering;

use super::stage::{cast, copy_window, gather, keep};
use super::work::Job;
use super::{Engine, Filling, Gate, Hold, Stage};
use crate::error::Result;
use crate::memory::Slab;
use crate::stats::Counters;
use crate::storage::Landed;

impl Engine {
    pub(super) fn reap_copies(&mut self) -> Result<()> {
        let Some(Stage { copies, slabs, stall, .. }) = &mut self.stage else { return Ok(()) };
        let ended = copies.reap(|copying| {
            if let Some(slab) = copying.slab {
                slabs.give_back(slab);
            }
        })?;
        let (left, deadline) = ((copies.in_flight(), copies.is_held_up()), self.shared.deadline);
        self.shared.held_up.store(left.1, Ordering::Relaxed);
        stall.look_at_copies(ended, left, self.clock.now(), deadline, || self.shared.device.name())
    }

    pub(super) fn reap_reads(&mut self) -> Result<()> {
        while let Some(Landed { lease, tag, result, damages }) = self.queue.reap() {
            let (slot, at) = ((tag >> 32) as u32, (tag & 0xFFFF_FFFF) * self.sizes.limits.window_bytes);
            let filling = self.state.of(slot);
            filling.landings -= 1;
            filling.damages.extend(damages);
            let whole = result.is_ok();
            if let Err(error) = result {
                filling.failure.get_or_insert(error);
            }
            match lease {
                Hold::Region(region) => filling.body.region = Some(region),
                Hold::Slab(slab) if whole => self.slab_landed(slot, slab, at)?,
                Hold::Slab(slab) => self.stage.as_mut().expect("slabs are the staged path's").slabs.give_back(slab),
            }
        }
        self.bury();
        Ok(())
    }

    /// What the host keeps of a slab is taken; then it is checked, if it is to be, and copied.
    fn slab_landed(&mut self, slot: u32, slab: Slab, at: u64) -> Result<()> {
        let (generation, limits) = (self.state.generation, self.sizes.limits);
        let filling = self.state.of(slot);
        if filling.body.generation != generation {
            return self.copy_slab(slot, slab, at);
        }
        self.shared.counters.bytes_kept.add(keep(&slab, &mut filling.body, at, &limits));
        let checks = filling.body.plan.parts_in(at, &limits).iter().any(|part| part.purpose.check);
        match &mut self.worker {
            Some(worker) if checks => {
                filling.working += 1;
                let plan = filling.body.plan.clone();
                worker.put(0, Job { slot, at, limits, hold: Hold::Slab(slab), plan })
            }
            _ => self.copy_slab(slot, slab, at),
        }
    }

    /// Starts the copy of a slab; gives it back where that is not wanted any more.
    fn copy_slab(&mut self, slot: u32, slab: Slab, at: u64) -> Result<()> {
        let generation = self.state.generation;
        let filling = self.state.of(slot);
        let Stage { copies, slabs, .. } = self.stage.as_mut().expect("slabs are the staged path's");
        if filling.body.generation != generation {
            slabs.give_back(slab);
            return Ok(());
        }
        let (seq, bytes) = copy_window(copies, slab, &filling.body, at, &self.sizes.limits)?;
        filling.body.seq = filling.body.seq.max(seq);
        self.shared.counters.bytes_copied.add(bytes);
        if let Some(fallback) = copies.fallback() {
            self.shared.counters.fall_back(fallback);
        }
        Ok(())
    }

    /// Takes back what the worker has done.
    pub(super) fn reap_work(&mut self) -> Result<()> {
        while let Some(worker) = &mut self.worker
            && let Some(Job { slot, at, hold, plan, .. }) = worker.reap()?
        {
            drop(plan); // the batch's alone again
            let filling = self.state.of(slot);
            filling.working -= 1;
            match hold {
                Hold::Region(region) => filling.body.region = Some(region),
                Hold::Slab(slab) => self.copy_slab(slot, slab, at)?,
            }
        }
        self.bury();
        Ok(())
    }

    /// Does what is left to do with batches whose reads have all ended.
    pub(super) fn finish(&mut self) -> Result<()> {
        if self.state.recalling {
            return Ok(());
        }
        let Engine { state, worker, stage, gate, verifier, dataset, selection, sizes, shared, .. } = self;
        for filling in state.filling.iter_mut().filter(|filling| filling.is_there() && !filling.finished) {
            if let (Some(worker), None) = (&mut *worker, &*stage)
                && filling.wants_work()
            {
                let region = filling.body.region.take().expect("a batch with bytes has a region");
                let (slot, plan, limits) = (filling.body.slot, filling.body.plan.clone(), sizes.limits);
                (filling.working, filling.worked) = (1, true);
                worker.put(0, Job { slot, at: 0, limits, hold: Hold::Region(region), plan })?;
                continue;
            }
            if !std::mem::replace(&mut filling.gathered, true) {
                if let (Some(verifier), None) = (&mut *verifier, &filling.failure) {
                    filling.damages = verifier.damages(&filling.body, dataset, selection, &shared.counters);
                    filling.failure = filling.damages.first().map(|damage| damage.error.clone());
                }
                filling.gather(stage, gate, &shared.counters)?;
            }
            filling.finished = filling.cast(stage, gate, &shared.counters)?;
        }
        Ok(())
    }
}

impl Filling {
    /// Starts the gather, if there is one and nobody has done it.
    fn gather(&mut self, stage: &mut Option<Stage>, gate: &mut Option<Gate>, counters: &Counters) -> Result<()> {
        let moved: u64 = self.body.plan.gather().iter().map(|one| one.bytes).sum();
        if moved == 0 || self.failure.is_some() {
            return Ok(());
        }
        counters.bytes_gathered.add(moved);
        match (stage, gate) {
            (Some(stage), _) => self.body.seq = gather(&mut stage.copies, &self.body)?,
            (None, Some(gate)) => self.body.seq = gate.gather(&self.body)?,
            (None, None) => {} // the worker has done it
        }
        Ok(())
    }

    /// Starts casts; true once all of them are, or there are none to start.
    fn cast(&mut self, stage: &mut Option<Stage>, gate: &mut Option<Gate>, counters: &Counters) -> Result<bool> {
        if self.failure.is_some() || self.body.plan.cast_moves(0).is_none() {
            return Ok(true);
        }
        let (seq, bytes) = match (stage, gate) {
            (Some(stage), _) => cast(&mut stage.copies, &self.body, &mut self.cast)?,
            (None, Some(gate)) => gate.cast(&self.body, &mut self.cast)?,
            (None, None) => {
                counters.bytes_cast.add(self.body.plan.cast_bytes());
                return Ok(true); // the worker has done it
            }
        };
        self.body.seq = seq;
        counters.bytes_cast.add(bytes);
        Ok(self.body.plan.cast_moves(self.cast.0).is_none())
    }
}
