//! Runs the parts one after another, each under its deadline, and writes the report after each.

use std::fs::File;
use std::io::Write;
use std::process::Command;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::check::Outcome;
use crate::options::Options;
use crate::parts::{PARTS, Part, Run};
use crate::process::{self, End};
use crate::report::{Kind, Report, with_ending};
use crate::surroundings::Surroundings;
use crate::time;

/// What a part exits with where there is no GPU, or nothing else that it needs.
pub(crate) const NOTHING_HERE: u8 = 3;
/// compute-sanitizer's, where it found something.
const SANITIZER_FOUND: i32 = 97;
/// As much as a reply carries of a run's output.
const TAIL_BYTES: usize = 10_500;
/// As much as is kept of the output of all parts: it is carried away from where files have a limit.
const LOG_BYTES: usize = 14 << 20;
/// What is kept for the report and for taking files away.
const RESERVE: Duration = Duration::from_secs(8);
/// What reading Python's packages may take at most.
const WARM: Duration = Duration::from_secs(90);

/// Everything; the exit code.
pub(crate) fn run(options: &Options) -> Outcome<u8> {
    let mut options = options.clone();
    if options.only == ["list"] {
        PARTS.iter().for_each(|part| println!("{}", part.name));
        return Ok(2);
    }
    if let Some(name) = options.only.iter().find(|name| PARTS.iter().all(|part| part.name != **name)) {
        return Err(format!("--only: no part is named {name}").into());
    }
    process::stop_on_signals();
    let start = Instant::now();
    let log = Log { file: File::create(with_ending(&options.out, "log"))?, left: LOG_BYTES };
    let out = options.out.clone();
    // Parts run in a directory of their own.
    for path in [&mut options.driver, &mut options.python].into_iter().flatten() {
        if path.components().count() > 1 {
            *path = std::path::absolute(&*path)?;
        }
    }
    let around = Surroundings::new(&mut options)?;
    let warm = warm(&around, &options);
    let mut run = Runner { report: Report::new(options.driver.is_some()), log, options, around, warm, start };
    run.report.hear("machine", &format!("@{}", serde_json::json!({ "machine": run.around.describe() })));
    for (place, part) in PARTS.iter().enumerate() {
        if process::is_stopped() {
            run.report.note(Kind::Unfinished, part.name, "the run", "stopped by a signal");
            break;
        }
        if !run.options.only.is_empty() && !run.options.only.iter().any(|name| name == part.name) {
            continue;
        }
        if run.part(part, &PARTS[place + 1..]) == Some(NOTHING_HERE) && part.name == "machine" {
            run.report.write(&out)?;
            return Ok(NOTHING_HERE);
        }
        run.report.write(&out)?;
    }
    if !process::is_stopped() {
        run.report.finish();
    }
    run.report.write(&out)?;
    println!("\n{}", run.report.markdown(TAIL_BYTES));
    println!("written: {0}.json {0}.md {0}.log\n{1}", out.display(), run.report.verdict());
    Ok(run.report.exit_code())
}

/// Imports what the Python parts import while others run, so that it is in the page cache when they do: PyTorch has gigabytes,
/// which can take a cold disk a minute.
fn warm(around: &Surroundings, options: &Options) -> Option<JoinHandle<()>> {
    let runs = |part: &Part| options.only.is_empty() || options.only.iter().any(|name| name == part.name);
    let wanted = PARTS.iter().any(|part| matches!(part.run, Run::Python(_)) && runs(part));
    let python = around.python.as_ref().ok().filter(|_| wanted && options.driver.is_none())?;
    let mut command = Command::new(&python.program);
    command.args(["-c", "import torch, safetensors.torch, cupy"]);
    around.set(&mut command);
    Some(thread::spawn(move || drop(process::run(command, WARM, |_| ()))))
}

/// What was printed, up to a limit.
struct Log {
    file: File,
    left: usize,
}

impl Log {
    fn line(&mut self, line: &str) {
        if self.left > line.len() {
            self.left -= line.len() + 1;
            let _ = writeln!(self.file, "{line}");
        } else if self.left > 0 {
            self.left = 0;
            let _ = writeln!(self.file, "== the rest is left out: the log is full");
        }
    }
}

struct Runner {
    report: Report,
    log: Log,
    options: Options,
    around: Surroundings,
    /// Reads Python's packages meanwhile.
    warm: Option<JoinHandle<()>>,
    start: Instant,
}

impl Runner {
    fn left(&self) -> f64 {
        let all = Duration::from_secs_f64(self.options.minutes * 60.0);
        all.saturating_sub(self.start.elapsed() + RESERVE).as_secs_f64()
    }

