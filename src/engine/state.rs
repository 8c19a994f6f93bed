//! Where the engine stands: what is planned, on its way, and given up.

use std::collections::VecDeque;

use super::Filling;
use crate::batch::Body;
use crate::device::Fence;
use crate::error::Error;
use crate::source::Source;

/// Where the engine stands.
pub(crate) struct State {
    pub(super) generation: u64,
    pub(super) source: Option<Source>,
    /// The end of this generation, or its failure, has not been said yet.
    pub(super) running: bool,
    /// The loader is going away.
    pub(super) stopped: bool,
    /// A failure of this generation that the consumer has not been told of.
    pub(super) unsaid: Option<Error>,
    /// A ring or stream broke: every later epoch fails with this.
    pub(super) broken: Option<Error>,
    /// Batches that nobody uses.
    pub(super) idle: Vec<Body>,
    /// Planned, or known to fail, and waiting for a region, in order. More than one only where batches were recalled.
    pub(super) planned: VecDeque<(Body, Option<Error>)>,
    /// The oldest batch must be read again: nothing is read until all reads have ended and all batches are planned anew.
    pub(super) recalling: bool,
    /// In order.
    pub(super) filling: VecDeque<Filling>,
    /// Of earlier generations; they only wait for their reads to end.
    pub(super) doomed: Vec<Filling>,
    /// It has been said that batches have more small bytes than there is room for on the host.
    pub(super) crowded: bool,
    /// Regions given back behind a consumer's stream; whoever gets their memory next waits for the fence first.
    pub(super) fences: Vec<((usize, usize), Fence)>,
}

impl State {
    pub(crate) fn new(batches: Vec<Body>) -> State {
        let count = batches.len();
        State {
            generation: 0,
            source: None,
            running: false,
            stopped: false,
            unsaid: None,
            broken: None,
            idle: batches,
            planned: VecDeque::with_capacity(count),
            recalling: false,
            filling: VecDeque::with_capacity(count),
            doomed: Vec::with_capacity(count),
            crowded: false,
            fences: Vec::with_capacity(count),
        }
    }

    /// A batch on its way that something comes back of.
    pub(super) fn of(&mut self, slot: u32) -> &mut Filling {
        let mut batches = self.filling.iter_mut().chain(&mut self.doomed);
        batches.find(|filling| filling.body.slot == slot).expect("it belongs to a batch on its way")
    }
}
