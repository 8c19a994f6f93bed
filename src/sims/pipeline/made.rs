//! What a seed makes of itself: contents, options, machine, ring.

use std::path::PathBuf;

use super::Run;
use super::contents::Contents;
use super::damage::Damaged;
use super::in_place::InPlace;
use super::options::Draw;
use crate::assembly::{self, Frame, MakeRing};
use crate::config::{Config, PathChoice, Verify};
use crate::sim::Rng;
use crate::sims::damaged::DamagedRing;
use crate::sims::draw::{Shards, draw_faults};
use crate::sims::machine::{Machine, Over};
use crate::storage::{Faults, Ring, SimRing};

impl Run<'_> {
    pub(super) fn new<'a>(seed: u64, shards: &'a Shards, over: &dyn Over) -> Run<'a> {
        let mut rng = Rng::new(seed);
        // Shards of a dataset, or as many datasets; sample ids are the same.
        let mixed = rng.one_in(3);
        let contents = match rng.one_in(2) {
            true => Contents::records(shards, &mut rng, mixed),
            false => Contents::tars(shards, &mut rng, mixed),
        };
        let mut draw = Draw::new(&mut rng, &contents, seed);
        let machine = match draw.config.on_the_way() {
            None => Machine::draw_in_place(&mut rng, over),
            Some(_) => Machine::draw(&mut rng, over, 1), // the CPU looks at what is read
        };
        over.adapt(&mut draw.config.reads, &machine);
        let reads = &mut draw.config.reads;
        let staged = !machine.in_place && (!machine.sides.is_empty() || reads.path == PathChoice::Staged);
        if staged && rng.one_in(3) {
            reads.pinned_bytes_max = reads.block_bytes * (2 + rng.below(6));
        }
        let mut faults = draw_faults(&mut rng);
        if draw.config.verify == Verify::Checksums && rng.one_in(2) {
            faults.flip = 30 + rng.below(300); // what nobody checks must not be wrong
        }
        let own_ring = machine.in_place && over.ring(&mut rng, &faults);
        let damaged = match rng.one_in(4) && !own_ring {
            true => Damaged::draw(&mut rng, &contents, &mut draw),
            false => Damaged::default(),
        };
        if !damaged.blocks.is_empty() {
            faults = Faults::default(); // else what is bad would not be known
        }
        let mut frame = frame(&mut rng, &contents, &mut draw, &machine);
        if machine.in_place && !own_ring {
            frame.engine = frame.engine.in_place();
        }
        let make = (!own_ring).then(|| make_ring(&mut rng, &contents, &draw, &machine, &damaged, faults));
        let engine = frame.engine.assemble(make).unwrap();
        machine.strike(&mut rng, false);
        let (output, messages, shared) = (frame.output, frame.messages, frame.shared);
        Run {
            rng,
            base: &shards.base,
            contents,
            draw,
            machine,
            engine,
            output,
            messages,
            shared,
            supply: frame.supply,
            generation: 0,
            held: Vec::new(),
            faults,
            damaged,
        }
    }
}

/// Everything but ring and memory; once in a while with regions that hardly hold the largest batch.
fn frame(rng: &mut Rng, contents: &Contents, draw: &mut Draw, machine: &Machine) -> Frame {
    let make = |config: &Config| {
        let device = machine.devices().remove(0);
        assembly::frame(contents.dataset.clone(), device, config.clone(), machine.clock.clone())
    };
    if draw.item_bytes.is_none() && rng.one_in(3) {
        let largest = (0..contents.samples.len() as u64).map(|sample| draw.length(contents, sample)).max().unwrap();
        let (align, fields) = (draw.config.reads.align_bytes, draw.fields.len() as u64);
        // Each field in blocks of its own, and once more as an array, eight times as wide at most.
        let sample = 9 * largest + fields * (2 * align + draw.config.reads.gap_bytes);
        let batch = draw.config.samples_max() as u64 * sample + fields * align;
        let tight = Config { region_bytes: Some(batch + rng.below(batch)), ..draw.config.clone() };
        if let Ok(frame) = make(&tight) {
            draw.config = tight;
            return frame;
        }
    }
    make(&draw.config).unwrap()
}

/// The simulated one, with or without damaged blocks.
fn make_ring(
    rng: &mut Rng,
    contents: &Contents,
    draw: &Draw,
    machine: &Machine,
    damaged: &Damaged,
    faults: Faults,
) -> MakeRing {
    let (depth, clock) = (draw.config.reads.reads_in_flight, &machine.clock);
    let ring: Box<dyn Ring> = match damaged.blocks.is_empty() {
        true => Box::new(SimRing::new(rng.next_u64(), clock.clone(), depth, faults)),
        false => {
            let paths = contents.dataset.shards().iter().map(|shard| shard.path.to_path_buf());
            let paths: Vec<PathBuf> = paths.collect();
            Box::new(DamagedRing::new(rng, clock, depth, &paths, &damaged.blocks))
        }
    };
    let ring = if machine.in_place { Box::new(InPlace(ring)) } else { ring };
    Box::new(move |_| Ok(ring))
}
