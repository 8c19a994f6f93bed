//! One run of strait itself: the only file of the bench that knows the loader.

use std::time::Instant;

use strait::order::Shuffle;
use strait::{Device, FieldView, Loader, RingChoice};

use super::measure::{Clock, Measure};
use super::options::{DeviceOption, RingOption};
use super::oracle::Oracle;
use super::progress::Watch;
use super::request::Request;
use crate::failure::Result;

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
    /// What could not be had, in words.
    pub(crate) fallbacks: Vec<String>,
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
        fallbacks: stats.fallbacks.iter().map(ToString::to_string).collect(),
    })
}

/// Reads one epoch and compares every sample with its file; gives the bytes compared.
pub(crate) fn verify(request: &Request, watch: &mut Watch) -> Result<u64> {
    let mut oracle = Oracle::new(request.dataset.open(&request.named)?)?;
    let mut loader = loader(request)?;
    let mut got = Vec::new();
    watch.start();
    for batch in loader.epoch(0) {
        let batch = batch?;
        let views: Vec<FieldView> = batch.fields().iter().filter_map(|field| batch.field(&field.name)).collect();
        for (place, sample) in batch.samples().iter().enumerate() {
            for (field, view) in views.iter().enumerate() {
                if view.read_back(place, &mut got)? {
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

/// The device that was asked for.
pub(crate) fn device(request: &Request) -> Result<Device> {
    Ok(match request.device {
        DeviceOption::Auto => Device::for_rank(request.rank)?,
        DeviceOption::Host => Device::host(),
        DeviceOption::Cuda(ordinal) => Device::cuda(ordinal)?,
    })
}

/// The ring that was asked for.
pub(crate) fn ring(request: &Request) -> RingChoice {
    match request.ring {
        RingOption::Auto => RingChoice::Auto,
        RingOption::Uring => RingChoice::Uring,
        RingOption::Pread => RingChoice::Pread,
        RingOption::Cufile => RingChoice::Cufile,
    }
}

fn loader(request: &Request) -> Result<Loader> {
    Ok(Loader::builder(request.dataset.open(&request.named)?)
        .device(device(request)?)
        .batch_size(request.batch)
        .rank(request.rank)
        .shuffle(if request.shuffle { Shuffle::Full } else { Shuffle::Sequential })
        .seed(request.seed)
        .block_bytes(request.block_bytes)
        .reads_in_flight(request.depth)
        .ring(ring(request))
        .build()?)
}
