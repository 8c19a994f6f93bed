//! How long nothing has moved, by whoever looks now and then. The time of a stopped process is not counted: in it nobody could
//! have moved, or looked.
//!
//! A device that does not answer is an error after the deadline. Where copies wait for a consumer's stream, what they wait for is
//! none of the loader's: it may be a collective that other ranks are late for, because one of them saves a checkpoint. That has a
//! timeout of its own (10 minutes with NCCL), which knows more, and comes first.

use std::time::Duration;

use crate::error::{Error, Result};

/// No more than this passes between two looks, unless the process was stopped, or who looks was away.
const APART_MAX: Duration = Duration::from_secs(1);

/// As many deadlines may pass where a consumer's stream holds copies up: half an hour, by default.
pub(crate) const DEADLINES_HELD_UP: u32 = 60;

/// Why copies do not move, though the device answers.
pub(crate) const HELD_UP: &str =
    "a stream that earlier batches were given back on has not come to its end; it may wait for other ranks";

/// How long there has been no news.
#[derive(Default)]
pub(crate) struct Stall {
    waited: Duration,
    looked: Option<Duration>,
    held_up: bool,
}

impl Stall {
    /// Looks once more, and says how long there has been no news. The first look begins the wait.
    pub(crate) fn look(&mut self, now: Duration, news: bool) -> Duration {
        let apart = self.looked.map_or(Duration::ZERO, |looked| now.saturating_sub(looked).min(APART_MAX));
        self.looked = Some(now);
        self.waited = if news { Duration::ZERO } else { self.waited + apart };
        self.waited
    }

    /// The same of copies: so many have ended since the last look, and so many are left, which a consumer's stream holds up, or
    /// nobody does; [`Error::Timeout`] if for too long none has.
    pub(crate) fn look_at_copies(
        &mut self,
        ended: usize,
        (left, held_up): (usize, bool),
        now: Duration,
        deadline: Duration,
        device: impl FnOnce() -> String,
    ) -> Result<()> {
        let changed = std::mem::replace(&mut self.held_up, held_up) != held_up;
        let waited = self.look(now, ended > 0 || left == 0 || changed);
        if waited < if held_up { deadline.saturating_mul(DEADLINES_HELD_UP) } else { deadline } {
            return Ok(());
        }
        let why = if held_up { HELD_UP } else { "it does not answer" };
        let what = format!("{left} copies to {}: {why}", device());
        Err(Error::Timeout { what, waited })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Mutants that this catches: news that are none; the first look counts from the clock's start; the time of a stopped
    /// process is counted, or that of a look that comes early as a second.
    #[test]
    fn a_wait_without_news_is_summed_up_look_by_look() {
        let (mut stall, mut now) = (Stall::default(), Duration::ZERO);
        let looks = [(9, false, 0), (1, false, 1), (3600, false, 2), (0, false, 2), (1, true, 0), (1, false, 1)];
        for (apart, news, waited) in looks {
            now += apart * SECOND;
            assert_eq!(stall.look(now, news), waited * SECOND, "{apart} s later");
        }
    }

    /// Mutants that this catches: copies that end are no news; none on their way are waited for; no error.
    #[test]
    fn copies_stall_if_none_ends() {
        let (mut stall, mut now) = (Stall::default(), Duration::ZERO);
        let mut look = |ended, left| {
            now += SECOND;
            stall.look_at_copies(ended, (left, false), now, 3 * SECOND, || "a device".into())
        };
        for (ended, left) in [(0, 0), (0, 2), (0, 2), (1, 1), (0, 1), (0, 1), (0, 0), (0, 2), (0, 2)] {
            look(ended, left).unwrap();
        }
        let error = look(0, 2).unwrap_err();
        assert!(matches!(error, Error::Timeout { waited, .. } if waited == 3 * SECOND), "{error}");
        assert!(error.to_string().contains("2 copies to a device"), "{error}");
    }

    /// Mutants that this catches: the device's deadline for a consumer's stream; none for it; that of the one counted on for the
    /// other.
    #[test]
    fn a_consumers_stream_is_given_longer() {
        let (mut stall, mut now) = (Stall::default(), Duration::ZERO);
        let mut look = |held_up| {
            now += SECOND;
            stall.look_at_copies(0, (1, held_up), now, 3 * SECOND, || "a device".into())
        };
        (0..150).for_each(|_| look(true).unwrap());
        look(false).expect("it moves again");
        look(false).unwrap();
        (0..180).for_each(|_| look(true).unwrap());
        let error = look(true).unwrap_err();
        assert!(matches!(error, Error::Timeout { waited, .. } if waited == 180 * SECOND), "{error}");
        assert!(error.to_string().contains("other ranks"), "{error}");
    }
}