    /// Runs one part, or says why not; its exit code, if it ended by itself.
    fn part(&mut self, part: &Part, later: &[Part]) -> Option<u8> {
        let name = part.name;
        if self.options.check_only && (part.measures || name == "files") {
            return self.skip(name, "not asked for (--check-only)");
        }
        let left = self.left();
        // Checks that come later are usually quick: a share of the time is theirs.
        let (told, deadline) = match part.measures {
            true => time::of_measurement(part.seconds, left),
            false => time::of_check(part.seconds, left, 60.0 * self.options.minutes, self.measurements_wait(later)),
        };
        if told < 2.0 {
            let more = if later.is_empty() { "" } else { ", or leave others out by --only" };
            return self.skip(name, &format!("no time is left for it: give more by --minutes{more}"));
        }
        let command = match part.command(&self.options, &self.around, told) {
            Ok(command) => command,
            Err(why) => return self.skip(name, &why),
        };
        if part.measures
            && let Some(warm) = self.warm.take()
        {
            let _ = warm.join(); // it would disturb
        }
        self.log.line(&format!("\n== {name}: {command:?}"));
        let (start, mut heard, mut said) = (Instant::now(), Heard::default(), 0);
        let (report, log) = (&mut self.report, &mut self.log);
        let end = process::run(command, Duration::from_secs_f64(deadline), |line| {
            log.line(line);
            // Under the sanitizer only what it says counts: a program that it cannot run fails for no fault of its own.
            if !matches!(part.run, Run::Sanitizer(_)) && report.hear(name, line) {
                said += 1;
            } else if !line.starts_with('@') {
                heard.line(line);
            }
        });
        let seconds = start.elapsed().as_secs_f64();
        self.report.part_ended(name, seconds, &format!("{end:?}"));
        self.judge(part, &end, &heard, said, deadline)
    }

    /// Whether there are some among the parts to come. What is measured over the stand-in is not worth waiting for.
    fn measurements_wait(&self, later: &[Part]) -> bool {
        let Options { check_only, driver, only, .. } = &self.options;
        let wanted = |part: &Part| part.measures && (only.is_empty() || only.iter().any(|name| name == part.name));
        !check_only && driver.is_none() && later.iter().any(wanted)
    }

    fn skip(&mut self, name: &str, why: &str) -> Option<u8> {
        self.report.note(Kind::Skipped, name, "not run", why);
        None
    }

    /// What a part's end says beyond what it said itself.
    fn judge(&mut self, part: &Part, end: &End, heard: &Heard, said: usize, deadline: f64) -> Option<u8> {
        let (name, last) = (part.name, heard.tail());
        // Where a check crashes, something is wrong; where a measurement does, something is missing.
        let crashed = if part.measures { Kind::Unfinished } else { Kind::Failed };
        let has_failed = self.report.has_failed(name);
        let mut note = |kind, what: &str, detail: &str| self.report.note(kind, name, what, detail);
        match (end, &part.run) {
            (End::Exited(code), _) if *code == i32::from(NOTHING_HERE) => note(Kind::Skipped, "nothing here", &last),
            (End::Exited(SANITIZER_FOUND), Run::Sanitizer(_)) => {
                note(Kind::Failed, "compute-sanitizer", &heard.errors())
            }
            (End::Exited(_), Run::Sanitizer(_)) if !heard.has("ERROR SUMMARY: 0 errors") => {
                note(Kind::Skipped, "compute-sanitizer does not work here", &last);
            }
            (End::Exited(0), Run::Sanitizer(_)) => note(Kind::Ok, "compute-sanitizer", "memcheck found nothing"),
            (End::Exited(0), Run::Program(..)) => match heard.skipped() {
                Some(why) => note(Kind::Skipped, "all of it", why),
                None => note(Kind::Ok, "all of it", &heard.last(2)),
            },
            (End::Exited(0), _) if said > 0 => {}
            (End::Exited(0), _) => note(Kind::Unfinished, "the part", "ended without a word"),
            // It has said itself what failed.
            (End::Exited(1), Run::Own | Run::Python(_)) if has_failed => {}
            (End::Exited(code), _) => note(crashed, "the part", &format!("exit code {code}: {last}")),
            (End::Signal(signal), _) => note(crashed, "the part", &format!("ended by signal {signal}: {last}")),
            (End::Deadline, _) => {
                let detail = format!("did not end within {deadline:.0} s, and was killed; its last words: {last}");
                note(Kind::Unfinished, "the part", &detail);
            }
            (End::Stopped, _) => note(Kind::Unfinished, "the part", "stopped by a signal"),
            (End::NotStarted(why), _) => note(Kind::Unfinished, "the part", why),
        }
        match end {
            End::Exited(code) => u8::try_from(*code).ok(),
            _ => None,
        }
    }
}

/// Other output of a part: its last lines, and those that say something.
#[derive(Default)]
struct Heard {
    last: Vec<String>,
    /// Where a panic was, and its message: backtraces push it out of the last lines.
    panic: Vec<String>,
    errors: Vec<String>,
    skipped: Option<String>,
    found: Vec<String>,
}

impl Heard {
    fn line(&mut self, line: &str) {
        if line.trim().is_empty() {
            return;
        }
        if self.panic.len() == 1 || (self.panic.is_empty() && line.contains("panicked at ")) {
            self.panic.push(line.trim().into());
        }
        if line.contains("ERROR SUMMARY") {
            self.found.push(line.into());
        }
        if line.contains("SKIPPED") {
            self.skipped = Some(line.into());
        }
        if line.starts_with("=========") && self.errors.len() < 12 {
            self.errors.push(line.trim_start_matches('=').trim().into());
        }
        if self.last.len() == 6 {
            self.last.remove(0);
        }
        self.last.push(line.trim().into());
    }

    fn tail(&self) -> String {
        if self.panic.is_empty() { self.last(6) } else { self.panic.join(" / ") }
    }

    fn last(&self, lines: usize) -> String {
        self.last[self.last.len().saturating_sub(lines)..].join(" / ")
    }

    fn errors(&self) -> String {
        self.errors.join(" / ")
    }

    fn has(&self, text: &str) -> bool {
        self.found.iter().any(|line| line.contains(text))
    }

    fn skipped(&self) -> Option<&str> {
        self.skipped.as_deref()
    }
}
