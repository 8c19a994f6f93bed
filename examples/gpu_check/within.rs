//! The parts that this program does itself, each in a process of its own.

use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use strait::{Device, Error, RingChoice};

use crate::check::cuda::{Gpu, is_stand_in};
use crate::check::exact::{self, Bed, Checked};
use crate::check::race::{self, Load, Tally};
use crate::check::reader::{Reader, Release};
use crate::check::shards::Source;
use crate::check::{Outcome, casts, gather, weights};
use crate::options::Options;
use crate::runner::NOTHING_HERE;
use crate::{lines, machine, measure};

/// What all of them use.
struct Ground<'a> {
    options: &'a Options,
    device: Device,
    gpu: Rc<Gpu>,
    source: Source,
}

/// Runs one part, which says on standard output what it found; the exit code.
pub(crate) fn part(name: &str, options: &Options) -> Outcome<u8> {
    let device = match Device::cuda(options.device) {
        Ok(device) => device,
        Err(Error::NoDevice { reason, .. }) => {
            println!("There is no GPU to check here: {reason}");
            return Ok(NOTHING_HERE);
        }
        Err(error) => return Err(error.into()),
    };
    let gpu = Gpu::of(&device)?;
    let ground = Ground { options, device, gpu, source: Source::new(if name == "machine" { 8 } else { 64 << 20 }) };
    match name {
        "machine" => {
            lines::machine(machine::describe(&ground.device, &ground.gpu, options));
            lines::check("the driver answers", Ok(ground.device.name()));
        }
        "seeds" => ground.seeds(),
        "race" => ground.races(),
        "gather" => ground.gathers(),
        "cufile" => ground.cufile(),
        "files" => measure::files::write_all(options)?,
        "loaders" => measure::all(options, &ground.device, &ground.gpu)?,
        _ => return Err(format!("--part: there is no {name}").into()),
    }
    Ok(0)
}

impl Ground<'_> {
    fn bed<'a>(&'a self, directory: &'a Path, ring: Option<RingChoice>) -> Bed<'a> {
        Bed { device: &self.device, gpu: &self.gpu, source: &self.source, directory, ring }
    }

    /// Where parts may write: the disk, and memory if there is any.
    fn places(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let tmpfs = self.options.tmpfs.as_deref();
        [("disk", Some(self.options.dir.as_path())), ("tmpfs", tmpfs)]
            .into_iter()
            .filter_map(|(name, path)| Some((name, path?)))
    }

    fn seeds(&self) {
        for (place, directory) in self.places() {
            let name = format!("{} shapes of loaders, every byte compared, from {place}", self.options.seeds);
            lines::check(&name, all_seeds(&self.bed(directory, None), self.options.seeds));
            let loaded = weights::check(&self.device, &self.source, directory, RingChoice::Auto);
            lines::check(&format!("a checkpoint, every byte compared, from {place}"), loaded);
        }
    }

    fn cufile(&self) {
        let bed = self.bed(&self.options.dir, Some(RingChoice::Cufile));
        match exact::check(&bed, 0) {
            Err(error) if matches!(error.downcast_ref(), Some(Error::Ring { ring: "cufile", .. })) => {
                lines::skipped("cuFile does not open here", &error.to_string());
            }
            _ => {
                let seeds = self.options.seeds.div_ceil(4);
                lines::check(&format!("{seeds} shapes of loaders by cuFile"), all_seeds(&bed, seeds));
                let loaded = weights::check(&self.device, &self.source, &self.options.dir, RingChoice::Cufile);
                lines::check("a checkpoint by cuFile", loaded);
            }
        }
    }

    fn gathers(&self) {
        lines::check("arrays of rows at odd places", gather::check(&self.device, &self.source, &self.options.dir));
        lines::check(
            "arrays of wider elements, every value of every kind",
            casts::check(&self.device, &self.options.dir),
        );
    }

    /// Streams that are kept busy for longer than a batch takes to arrive, by copies of 64 MiB within the device: so many
    /// more, until a program that does not wait is seen to fail.
    fn races(&self) {
        let ballasts: &[usize] = if is_stand_in() { &[0] } else { &[16, 100] };
        let mut control = Tally::default();
        for &ballast in ballasts {
            let outcome = self.race(ballast, Release::Fenced).and_then(|tally| match tally.wrong {
                0 => Ok(format!("{} samples in {} epochs", tally.samples, tally.epochs)),
                wrong => Err(format!("{wrong} of {} samples had wrong bytes", tally.samples).into()),
            });
            let name = format!("regions turn over behind two busy streams ({ballast} x 64 MiB before each batch)");
            lines::check(&name, outcome);
            match self.race(ballast, Release::TooEarly) {
                Ok(tally) => control = tally,
                Err(error) => return lines::note("the same without fences", &error.to_string()),
            }
            if control.wrong > 0 {
                break;
            }
        }
        let detail = match control {
            Tally { wrong: 0, .. } => "no sample was wrong: on this machine the check could not have told".into(),
            Tally { wrong, samples, .. } => format!("{wrong} of {samples} samples were wrong, as they should be"),
        };
        lines::note("the same without fences, on purpose", &detail);
    }

    fn race(&self, ballast: usize, release: Release) -> Outcome<Tally> {
        let mut readers = [Reader::new(&self.gpu, 64 << 20, ballast)?, Reader::new(&self.gpu, 64 << 20, ballast)?];
        let load = Load { record: 65_536 + 512, batch: 32, epochs: 20, ring: RingChoice::Auto };
        let directory = self.options.tmpfs.as_ref().unwrap_or(&self.options.dir);
        race::turn_over(&self.device, &self.source, directory, &mut readers, load, release)
    }
}

/// As many seeds as there is patience for; which one went wrong.
fn all_seeds(bed: &Bed<'_>, seeds: u64) -> Outcome<String> {
    let (mut all, mut said) = (Checked::default(), Instant::now());
    for seed in 0..seeds {
        let one = exact::check(bed, seed).map_err(|error| format!("seed {seed}: {error}"))?;
        (all.samples, all.bytes) = (all.samples + one.samples, all.bytes + one.bytes);
        if said.elapsed() > Duration::from_secs(5) {
            println!("seed {seed} of {seeds}"); // for the log: where it stood if it must be killed
            said = Instant::now();
        }
    }
    Ok(format!("{} samples, {} MiB", all.samples, all.bytes >> 20))
}
