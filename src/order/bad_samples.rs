//! What becomes of a sample that cannot be read: a small state machine whose state travels in the cursor.

use crate::error::{Error, Result};

/// The most samples a run remembers as bad: 8 KiB of memory, and a cursor that is still text one can look at.
pub const SKIPPED_MAX: usize = 1024;

/// Stand-ins tried for one place before giving up.
const REPLACEMENTS_MAX: u32 = 16;

/// What a damaged sample does to a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum BadSamplePolicy {
    /// The error goes to the consumer.
    #[default]
    Raise,
    /// The sample is left out and its batch is one shorter.
    Skip {
        /// How many different samples may be left out in the whole run; at most [`SKIPPED_MAX`]. Every rank counts its own,
        /// and from a resume on all that the [merged](super::Cursor::merge) cursor has.
        budget: u32,
        /// How many may follow each other: more are a lost shard or disk and no damaged sample.
        consecutive: u32,
    },
    /// Another sample stands in, chosen by position ([`Order::replacement`](super::Order::replacement)).
    Replace,
}

/// What to do about one bad sample.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Give the consumer the error; the text says why it was not forgiven.
    Raise(String),
    /// Leave the sample out.
    Skip,
    /// Put this attempt's stand-in into its place: the number to give to
    /// [`Order::replacement`](super::Order::replacement).
    Replace(u32),
}

/// The samples a run has found bad so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadSamples {
    policy: BadSamplePolicy,
    /// Ascending, each once.
    skipped: Vec<u64>,
    consecutive: u32,
}

impl BadSamples {
    /// None yet.
    ///
    /// # Errors
    /// [`Error::Config`] if the budget exceeds [`SKIPPED_MAX`].
    pub fn new(policy: BadSamplePolicy) -> Result<BadSamples> {
        BadSamples::resume(policy, &[], 0)
    }

    /// What a cursor remembers: `skipped` ascending, and how many of the last places were bad.
    ///
    /// # Errors
    /// [`Error::Config`] if the budget exceeds [`SKIPPED_MAX`], or `skipped` is not ascending or longer than that.
    pub fn resume(policy: BadSamplePolicy, skipped: &[u64], consecutive: u32) -> Result<BadSamples> {
        if let BadSamplePolicy::Skip { budget, .. } = policy
            && budget as usize > SKIPPED_MAX
        {
            return Err(Error::config("bad_samples", format!("budget {budget}; at most {SKIPPED_MAX}")));
        }
        if skipped.len() > SKIPPED_MAX || skipped.windows(2).any(|pair| pair[0] >= pair[1]) {
            let problem = format!("{} samples; they must be ascending and at most {SKIPPED_MAX}", skipped.len());
            return Err(Error::config("skipped", problem));
        }
        let mut list = Vec::with_capacity(SKIPPED_MAX);
        list.extend_from_slice(skipped);
        Ok(BadSamples { policy, skipped: list, consecutive })
    }

    /// The samples found bad, ascending.
    pub fn skipped(&self) -> &[u64] {
        &self.skipped
    }

    /// How many of the last places were bad, without a good one since.
    pub fn consecutive(&self) -> u32 {
        self.consecutive
    }

    /// Whether a sample is known to be bad, and need not be read to be judged.
    pub fn contains(&self, sample: u64) -> bool {
        self.skipped.binary_search(&sample).is_ok()
    }

    /// Goes back to where so many of the last places were bad; what is known stays known.
    pub(crate) fn rewind(&mut self, consecutive: u32) {
        self.consecutive = consecutive;
    }

    /// A sample was delivered.
    pub fn good(&mut self) {
        self.consecutive = 0;
    }

    /// A sample, new or [known](Self::contains), cannot be delivered.
    pub fn bad(&mut self, sample: u64) -> Verdict {
        let (budget, run) = match self.policy {
            BadSamplePolicy::Raise => return Verdict::Raise("bad samples are raised".into()),
            BadSamplePolicy::Skip { budget, consecutive } => (budget as usize, consecutive),
            BadSamplePolicy::Replace => (SKIPPED_MAX, REPLACEMENTS_MAX),
        };
        if self.consecutive >= run {
            return Verdict::Raise(format!("{run} bad samples follow each other already: is a shard or a disk lost?"));
        }
        if let Err(place) = self.skipped.binary_search(&sample) {
            if self.skipped.len() >= budget {
                return Verdict::Raise(format!("the budget of {budget} bad samples is used up"));
            }
            self.skipped.insert(place, sample);
        }
        self.consecutive += 1;
        match self.policy {
            BadSamplePolicy::Replace => Verdict::Replace(self.consecutive - 1),
            _ => Verdict::Skip,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skips_within_budget_and_run() {
        let policy = BadSamplePolicy::Skip { budget: 3, consecutive: 2 };
        let mut bad = BadSamples::new(policy).unwrap();
        assert_eq!((bad.bad(9), bad.bad(4)), (Verdict::Skip, Verdict::Skip));
        assert!(matches!(bad.bad(5), Verdict::Raise(why) if why.contains("follow each other")));
        bad.good();
        assert_eq!((bad.bad(9), bad.bad(5)), (Verdict::Skip, Verdict::Skip));
        bad.good();
        assert!(matches!(bad.bad(6), Verdict::Raise(why) if why.contains("budget of 3")));
        assert_eq!((bad.skipped(), bad.contains(4), bad.contains(6)), (&[4, 5, 9][..], true, false));
        assert_eq!(BadSamples::resume(policy, bad.skipped(), bad.consecutive()).unwrap(), bad);
    }

    #[test]
    fn replaces_with_one_attempt_after_the_other() {
        let mut bad = BadSamples::new(BadSamplePolicy::Replace).unwrap();
        assert_eq!((bad.bad(1), bad.bad(2)), (Verdict::Replace(0), Verdict::Replace(1)));
        bad.good();
        assert_eq!(bad.bad(1), Verdict::Replace(0));
        (0..15).for_each(|sample| drop(bad.bad(sample)));
        assert!(matches!(bad.bad(99), Verdict::Raise(_)));
    }

    #[test]
    fn raises_by_default_and_refuses_nonsense() {
        let mut bad = BadSamples::new(BadSamplePolicy::default()).unwrap();
        assert!(matches!(bad.bad(0), Verdict::Raise(_)));
        assert!(bad.skipped().is_empty());
        assert!(BadSamples::new(BadSamplePolicy::Skip { budget: 1025, consecutive: 1 }).is_err());
        assert!(BadSamples::resume(BadSamplePolicy::Raise, &[2, 2], 0).is_err());
    }
}
