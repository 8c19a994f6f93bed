//! Checks strait on this machine's GPU, and measures it there. It needs the NVIDIA driver and nothing else.
//!
//! ```text
//! cargo run --release --example gpu_check -- --dir /mnt/nvme
//! ```
//!
//! Exit codes: 0 all checks passed, 1 one failed, 2 wrong options, 3 no GPU. `scripts/gpu-check` packs the program for
//! machines without Rust.

mod check;
mod machine;
mod measure;
mod options;
mod report;

use std::process::ExitCode;

use check::cuda::{Gpu, is_stand_in};
use check::exact::{self, Checked};
use check::race::{self, Load, Tally};
use check::reader::{Reader, Release};
use check::shards::Source;
use options::Options;
use report::Report;
use strait::{Device, Error, RingChoice};

fn main() -> ExitCode {
    let options = match Options::from_args(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(text) => {
            eprintln!("{text}");
            return ExitCode::from(2);
        }
    };
    let device = match Device::cuda(options.device) {
        Ok(device) => device,
        Err(Error::NoDevice { reason, .. }) => {
            eprintln!("There is no GPU to check here: {reason}");
            return ExitCode::from(3);
        }
        Err(error) => {
            eprintln!("The GPU cannot be used: {error}");
            return ExitCode::from(1);
        }
    };
    match run(&options, &device) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("gpu_check could not finish: {error}");
            ExitCode::from(1)
        }
    }
}

/// Everything; whether all checks passed.
fn run(options: &Options, device: &Device) -> check::Outcome<bool> {
    println!("{}", device.name());
    let gpu = Gpu::of(device)?;
    let mut report = Report::new(machine::describe(device, &gpu, options));
    let bytes = Source::new(64 << 20);
    for directory in [&options.dir, &options.tmpfs] {
        let name = format!("{} shapes of loaders, every byte compared ({})", options.seeds, directory.display());
        let bed = exact::Bed { device, gpu: &gpu, source: &bytes, directory, ring: None };
        report.check(&name, all_seeds(&bed, options.seeds));
    }
    cufile(options, device, &gpu, &bytes, &mut report);
    report.check("regions turn over behind two busy consumer streams", raced(options, device, &gpu, &bytes));
    report.control(race(options, device, &gpu, &bytes, Release::TooEarly));
    if is_stand_in() {
        report.not_measured("the driver is strait's stand-in for tests: its times mean nothing");
    } else if options.check_only {
        report.not_measured("not asked for (--check-only)");
    } else {
        report.measured(measure::all(options, device, &gpu)?);
    }
    report.write(&options.out)?;
    println!("\n{}", report.markdown());
    println!("written: {0}.json {0}.md", options.out.display());
    Ok(report.passed())
}

/// GPUDirect Storage, in compatibility mode too: where it does not open, that is no failure of strait's.
fn cufile(options: &Options, device: &Device, gpu: &std::rc::Rc<Gpu>, bytes: &Source, report: &mut Report) {
    let bed = exact::Bed { device, gpu, source: bytes, directory: &options.dir, ring: Some(RingChoice::Cufile) };
    match exact::check(&bed, 0) {
        Err(error) if matches!(error.downcast_ref(), Some(strait::Error::Ring { ring: "cufile", .. })) => {
            report.not_checked(&format!("cuFile: {error}"));
        }
        _ => {
            let name = format!("{} shapes of loaders by cuFile ({})", options.seeds, options.dir.display());
            report.check(&name, all_seeds(&bed, options.seeds));
        }
    }
}

fn all_seeds(bed: &exact::Bed<'_>, seeds: u64) -> check::Outcome<String> {
    let mut all = Checked::default();
    for seed in 0..seeds {
        let one = exact::check(bed, seed).map_err(|error| format!("seed {seed}: {error}"))?;
        (all.samples, all.bytes) = (all.samples + one.samples, all.bytes + one.bytes);
    }
    Ok(format!("{} samples, {} MiB", all.samples, all.bytes >> 20))
}

fn raced(options: &Options, device: &Device, gpu: &std::rc::Rc<Gpu>, source: &Source) -> check::Outcome<String> {
    let tally = race(options, device, gpu, source, Release::Fenced)?;
    match tally.wrong {
        0 => Ok(format!("{} samples in {} epochs", tally.samples, tally.epochs)),
        wrong => Err(format!("{wrong} of {} samples had wrong bytes", tally.samples).into()),
    }
}

/// Streams that are kept busy for longer than a batch takes to arrive: 16 copies of 64 MiB within the device.
fn race(
    options: &Options,
    device: &Device,
    gpu: &std::rc::Rc<Gpu>,
    source: &Source,
    release: Release,
) -> check::Outcome<Tally> {
    let ballast = if is_stand_in() { 0 } else { 16 };
    let mut readers = [Reader::new(gpu, 64 << 20, ballast)?, Reader::new(gpu, 64 << 20, ballast)?];
    let load = Load { record: 65_536 + 512, batch: 32, epochs: 40, ring: RingChoice::Auto };
    race::turn_over(device, source, &options.tmpfs, &mut readers, load, release)
}
