//! How far a read or write has come: a ring may end it short, or want it tried again. The same for both queues.

use std::time::Duration;

use crate::error::{Error, Result};

/// What is answered EAGAIN or EINTR, or gets no further, more often than this has failed.
const RETRIES_MAX: u32 = 8;

pub(super) struct Attempt {
    from: u32,
    done: u32,
    retries: u32,
    started: Duration,
}

/// What a count of bytes means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    Whole,
    /// The rest is to be asked for.
    More,
    /// The same count came again and again, as it does at the end of a file; of a busy storage it does not.
    Stuck,
}

impl Attempt {
    pub(super) fn first(now: Duration) -> Attempt {
        Attempt { from: 0, done: 0, retries: 0, started: now }
    }

    /// Where the attempt at hand starts, counted from the first byte.
    pub(super) fn from(&self) -> u32 {
        self.from
    }

    /// Bytes done, counted from the first.
    pub(super) fn done(&self) -> u32 {
        self.done
    }

    pub(super) fn started(&self) -> Duration {
        self.started
    }

    /// Counts a retry; false if there were too many.
    pub(super) fn may_retry(&mut self) -> bool {
        let may = self.retries < RETRIES_MAX;
        self.retries += u32::from(may);
        may
    }

    /// `count` more bytes are done, of the `whole`. What is left starts at the last multiple of `align`.
    pub(super) fn advance(&mut self, count: u32, whole: u32, align: u32) -> Progress {
        let done = self.from + count;
        if done >= whole {
            return Progress::Whole;
        }
        self.retries += u32::from(done <= self.done);
        self.done = self.done.max(done);
        self.from = self.done / align * align;
        if self.retries > RETRIES_MAX { Progress::Stuck } else { Progress::More }
    }

    /// [`Error::Timeout`] if it has been under way for `deadline` or longer.
    pub(super) fn check(&self, now: Duration, deadline: Duration, what: impl FnOnce() -> String) -> Result<()> {
        let waited = now.saturating_sub(self.started);
        if waited < deadline {
            return Ok(());
        }
        Err(Error::Timeout { what: format!("{}: the storage does not answer; see `dmesg`", what()), waited })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mutants that this catches: a rest that starts behind the last aligned byte; a count that goes on for ever.
    #[test]
    fn what_ends_short_goes_on_at_the_last_aligned_byte_until_it_gets_no_further() {
        let mut attempt = Attempt::first(Duration::ZERO);
        assert_eq!(attempt.advance(5000, 12288, 4096), Progress::More);
        assert_eq!((attempt.from(), attempt.done()), (4096, 5000));
        let again = (0..RETRIES_MAX).all(|_| attempt.advance(904, 12288, 4096) == Progress::More);
        assert!(again && attempt.advance(904, 12288, 4096) == Progress::Stuck);
        assert_eq!(attempt.advance(8192, 12288, 4096), Progress::Whole);
    }
}
