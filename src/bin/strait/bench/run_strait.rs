//! One run of strait itself: the only file of the bench that knows the loader.
//!
//! To be plugged in: delete the module `planned`, import the same names from `strait`, and let [`open`] be
//! `Dataset::open(paths, Some(record_bytes))`.

use std::path::PathBuf;
use std::time::Instant;

use strait::Dataset;

use super::measure::{Clock, Measure};
use super::options::{DeviceOption, RingOption};
use super::oracle::Oracle;
use super::progress::Watch;
use super::request::Request;
use crate::failure::Result;
use planned::{Device, Loader, RingChoice};

/// What a run of strait has shown.
#[derive(Debug, Clone)]
pub(crate) struct RunResult {
    /// Of the epoch alone: opening, registering and pinning are in `setup_seconds`, as fio does not count them either.
    pub(crate) measure: Measure,
    pub(crate) setup_seconds: f64,
    /// From the call that opens the dataset to the first batch on the device.
    pub(crate) first_batch_seconds: f64,
    pub(crate) pinned_bytes_max: u64,
    /// `uring`, `pread`.
    pub(crate) ring: String,
    /// `host`, `cuda:0 (NVIDIA H200)`.
    pub(crate) device: String,
    /// `direct`, `staged`.
    pub(crate) path: String,
    pub(crate) path_reason: String,
}

/// Raw files of records, or tar shards.
pub(crate) fn open(paths: &[PathBuf], record_bytes: u64) -> Result<Dataset> {
    let tar = paths.iter().all(|path| path.extension().is_some_and(|extension| extension == "tar"));
    Ok(if tar { Dataset::webdataset(paths)? } else { Dataset::records(paths, record_bytes)? })
}

/// Reads one epoch, or as much of it as `watch` gives time for.
pub(crate) fn run(request: &Request, watch: &mut Watch) -> Result<RunResult> {
    let began = Instant::now();
    let mut loader = loader(request)?;
    watch.start();
    let (setup_seconds, clock) = (began.elapsed().as_secs_f64(), Clock::start());
    let (mut bytes, mut first_batch_seconds) = (0, None);
    for batch in loader.epoch(0) {
        let batch = batch?;
        batch.wait()?;
        first_batch_seconds.get_or_insert_with(|| began.elapsed().as_secs_f64());
        bytes += batch.bytes();
        if !watch.tick(bytes)? {
            break;
        }
    }
    let measure = clock.stop(bytes);
    let stats = loader.stats();
    Ok(RunResult {
        measure,
        setup_seconds,
        first_batch_seconds: first_batch_seconds.unwrap_or(setup_seconds),
        pinned_bytes_max: stats.pinned_bytes_max,
        ring: stats.ring.to_string(),
        device: stats.device.to_string(),
        path: stats.path.to_string(),
        path_reason: stats.path_reason.to_string(),
    })
}

/// Reads one epoch and compares every sample with its file; gives the bytes compared.
pub(crate) fn verify(request: &Request, watch: &mut Watch) -> Result<u64> {
    let mut oracle = Oracle::new(open(&request.paths, request.record_bytes)?)?;
    let mut loader = loader(request)?;
    let mut got = Vec::new();
    watch.start();
    for batch in loader.epoch(0) {
        let batch = batch?;
        batch.wait()?;
        for (place, sample) in batch.samples().iter().enumerate() {
            for field in 0..batch.fields() {
                if batch.read_back(field, place, &mut got)? {
                    oracle.check(*sample, field, &got)?;
                }
            }
        }
        if !watch.tick(oracle.bytes)? {
            break;
        }
    }
    Ok(oracle.finish())
}

fn loader(request: &Request) -> Result<Loader> {
    let device = match request.device {
        DeviceOption::Auto => Device::auto()?,
        DeviceOption::Host => Device::host()?,
        DeviceOption::Cuda(ordinal) => Device::cuda(ordinal)?,
    };
    let ring = match request.ring {
        RingOption::Auto => RingChoice::Auto,
        RingOption::Uring => RingChoice::Uring,
        RingOption::Pread => RingChoice::Pread,
    };
    Ok(Loader::builder(open(&request.paths, request.record_bytes)?)
        .device(device)
        .batch_size(request.batch)
        .shuffle(request.shuffle)
        .seed(request.seed)
        .block_bytes(request.block_bytes as usize)
        .reads_in_flight(request.depth)
        .ring(ring)
        .build()?)
}

/// The loader's planned names, so that everything above compiles as it will stand; `build` says that it is not there.
mod planned {
    use strait::{Dataset, Error, Result};

    pub(super) struct Device;
    impl Device {
        pub(super) fn auto() -> Result<Device> {
            Ok(Device)
        }
        pub(super) fn host() -> Result<Device> {
            Ok(Device)
        }
        pub(super) fn cuda(_ordinal: u32) -> Result<Device> {
            Ok(Device)
        }
    }

    pub(super) enum RingChoice {
        Auto,
        Uring,
        Pread,
    }

    pub(super) struct Loader;
    impl Loader {
        pub(super) fn builder(_dataset: Dataset) -> Builder {
            Builder
        }
        pub(super) fn epoch(&mut self, _epoch: u64) -> impl Iterator<Item = Result<Batch>> {
            std::iter::empty()
        }
        pub(super) fn stats(&self) -> Stats {
            Stats { pinned_bytes_max: 0, ring: "", device: "", path: "", path_reason: "" }
        }
    }

    pub(super) struct Stats {
        pub(super) pinned_bytes_max: u64,
        pub(super) ring: &'static str,
        pub(super) device: &'static str,
        pub(super) path: &'static str,
        pub(super) path_reason: &'static str,
    }

    pub(super) struct Builder;
    impl Builder {
        pub(super) fn device(self, _: Device) -> Builder {
            self
        }
        pub(super) fn batch_size(self, _: usize) -> Builder {
            self
        }
        pub(super) fn shuffle(self, _: bool) -> Builder {
            self
        }
        pub(super) fn seed(self, _: u64) -> Builder {
            self
        }
        pub(super) fn block_bytes(self, _: usize) -> Builder {
            self
        }
        pub(super) fn reads_in_flight(self, _: usize) -> Builder {
            self
        }
        pub(super) fn ring(self, _: RingChoice) -> Builder {
            self
        }
        pub(super) fn build(self) -> Result<Loader> {
            let problem = "this build has no loader yet; --references-only measures what the disk can do".into();
            Err(Error::Config { option: "strait bench", problem })
        }
    }

    pub(super) struct Batch;
    impl Batch {
        /// Payload bytes of all samples.
        pub(super) fn bytes(&self) -> u64 {
            0
        }
        /// Returns once every copy of this batch has reached the device.
        pub(super) fn wait(&self) -> Result<()> {
            Ok(())
        }
        pub(super) fn samples(&self) -> &[u64] {
            &[]
        }
        pub(super) fn fields(&self) -> usize {
            1
        }
        /// Copies one field of the sample at `place` to the host; `false` if the sample lacks it.
        pub(super) fn read_back(&self, _field: usize, _place: usize, _target: &mut Vec<u8>) -> Result<bool> {
            Ok(false)
        }
    }
}
