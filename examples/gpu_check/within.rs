//! The parts that this program does itself, each in a process of its own.

use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use strait::{Device, Error, RingChoice};

use crate::check::cuda::{Gpu, copies_begin_late, is_stand_in};
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
    /// When the part should have said what it found: those that can choose do less.
    end: Instant,
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
    let end = Instant::now() + Duration::from_secs_f64(options.seconds);
    let ground =
        Ground { options, end, device, gpu, source: Source::new(if name == "machine" { 8 } else { 64 << 20 }) };
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
            let loaded = weights::check(&self.device, &self.source, directory, RingChoice::Auto);
            lines::check(&format!("a checkpoint, every byte compared, from {place}"), loaded);
        }
        let mut places = self.places().count() as u32;
        for (place, directory) in self.places() {
            let name = format!("shapes of loaders, every byte compared, from {place}");
            // Each place has its share of the time.
            let end = Instant::now() + self.end.saturating_duration_since(Instant::now()) / places;
            lines::check(&name, some_seeds(&self.bed(directory, None), self.options.seeds, end));
            places -= 1;
        }
    }

    fn cufile(&self) {
        let bed = self.bed(&self.options.dir, Some(RingChoice::Cufile));
        match exact::check(&bed, 0) {
            Err(error) if matches!(error.downcast_ref(), Some(Error::Ring { ring: "cufile", .. })) => {
                lines::skipped("cuFile does not open here", &error.to_string());
            }
            _ => {
                let loaded = weights::check(&self.device, &self.source, &self.options.dir, RingChoice::Cufile);
                lines::check("a checkpoint by cuFile", loaded);
                let seeds = self.options.seeds.div_ceil(4);
                lines::check("shapes of loaders by cuFile", some_seeds(&bed, seeds, self.end));
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

    fn races(&self) {
        self.given_back_early();
        self.read_at_once();
    }

    /// Streams that are kept busy for longer than a batch takes to arrive, by copies of 64 MiB within the device: so many
    /// more, until a program that does not wait is seen to fail.
    fn given_back_early(&self) {
        let ballasts: &[usize] = if is_stand_in() { &[0] } else { &[16, 100] };
        let mut control = Tally::default();
        for &ballast in ballasts {
            let name = format!("regions turn over behind two busy streams ({ballast} x 64 MiB before each batch)");
            lines::check(&name, none_wrong(self.behind_busy_streams(ballast, Release::Fenced)));
            match self.behind_busy_streams(ballast, Release::TooEarly) {
                Ok(tally) => control = tally,
                Err(error) => return lines::unproven(UNFENCED, &error.to_string()),
            }
            if control.wrong > 0 || Instant::now() >= self.end {
                break;
            }
        }
        match control {
            Tally { wrong: 0, .. } => lines::unproven(UNFENCED, "no sample was wrong: the check could not have told"),
            Tally { wrong, samples, .. } => {
                lines::check(UNFENCED, Ok(format!("{wrong} of {samples} samples were wrong, as they should be")));
            }
        }
    }

    /// Streams that read a batch as soon as it is there, while copies to the device are held up by others.
    fn read_at_once(&self) {
        let name = "batches are read as soon as they come, while their copies are held up";
        lines::check(name, none_wrong(self.while_the_bus_is_busy(Release::Fenced)));
        let detail = match self.while_the_bus_is_busy(Release::Unwaited) {
            Ok(Tally { wrong: 0, .. }) => "no sample was wrong: the check could not have told".into(),
            Ok(Tally { wrong, samples, .. }) => format!("{wrong} of {samples} samples were wrong, as they should be"),
            Err(error) => error.to_string(),
        };
        lines::note("the same without waiting for the copies, on purpose", &detail);
    }

    fn behind_busy_streams(&self, ballast: usize, release: Release) -> Outcome<Tally> {
        let mut readers = [Reader::new(&self.gpu, 64 << 20, ballast)?, Reader::new(&self.gpu, 64 << 20, ballast)?];
        if is_stand_in() {
            // Its copies within the device take no time, however many there are.
            readers.iter().try_for_each(|reader| reader.stream().begins_late(Duration::from_millis(2)))?;
        }
        let load = Load {
            record: 65_536 + 512,
            batch: 32,
            epochs: if is_stand_in() { 4 } else { 20 },
            ring: RingChoice::Auto,
        };
        race::turn_over(&self.device, &self.source, self.quickest(), &mut readers, load, release)
    }

    fn while_the_bus_is_busy(&self, release: Release) -> Outcome<Tally> {
        let reader = || Reader::new(&self.gpu, 64 << 20, 0)?.with_traffic(&self.gpu, 64 << 20);
        let mut readers = [reader()?, reader()?];
        let load = Load {
            record: 262_144 + 512,
            batch: 16,
            epochs: if is_stand_in() { 3 } else { 10 },
            ring: RingChoice::Auto,
        };
        if is_stand_in() {
            copies_begin_late(Duration::from_millis(2))?;
        }
        let tally = race::turn_over(&self.device, &self.source, self.quickest(), &mut readers, load, release);
        if is_stand_in() {
            copies_begin_late(Duration::ZERO)?;
        }
        tally
    }

    fn quickest(&self) -> &Path {
        self.options.tmpfs.as_ref().unwrap_or(&self.options.dir)
    }
}

/// What a race shows that must be lost.
const UNFENCED: &str = "the same without fences, on purpose, is seen to go wrong";

fn none_wrong(tally: Outcome<Tally>) -> Outcome<String> {
    match tally? {
        Tally { wrong: 0, samples, epochs } => Ok(format!("{samples} samples in {epochs} epochs")),
        Tally { wrong, samples, .. } => Err(format!("{wrong} of {samples} samples had wrong bytes").into()),
    }
}

/// As many of the seeds as there is time for, one at least; which one went wrong.
fn some_seeds(bed: &Bed<'_>, seeds: u64, end: Instant) -> Outcome<String> {
    let (mut all, mut said, mut done) = (Checked::default(), Instant::now(), 0);
    while done < seeds && (done == 0 || Instant::now() < end) {
        let one = exact::check(bed, done).map_err(|error| format!("seed {done}: {error}"))?;
        (all.samples, all.bytes, done) = (all.samples + one.samples, all.bytes + one.bytes, done + 1);
        if said.elapsed() > Duration::from_secs(5) {
            println!("seed {done} of {seeds}"); // for the log: where it stood if it must be killed
            said = Instant::now();
        }
    }
    let short = if done < seeds { format!(" (of {seeds}: no more time)") } else { String::new() };
    Ok(format!("{done} seeds{short}, {} samples, {} MiB", all.samples, all.bytes >> 20))
}
