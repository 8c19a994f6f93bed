//! Loads from one seed: reads out of order, short, refused, stalled; copies late; damaged files; consumers that leave.
//!
//! The oracle is what was written.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use crossbeam::channel::Receiver;

use super::checkpoints::{self, Made};
use super::engine::Engine;
use super::load::{Output, Shared};
use super::manifest::{FileDigests, Manifest, TensorDigest};
use super::{Algorithm, Checkpoint, Digest, Part, Tensor, TensorInfo, assembly};
use crate::config::PathChoice;
use crate::device::{Device, RawStream, SimDevice, SimRead};
use crate::error::Error;
use crate::sim::{Clock, Rng};
use crate::sims::{device_fault, for_seeds};
use crate::storage::{Faults, SimRing};

/// More turns than any seed needs: beyond, the load hangs.
const TURNS_MAX: u64 = 200_000;

struct Run {
    rng: Rng,
    made: Vec<Vec<Made>>,
    sims: Vec<Arc<SimDevice>>,
    engine: Engine,
    output: Receiver<Output>,
    shared: Arc<Shared>,
    /// What is to come, by name and device.
    want: Vec<(Arc<str>, usize, Part)>,
    got: HashSet<(Arc<str>, usize)>,
    reads: Vec<Late>,
    faults: Faults,
    device_faults: bool,
    /// A byte of this tensor is not what the manifest was made of.
    damaged: Option<Arc<str>>,
    /// By digests of whole files.
    by_file: bool,
}

/// A read that a consumer has put on a stream of its own.
struct Late {
    tensor: Tensor,
    stream: RawStream,
    read: SimRead,
    want: Vec<u8>,
}

fn parts(info: &TensorInfo, device: usize, salt: u64) -> Part {
    let mut rng = Rng::new(salt ^ info.offset ^ (device as u64) << 40 ^ u64::from(info.shard) << 50);
    if info.dtype.bytes().is_none() || info.shape.is_empty() || rng.one_in(2) {
        return if rng.one_in(8) { Part::Skip } else { Part::Whole };
    }
    let dim = rng.below(info.shape.len() as u64) as usize;
    let to = rng.below(info.shape[dim] + 1);
    let from = rng.below(to + 1);
    Part::Slice { dim, from, to }
}

impl Run {
    fn new(seed: u64, directory: &std::path::Path) -> Run {
        let mut rng = Rng::new(seed);
        let bytes_max = [200, 5_000, 60_000][rng.below(3) as usize];
        let made: Vec<Vec<Made>> = (0..1 + rng.below(4))
            .map(|shard| {
                (0..rng.below(30))
                    .map(|i| checkpoints::any_tensor(&mut rng, format!("{shard}.{i}"), bytes_max))
                    .collect()
            })
            .collect();
        let write = |(shard, own): (usize, &Vec<Made>)| {
            checkpoints::write(directory, &format!("{shard}.safetensors"), own, shard * 3)
        };
        let paths: Vec<PathBuf> = made.iter().enumerate().map(write).collect();
        let checkpoint = Checkpoint::open_files(&paths).unwrap();
        let clock = Clock::simulated();
        let sims: Vec<_> = (0..rng.below(3)).map(|_| Arc::new(SimDevice::new(rng.next_u64(), clock.clone()))).collect();
        let device_faults = !sims.is_empty() && rng.one_in(4);
        if device_faults {
            sims[0].set_faults(device_fault(&mut rng));
        }
        let devices: Vec<Device> = match sims.is_empty() {
            true => vec![Device::host()],
            false => sims.iter().map(|sim| Device::new(sim.clone())).collect(),
        };
        let block_bytes = 4096 << rng.below(5);
        let depth = 1 + rng.below(32) as usize;
        let path = [PathChoice::Auto, PathChoice::Staged][rng.below(2) as usize];
        let mut builder = checkpoint.load().devices(devices).path(path).block_bytes(block_bytes);
        builder = builder.reads_in_flight(depth).bytes_in_flight(block_bytes * (1 + rng.below(8)));
        builder = builder.gap_bytes([0, 100, 5000][rng.below(3) as usize]).open_files_max(1 + rng.below(4) as usize);
        let salt = rng.next_u64();
        let sliced = rng.one_in(2);
        if sliced {
            builder = builder.part(move |info, device| parts(info, device, salt));
        }
        let pick = rng.next_u64();
        if rng.one_in(2) {
            builder = builder.filter(move |info| !(info.offset ^ pick).count_ones().is_multiple_of(3));
        }
        let chosen = builder.selection.places(&checkpoint).unwrap();
        let mut want = Vec::new();
        for &place in &chosen {
            let info = &checkpoint.tensors()[place];
            for device in 0..sims.len().max(1) {
                match if sliced { parts(info, device, salt) } else { Part::Whole } {
                    Part::Skip => {}
                    part => want.push((info.name.clone(), device, part)),
                }
            }
        }
        let (mut damaged, mut by_file) = (None, false);
        if rng.one_in(2) {
            by_file = rng.one_in(2);
            builder = builder.verify(manifest(&mut rng, &checkpoint, &paths, by_file));
            let victim = checkpoint.tensors().iter().find(|info| info.bytes > 0).filter(|_| rng.one_in(3));
            if let Some(info) = victim {
                let path = &paths[info.shard as usize];
                let mut bytes = std::fs::read(path).unwrap();
                bytes[(info.offset + rng.below(info.bytes)) as usize] ^= 1 << rng.below(8);
                std::fs::write(path, bytes).unwrap();
                damaged = Some(info.name.clone());
            }
        }
        let rare = |rng: &mut Rng, n: u64| if rng.one_in(2) { n } else { 0 };
        let faults = Faults {
            short: rare(&mut rng, 5),
            again: rare(&mut rng, 10),
            io_error: if rng.one_in(6) { 50 } else { 0 },
            stall: if rng.one_in(10) { 100 } else { 0 },
            ..Faults::default()
        };
        let (parts, output, shared) = assembly::frame(&builder, clock.clone()).unwrap();
        let ring_seed = rng.next_u64();
        let make = move |_| Ok(Box::new(SimRing::new(ring_seed, clock, depth, faults)) as _);
        let engine = parts.assemble(Some(Box::new(make))).unwrap();
        Run {
            rng,
            made,
            sims,
            engine,
            output,
            shared,
            want,
            got: HashSet::new(),
            reads: Vec::new(),
            faults,
            device_faults,
            damaged,
            by_file,
        }
    }

