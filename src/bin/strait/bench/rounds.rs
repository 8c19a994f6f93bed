//! Runs strait and its references in turn, so that each share compares neighbours in time.

use std::path::PathBuf;

use super::fio;
use super::limit;
use super::measure::Measure;
use super::progress::Watch;
use super::request::Request;
use super::run_strait::RunResult;
use crate::failure::{Failure, Result};
use crate::linux::cache::{Residency, evict, residency};
use crate::linux::usage;

/// Who runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Strait,
    Limit,
    Fio,
}

/// A run of strait, and the state of machine and process around it.
#[derive(Debug, Clone)]
pub(crate) struct StraitRun {
    pub(crate) result: RunResult,
    pub(crate) rss_bytes_max: u64,
    pub(crate) cached_before: Residency,
    /// `None` if it cannot be told any more, as of files that are gone meanwhile.
    pub(crate) cached_after: Option<Residency>,
}

/// What was measured in one round.
#[derive(Debug, Clone, Default)]
pub(crate) struct Round {
    pub(crate) strait: Option<StraitRun>,
    pub(crate) limit: Option<Measure>,
    pub(crate) fio: Option<Measure>,
}

/// All rounds, and what was learned besides numbers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rounds {
    pub(crate) rounds: Vec<Round>,
    pub(crate) limit_how: String,
    /// Why fio has no number.
    pub(crate) fio_reason: Option<String>,
}

impl Rounds {
    /// The same where no more can be measured, and why.
    fn without(mut self, reason: &str) -> Rounds {
        if self.rounds.iter().all(|round| round.limit.is_none()) {
            self.limit_how = format!("no number: {reason}");
        }
        if self.rounds.iter().all(|round| round.fio.is_none()) {
            self.fio_reason.get_or_insert(reason.into());
        }
        self
    }
}

/// One run of strait.
pub(crate) type Run<'a> = &'a mut dyn FnMut(&Request, &mut Watch) -> Result<RunResult>;

pub(crate) fn run(
    request: &Request,
    stages: &[Stage],
    count: u32,
    watch: &mut Watch,
    run_strait: Run<'_>,
) -> Result<Rounds> {
    let mut all = Rounds::default();
    for number in 0..count as usize {
        let request = Request { seed: request.seed + number as u64, ..request.clone() };
        let mut round = Round::default();
        for stage in in_turn(stages, number) {
            let name = format!("round {}/{count}: {}", number + 1, format!("{stage:?}").to_lowercase());
            watch.stage(name, request.file_bytes, request.seconds);
            if let Err(failure) = run_stage(stage, &request, watch, run_strait, &mut round, &mut all) {
                let ran = round.strait.is_some() || all.rounds.iter().any(|round| round.strait.is_some());
                let Some(gone) = request.paths.iter().find(|path| ran && failure.exit_code == 1 && !path.exists())
                else {
                    return Err(failure);
                };
                // What was measured counts.
                all.rounds.push(round);
                return Ok(all.without(&format!("{} is gone since strait has read it", gone.display())));
            }
            watch.end_stage();
        }
        all.rounds.push(round);
    }
    Ok(all)
}

fn run_stage(
    stage: Stage,
    request: &Request,
    watch: &mut Watch,
    run_strait: &mut dyn FnMut(&Request, &mut Watch) -> Result<RunResult>,
    round: &mut Round,
    all: &mut Rounds,
) -> Result<()> {
    evict_all(&request.paths)?;
    match stage {
        Stage::Strait => round.strait = Some(strait(request, watch, run_strait)?),
        Stage::Limit => {
            let run = limit::run(request, watch)?;
            round.limit = Some(useful(request, run.measure));
            all.limit_how = run.how;
        }
        // What made fio fail once makes it fail again.
        Stage::Fio if all.fio_reason.is_some() => {}
        Stage::Fio => match fio::run(request, watch)? {
            Ok(measure) => round.fio = Some(useful(request, measure)),
            Err(reason) => all.fio_reason = Some(reason),
        },
    }
    Ok(())
}

/// Each round begins with another stage: whatever the first run of a round pays or gains, all pay and gain in turn.
fn in_turn(stages: &[Stage], round: usize) -> impl Iterator<Item = Stage> {
    let begin = round % stages.len().max(1);
    stages.iter().cycle().skip(begin).take(stages.len()).copied()
}

