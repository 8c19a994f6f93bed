//! The consumer's end of an engine: waits for what the engine's thread hands over, and for the end of that thread.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError};

use crate::error::{Error, Result};
use crate::sim::Clock;
use crate::stall::Stall;

/// The consumer looks this often whether the engine still makes progress.
const LOOK: Duration = Duration::from_millis(100);

/// What an engine's thread hands over.
pub(crate) struct Outlet<T> {
    output: Receiver<T>,
    /// Disconnected once the engine's thread is over.
    over: Receiver<()>,
    /// Why the engine is gone, if it did not say so itself.
    stopped: Arc<OnceLock<String>>,
    deadline: Duration,
    clock: Clock,
    stall: Stall,
    /// What the last look saw of the engine's progress.
    progress: u64,
}

impl<T> Outlet<T> {
    pub(crate) fn new(
        output: Receiver<T>,
        over: Receiver<()>,
        stopped: Arc<OnceLock<String>>,
        deadline: Duration,
    ) -> Outlet<T> {
        // Who waits for a thread waits for real.
        Outlet { output, over, stopped, deadline, clock: Clock::real(), stall: Stall::default(), progress: 0 }
    }

    /// What comes next, if it comes within `patience`. `progress` is a number that changes as long as the engine moves,
    /// `deadline` how long it may stand as things are.
    ///
    /// # Errors
    /// [`Error::Timeout`] for `what`, if that number has not changed for longer than that, however short the patience of each
    /// call; [`Error::Stopped`] if the engine is gone.
    pub(crate) fn within(
        &mut self,
        patience: Duration,
        progress: impl Fn() -> u64,
        deadline: impl Fn() -> Duration,
        what: impl FnOnce() -> String,
    ) -> Result<Option<T>> {
        let from = Instant::now();
        loop {
            let left = patience.saturating_sub(from.elapsed());
            match self.output.recv_timeout(left.min(LOOK)) {
                Ok(output) => {
                    self.stall = Stall::default();
                    return Ok(Some(output));
                }
                Err(RecvTimeoutError::Disconnected) => return Err(self.stopped()),
                Err(RecvTimeoutError::Timeout) => {}
            }
            let before = std::mem::replace(&mut self.progress, progress());
            let waited = self.stall.look(self.clock.now(), self.progress != before);
            // The engine reports a stalled read itself, and first: it knows which one.
            if waited > deadline().saturating_add(10 * LOOK) {
                return Err(Error::Timeout { what: what(), waited });
            }
            if from.elapsed() >= patience {
                return Ok(None);
            }
        }
    }

    /// Output that is there, and that nobody waits for any more: the next wait begins anew.
    pub(crate) fn stale(&mut self) -> Option<T> {
        self.stall = Stall::default();
        self.output.try_recv().ok()
    }

    /// Why nothing comes any more.
    pub(crate) fn stopped(&self) -> Error {
        let reason = self.stopped.get().cloned();
        Error::Stopped { reason: reason.unwrap_or_else(|| "its thread does not answer".into()) }
    }
}

impl<T> Drop for Outlet<T> {
    /// The engine, which its owner has told to stop, drains reads, then copies, each within a deadline of its own, and is over.
    fn drop(&mut self) {
        let bound = 3 * self.deadline + Duration::from_secs(1);
        if self.over.recv_timeout(bound) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("the engine's thread did not end within {bound:?}; it is left to itself");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use crossbeam::channel;

    use super::*;

    /// Mutants that this catches: an engine that moves runs into the deadline; one that does not is waited for on and on; the
    /// wait goes on behind what came, or behind what nobody waits for any more.
    #[test]
    fn a_wait_ends_with_output_with_patience_or_with_an_engine_that_stands_still() {
        let (engine, output) = channel::bounded(1);
        let (alive, over) = channel::bounded(0);
        let mut outlet = Outlet::new(output, over, Arc::default(), Duration::ZERO);
        let wait = |outlet: &mut Outlet<u8>, patience, progress: &dyn Fn() -> u64| {
            outlet.within(patience, progress, || Duration::ZERO, || "news".into())
        };
        let moves = Cell::new(0);
        let moving = || moves.replace(moves.get() + 1);
        assert_eq!(wait(&mut outlet, 15 * LOOK, &moving).unwrap(), None);
        for begin_anew in [
            |_: &Sender, outlet: &mut Outlet<u8>| assert_eq!(outlet.stale(), None),
            |engine: &Sender, outlet: &mut Outlet<u8>| {
                engine.send(7).unwrap();
                assert_eq!(outlet.within(Duration::MAX, || 0, || Duration::ZERO, String::new).unwrap(), Some(7));
            },
        ] {
            let stuck = wait(&mut outlet, Duration::MAX, &|| 0).unwrap_err();
            assert!(matches!(&stuck, Error::Timeout { what, .. } if what == "news"), "{stuck}");
            begin_anew(&engine, &mut outlet);
            assert_eq!(wait(&mut outlet, Duration::ZERO, &|| 0).unwrap(), None);
        }
        drop((engine, alive));
        let gone = wait(&mut outlet, Duration::MAX, &|| 0).unwrap_err();
        assert!(matches!(gone, Error::Stopped { .. }), "{gone}");
    }

    type Sender = channel::Sender<u8>;
}