    fn oracle(&self, name: &str, device: usize) -> Vec<u8> {
        let made = self.made.iter().flatten().find(|made| made.name == name).unwrap();
        match self.want.iter().find(|(own, on, _)| (&**own, *on) == (name, device)).expect("nobody asked for it").2 {
            Part::Slice { dim, from, to } => made.slice(dim, from..to),
            _ => made.bytes.clone(),
        }
    }

    /// Turns until the load is over; false if it failed, or if its consumer left.
    fn turns(&mut self) -> bool {
        let leave_at = if self.rng.one_in(4) { self.rng.below(40) } else { u64::MAX };
        for turn in 0..TURNS_MAX {
            if turn == leave_at {
                return false;
            }
            let over = !self.engine.turn();
            while over || self.rng.one_in(2) {
                match self.output.try_recv() {
                    Ok(Output::Ready(target, seq)) => {
                        let tensor = self.shared.tensor(target, seq);
                        self.take(tensor);
                    }
                    Ok(Output::Failed(error)) => {
                        self.check_error(&error);
                        return false;
                    }
                    Err(_) => break,
                }
            }
            if over {
                return true;
            }
        }
        panic!("no end after {TURNS_MAX} turns");
    }

    fn take(&mut self, tensor: Tensor) {
        let (name, device) = (tensor.info().name.clone(), tensor.device_index());
        assert!(self.got.insert((name.clone(), device)), "{name} comes twice");
        assert!(self.damaged.as_ref() != Some(&name) || tensor.bytes() == 0, "{name} is damaged, and was handed over");
        let want = self.oracle(&name, device);
        assert_eq!(tensor.bytes(), want.len() as u64);
        let align = tensor.dtype().bytes().unwrap_or(1);
        assert!(want.is_empty() || tensor.device_ptr().is_multiple_of(align), "{name} is not aligned");
        let Some(sim) = self.sims.get(device) else {
            return assert!(tensor.host_bytes().unwrap() == want, "wrong bytes in {name}");
        };
        if want.is_empty() {
            return;
        }
        // The consumer reads on its own stream, some time later.
        let stream = sim.consumer_stream();
        // SAFETY: a live stream of this device.
        if unsafe { tensor.wait_on(stream) }.is_err() {
            return assert!(self.device_faults);
        }
        if let Ok(read) = sim.consumer_read(stream, tensor.device_ptr(), want.len()) {
            self.reads.push(Late { tensor, stream, read, want });
        }
    }

