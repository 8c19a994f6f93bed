//! Medians over the rounds, and ratios within them.

use super::measure::{Measure, median};
use super::rounds::{Round, StraitRun};
use crate::linux::cache::Residency;

/// Medians over the rounds.
pub(crate) struct Summary {
    pub(crate) strait: Option<Line>,
    pub(crate) limit: Option<Line>,
    pub(crate) fio: Option<Line>,
    /// One per round.
    pub(crate) share_of_limit: Vec<f64>,
    /// One per round.
    pub(crate) share_of_fio: Vec<f64>,
}

pub(crate) struct Line {
    pub(crate) gb_per_s: f64,
    pub(crate) cpu_seconds_per_gib: f64,
    pub(crate) bytes: f64,
    pub(crate) seconds: f64,
}

fn line(measures: &[Measure]) -> Option<Line> {
    Some(Line {
        gb_per_s: median(measures.iter().map(Measure::gb_per_s))?,
        cpu_seconds_per_gib: median(measures.iter().map(Measure::cpu_seconds_per_gib))?,
        bytes: median(measures.iter().map(|m| m.bytes as f64))?,
        seconds: median(measures.iter().map(|m| m.seconds))?,
    })
}

pub(crate) fn of_strait(round: &Round) -> Option<Measure> {
    round.strait.as_ref().map(|run| run.result.measure)
}

impl Summary {
    pub(crate) fn new(rounds: &[Round]) -> Summary {
        let all = |pick: fn(&Round) -> Option<Measure>| line(&rounds.iter().filter_map(pick).collect::<Vec<_>>());
        // Pairs within a round: neighbours in time see the same disk.
        let shares = |pick: fn(&Round) -> Option<Measure>| {
            rounds.iter().filter_map(|round| Some(of_strait(round)?.gb_per_s() / pick(round)?.gb_per_s())).collect()
        };
        Summary {
            strait: all(of_strait),
            limit: all(|round| round.limit),
            fio: all(|round| round.fio),
            share_of_limit: shares(|round| round.limit),
            share_of_fio: shares(|round| round.fio),
        }
    }
}

/// What to show of runs of strait that does not vary, or whose worst counts.
pub(crate) struct Strait<'a> {
    pub(crate) last: &'a StraitRun,
    pub(crate) pinned_bytes_max: u64,
    pub(crate) rss_bytes_max: u64,
    pub(crate) first_batch_seconds: f64,
    pub(crate) setup_seconds: f64,
    pub(crate) cached_before: Residency,
    /// `None` if it cannot be told of every run.
    pub(crate) cached_after: Option<Residency>,
}

impl Strait<'_> {
    pub(crate) fn new(rounds: &[Round]) -> Option<Strait<'_>> {
        let runs: Vec<&StraitRun> = rounds.iter().filter_map(|round| round.strait.as_ref()).collect();
        let most = |seen: Vec<Residency>| seen.into_iter().max_by_key(|seen| seen.cached).unwrap_or_default();
        Some(Strait {
            last: runs.last()?,
            pinned_bytes_max: runs.iter().map(|run| run.result.pinned_bytes_max).max()?,
            rss_bytes_max: runs.iter().map(|run| run.rss_bytes_max).max()?,
            first_batch_seconds: median(runs.iter().map(|run| run.result.first_batch_seconds))?,
            setup_seconds: median(runs.iter().map(|run| run.result.setup_seconds))?,
            cached_before: most(runs.iter().map(|run| run.cached_before).collect()),
            cached_after: runs.iter().map(|run| run.cached_after).collect::<Option<_>>().map(most),
        })
    }

    pub(crate) fn cold(&self) -> bool {
        self.cached_before.cached == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(limit_seconds: f64, fio_seconds: f64) -> Round {
        let measure = |seconds| Some(Measure { bytes: 1 << 30, seconds, cpu_seconds: 0.0 });
        Round { strait: None, limit: measure(limit_seconds), fio: measure(fio_seconds) }
    }

    #[test]
    fn without_strait_there_are_rates_and_no_shares() {
        let summary = Summary::new(&[round(1.0, 2.0), round(2.0, 2.0), round(4.0, 2.0)]);
        assert_eq!(summary.limit.unwrap().seconds, 2.0);
        assert!(summary.strait.is_none() && summary.share_of_limit.is_empty() && summary.share_of_fio.is_empty());
    }
}
