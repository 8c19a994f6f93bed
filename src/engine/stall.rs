//! Copies that do not move, of either engine.

use std::time::Duration;

use crate::error::{Error, Result};

/// No more than this passes between two looks, unless the process was stopped, and with it what copies may wait for.
const APART_MAX: Duration = Duration::from_secs(1);

/// How long copies have been under way and none of them has ended.
#[derive(Default)]
pub(crate) struct Stall {
    waited: Duration,
    looked: Duration,
}

impl Stall {
    /// So many copies have ended since the last look, and so many are left; [`Error::Timeout`] if for too long none has.
    pub(crate) fn look(
        &mut self,
        ended: usize,
        left: usize,
        now: Duration,
        deadline: Duration,
        device: impl FnOnce() -> String,
    ) -> Result<()> {
        let apart = now.saturating_sub(self.looked).min(APART_MAX);
        self.looked = now;
        self.waited = if ended > 0 || left == 0 { Duration::ZERO } else { self.waited + apart };
        if self.waited < deadline {
            return Ok(());
        }
        let what = format!("{left} copies to {}: it does not answer, or a consumer's stream holds them up", device());
        Err(Error::Timeout { what, waited: self.waited })
    }
}

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
            look(seconds, ended, left).unwrap();
        }
        look(1, 0, 2).unwrap();
        look(3600, 0, 2).unwrap();
        let error = look(1, 0, 2).unwrap_err();
        assert!(matches!(error, Error::Timeout { waited, .. } if waited == 3 * second), "{error}");
        assert!(error.to_string().contains("2 copies to a device"), "{error}");
    }
}
