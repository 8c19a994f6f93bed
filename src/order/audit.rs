//! Proof of coverage: runs the order for all ranks, without I/O, and counts what was seen.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use super::epoch::Order;
use super::rank::Rank;
use super::schedule::{Counts, Policy, Progress, Schedule, Steps};
use crate::error::{Error, Result};

/// One stretch of a run, from a start or a resume to a stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// Number of ranks.
    pub world: u32,
    /// Samples per step on each of them.
    pub batch_size: u64,
    /// Steps after which it stops, counted over epochs; `u64::MAX` to run to the end.
    pub steps_max: u64,
    /// Where it starts; `None`: where the one before stopped. Anything else is what a run must not do: a cursor saved too
    /// early delivers samples again, one that counts what was only read ahead leaves samples out.
    pub from: Option<Progress>,
}

/// The most samples an audit takes: a bit each, 8 GiB.
pub const AUDIT_SAMPLES_MAX: u64 = 1 << 36;

/// How often an audit asks whether to go on, in positions.
const ASK_EVERY: u64 = 1 << 16;

/// What a run delivered, on all ranks and over all epochs.
///
/// `positions = once + repeated + padded`, and `once + missing` is what the order has: its length times the epochs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Audit {
    /// Places of all batches.
    pub positions: u64,
    /// Places that held a sample for the first time in its epoch (in a mixture: in that pass through its dataset).
    pub once: u64,
    /// Positions the order has whose sample no batch held. What a mixture's weights leave out of an epoch has no position.
    pub missing: u64,
    /// Places that held a sample that had been delivered before.
    pub repeated: u64,
    /// Places that were marked as padding.
    pub padded: u64,
    /// What the policy may leave out, pad and repeat, counted from world and batch size alone.
    pub promised: Counts,
    /// Whether every rank had the same number of steps.
    pub equal_steps: bool,
}

impl Audit {
    /// Whether coverage is what the policy promises: nothing missing, repeated or padded beyond it.
    pub fn holds(&self) -> bool {
        let delivered = Counts { dropped: self.missing, padded: self.padded, wrapped: self.repeated };
        self.equal_steps && delivered == self.promised
    }
}

/// One line for a person.
impl fmt::Display for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Audit { positions, once, missing, repeated, padded, promised, .. } = self;
        let s = if *positions == 1 { "" } else { "s" };
        write!(f, "{positions} position{s}: {once} once, {missing} missing, {repeated} repeated, {padded} padded; ")?;
        if self.holds() {
            return f.write_str("as the policy promises");
        }
        let Counts { dropped, padded, wrapped } = promised;
        write!(f, "NOT as promised: {dropped} missing, {wrapped} repeated, {padded} padded")?;
        f.write_str(if self.equal_steps { "" } else { ", and ranks had unequal steps" })
    }
}

/// Runs `epochs` epochs of `order` through the stretches, each going on where the one before stopped.
///
/// Takes one bit per sample of memory, and time in proportion to the positions (10 to 20 M a second).
///
/// # Errors
/// [`Error::Config`] for a stretch that no [`Schedule`] can be made of, more than 2^64 positions, or more than
/// [`AUDIT_SAMPLES_MAX`] samples.
pub fn audit(order: &Order, policy: Policy, epochs: u64, stretches: &[Stretch]) -> Result<Audit> {
    audit_while(order, policy, epochs, stretches, |_| true)
}

/// As [`audit`], and asks every now and then, with the positions so far, whether to go on. If not, it ends early, and
/// what it has not come to is missing.
///
/// # Errors
/// As [`audit`].
pub fn audit_while(
    order: &Order,
    policy: Policy,
    epochs: u64,
    stretches: &[Stretch],
    mut go_on: impl FnMut(u64) -> bool,
) -> Result<Audit> {
    let Some(due) = order.len().checked_mul(epochs) else {
        return Err(Error::config("epochs", format!("{epochs} epochs of {} positions are too many", order.len())));
    };
    if order.samples() > AUDIT_SAMPLES_MAX {
        let problem = format!("{} samples; an audit takes at most {AUDIT_SAMPLES_MAX}", order.samples());
        return Err(Error::config("samples", problem));
    }
    let ask = Ask { go_on: &mut go_on, next: ASK_EVERY, stopped: false };
    // Epochs that a run may come back to: before them, nothing has to be remembered.
    let returns = stretches.iter().filter_map(|stretch| stretch.from).map(|from| from.epoch).min();
    let (seen, at, out) = (Seen::new(order, returns), Progress::default(), Vec::new());
    let mut run = Run { order, seen, at, out, audit: Audit::start(due), ask };
    for stretch in stretches {
        run.at = stretch.from.unwrap_or(run.at);
        let rank = |rank| Schedule::new(order.clone(), stretch.batch_size, Rank::new(rank, stretch.world)?, policy);
        let ranks = (0..stretch.world).map(rank).collect::<Result<Vec<Schedule>>>()?;
        if ranks.is_empty() {
            return Err(Error::config("world", "0 ranks; give 1 or more"));
        }
        let mut steps_left = stretch.steps_max;
        while steps_left > 0 && run.at.epoch < epochs && !run.ask.stopped {
            steps_left -= run.epoch(&ranks, steps_left, policy)?;
        }
    }
    Ok(run.audit)
}

