//! Copies that do not move, of either engine.
//!
//! A device that does not answer is an error after the deadline. Where copies wait for a consumer's stream, what they wait for is
//! none of the loader's: it may be a collective that other ranks are late for, because one of them saves a checkpoint. That has a
//! timeout of its own (10 minutes with NCCL), which knows more, and comes first.

use std::time::Duration;

use crate::error::{Error, Result};

/// No more than this passes between two looks, unless the process was stopped, and with it what copies may wait for.
const APART_MAX: Duration = Duration::from_secs(1);

/// As many deadlines may pass where a consumer's stream holds copies up: half an hour, by default.
pub(crate) const DEADLINES_HELD_UP: u32 = 60;

/// How long copies have been under way and none of them has ended.
#[derive(Default)]
pub(crate) struct Stall {
    waited: Duration,
    looked: Duration,
    held_up: bool,
}

impl Stall {
    /// So many copies have ended since the last look, and so many are left, which a consumer's stream holds up, or nobody does;
    /// [`Error::Timeout`] if for too long none has.
    pub(crate) fn look(
        &mut self,
        ended: usize,
        (left, held_up): (usize, bool),
        now: Duration,
        deadline: Duration,
        device: impl FnOnce() -> String,
    ) -> Result<()> {
        let apart = now.saturating_sub(self.looked).min(APART_MAX);
        self.looked = now;
        let news = ended > 0 || left == 0 || std::mem::replace(&mut self.held_up, held_up) != held_up;
        self.waited = if news { Duration::ZERO } else { self.waited + apart };
        if self.waited < if held_up { deadline.saturating_mul(DEADLINES_HELD_UP) } else { deadline } {
            return Ok(());
        }
        let why = if held_up { HELD_UP } else { "it does not answer" };
        let what = format!("{left} copies to {}: {why}", device());
        Err(Error::Timeout { what, waited: self.waited })
    }
}

/// Why they do not move, though the device answers.
pub(crate) const HELD_UP: &str =
    "a stream that earlier batches were given back on has not come to its end; it may wait for other ranks";

#[cfg(test)]
mod tests {
    use super::*;

    /// Mutants that this catches: copies that end are no news; none on their way are waited for; the time of a stopped process
    /// is counted; no error.
    #[test]
    fn copies_stall_if_none_ends_while_the_process_runs() {
        let (mut stall, mut now, second) = (Stall::default(), Duration::ZERO, Duration::from_secs(1));
        let mut look = |seconds: u32, ended, left| {
            now += seconds * second;
            stall.look(ended, left, now, 3 * second, || "a device".into())
        };
        for (seconds, ended, left) in [(9, 0, 0), (1, 0, 2), (1, 0, 2), (1, 1, 1), (1, 0, 1), (1, 0, 1), (1, 0, 0)] {
            look(seconds, ended, (left, false)).unwrap();
        }
        look(1, 0, (2, false)).unwrap();
        look(3600, 0, (2, false)).unwrap();
        let error = look(1, 0, (2, false)).unwrap_err();
        assert!(matches!(error, Error::Timeout { waited, .. } if waited == 3 * second), "{error}");
        assert!(error.to_string().contains("2 copies to a device"), "{error}");
    }

    /// Mutants that this catches: the device's deadline for a consumer's stream; none for it; that of the one counted on for the
    /// other.
    #[test]
    fn a_consumers_stream_is_given_longer() {
        let (mut stall, mut now, second) = (Stall::default(), Duration::ZERO, Duration::from_secs(1));
        let mut look = |held_up| {
            now += second;
            stall.look(0, (1, held_up), now, 3 * second, || "a device".into())
        };
        (0..150).for_each(|_| look(true).unwrap());
        look(false).expect("it moves again");
        look(false).unwrap();
        (0..180).for_each(|_| look(true).unwrap());
        let error = look(true).unwrap_err();
        assert!(matches!(error, Error::Timeout { waited, .. } if waited == 180 * second), "{error}");
        assert!(error.to_string().contains("other ranks"), "{error}");
    }
}
