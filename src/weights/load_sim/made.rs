//! What a seed makes of itself: checkpoint, manifest, what is wanted of it, machine and ring.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Run;
use crate::config::PathChoice;
use crate::sim::Rng;
use crate::sims::{Machine, Over, draw_faults};
use crate::storage::SimRing;
use crate::weights::checkpoints::{self, Made};
use crate::weights::manifest::{FileDigests, Manifest, TensorDigest};
use crate::weights::{Algorithm, Builder, Checkpoint, Digest, Part, TensorInfo, assembly};

/// What is to come, and what it should be.
pub(super) struct Wanted {
    made: Vec<Vec<Made>>,
    /// By name and device.
    pub(super) list: Vec<(Arc<str>, usize, Part)>,
    /// A byte of this tensor is not what the manifest was made of.
    pub(super) damaged: Option<Arc<str>>,
    /// The manifest has digests of whole files.
    pub(super) by_file: bool,
}

impl Wanted {
    pub(super) fn oracle(&self, name: &str, device: usize) -> Vec<u8> {
        let made = self.made.iter().flatten().find(|made| made.name == name).unwrap();
        match self.list.iter().find(|(own, on, _)| (&**own, *on) == (name, device)).expect("nobody asked for it").2 {
            Part::Slice { dim, from, to } => made.slice(dim, from..to),
            _ => made.bytes.clone(),
        }
    }

    /// Whether bytes of the damaged tensor are wanted.
    pub(super) fn damage_is_read(&self) -> bool {
        let own = self.list.iter().filter(|(name, ..)| Some(name) == self.damaged.as_ref());
        own.into_iter().any(|(name, device, _)| !self.oracle(name, *device).is_empty())
    }
}

impl Run {
    pub(super) fn new(seed: u64, directory: &Path, over: &dyn Over) -> Run {
        let mut rng = Rng::new(seed);
        let made = tensors(&mut rng);
        let write = |(shard, own): (usize, &Vec<Made>)| {
            checkpoints::write(directory, &format!("{shard}.safetensors"), own, shard * 3)
        };
        let paths: Vec<PathBuf> = made.iter().enumerate().map(write).collect();
        let checkpoint = Checkpoint::open_files(&paths).unwrap();
        let machine = Machine::draw(&mut rng, over, 2);
        let mut builder = options(&mut rng, checkpoint.load().devices(machine.devices()));
        over.adapt(&mut builder.reads, &machine);
        let mut wanted = Wanted { made, list: Vec::new(), damaged: None, by_file: false };
        builder = wanted.choose(&mut rng, &checkpoint, builder, machine.devices().len());
        if rng.one_in(2) {
            builder = wanted.check(&mut rng, &checkpoint, builder, &paths);
        }
        let faults = draw_faults(&mut rng);
        let (parts, output, shared) = assembly::frame(&builder, machine.clock.clone()).unwrap();
        let (ring_seed, clock) = (rng.next_u64(), machine.clock.clone());
        let make = move |depth| Ok(Box::new(SimRing::new(ring_seed, clock, depth, faults)) as _);
        let engine = parts.assemble(Some(Box::new(make))).unwrap();
        machine.strike(&mut rng, false);
        Run { rng, wanted, machine, engine, output, shared, got: HashSet::new(), held: Vec::new(), faults }
    }
}

fn tensors(rng: &mut Rng) -> Vec<Vec<Made>> {
    let bytes_max = [200, 5_000, 60_000][rng.below(3) as usize];
    let tensor = |rng: &mut Rng, shard, i| checkpoints::any_tensor(rng, format!("{shard}.{i}"), bytes_max);
    (0..1 + rng.below(4)).map(|shard| (0..rng.below(30)).map(|i| tensor(rng, shard, i)).collect()).collect()
}

/// How bytes are read.
fn options(rng: &mut Rng, builder: Builder) -> Builder {
    let block_bytes = 4096 << rng.below(5);
    let path = [PathChoice::Auto, PathChoice::Staged][rng.below(2) as usize];
    let builder = builder.path(path).block_bytes(block_bytes).reads_in_flight(1 + rng.below(32) as usize);
    let builder = builder.bytes_in_flight(block_bytes * (1 + rng.below(8)));
    builder.gap_bytes([0, 100, 5000][rng.below(3) as usize]).open_files_max(1 + rng.below(4) as usize)
}

impl Wanted {
    /// All or some of the tensors, whole or in parts.
    fn choose(&mut self, rng: &mut Rng, checkpoint: &Checkpoint, mut builder: Builder, devices: usize) -> Builder {
        let salt = rng.next_u64();
        let sliced = rng.one_in(2);
        if sliced {
            builder = builder.part(move |info, device| parts(info, device, salt));
        }
        let pick = rng.next_u64();
        if rng.one_in(2) {
            builder = builder.filter(move |info| !(info.offset ^ pick).count_ones().is_multiple_of(3));
        }
        for place in builder.selection.places(checkpoint).unwrap() {
            let info = &checkpoint.tensors()[place];
            for device in 0..devices {
                match if sliced { parts(info, device, salt) } else { Part::Whole } {
                    Part::Skip => {}
                    part => self.list.push((info.name.clone(), device, part)),
                }
            }
        }
        builder
    }

    /// Against a manifest; once in a while a byte changes behind it.
    fn check(&mut self, rng: &mut Rng, checkpoint: &Checkpoint, builder: Builder, paths: &[PathBuf]) -> Builder {
        self.by_file = rng.one_in(2);
        let builder = builder.verify(manifest(rng, checkpoint, paths, self.by_file));
        let victim = checkpoint.tensors().iter().find(|info| info.bytes > 0).filter(|_| rng.one_in(3));
        if let Some(info) = victim {
            let path = &paths[info.shard as usize];
            let mut bytes = std::fs::read(path).unwrap();
            bytes[(info.offset + rng.below(info.bytes)) as usize] ^= 1 << rng.below(8);
            std::fs::write(path, bytes).unwrap();
            self.damaged = Some(info.name.clone());
        }
        builder
    }
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
