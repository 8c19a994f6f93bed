//! Loaders from disk and from memory, to the host and to the device.

use std::time::Instant;

use serde_json::{Value, json};
use strait::order::Shuffle;
use strait::{Dataset, Device, Loader};

use super::files::Files;
use super::median;
use crate::check::Outcome;

/// One way of reading one dataset.
pub(super) struct Case<'a> {
    name: String,
    files: &'a Files,
    device: Device,
    shuffle: Shuffle,
    /// Bytes of a sample.
    record: u64,
    batch: usize,
    /// The case that says what the storage can do: the same, to the host. None for those themselves.
    storage: Option<usize>,
}

/// What one epoch took.
pub(super) struct Run {
    gb_per_s: f64,
    cpu_seconds_per_gib: f64,
    build_ms: f64,
    first_batch_ms: f64,
    pinned_bytes: u64,
    way: String,
}

impl<'a> Case<'a> {
    /// Pairs: to the host without a copy, which is what the storage can do; then to the device.
    pub(super) fn all(device: &Device, disk: &'a Files, memory: &'a Files) -> Vec<Case<'a>> {
        let large = (Shuffle::Sequential, 1 << 20, 64);
        let small = (Shuffle::Full, 128 << 10, 256);
        let places =
            [("disk, in order", disk, large), ("disk, shuffled", disk, small), ("tmpfs, in order", memory, large)];
        let mut cases = Vec::new();
        for (place, files, (shuffle, record, batch)) in places {
            let storage = cases.len();
            for (to, device, storage) in [("host", Device::host(), None), ("device", device.clone(), Some(storage))] {
                let name = format!("{place}, {} KiB samples, to the {to}", record >> 10);
                cases.push(Case { name, files, device, shuffle, record, batch, storage });
            }
        }
        cases
    }

    fn loader(&self) -> Outcome<Loader> {
        let builder = Loader::builder(Dataset::records(&self.files.paths, self.record)?);
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

    /// One epoch of a new loader, until the last byte is there.
    pub(super) fn run(&self) -> Outcome<Run> {
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
        if bytes != self.files.bytes {
            return Err(format!("{}: {bytes} of {} bytes came", self.name, self.files.bytes).into());
        }
        let stats = loader.stats();
        let fallbacks: Vec<String> = stats.fallbacks.iter().map(|fallback| format!("; {}", fallback.instead)).collect();
        Ok(Run {
            gb_per_s: bytes as f64 / seconds / 1e9,
            cpu_seconds_per_gib: cpu / (bytes as f64 / (1u64 << 30) as f64),
            build_ms: (built - start).as_secs_f64() * 1e3,
            first_batch_ms: first.unwrap_or_default().as_secs_f64() * 1e3,
            pinned_bytes: stats.pinned_bytes_max,
            way: format!("{}, {}{}", stats.path, stats.ring, fallbacks.concat()),
        })
    }
}

/// Medians, and the shares of what storage and bus could do in the same round.
pub(super) fn rows(cases: &[Case<'_>], runs: &[Vec<Run>], bus: &[f64]) -> Vec<Value> {
    let row = |(case, series): (&Case<'_>, &Vec<Run>)| {
        let of = |pick: fn(&Run) -> f64| median(&series.iter().map(pick).collect::<Vec<_>>());
        let share = case.storage.map(|storage| {
            let rounds = series.iter().zip(&runs[storage]).zip(bus);
            median(&rounds.map(|((run, storage), bus)| run.gb_per_s / storage.gb_per_s.min(*bus)).collect::<Vec<_>>())
        });
        json!({
            "what": case.name,
            "gb_per_s": of(|run| run.gb_per_s),
            "share_of_min_storage_bus": share,
            "cpu_seconds_per_GiB": of(|run| run.cpu_seconds_per_gib),
            "build_ms": of(|run| run.build_ms),
            "first_batch_ms": of(|run| run.first_batch_ms),
            "pinned_MiB": series.iter().map(|run| run.pinned_bytes >> 20).max(),
            "way": series.last().map(|run| run.way.clone()),
            "all_gb_per_s": series.iter().map(|run| run.gb_per_s).collect::<Vec<_>>(),
        })
    };
    cases.iter().zip(runs).map(row).collect()
}

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
