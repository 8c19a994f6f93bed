//! From reads that have ended to batches that are all there: copies, the worker's part, gathers.
//!
//! ```text
//!   direct   landed: the region, whole ---> worker gathers ---> finished
//!   gated    landed: the region, whole ---> gather started, see gate.rs ---> finished
//!   staged   landed: a slab ---> copy started                   all of them ---> gather started ---> finished
//! ```

use super::stage::{copy_window, gather, keep};
use super::work::Job;
use super::{Engine, Hold, Stage};
use crate::error::{Error, Result};
use crate::storage::Landed;

impl Engine {
    pub(super) fn reap_copies(&mut self) -> Result<()> {
        let Some(Stage { copies, slabs, moved, .. }) = &mut self.stage else { return Ok(()) };
        let ended = copies.reap(|copying| {
            if let Some(slab) = copying.slab {
                slabs.give_back(slab);
            }
        })?;
        let now = self.clock.now();
        if ended > 0 || copies.in_flight() == 0 {
            *moved = now;
        }
        let waited = now.saturating_sub(*moved);
        if waited < self.shared.deadline {
            return Ok(());
        }
        let (left, device) = (copies.in_flight(), self.shared.device.name());
        let what = format!("{left} copies to {device}: it does not answer, or a consumer's stream holds them up");
        Err(Error::Timeout { what, waited })
    }

    pub(super) fn reap_reads(&mut self) -> Result<()> {
        while let Some(Landed { lease, tag, result, damages }) = self.queue.reap() {
            let (slot, window) = ((tag >> 32) as u32, tag & 0xFFFF_FFFF);
            let state = &mut self.state;
            let mut batches = state.filling.iter_mut().chain(&mut state.doomed);
            let filling = batches.find(|f| f.body.slot == slot).expect("a landing belongs to a batch on its way");
            filling.landings -= 1;
            filling.damages.extend(damages);
            match lease {
                Hold::Region(region) => filling.body.region = Some(region),
                Hold::Slab(slab) => {
                    let Stage { copies, slabs, .. } = self.stage.as_mut().expect("slabs are the staged path's");
                    if result.is_err() || filling.body.generation != state.generation {
                        slabs.give_back(slab);
                    } else {
                        let limits = &self.sizes.limits;
                        let kept = keep(&slab, &mut filling.body, window * limits.window_bytes, limits);
                        self.shared.counters.bytes_kept.add(kept);
                        let (seq, bytes) =
                            copy_window(copies, slab, &filling.body, window * limits.window_bytes, limits)?;
                        filling.body.seq = filling.body.seq.max(seq);
                        self.shared.counters.bytes_copied.add(bytes);
                    }
                }
            }
            if let Err(error) = result {
                filling.failure.get_or_insert(error);
            }
        }
        self.bury();
        Ok(())
    }

    /// Takes back what the worker has done.
    pub(super) fn reap_work(&mut self) -> Result<()> {
        let Some(worker) = &mut self.worker else { return Ok(()) };
        while let Some(Job { slot, hold, .. }) = worker.reap()? {
            let state = &mut self.state;
            let mut batches = state.filling.iter_mut().chain(&mut state.doomed);
            let filling = batches.find(|f| f.body.slot == slot).expect("a job belongs to a batch on its way");
            filling.working -= 1;
            match hold {
                Hold::Region(region) => filling.body.region = Some(region),
                Hold::Slab(slab) => self.stage.as_mut().expect("slabs are the staged path's").slabs.give_back(slab),
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
        for filling in self.state.filling.iter_mut().filter(|filling| filling.is_there() && !filling.finished) {
            let moved = match filling.failure {
                Some(_) => 0,
                None => filling.body.plan.gather().iter().map(|one| one.bytes).sum(),
            };
            match (&mut self.stage, &mut self.worker) {
                _ if moved == 0 => {}
                (Some(stage), _) => {
                    filling.body.seq = gather(&mut stage.copies, &filling.body)?;
                }
                (None, _) if self.gate.is_some() => {
                    let gate = self.gate.as_mut().expect("just looked");
                    filling.body.seq = gate.gather(&filling.body)?;
                }
                (None, Some(worker)) if !filling.worked => {
                    let region = filling.body.region.take().expect("a batch with bytes has a region");
                    let (slot, plan) = (filling.body.slot, filling.body.plan.clone());
                    (filling.working, filling.worked) = (1, true);
                    worker.start(Job { slot, at: 0, hold: Hold::Region(region), plan })?;
                    continue;
                }
                (None, _) => {}
            }
            self.shared.counters.bytes_gathered.add(moved);
            filling.finished = true;
        }
        Ok(())
    }
}
