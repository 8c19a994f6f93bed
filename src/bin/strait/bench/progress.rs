//! Progress of the whole measurement, and the reasons for which a run ends early.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::failure::Result;
use crate::interrupt;

/// Drawing costs CPU time that would be measured: four times a second is enough for the eye.
const DRAW_EVERY: Duration = Duration::from_millis(250);
/// Steps of the bar per stage.
const STEPS: u64 = 1000;

/// Watches one run after another: draws the bar, and says when a run's time is up.
pub(crate) struct Watch {
    bar: ProgressBar,
    stages_done: u64,
    name: String,
    want_bytes: u64,
    seconds: Option<f64>,
    started: Instant,
    drawn: Instant,
}

impl Watch {
    /// For `stages` runs in all.
    pub(crate) fn new(stages: u64) -> Watch {
        let shown = std::io::stderr().is_terminal();
        let target = if shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(stages * STEPS), target);
        let style = ProgressStyle::with_template("{bar:30} {percent:>3} %  {elapsed_precise}  {msg}");
        bar.set_style(style.expect("a valid template"));
        let now = Instant::now();
        Watch { bar, stages_done: 0, name: String::new(), want_bytes: 1, seconds: None, started: now, drawn: now }
    }

    /// Names the next run, which will read `want_bytes` unless `seconds` are over before.
    pub(crate) fn stage(&mut self, name: impl Into<String>, want_bytes: u64, seconds: Option<f64>) {
        (self.name, self.want_bytes, self.seconds) = (name.into(), want_bytes.max(1), seconds);
        self.bar.set_message(self.name.clone());
        self.start();
    }

    pub(crate) fn end_stage(&mut self) {
        self.stages_done += 1;
        self.bar.set_position(self.stages_done * STEPS);
    }

    /// Starts the run's clock: to be called where its measured part begins.
    pub(crate) fn start(&mut self) {
        self.started = Instant::now();
        self.drawn = self.started;
    }

    /// To be called every now and then with the bytes so far. `false`: the time is up, end the run.
    pub(crate) fn tick(&mut self, bytes: u64) -> Result<bool> {
        interrupt::check()?;
        let now = Instant::now();
        let elapsed = (now - self.started).as_secs_f64();
        if now - self.drawn >= DRAW_EVERY && !self.bar.is_hidden() {
            self.drawn = now;
            let timed = self.seconds.map_or(0.0, |seconds| elapsed / seconds);
            let part = (bytes as f64 / self.want_bytes as f64).max(timed).min(1.0);
            let rate = if bytes > 0 { format!("  {:.2} GB/s", bytes as f64 / elapsed * 1e-9) } else { String::new() };
            self.bar.set_message(format!("{}{rate}", self.name));
            self.bar.set_position(self.stages_done * STEPS + (part * STEPS as f64) as u64);
        }
        Ok(self.seconds.is_none_or(|seconds| elapsed < seconds))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