fn useful(request: &Request, measure: Measure) -> Measure {
    Measure { bytes: request.useful_bytes(measure.bytes), ..measure }
}

fn strait(request: &Request, watch: &mut Watch, run: Run<'_>) -> Result<StraitRun> {
    let cached_before = residency_of_all(&request.paths)?;
    usage::reset_peak_rss();
    let result = run(request, watch)?;
    let rss_bytes_max = usage::peak_rss_bytes();
    if result.measure.bytes == 0 {
        return Err(Failure::new(
            "no byte was delivered",
            "there was nothing to deliver",
            "name files that hold something",
        ));
    }
    Ok(StraitRun { result, rss_bytes_max, cached_before, cached_after: residency_of_all(&request.paths).ok() })
}

fn evict_all(paths: &[PathBuf]) -> Result<()> {
    paths.iter().try_for_each(|path| evict(path).map_err(|e| Failure::file("empty the page cache of", path, &e)))
}

fn residency_of_all(paths: &[PathBuf]) -> Result<Residency> {
    paths.iter().try_fold(Residency::default(), |sum, path| {
        let one = residency(path).map_err(|e| Failure::file("examine the page cache of", path, &e))?;
        Ok(Residency { cached: sum.cached + one.cached, pages: sum.pages + one.pages })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::options::{DeviceOption, RingOption};
    use crate::bench::report::strait_facts;
    use crate::bench::summary::{Strait, Summary};

    /// Mutants that this catches: a look at the page cache behind a run, a reference, or another round, that fails the command;
    /// a limit that is missing and nobody says why.
    #[test]
    fn a_run_counts_though_its_files_are_gone_behind_it() {
        let path = tempfile::NamedTempFile::new_in(env!("CARGO_MANIFEST_DIR")).unwrap().into_temp_path();
        let request = Request {
            named: vec![path.to_path_buf()],
            paths: vec![path.to_path_buf()],
            file_bytes: 8192,
            block_bytes: 4096,
            depth: 1,
            batch: 1,
            record_bytes: 4096,
            dataset: strait::dataset::Options::default(),
            shuffle: false,
            ring: RingOption::Auto,
            device: DeviceOption::Host,
            rank: strait::order::Rank::SINGLE,
            seconds: None,
            seed: 0,
        };
        let mut path = Some(path);
        let mut load = |_: &Request, _: &mut Watch| {
            path.take().expect("one run").close().unwrap();
            Ok(RunResult {
                measure: Measure { bytes: 8192, seconds: 1.0, cpu_seconds: 0.0 },
                setup_seconds: 0.0,
                first_batch_seconds: 0.0,
                pinned_bytes_max: 0,
                ring: String::new(),
                device: String::new(),
                path: String::new(),
                path_reason: String::new(),
                fallbacks: Vec::new(),
            })
        };
        let all = run(&request, &[Stage::Strait, Stage::Limit, Stage::Fio], 2, &mut Watch::new(6), &mut load).unwrap();
        let told = |text: &str| text.contains(request.paths[0].to_str().unwrap()) && text.contains("is gone");
        assert!(told(&all.limit_how) && told(all.fio_reason.as_deref().unwrap()), "{all:?}");
        let strait = Strait::new(&all.rounds).unwrap();
        assert_eq!((strait.last.result.measure.bytes, strait.cached_after), (8192, None));
        let line = Summary::new(&all.rounds).strait.unwrap();
        let facts = strait_facts(&strait, &line, &[]);
        let (_, cold) = facts.iter().find(|(name, _)| *name == "cold").unwrap();
        assert!(cold.contains("an unknown number after"), "{cold}");
        // Nothing is left to report where they were gone before.
        assert!(run(&request, &[Stage::Limit, Stage::Strait], 1, &mut Watch::new(2), &mut load).is_err());
    }

    #[test]
    fn every_stage_begins_a_round_once() {
        let stages = [Stage::Strait, Stage::Limit, Stage::Fio];
        let order = |round| in_turn(&stages, round).collect::<Vec<_>>();
        assert_eq!(order(0), stages);
        assert_eq!(order(1), [Stage::Limit, Stage::Fio, Stage::Strait]);
        assert_eq!(order(2)[0], Stage::Fio);
        assert_eq!(order(3), order(0));
    }
}
