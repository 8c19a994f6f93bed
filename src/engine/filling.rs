//! A batch on its way: what of it has been asked for, what is there, what is still to be done.

use super::Hold;
use crate::batch::Body;
use crate::error::Error;
use crate::storage::{Damage, LandingId, ReadQueue};

/// A batch on its way.
pub(super) struct Filling {
    pub(super) body: Body,
    pub(super) next_read: usize,
    pub(super) open: Option<(LandingId, u64)>,
    pub(super) landings: usize,
    /// Leases with the worker.
    pub(super) working: usize,
    /// The worker has had the whole batch.
    pub(super) worked: bool,
    /// It has been compared with its checksums, and its gather has been started.
    pub(super) gathered: bool,
    /// The casts that have been started: whole ones, and moves of the next.
    pub(super) cast: (usize, usize),
    /// Everything that was to be done has been done or, on the copy stream, started; or has failed.
    pub(super) finished: bool,
    pub(super) failure: Option<Error>,
    pub(super) damages: Vec<Damage>,
}

impl Filling {
    /// A batch to be read, or one that only waits for its turn to say what failed.
    pub(super) fn new(body: Body, failure: Option<Error>) -> Filling {
        let next_read = if failure.is_some() { body.plan.reads().len() } else { 0 };
        let damages = Vec::new(); // allocates nothing as long as nothing fails
        Filling {
            body,
            next_read,
            open: None,
            landings: 0,
            working: 0,
            worked: false,
            gathered: false,
            cast: (0, 0),
            finished: false,
            failure,
            damages,
        }
    }

    pub(super) fn close(&mut self, queue: &mut ReadQueue<Hold>) {
        if let Some((landing, _)) = self.open.take() {
            queue.close(landing);
        }
    }

    /// Nothing of it is with the ring or the worker.
    pub(super) fn is_idle(&self) -> bool {
        self.landings == 0 && self.working == 0
    }

    /// Every read has ended, every copy has been started, and the worker has done its part.
    pub(super) fn is_there(&self) -> bool {
        self.next_read == self.body.plan.reads().len() && self.open.is_none() && self.is_idle()
    }

    /// The worker has something to do with it, once it is all there.
    pub(super) fn wants_work(&self) -> bool {
        let plan = &self.body.plan;
        let arrays = !plan.gather().is_empty() || plan.cast_moves(0).is_some();
        let work = arrays || plan.parts().iter().any(|part| part.purpose.check);
        work && !self.worked && self.failure.is_none()
    }

    /// How long its reads are, more or less.
    pub(super) fn read_bytes(&self) -> Option<u64> {
        self.body.plan.reads().first().map(|read| read.len.into())
    }
}
