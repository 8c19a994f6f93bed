//! From the source to reads: what is planned, where it finds a region, and what has to be read again.

use std::sync::atomic::Ordering;

use super::ranges::range;
use super::{Engine, Filling, Hold};
use crate::batch::Body;
use crate::device::Seq;
use crate::error::{Error, Result};
use crate::plan;
use crate::region::Region;
use crate::storage::{Accepted, Want};

impl Engine {
    pub(super) fn refill(&mut self) {
        let _range = range(c"strait: plan, read");
        self.shared.starved.store(false, Ordering::SeqCst);
        while !self.state.recalling && self.issue() && self.start_batch() {}
    }

    /// Issues reads of the newest batch; true once it has no more.
    fn issue(&mut self) -> bool {
        let Engine { queue, stage, state, sizes, shared, .. } = self;
        let Some(filling) = state.filling.back_mut() else { return true };
        while let Some(&read) = filling.body.plan.reads().get(filling.next_read) {
            let window = read.at / sizes.limits.window_bytes;
            let landing = match filling.open {
                Some((landing, open)) if open == window => landing,
                _ => {
                    filling.close(queue);
                    let lease = match stage {
                        Some(stage) => stage.slabs.lease().map(Hold::Slab),
                        None => filling.body.region.take().map(Hold::Region),
                    };
                    let Some(lease) = lease else {
                        shared.counters.waits_for_slab.add(1);
                        return false;
                    };
                    let tag = u64::from(filling.body.slot) << 32 | window;
                    let landing = queue.open(lease, tag).ok().expect("as many landings as slabs and batches");
                    filling.open = Some((landing, window));
                    filling.landings += 1;
                    landing
                }
            };
            let plan::Read { shard, offset, len, want, at } = read;
            let at = (at % sizes.limits.window_bytes) as usize;
            match queue.read(landing, Want { shard, offset, len, want, at }) {
                Ok(Accepted::Yes) => filling.next_read += 1,
                Ok(Accepted::Full) => return false,
                Err(error) => {
                    filling.failure.get_or_insert(error);
                    filling.next_read = filling.body.plan.reads().len();
                }
            }
        }
        filling.close(queue);
        true
    }

    /// Plans the next batch and finds it a region; false if there is none to start now.
    fn start_batch(&mut self) -> bool {
        let Some((mut body, mut failure)) = self.planned() else { return false };
        let (bytes, room) = (body.plan.region_bytes(), self.regions.bytes() as u64);
        if failure.is_some() {
            // It waits for its turn to say so.
        } else if bytes > room {
            failure = Some(Error::BatchTooLarge { batch_bytes: bytes, pool_bytes: room });
        } else if bytes > 0 {
            let Some(region) = self.regions.lease(bytes as usize) else {
                self.shared.counters.waits_for_region.add(1);
                self.shared.starved.store(true, Ordering::SeqCst);
                self.state.planned.push_front((body, None));
                return false;
            };
            failure = self.behind_fences(&body, &region).err();
            body.region = Some(region);
        }
        self.state.filling.push_back(Filling::new(body, failure));
        true
    }

    /// The next body with a plan: the one that waited for a region, or a new one. Empty, and with the reason, if there
    /// can be none.
    fn planned(&mut self) -> Option<(Body, Option<Error>)> {
        let state = &mut self.state;
        if !state.running {
            return None;
        }
        if let Some(planned) = state.planned.pop_front() {
            return Some(planned);
        }
        let source = state.source.as_mut().filter(|source| !source.is_over())?;
        if state.filling.len() >= self.sizes.prefetch {
            return None;
        }
        let Some(mut body) = state.idle.pop() else {
            self.shared.counters.waits_for_region.add(1);
            self.shared.starved.store(true, Ordering::SeqCst);
            return None;
        };
        (body.generation, body.epoch, body.seq, body.careful) = (state.generation, source.epoch(), Seq(0), false);
        let failure = match source.next(&self.dataset, &mut body.samples, &mut body.pieces) {
            Ok(Some(step)) => {
                (body.step, body.padded) = (step.step, step.padded);
                (body.standing.progress, body.standing.packer) = (step.progress, step.packer);
                self.bad.place(&mut body, step.position);
                None
            }
            Ok(None) => {
                state.idle.push(body);
                return None;
            }
            Err(error) => {
                body.places.clear();
                Some(error)
            }
        };
        let planned = self.plan(&mut body);
        // Looking samples up may have met a damaged index; then the plan lacks some.
        Some((body, failure.or_else(|| self.dataset.check().err()).or(planned.err())))
    }

    /// Orders copies into `region` behind the consumers' streams that may still use its memory, or this body's fence.
    fn behind_fences(&mut self, body: &Body, region: &Region) -> Result<()> {
        let Some(stage) = &mut self.stage else {
            self.state.fences.clear(); // the host's consumers have no streams; others' batches came through the gate
            return Ok(());
        };
        let mut result = Ok(());
        self.state.fences.retain(|&((start, end), fence)| {
            let concerns = region.overlaps(start, end) || fence == body.fence;
            if concerns && result.is_ok() {
                result = stage.copies.wait_fence(fence);
                // Given up before its first copy, this batch would leave nothing behind that wait to wait for.
                region.memory().free_behind(fence);
            }
            !concerns || result.is_err()
        });
        result
    }

    /// The oldest batch has to be planned anew. So has all that was read ahead: its regions may be what that one needs.
    pub(super) fn recall(&mut self) {
        for filling in &mut self.state.filling {
            filling.close(&mut self.queue);
            filling.next_read = filling.body.plan.reads().len();
        }
        self.state.recalling = true;
        self.shared.counters.batches_read_again.add(1);
    }

    /// Plans recalled batches anew, once nothing lands in their regions any more.
    pub(super) fn replan(&mut self) {
        if !self.state.recalling || self.state.filling.iter().any(|filling| !filling.is_idle()) {
            return;
        }
        // Where no stream orders new reads behind the gathers, they have to be over.
        if self.gate.as_ref().is_some_and(|gate| !gate.is_empty()) {
            return;
        }
        let _range = range(c"strait: plan, read");
        self.state.recalling = false;
        while let Some(Filling { mut body, failure, .. }) = self.state.filling.pop_back() {
            if let Some(region) = body.region.take() {
                self.regions.give_back(region);
            }
            self.bad.leave_out(&mut body);
            let planned = self.plan(&mut body);
            let failure = failure.filter(|error| !self.bad.forgives(error)).or_else(|| self.dataset.check().err());
            let failure = failure.or(planned.err());
            self.state.planned.push_front((body, failure));
        }
    }
}