    fn check_error(&self, error: &Error) {
        let text = error.to_string();
        match error {
            Error::Tensor { cause, .. } => {
                let Error::Io { errno, .. } = **cause else { panic!("{text}") };
                assert!(text.contains(".safetensors") && text.contains("tensor `"), "{text}");
                match errno {
                    libc::EIO => assert!(self.faults.io_error > 0, "{text}"),
                    libc::EAGAIN | libc::EINTR => assert!(self.faults.again > 0, "{text}"),
                    _ => panic!("{text}"),
                }
            }
            // A stretch of a file that is read for its check only.
            Error::Io { .. } => assert!(self.by_file && (self.faults.io_error > 0 || self.faults.again > 0), "{text}"),
            Error::Corrupt { .. } => assert!(self.damaged.is_some(), "{text}"),
            Error::Timeout { .. } => assert!(self.faults.stall > 0 || self.device_faults, "{text}"),
            Error::Device { .. } => assert!(self.device_faults, "{text}"),
            _ => panic!("unexpected: {text}"),
        }
    }

    fn finish(mut self) {
        let over = self.turns();
        let damaged = self.damaged.clone().filter(|name| self.want.iter().any(|(own, ..)| own == name));
        if over {
            assert_eq!(self.got.len(), self.want.len(), "not all came");
            let reads = damaged.is_some_and(|name| {
                (0..2).any(|d| self.want.iter().any(|w| w.0 == name && w.1 == d && !self.oracle(&name, d).is_empty()))
            });
            assert!(!reads, "damage went unseen");
        }
        let stats = self.shared.counters.snapshot();
        assert!(stats.fallbacks.is_empty(), "{:?}", stats.fallbacks);
        let Run { mut rng, sims, engine, output, shared, reads, faults, device_faults, .. } = self;
        // Tensors are given up behind their consumers' streams, or outlive the load.
        let (mut ends, mut kept) = (Vec::new(), Vec::new());
        for Late { tensor, stream, read, want } in reads {
            ends.push((tensor.name().to_string(), read, want));
            if rng.one_in(2) {
                kept.push(tensor);
            // SAFETY: a live stream of this device, with the read of the tensor on it.
            } else if unsafe { tensor.release_on(stream) }.is_err() {
                assert!(device_faults);
            }
        }
        drop((engine, output, shared));
        sims.iter().for_each(|sim| sim.settle());
        drop(kept);
        for (name, read, want) in ends {
            match read.bytes() {
                Some(bytes) => assert!(bytes == want, "wrong bytes in {name}"),
                None => assert!(device_faults, "the consumer's read of {name} never happened"),
            }
        }
        for sim in &sims {
            let violations = sim.violations();
            assert!(device_faults || violations.is_empty(), "{violations:?}");
            let leaks = device_faults || faults.stall > 0;
            assert!(leaks || sim.allocated_bytes() == 0, "{} bytes leaked", sim.allocated_bytes());
            assert!(leaks || sim.live_fences() == 0);
        }
    }
}

fn manifest(rng: &mut Rng, checkpoint: &Checkpoint, paths: &[PathBuf], by_file: bool) -> Manifest {
    let algorithm = [Algorithm::Crc32c, Algorithm::Xxh3_64, Algorithm::Sha256][rng.below(3) as usize];
    let file = |(shard, path): (usize, &PathBuf)| {
        let bytes = std::fs::read(path).unwrap();
        let own = checkpoint.tensors().iter().filter(|info| info.shard as usize == shard);
        let tensor = |info: &TensorInfo| TensorDigest {
            name: info.name.to_string(),
            dtype: Some(info.dtype),
            shape: Some(info.shape.clone()),
            offset: info.offset,
            bytes: info.bytes,
            digest: Digest::of(algorithm, &bytes[info.offset as usize..][..info.bytes as usize]),
        };
        FileDigests {
            name: Some(path.to_str().unwrap().into()),
            bytes: Some(bytes.len() as u64),
            digest: by_file.then(|| Digest::of(algorithm, &bytes)),
            tensors: if by_file { Vec::new() } else { own.map(tensor).collect() },
        }
    };
    Manifest::new(paths.iter().enumerate().map(file).collect()).unwrap()
}

#[test]
fn loads_from_many_seeds() {
    for_seeds(250, |seed, _| {
        let directory = tempfile::tempdir().unwrap();
        Run::new(seed, directory.path()).finish();
    });
}

/// Mutants that this catches: a stage without a range; one that lasts into the next.
#[cfg(feature = "nvtx")]
#[test]
fn stages_of_a_load_are_ranges() {
    use crate::engine::ranges::seen;
    let directory = tempfile::tempdir().unwrap();
    let mut run = Run::new(1, directory.path());
    seen::take();
    run.engine.turn();
    let stages = ["copies that ended", "reads that ended", "plan, read", "wait"];
    let want: Vec<String> = stages.iter().flat_map(|stage| [format!("strait: {stage}"), "end".into()]).collect();
    assert_eq!(seen::take(), want);
}
