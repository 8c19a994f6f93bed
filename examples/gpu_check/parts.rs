//! The parts of a run, in their order: what is wanted most comes first. Each is a process of its own under a deadline.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::options::Options;
use crate::surroundings::Surroundings;

pub(crate) struct Part {
    pub(crate) name: &'static str,
    pub(crate) run: Run,
    /// Its deadline. Of a measurement, which takes what it is given: the share that it gets of the time that is left.
    pub(crate) seconds: f64,
    pub(crate) measures: bool,
}

pub(crate) enum Run {
    /// This program.
    Own,
    /// A program of the pack that says what it found by its exit code, with these arguments before the directory.
    Program(&'static str, &'static [&'static str]),
    /// A script of the pack.
    Python(&'static str),
    /// This program's part of that name under compute-sanitizer.
    Sanitizer(&'static str),
}

const fn check(name: &'static str, run: Run, seconds: f64) -> Part {
    Part { name, run, seconds, measures: false }
}

const fn measurement(name: &'static str, run: Run, share: f64) -> Part {
    Part { name, run, seconds: share, measures: true }
}

const TEST: &[&str] = &["--nocapture", "--test-threads=1", "--exact"];

pub(crate) const PARTS: [Part; 19] = [
    check("machine", Run::Own, 40.0),
    check("conformance-cuda", Run::Program("device_conformance", TEST), 60.0),
    check("seeds", Run::Own, 90.0),
    check("race", Run::Own, 60.0),
    check("gather", Run::Own, 40.0),
    check("torch", Run::Python("arrays.py"), 100.0), // reads PyTorch from the disk first
    check("weights", Run::Python("weights.py"), 60.0),
    check("cupy", Run::Python("arrays.py"), 60.0),
    check("driver", Run::Python("arrays.py"), 60.0),
    check("c", Run::Program("c_check", &[]), 40.0),
    check("conformance-cufile", Run::Program("cufile_nvidia", TEST), 40.0),
    check("cufile", Run::Own, 50.0),
    check("sanitizer", Run::Sanitizer("gather"), 60.0),
    check("doctor", Run::Program("strait", &["doctor"]), 20.0),
    check("files", Run::Own, 40.0),
    measurement("loaders", Run::Own, 0.4),
    measurement("peers-weights", Run::Python("rates.py"), 0.45),
    measurement("peers-loaders", Run::Python("rates.py"), 0.6),
    measurement("peers-reads", Run::Python("rates.py"), 1.0),
];

impl Part {
    /// The command, or why there is none here.
    pub(crate) fn command(&self, options: &Options, around: &Surroundings, seconds: f64) -> Result<Command, String> {
        let mut command = match self.run {
            Run::Own => own(options, self.name),
            Run::Program(file, arguments) => program(around, file, arguments, self.name)?,
            Run::Python(script) => python(options, around, script, self.name)?,
            Run::Sanitizer(_) if options.driver.is_some() => {
                return Err("the stand-in for the driver runs no kernels that could be watched".into());
            }
            Run::Sanitizer(part) => {
                let tool = around.sanitizer.as_ref().ok_or(
                    "there is no compute-sanitizer here (on PATH, in /usr/local/cuda/bin), and none was packed \
                    (`scripts/gpu-check --peers`)",
                )?;
                let mut command = Command::new(tool);
                // What calls answer is strait's to handle; this is about what kernels touch.
                let watched = ["--tool", "memcheck", "--report-api-errors", "no", "--error-exitcode", "97"];
                command.args(watched).arg(own(options, part).get_program());
                command.args(own(options, part).get_args());
                command
            }
        };
        if !matches!(self.run, Run::Program(..)) {
            command.arg("--seconds").arg(format!("{seconds:.1}"));
        }
        around.set(&mut command);
        if let Some(driver) = &options.driver {
            // What is loaded under the driver's name is found in its place.
            command.env("LD_PRELOAD", driver);
        }
        Ok(command)
    }
}

fn own(options: &Options, part: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap_or_else(|_| "gpu_check".into()));
    command.args(["--part", part]);
    pass(options, &mut command);
    command.args(["--seeds", &options.seeds.to_string()]);
    command
}

/// What all parts need to know.
fn pass(options: &Options, command: &mut Command) {
    command.arg("--dir").arg(&options.dir);
    let paths = [("--tmpfs", &options.tmpfs), ("--driver", &options.driver)];
    for (option, path) in paths.into_iter().filter_map(|(option, path)| Some((option, path.as_ref()?))) {
        command.arg(option).arg(path);
    }
    command.args(["--device", &options.device.to_string(), "--rounds", &options.rounds.to_string()]);
    command.args(["--gib", &options.gib.to_string()]);
}

fn program(around: &Surroundings, file: &str, arguments: &[&str], part: &str) -> Result<Command, String> {
    let path = around.packed(&format!("bin/{file}"))?;
    let mut command = Command::new(path);
    command.args(arguments);
    match part {
        "c" => command.arg(&around.dir).arg(around.device.to_string()),
        "doctor" => command.arg(&around.dir),
        "conformance-cufile" => {
            around.cufile_opens()?;
            if Path::new("/proc/driver/nvidia-fs").exists() {
                // The test is of that mode, and says so where it is not taken.
                return Err("GPUDirect Storage is here, and this is a check of cuFile's compatibility mode".into());
            }
            command.arg("the_real_library_keeps_what_the_stand_in_promises").env("STRAIT_NVIDIA_CUFILE", "1")
        }
        _ => command.arg("cuda"),
    };
    Ok(command)
}

fn python(options: &Options, around: &Surroundings, script: &str, part: &str) -> Result<Command, String> {
    let python = around.python.as_ref().map_err(Clone::clone)?;
    around.packed("python/strait/libstrait.so")?;
    let mut command = Command::new(&python.program);
    command.arg(around.packed(&format!("check/{script}"))?).args(["--part", part]);
    pass(options, &mut command);
    Ok(command)
}

/// A file of the pack, if it is there.
pub(crate) fn packed(pack: &Path, file: &str) -> Result<PathBuf, String> {
    let path = pack.join(file);
    match path.exists() {
        true => Ok(path),
        false => Err(format!("{file} is not packed")),
    }
}
