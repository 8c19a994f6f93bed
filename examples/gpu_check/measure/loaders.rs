//! Loaders from disk, memory and page cache, to the host and to the device.

use std::time::Instant;

use serde_json::{Value, json};
use strait::order::Shuffle;
use strait::{Dataset, Device, Loader};

use super::disk::{self, Way};
use super::files::{self, Files};
use super::median;
use crate::check::Outcome;

/// One way of reading one dataset.
pub(super) struct Case<'a> {
    pub(super) name: String,
    files: &'a Files,
    device: Device,
    shuffle: Shuffle,
    /// Bytes of a sample.
    record: u64,
    batch: usize,
    /// How plain reads get the most of the same place.
    ceiling: Way,
    /// Bytes of a run, so that it takes well under a second.
    bytes: f64,
    /// Whether the page cache is emptied of the files before each run.
    cold: bool,
    runs: Vec<Run>,
}

/// What one epoch took, and what plain reads and the bus gave in the same round.
struct Run {
    gb_per_s: f64,
    storage: f64,
    bus: f64,
    cpu_seconds_per_gib: f64,
    cores: f64,
    build_ms: f64,
    first_batch_ms: f64,
    pinned_bytes: u64,
    /// How often the engine had neither a slab nor a region to read into.
    waits: [u64; 2],
    way: String,
}

/// How long a run takes, about.
const RUN_SECONDS: f64 = 0.6;

