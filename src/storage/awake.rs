//! Time as deadlines count it: without what passes while the whole process is stopped, in a container that is paused, by
//! SIGSTOP, or with its machine. Storage may have answered meanwhile, and nobody could hear it.

use std::time::Duration;

use crate::sim::Clock;

/// A wait that lasts longer than it may by more than this was one of a stopped process, or of a machine so busy that it
/// comes to the same.
const STOPPED_MIN: Duration = Duration::from_secs(1);

/// A clock that waits are told to.
pub(super) struct Awake {
    clock: Clock,
    stopped: Duration,
}

impl Awake {
    pub(super) fn new(clock: Clock) -> Awake {
        Awake { clock, stopped: Duration::ZERO }
    }

    pub(super) fn now(&self) -> Duration {
        self.clock.now().saturating_sub(self.stopped)
    }

    /// A wait that began at `start`, and was to last `timeout` at most, is over.
    pub(super) fn waited(&mut self, start: Duration, timeout: Duration) {
        let over = self.now().saturating_sub(start).saturating_sub(timeout);
        if over > STOPPED_MIN {
            self.stopped += over;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mutants that this catches: the time of a stopped process counted; that of an ordinary wait taken off; a stop taken off
    /// as a whole, with the wait that it fell into.
    #[test]
    fn a_stopped_process_does_not_wait() {
        let clock = Clock::simulated();
        let (mut awake, second) = (Awake::new(clock.clone()), Duration::from_secs(1));
        for (took, timeout, counted) in [(1, 1, 1), (2, 1, 2), (1, 5, 1), (90, 5, 5), (0, 5, 0), (3600, 1, 1)] {
            let start = awake.now();
            clock.advance(took * second);
            awake.waited(start, timeout * second);
            assert_eq!(awake.now() - start, counted * second, "{took} s in place of {timeout} s");
        }
    }
}