impl Audit {
    fn start(due: u64) -> Audit {
        let promised = Counts::default();
        Audit { positions: 0, once: 0, missing: due, repeated: 0, padded: 0, promised, equal_steps: true }
    }
}

struct Run<'a> {
    order: &'a Order,
    seen: Seen,
    at: Progress,
    out: Vec<u64>,
    audit: Audit,
    ask: Ask<'a>,
}

/// Whoever watches the audit.
struct Ask<'a> {
    go_on: &'a mut dyn FnMut(u64) -> bool,
    /// When to ask next, in positions.
    next: u64,
    stopped: bool,
}

impl Ask<'_> {
    fn stop(&mut self, positions: u64) -> bool {
        if positions >= self.next {
            self.next = positions + ASK_EVERY;
            self.stopped |= !(self.go_on)(positions);
        }
        self.stopped
    }
}

impl Run<'_> {
    /// Goes to the end of the epoch or through `steps_max` steps of it; returns the steps taken.
    fn epoch(&mut self, ranks: &[Schedule], steps_max: u64, policy: Policy) -> Result<u64> {
        let ranks_steps = ranks.iter().map(|rank| rank.steps(self.at)).collect::<Result<Vec<Steps>>>()?;
        let len = ranks_steps[0].len();
        self.audit.equal_steps &= ranks_steps.iter().all(|steps| steps.len() == len);
        let (left, global) = (self.order.len() - self.at.consumed, ranks[0].global_batch());
        let from = self.at;
        for step in 0..len.min(steps_max) {
            for steps in &ranks_steps {
                self.batch(from.epoch, steps, step);
                if self.ask.stop(self.audit.positions) {
                    return Ok(step + 1);
                }
            }
        }
        self.seen.delivered(from, (len.min(steps_max) * global).min(left));
        if steps_max < len {
            self.at.consumed += steps_max * global;
            return Ok(steps_max);
        }
        let rest = left % global;
        match policy {
            Policy::Drop => self.audit.promised.dropped += rest,
            Policy::Pad => self.audit.promised.padded += (global - rest) % global,
            Policy::Wrap => self.audit.promised.wrapped += (global - rest) % global,
            Policy::Short => {}
        }
        self.at = Progress { epoch: from.epoch + 1, consumed: 0 };
        Ok(len)
    }

    fn batch(&mut self, epoch: u64, steps: &Steps, step: u64) {
        let padded = steps.batch(step, &mut self.out);
        let real = self.out.len() - padded as usize;
        self.audit.positions += self.out.len() as u64;
        self.audit.padded += padded;
        for (index, &sample) in self.out[..real].iter().enumerate() {
            let position = steps.position(step, index as u64);
            if position < self.order.len() && self.seen.first_time(self.order, epoch, position, sample) {
                self.audit.once += 1;
                self.audit.missing -= 1;
            } else {
                self.audit.repeated += 1;
            }
        }
    }
}

/// One bit per sample id; the bits of a dataset are cleared when its next pass begins.
struct Seen {
    bits: Vec<u64>,
    /// The pass that the bits of each dataset are about.
    passes: Vec<u64>,
    /// The first epoch that is kept by its positions, for whoever comes back to it; and the positions delivered of each.
    returns: Option<u64>,
    positions: BTreeMap<u64, Vec<Range<u64>>>,
}

impl Seen {
    fn new(order: &Order, returns: Option<u64>) -> Seen {
        let datasets = order.as_mixture().map_or(1, |mixture| mixture.parts().len());
        let bits = vec![0; order.samples().div_ceil(64) as usize];
        Seen { bits, passes: vec![0; datasets], returns, positions: BTreeMap::new() }
    }

    /// So many positions of an epoch have been delivered, from `from` on.
    fn delivered(&mut self, from: Progress, positions: u64) {
        if self.returns.is_some_and(|first| from.epoch >= first) {
            self.positions.entry(from.epoch).or_default().push(from.consumed..from.consumed + positions);
        }
    }

    fn first_time(&mut self, order: &Order, epoch: u64, position: u64, sample: u64) -> bool {
        let (dataset, pass, ids) = match order.as_mixture() {
            None => (0, epoch, 0..order.samples()),
            Some(mixture) => {
                let draw = mixture.draw(epoch, position);
                (draw.dataset, draw.pass, mixture.ids(draw.dataset))
            }
        };
        if pass < self.passes[dataset] {
            // The run has come back to a pass whose bits are gone.
            return !self.positions.get(&epoch).is_some_and(|all| all.iter().any(|part| part.contains(&position)));
        }
        if self.passes[dataset] != pass {
            self.passes[dataset] = pass;
            self.clear(ids.clone());
        }
        let (word, bit) = ((sample / 64) as usize, 1 << (sample % 64));
        // An id of another dataset than the position draws from would be counted against the wrong pass.
        let first = ids.contains(&sample) && self.bits[word] & bit == 0;
        self.bits[word] |= bit;
        first
    }

    fn clear(&mut self, ids: std::ops::Range<u64>) {
        let (start, end) = (ids.start.next_multiple_of(64).min(ids.end), ids.end);
        (ids.start..start).for_each(|id| self.bits[(id / 64) as usize] &= !(1 << (id % 64)));
        let whole_end = start.max(end / 64 * 64);
        self.bits[(start / 64) as usize..(whole_end / 64) as usize].fill(0);
        (whole_end..end).for_each(|id| self.bits[(id / 64) as usize] &= !(1 << (id % 64)));
    }
}
