//! The consumer's end of an engine: waits for what the engine's thread hands over, and for the end of that thread.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError};

use crate::error::{Error, Result};
use crate::sim::Clock;
use crate::stall::{Overdue, Signs, Watch};

/// The consumer looks this often whether the engine still makes progress.
pub(crate) const LOOK: Duration = Duration::from_millis(100);

/// What an engine's thread hands over.
pub(crate) struct Outlet<T> {
    output: Receiver<T>,
    /// Disconnected once the engine's thread is over.
    over: Receiver<()>,
    /// Why the engine is gone, if it did not say so itself.
    stopped: Arc<OnceLock<String>>,
    deadline: Duration,
    clock: Clock,
    watch: Watch,
}

impl<T> Outlet<T> {
    pub(crate) fn new(
        output: Receiver<T>,
        over: Receiver<()>,
        stopped: Arc<OnceLock<String>>,
        deadline: Duration,
    ) -> Outlet<T> {
        // Who waits for a thread waits for real.
        let clock = Clock::real();
        // The engine reports a stalled read itself, and first: it knows which one.
        Outlet { output, over, stopped, deadline, clock, watch: Watch::new(deadline, 10 * LOOK) }
    }

    /// What comes next, if it comes within `patience`. `signs` are the engine's now.
    ///
    /// # Errors
    /// [`Error::Timeout`] for `what`, which is told whether a consumer's stream is to blame, if by its signs the engine has stood
    /// for longer than a [`Watch`] allows, however short the patience of each call; [`Error::Stopped`] if it is gone.
    pub(crate) fn within(
        &mut self,
        patience: Duration,
        signs: impl Fn() -> Signs,
        what: impl FnOnce(bool) -> String,
    ) -> Result<Option<T>> {
        let from = Instant::now();
        loop {
            let left = patience.saturating_sub(from.elapsed());
            match self.output.recv_timeout(left.min(LOOK)) {
                Ok(output) => {
                    self.watch.begin_anew();
                    return Ok(Some(output));
                }
                Err(RecvTimeoutError::Disconnected) => return Err(self.stopped()),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if let Some(Overdue { waited, held_up }) = self.watch.look(self.clock.now(), signs()) {
                return Err(Error::Timeout { what: what(held_up), waited });
            }
            if from.elapsed() >= patience {
                return Ok(None);
            }
        }
    }

    /// Output that is there, and that nobody waits for any more: the next wait begins anew.
    pub(crate) fn stale(&mut self) -> Option<T> {
        self.watch.begin_anew();
        self.output.try_recv().ok()
    }

    /// Why nothing comes any more.
    pub(crate) fn stopped(&self) -> Error {
        let reason = self.stopped.get().cloned();
        Error::Stopped { reason: reason.unwrap_or_else(|| "its thread is gone".into()) }
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
            outlet.within(patience, || Signs { progress: progress(), ..Signs::default() }, |_| "news".into())
        };
        let moves = Cell::new(0);
        let moving = || moves.replace(moves.get() + 1);
        assert_eq!(wait(&mut outlet, 15 * LOOK, &moving).unwrap(), None);
        for begin_anew in [
            |_: &Sender, outlet: &mut Outlet<u8>| assert_eq!(outlet.stale(), None),
            |engine: &Sender, outlet: &mut Outlet<u8>| {
                engine.send(7).unwrap();
                assert_eq!(outlet.within(Duration::MAX, Signs::default, |_| String::new()).unwrap(), Some(7));
            },
        ] {
            let stuck = wait(&mut outlet, Duration::MAX, &|| 0).unwrap_err();
            assert!(matches!(&stuck, Error::Timeout { what, .. } if what == "news"), "{stuck}");
            begin_anew(&engine, &mut outlet);
            assert_eq!(wait(&mut outlet, Duration::ZERO, &|| 0).unwrap(), None);
        }
        drop((engine, alive));
        let gone = wait(&mut outlet, Duration::MAX, &|| 0).unwrap_err();
        assert!(matches!(&gone, Error::Stopped { reason } if reason == "its thread is gone"), "{gone}");
    }

    type Sender = channel::Sender<u8>;
}
