//! Batches that are not wanted any more: an epoch that fails or makes room for another, and bodies that come back.

use super::Engine;
use crate::batch::Body;
use crate::device::Seq;
use crate::error::Error;

impl Engine {
    /// Ends this generation with an error, once.
    pub(super) fn fail(&mut self, error: Error) {
        if matches!(error, Error::Ring { .. } | Error::Device { .. } | Error::Stopped { .. }) {
            self.state.broken.get_or_insert(error.clone());
        }
        if std::mem::take(&mut self.state.running) {
            self.state.unsaid = Some(error);
            self.say();
        }
        self.doom();
    }

    /// What is under way is not wanted any more. Its memory comes back when its reads have ended.
    pub(super) fn doom(&mut self) {
        let state = &mut self.state;
        state.recalling = false;
        state.idle.extend(state.planned.drain(..).map(|(body, _)| body));
        for mut filling in state.filling.drain(..) {
            filling.close(&mut self.queue);
            filling.next_read = filling.body.plan.reads().len();
            filling.body.generation = 0;
            state.doomed.push(filling);
        }
        self.bury();
    }

    /// Takes back the batches of earlier generations whose reads have all ended.
    pub(super) fn bury(&mut self) {
        let mut i = 0;
        while i < self.state.doomed.len() {
            if self.state.doomed[i].is_idle() {
                let filling = self.state.doomed.swap_remove(i);
                self.recycle(filling.body);
            } else {
                i += 1;
            }
        }
    }

    /// A batch comes back, perhaps with streams still at its region.
    pub(super) fn recycle(&mut self, body: Body) {
        match &mut self.gate {
            Some(gate) if body.fenced || body.seq > Seq(0) => {
                if let Err(error) = gate.put(body) {
                    self.state.broken.get_or_insert(error);
                }
            }
            _ => self.free(body),
        }
    }

    /// A body becomes free, and with it its region.
    pub(super) fn free(&mut self, mut body: Body) {
        if let Some(region) = body.region.take() {
            if std::mem::take(&mut body.fenced) {
                self.state.fences.push((region.range(), body.fence));
            }
            self.regions.give_back(region);
        }
        self.state.idle.push(body);
    }
}