impl<'a> Case<'a> {
    /// From the disk: in order and shuffled, and in order to the host; the same files from the page cache.
    pub(super) fn of_disk(device: &Device, files: &'a Files) -> Outcome<Vec<Case<'a>>> {
        files::evict(&files.paths);
        let (way, rate) = disk::best("disk", &files.paths, true)?;
        let small = Way { threads: way.threads.max(16), block: 128 << 10, shuffled: true, ..way };
        let (cached, _) = disk::best("page cache", &files.paths[..1], false)?;
        let case =
            |name, device: &Device, order, ceiling, cold| Case::new(name, files, device, order, ceiling, rate, cold);
        Ok(vec![
            case("disk, in order", device, LARGE, way, true),
            case("disk, shuffled", device, SMALL, small, true),
            case("disk, in order, to the host", &Device::host(), LARGE, way, true),
            case("disk, in order, cached", device, LARGE, cached, false),
        ])
    }

    pub(super) fn of_tmpfs(device: &Device, files: &'a Files) -> Outcome<Vec<Case<'a>>> {
        let (way, rate) = disk::best("tmpfs", &files.paths, false)?;
        let small = Way { block: 128 << 10, shuffled: true, ..way };
        let case = |name, order, ceiling| Case::new(name, files, device, order, ceiling, rate, false);
        Ok(vec![case("tmpfs, in order", LARGE, way), case("tmpfs, shuffled", SMALL, small)])
    }

    fn new(
        name: &str,
        files: &'a Files,
        device: &Device,
        order: Order,
        ceiling: Way,
        rate: f64,
        cold: bool,
    ) -> Case<'a> {
        let Order { shuffle, record, batch } = order;
        let name = format!("{name}, {} KiB x {batch}", record >> 10);
        let bytes = rate * 1e9 * RUN_SECONDS;
        Case { name, files, device: device.clone(), shuffle, record, batch, ceiling, bytes, cold, runs: Vec::new() }
    }

    fn loader(&self) -> Outcome<Loader> {
        let builder = Loader::builder(Dataset::records(self.files.some(self.bytes), self.record)?);
        Ok(builder.device(self.device.clone()).batch_size(self.batch).shuffle(self.shuffle).seed(5).build()?)
    }

    /// Compares every byte of the first batches.
    pub(super) fn verify(&self) -> Outcome {
        let (mut found, mut want) = (Vec::new(), vec![0; self.record as usize]);
        for batch in self.loader()?.epoch(0).take(4) {
            let batch = batch?;
            let view = batch.field("record").ok_or("records have one field")?;
            for (i, &sample) in batch.samples().iter().enumerate() {
                view.read_back(i, &mut found)?;
                self.files.fill(sample * self.record, &mut want);
                if found != want {
                    return Err(format!("{}: sample {sample} has wrong bytes", self.name).into());
                }
            }
        }
        Ok(())
    }

    fn prepare(&self) -> Outcome {
        let paths = self.files.some(self.bytes);
        match self.cold {
            true => files::evict(paths),
            // Into the page cache, if they were not there.
            false => drop(disk::gb_per_s(paths, Way { shuffled: false, direct: false, ..self.ceiling })?),
        }
        Ok(())
    }

    /// Plain reads, then one epoch of a new loader, until the last byte is there.
    pub(super) fn run(&mut self, bus: f64) -> Outcome {
        self.prepare()?;
        let storage = disk::gb_per_s(self.files.some(self.bytes), self.ceiling)?;
        self.prepare()?;
        let start = Instant::now();
        let mut loader = self.loader()?;
        let (built, cpu) = (Instant::now(), cpu_seconds());
        let (mut first, mut bytes) = (None, 0);
        let mut last = None;
        for batch in loader.epoch(0) {
            let batch = batch?;
            bytes += batch.bytes();
            if first.is_none() {
                batch.wait()?;
                first = Some(built.elapsed());
            }
            // Holds one batch while the next one comes, as a consumer does.
            last = Some(batch);
        }
        last.iter().try_for_each(|batch| batch.wait())?;
        let (seconds, cpu) = (built.elapsed().as_secs_f64(), cpu_seconds() - cpu);
        drop(last);
        let whole = self.files.some(self.bytes).len() as u64 * self.files.shard_bytes;
        if bytes + self.batch as u64 * self.record <= whole {
            return Err(format!("{}: {bytes} of {whole} bytes came", self.name).into());
        }
        let stats = loader.stats();
        let fallbacks: Vec<String> = stats.fallbacks.iter().map(|fallback| format!("; {}", fallback.instead)).collect();
        self.runs.push(Run {
            gb_per_s: bytes as f64 / seconds / 1e9,
            storage,
            bus: if self.device.name() == "host" { f64::INFINITY } else { bus },
            cpu_seconds_per_gib: cpu / (bytes as f64 / (1u64 << 30) as f64),
            cores: cpu / seconds,
            build_ms: (built - start).as_secs_f64() * 1e3,
            first_batch_ms: first.unwrap_or_default().as_secs_f64() * 1e3,
            pinned_bytes: stats.pinned_bytes_max,
            waits: [stats.waits_for_slab, stats.waits_for_region],
            way: format!("{}, {}{}", stats.path, stats.ring, fallbacks.concat()),
        });
        Ok(())
    }

    /// Medians of all rounds so far, and of the shares within the rounds.
    pub(super) fn row(&self) -> Value {
        let all = |pick: &dyn Fn(&Run) -> f64| self.runs.iter().map(pick).collect::<Vec<_>>();
        let of = |pick: &dyn Fn(&Run) -> f64| Some(median(&all(pick))).filter(|value| value.is_finite());
        json!({
            "what": self.name,
            "GB_per_s": of(&|run| run.gb_per_s),
            "plain_reads_GB_per_s": of(&|run| run.storage),
            "share_of_min_reads_bus": of(&|run| run.gb_per_s / run.storage.min(run.bus)),
            "share_of_bus": of(&|run| run.gb_per_s / run.bus).filter(|&share| share > 0.0),
            "CPU_s_per_GiB": of(&|run| run.cpu_seconds_per_gib),
            "cores": of(&|run| run.cores),
            "build_ms": of(&|run| run.build_ms),
            "first_batch_ms": of(&|run| run.first_batch_ms),
            "waits_for_slab": of(&|run| run.waits[0] as f64),
            "waits_for_region": of(&|run| run.waits[1] as f64),
            "pinned_MiB": self.runs.iter().map(|run| run.pinned_bytes >> 20).max(),
            "rounds": self.runs.len(),
            "way": self.runs.last().map(|run| run.way.clone()),
            "all_GB_per_s": all(&|run| run.gb_per_s),
            "all_plain_reads_GB_per_s": all(&|run| run.storage),
            "all_plain_reads_way": self.ceiling.text(),
        })
    }
}

#[derive(Clone, Copy)]
struct Order {
    shuffle: Shuffle,
    record: u64,
    batch: usize,
}

const LARGE: Order = Order { shuffle: Shuffle::Sequential, record: 1 << 20, batch: 16 };
const SMALL: Order = Order { shuffle: Shuffle::Full, record: 128 << 10, batch: 128 };

/// User plus system time of all threads of this process so far.
fn cpu_seconds() -> f64 {
    // SAFETY: rusage is plain data for which all-zero is valid, and it outlives the call that fills it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 * 1e-6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}
