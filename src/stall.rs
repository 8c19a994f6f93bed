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

/// What an engine shows of itself, at one look.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Signs {
    /// Changes as long as bytes arrive or go out.
    pub(crate) progress: u64,
    /// Changes as long as the engine's thread goes round, be it for nothing.
    pub(crate) turns: u64,
    /// When the thread last looked, a consumer's stream held copies up.
    pub(crate) held_up: bool,
}

/// Why nobody waits for an engine any longer.
pub(crate) struct Overdue {
    pub(crate) waited: Duration,
    /// By a consumer's stream; by none that is known of, otherwise.
    pub(crate) held_up: bool,
}

/// How long a consumer waits for an engine: a deadline without progress. Where a consumer's stream holds copies up it is longer,
/// but only as long as the engine turns: one that hangs does not look whether that is still so.
pub(crate) struct Watch {
    deadline: Duration,
    /// On top of it, for whoever knows more and speaks first.
    grace: Duration,
    stands: Stall,
    hangs: Stall,
    seen: Signs,
}

impl Watch {
    pub(crate) fn new(deadline: Duration, grace: Duration) -> Watch {
        Watch { deadline, grace, stands: Stall::default(), hangs: Stall::default(), seen: Signs::default() }
    }

    /// The next look begins the wait anew.
    pub(crate) fn begin_anew(&mut self) {
        (self.stands, self.hangs) = Default::default();
    }

    /// Looks once more. A stream that begins, or ceases, to hold copies up is news as much as progress is.
    pub(crate) fn look(&mut self, now: Duration, signs: Signs) -> Option<Overdue> {
        let seen = std::mem::replace(&mut self.seen, signs);
        let moved = (seen.progress, seen.held_up) != (signs.progress, signs.held_up);
        let stands = self.stands.look(now, moved);
        let hangs = self.hangs.look(now, moved || seen.turns != signs.turns);
        let overdue = |waited, held_up| Some(Overdue { waited, held_up });
        match signs.held_up {
            // A thread may have to wait for a CPU, however short the deadline.
            true if hangs >= self.deadline.saturating_add(APART_MAX) => overdue(hangs, false),
            true if stands >= self.deadline.saturating_mul(DEADLINES_HELD_UP).saturating_add(self.grace) => {
                overdue(stands, true)
            }
            false if stands >= self.deadline.saturating_add(self.grace) => overdue(stands, false),
            _ => None,
        }
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

    /// Looks once a second, at most 999 times: after how many it is too late, and whether by a consumer's stream.
    fn late(watch: &mut Watch, from: u64, signs: impl Fn(u64) -> Signs) -> Option<(u64, Duration, bool)> {
        (from..from + 999).find_map(|n| {
            watch.look(n as u32 * SECOND, signs(n)).map(|overdue| (n - from, overdue.waited, overdue.held_up))
        })
    }

    /// Mutants that this catches: an engine that hangs has as long as a consumer's stream; one that turns has a deadline only;
    /// turns are progress; a stream that lets go, after long, is no news; the grace is not given.
    #[test]
    fn an_engine_has_longer_behind_a_consumers_stream_only_as_long_as_it_turns() {
        let watch = || Watch::new(3 * SECOND, 2 * SECOND);
        let held_up = |turns| Signs { progress: 1, turns, held_up: true };
        let free = |turns| Signs { held_up: false, ..held_up(turns) };
        assert_eq!(late(&mut watch(), 0, held_up), Some((182, 182 * SECOND, true)));
        assert_eq!(late(&mut watch(), 0, |_| held_up(7)), Some((4, 4 * SECOND, false)), "it hangs");
        assert_eq!(late(&mut watch(), 0, |n| held_up(n.min(100))), Some((104, 4 * SECOND, false)), "it hangs, later");
        assert_eq!(late(&mut watch(), 0, free), Some((5, 5 * SECOND, false)));
        let lets_go = |n| if n < 100 { held_up(n) } else { free(n) };
        assert_eq!(late(&mut watch(), 0, lets_go), Some((105, 5 * SECOND, false)));
        assert_eq!(late(&mut watch(), 0, |n| Signs { progress: n, ..free(0) }), None);

        let mut again = watch();
        assert_eq!(late(&mut again, 0, free), Some((5, 5 * SECOND, false)));
        again.begin_anew();
        assert_eq!(late(&mut again, 9, free), Some((5, 5 * SECOND, false)));
    }
}
