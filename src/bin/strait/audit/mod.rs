//! `strait audit`: proves that an order covers a dataset as its policy promises.

mod options;
mod report;

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use strait::Dataset;
use strait::order::{AtEnd, Audit, Order, Part, Policy, Progress, Rank, Schedule, Shuffle, Stretch, audit_while};

use crate::Answer;
use crate::failure::{Failure, Result};
use crate::interrupt;
pub(crate) use options::Options;
use options::ShuffleOption;

/// What is audited, once the command line and the dataset are known.
struct Request {
    order: Order,
    policy: Policy,
    epochs: u64,
    stretches: Vec<Stretch>,
}

impl Request {
    /// Whether datasets go on from epoch to epoch.
    fn over_epochs(&self) -> bool {
        self.order.as_mixture().is_some_and(|mixture| mixture.at_end() != AtEnd::Stop)
    }

    /// Of a mixture: the number of each dataset, where it is at the end of an epoch, or of all where it goes on over them,
    /// and its samples.
    fn datasets(&self) -> Vec<(usize, Progress, u64)> {
        let Some(mixture) = self.order.as_mixture() else { return Vec::new() };
        let at = match self.over_epochs() {
            true => Progress { epoch: self.epochs, consumed: 0 },
            false => Progress { epoch: 0, consumed: mixture.len() },
        };
        let parts = mixture.progress(at).into_iter().zip(mixture.parts()).enumerate();
        parts.map(|(number, (at, part))| (number, at, part.samples)).collect()
    }
}

pub(crate) fn run(options: &Options) -> Result<Answer> {
    options::check(options)?;
    let order = order(options)?;
    let worlds = options.world.max(options.resume_world.unwrap_or(1));
    let policy = options.policy.unwrap_or_else(|| Policy::default_for(worlds));
    let stretches = stretches(options, &order, policy)?;
    let request = Request { order, policy, epochs: options.epochs, stretches };
    let audit = count(&request)?;
    Ok(report::answer(options, &request, &audit))
}

fn order(options: &Options) -> Result<Order> {
    let open = options.dataset.options();
    let datasets = match options.weights.is_empty() {
        _ if !options.samples.is_empty() => Vec::new(),
        true => vec![open.open(&options.paths)?],
        false => options.paths.iter().map(|path| open.open(&[path])).collect::<strait::Result<Vec<Dataset>>>()?,
    };
    let lens = match options.samples.as_slice() {
        [] => datasets.iter().map(Dataset::len).collect(),
        samples => samples.to_vec(),
    };
    let shuffle = match options.shuffle {
        ShuffleOption::Samples(shuffle) => shuffle,
        ShuffleOption::Bytes { block_bytes, window } => {
            let bytes = datasets.iter().flat_map(Dataset::shards).map(|shard| shard.bytes).sum();
            Shuffle::block_bytes(block_bytes, window, lens.iter().sum(), bytes)
        }
    };
    if lens.contains(&0) {
        return Err(Failure::new("there is nothing to audit", "a dataset has no sample", "check the paths"));
    }
    let order = match options.weights.as_slice() {
        [] => Order::new(shuffle, lens[0], options.seed),
        weights => {
            let part = |(&samples, &weight)| Part { samples, weight };
            let parts: Vec<Part> = lens.iter().zip(weights).map(part).collect();
            let at_end = options.positions.map_or(AtEnd::Stop, |positions| AtEnd::Repeat { positions });
            Order::mixture(&parts, shuffle, options.seed, at_end)
        }
    };
    order.map_err(misused)
}

/// What the options ask of the order and it cannot do.
fn misused(error: strait::Error) -> Failure {
    Failure { exit_code: 2, ..error.into() }
}

fn stretches(options: &Options, order: &Order, policy: Policy) -> Result<Vec<Stretch>> {
    let stretch = |world, batch_size| Stretch { world, batch_size, steps_max: u64::MAX, from: None };
    let first = stretch(options.world, options.batch);
    let schedule = |of: &Stretch| Schedule::new(order.clone(), of.batch_size, Rank::new(0, of.world)?, policy);
    let per_epoch = schedule(&first).and_then(|schedule| Ok(schedule.steps(Progress::default())?.len()));
    let per_epoch = per_epoch.map_err(misused)?;
    let Some(stop) = options.resume_at else { return Ok(vec![first]) };
    let last = per_epoch.saturating_mul(options.epochs);
    for (option, step) in [("--resume-at", Some(stop)), ("--cursor-at", options.cursor_at)] {
        if let Some(step) = step.filter(|&step| step > last) {
            return Err(Failure::usage(
                format!("{option} {step} is behind the end of the run"),
                format!("{} epochs have {last} steps at this world and batch size", options.epochs),
                "give a smaller number, or more --epochs",
            ));
        }
    }
    let from = options.cursor_at.map(|step| Progress {
        epoch: step / per_epoch,
        consumed: step % per_epoch * u64::from(first.world) * first.batch_size,
    });
    let (world, batch) = (options.resume_world, options.resume_batch);
    let second = Stretch { from, ..stretch(world.unwrap_or(first.world), batch.unwrap_or(first.batch_size)) };
    schedule(&second).map_err(misused)?;
    Ok(vec![Stretch { steps_max: stop, ..first }, second])
}

/// Counts, with a bar where somebody looks on.
fn count(request: &Request) -> Result<Audit> {
    let shown = std::io::stderr().is_terminal();
    let target = if shown { ProgressDrawTarget::stderr_with_hz(4) } else { ProgressDrawTarget::hidden() };
    let positions = request.order.len().saturating_mul(request.epochs);
    let bar = ProgressBar::with_draw_target(Some(positions), target);
    let style = ProgressStyle::with_template("{bar:30} {percent:>3} %  {elapsed_precise}  {per_sec}  {eta} left");
    bar.set_style(style.expect("a valid template"));
    bar.enable_steady_tick(Duration::from_millis(250));
    let go_on = |positions| {
        bar.set_position(positions);
        interrupt::check().is_ok()
    };
    let Request { order, policy, epochs, stretches } = request;
    let audit = audit_while(order, *policy, *epochs, stretches, go_on).map_err(misused);
    bar.finish_and_clear();
    interrupt::check()?;
    audit
}
