//! One load: the only file of this command that knows the loader.

use std::time::{Duration, Instant};

use strait::weights::{Checkpoint, Load, Manifest, Part, Tensor};

use super::Options;
use crate::bench::measure::Clock;
use crate::bench::progress::Watch;
use crate::bench::request::Request;
use crate::bench::run_strait::{RunResult, device, ring};
use crate::failure::Result;

/// Signals are seen this often, however long a tensor takes.
const LOOK: Duration = Duration::from_millis(50);

/// What a load has shown besides what any run shows.
#[derive(Debug, Clone)]
pub(super) struct Loaded {
    pub(super) tensors: usize,
    /// From the start of the load to the first tensor that is whole on the device.
    pub(super) first_tensor_seconds: f64,
    /// The same for the last one.
    pub(super) last_tensor_seconds: f64,
    pub(super) shards: Vec<Shard>,
}

/// What came out of one file.
#[derive(Debug, Clone, Default)]
pub(super) struct Shard {
    pub(super) tensors: usize,
    pub(super) bytes: u64,
    pub(super) first_seconds: f64,
    pub(super) last_seconds: f64,
}

pub(super) fn run(
    options: &Options,
    manifest: Option<&Manifest>,
    request: &Request,
    watch: &mut Watch,
) -> Result<(RunResult, Loaded)> {
    let began = Instant::now();
    let checkpoint = super::open(&options.paths)?;
    let mut shards = vec![Shard::default(); checkpoint.files().len()];
    watch.start();
    let (setup_seconds, clock, began) = (began.elapsed().as_secs_f64(), Clock::start(), Instant::now());
    let mut load = start(options, manifest, request, &checkpoint)?;
    let (mut bytes, mut tensors): (u64, Vec<Tensor>) = (0, Vec::with_capacity(load.remaining()));
    while load.remaining() > 0 {
        let Some(tensor) = load.next_within(LOOK)? else {
            watch.tick(load.stats().bytes_wanted)?;
            continue;
        };
        tensor.wait()?; // its time is that at which it is whole on the device; the engine reads on meanwhile
        let now = began.elapsed().as_secs_f64();
        let shard = &mut shards[tensor.info().shard as usize];
        if tensor.bytes() > 0 {
            // Those without bytes are there before anything is read.
            shard.first_seconds = if shard.bytes == 0 { now } else { shard.first_seconds };
            shard.last_seconds = now;
        }
        shard.tensors += 1;
        shard.bytes += tensor.bytes();
        bytes += tensor.bytes();
        tensors.push(tensor);
        watch.tick(bytes)?;
    }
    let (measure, last) = (clock.stop(bytes), began.elapsed().as_secs_f64());
    let first = shards.iter().filter(|shard| shard.bytes > 0).map(|shard| shard.first_seconds);
    let first = first.fold(last, f64::min);
    let stats = load.stats();
    let result = RunResult {
        measure,
        setup_seconds,
        first_batch_seconds: setup_seconds + first,
        pinned_bytes_max: stats.pinned_bytes_max,
        ring: stats.ring.to_string(),
        device: stats.device.to_string(),
        path: stats.path.to_string(),
        path_reason: stats.path_reason.to_string(),
        fallbacks: stats.fallbacks.iter().map(ToString::to_string).collect(),
    };
    let tensors = tensors.len();
    Ok((result, Loaded { tensors, first_tensor_seconds: first, last_tensor_seconds: last, shards }))
}

fn start(options: &Options, manifest: Option<&Manifest>, request: &Request, checkpoint: &Checkpoint) -> Result<Load> {
    let mut load = checkpoint
        .load()
        .device(device(request)?)
        .ring(ring(request))
        .block_bytes(options.block_bytes)
        .reads_in_flight(options.depth as usize)
        .bytes_in_flight(options.block_bytes * u64::from(options.depth))
        .names(&options.names);
    for pattern in &options.globs {
        load = load.matching(pattern);
    }
    if let Some(part) = options.part {
        load = load.part(move |tensor, _| match tensor.shape.get(part.dim) {
            Some(_) => Part::share(tensor, part.dim, part.rank, part.world),
            None => Part::Whole,
        });
    }
    if let Some(manifest) = manifest {
        load = load.verify(manifest.clone());
    }
    Ok(load.start()?)
}
